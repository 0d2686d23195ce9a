"""How good and how fast the detectors are, on real labelled and on simulated histograms.

    python benchmarks/detectors.py [real] [faults] [contamination] [speed]

Prints tables, the detectors of others beside ours. The real data are looked for in
``shared/data`` beside the repository; without them that part is skipped.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score, roc_curve

from ml4ad import detect
from ml4ad.detect import Trial
from ml4ad.stack import Axis, HistogramStack

REAL = Path(__file__).parents[1].parent / "shared" / "data" / "zerobias2017" / "train.csv.gz"


# -- real ------------------------------------------------------------------------------------------


def stacks_of(table: pd.DataFrame) -> list[HistogramStack]:
    """Stacks of a table of labelled lumisections, one per run."""
    bins = [f"bin_{i}" for i in range(1, 101)]
    axis = Axis.regular(100, 0, 80_000, title="charge [e]")
    return [
        HistogramStack.from_arrays(
            rows[bins].to_numpy("f4"),
            axis,
            ls_numbers=rows.lumi,
            run_number=run,
            me="PixelPhase1/chargeInner_PXLayer_1",
        )
        for run, rows in table.groupby("run")
    ]


def scored(detector: detect.Detector, table: pd.DataFrame) -> np.ndarray:
    """Scores of all lumisections of a table."""
    return np.concatenate([detector.score_samples(s) for s in stacks_of(table)])


def figures(fine: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    """ROC AUC, and false positive rate at 99 % detection."""
    truth = np.repeat([0, 1], [len(fine), len(wrong)])
    scores = np.concatenate([fine, wrong])
    false, true, _ = roc_curve(truth, scores)
    return float(roc_auc_score(truth, scores)), float(false[np.argmax(true >= 0.99)])


def real() -> None:
    """Real pixel charge, labelled by people."""
    if not REAL.is_file():
        print("real labelled data: skipped, there is no", REAL.name, "in shared/data/zerobias2017")
        return
    table = pd.read_csv(REAL)
    good = table[(table.good == 1) & (table.good_pixel == 1)]
    bad = table[table.good_pixel == 0]
    rows = {}
    candidates = {"NearestReference": detect.NearestReference(), **detect.references()}
    for name, candidate in candidates.items():
        row = {}
        for length in (10, 20, 30):
            parts = []
            for part in range(4):
                test = good.lumi // length % 4 == part
                candidate.fit(stacks_of(good[~test]))
                parts.append(figures(scored(candidate, good[test]), scored(candidate, bad)))
            row[f"AUC, blocks of {length}"], row[f"FPR at 99 %, {length}"] = np.mean(parts, axis=0)
        areas = []
        for run in good.run.unique():
            candidate.fit(stacks_of(good[good.run != run]))
            areas.append(
                figures(scored(candidate, good[good.run == run]), scored(candidate, bad))[0]
            )
        row |= {"one run left out: mean AUC": np.mean(areas), "lowest": np.min(areas)}
        rows[name] = row
    print(f"\nReal, labelled: {len(good)} good and {len(bad)} bad lumisections of {REAL.name}")
    print(pd.DataFrame.from_dict(rows, orient="index").round(4).T.to_string())


# -- simulated -------------------------------------------------------------------------------------


def maps(
    shape: tuple[int, ...],
    entries: float,
    runs: range,
    n_ls: int,
    *,
    drift: float = 0.03,
    seed: int,
) -> list[HistogramStack]:
    """Occupancy of ``entries`` per bin on average, falling along the run, that drifts slowly."""
    rng = np.random.default_rng(seed)
    nx, ny = shape[0], int(np.prod(shape[1:]))
    x, y = np.linspace(-1, 1, nx)[:, None], np.linspace(0, 2 * np.pi, ny)
    detector = np.random.default_rng(99)
    base = (1 + 0.5 * x**2) * (1 + 0.15 * np.cos(y)) * detector.gamma(50, 1 / 50, (nx, ny))
    base[detector.random((nx, ny)) < 0.01] = 0
    axes = [Axis.regular(n, 0, n, title=t) for n, t in zip(shape, ("ieta", "iphi"), strict=False)]
    out = []
    for run in runs:
        when = np.linspace(0, 1, n_ls)
        slope = drift * (rng.normal() + 0.05 * np.cumsum(rng.normal(size=n_ls)))
        falling = entries * (1.2 - 0.4 * when) / base.mean()
        means = base * (1 + slope[:, None, None] * x * np.cos(y)) * falling[:, None, None]
        counts = rng.poisson(means).reshape(n_ls, *shape).astype("f4")
        out.append(
            HistogramStack.from_arrays(
                counts, axes, ls_numbers=np.arange(1, n_ls + 1), run_number=run, me="EB/occupancy"
            )
        )
    return out


FAULTS = [
    Trial("dead_region", (4, 4), n_ls=3, name="dead 4 x 4"),
    Trial("hv_off", (17, 4), 0.5, 3, "supermodule -50 %"),
    Trial("dead_cell", (1, 1), n_ls=6, name="dead cell"),
    Trial("hv_off", (17, 4), 0.1, 10, "supermodule -10 %"),
    Trial("noisy_region", (17, 4), 0.2, 10, "noise +20 %"),
]


def eras() -> list[HistogramStack]:
    """Ten runs to learn from, and ten of a later era that drifts more."""
    return [
        *maps((34, 72), 20, range(1, 11), 150, seed=1),
        *maps((34, 72), 20, range(11, 21), 300, drift=0.04, seed=2),
    ]


def faults() -> None:
    """Faults put into a simulated occupancy map."""
    result = detect.evaluate(detect.references(), eras(), faults=FAULTS, n_trials=60, seed=3)
    print("\nSimulated 34 x 72 map, 20 entries per bin; thresholds from ten earlier runs")
    print(result.table.round(3).to_string())
    print(result.detectors.round(3).to_string())


def contamination() -> None:
    """The same with faults among the lumisections that are learned from."""
    rows = {}
    few = [s.select(slice(1, 130)) for s in eras()]
    for share in (0.0, 0.05):
        result = detect.evaluate(
            detect.default(), few, faults=FAULTS, n_trials=30, seed=3, contamination=share
        )
        rows[f"{share:.0%} bad"] = result.table.droplevel(0)["found_in_6"]
    print("\nShare found within 6 lumisections, by the share of bad lumisections in training")
    print(pd.DataFrame(rows).round(3).to_string())


# -- speed -----------------------------------------------------------------------------------------


def best(call: object, times: int = 3) -> float:
    """Seconds of the fastest of several calls."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()  # type: ignore[operator]
        taken.append(time.perf_counter() - began)
    return min(taken)


def speed() -> None:
    """Milliseconds per lumisection, and against a PCA in the same run."""
    rows = {}
    for shape, entries, n_ls in (((100,), 300, 400), ((34, 72), 20, 200), ((300, 200), 20, 60)):
        training = maps(shape, entries, range(1, 5), n_ls, seed=1)
        test = maps(shape, entries, range(9, 10), n_ls, seed=2)[0]
        pca = detect.PCA().fit(training)
        ours = detect.default().fit(training)
        seconds = best(lambda: ours.score_samples(test))  # noqa: B023
        reference = best(lambda: pca.score_samples(test))  # noqa: B023
        rows[" x ".join(map(str, shape))] = {
            "default, ms per LS": 1e3 * seconds / n_ls,
            "PCA, ms per LS": 1e3 * reference / n_ls,
            "ratio": seconds / reference,
        }
    print("\nSpeed")
    print(pd.DataFrame.from_dict(rows, orient="index").round(3).to_string())
    small = detect.default().fit(maps((100,), 300, range(1, 5), 60, seed=1))
    large = detect.default().fit(maps((34, 72), 20, range(1, 5), 60, seed=1))
    one = maps((100,), 300, range(9, 10), 1, seed=2)[0]
    one_map = maps((34, 72), 20, range(9, 10), 1, seed=2)[0]

    def all_elements() -> None:
        for i in range(500):
            (large if i % 5 == 0 else small).score_samples(one_map if i % 5 == 0 else one)

    print(
        f"500 elements of one lumisection, 400 of 100 bins and 100 of 34 x 72: "
        f"{best(all_elements):.2f} s"
    )


if __name__ == "__main__":
    warnings.simplefilter("error")
    parts = {f.__name__: f for f in (real, faults, contamination, speed)}
    for chosen in sys.argv[1:] or parts:
        parts[chosen]()
