"""How fast and small the store is, against zlib and the peers' way, in one PostgreSQL.

    python benchmarks/store.py [--no-large]

The file is that of ``benchmarks/read.py``: 40,000 TH1F and 6,000 TH2F in 20 lumisections. Reference
of the times is ``zlib.decompress`` over the baskets of its contents, one thread; of the sizes the
file itself. The peers' way is DIALS's: a row of float8[] per histogram, without flow, its columns,
primary key and indexes, loaded by COPY of text in chunks of 5,000 and 1,000 rows. It gets its
arrays from our reader; what reading objects costs is added in a row of its own: uproot's object
layer on a sample of the TH2F, scaled to all histograms.

The large file has six maps of 300 x 200 bins in 1,000 lumisections, 1.5 GB of contents. It is taken
in by a process of its own, whose peak memory is told, and read back.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg
import read as reading
import sqlalchemy as sa
import uproot
from psycopg import sql

import ml4ad
from ml4ad import Axis, HistogramStack, dqmio, ingest
from ml4ad.ingest import take
from ml4ad.store import blocks, server

REPEATS = 3
DATASET = "/Benchmark/Run2024F-PromptReco-v1/DQMIO"

PEERS = """
CREATE TABLE fact_th1 (
    dataset_id bigint, file_id bigint, run_number int, ls_number int, me_id int,
    x_min float8, x_max float8, x_bin float8, entries int, data float8[],
    PRIMARY KEY (dataset_id, run_number, ls_number, me_id));
CREATE TABLE fact_th2 (
    dataset_id bigint, file_id bigint, run_number int, ls_number int, me_id int,
    x_min float8, x_max float8, x_bin float8, y_min float8, y_max float8, y_bin float8,
    entries int, data float8[][],
    PRIMARY KEY (dataset_id, run_number, ls_number, me_id));
CREATE INDEX ON fact_th1 (file_id); CREATE INDEX ON fact_th2 (file_id);
CREATE INDEX ON fact_th1 (run_number); CREATE INDEX ON fact_th2 (run_number);
CREATE INDEX ON fact_th1 (ls_number); CREATE INDEX ON fact_th2 (ls_number);
CREATE INDEX ON fact_th1 (me_id); CREATE INDEX ON fact_th2 (me_id);
CREATE INDEX ON fact_th1 (run_number, me_id); CREATE INDEX ON fact_th2 (run_number, me_id);
"""
CHUNKS = {"fact_th1": 5_000, "fact_th2": 1_000}

TAKE_IN = """
import resource, sys, time
import ml4ad
from ml4ad import ingest
with ml4ad.connect(sys.argv[1]) as archive:
    started = time.perf_counter()
    (done,) = ingest.ingest(archive, sys.argv[2], dataset=sys.argv[3])
    assert done.state == "PROCESSED", done.reason
    seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak if sys.platform == "darwin" else peak * 1024, seconds)
"""


def best(act: Callable[[], object], repeats: int = REPEATS) -> float:
    """Shortest of several times, in seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return min(times)


def inflate(path: Path) -> float:
    """Time to inflate the contents of a file with Python's zlib, in one thread."""
    packed = [block for block, _ in reading.blocks(path)]
    return best(lambda: [zlib.decompress(block) for block in packed])


def take_in(archive: ml4ad.Archive, path: Path) -> float:
    """Time from a file to its histograms committed, indexing included; the last run stays."""
    times = []
    for repeat in range(REPEATS):
        if repeat:
            ingest.forget_file(archive, str(path))
        started = time.perf_counter()
        (done,) = ingest.ingest(archive, path, dataset=DATASET)
        times.append(time.perf_counter() - started)
        assert done.state == "PROCESSED", done.reason
    return min(times)


def size(archive: ml4ad.Archive, *tables: str) -> int:
    """Bytes of tables with their indexes, TOAST and partitions."""
    total = 0
    with archive.engine.connect() as connection:
        for table in tables:
            parts = sa.select(sa.column("relid")).select_from(sa.func.pg_partition_tree(table))
            for relation in connection.scalars(parts).all() or [table]:
                whole = sa.select(sa.func.pg_total_relation_size(sa.cast(relation, sa.Text)))
                total += connection.scalar(whole) or 0
    return total


# -- the peers -----------------------------------------------------------------------------------


def peers_rows(path: Path) -> Iterator[tuple[str, str]]:
    """Table and line of text of every histogram."""
    with dqmio.open(path, DATASET) as file:
        numbers = {me: number for number, me in enumerate(file.elements.me)}
        for stack in file.stacks():
            values = stack.values()
            limits = [f"{a.edges[0]}\t{a.edges[-1]}\t{float(a.n_bins)}" for a in stack.axes]
            table = f"fact_th{len(stack.axes)}"
            for ls_number, histogram, entries in zip(
                stack.ls_numbers.tolist(), values, stack.entries.tolist(), strict=True
            ):
                # Rows over y, as they have it.
                listed = repr(histogram.T.tolist()).translate(str.maketrans("[]", "{}", " "))
                yield (
                    table,
                    f"1\t1\t{stack.run_number}\t{ls_number}\t{numbers[stack.me]}\t"
                    f"{chr(9).join(limits)}\t{int(entries)}\t{listed}\n",
                )


def peers_way(url: str, path: Path) -> float:
    """Time from a file to rows of float8[], committed."""
    with psycopg.connect(url) as connection:
        connection.execute(PEERS)
    started = time.perf_counter()
    with psycopg.connect(url) as connection:
        chunks: dict[str, list[str]] = {table: [] for table in CHUNKS}
        for table, line in peers_rows(path):
            chunks[table].append(line)
            if len(chunks[table]) == CHUNKS[table]:
                copy_chunk(connection, table, chunks[table])
        for table, lines in chunks.items():
            copy_chunk(connection, table, lines)
    return time.perf_counter() - started


def copy_chunk(connection: psycopg.Connection, table: str, lines: list[str]) -> None:
    """Load lines and forget them."""
    statement = sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))
    with connection.cursor() as cursor, cursor.copy(statement) as copying:
        copying.write("".join(lines))
    lines.clear()


def objects(path: Path) -> float:
    """Time of uproot's object layer for all histograms, from a sample of the TH2F."""
    with uproot.open(path) as file:
        values = file["TH2Fs/Value"]
        n_all = sum(file[f"{kind}s/Value"].num_entries for kind in ("TH1F", "TH2F"))
        started = time.perf_counter()
        values.array(library="np", entry_stop=reading.SAMPLE)
        return (time.perf_counter() - started) / reading.SAMPLE * n_all


def real_maps(url: str) -> None:
    """Bytes of real pixel maps as float8[], plain and as PostgreSQL's pglz keeps them, and ours."""
    path = Path(__file__).parents[1].parent / "shared" / "data" / "dqmio" / "real.root"
    if not path.exists():
        return
    plain = theirs = ours = 0
    with psycopg.connect(url) as connection, dqmio.open(path, DATASET) as file:
        for stack in file.stacks(kinds="TH2F"):
            connection.execute("CREATE TEMP TABLE one (data float8[][])")
            for histogram in stack.values():
                row = [histogram.T.astype(float).tolist()]
                connection.execute("INSERT INTO one VALUES (%s)", row)
            (kept,) = connection.execute("SELECT sum(pg_column_size(data)) FROM one").fetchone()
            connection.rollback()
            plain += 8 * stack.values().size
            theirs += kept
            ours += sum(len(block.packed) for block in blocks.pack(stack))
    show("10 real pixel maps, packed", f"{ours / 1e3:.0f} kB", 1, "reference")
    show("the same as float8[]", f"{plain / 1e3:.0f} kB", plain / ours, "of ours")
    show("the same as float8[], after pglz", f"{theirs / 1e3:.0f} kB", theirs / ours, "of ours")


# -- the large file ------------------------------------------------------------------------------


def write_large(path: Path, n_ls: int = 1_000, seed: int = 7) -> int:
    """Write the file in parts; bytes of its contents."""
    rng = np.random.default_rng(seed)
    active = 0.9 * rng.gamma(0.5, 1.0, (6, 1, 300, 200))
    axes = [Axis.regular(300, 0, 300), Axis.regular(200, 0, 200, name="yaxis")]
    total = 0
    with dqmio.create(path, seed=seed, level=1) as out:
        for first in range(1, n_ls + 1, 50):
            numbers = np.arange(first, first + 50)
            stacks = [
                HistogramStack.from_arrays(
                    rng.poisson(np.broadcast_to(mean, (50, 300, 200))).astype("f4"),
                    axes,
                    ls_numbers=numbers,
                    run_number=380_001,
                    me=f"Pixel/Large/map_{i}",
                )
                for i, mean in enumerate(active)
            ]
            out.write(stacks)
            total += sum(stack.contents.nbytes for stack in stacks)
    return total


def grow(archive: ml4ad.Archive, times: int) -> None:
    """Give the TH1F blocks to so many more runs."""
    with archive.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO block (me_id, run_number, first_ls, file_id, dataset_id, binning_id,"
                " last_ls, n_ls, packed) "
                "SELECT me_id, run_number + g, first_ls, file_id, dataset_id, binning_id, last_ls,"
                " n_ls, packed FROM block JOIN me USING (me_id), generate_series(1, :times) g "
                "WHERE kind = 'TH1F' AND run_number = 380000 AND me_id % 10 = 0"
            ),
            {"times": times},
        )
    with archive.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE block"))


# -- the table -----------------------------------------------------------------------------------


def show(what: str, measured: str, ratio: float, target: str) -> None:
    """One line of the table."""
    print(f"{what:58s} {measured:>14s} {ratio:9.2f}  {target}", flush=True)


def small(archive: ml4ad.Archive, folder: Path) -> None:
    """Ingest and size, against zlib, the file and the peers."""
    path = folder / "many.root"
    reading.written(path)
    n_bytes = path.stat().st_size
    zlib_s = inflate(path)
    show("zlib, contents of 46,000 histograms", f"{zlib_s:.3f} s", 1, "reference")
    first = ingest.ingest(archive, path, dataset=DATASET)
    assert [done.state for done in first] == ["PROCESSED"]
    tables = ("block", "me", "binning", "lumisection", "run", "file")
    stored = size(archive, *tables)
    ingest.forget_file(archive, str(path))
    ours = take_in(archive, path)
    show("file to committed", f"{ours:.3f} s", ours / zlib_s, "<= 3.5 of zlib")
    peers = peers_way(archive.url.replace("+psycopg", ""), path)
    show("peers' rows from our arrays", f"{peers:.1f} s", peers / ours, "of ours")
    reading_s = objects(path)
    whole = peers + reading_s
    show("peers' rows, objects read by uproot (scaled)", f"{whole:.1f} s", whole / ours, ">= 20")
    show("DQMIO file", f"{n_bytes / 1e6:.1f} MB", 1, "reference")
    show("our tables, indexes, TOAST", f"{stored / 1e6:.1f} MB", stored / n_bytes, "<= 0.5 of file")
    theirs = size(archive, "fact_th1", "fact_th2")
    show(
        "peers' tables, indexes, TOAST", f"{theirs / 1e6:.1f} MB", theirs / stored, ">= 10 of ours"
    )
    one = best(lambda: archive.stack("Tracker/Layer0/charge_0", 380_000), 50)
    grow(archive, 100)
    many = best(lambda: archive.stack("Tracker/Layer0/charge_0", 380_000), 50)
    show("one TH1F of one run, read", f"{one * 1e3:.2f} ms", 1, "reference")
    show("the same, in an archive of 101 runs", f"{many * 1e3:.2f} ms", many / one, "<= 1.3")


def large(archive: ml4ad.Archive, folder: Path) -> None:
    """Memory of ingest, and rate of reading."""
    path = folder / "large.root"
    contents = write_large(path)
    command = [sys.executable, "-c", TAKE_IN, archive.url, str(path), DATASET]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    peak, seconds = (float(word) for word in done.stdout.split())
    show(f"ingest of {contents / 1e9:.2f} GB, peak memory", f"{peak / 2**20:.0f} MiB",
         peak / 2**30, "<= 1 GiB")  # fmt: skip
    show("the same, rate of contents", f"{contents / seconds / 1e6:.0f} MB/s", seconds, "seconds")
    nbytes = 4 * 300 * 200 * 1_000
    taken = best(lambda: archive.stack("Pixel/Large/map_1", 380_001), 7)
    rate = nbytes / taken / 1e9
    show("TH2F of 300 x 200 in 1,000 lumisections, read", f"{taken:.3f} s", rate, ">= 1 GB/s")


def main() -> None:
    """Print the table."""
    with (
        server.temporary(durable=True) as url,
        tempfile.TemporaryDirectory() as name,
        ml4ad.connect(url) as archive,
    ):
        print(f"{'what':58s} {'measured':>14s} {'ratio':>9s}  target")
        small(archive, Path(name))
        real_maps(url)
        if "--no-large" not in sys.argv:
            large(archive, Path(name))
        take.close_engines()


if __name__ == "__main__":
    main()
