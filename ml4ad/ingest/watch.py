"""Takes files in as they arrive: looks at folders again and again, and leaves alone what grows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import sqlalchemy as sa

from ml4ad.ingest import find
from ml4ad.ingest.catalogue import Found, index
from ml4ad.ingest.find import Location
from ml4ad.ingest.turns import alone


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
                if quiet and self._told.get(location.path) != location:
                    self._told[location.path] = location
                    arrived.append(location)
        self._seen = here
        return sorted(arrived, key=lambda location: location.path)


def watch(
    target: Any,
    paths: Iterable[str | os.PathLike[str]],
    take: Callable[[list[int]], Iterable[Any]],
    *,
    dataset: str | None = None,
    era: str | None = None,
    quiet_s: float = 5.0,
    every_s: float = 2.0,
    going: Callable[[], bool] = lambda: True,
) -> Iterator[Any]:
    """What `index` found of each arrival and ``take`` made of it, for as long as ``going()``.

    ``take`` is given the numbers of files to ingest. Only one process at a time watches the same
    paths in one archive; another stands by until that ends.
    Raises ValueError for times that are negative.
    """
    if every_s <= 0:
        raise ValueError(f"every_s={every_s}, want seconds, more than 0")
    engine: sa.Engine = getattr(target, "engine", target)
    listed = sorted(find.absolute(p) if "://" not in os.fspath(p) else os.fspath(p) for p in paths)
    arrivals = Arrivals(listed, quiet_s=quiet_s)
    while going():
        with alone(engine, "watch " + " ".join(listed), wait=False) as ours:
            if not ours:
                time.sleep(every_s)
                continue
            while going():
                new = [location.path for location in arrivals.look()]
                if new:
                    found: list[Found] = list(index(engine, new, dataset, era))
                    yield from found
                    good = [f for f in found if f.outcome not in ("bad", "failed")]
                    yield from take([f.file_id for f in good if f.file_id is not None])
                time.sleep(every_s)


def _listed(path: str) -> list[Location]:
    try:
        return list(find.locations(path))
    except OSError:
        # Not there yet, or a server that is away for a moment.
        return []
