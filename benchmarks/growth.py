"""How ingest, database and reading grow from 1 to 10 to 100 times the data.

    python benchmarks/growth.py [--elements 20] [--lumisections 10] [--steps 1,10,100]

The data grow in one way at a time: more files (a run each), more lumisections in a run of one file,
more elements. A table for each: seconds of ingest, bytes of the tables with indexes, milliseconds
to read one element of one run, and how often each is what it is of the smallest (the growth is the
data's where the ratio is that of the first column). Elements are TH1F of 100 bins.

Then one archive is made 100 times larger by copying its rows to other runs in SQL, and both are
read in turns, so that the machine's noise meets both. The last table has a run that came in many
small files, before and after compaction, against the same in one file. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg
import sqlalchemy as sa
from psycopg import sql

import ml4ad
from ml4ad import Axis, HistogramStack, dqmio, ingest
from ml4ad.ingest import take
from ml4ad.ingest.compact import compact
from ml4ad.store import server

DATASET = "/Benchmark/Run2024F-PromptReco-v1/DQMIO"
FIRST_RUN, READS = 380_000, 200
TABLES = ("block", "me", "binning", "lumisection", "run", "file", "scalar")


def stacks(run_number: int, ls_numbers: Iterable[int], n_elements: int) -> list[HistogramStack]:
    """Counts of so many elements."""
    numbers = np.array(list(ls_numbers))
    rng = np.random.default_rng([run_number, int(numbers[0])])
    axis = Axis.regular(100, 0, 100, title="charge")
    return [
        HistogramStack.from_arrays(
            rng.poisson(50, (len(numbers), 100)).astype("f4"),
            axis,
            ls_numbers=numbers,
            run_number=run_number,
            me=f"Tracker/Layer{i % 40}/charge_{i}",
        )
        for i in range(n_elements)
    ]


@contextmanager
def archive_of(url: str, name: str) -> Iterator[ml4ad.Archive]:
    """A new archive in a database of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    address = sa.make_url(url).set(database=name).render_as_string(hide_password=False)
    with ml4ad.connect(address) as archive:
        yield archive
        take.close_engines()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def take_in(archive: ml4ad.Archive, folder: Path) -> float:
    """Seconds from files to histograms committed, indexing included."""
    started = time.perf_counter()
    states = {done.state for done in ingest.ingest(archive, folder, dataset=DATASET)}
    assert states == {"PROCESSED"}, states
    return time.perf_counter() - started


def size(archive: ml4ad.Archive) -> int:
    """Bytes of the tables with their indexes, TOAST and partitions."""
    total = 0
    with archive.engine.connect() as connection:
        for table in TABLES:
            parts = sa.select(sa.column("relid")).select_from(sa.func.pg_partition_tree(table))
            for relation in connection.scalars(parts).all() or [table]:
                whole = sa.select(sa.func.pg_total_relation_size(sa.cast(relation, sa.Text)))
                total += connection.scalar(whole) or 0
    return total


def tidy(archive: ml4ad.Archive) -> None:
    """What autovacuum does in time."""
    with archive.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))


def read_times(*readings: Callable[[], object]) -> list[float]:
    """Shortest time of each, in seconds, of many that take turns."""
    times: list[list[float]] = [[] for _ in readings]
    for _ in range(READS):
        for reading, own in zip(readings, times, strict=True):
            started = time.perf_counter()
            reading()
            own.append(time.perf_counter() - started)
    return [min(own) for own in times]


def one(archive: ml4ad.Archive, run_number: int = FIRST_RUN) -> Callable[[], HistogramStack]:
    """Reads one element of one run."""
    return lambda: archive.stack("Tracker/Layer0/charge_0", run_number)


def table(title: str, rows: list[tuple[int, float, int, float]]) -> None:
    """Print ingest, size and reading, and their ratios to those of the first row."""
    print(f"\n{title:>24s} {'ingest':>10s} {'':7s} {'size':>11s} {'':7s} {'read one':>10s}")
    for number, *measured in rows:
        seconds, nbytes, reading = measured
        ratios = [now / before for now, before in zip(measured, rows[0][1:], strict=True)]
        columns = (
            f"{number:12,d} x{number / rows[0][0]:10.0f} {seconds:8.2f} s x{ratios[0]:<6.1f}",
            f"{nbytes / 1e6:8.2f} MB x{ratios[1]:<6.1f} {reading * 1e3:7.2f} ms x{ratios[2]:.2f}",
        )
        print(*columns, flush=True)


def grow(
    url: str,
    title: str,
    numbers: list[int],
    files: Callable[[int], Iterable[list[HistogramStack]]],
) -> None:
    """Table of archives that hold what ``files(number)`` gives."""
    rows = []
    for number in numbers:
        with tempfile.TemporaryDirectory() as name, archive_of(url, "growth") as archive:
            for i, held in enumerate(files(number)):
                dqmio.write(Path(name) / f"{i:04d}.root", held)
            empty = size(archive)
            seconds = take_in(archive, Path(name))
            nbytes = size(archive) - empty
            tidy(archive)
            rows.append((number, seconds, nbytes, *read_times(one(archive))))
    table(title, rows)


COPIES = (
    "INSERT INTO run (dataset_id, run_number, file_id, begin_time, end_time) SELECT dataset_id,"
    " run_number + g * :n, file_id, begin_time, end_time FROM run, generate_series(1, :times) g",
    "INSERT INTO lumisection (dataset_id, run_number, ls_number, file_id, begin_time, end_time,"
    " n_mes) SELECT dataset_id, run_number + g * :n, ls_number, file_id, begin_time, end_time,"
    " n_mes FROM lumisection, generate_series(1, :times) g",
    "INSERT INTO block (me_id, run_number, first_ls, file_id, dataset_id, binning_id, last_ls,"
    " n_ls, packed) SELECT me_id, run_number + g * :n, first_ls, file_id, dataset_id, binning_id,"
    " last_ls, n_ls, packed FROM block, generate_series(1, :times) g",
)


def grown(url: str, times: int, n_runs: int, n_ls: int, n_elements: int) -> None:
    """Reading, alternately, from an archive and from one that is so many times larger."""
    with (
        tempfile.TemporaryDirectory() as name,
        archive_of(url, "reference") as reference,
        archive_of(url, "larger") as larger,
    ):
        for i in range(n_runs):
            made = stacks(FIRST_RUN + i, range(1, n_ls + 1), n_elements)
            dqmio.write(Path(name) / f"{i:04d}.root", made)
        for archive in (reference, larger):
            take_in(archive, Path(name))
        with larger.engine.begin() as connection:
            for copy in COPIES:
                connection.execute(sa.text(copy), {"times": times - 1, "n": n_runs})
        for archive in (reference, larger):
            tidy(archive)
        middle = FIRST_RUN + n_runs * (times // 2)
        before, after, other = read_times(one(reference), one(larger), one(larger, middle))
        n_rows = n_runs * n_elements
        print(f"\none element of one run, read{'':19s} {'time':>10s} {'ratio':>7s}  target")
        for what, seconds, target in (
            (f"archive of {n_rows:,} blocks, {size(reference) / 1e6:.1f} MB", before, "reference"),
            (f"archive of {n_rows * times:,}, {size(larger) / 1e6:.1f} MB", after, "<= 1.3"),
            ("the same, another run", other, "<= 1.3"),
        ):
            print(f"{what:46s} {seconds * 1e3:7.2f} ms {seconds / before:7.2f}  {target}")


def compacted(url: str, n_files: int, n_ls: int, n_elements: int) -> None:
    """A run in many small files, before and after compaction, against one large file."""
    numbers = np.arange(1, n_files * n_ls + 1)
    with (
        tempfile.TemporaryDirectory() as name,
        archive_of(url, "large_file") as large,
        archive_of(url, "small_files") as small,
    ):
        held = stacks(FIRST_RUN, numbers, n_elements)
        dqmio.write(Path(name) / "one.root", held)
        take_in(large, Path(name) / "one.root")
        parts = Path(name) / "parts"
        parts.mkdir()
        for i in range(n_files):
            # As files of a run are: the lumisections of each lie between the others'.
            some = [stack.select(numbers[i::n_files]) for stack in held]
            dqmio.write(parts / f"{i:04d}.root", some)
        take_in(small, parts)
        for archive in (large, small):
            tidy(archive)
        whole, before = read_times(one(large), one(small))
        started = time.perf_counter()
        done = list(compact(small))
        seconds = time.perf_counter() - started
        again, after = read_times(one(large), one(small))
        n_before, n_after = (sum(getattr(d, n) for d in done) for n in ("n_before", "n_after"))
        print(
            f"\none element of a run of {len(numbers):,} lumisections{'':6s} {'time':>10s}   ratio"
        )
        for what, reading, reference in (
            ("in one file", whole, whole),
            (f"in {n_files} files", before, whole),
            ("the same, compacted", after, again),
        ):
            print(f"{what:46s} {reading * 1e3:7.2f} ms {reading / reference:7.2f}")
        print(f"compaction: {n_before:,} blocks are {n_after:,} in {seconds:.2f} s")


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--elements", type=int, default=20)
    arguments.add_argument("--lumisections", type=int, default=10)
    arguments.add_argument("--steps", default="1,10,100")
    given = arguments.parse_args()
    n_me, n_ls = given.elements, given.lumisections
    steps = sorted(int(step) for step in given.steps.split(","))
    with server.temporary(durable=True) as url:
        grow(
            *(url, "files", steps),
            lambda n: (stacks(FIRST_RUN + i, range(1, n_ls + 1), n_me) for i in range(n)),
        )
        grow(
            *(url, "lumisections of a run", [n_ls * step for step in steps]),
            lambda n: [stacks(FIRST_RUN, range(1, n + 1), n_me)],
        )
        grow(
            *(url, "elements", [n_me * step for step in steps]),
            lambda n: [stacks(FIRST_RUN, range(1, n_ls + 1), n)],
        )
        grown(url, steps[-1], 10, n_ls, n_me)
        compacted(url, steps[-1], n_ls, n_me)


if __name__ == "__main__":
    main()
