"""Takes files in as they arrive: looks at folders again and again, and leaves alone what grows."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import sqlalchemy as sa

from ml4ad.ingest import find
from ml4ad.ingest.catalogue import index
from ml4ad.ingest.find import Location
from ml4ad.ingest.turns import alone
from ml4ad.store import State

# Outcomes of `index` and states of files that another look may change.
_PASSING = ("failed", State.FAILED)


class Arrivals:
    """Files at ``paths`` that are new or changed since the last look, and quiet.

    A file is quiet when its size and time have stayed the same for ``quiet_s`` seconds of
    ``clock``: one that is still being copied is left alone. Only folders are listed: a file that
    has not changed costs nothing more. A path that cannot be listed is left out until it can be.
    Raises ValueError for a negative ``quiet_s``.
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        quiet_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if quiet_s < 0:
            raise ValueError(f"quiet_s={quiet_s}, want seconds, at least 0")
        self.paths = [os.fspath(path) for path in paths]
        self.quiet_s = quiet_s
        self.clock = clock
        self._seen: dict[str, tuple[Location, float]] = {}
        self._told: dict[str, Location] = {}
        self._later: dict[str, float] = {}

    def look(self) -> list[Location]:
        """What has arrived, sorted by path."""
        now = self.clock()
        arrived = []
        here: dict[str, tuple[Location, float]] = {}
        for path in self.paths:
            for location in _listed(path):
                before, since = self._seen.get(location.path, (None, now))
                if before != location:
                    since = now
                here[location.path] = (location, since)
                quiet = now - since >= self.quiet_s
                if self._later.get(location.path, math.inf) <= now:
                    del self._later[location.path], self._told[location.path]
                if quiet and self._told.get(location.path) != location:
                    self._told[location.path] = location
                    arrived.append(location)
        self._seen = here
        return sorted(arrived, key=lambda location: location.path)

    def again(self, path: str, after_s: float) -> None:
        """Let a file that has arrived do so once more, after so many seconds."""
        if path in self._told:
            self._later[path] = self.clock() + after_s


def watch(
    target: Any,
    paths: Iterable[str | os.PathLike[str]],
    take: Callable[[list[int]], Iterable[Any]],
    *,
    dataset: str | None = None,
    era: str | None = None,
    quiet_s: float = 5.0,
    every_s: float = 2.0,
    again_s: float = 600.0,
    going: Callable[[], bool] = lambda: True,
) -> Iterator[Any]:
    """What `index` found of each arrival and ``take`` made of it, for as long as ``going()``.

    ``take`` is given the numbers of files to ingest, also of those that are known and wait. What
    failed for a passing reason arrives once more after ``again_s`` seconds. Only one process at a
    time watches the same paths in one archive; another stands by until that ends.
    Raises ValueError for times that are negative.
    """
    for name, seconds in (("every_s", every_s), ("again_s", again_s)):
        if seconds <= 0:
            raise ValueError(f"{name}={seconds}, want seconds, more than 0")
    engine: sa.Engine = getattr(target, "engine", target)
    listed = sorted(find.absolute(path) for path in paths)
    arrivals = Arrivals(listed, quiet_s=quiet_s)
    while going():
        with alone(engine, "watch " + " ".join(listed), wait=False) as ours:
            if not ours:
                time.sleep(every_s)
                continue
            while going():
                new = [location.path for location in arrivals.look()]
                if new:
                    for each in _taken(engine, new, take, dataset, era):
                        if getattr(each, "outcome", "") or each.state in _PASSING:
                            arrivals.again(each.path, again_s)
                        yield each
                time.sleep(every_s)


def _taken(
    engine: sa.Engine,
    paths: list[str],
    take: Callable[[list[int]], Iterable[Any]],
    dataset: str | None,
    era: str | None,
) -> Iterator[Any]:
    waiting = []
    for found in index(engine, paths, dataset, era):
        # After a start all are looked at, and nothing is new of most.
        if found.outcome != "known":
            yield found
        if found.file_id is not None and found.outcome not in ("bad", "failed"):
            waiting.append(found.file_id)
    yield from take(waiting)


def _listed(path: str) -> list[Location]:
    try:
        return list(find.locations(path))
    except OSError:
        # Not there yet, or a server that is away for a moment.
        return []
