"""How good and how fast the detectors are, on real labelled and on simulated histograms.

    python benchmarks/detectors.py [PART ...] [N]

Parts are real, variations, faults, contamination, endings, alarms and speed; N is how many faults
of each kind are tried, 60 if none is given.
Prints tables, and at the end every goal with what was measured and whether it is reached; part
``references`` prints what the detectors of others do with the same faults. Detectors learn from
other lumisections, and where a run is left out from other runs, than they are tested on; nothing
is chosen by what is printed here. The real data are looked for in ``shared/data`` beside the
repository; without them those parts are skipped.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score, roc_curve
from threadpoolctl import threadpool_limits

from ml4ad import detect
from ml4ad.detect import Evaluation, Trial
from ml4ad.detect.calibrate import LS_PER_SHIFT, alpha
from ml4ad.detect.incidents import of_element
from ml4ad.simulate.faults import Fault, inject
from ml4ad.stack import Axis, HistogramStack

REAL = Path(__file__).parents[1].parent / "shared" / "data" / "zerobias2017" / "train.csv.gz"


#: What is to be reached, what was measured, and whether it is.
GOALS: list[tuple[str, str, str, str]] = []


def goal(name: str, wanted: str, measured: float, reached: bool, unit: str = "") -> None:
    """Note a goal for the table at the end."""
    GOALS.append((name, wanted, f"{measured:.4g}{unit}", "yes" if reached else "NO"))


# -- real ------------------------------------------------------------------------------------------

BINS = [f"bin_{i}" for i in range(1, 101)]


def stacks_of(table: pd.DataFrame, first: int = 0, rebin: int = 1) -> list[HistogramStack]:
    """Stacks of a table of labelled lumisections, one per run; bins begin at ``first``."""
    bins = [name for name in BINS if name in table.columns]
    axis = Axis.regular(
        len(bins) // rebin, 800 * first, 800 * (first + len(bins)), title="charge [e]"
    )
    return [
        HistogramStack.from_arrays(
            rows[bins].to_numpy("f4").reshape(len(rows), -1, rebin).sum(axis=-1),
            axis,
            ls_numbers=rows.lumi,
            run_number=run,
            me="PixelPhase1/chargeInner_PXLayer_1",
        )
        for run, rows in table.sort_values(["run", "lumi"]).groupby("run")
    ]


def scored(detector: detect.Detector, table: pd.DataFrame, **binning: int) -> np.ndarray:
    """Scores of all lumisections of a table; what is not assessed counts as good."""
    scores = [detector.score_samples(s) for s in stacks_of(table, **binning)]
    return np.nan_to_num(np.concatenate(scores), nan=-1.0)


def figures(fine: np.ndarray, wrong: np.ndarray) -> tuple[float, float]:
    """ROC AUC, and false positive rate at 99 % detection."""
    truth = np.repeat([0, 1], [len(fine), len(wrong)])
    scores = np.concatenate([fine, wrong])
    false, true, _ = roc_curve(truth, scores)
    return float(roc_auc_score(truth, scores)), float(false[np.argmax(true >= 0.99)])


def of_blocks(
    candidate: detect.Detector, table: pd.DataFrame, length: int, **binning: int
) -> tuple[float, float]:
    """Mean figures where three quarters of the blocks of good lumisections are learned from."""
    good, bad = good_and_bad(table)
    parts = []
    for part in range(4):
        test = good.lumi // length % 4 == part
        candidate.fit(stacks_of(good[~test], **binning))
        parts.append(
            figures(scored(candidate, good[test], **binning), scored(candidate, bad, **binning))
        )
    area, false = np.mean(parts, axis=0)
    return float(area), float(false)


def run_left_out(candidate: detect.Detector, table: pd.DataFrame, **binning: int) -> list[float]:
    """ROC AUC of each good run against all bad ones, learned from the other good runs."""
    good, bad = good_and_bad(table)
    areas = []
    for run in good.run.unique():
        candidate.fit(stacks_of(good[good.run != run], **binning))
        fine = scored(candidate, good[good.run == run], **binning)
        areas.append(figures(fine, scored(candidate, bad, **binning))[0])
    return areas


def good_and_bad(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Lumisections that people call good, and those that are bad for the pixel detector."""
    return table[(table.good == 1) & (table.good_pixel == 1)], table[table.good_pixel == 0]


def labelled() -> pd.DataFrame | None:
    """The real labelled data, None where they are not."""
    if not REAL.is_file():
        print("real labelled data: skipped, there is no", REAL.name, "in shared/data/zerobias2017")
        return None
    table = pd.read_csv(REAL)
    return table[["run", "lumi", "good", "good_pixel", *BINS]].copy()


def real() -> None:
    """Real pixel charge, labelled by people."""
    table = labelled()
    if table is None:
        return
    rows = {}
    candidates = detect.references() | {"NearestReference": detect.NearestReference()}
    for name, candidate in candidates.items():
        row = {}
        for length in (10, 20, 30):
            row[f"AUC, blocks of {length}"], row[f"FPR at 99 %, {length}"] = of_blocks(
                candidate, table, length
            )
        areas = run_left_out(candidate, table)
        rows[name] = row | {"run left out: mean AUC": np.mean(areas), "lowest": np.min(areas)}
    good, bad = good_and_bad(table)
    found = pd.DataFrame.from_dict(rows, orient="index").T
    print(f"\nReal, labelled: {len(good)} good and {len(bad)} bad lumisections of {REAL.name}")
    print(found.round(4).to_string())
    area, false = (
        float(found.loc[found.index.str.startswith(kind), "default"].mean())
        for kind in ("AUC", "FPR")
    )
    goal("real: ROC AUC, mean of blocks of 10, 20, 30 LS", ">= 0.998", area, area >= 0.998)
    goal("real: false positives at 99 %, the same", "<= 0.5 %", 100 * false, false <= 0.005, " %")
    area = float(found.loc["run left out: mean AUC", "default"])
    goal("real: one good run left out, mean AUC", ">= 0.99", area, area >= 0.99)


def variations() -> None:
    """The same as other samples might be: fewer entries, other binning, other ends of the axis."""
    table = labelled()
    if table is None:
        return
    rng = np.random.default_rng(7)
    counts = table[BINS].to_numpy(np.int64)
    shares = rng.uniform(0.01, 1, (len(table), 1))
    cases: dict[str, tuple[pd.DataFrame, dict[str, int]]] = {
        "a tenth of the entries": (table.assign(**_columns(rng.binomial(counts, 0.1))), {}),
        "1 to 100 % of the entries": (table.assign(**_columns(rng.binomial(counts, shares))), {}),
        "25 bins": (table, {"rebin": 4}),
        "axis from 4,000 e": (table.drop(columns=BINS[:5]), {"first": 5}),
        "axis to 56,000 e": (table.drop(columns=BINS[70:]), {}),
    }
    rows = {}
    for name, (changed, binning) in cases.items():
        candidate = detect.default()
        area, false = of_blocks(candidate, changed, 20, **binning)
        areas = run_left_out(candidate, changed, **binning)
        rows[name] = {
            "AUC, blocks of 20": area,
            "FPR at 99 %": false,
            "run left out: mean AUC": np.mean(areas),
            "lowest": np.min(areas),
        }
    found = pd.DataFrame.from_dict(rows, orient="index")
    print("\nThe default on the real sample, changed")
    print(found.round(4).to_string())
    least = float(found["run left out: mean AUC"].min())
    goal("real, changed: one run left out, worst mean AUC", ">= 0.95", least, least >= 0.95)


def _columns(counts: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(BINS, counts.T, strict=True))


# -- simulated -------------------------------------------------------------------------------------


def maps(
    shape: tuple[int, ...],
    entries: float,
    runs: range,
    n_ls: int,
    *,
    drift: float = 0.03,
    seed: int,
    element: int = 99,
) -> list[HistogramStack]:
    """Occupancy of ``entries`` per bin on average, falling along the run, that drifts slowly."""
    rng = np.random.default_rng(seed)
    nx, ny = shape[0], int(np.prod(shape[1:]))
    x, y = np.linspace(-1, 1, nx)[:, None], np.linspace(0, 2 * np.pi, ny)
    detector = np.random.default_rng(element)
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


@cache
def tried(contamination: float, n_trials: int) -> Evaluation:
    """The default on these faults; the same faults at the same places for every training."""
    return detect.evaluate(
        detect.default(),
        eras(),
        faults=FAULTS,
        n_trials=n_trials,
        seed=3,
        contamination=contamination,
    )


def faults(n_trials: int) -> None:
    """Faults put into a simulated occupancy map."""
    table = tried(0.0, n_trials).table.droplevel(0)
    print(f"\nSimulated 34 x 72 map, 20 entries per bin; {n_trials} faults of each kind,")
    print("thresholds from ten earlier runs, one false alarm per shift")
    print(table.round(3).to_string())
    for fault, within, wanted in (
        ("dead 4 x 4", 1, 0.99),
        ("supermodule -50 %", 1, 0.99),
        ("dead cell", 3, 0.99),
        ("supermodule -10 %", 6, 0.95),
        ("noise +20 %", 6, 0.95),
    ):
        share = float(table.loc[fault, f"found_in_{within}"])
        name = f"{fault}: found within {within} LS"
        goal(name, f">= {wanted:.0%}", 100 * share, share >= wanted, " %")
    for fault, overlap in table["iou"].items():
        goal(f"{fault}: IoU of the place", ">= 0.6", float(overlap), overlap >= 0.6)


def endings() -> None:
    """How long alarms go on after a fault has ended, and how soon they began."""
    runs = eras()
    fitted = detect.default().fit(runs[:10])
    level = -np.log10(alpha())
    rows = []
    for length in (1, 3, 20, 80):
        for strength in (0.2, 0.5, 1.0):
            stack = runs[10 + len(rows) % 10]
            fault = Fault(
                "hv_off",
                stack.me,
                first_ls=100,
                n_ls=length,
                strength=strength,
                x=(8, 25),
                y=(8, 12),
            )
            bad = inject(stack, fault, np.random.default_rng(length))
            strange = np.flatnonzero(fitted.score_samples(bad)[99:] > level)
            after = strange[(strange >= length) & (strange < length + 40)]
            rows.append(
                {
                    "lumisections": length,
                    "strength": strength,
                    "seen in": float((strange < length).sum()),
                    "alarms after its end": len(after),
                    "last": 0 if not len(after) else int(after[-1]) - length + 1,
                }
            )
    found = pd.DataFrame(rows)
    print("\nA region of 17 x 4 bins that is lost, and the 40 lumisections after it")
    print(found.to_string(index=False))
    most = int(found["last"].max())
    goal("last alarm after a fault has ended", "<= 3 LS", most, most <= 3, " LS")


def references() -> None:
    """The detectors of others on the same faults."""
    result = detect.evaluate(detect.references(), eras(), faults=FAULTS, n_trials=20, seed=3)
    print("\nAll detectors on the same map, 20 faults of each kind")
    print(result.table.round(3).to_string())
    print(result.detectors.round(3).to_string())


def alarms() -> None:
    """False alarms on a later era that drifts more, over several elements."""
    rows = {}
    for shape, entries, n_elements, n_ls in (
        ((100,), 300, 8, 1200),
        ((12, 16), 30, 8, 500),
        ((34, 72), 20, 1, 500),
    ):
        n = incidents = flagged = 0
        for element in range(n_elements):
            training = maps(shape, entries, range(1, 11), 150, seed=element, element=element)
            later = maps(
                shape, entries, range(11, 15), n_ls, drift=0.04, seed=50 + element, element=element
            )
            fitted = detect.default().fit(training)
            for stack in later:
                scores = fitted.score_samples(stack)
                n += len(stack)
                flagged += int((scores > -np.log10(alpha())).sum())
                incidents += len(
                    of_element(stack.me, stack.run_number, stack.ls_numbers, -scores, alpha())
                )
        rows[" x ".join(map(str, shape))] = {
            "elements": n_elements,
            "lumisections": n,
            "nominal": n / LS_PER_SHIFT,
            "lumisections flagged": flagged,
            "incidents": incidents,
        }
    found = pd.DataFrame.from_dict(rows, orient="index")
    print("\nFalse alarms, one per shift and element wanted; thresholds from ten earlier runs")
    print(found.round(1).to_string())
    ratio = float(found["incidents"].sum() / found["nominal"].sum())
    goal("false alarms realised / nominal, later era", "0.5 to 2", ratio, 0.5 <= ratio <= 2)


def contamination(n_trials: int) -> None:
    """The same faults found after 5 % of the training was bad."""
    shares = {
        f"{share:.0%} bad": tried(share, n_trials).table.droplevel(0)["found_in_6"]
        for share in (0.0, 0.05)
    }
    found = 100 * pd.DataFrame(shares)
    print("\nFound within 6 LS, %, by the share of bad lumisections in training")
    print(found.round(1).to_string())
    lost = (found["0% bad"] - found["5% bad"]).max()
    goal("5 % bad in training costs, worst fault", "<= 2 points", lost, lost <= 2, " points")


# -- speed -----------------------------------------------------------------------------------------


def best(call: Callable[[], object], times: int = 3) -> float:
    """Seconds of CPU, of all threads, of the cheapest of several calls."""
    taken = []
    for _ in range(times):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return min(taken)


def sklearn_pca(training: list[HistogramStack], test: HistogramStack) -> Callable[[], object]:
    """What reconstructs the test's normalised histograms by a PCA and takes its error."""

    def shapes(stack: HistogramStack) -> np.ndarray:
        flat = stack.values().reshape(len(stack), -1).astype(np.float64)
        return flat / flat.sum(axis=1, keepdims=True)

    fitted = PCA(4, random_state=0).fit(np.concatenate([shapes(s) for s in training]))

    def errors() -> np.ndarray:
        x = shapes(test)
        return ((x - fitted.inverse_transform(fitted.transform(x))) ** 2).mean(axis=1)

    return errors


@threadpool_limits.wrap(limits=1)
def speed() -> None:
    """Milliseconds of CPU per lumisection, and against scikit-learn's PCA on the same data.

    Linear algebra has one thread, as in a worker: others would wait for each other, which is CPU.
    """
    rows = {}
    wanted = {(100,): 0.1, (34, 72): 5.0, (300, 200): 30.0}
    for shape, entries, n_ls in (((100,), 300, 1000), ((34, 72), 20, 200), ((300, 200), 20, 60)):
        training = maps(shape, entries, range(1, 5), min(n_ls, 200), seed=1)
        test = maps(shape, entries, range(9, 10), n_ls, seed=2)[0]
        ours = detect.default().fit(training)
        pca_error = sklearn_pca(training, test)
        seconds = best(lambda: ours.score_samples(test))  # noqa: B023
        reference = best(pca_error)
        name, cost = " x ".join(map(str, shape)), 1e3 * seconds / n_ls
        rows[name] = {
            "default, ms per LS": cost,
            "PCA(4) of scikit-learn, ms per LS": 1e3 * reference / n_ls,
            "ratio": seconds / reference,
        }
        most = wanted[shape]
        goal(f"CPU per LS, {name} bins", f"<= {most:g} ms", cost, cost <= most, " ms")
    print("\nSpeed, in CPU time")
    print(pd.DataFrame.from_dict(rows, orient="index").round(3).to_string())
    small = detect.default().fit(maps((100,), 300, range(1, 5), 60, seed=1))
    large = detect.default().fit(maps((34, 72), 20, range(1, 5), 60, seed=1))
    one = maps((100,), 300, range(9, 10), 1, seed=2)[0]
    one_map = maps((34, 72), 20, range(9, 10), 1, seed=2)[0]

    def all_elements() -> None:
        for i in range(500):
            (large if i % 5 == 0 else small).score_samples(one_map if i % 5 == 0 else one)

    cost = best(all_elements)
    print(
        f"500 elements of one lumisection, 400 of 100 bins and 100 of 34 x 72: {cost:.2f} s of CPU"
    )
    goal("500 mixed elements of a lumisection, CPU", "< 10 s", cost, cost < 10, " s")


if __name__ == "__main__":
    warnings.simplefilter("error")
    tries = next((int(a) for a in sys.argv[1:] if a.isdigit()), 60)
    parts: dict[str, Callable[[], None]] = {
        f.__name__: f for f in (real, variations, alarms, speed)
    }
    parts |= {"faults": lambda: faults(tries), "contamination": lambda: contamination(tries)}
    more = {"endings": endings, "references": references}
    for chosen in [a for a in sys.argv[1:] if not a.isdigit()] or [*parts, "endings"]:
        (parts | more)[chosen]()
    goals = pd.DataFrame(GOALS, columns=["figure", "wanted", "measured", "reached"])
    print("\n" + goals.to_string(index=False))
