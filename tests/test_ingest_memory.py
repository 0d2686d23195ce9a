"""Memory has a bound, whatever a file holds. Measured in processes of their own."""

import dataclasses
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import ml4ad
from ml4ad import Axis, HistogramStack, dqmio

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"
GIB = 2**30

INGEST = """
    import sys
    from ml4ad import ingest, store

    (done,) = ingest.ingest(store.engine(sys.argv[1]), sys.argv[2], dataset=sys.argv[3])
    assert done.state == "PROCESSED", done.reason
    # Linux tells kilobytes.
    # Not what getrusage tells, which begins with the peak of the process that started this one.
    (peak,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    print(int(peak.split()[1]) * 1024, done.n_histograms)
"""


def peak_of_ingesting(url, path):
    command = [sys.executable, "-c", textwrap.dedent(INGEST), url, str(path), DATASET]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [int(number) for number in done.stdout.split()]


def map_of(rng, me, numbers, n_x, n_y):
    """Occupancy of a detector of which a third is read out."""
    shape = (len(numbers), n_x, n_y)
    counts = np.where(rng.random(shape) < 0.33, rng.poisson(3, shape), 0)
    axes = [Axis.regular(n, 0, n, name=name) for n, name in ((n_x, "xaxis"), (n_y, "yaxis"))]
    return HistogramStack.from_arrays(
        counts.astype("f4"), axes, ls_numbers=numbers, run_number=380_000, me=me
    )


def spectrum_of(rng, me, numbers, n_bins=100):
    counts = rng.poisson(20, (len(numbers), n_bins)).astype("f4")
    axis = Axis.regular(n_bins, 0, 1)
    return HistogramStack.from_arrays(counts, axis, ls_numbers=numbers, run_number=380_000, me=me)


def named(stacks, i, me):
    return dataclasses.replace(stacks[i % len(stacks)], me=me)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is told otherwise")
def test_5000_elements_in_each_lumisection_go_through_in_less_than_a_gibibyte(
    database_url, tmp_path
):
    rng = np.random.default_rng(1)
    path = tmp_path / "wide.root"
    with dqmio.create(path, level=1) as out:
        for number in range(1, 5):
            # Some that differ, each many times over: what is drawn anew takes longer than all else.
            maps = [map_of(rng, "Pixel/map", [number], 100, 60) for _ in range(20)]
            rest = [spectrum_of(rng, "Strip/charge", [number]) for _ in range(20)]
            out.write(
                [
                    *(named(maps, i, f"Pixel/map_{i}") for i in range(1000)),
                    *(named(rest, i, f"Strip/{i % 50}/charge_{i}") for i in range(4000)),
                ]
            )
    peak, n_histograms = peak_of_ingesting(database_url, path)
    assert n_histograms == 4 * 5000
    assert peak < GIB
    with ml4ad.connect(database_url) as archive:
        assert len(archive.elements()) == 5000
        assert archive.stack("Pixel/map_999", 380_000).ls_numbers.tolist() == [1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is told otherwise")
def test_a_run_of_5000_lumisections_goes_through_in_less_than_a_gibibyte(database_url, tmp_path):
    rng = np.random.default_rng(2)
    path = tmp_path / "long.root"
    # Contents of 1.0 GB: as much as may be in memory altogether.
    one = map_of(rng, "Pixel/map_0", [1], 250, 200)
    with dqmio.create(path, level=1) as out:
        for first in range(1, 5001, 100):
            numbers = np.arange(first, first + 100)
            repeated = {
                name: np.repeat(getattr(one, name), 100, axis=0)
                for name in ("contents", "entries", "statistics")
            }
            repeated["contents"][:, 1, 1] = numbers
            stack = dataclasses.replace(one, ls_numbers=numbers, **repeated)
            out.write([stack, spectrum_of(rng, "Strip/charge", numbers)])
    peak, n_histograms = peak_of_ingesting(database_url, path)
    assert n_histograms == 2 * 5000
    assert peak < GIB
    with ml4ad.connect(database_url) as archive:
        part = archive.stack("Pixel/map_0", 380_000, ls_numbers=slice(4990, 5000))
        assert part.contents[:, 1, 1].tolist() == list(range(4990, 5001))
