"""How much faster two workers take files in than one, and what limits them.

    python benchmarks/workers.py [--files 24] [--repeats 3]

Each file is a run of 400 TH1F of 100 bins and 60 TH2F of 100 x 60 in 20 lumisections, as those of
``benchmarks/read.py``. One and two local Dask workers take the same files into an empty dataset of
one PostgreSQL, in turns; the start of the workers is counted apart. Between, the same processes
inflate with zlib, which shares nothing: what they get from two workers is what the machine has to
give just then. Each is the shortest of its repeats.

The second table tells for the shortest turn of each the CPU seconds of every worker, of PostgreSQL,
of the main process (with Dask's scheduler) and of everything else on the machine meanwhile, which
had no part in it. Its last column is what two workers could be at best if every process had a core
of its own: the CPU seconds of the busiest process with one worker, over those with two. Linux only.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from distributed import Client

import ml4ad
from ml4ad import Axis, HistogramStack, cluster, dqmio, ingest
from ml4ad.settings import Settings
from ml4ad.store import server

DATASET = "/Benchmark/Run2024F-PromptReco-v1/DQMIO"
FIRST_RUN, N_LS, N_INFLATIONS = 380_000, 20, 40
TICKS = os.sysconf("SC_CLK_TCK")


def write(path: Path, run_number: int) -> None:
    """Write a file: counts of a third of the cells, as occupancy maps and spectra have them."""
    rng = np.random.default_rng(run_number)
    numbers = np.arange(1, N_LS + 1)
    means = [50 * np.exp(-0.5 * ((np.arange(100) - 20 - i % 60) / 8) ** 2) for i in range(400)]
    means += [3.0 * (rng.random((100, 60)) < 0.33) for _ in range(60)]
    stacks = [
        HistogramStack.from_arrays(
            rng.poisson(mean, (N_LS, *mean.shape)).astype("f4"),
            [
                Axis.regular(n, 0, n, name=name)
                for n, name in zip(mean.shape, ("xaxis", "yaxis"), strict=False)
            ],
            ls_numbers=numbers,
            run_number=run_number,
            me=f"Tracker/Layer{i % 40}/element_{i}",
        )
        for i, mean in enumerate(means)
    ]
    dqmio.write(path, stacks, level=1)


def inflate(seed: int) -> float:
    """CPU seconds of inflating 4 MB ten times with zlib."""
    packed = zlib.compress(np.random.default_rng(seed).poisson(20, 2**19).astype("f4").tobytes())
    started = time.process_time()
    for _ in range(10):
        zlib.decompress(packed)
    return time.process_time() - started


@dataclass(frozen=True)
class Turn:
    """Seconds from the first file to the last commit, and CPU seconds of whom."""

    seconds: float
    workers: tuple[float, ...]
    postgres: float
    main: float
    others: float

    @property
    def ours(self) -> float:
        """CPU seconds of all that takes part."""
        return sum(self.workers) + self.postgres + self.main

    @property
    def busiest(self) -> float:
        """CPU seconds of the process that has most to do."""
        return max(*self.workers, self.postgres / len(self.workers), self.main)


def postgres_cpu(postmaster: int) -> float:
    """CPU seconds of a server since its start, backends that have ended included."""
    total = 0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(entry.parent.name) == postmaster:
            total += sum(int(ticks) for ticks in fields[11:15])
        elif int(fields[1]) == postmaster:
            total += sum(int(ticks) for ticks in fields[11:13])
    return total / TICKS


def machine_cpu() -> float:
    """CPU seconds of the whole machine since its start, but idle and waiting."""
    user, nice, system, _, _, irq, soft, *_ = Path("/proc/stat").read_text().split()[1:9]
    return sum(map(int, (user, nice, system, irq, soft))) / TICKS


@contextmanager
def workers(number: int) -> Iterator[tuple[Client, float]]:
    """So many workers that have imported what they need, and the seconds that it took."""
    started = time.perf_counter()
    with cluster.client(Settings(), workers=number) as client:
        client.wait_for_workers(number, timeout=300)
        client.run(__import__, "ml4ad.ingest")
        yield client, time.perf_counter() - started


def zlib_turn(client: Client) -> float:
    """Seconds in which the workers inflate."""
    started = time.perf_counter()
    client.gather(client.map(inflate, range(N_INFLATIONS), pure=False))
    return time.perf_counter() - started


def turn(archive: ml4ad.Archive, client: Client, folder: Path, postmaster: int) -> Turn:
    """Take all files of the folder in; the archive is empty afterwards, too."""
    found = [f.file_id for f in ingest.index(archive, folder, DATASET)]
    before = client.run(time.process_time)
    others, postgres, main = machine_cpu(), postgres_cpu(postmaster), time.process_time()
    started = time.perf_counter()
    states = {done.state for done in ingest.ingest_parallel(archive, client, found)}
    seconds = time.perf_counter() - started
    main = time.process_time() - main
    postgres = postgres_cpu(postmaster) - postgres
    others = machine_cpu() - others
    after = client.run(time.process_time)
    assert states == {"PROCESSED"}, states
    ingest.forget_dataset(archive, DATASET)
    cpu = tuple(sorted(after[name] - before[name] for name in before))
    return Turn(seconds, cpu, postgres, main, others - sum(cpu) - postgres - main)


def show(
    turns: dict[int, list[Turn]],
    plain: dict[int, list[float]],
    start: dict[int, float],
    n_files: int,
) -> None:
    """Print the tables."""
    best = {number: min(some, key=lambda each: each.seconds) for number, some in turns.items()}
    zlib_s = {number: min(some) for number, some in plain.items()}
    print(f"{'':26s} {'1 worker':>11s} {'2 workers':>11s} {'ratio':>7s}  target")
    for what, one, two, target in (
        ("start, not counted", start[1], start[2], ""),
        ("zlib, what there is to get", zlib_s[1], zlib_s[2], "reference"),
        (f"ingest of {n_files} files", best[1].seconds, best[2].seconds, ">= 1.7"),
    ):
        ratio = f"{one / two:7.2f}" if target else ""
        print(f"{what:26s} {one:9.2f} s {two:9.2f} s {ratio:>7s}  {target}")
    got = (best[1].seconds / best[2].seconds) / (zlib_s[1] / zlib_s[2])
    print(f"{'ingest, of what there is':26s} {'':11s} {'':11s} {got:7.2f}")

    n_cores = len(os.sched_getaffinity(0))
    columns = ("each worker", "PostgreSQL", "(share)", "main", "others", f"of {n_cores} cores")
    print("\nCPU seconds", "".join(f"{column:>14s}" for column in columns), "  at best")
    for number, each in best.items():
        busy = (each.ours + each.others) / each.seconds / n_cores
        values = (
            " + ".join(f"{cpu:.2f}" for cpu in each.workers),
            f"{each.postgres:.2f}",
            f"{each.postgres / each.ours:.0%}",
            f"{each.main:.2f}",
            f"{each.others:.2f}",
            f"{busy:.0%}",
        )
        bound = best[1].busiest / each.busiest
        name = f"{number} worker{'s'[: number - 1]}"
        print(f"{name:11s}", "".join(f"{value:>14s}" for value in values), f"{bound:9.2f}")


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--files", type=int, default=24)
    arguments.add_argument("--repeats", type=int, default=3)
    given = arguments.parse_args()
    turns: dict[int, list[Turn]] = {1: [], 2: []}
    plain: dict[int, list[float]] = {1: [], 2: []}
    start: dict[int, float] = {}
    with (
        tempfile.TemporaryDirectory() as name,
        server.temporary(durable=True) as url,
        ml4ad.connect(url) as archive,
    ):
        for i in range(given.files):
            write(Path(name) / f"{i:04d}.root", FIRST_RUN + i)
        with archive.engine.connect() as connection:
            data = Path(connection.exec_driver_sql("SHOW data_directory").scalar_one())
        postmaster = int((data / "postmaster.pid").read_text().split()[0])
        with workers(1) as (one, start[1]), workers(2) as (two, start[2]):
            for _ in range(1 + given.repeats):
                for number, client in ((1, one), (2, two)):
                    plain[number].append(zlib_turn(client))
                    turns[number].append(turn(archive, client, Path(name), postmaster))
    # The first of each has met names, connections and caches that were new.
    show({n: some[1:] for n, some in turns.items()}, plain, start, given.files)


if __name__ == "__main__":
    main()
