"""The detector for when nobody chooses; profiles; calibration and combination of p-values."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from test_detect_nearest import charges
from test_detect_scan import faulty, maps

from ml4ad.detect import Combined, NearestReference, Profiles, Scan, default, load
from ml4ad.detect.calibrate import Tail, alpha, harmonic_mean
from ml4ad.stack import Axis, HistogramStack


def profile(run_number, n_ls=60, *, shift=0.0, until=None, seed=0):
    """TProfile of 30 bins, the last never filled; ``shift`` in bins 10 to 14 from LS 41 on."""
    rng = np.random.default_rng([seed, run_number])
    n = rng.poisson(30, (n_ls, 30)).astype(float)
    n[:, -1] = 0
    mean = 5 + 0.1 * np.arange(30) + 0.02 * rng.normal()
    means = np.broadcast_to(mean, n.shape).copy()
    means[40:until, 10:15] += shift
    sums = means * n + rng.normal(size=n.shape) * np.sqrt(n)
    return HistogramStack.from_arrays(
        sums,
        Axis.regular(30, 0, 30, title="module"),
        ls_numbers=np.arange(1, n_ls + 1),
        run_number=run_number,
        me="S/mean",
        kind="TProfile",
        sumw2=(means**2 + 1) * n,
        sum_of_weights=n,
    )


@pytest.fixture(scope="module")
def on_maps():
    return default().fit([maps(run) for run in range(1, 6)])


@pytest.fixture(scope="module")
def on_profiles():
    return default().fit([profile(run) for run in range(1, 6)])


def test_the_default_is_chosen_by_the_kind(on_maps, on_profiles):
    assert [type(d) for d in on_maps.detectors_] == [NearestReference, Scan]
    assert [type(d) for d in on_profiles.detectors_] == [Profiles]


def test_the_default_finds_local_faults_and_shows_the_nearest_good(on_maps):
    stack = faulty("dead_region", x=(6, 10), y=(12, 16))
    scores = on_maps.score_samples(stack)
    assert scores[39] > 5
    assert np.median(scores[:39]) < 1
    found = on_maps.explain(stack, 40)
    assert found.direction == "empty"
    assert all(run in range(1, 6) for run, _ in found.reference.lumisections)
    assert list(on_maps.log_p(stack).columns) == ["NearestReference", "Scan"]


def test_the_default_finds_changes_of_shape_that_are_there_from_the_start():
    detector = default().fit([charges(run, gain=1 - run / 100) for run in range(1, 10)])
    assert detector.score_samples(charges(20, low=0.2)).min() > 4
    assert np.median(detector.score_samples(charges(21, gain=0.95))) < 1


def test_the_default_finds_profiles_that_move(on_profiles):
    assert on_profiles.score_samples(profile(20)).max() < 5
    stack = profile(21, shift=0.8)
    assert on_profiles.score_samples(stack)[40] > 5
    found = on_profiles.explain(stack, 43)
    assert found.place.bins[0][0] in (9, 10, 11)
    assert found.place.bins[0][1] in (13, 14, 15)
    assert found.direction == "high"
    assert_allclose(found.observed - found.expected, 0.8, atol=0.25)
    assert on_profiles.detectors_[0].channels(stack)["slow"].idxmax() > 41


def test_alarms_on_profiles_end_with_the_fault(on_profiles):
    scores = on_profiles.score_samples(profile(21, n_ls=110, shift=1.5, until=80))
    assert (scores[40:80] > 5).all()
    assert (scores[80:] > 3).sum() <= 2
    assert scores[82:].max() < 4


def test_counts_and_profiles_are_not_mistaken_for_each_other(on_maps):
    with pytest.raises(ValueError, match="Profiles takes profiles"):
        Profiles().fit(charges(1))
    with pytest.raises(ValueError, match="takes counts"):
        Scan().fit(profile(1))
    with pytest.raises(ValueError, match="axes"):
        on_maps.score_samples(profile(1))


def test_an_own_list_of_detectors_is_combined_and_saved(tmp_path):
    detector = Combined([NearestReference(tolerance=0.05)]).fit([charges(1), charges(2)])
    assert clone(detector).detectors[0].tolerance == 0.05
    detector.save(tmp_path / "model.npz")
    back = load(tmp_path / "model.npz")
    stack = charges(9, low=0.1)
    assert_allclose(back.score_samples(stack), detector.score_samples(stack))
    with pytest.raises(ValueError, match="no detector"):
        Combined([]).fit(charges(1))


def test_cross_scores_come_from_other_runs():
    stacks = [charges(1), charges(2), charges(3, low=0.3)]
    scores, group = NearestReference().cross_scores(stacks)
    assert len(set(group.tolist())) == 3
    assert np.median(scores[80:]) > 10 * np.median(scores[:80])


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_a_few_bad_among_the_good_do_not_move_the_threshold(share):
    rng = np.random.default_rng(0)
    scores = rng.gumbel(3, 0.5, 2000)
    scores[: int(share * 2000)] += 20
    tail = Tail.fit(scores)
    assert_allclose(tail.threshold(1e-3), 3 + 0.5 * 6.9, rtol=0.07)
    assert_allclose(tail.p_values(tail.threshold(1e-5)), 1e-5, rtol=1e-6)


def test_far_tails_keep_their_order():
    log_p = Tail(0.0, 1.0).log_p([50.0, 5000.0, np.nan])
    assert_allclose(log_p[:2], [-50, -5000])
    assert np.isnan(log_p[2])


def test_calibration_refuses_what_tells_nothing():
    with pytest.raises(ValueError, match="5 scores"):
        Tail.fit(np.arange(5.0))
    with pytest.raises(ValueError, match="all 3"):
        Tail.fit(np.full(50, 3.0))
    with pytest.raises(ValueError, match="0 false alarms"):
        alpha(0)


def test_the_harmonic_mean_leaves_out_what_is_not_known():
    logs = np.log([[0.01, np.nan], [0.01, np.nan]])
    out = harmonic_mean(logs)
    assert_allclose(out[0], np.log(0.01))
    assert np.isnan(out[1])
