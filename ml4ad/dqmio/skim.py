"""Skimming: chosen elements and lumisections of several sources, written into one DQMIO file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from ml4ad import dqmio
from ml4ad.dqmio.names import Pattern
from ml4ad.stack import HistogramStack, Ints, LsSelection, as_ls_mask

if TYPE_CHECKING:
    import pandas as pd


class Readable(Protocol):
    """What is skimmed: an open DQMIO file, or anything that answers like one."""

    @property
    def release(self) -> str:
        """CMSSW release, "" where unknown."""

    @property
    def index(self) -> pd.DataFrame:
        """Rows of run, lumisection (0: whole run), begin and end, also of what holds nothing."""

    def stacks(self, me: Pattern, run_number: Any, ls_numbers: Any) -> Iterator[HistogramStack]:
        """Stacks of the elements, run and lumisections asked for."""

    def scalars(self, me: Pattern) -> pd.DataFrame:
        """Single values of all lumisections, with the columns that `ml4ad.dqmio.write` takes."""


Source: TypeAlias = "str | os.PathLike[str] | Readable"
_Key: TypeAlias = tuple[int, int]
_Opener: TypeAlias = Callable[[], AbstractContextManager[Any]]


def skim(
    sources: Iterable[Source],
    out: str | os.PathLike[str],
    *,
    me: Pattern = "*",
    run_number: int | Iterable[int] | None = None,
    ls_numbers: LsSelection | None = None,
    release: str | None = None,
    memory_mb: int = 256,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Write what is chosen of ``sources`` into the DQMIO file ``out``; a row per run of what it is.

    The rows have ``run_number``, ``n_lumisections``, ``n_elements`` and ``n_histograms``.
    ``sources`` are paths, or open files. ``me`` is a pattern of element names as in
    ``dqmio.File.stacks``, ``run_number`` one or several, ``ls_numbers`` numbers, inclusive pairs or
    a slice; elements of whole runs (lumisection 0) are kept if ``ls_numbers`` is None or names 0. A
    chosen lumisection that holds nothing chosen is kept as one that was seen, with its times.

    Files share runs: elements of a whole run that several sources hold are added up, and the last
    of single values stands, as CMSSW merges them. An element that two sources hold for one
    lumisection is refused. Lumisections are taken in parts, so that about ``memory_mb`` of contents
    are held at a time; ``progress(done, all)`` hears of each part. ``release`` is that of the
    sources if not given; the other options are those of `ml4ad.dqmio.write`.

    Raises ValueError if no lumisection or element is chosen, if the sources are of several releases
    and ``release`` is not given, or for what `ml4ad.dqmio.write` refuses.
    """
    import pandas as pd

    openers = [_opener(source) for source in sources]
    times, owners, releases = _plan(openers, run_number, ls_numbers)
    if release is None:
        release = _only_release(releases)
    options |= {} if release is None else {"release": release}
    counted: dict[int, _Count] = {}
    done = 0
    with dqmio.create(out, **options) as writer:
        for parts, keys in _parts(owners, openers, me, memory_mb):
            stacks, scalars = _merged(parts)
            writer.write(stacks, scalars=scalars, lumisections=times.loc[keys].reset_index())
            count = counted.setdefault(keys[0][0], _Count())
            count.add(stacks, scalars, keys)
            # Freed before the next part is read, which the generator would not do.
            parts.clear()
            del stacks, scalars
            done += len(keys)
            if progress is not None:
                progress(done, len(times))
        if me != "*" and not any(count.names for count in counted.values()):
            raise ValueError(f"nothing to write: no element of {len(openers)} sources is {me!r}")
    rows = [(run, *count.row()) for run, count in sorted(counted.items())]
    return pd.DataFrame(
        rows, columns=["run_number", "n_lumisections", "n_elements", "n_histograms"]
    )


class _Count:
    def __init__(self) -> None:
        self.names: set[str] = set()
        self.n_lumisections = self.n_histograms = 0

    def add(
        self, stacks: Sequence[HistogramStack], scalars: pd.DataFrame, keys: Sequence[_Key]
    ) -> None:
        self.names.update(stack.me for stack in stacks)
        self.names.update(scalars["me"])
        self.n_lumisections += sum(ls_number > 0 for _, ls_number in keys)
        self.n_histograms += sum(map(len, stacks))

    def row(self) -> tuple[int, int, int]:
        return self.n_lumisections, len(self.names), self.n_histograms


def _opener(source: Source) -> _Opener:
    if isinstance(source, str | os.PathLike):
        return lambda: dqmio.open(source)
    return lambda: contextlib.nullcontext(source)


def _plan(
    openers: Sequence[_Opener], run_number: int | Iterable[int] | None, wanted: LsSelection | None
) -> tuple[pd.DataFrame, dict[tuple[int, ...], list[_Key]], set[str]]:
    """Times by lumisection; the lumisections of each group of sources; the releases."""
    import pandas as pd

    runs = None if run_number is None else np.atleast_1d(np.array(run_number, dtype=np.int64))
    frames: list[pd.DataFrame] = []
    holders: dict[_Key, list[int]] = {}
    releases: set[str] = set()
    for i, opener in enumerate(openers):
        with opener() as source:
            frame = source.index[["run_number", "ls_number", "begin_time", "end_time"]]
            frame = frame.drop_duplicates(["run_number", "ls_number"])
            releases.add(source.release)
        keep = np.ones(len(frame), dtype=bool)
        if runs is not None:
            keep &= frame["run_number"].isin(runs).to_numpy()
        if wanted is not None:
            keep &= as_ls_mask(frame["ls_number"].to_numpy(dtype=np.int64), wanted)
        frame = frame[keep]
        frames.append(frame)
        for key in zip(frame["run_number"].tolist(), frame["ls_number"].tolist(), strict=True):
            holders.setdefault(key, []).append(i)
    if not holders:
        raise ValueError(
            f"nothing to write: no lumisection of {len(openers)} sources is in "
            f"run {'any' if run_number is None else run_number}, "
            f"lumisections {'any' if wanted is None else wanted}"
        )
    times = (
        pd.concat(frames)
        .groupby(["run_number", "ls_number"])
        .agg(begin_time=("begin_time", "min"), end_time=("end_time", "max"))
    )
    owners: dict[tuple[int, ...], list[_Key]] = {}
    for key in sorted(holders):
        owners.setdefault(tuple(holders[key]), []).append(key)
    return times, owners, releases


def _only_release(releases: set[str]) -> str | None:
    known = sorted(name for name in releases if name)
    if len(known) > 1:
        raise ValueError(f"sources of releases {', '.join(known)}: say which the file is to name")
    return known[0] if known else None


_Part: TypeAlias = "tuple[list[HistogramStack], pd.DataFrame]"


def _parts(
    owners: dict[tuple[int, ...], list[_Key]],
    openers: Sequence[_Opener],
    me: Pattern,
    memory_mb: int,
) -> Iterator[tuple[list[_Part], list[_Key]]]:
    """What each source holds of some lumisections of a run, and which those are."""
    for group, keys in owners.items():
        with contextlib.ExitStack() as opened:
            files = [opened.enter_context(openers[i]()) for i in group]
            scalars = [file.scalars(me=me) for file in files]
            for run_number in dict.fromkeys(run for run, _ in keys):
                numbers = np.array([ls for run, ls in keys if run == run_number])
                for some, parts in _chunks(files, scalars, me, run_number, numbers, memory_mb):
                    yield parts, [(run_number, ls) for ls in some.tolist()]


def _chunks(
    files: Sequence[Any],
    scalars: Sequence[pd.DataFrame],
    me: Pattern,
    run_number: int,
    numbers: Ints,
    memory_mb: int,
) -> Iterator[tuple[Ints, list[_Part]]]:
    # A whole run holds far more than a lumisection: it is a part of its own, and tells nothing.
    queue = [numbers[numbers == 0], numbers[numbers != 0]]
    step = 1
    for left in queue:
        while len(left):
            some, left = left[:step], left[step:]
            parts: list[_Part] = []
            for file, values in zip(files, scalars, strict=True):
                stacks = list(file.stacks(me=me, run_number=run_number, ls_numbers=some))
                here = (values["run_number"] == run_number) & values["ls_number"].isin(some)
                parts.append((stacks, values[here]))
            if some[0] != 0:
                # Half for the contents, the rest for the bytes that they are read from.
                size = sum(stack.nbytes for stacks, _ in parts for stack in stacks)
                step = max(1, int(memory_mb * 5e5 * len(some) / max(size, 1)))
            yield some, parts


def _merged(parts: Sequence[_Part]) -> _Part:
    """Stacks and single values of all sources, those of whole runs put together."""
    import pandas as pd

    if len(parts) == 1:
        return parts[0]
    scalars = pd.concat([values for _, values in parts if len(values)] or [parts[0][1]])
    whole = scalars["ls_number"] == 0
    repeated = whole & scalars.duplicated(["run_number", "ls_number", "me"], keep="last")
    stacks: list[HistogramStack] = []
    runs: dict[str, int] = {}
    for stack in (stack for listed, _ in parts for stack in listed):
        if stack.ls_numbers.tolist() == [0] and stack.me in runs:
            at = runs[stack.me]
            stacks[at] = stacks[at] + stack
            continue
        if stack.ls_numbers.tolist() == [0]:
            runs[stack.me] = len(stacks)
        stacks.append(stack)
    return stacks, scalars[~repeated]
