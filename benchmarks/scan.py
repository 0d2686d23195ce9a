"""What another scan of many known files costs, against listing their folders.

    python benchmarks/scan.py [--files 100000]

The files are empty, a thousand to a folder, and their rows are made in SQL, PROCESSED: a scan looks
at names, sizes and times alone. The reference walks the folders and asks for the same, and nothing
else. ``strace``, where there is one, counts the system's calls on files of a scan in a process of
its own: one for the size and time of each file is what a listing costs.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

import ml4ad
from ml4ad import ingest
from ml4ad.ingest import find
from ml4ad.store import dimensions, schema, server

DATASET = "/Benchmark/Run2024F-PromptReco-v1/DQMIO"
REPEATS, IN_A_FOLDER = 3, 1_000
SCAN = """
import sys
from ml4ad import ingest, store
print(sum(f.outcome == "known" for f in ingest.index(store.engine(sys.argv[1]), sys.argv[2])))
"""


def best(act: Callable[[], object]) -> float:
    """Shortest of several times, in seconds."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return min(times)


def listing(folder: str) -> int:
    """Number of files below a folder, asked for size and time."""
    n_files = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                n_files += listing(entry.path)
            else:
                n_files += entry.stat().st_mtime > 0
    return n_files


def make(archive: ml4ad.Archive, folder: Path, n_files: int) -> None:
    """So many empty files, and their rows."""
    for number in range(n_files):
        path = folder / f"{number // IN_A_FOLDER:04d}" / f"{number:06d}.root"
        if number % IN_A_FOLDER == 0:
            path.parent.mkdir()
        path.touch()
    dataset_id = dimensions.dataset_id(archive.engine, DATASET)
    rows = [
        {
            "dataset_id": dataset_id,
            "path": location.path,
            "size": location.size,
            "mtime": location.mtime,
            "state": "PROCESSED",
        }
        for location in find.locations(folder)
    ]
    with archive.engine.begin() as connection:
        connection.execute(sa.insert(schema.file), rows)
    with archive.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE file")


def calls(url: str, folder: Path) -> Counter[str] | None:
    """Calls of the system that a scan made on what lies in the folder, by kind."""
    strace = shutil.which("strace")
    if strace is None:
        return None
    with tempfile.NamedTemporaryFile("r") as log:
        command = [strace, "-f", "-qq", "-e", "trace=%file", "-o", log.name]
        command += [sys.executable, "-c", SCAN, url, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            return None
        pattern = re.compile(rf'(?:\d+ +)?(\w+)\([^"]*"{re.escape(str(folder))}')
        return Counter(found[1] for line in log if (found := pattern.match(line)))


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--files", type=int, default=100_000)
    n_files = arguments.parse_args().files
    with (
        server.temporary() as url,
        ml4ad.connect(url) as archive,
        tempfile.TemporaryDirectory() as name,
    ):
        folder = Path(name)
        make(archive, folder, n_files)
        statements: list[str] = []
        listen = lambda *told: statements.append(told[2].split()[0])  # noqa: E731
        sa.event.listen(archive.engine, "before_cursor_execute", listen)
        outcomes = Counter(found.outcome for found in ingest.index(archive, folder))
        asked = Counter(statements)
        assert outcomes == {"known": n_files}, outcomes
        reference = best(lambda: listing(name))
        seconds = best(lambda: list(ingest.index(archive, folder)))
        print(f"{'':44s} {'time':>10s} {'ratio':>7s}")
        print(f"{f'listing {n_files:,} files in their folders':44s} {reference:8.2f} s {1:7.1f}")
        ratio = seconds / reference
        print(f"{'scan that finds all of them known':44s} {seconds:8.2f} s {ratio:7.1f}")
        print("statements in the database:", ", ".join(f"{n} {s}" for s, n in asked.items()))
        counted = calls(url, folder)
        print("calls on these files and folders:", dict(counted) if counted else "no strace here")


if __name__ == "__main__":
    main()
