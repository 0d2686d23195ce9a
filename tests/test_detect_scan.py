"""The scan finds local faults in space and time, says where and since when, and counts alarms."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from ml4ad.detect import Place, Scan, load
from ml4ad.detect.base import describe
from ml4ad.detect.boxes import Boxes, all_boxes, integral_image, plane, pulls, refined, running
from ml4ad.detect.template import Baseline, Template
from ml4ad.simulate.faults import Fault, inject
from ml4ad.stack import Axis, HistogramStack

AXES = [Axis.regular(20, 0, 20, title="eta"), Axis.regular(24, 0, 24, title="phi [cm]")]


def maps(run_number, n_ls=60, *, entries=20.0, pileup=None):
    rng = np.random.default_rng([5, run_number])
    x, y = np.meshgrid(AXES[0].centers, AXES[1].centers, indexing="ij")
    shape = (1 + 0.5 * (x / 10 - 1) ** 2) * (1 + 0.2 * np.cos(y / 4))
    shape[3, 4] = 0
    drift = 0.02 * rng.normal() + 0.005 * np.cumsum(rng.normal(size=n_ls)) / np.sqrt(n_ls)
    slope = drift if pileup is None else 0.3 * (pileup / 50 - 1)
    means = entries * shape * (1 + np.broadcast_to(slope, n_ls)[:, None, None] * (x / 10 - 1))
    return HistogramStack.from_arrays(
        rng.poisson(means).astype("f4"),
        AXES,
        ls_numbers=np.arange(1, n_ls + 1),
        run_number=run_number,
        me="EB/occupancy",
    )


@pytest.fixture(scope="module")
def fitted():
    return Scan().fit([maps(run) for run in range(1, 6)])


def faulty(kind, run=20, **given):
    fault = Fault(kind, "*", first_ls=40, **given)
    return inject(maps(run), fault, np.random.default_rng(1))


def test_false_alarms_come_as_often_as_the_score_says(fitted):
    scores = np.concatenate([fitted.score_samples(maps(run)) for run in range(100, 120)])
    for level in (1.0, 2.0):
        expected = len(scores) * 10**-level
        assert expected / 2.5 < (scores > level).sum() < expected * 2.5
    assert (scores > 6).sum() == 0


@pytest.mark.parametrize(
    ("given", "box", "direction"),
    [
        ({"kind": "dead_region", "x": (6, 10), "y": (12, 16)}, [(6, 9), (12, 15)], "empty"),
        ({"kind": "noisy_region", "x": (2, 8), "y": (1, 9)}, [(2, 7), (1, 8)], "high"),
        ({"kind": "hv_off", "x": (0, 17), "y": (8, 12)}, [(0, 16), (8, 11)], "low"),
    ],
)
def test_a_fault_is_found_in_its_first_lumisection_and_placed(fitted, given, box, direction):
    stack = faulty(**given)
    scores = fitted.score_samples(stack)
    assert scores[39] > 6
    assert scores[20:39].max() < 4.5
    found = fitted.explain(stack, 40)
    assert found.place.overlap(Place.of(AXES, box)) > 0.6
    assert found.direction == direction
    assert found.since == 40
    assert fitted.explain(stack, 43).since in (39, 40, 41)
    assert found.reference.contents.shape == (20, 24)


@pytest.mark.parametrize(("strength", "n_ls"), [(1.0, 1), (0.5, 1), (1.0, 3), (1.0, 20), (0.5, 20)])
def test_alarms_end_with_the_fault(fitted, strength, n_ls):
    fault = Fault("hv_off", "*", first_ls=30, n_ls=n_ls, strength=strength, x=(2, 10), y=(8, 14))
    scores = fitted.score_samples(inject(maps(20, n_ls=80), fault, np.random.default_rng(1)))
    assert (scores[29 : 29 + n_ls] > 5).all()
    assert scores[30 + n_ls :].max() < 4
    assert (scores[29 + n_ls :] > 3).sum() <= 1


def test_what_is_long_strange_is_not_learned_as_usual():
    detector = Scan().fit([maps(run, entries=400) for run in range(1, 6)])
    fault = Fault("noisy_region", "*", first_ls=30, n_ls=60, strength=0.4, x=(2, 10), y=(8, 14))
    stack = inject(maps(20, n_ls=110, entries=400), fault, np.random.default_rng(1))
    scores = detector.score_samples(stack)
    assert (scores[29:89] > 20).all()
    assert scores[90:].max() < 4
    assert detector.explain(stack, 80).since == 30


def test_a_score_does_not_depend_on_what_came_later(fitted):
    stack = faulty("dead_region", x=(6, 10), y=(12, 16))
    whole = fitted.score_samples(stack)
    for last in (39, 40, 45):
        early = fitted.score_samples(stack.select(slice(1, last)))
        assert_allclose(early, whole[:last], rtol=1e-4)


def test_counts_in_dead_bins_do_not_hide_the_place_around_them(fitted):
    stack = faulty("noisy_region", x=(1, 9), y=(2, 8), strength=0.5)
    assert stack.values()[39, 3, 4] > 0
    assert fitted.explain(stack, 40).place.overlap(Place.of(AXES, [(1, 8), (2, 7)])) > 0.6
    alone = faulty("hot_cell", x=(3.5, 3.5), y=(4.5, 4.5), strength=3)
    assert fitted.explain(alone, 40).place.bins == ((3, 3), (4, 4))


def test_the_sentence_tells_a_shifter_where_since_when_and_how_much(fitted):
    stack = faulty("dead_region", x=(6, 10), y=(12, 16))
    found = fitted.explain(stack, 40)
    assert found.sentence.startswith(
        "occupancy: 4 x 4 bins at eta = 8, phi = 14 cm, empty since LS 40; expected "
    )
    assert found.sentence.endswith(", seen 0")
    assert found.strength == -1


@pytest.mark.parametrize(
    ("axis", "bins", "said"),
    [
        (Axis.regular(4, 0, 4, title="charge [e]"), (1, 2), "2 bins at charge = 2 e"),
        (Axis.regular(4, 0, 80_000, title="charge [e]"), (1, 1), "1 bin at charge = 30,000 e"),
        (Axis.regular(3, 0, 3, title="disk", labels=["-1", "+1", "+2"]), (1, 2), "+1 to +2"),
        (Axis.regular(3, 0, 3, labels=["A", "B", "C"]), (0, 0), "1 bin at x = A"),
    ],
)
def test_places_are_told_as_their_axes_are_read(axis, bins, said):
    assert str(Place.of([axis], [bins])).endswith(said)


@pytest.mark.parametrize(
    ("expected", "observed", "said"),
    [
        (12_345.6, 9.0, ", empty since LS 2; expected 12,346, seen 9"),
        (410.0, 205.0, ", 50% low since LS 2; expected 410, seen 205"),
        (100.0, 3_000.0, ", far too high since LS 2; expected 100, seen 3,000"),
        (0.0, 7.0, ", filled since LS 2; expected 0, seen 7"),
    ],
)
def test_numbers_are_told_as_people_write_them(expected, observed, said):
    place = Place.of(AXES, [(0, 0), (0, 0)])
    assert describe(maps(1), 4, 9.0, place, observed, expected, since=2).sentence.endswith(said)


def test_a_weak_loss_is_found_by_adding_lumisections(fitted):
    stack = faulty("hv_off", x=(0, 17), y=(8, 12), strength=0.2)
    scores = fitted.score_samples(stack)
    assert scores[39] < 7 < scores[39:46].max()


def test_bad_lumisections_in_the_training_cost_little():
    dirty = [
        inject(
            maps(run),
            Fault("dead_region", "*", first_ls=20, n_ls=3, x=(6, 10), y=(12, 16)),
            np.random.default_rng(run),
        )
        for run in range(1, 6)
    ]
    detector = Scan().fit(dirty)
    scores = detector.score_samples(faulty("dead_region", x=(6, 10), y=(12, 16)))
    assert scores[39] > 8
    # What was wrong has no part in the calibration.
    assert len(detector.calibration_rows_) == 5 * 57


def conditions_of(runs, pileups):
    frames = [
        pd.DataFrame({"run_number": r, "ls_number": np.arange(1, 61), "pileup": p})
        for r, p in zip(runs, pileups, strict=True)
    ]
    return pd.concat(frames).set_index(["run_number", "ls_number"])


def test_what_follows_the_pileup_is_no_fault():
    runs = [1, 2, 3, 4, 9]
    pileups = [np.linspace(60, 30, 60) + run / 9 for run in runs]
    table = conditions_of(runs, pileups)
    stacks = [maps(r, pileup=p) for r, p in zip(runs, pileups, strict=True)]
    detector = Scan().fit(stacks[:4], table)
    assert detector.conditioned_
    assert np.quantile(detector.score_samples(stacks[4], table), 0.9) < 2.5
    table.loc[(9, 7), "pileup"] = np.nan
    scores = detector.score_samples(stacks[4], table)
    assert np.flatnonzero(np.isnan(scores)).tolist() == [6]
    assert detector.reasons(stacks[4], table) == {7: "no conditions"}
    assert set(detector.reasons(stacks[4]).values()) == {"no conditions"}
    with pytest.raises(ValueError, match="LS 7 is not assessed: no conditions"):
        detector.explain(stacks[4], 7, table)


def test_conditions_of_another_index_are_refused():
    table = conditions_of([1], [np.full(60, 40.0)]).reset_index()
    with pytest.raises(ValueError, match="want run_number, ls_number"):
        Scan().fit(maps(1), table)
    twice = pd.concat([table, table]).set_index(["run_number", "ls_number"])
    with pytest.raises(ValueError, match="more than once"):
        Scan().fit(maps(1), twice)


def test_one_run_is_enough_to_learn_from():
    detector = Scan().fit(maps(1, n_ls=120))
    assert np.isfinite(detector.score_samples(maps(2))).all()
    assert detector.score_samples(faulty("dead_region", x=(6, 10), y=(12, 16)))[39] > 4


def test_channels_keep_apart_what_is_not_the_shape(fitted):
    stack = inject(
        faulty("partial_livetime", n_ls=1),
        Fault("hot_cell", "*", first_ls=50, n_ls=1, x=(3.5, 3.5), y=(4.5, 4.5), strength=3),
        np.random.default_rng(1),
    )
    table = pd.DataFrame({"recorded_lumi": 1.0}, index=conditions_of([20], [40.0]).index)
    channels = fitted.channels(stack, table)
    assert channels["rate"].idxmax() == 40
    assert channels.loc[40, "rate"] > 20
    assert channels.loc[40, "shape"] < 4
    assert channels["dead_bins"].idxmax() == 50
    assert (channels["slow"] < 2).all()
    lasting = fitted.channels(faulty("dead_region", x=(6, 10), y=(12, 16)))
    assert (lasting.loc[45:, "slow"] > 1.5 * lasting.loc[30:39, "slow"].max()).all()
    assert fitted.channels(stack)["rate"].isna().all()


def test_it_survives_a_round_trip_through_disk(fitted, tmp_path):
    fitted.save(tmp_path / "scan.npz")
    back = load(tmp_path / "scan.npz")
    stack = faulty("dead_region", x=(6, 10), y=(12, 16))
    assert_allclose(back.score_samples(stack), fitted.score_samples(stack))
    assert back.explain(stack, 41).sentence == fitted.explain(stack, 41).sentence


def test_one_axis_is_scanned_in_windows():
    axis = Axis.regular(60, 0, 60, title="time")
    rng = np.random.default_rng(3)
    runs = [
        HistogramStack.from_arrays(
            rng.poisson(100 + 50 * np.sin(axis.centers / 9), (80, 60)),
            axis,
            ls_numbers=np.arange(1, 81),
            run_number=run,
            me="T/time",
        )
        for run in (1, 2, 3)
    ]
    detector = Scan().fit(runs[:2])
    bad = inject(runs[2], Fault("dead_region", "*", first_ls=60, x=(20, 25)), rng)
    assert detector.score_samples(bad)[59] > 6
    assert detector.explain(bad, 60).place.bins == ((20, 24),)


def test_box_sums_are_the_sums_of_the_boxes():
    rng = np.random.default_rng(0)
    data = rng.poisson(5, (3, 11, 7)).astype(float)
    for boxes in (Boxes((4, 3), (2, 2)), Boxes((1, 1), (1, 1)), Boxes((11, 1), (1, 1))):
        x, y = boxes.starts((11, 7))
        assert x[-1] + boxes.size[0] == 11
        assert y[-1] + boxes.size[1] == 7
        expected = [
            [[m[i : i + boxes.size[0], j : j + boxes.size[1]].sum() for j in y] for i in x]
            for m in data
        ]
        assert_allclose(boxes.sums(integral_image(data)), expected)


def test_every_plane_has_boxes_that_fit_it():
    for shape in ((1, 1), (5,), (100,), (34, 72), (300, 200), (4, 5, 6)):
        size = plane(shape)
        for boxes in all_boxes(size, [(2, 2)]):
            x, y = boxes.starts(size)
            assert (x + boxes.size[0] <= size[0]).all()
            assert (y + boxes.size[1] <= size[1]).all()


def test_pulls_are_the_same_near_and_far_from_what_is_expected():
    mean = np.array([0.5, 20.0, 1e3, 1e6])
    for factor in (0.5, 0.969, 0.971, 0.99999, 1.0, 1.0001, 1.029, 1.031, 3.0):
        x = mean * factor
        exact = np.sign(x - mean) * np.sqrt(np.maximum(2 * (x * np.log(x / mean) - x + mean), 0))
        assert_allclose(pulls(x, mean), exact, rtol=2e-3, atol=1e-3)


def test_running_sums_are_shorter_at_the_start():
    assert running(np.arange(5.0)[:, None], 3)[:, 0].tolist() == [0, 1, 3, 6, 9]


def test_a_box_grows_to_the_fault():
    expected = np.full((20, 20), 30.0)
    observed = expected.copy()
    observed[3:12, 5:9] = 10
    assert refined(observed, expected, (4, 6, 5, 7)) == (3, 12, 5, 9)


def test_the_baseline_follows_a_drift_and_not_a_burst():
    expected = np.full((200, 4), 1000.0)
    seen = expected.copy()
    seen[:, 0] *= np.linspace(1, 1.2, 200)
    seen[150, 1] = 0
    corrected, errors = Baseline(40, np.full(4, 1e4), 1.0).corrected(seen, expected)
    assert errors is None
    assert 1.08 < corrected[-1, 0] / 1000 < 1.2
    assert corrected[151, 1] > 990
    assert_allclose(corrected[:, 2:], 1000)


def test_the_baseline_is_as_soft_as_runs_differ():
    expected = np.full((50, 3), 1000.0)
    factors = [0.8, 1.2, 0.9, 1.1]
    runs = [(expected * np.array([f, 1.0, 1.0]), expected) for f in factors]
    baseline = Baseline.learned(runs, 40, 1e4, 1.0)
    assert 20 < baseline.stiffness[0] < 80
    assert_allclose(baseline.stiffness[1:], 1e4)
    corrected, errors = baseline.corrected(expected * np.array([1.15, 1.0, 1.0]), expected)
    assert_allclose(corrected[3:, 0], 1150, rtol=0.02)
    assert errors[0, 0] > 5 * errors[5, 0]
    assert_allclose(errors[:, 1:], 0)


def test_the_template_reproduces_rare_bins():
    rng = np.random.default_rng(1)
    means = np.concatenate([np.full(50, 30.0), np.full(50, 0.3), np.zeros(5)])
    counts = rng.poisson(means, (400, 105)).astype(float)
    expected = Template.fit(counts, None).expected(counts, None)
    assert_allclose(expected.mean(axis=0), counts.mean(axis=0), rtol=0.08, atol=0.01)
