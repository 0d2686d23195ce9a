"""Detectors of others beside ours, the evaluation of both, incidents and likeness."""

import numpy as np
import pytest
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM
from test_detect_combine import profile
from test_detect_nearest import charges
from test_detect_scan import faulty, maps

from ml4ad.detect import (
    NMF,
    PCA,
    BetaBinomial,
    LossProduct,
    MomentsForest,
    NearestReference,
    OutlierDetector,
    Scan,
    Trial,
    evaluate,
    load,
    merged,
    of_element,
    references,
    similar,
    similar_runs,
    trials,
)
from ml4ad.detect.base import Place, describe
from ml4ad.detect.evaluate import _spoiled
from ml4ad.stack import HistogramStack

GOOD = [maps(run) for run in range(1, 6)]


@pytest.mark.parametrize(
    "detector",
    [
        BetaBinomial(),
        NMF(),
        PCA(),
        MomentsForest(n_estimators=50),
        OutlierDetector(OneClassSVM(nu=0.01), features="roots"),
        OutlierDetector(LocalOutlierFactor(novelty=True), features="moments"),
    ],
    ids=lambda d: type(d).__name__,
)
def test_detectors_of_others_find_a_large_fault(detector, tmp_path):
    stack = faulty("dead_region", x=(4, 12), y=(8, 18))
    scores = detector.fit(GOOD).score_samples(stack)
    assert scores[39:].min() > scores[:39].max()
    detector.save(tmp_path / "m.npz")
    np.testing.assert_allclose(load(tmp_path / "m.npz").score_samples(stack), scores)


def test_a_product_of_losses_needs_three_lumisections():
    detector = LossProduct().fit(GOOD)
    once = faulty("dead_region", x=(4, 12), y=(8, 18), n_ls=1)
    lasting = faulty("dead_region", x=(4, 12), y=(8, 18))
    assert detector.score_samples(lasting)[45] > detector.score_samples(once)[39:43].max()


def test_an_evaluation_puts_detectors_side_by_side_on_runs_they_have_not_seen():
    stacks = [maps(run) for run in range(1, 9)]
    faults = [Trial("dead_region", (4, 4), n_ls=6), Trial("dead_region", (4, 4), 0.1, 6, "weak")]
    result = evaluate({"Scan": Scan(), "PCA": PCA()}, stacks, faults=faults, n_trials=12, seed=1)
    assert set(result.training_runs) == {1, 2, 3, 4}
    assert set(result.test_runs) == {5, 6, 7, 8}
    table = result.table
    strong = ("Scan", "dead_region 4 x 4")
    assert table.loc[strong, "auc"] > 0.99
    assert table.loc[strong, "found_in_1"] == 1
    assert table.loc[strong, "iou"] > 0.6
    assert table.loc[("Scan", "weak"), "found_in_1"] < 0.5
    assert table.loc[strong, "found_in_1"] >= table.loc[("PCA", strong[1]), "found_in_1"]
    assert result.detectors.loc["Scan", "nominal"] == pytest.approx(240 / 1236)
    assert result.detectors.loc["Scan", "ms_per_ls"] > 0
    again = evaluate(Scan(), stacks, faults=faults, n_trials=12, seed=1)
    assert again.table.loc[strong, "iou"] == table.loc[strong, "iou"]


def test_contaminated_training_is_part_of_the_protocol():
    stacks = [maps(run) for run in range(1, 9)]
    faults = [Trial("dead_region", (4, 4), n_ls=3)]
    result = evaluate(Scan(), stacks, faults=faults, n_trials=10, contamination=0.05)
    assert result.table["found_in_1"].iloc[0] >= 0.9


def test_an_evaluation_needs_two_runs():
    with pytest.raises(ValueError, match="1 runs"):
        evaluate(Scan(), [maps(1)])


def test_every_kind_has_usual_faults():
    for stack in (maps(1), charges(1), profile(1)):
        listed = trials(stack)
        assert listed
        assert len({str(t) for t in listed}) == len(listed)
        for trial in listed:
            fault = trial.drawn(stack, np.random.default_rng(0))
            assert fault.first_ls in stack.ls_numbers
    assert "default" in references()


def test_only_a_fault_that_changes_something_is_tried():
    live = maps(1)
    counts = live.values().copy()
    counts[:, 2:] = 0
    mostly, nothing = (
        HistogramStack.from_arrays(
            *(some, live.axes), ls_numbers=live.ls_numbers, run_number=1, me="EB/occupancy"
        )
        for some in (counts, 0 * counts)
    )
    rng = np.random.default_rng(0)
    cell = Trial("dead_cell", (1, 1), n_ls=3)
    # Nine in ten places are dead already.
    for _ in range(20):
        bad, fault = _spoiled(cell, mostly, rng, before=0)
        assert bad.contents.sum() < mostly.select(bad.ls_numbers).contents.sum()
        assert fault.first_ls == bad.ls_numbers[0]
    with pytest.raises(ValueError, match=r"dead_cell 1 x 1: changes nothing of .*, run 1"):
        _spoiled(cell, nothing, rng, before=0)


def test_an_incident_opens_holds_and_closes():
    logs = np.zeros(30)
    logs[5] = -6
    logs[6:9] = -2.5
    logs[11] = -2.5
    logs[20] = -2.5
    logs[29] = -4
    logs[7] = np.nan
    found = of_element("A/b", 7, np.arange(101, 131), logs, 1e-3)
    assert [(i.first_ls, i.last_ls, i.open) for i in found] == [
        (106, 112, False),
        (130, 130, True),
    ]
    assert found[0].peak_ls == 106
    with pytest.raises(ValueError, match="2 p-values for 1"):
        of_element("A", 1, [1], [0, 0], 1e-3)
    with pytest.raises(ValueError, match="alpha 2"):
        of_element("A", 1, [1], [0], 2)


def test_a_fault_seen_by_two_elements_is_one_incident():
    first = of_element("A", 7, range(1, 21), np.where(np.arange(20) == 5, -5, 0), 1e-3)
    second = of_element("B", 7, range(1, 21), np.where(np.abs(np.arange(20) - 6) < 3, -9, 0), 1e-3)
    apart = of_element("C", 8, range(1, 21), np.where(np.arange(20) == 5, -5, 0), 1e-3)
    both = merged([*first, *second, *apart])
    assert [(i.run_number, i.first_ls, i.last_ls, i.elements) for i in both] == [
        (7, 5, 9, ("B", "A")),
        (8, 6, 6, ("C",)),
    ]
    assert str(both[0]) == "run 7, LS 5 to 9: B (and 1 more element)"


def test_the_most_similar_lumisections_come_first():
    odd = charges(5, n_ls=8, low=0.3)
    among = [charges(1), charges(2), odd, charges(3, low=0.28)]
    table = similar(odd, 3, among, n=50)
    assert 3 not in table[table.run_number == 5].ls_number.tolist()
    assert set(table.run_number.iloc[:7]) <= {5, 3}
    assert table.distance.is_monotonic_increasing
    assert similar(odd, 3, among, beside=10).run_number.ne(5).all()
    assert similar(charges(6, gain=0.8), 3, [charges(1)], scale_free=True).ratio.iloc[0] < 3
    assert len(similar(odd, 3, [])) == 0
    with pytest.raises(ValueError, match="differs"):
        similar(odd, 3, [charges(1).rebin(2)])
    empty = HistogramStack.from_arrays(
        np.zeros((1, 100)), odd.axes, ls_numbers=[1], run_number=1, me="P/charge", kind="TH1F"
    )
    with pytest.raises(ValueError, match="empty"):
        similar(empty, 1, among)


def test_the_most_similar_runs_come_first():
    among = {1: {"c": charges(1)}, 2: {"c": charges(2, low=0.3)}, 3: {"d": charges(3)}}
    table = similar_runs({"c": charges(9, low=0.3)}, among)
    assert table.run_number.tolist() == [2, 1]


def test_a_lumisection_without_a_place_is_described():
    found = describe(charges(1), 3, 0.1, None, 0, 0)
    assert found.direction == "none"
    assert "nothing stands out in LS 3" in found.sentence


@pytest.mark.parametrize(
    ("seen", "expected", "said"),
    [
        (90, 100, "10% low"),
        (16.05, 16.01, "hardly high"),
        (-0.05, 0.02, "far too low"),
        (1100, 100, "far too high"),
        (1, 100, "empty"),
    ],
)
def test_a_difference_is_said_as_people_read_it(seen, expected, said):
    stack = charges(1)
    place = Place.of(stack.axes, [(3, 5)])
    what = "mean" if seen < 0 else "entries"
    found = describe(stack, 3, 9.0, place, seen, expected, what=what)
    assert f", {said} since LS 3; expected" in found.sentence


@pytest.mark.parametrize("n_runs", [2, 9])
def test_what_was_learned_is_not_compared_with_itself(n_runs):
    runs = [charges(run) for run in range(1, n_runs + 1)]
    fitted = NearestReference().fit(runs)
    strange = charges(1, low=0.1)
    for stack in (runs[0], strange):
        lumisections = fitted.explain(stack, 4).reference.lumisections
        assert all(run != 1 or abs(ls - 4) > 20 for run, ls in lumisections)
        if n_runs > 8:
            assert all(run != 1 for run, _ in lumisections)
    # What was learned does not score as if it were known by heart.
    own, other = (np.median(fitted.score_samples(stack)) for stack in (runs[0], charges(77)))
    assert own > other / 2


def test_the_reference_of_a_reference_is_known_good():
    fitted = NearestReference().fit([charges(1), charges(2)])
    run, ls = fitted.explain(charges(9, low=0.1), 4).reference.lumisections[0]
    assert (run, ls) in set(
        zip(fitted.reference_runs_.tolist(), fitted.reference_ls_.tolist(), strict=True)
    )
