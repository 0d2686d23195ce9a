"""The simulated pixel detector beside the real one: a table of numbers and a picture.

    python benchmarks/simulate_against_real.py [FOLDER [PICTURE.png]]

FOLDER holds ``cms2023/*.parquet`` and ``zerobias2017/train.csv.gz``; by default ``shared/data``
beside the project. Without it nothing is compared.
"""

import itertools
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from ml4ad import simulate

ZPHI, DISK = "clusterposition_zphi_ontrack_PXLayer_1", "clusterposition_xy_ontrack_PXDisk_+1"
CHARGE = "charge_PXLayer_1"
GOOD_RUN = 297050


def real_maps(folder, name):
    """Three lumisections of a real map, ``(3, nx, ny)``."""
    frame = pd.read_parquet(next((folder / "cms2023").glob(f"*{name}.parquet")))
    shape = (frame["Xbins"][0], frame["Ybins"][0])
    return np.stack([np.asarray(h, dtype=float).reshape(shape) for h in frame["histo"]])[:3]


def real_charge(folder):
    """Pixel charge of each real run of 2017 ``{run: (100,)}``, and which are good for pixels."""
    frame = pd.read_csv(folder / "zerobias2017" / "train.csv.gz")
    bins = [f"bin_{i}" for i in range(1, 101)]
    runs = frame.groupby("run")
    return {run: group[bins].sum().to_numpy(float) for run, group in runs}, runs["good_pixel"].min()


def dispersion(maps, size):
    """Mean chi2 of neighbouring lumisections against each other in blocks of ``size`` bins."""
    nx, ny = (n // size * size for n in maps.shape[1:])
    blocks = maps[:, :nx, :ny].reshape(len(maps), nx // size, size, ny // size, size).sum((2, 4))
    found = []
    for one, two in itertools.pairwise(blocks):
        total, part = one + two, two.sum() / (one + two).sum()
        filled = total > 20
        chi2 = (two - part * total)[filled] ** 2 / (total[filled] * part * (1 - part))
        found.append(chi2.mean())
    return np.mean(found)


def numbers_of_map(maps):
    """Figures of a map that should agree."""
    total = maps.sum(0)
    filled = total[total > 0]
    quantiles = np.quantile(filled / filled.mean(), [0.25, 0.5, 0.75, 0.95])
    return {
        "entries per lumisection": f"{maps.sum() / len(maps):,.0f}",
        "share of filled bins": f"{(total > 0).mean():.2f}",
        "25, 50, 75, 95 % of filled bins, by their mean": " ".join(f"{q:.2f}" for q in quantiles),
        "chi2 per bin": f"{dispersion(maps, 1):.2f}",
        "chi2 of 5 x 5 blocks": f"{dispersion(maps, 5):.1f}",
        "chi2 of 10 x 10 blocks": f"{dispersion(maps, 10):.1f}",
        "chi2 of 20 x 20 blocks": f"{dispersion(maps, 20):.1f}",
    }


def numbers_of_charge(counts):
    """Figures of a charge spectrum that should agree."""
    x = np.arange(100) * 0.8 + 0.4
    p = counts / counts.sum()
    mean = p @ x
    cumulated = np.cumsum(p)
    at = [x[np.searchsorted(cumulated, q)] for q in (0.05, 0.25, 0.5, 0.75, 0.95)]
    return {
        "peak [1000 e]": f"{x[p.argmax()]:.1f}",
        "mean [1000 e]": f"{mean:.1f}",
        "RMS [1000 e]": f"{np.sqrt(p @ (x - mean) ** 2):.1f}",
        "5, 25, 50, 75, 95 % [1000 e]": " ".join(f"{value:.1f}" for value in at),
    }


def distance(one, two):
    """Half the sum of the differences of two normalised histograms."""
    return np.abs(one / one.sum() - two / two.sum()).sum() / 2


def picture(path, real, made, charges, good, charge):
    """Real maps above, simulated below, spectra of charge beside."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    spans = {ZPHI: (-60, 60, -3.2, 3.2), DISK: (-20, 20, -20, 20)}
    for row, (told, maps) in enumerate((("real, run 367129", real), ("simulated", made))):
        for column, (name, span) in enumerate(spans.items()):
            total = maps[name].sum(0)
            axes[row, column].imshow(
                total.T,
                origin="lower",
                aspect="auto",
                extent=span,
                vmax=np.quantile(total, 0.997),
                cmap="viridis",
            )
            axes[row, column].set_title(f"{name.split('_', 1)[1]}\n{told}", fontsize=8)
    x = np.arange(100) * 0.8 + 0.4
    for run, counts in charges.items():
        colour = "#3f90da" if good[run] else "#bd1f01"
        axes[0, 2].plot(x, counts / counts.sum(), color=colour, lw=1)
    axes[0, 2].plot(x, charge / charge.sum(), "k--", lw=1.5)
    axes[0, 2].set_title(
        "charge_PXLayer_1: real runs of 2017, good (blue)\nand bad (red); simulated (dashed)",
        fontsize=8,
    )
    axes[0, 2].set_xlabel("charge [1000 e]", fontsize=8)
    for maps, style in ((real, "#3f90da"), (made, "k")):
        total = maps[ZPHI].sum((0, 2))
        axes[1, 2].plot(np.linspace(-59.8, 59.8, 300), total / total.sum(), color=style, lw=1)
    axes[1, 2].set_title("PXLayer_1 along z: real (blue), simulated (black)", fontsize=8)
    axes[1, 2].set_xlabel("z [cm]", fontsize=8)
    for panel in axes.ravel():
        panel.tick_params(labelsize=7)
    figure.savefig(path, dpi=64)


def main():
    """Print the table, and draw the picture if a name for it is given."""
    default = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    if not (folder / "cms2023").is_dir():
        print(f"{folder}: no real histograms, nothing to compare with")
        return
    made = simulate.campaign(
        1,
        eras=["Run2023C"],
        runs=2,
        lumisections=32,
        elements=[f"*{name}" for name in (ZPHI, DISK, CHARGE)],
    )
    run_number = made.runs[1].run_number
    stacks = {n: made.stack(run_number, f"*{n}").values().astype(float) for n in (ZPHI, DISK)}
    simulated = {name: values[10:13] for name, values in stacks.items()}
    real = {name: real_maps(folder, name) for name in (ZPHI, DISK)}
    charge = made.stack(run_number, f"*{CHARGE}").values().astype(float).sum(0)
    charges, good = real_charge(folder)
    for name in (ZPHI, DISK):
        table(name, numbers_of_map(real[name]), numbers_of_map(simulated[name]))
        for axis, letter in ((2, "x"), (1, "y")):
            away = distance(real[name].sum((0, axis)), simulated[name].sum((0, axis)))
            print(f"| distance of the projections on {letter} | {away:.3f} |  |")
    table(CHARGE, numbers_of_charge(charges[GOOD_RUN]), numbers_of_charge(charge))
    for run, counts in charges.items():
        told = "good" if good[run] else "bad"
        print(f"| distance from real run {run} ({told}) | {distance(counts, charge):.3f} |  |")
    if len(sys.argv) > 2:
        picture(sys.argv[2], real, simulated, charges, good, charge)


def table(name, real, made):
    """Print two columns of figures."""
    print(f"\n| {name} | real | simulated |\n|---|---|---|")
    for what, value in real.items():
        print(f"| {what} | {value} | {made[what]} |")


if __name__ == "__main__":
    main()
