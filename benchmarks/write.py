"""How fast DQMIO files are written, against compressing the same bytes with Python's zlib.

    python benchmarks/write.py

The reference is ``zlib.compress(bytes, 1)`` over what an uncompressed file of the same content
holds, in pieces of a basket's size: the least that a writer without a faster library has to do.
The table tells, for each compression, the file's size, MB of file and thousand histograms written
per second on one core, and the reference's time by the writer's (above 1: the writer is faster).
"""

from __future__ import annotations

import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ml4ad import dqmio
from ml4ad.stack import Axis, HistogramStack

N_LS, BASKET, REPEATS = 60, 128 * 1024, 3


def stacks(seed: int = 7) -> list[HistogramStack]:
    """Elements as a pixel file has them: spectra, sparse occupancy maps and profiles."""
    rng = np.random.default_rng(seed)
    numbers = np.arange(1, N_LS + 1)
    x = Axis.regular(100, 0, 80_000, title="charge [e]")
    shape = np.exp(-0.5 * ((x.centers - 25_000) / 9_000) ** 2) * 400
    maps = (Axis.regular(72, -26, 26), Axis.regular(104, -3.2, 3.2, name="yaxis"))
    active = rng.random((72, 104)) < 0.35
    made = []
    for i in range(200):
        counts = rng.poisson(shape, (N_LS, 100)).astype("f4")
        made.append(_stack(counts, x, numbers, f"Pixel/Barrel/charge_{i}"))
    for i in range(20):
        counts = rng.poisson(active * 3.0, (N_LS, 72, 104)).astype("f4")
        made.append(_stack(counts, maps, numbers, f"Pixel/Barrel/position_{i}"))
    for i in range(40):
        weights = rng.poisson(50.0, (N_LS, 100)).astype("f8")
        profile = HistogramStack.from_arrays(
            weights * rng.normal(5, 0.1, weights.shape),
            x,
            ls_numbers=numbers,
            run_number=380_000,
            me=f"Tracking/profile_{i}",
            kind="TProfile",
            sum_of_weights=weights,
            sumw2=weights * 26.0,
        )
        made.append(profile)
    return made


def _stack(
    counts: np.ndarray, axes: Axis | tuple[Axis, ...], numbers: np.ndarray, me: str
) -> HistogramStack:
    return HistogramStack.from_arrays(counts, axes, ls_numbers=numbers, run_number=380_000, me=me)


def best(work: Callable[[], object]) -> float:
    """Shortest of several processor times, in seconds."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """Print the table."""
    made = stacks()
    n_histograms = sum(map(len, made))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.root"
        dqmio.write(path, made, compression="none")
        plain = path.read_bytes()
        pieces = [plain[i : i + BASKET] for i in range(0, len(plain), BASKET)]
        reference = best(lambda: [zlib.compress(piece, 1) for piece in pieces])
        print(f"{n_histograms} histograms, {len(plain) / 1e6:.0f} MB of contents; {sys.platform}")
        print(f"reference, zlib.compress(level 1): {reference:.2f} s")
        print(f"{'written as':12}{'MB':>8}{'s':>8}{'MB/s':>8}{'1000/s':>8}{'ratio':>8}")
        for compression, level in (
            ("zlib", None),
            ("zlib", 6),
            ("lz4", None),
            ("zstd", None),
            ("none", None),
        ):
            options = {"compression": compression, "level": level, "overwrite": True}
            seconds = best(lambda options=options: dqmio.write(path, made, **options))
            size = path.stat().st_size / 1e6
            name = compression + (f" {level}" if level else "")
            rates = (size / seconds, n_histograms / seconds / 1000, reference / seconds)
            print(f"{name:12}{size:8.1f}{seconds:8.2f}" + "".join(f"{r:8.1f}" for r in rates))


if __name__ == "__main__":
    main()
