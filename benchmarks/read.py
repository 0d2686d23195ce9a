"""How fast DQMIO files are read to arrays, against inflating the same baskets with Python's zlib.

    python benchmarks/read.py [FILE]

Without a file it writes one of 40,000 TH1F (100 bins, 2,000 elements) and 6,000 TH2F (100 x 60, 300
elements) in 20 lumisections. The reference is ``zlib.decompress`` over the baskets of all contents,
one thread, bytes in memory. The table tells for each way the best time of several, in one run, and
its ratio to the reference (below 1: faster). uproot's object layer reads a sample of the TH2F, the
only histograms that it can read, and its time is scaled up to all histograms.
"""

from __future__ import annotations

import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import uproot
from isal import isal_zlib

from ml4ad import dqmio
from ml4ad.stack import KINDS, Axis, HistogramStack

REPEATS, N_LS, SAMPLE = 7, 20, 300
REFERENCE = "zlib, one thread (reference)"


def written(path: Path, seed: int = 5) -> None:
    """Write the file: counts of a third of the cells, as occupancy maps and spectra have them."""
    rng = np.random.default_rng(seed)
    numbers = np.arange(1, N_LS + 1)
    made = []
    for i in range(2_000):
        shape = 50 * np.exp(-0.5 * ((np.arange(100) - rng.uniform(20, 80)) / 8) ** 2)
        made.append(_stack(rng, shape, numbers, f"Tracker/Layer{i % 40}/charge_{i}"))
    for i in range(300):
        active = 3.0 * (rng.random((100, 60)) < 0.33)
        made.append(_stack(rng, active, numbers, f"Pixel/Maps{i % 10}/position_{i}"))
    dqmio.write(path, made, seed=seed)


def _stack(
    rng: np.random.Generator, mean: np.ndarray, numbers: np.ndarray, me: str
) -> HistogramStack:
    counts = rng.poisson(mean, (N_LS, *mean.shape)).astype("f4")
    names = ("xaxis", "yaxis")
    axes = [
        Axis.regular(n, 0, n, title=me.rsplit("/", 1)[-1], name=name)
        for n, name in zip(mean.shape, names, strict=False)
    ]
    return HistogramStack.from_arrays(counts, axes, ls_numbers=numbers, run_number=380_000, me=me)


def blocks(path: Path) -> list[tuple[bytes, int]]:
    """Compressed blocks of all baskets of contents, with their inflated sizes."""
    data = path.read_bytes()
    found = []
    with uproot.open(path) as file:
        for kind in KINDS:
            branch = file[f"{kind}s/Value"]
            for seek, n_bytes in zip(
                branch.member("fBasketSeek"), branch.member("fBasketBytes"), strict=True
            ):
                key = data[seek : seek + n_bytes]
                packed = key[int.from_bytes(key[14:16], "big") :]
                while packed:
                    size = int.from_bytes(packed[3:6], "little")
                    unpacked = int.from_bytes(packed[6:9], "little")
                    found.append((packed[9 : 9 + size], unpacked))
                    packed = packed[9 + size :]
    return found


def with_isal(packed: bytes, size: int) -> bytes:
    """The block inflated by isal, as the reader does."""
    return isal_zlib.decompressobj().decompress(packed, size + 1)


def read(path: Path) -> int:
    """Number of histograms read, all stacks of the file, one after the other."""
    with dqmio.open(path) as file:
        return sum(len(stack) for stack in file.stacks())


def best(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Shortest of several times of each, in seconds, taken in turn as the machine may be shared."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, work in ways.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return {name: min(taken) for name, taken in times.items()}


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "bench.root"
        if len(sys.argv) < 2:
            written(path)
        packed = blocks(path)
        n_read = read(path)
        inflated = sum(size for _, size in packed)
        print(
            f"{n_read:,} histograms, {path.stat().st_size / 1e6:.1f} MB, inflated "
            f"{inflated / 1e6:.0f} MB in {len(packed):,} blocks"
        )
        times = best(
            {
                REFERENCE: lambda: [zlib.decompress(data) for data, _ in packed],
                "isal, one thread": lambda: [with_isal(*block) for block in packed],
                "ml4ad.dqmio: index, names": lambda: names(path),
                "ml4ad.dqmio: file to arrays": lambda: read(path),
            }
        )
        times["uproot, objects (scaled)"] = objects(path, n_read)
    print(f"{'':30} {'seconds':>9} {'ratio':>7} {'histograms/s':>13}")
    for name, seconds in times.items():
        ratio = seconds / times[REFERENCE]
        print(f"{name:30} {seconds:9.3f} {ratio:7.2f} {n_read / seconds:13,.0f}")


def names(path: Path) -> int:
    """Number of elements in the file, from index and names alone."""
    with dqmio.open(path) as file:
        return len(file.elements)


def objects(path: Path, n_histograms: int) -> float:
    """Seconds that uproot's object layer would take for all, from a sample."""
    with uproot.open(path) as file:
        branch = file["TH2Fs/Value"]
        n_sample = min(SAMPLE, branch.num_entries)
        start = time.perf_counter()
        branch.array(library="np", entry_stop=n_sample)
        return (time.perf_counter() - start) / max(n_sample, 1) * n_histograms


if __name__ == "__main__":
    main()
