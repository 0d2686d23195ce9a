"""Speed of the simulation, against drawing every bin with numpy and compressing with zlib.

The reference does the least that any simulation must: one negative binomial number per bin (the
plain way to over-dispersed counts) and zlib's level 1 over the contents, without a file around it.
"""

import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from ml4ad import simulate

BEST_OF = 3
DISPERSION = 1.2


def seconds(work):
    """Best time of several, in seconds."""
    best = np.inf
    for _ in range(BEST_OF):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def contents(made):
    """Contents of all stacks of a campaign, block by block."""
    for run, dataset in made.deliveries():
        for number in range(-1, made.n_blocks(run)):
            for stack in made.block(run, dataset, number):
                yield stack.contents


def plainly(means):
    """The reference: a number per filled bin, and zlib."""
    rng = np.random.default_rng(1)
    for mean in means:
        filled = mean[mean > 0]
        drawn = np.zeros(mean.shape, dtype=mean.dtype)
        drawn[mean > 0] = rng.negative_binomial(filled / (DISPERSION - 1), 1 / DISPERSION)
        zlib.compress(drawn.astype(drawn.dtype.newbyteorder(">")).tobytes(), 1)


def campaign(preset):
    """A short campaign with the elements of a preset."""
    sizes = {"small": (2, 64), "demo": (1, 64), "large": (1, 32)}
    runs, lumisections = sizes[preset]
    return simulate.preset_campaign(preset, runs=runs, lumisections=lumisections)


def main():
    """Print the table."""
    print(f"{'preset':8} {'elements':>8} {'MB':>7} {'MB/s':>6} {'in memory MB/s':>15} {'ratio':>6}")
    for preset in ("small", "demo", "large"):
        made = campaign(preset)
        with tempfile.TemporaryDirectory() as folder:
            names = iter(range(BEST_OF))
            sizes = []

            def write(made=made, folder=folder, names=names, sizes=sizes):
                record = simulate.generate(Path(folder) / str(next(names)), made)
                sizes.append(record.n_bytes)

            writing = seconds(write)
        means = [array for array in contents(made) if np.all(array >= 0)]
        raw = sum(array.nbytes for array in means)
        drawing = seconds(lambda made=made: sum(1 for _ in contents(made)))
        reference = seconds(lambda means=means: plainly(means))
        print(
            f"{preset:8} {len(made.elements):8} {sizes[0] / 1e6:7.1f} "
            f"{sizes[0] / 1e6 / writing:6.1f} {raw / 1e6 / drawing:15.0f} "
            f"{reference / writing:6.2f}"
        )
    print(
        "ratio: seconds of numpy's negative binomial and zlib over those of the whole, file and all"
    )


if __name__ == "__main__":
    main()
