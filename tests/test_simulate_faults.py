"""Faults: each does what it says, where and when it says, and nothing else."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml4ad import simulate
from ml4ad.simulate import FAULTS, Fault, boxes, inject, place
from ml4ad.stack import Axis, HistogramStack

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
N_LS = 12


def line(mean=400.0, n_bins=50, seed=1):
    rng = np.random.default_rng(seed)
    x = Axis.regular(n_bins, 0, 10, title="x")
    shape = np.exp(-0.5 * ((x.centers - 5) / 1.2) ** 2)
    counts = rng.poisson(mean * shape, (N_LS, n_bins))
    return HistogramStack.from_arrays(
        counts.astype(np.float32), [x], ls_numbers=np.arange(1, N_LS + 1), run_number=1, me="A/line"
    )


def plane(mean=30.0, seed=1):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(mean, (N_LS, 20, 16))
    axes = [Axis.regular(20, -10, 10, title="ieta"), Axis.regular(16, 0, 16, title="iphi")]
    numbers = np.arange(1, N_LS + 1)
    return HistogramStack.from_arrays(
        counts.astype(np.float32), axes, ls_numbers=numbers, run_number=1, me="A/plane"
    )


def profile(seed=1):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(200, (N_LS, 20)).astype(np.float64)
    sums = counts * 3 + rng.normal(0, np.sqrt(counts))
    return HistogramStack.from_arrays(
        sums,
        [Axis.regular(20, 0, 20, title="x")],
        ls_numbers=np.arange(1, N_LS + 1),
        run_number=1,
        me="A/profile",
        kind="TProfile",
        sum_of_weights=counts,
        sumw2=counts * 10,
    )


def rng():
    return np.random.default_rng(7)


def a_fault(kind, stack, **changes):
    """A fault of that kind in the fifth to the eighth lumisection."""
    two = len(stack.axes) > 1
    chosen = {
        "x": (2.0, 4.0) if not two else (-4.0, 0.0),
        "y": (3.0, 6.0) if two else None,
        "first_ls": 5,
        "n_ls": 1 if kind == "glitch" else 4,
    }
    if kind in ("dead_cell", "hot_cell"):
        chosen |= {"x": (4.5, 4.5), "y": (5.5, 5.5) if two else None}
    if kind == "swap":
        chosen |= {"x_to": 6.0 if not two else 4.0}
    if kind in ("smear", "beamspot_jump"):
        chosen |= {"strength": 1.5}
    return Fault(kind, stack.me, **{**chosen, **changes})


def applies(kind, stack):
    return len(stack.axes) in FAULTS[kind].axes and (FAULTS[kind].profiles or not stack.is_profile)


CASES = [
    pytest.param(kind, make, id=f"{kind}-{make.__name__}")
    for kind in FAULTS
    for make in (line, plane, profile)
    if applies(kind, make())
]


@pytest.mark.parametrize(("kind", "make"), CASES)
def test_a_fault_touches_its_lumisections_only(kind, make):
    stack = make()
    bad = inject(stack, a_fault(kind, stack), rng())
    last = 5 if kind == "glitch" else 8
    good = [ls for ls in stack.ls_numbers if not 5 <= ls <= last]
    assert np.array_equal(bad.select(good).contents, stack.select(good).contents)
    assert np.array_equal(bad.select(good).statistics, stack.select(good).statistics)
    if kind == "missing_element":
        assert bad.ls_numbers.tolist() == good
    else:
        assert not np.array_equal(bad.contents, stack.contents)


@pytest.mark.parametrize(("kind", "make"), CASES)
def test_entries_and_sums_stay_true(kind, make):
    stack = make()
    # Known sums: entries at the middle of their bins.
    whole = inject(stack, a_fault("partial_livetime", stack, strength=1e-9), rng())
    bad = inject(whole, a_fault(kind, stack), rng())
    counts = bad.contents if bad.sum_of_weights is None else bad.sum_of_weights
    assert np.array_equal(bad.entries, counts.sum(axis=tuple(range(1, counts.ndim))))
    assert (counts >= 0).all()
    assert np.array_equal(counts, np.rint(counts))


@pytest.mark.parametrize(("kind", "make"), CASES)
def test_a_fault_has_one_outcome_for_one_seed(kind, make):
    stack = make()
    fault = a_fault(kind, stack)
    one, two = (inject(stack, fault, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one.contents, two.contents)


@settings(max_examples=40)
@given(st.floats(0.05, 1.0), st.integers(0, 2**31))
def test_a_loss_has_the_strength_asked_for(strength, seed):
    stack = plane(200)
    fault = a_fault("dead_region", stack, strength=strength)
    bad = inject(stack, fault, np.random.default_rng(seed))
    where = place(fault, stack.axes)
    before = stack.select([[5, 8]]).values()[:, where].sum(dtype=np.float64)
    after = bad.select([[5, 8]]).values()[:, where].sum(dtype=np.float64)
    sigma = np.sqrt(before * strength * (1 - strength)) + 1e-9
    assert abs(after - before * (1 - strength)) < 6 * sigma + 1e-6
    assert np.array_equal(bad.values()[:, ~where], stack.values()[:, ~where])


def test_an_excess_is_in_units_of_the_mean_bin():
    stack = plane(30)
    fault = a_fault("noisy_region", stack, strength=2.0)
    added = inject(stack, fault, rng()).values() - stack.values()
    where = place(fault, stack.axes)
    assert added[4:8][:, where].mean() == pytest.approx(60, rel=0.05)
    assert (added[:, ~where] == 0).all()


def test_a_swap_exchanges_two_ranges_and_no_entry_is_lost():
    stack = plane()
    bad = inject(stack, a_fault("swap", stack), rng())
    assert np.array_equal(bad.values()[4:8, 6:10, 3:6], stack.values()[4:8, 14:18, 3:6])
    assert np.array_equal(bad.values()[4:8, 14:18, 3:6], stack.values()[4:8, 6:10, 3:6])
    assert np.array_equal(bad.entries, stack.entries)


def mean_of(stack, ls):
    values = stack.select(ls).values().sum(axis=0, dtype=np.float64)
    x = stack.axes[0].centers
    mean = values @ x / values.sum()
    return mean, np.sqrt(values @ (x - mean) ** 2 / values.sum())


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_gain_changes_the_scale(sign):
    stack = line(4000)
    bad = inject(stack, a_fault("gain_shift", stack, strength=0.1, sign=sign), rng())
    before, after = mean_of(stack, [[5, 8]]), mean_of(bad, [[5, 8]])
    assert after[0] == pytest.approx(before[0] * (1 + 0.1 * sign), rel=0.005)
    assert after[1] == pytest.approx(before[1] * (1 + 0.1 * sign), rel=0.02)


def test_a_smear_widens_and_a_jump_moves():
    stack = line(4000)
    before = mean_of(stack, [[5, 8]])
    smeared = mean_of(inject(stack, a_fault("smear", stack, strength=0.9), rng()), [[5, 8]])
    assert smeared[0] == pytest.approx(before[0], abs=0.02)
    assert smeared[1] == pytest.approx(np.hypot(before[1], 0.9), rel=0.03)
    jump = a_fault("beamspot_jump", stack, strength=0.5, sign=1)
    moved = mean_of(inject(stack, jump, rng()), [[5, 8]])
    assert moved[0] == pytest.approx(before[0] + 0.5, abs=0.02)


def test_a_jump_of_whole_bins_moves_bins():
    stack = line()
    jump = a_fault("beamspot_jump", stack, strength=0.4, sign=1)
    bad = inject(stack, jump, rng())
    assert np.allclose(bad.values()[4:8, 2:], stack.values()[4:8, :-2])
    assert np.allclose(bad.contents[4:8, -1], stack.contents[4:8, -3:].sum(axis=1))


def test_the_mean_of_a_profile_shifts_and_survives_losses():
    stack = profile()
    shift = Fault("timing_shift", stack.me, first_ls=5, n_ls=4, x=(2, 5), strength=0.7, sign=1)
    bad = inject(stack, shift, rng())
    assert np.allclose(bad.values()[4:8, 2:5], stack.values()[4:8, 2:5] + 0.7)
    assert np.array_equal(bad.values()[:, 5:], stack.values()[:, 5:])
    assert np.allclose(bad.variances()[4:8, 2:5], stack.variances()[4:8, 2:5])
    lost = inject(stack, a_fault("partial_livetime", stack, strength=0.5), rng())
    assert np.allclose(lost.values(), stack.values())
    assert (lost.variances()[4:8] > stack.variances()[4:8]).all()
    assert lost.entries[4:8].sum() == pytest.approx(stack.entries[4:8].sum() / 2, rel=0.05)


def test_a_degradation_grows():
    stack = plane(400)
    bad = inject(stack, Fault("degradation", stack.me, strength=0.6), rng())
    kept = bad.entries / stack.entries
    assert np.allclose(kept, 1 - 0.6 * np.arange(1, N_LS + 1) / N_LS, atol=0.01)


def test_sumw2_and_unknown_sums_follow():
    stack = dataclasses.replace(plane(), sumw2=plane().contents.astype(np.float64))
    bad = inject(stack, a_fault("module_off", stack), rng())
    assert np.array_equal(bad.sumw2, bad.contents)
    assert not bad.statistics.any()


def test_integer_contents_stay_in_their_range():
    stack = HistogramStack.from_arrays(
        np.full((1, 4), 32_000, dtype=np.int16),
        [Axis.regular(4, 0, 4)],
        ls_numbers=[1],
        run_number=1,
        me="A/b",
    )
    bad = inject(stack, Fault("hot_cell", "A/b", x=(1.5, 1.5), strength=3.0), rng())
    assert bad.contents.dtype == np.int16
    assert bad.contents.tolist() == [[0, 32_000, 32_767, 32_000, 32_000, 0]]
    assert bad.entries.tolist() == [128_767]


@settings(max_examples=40)
@given(st.integers(1, 2**30))
def test_boxes_cover_the_cells_once(number):
    mask = np.array([bool(number >> bit & 1) for bit in range(30)]).reshape(5, 6)
    covered = np.zeros(mask.shape, dtype=int)
    for (x0, x1), (y0, y1) in boxes(mask):
        covered[x0 - 1 : x1, y0 - 1 : y1] += 1
    assert np.array_equal(covered, mask)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind=rust,me=A", "fault 'rust', want one of dead_cell"),
        ("kind=dead_region,me=A,x=1:2,strength=-0.5", "strength -0.5, want 0 to 1"),
        ("kind=dead_region,me=A,x=1:2,strength=1.5", "strength 1.5, want 0 to 1"),
        ("kind=dead_region,me=A,x=1:2,strength=nan", "strength nan, want 0 to 1"),
        ("kind=dead_region,me=A,x=1:2,strength=0", "strength 0, want more"),
        ("kind=dead_region,me=A", "without a place, want x, y or module"),
        ("kind=dead_region,me=A,x=3:1", "x from 3 to 1, want rising"),
        ("kind=empty,me=A,ls=0-5", "6 lumisections from 0, want 1 or more from 1"),
        ("kind=empty,me=A,ls=9-5", "-3 lumisections from 9"),
        ("kind=glitch,me=A,ls=3-5", "glitch of 3 lumisections, want 1"),
        ("kind=swap,me=A,x=1:2", "swap without a partner"),
        ("kind=empty,me=A,colour=red", "'colour' in a fault, want dataset"),
        ("kind=empty", "fault without me"),
        ("empty", "'empty' in a fault, want key=value"),
        ("kind=dead_region,me=A,x=1:2:3", "range '1:2:3', want low:high"),
        ("kind=empty,me=A,sign=0", "sign 0, want 1 or -1"),
    ],
)
def test_an_impossible_fault_is_refused(text, words):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 (the words are looked at)
        Fault.parse(text)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("dead_region", "*", x=(5, 11)), "x: 5 to 11, want within 0 to 10"),
        (Fault("dead_region", "*", x=(5, 6), y=(1, 2)), "y of an element with one axis"),
        (Fault("dead_cell", "*", x=(1, 2)), "dead_cell of 5 bins, want one"),
        (Fault("swap", "*", x=(1, 4), x_to=2), "overlap, want them apart"),
        (Fault("swap", "*", x=(1, 4), x_to=9), "want them to end by 10"),
    ],
)
def test_a_fault_off_the_axes_is_refused(fault, words):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 (the words are looked at)
        inject(line(), fault, rng())
    assert words in str(refused.value)


def test_a_fault_needs_counts_and_an_element_that_can_have_it():
    stack = dataclasses.replace(line(), contents=line().contents / 3)
    with pytest.raises(ValueError, match="are no counts"):
        inject(stack, a_fault("dead_cell", stack), rng())
    with pytest.raises(ValueError, match="gain_shift cannot happen to a TH2F"):
        inject(plane(), Fault("gain_shift", "*"), rng())


# -- in a campaign -------------------------------------------------------------------------------


def campaign(*faults, elements="small", **changes):
    return simulate.campaign(
        3, **{"runs": 2, "lumisections": 40, "elements": elements, "faults": faults, **changes}
    )


def test_the_campaign_injects_what_the_truth_says():
    fault = Fault.parse("kind=hv_off,me=*EBOT digi*,ls=20-29,module=EB+07,strength=0.5")
    made = campaign(fault)
    run = made.runs[1]
    effect = next(e for e in made.effects if e.run_number == run.run_number)
    told = effect.to_dict()
    assert told["lumisections"] == [[20, 29]]
    assert told["bins"] == [[[25, 28], [18, 34]]]
    good = made.stack(run.run_number, "*EBOT digi*", with_faults=False)
    bad = made.stack(run.run_number, "*EBOT digi*")
    hit = (bad.ls_numbers >= 20) & (bad.ls_numbers <= 29)
    differ = (bad.values() != good.values()).any(axis=0)
    assert np.array_equal(bad.contents[~hit], good.contents[~hit])
    assert not (differ & ~effect.where).any()
    lost = 1 - bad.values()[hit][:, effect.where].sum() / good.values()[hit][:, effect.where].sum()
    assert lost == pytest.approx(0.5, abs=0.05)


def test_a_dead_module_shows_in_all_that_hangs_on_it():
    fault = Fault.parse("kind=module_off,me=*zphi*PXLayer_1,module=ladder3_module4")
    elements = ["*zphi*PXLayer_1", "*PXLayer_1", "*charge_PXLayer_2"]
    made = campaign(fault, elements=elements, runs=1)
    effects = {effect.me: effect for effect in made.effects}
    assert len(effects) == 4
    assert not any("PXLayer_2" in me for me in effects)
    charge = next(e for me, e in effects.items() if "charge" in me)
    assert 0.002 < charge.share < 0.05
    run_number = made.runs[0].run_number
    good, bad = (
        made.stack(run_number, "*charge_PXLayer_1", with_faults=faults).entries.sum()
        for faults in (False, True)
    )
    assert 1 - bad / good == pytest.approx(charge.share, rel=0.05)
    per_run = next(e for me, e in effects.items() if "digi_occupancy" in me)
    before, after = (
        made.stack(run_number, "*digi_occupancy*", with_faults=faults).values()[0][per_run.where]
        for faults in (False, True)
    )
    assert before.sum() > 0
    assert after.sum() == 0


def test_a_swap_in_a_campaign_exchanges_what_the_truth_says():
    made = campaign(Fault.parse("kind=swap,me=*EBOT digi*,ls=20-29,x=1:10,y=0:20,x_to=101"), runs=1)
    (effect,) = made.effects
    assert effect.to_dict()["bins"] == [[[1, 2], [18, 21]], [[21, 22], [18, 21]]]
    good, bad = (
        made.stack(made.runs[0].run_number, "*EBOT digi*", with_faults=faults)
        .select([[20, 29]])
        .values()
        for faults in (False, True)
    )
    assert np.array_equal(bad[:, 0:2, 17:21], good[:, 20:22, 17:21])
    assert np.array_equal(bad[:, 20:22, 17:21], good[:, 0:2, 17:21])
    assert np.array_equal(bad.sum(axis=(1, 2)), good.sum(axis=(1, 2)))


def test_a_missing_element_is_missing():
    made = campaign(Fault("missing_element", "*charge_PXLayer_1", first_ls=10, n_ls=25), runs=1)
    stack = made.stack(made.runs[0].run_number, "*charge_PXLayer_1")
    assert set(range(10, 35)) <= set(stack.missing.tolist())
    assert not set(stack.ls_numbers.tolist()) & set(range(10, 35))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind=empty,me=*nothing*", "no element matches '*nothing*'"),
        ("kind=empty,me=*,run=1", "empty in run 1 of *, want one of"),
        ("kind=empty,me=*,dataset=*Express*", "of *Express*, want one of"),
        ("kind=empty,me=*,ls=30-41", "lumisections 30 to 41 of run"),
        (
            "kind=hv_off,me=*EBOT digi*,module=EB+19",
            "module 'EB+19', want one of 36: EB+01 to EB-18",
        ),
        ("kind=hv_off,me=*charge_PXLayer_1,module=x", "of an element without modules"),
        ("kind=dead_region,me=*EBOT digi*,x=300:400", "iphi: 300 to 400, want within 0.5 to 360.5"),
        ("kind=gain_shift,me=*EBOT digi*", "gain_shift cannot happen to"),
    ],
)
def test_a_campaign_refuses_what_cannot_be(text, words):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 (the words are looked at)
        campaign(Fault.parse(text))
    assert words in str(refused.value)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(4, 60))
def test_faults_drawn_at_random_are_possible(seed, n_ls):
    made = simulate.campaign(
        seed, runs=3, lumisections=n_ls, elements="demo", random_faults=6, good_runs=1
    )
    assert len(made.faults) == 6
    spoilt = {effect.run_number for effect in made.effects}
    assert made.runs[0].run_number not in spoilt
    assert len({fault.kind for fault in made.faults}) == 6
    again = simulate.campaign(
        seed, runs=3, lumisections=n_ls, elements="demo", random_faults=6, good_runs=1
    )
    assert again.faults == made.faults


def test_the_demo_has_good_runs_and_all_its_faults():
    made = simulate.demo_campaign()
    assert len({run.era for run in made.runs}) == 2
    spoilt = {effect.run_number for effect in made.effects}
    assert len(spoilt) == 2
    assert len(made.faults) == 12
    assert len({fault.kind for fault in made.faults}) >= 10


def test_a_fault_can_be_put_into_real_data():
    found = sorted((SHARED / "cms2023").glob("*zphi*.parquet"))
    if not found:
        pytest.skip("no real histograms beside the project")
    frame = pd.read_parquet(found[0]).sort_values("fromlumi")
    counts = np.stack([np.asarray(h, np.float32).reshape(300, 200) for h in frame["histo"]])
    axes = [Axis.regular(300, -60, 60, title="z"), Axis.regular(200, -3.2, 3.2, title="phi")]
    stack = HistogramStack.from_arrays(
        counts, axes, ls_numbers=frame["fromlumi"], run_number=367129, me="real"
    )
    fault = Fault("module_off", "real", x=(-6.6, 0), y=(1.05, 1.57), first_ls=2, n_ls=2)
    bad = inject(stack, fault, rng())
    where = place(fault, stack.axes)
    assert bad.values()[1:3][:, where].sum() == 0
    assert stack.values()[1:3][:, where].sum() > 1000
    assert np.array_equal(bad.values()[[0, 3, 4]], stack.values()[[0, 3, 4]])
