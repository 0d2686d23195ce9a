"""The simulated detector: what it yields, and that it looks like the real one."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml4ad import simulate
from ml4ad.simulate import sample
from ml4ad.simulate.lhc import LS_SECONDS, conditions, plan_runs
from ml4ad.stack import Axis, concatenate, statistics_names

SHARED = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="module")
def small():
    return simulate.preset_campaign("small", seed=3, lumisections=40)


def test_the_same_seed_gives_the_same_histograms(small):
    again = simulate.preset_campaign("small", seed=3, lumisections=40)
    other = simulate.preset_campaign("small", seed=4, lumisections=40)
    for one, two in zip(
        small.stacks(small.runs[0].run_number), again.stacks(again.runs[0].run_number), strict=True
    ):
        assert one.me == two.me
        assert np.array_equal(one.contents, two.contents)
        assert np.array_equal(one.statistics, two.statistics)
    mine = small.stack(small.runs[0].run_number, "*charge_PXLayer_1")
    others = other.stack(other.runs[0].run_number, "*charge_PXLayer_1")
    assert not np.array_equal(mine.contents[-5:], others.contents[-5:])


def test_blocks_and_whole_runs_hold_the_same(small):
    run, dataset = small.deliveries()[0]
    me = "EcalBarrel/EBOccupancyTask/EBOT digi occupancy"
    # Asked for in another order, and alone.
    blocks = [next(small.block(run, dataset, number, me=me)) for number in (2, 0, 1)]
    whole = small.stack(run.run_number, me)
    assert np.array_equal(concatenate(blocks).contents, whole.contents)
    alone = dataclasses.replace(small, elements=simulate.elements([me]))
    assert np.array_equal(alone.stack(run.run_number, me).contents, whole.contents)


def test_a_longer_run_begins_like_a_shorter_one_in_another_order_of_elements(small):
    turned = dataclasses.replace(small, elements=small.elements[::-1])
    run_number = small.runs[1].run_number
    for stack in small.stacks(run_number):
        assert np.array_equal(turned.stack(run_number, stack.me).contents, stack.contents)


@pytest.mark.parametrize("me", sorted(simulate.catalogue()))
def test_every_element_fills_and_is_what_it_says(me):
    element = simulate.catalogue()[me]
    made = simulate.campaign(5, eras=["Run2023D"], runs=2, lumisections=16, elements=[element])
    stack = made.stack(made.runs[1].run_number, me)
    assert (stack.kind, stack.axes, stack.me) == (element.kind, element.axes, me)
    assert stack.entries.max() > 0
    counts = stack.contents if stack.sum_of_weights is None else stack.sum_of_weights
    assert (counts >= 0).all()
    assert np.array_equal(counts, np.rint(counts))
    total = counts.sum(axis=tuple(range(1, counts.ndim)), dtype=np.float64)
    assert np.array_equal(total, stack.entries)
    inside = counts[(slice(None), *[slice(1, -1)] * len(stack.axes))].astype(np.float64)
    sums = dict(zip(statistics_names(stack.kind), stack.statistics.T, strict=True))
    flat = inside.reshape(len(stack), -1).sum(axis=1)
    assert np.allclose(sums["sumw"], flat)
    others = tuple(range(2, inside.ndim))
    assert np.allclose(sums["sumwx"], inside.sum(axis=others) @ stack.axes[0].centers)


def test_every_kind_of_histogram_but_two_occurs():
    kinds = {element.kind for element in simulate.catalogue().values()}
    assert kinds == {
        *("TH1F", "TH1S", "TH1D", "TH1I", "TH2F", "TH2I", "TH3F", "TProfile", "TProfile2D")
    }


def test_names_are_unique_and_short_enough():
    every = simulate.catalogue()
    assert all(len(me) <= 255 and "/" in me for me in every)
    assert len(every) >= 300
    assert set(simulate.elements("small")) <= set(every.values())
    assert 40 <= len(simulate.elements("demo")) <= 60


def test_conditions_tell_a_fill():
    (run,) = plan_runs(2, ["Run2024F"], 1, 1500)
    state = conditions(2, run).droplevel("run_number")
    before, after = state[~state["beams_stable"]], state[state["beams_stable"]]
    assert 2 <= len(before) < 200
    assert (before["recorded_lumi"].iloc[: len(before) - 4] == 0).all()
    assert 50 < after["true_pileup"].iloc[20:60].mean() < 70
    assert after["true_pileup"].iloc[-1] < 0.8 * after["true_pileup"].iloc[30]
    assert (np.diff(after["prescale_index"]) >= 0).all()
    assert after["prescale_index"].nunique() >= 2
    assert (state["recorded_lumi"] <= state["delivered_lumi"].clip(lower=0)).all()
    assert not state.loc[1:5, "bpix_ready"].any()
    assert state["bpix_ready"].iloc[-1]
    assert np.allclose(state["end_time"] - state["start_time"], LS_SECONDS)


def test_nothing_is_filled_before_collisions_nor_by_a_detector_that_is_off(small):
    run = small.runs[0]
    state = small.conditions(run.run_number).droplevel("run_number")
    stack = small.stack(run.run_number, "*charge_PXLayer_1")
    ready = state["bpix_ready"].to_numpy()[stack.ls_numbers - 1]
    assert (stack.entries[~ready] == 0).all()
    assert (~ready).any()
    assert (stack.entries[ready & (stack.ls_numbers > 12)] > 0).all()


def test_occupancy_follows_pileup_and_triggers():
    made = simulate.campaign(
        8, eras=["Run2024F"], runs=2, lumisections=1200, elements=["*EBOT digi occupancy"]
    )
    run = made.runs[0]
    stack = made.stack(run.run_number, "*")
    dataset = made.deliveries()[0][1]
    fired = made.triggers(run, dataset)[stack.ls_numbers - 1]
    pileup = made.conditions(run.run_number)["true_pileup"].to_numpy()[stack.ls_numbers - 1]
    busy = fired > 100
    per_trigger = stack.entries[busy] / fired[busy]
    slope, start = np.polyfit(pileup[busy], per_trigger, 1)
    element = made.elements[0]
    # Dead towers take a few percent.
    assert 0.9 < slope / element.per_collision < 1.1
    assert abs(start - element.per_trigger) < 0.2 * element.per_trigger


def test_counts_are_over_dispersed_as_asked_for():
    rng = np.random.default_rng(1)
    for mean in (0.02, 0.5, 3.0, 20.0, 23.9, 40.0, 500.0):
        for dispersion in (1.0, 1.2):
            means = np.full((40, 5000), mean, dtype=np.float32)
            drawn = sample.draw(rng, means, dispersion)
            error = np.sqrt(dispersion * mean / drawn.size)
            assert abs(drawn.mean() - mean) < 5 * error + 2e-4
            assert drawn.var() / mean == pytest.approx(dispersion, rel=0.06)


def test_draws_keep_their_means_where_lumisections_differ():
    rng = np.random.default_rng(2)
    shape = np.sort(rng.exponential(5, 3000))[::-1]
    means = (np.array([0, 0.01, 0.3, 1, 1, 9])[:, None] * shape).astype(np.float32)
    total = sum(sample.draw(rng, means, 1.1) for _ in range(30)) / 30
    assert (total[0] == 0).all()
    wanted = means[1:].sum(axis=1)
    assert (np.abs(total[1:].sum(axis=1) - wanted) < 5 * np.sqrt(1.1 * wanted / 30)).all()
    assert abs(total[5] - means[5]).max() < 6 * np.sqrt(1.1 * means[5].max() / 30)


def test_runs_drift_from_each_other():
    made = simulate.campaign(
        3, eras=["Run2024F"], runs=6, lumisections=20, elements=["*charge_PXLayer_1"]
    )
    means = []
    for run in made.runs[1::2]:  # these begin in stable beams
        stack = made.stack(run.run_number, "*")
        total = stack.values().sum(axis=0, dtype=np.float64)
        means.append(float(total @ stack.axes[0].centers / total.sum()))
    assert min(means) > 20_000
    assert max(means) / min(means) > 1.005
    assert max(means) / min(means) < 1.4


def test_golden_and_dcs_leave_out_what_they_should():
    fault = simulate.Fault("empty", "*charge_PXLayer_1", first_ls=20, n_ls=12)
    short = simulate.Fault("empty", "*charge_PXLayer_1", first_ls=15, n_ls=2)
    made = simulate.preset_campaign("small", 3, lumisections=40, faults=[fault, short])
    for run in made.runs:
        dcs, golden = (
            {ls for first, last in ranges[str(run.run_number)] for ls in range(first, last + 1)}
            for ranges in (made.dcs(), made.golden())
        )
        assert dcs - golden == set(range(20, 32)) & dcs
        assert {15, 16} <= golden
        assert np.flatnonzero(made.faulty(run)).tolist() == [14, 15, *range(19, 31)]


def test_stacks_and_conditions_come_without_files():
    stacks, state = simulate.run_stacks("small", seed=2, lumisections=20, runs=2)
    assert len({stack.run_number for stack in stacks}) == 2
    assert state.index.names == ["run_number", "ls_number"]
    assert {"pileup", "delivered_lumi", "recorded_lumi", "prescale_index", "beams_stable"} <= set(
        state.columns
    )
    assert len(state) == 40


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eras": ["Run2031A"]}, "era 'Run2031A', want one of Run2022A"),
        ({"runs": 0}, "0 runs in Run2024F, want 1 to"),
        ({"lumisections": 0}, "0 lumisections per run, want 1 to 10000"),
        ({"elements": ["*nothing*"]}, "no element matches"),
        ({"datasets": ["ZeroBias"]}, "dataset 'ZeroBias', want such as"),
        ({"seed": -1}, "seed -1, want 0 to"),
    ],
)
def test_an_impossible_campaign_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        simulate.campaign(**{"elements": "small", **changes})


def test_an_impossible_element_is_refused():
    axis = Axis.regular(3, 0, 1)
    with pytest.raises(ValueError, match=r"name of 256 characters .* want 1 to 255"):
        simulate.Element("a" * 256, "TH1F", (axis,), "eta")
    with pytest.raises(ValueError, match=r"does not rise"):
        Axis(np.array([0.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match=r"dispersion 0\.5, want at least 1"):
        simulate.Element("A/b", "TH1F", (axis,), "eta", dispersion=0.5)


def test_a_run_that_is_not_there_is_named(small):
    with pytest.raises(KeyError, match="run 1, want one of"):
        next(small.stacks(1))
    with pytest.raises(KeyError, match="want one of /ZeroBias"):
        next(small.stacks(small.runs[0].run_number, dataset="/A/B/C"))


# -- against the real detector ------------------------------------------------------------------


def real_maps(name):
    found = sorted((SHARED / "cms2023").glob(f"*{name}.parquet"))
    if not found:
        pytest.skip(f"no real histograms of {name} beside the project")
    frame = pd.read_parquet(found[0])
    shape = (frame["Xbins"][0], frame["Ybins"][0])
    return np.stack([np.asarray(h, dtype=np.float64).reshape(shape) for h in frame["histo"]])[:3]


def simulated_maps(me):
    made = simulate.campaign(1, eras=["Run2023C"], runs=2, lumisections=32, elements=[me])
    stack = made.stack(made.runs[1].run_number, "*")
    return stack.axes, stack.values()[10:13].astype(np.float64)


def dispersion(maps, size):
    """Mean chi2 of two lumisections against each other, in blocks of ``size`` bins."""
    nx, ny = (n // size * size for n in maps.shape[1:])
    blocks = maps[:, :nx, :ny].reshape(len(maps), nx // size, size, ny // size, size).sum((2, 4))
    one, two = blocks[0], blocks[1]
    total = one + two
    part = two.sum() / total.sum()
    filled = total > 20
    chi2 = (two - part * total)[filled] ** 2 / (total[filled] * part * (1 - part))
    return float(chi2.mean())


@pytest.mark.parametrize(
    "name", ["clusterposition_zphi_ontrack_PXLayer_1", "clusterposition_xy_ontrack_PXDisk_+1"]
)
def test_pixel_maps_look_like_real_ones(name):
    real = real_maps(name)
    axes, made = simulated_maps(f"*{name}")
    assert made.shape == real.shape
    assert 0.6 < made.sum() / real.sum() < 1.6
    assert (made.sum(0) > 0).mean() == pytest.approx((real.sum(0) > 0).mean(), abs=0.05)
    for axis in (1, 2):
        one, two = (m.sum((0, axis)) / m.sum() for m in (real, made))
        assert np.abs(one - two).sum() / 2 < 0.10
    quantiles = [0.25, 0.5, 0.75, 0.95]
    ratio = [
        np.quantile(total[total > 0], quantiles) / total[total > 0].mean()
        for total in (real.sum(0), made.sum(0))
    ]
    assert np.allclose(ratio[0], ratio[1], rtol=0.15)
    assert 1.05 < dispersion(made, 1) < 1.4
    assert 1.2 < dispersion(made, 10) < 2 * dispersion(real, 10)
    assert [axis.title for axis in axes] in (["Global Z", "Global phi"], ["Global X", "Global Y"])


def test_pixel_charge_looks_like_that_of_a_real_good_run():
    path = SHARED / "zerobias2017" / "train.csv.gz"
    if not path.exists():
        pytest.skip("no real pixel charge beside the project")
    frame = pd.read_csv(path)
    bins = [f"bin_{i}" for i in range(102)]
    _, made = simulated_maps("*charge_PXLayer_1")
    mine = made.sum(0) / made.sum()
    distances = {}
    for run_number, group in frame.groupby("run"):
        real = group[bins].to_numpy(dtype=np.float64)[:, 1:-1].sum(0)
        distances[run_number] = float(np.abs(real / real.sum() - mine).sum() / 2)
    # As near to a good run as good runs are to each other; the bad ones are far.
    assert min(distances.values()) < 0.06
    assert min(distances, key=distances.__getitem__) in (297050, 297056)
    assert min(distances[bad] for bad in (297047, 297170, 297281, 297664, 297672)) > 0.2
