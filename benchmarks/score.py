"""What scoring through the database costs beside the detectors alone, per element and run."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import ml4ad
from ml4ad import Axis, HistogramStack, detect, dqmio, ingest, verdict
from ml4ad.detect.registry import fitted
from ml4ad.detect.train import element_stacks, numbers_of
from ml4ad.store import server

DATASET = "/Bench/Run2024F-PromptReco-v1/DQMIO"


def made(me: str, run_number: int, n_ls: int) -> HistogramStack:
    """A line of 100 bins, 20,000 entries in each lumisection."""
    rng = np.random.default_rng([run_number, len(me)])
    shape = np.exp(-np.linspace(0, 3, 100))
    counts = rng.poisson(20_000 * shape / shape.sum(), (n_ls, 100))
    return HistogramStack.from_arrays(
        counts.astype("f4"),
        Axis.regular(100, 0, 1),
        ls_numbers=np.arange(1, n_ls + 1),
        run_number=run_number,
        me=me,
    )


def main() -> None:
    """Print seconds, and ratios to the detectors alone, best of several."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, default=100)
    parser.add_argument("--lumisections", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3)
    chosen = parser.parse_args()
    mes = [f"Bench/line_{i:03}" for i in range(chosen.elements)]
    with tempfile.TemporaryDirectory() as folder, server.temporary() as url:
        archive = ml4ad.connect(url)
        for run in (1, 2, 3, 4):
            path = Path(folder) / f"{run}.root"
            dqmio.write(path, [made(me, run, chosen.lumisections) for me in mes], seed=run)
            list(ingest.ingest(archive, [path], dataset=DATASET))
        began = time.perf_counter()
        model = detect.train(
            archive, "*", DATASET, name="b", run_number=[1, 2, 3], detector="NearestReference"
        )
        training = time.perf_counter() - began
        detect.activate(archive, model)
        conditions = numbers_of(archive, [4])
        detectors = [fitted(archive, model, me).detector for me in mes]
        stacks = [element_stacks(archive, me, DATASET, 4)[0] for me in mes]
        times: dict[str, list[float]] = {}
        for _ in range(chosen.repeat):
            for name, act in {
                "detectors alone": lambda: [
                    own.score_samples(stack, conditions)
                    for own, stack in zip(detectors, stacks, strict=True)
                ],
                "detect.score, all": lambda: detect.score(archive, run_number=4, new_only=False),
                "detect.score, nothing new": lambda: detect.score(archive, run_number=4),
                "detect.score_map": lambda: detect.score_map(archive, model, DATASET, 4),
                "detect.scores": lambda: detect.scores(archive, 4),
                "verdict.states": lambda: verdict.states(archive, DATASET, 4),
            }.items():
                began = time.perf_counter()
                act()
                times.setdefault(name, []).append(time.perf_counter() - began)
        archive.close()
    n = chosen.elements * chosen.lumisections
    print(f"{chosen.elements} elements x {chosen.lumisections} LS; training {training:.1f} s")
    print(f"{'':28}{'s':>8}{'us per score':>14}{'ratio':>8}")
    alone = min(times["detectors alone"])
    for name, own in times.items():
        print(f"{name:28}{min(own):8.3f}{1e6 * min(own) / n:14.2f}{min(own) / alone:8.2f}")


if __name__ == "__main__":
    main()
