"""Bad input, detector by detector: a clear refusal, or a reason for each lumisection."""

import numpy as np
import pandas as pd
import pytest
from scored_samples import LINE, histograms
from sklearn.base import clone
from sklearn.svm import OneClassSVM
from test_detect_combine import profile

from ml4ad.detect import (
    NMF,
    PCA,
    BetaBinomial,
    Combined,
    LossProduct,
    MomentsForest,
    NearestReference,
    OutlierDetector,
    Profiles,
    Scan,
    load,
)
from ml4ad.stack import Axis, HistogramStack

OF_COUNTS = [
    *(NearestReference(), Scan(), Combined(), BetaBinomial(), NMF(), PCA(), LossProduct()),
    *(MomentsForest(n_estimators=20), OutlierDetector(OneClassSVM(gamma=50))),
]
RUNS = (1, 2, 3)


def name_of(detector):
    return type(detector).__name__


@pytest.fixture(scope="module")
def all_fitted():
    good = [histograms(LINE, run) for run in RUNS]
    return {name_of(one): clone(one).fit(good) for one in OF_COUNTS}


@pytest.fixture(params=[name_of(one) for one in OF_COUNTS])
def fitted(request, all_fitted):
    return all_fitted[request.param]


@pytest.fixture(params=OF_COUNTS, ids=name_of)
def unfitted(request):
    return clone(request.param)


def changed(stack, **rows):
    """The stack with contents of some rows replaced: ``empty=0`` empties the first."""
    contents = stack.values().astype(np.float64)
    for what, row in rows.items():
        if what == "empty":
            contents[row] = 0
        elif what == "low":
            contents[row] = np.round(contents[row] * 0.005)
        else:
            value = {"nan": np.nan, "infinite": np.inf, "negative": -3.0}[what]
            contents[row, 5] = value
    return of(contents, stack.axes, stack.run_number)


def of(contents, axes, run_number=9, me=LINE):
    return HistogramStack.from_arrays(
        contents.astype("f4"),
        axes,
        ls_numbers=np.arange(1, len(contents) + 1),
        run_number=run_number,
        me=me,
    )


BAD = {"empty": 0, "nan": 1, "infinite": 2, "negative": 3, "low": 4}
REASONS = {1: "empty", 2: "not finite", 3: "not finite", 4: "negative counts", 5: "low statistics"}


def test_what_cannot_be_judged_has_the_reason_and_the_rest_has_scores(fitted):
    good = histograms(LINE, 9, n_ls=30)
    bad = changed(good, **BAD)
    assert fitted.reasons(bad) == REASONS
    scores = fitted.score_samples(bad)
    assert np.isnan(scores[:5]).all()
    assert np.isfinite(scores[5:]).all()
    for ls_number, why in REASONS.items():
        with pytest.raises(ValueError, match=f"LS {ls_number} is not assessed: {why}"):
            fitted.explain(bad, ls_number)
    assert fitted.explain(bad, 20).ls_number == 20


def test_bad_lumisections_are_not_learned_from(unfitted):
    good = [histograms(LINE, run, n_ls=30) for run in RUNS]
    # The bad ones are more, by a number that no share of good ones would stand.
    bad = of(np.full((40, 20), np.nan), good[0].axes, run_number=2)
    with_bad = clone(unfitted).fit([good[0], bad, changed(good[1], **BAD), good[2]])
    without = clone(unfitted).fit([good[0], good[1].select([[6, 30]]), good[2]])
    stack = histograms(LINE, 9, n_ls=10)
    np.testing.assert_allclose(
        with_bad.score_samples(stack), without.score_samples(stack), rtol=1e-9
    )


@pytest.mark.parametrize(
    ("stack", "words"),
    [
        (histograms(LINE, 1, n_ls=19), "19 usable lumisections of 19 to learn from, want at least"),
        (of(np.zeros((40, 20)), [Axis.regular(20, 0, 10)]), "0 usable lumisections of 40"),
        (of(np.eye(1, 20).repeat(40, axis=0) * 500, [Axis.regular(20, 0, 10)]), "constant, 1 bins"),
        (of(np.full((40, 20), np.nan), [Axis.regular(20, 0, 10)]), "0 usable lumisections of 40"),
        (of(np.full((40, 20), -1.0), [Axis.regular(20, 0, 10)]), "0 usable lumisections of 40"),
        ([], "no stack to fit"),
        ([histograms(LINE, 1), histograms(LINE, 2, n_bins=21)], "binning of x differs"),
        ([histograms(LINE, 1), histograms("A/map", 2)], "2 axes in run 2, 1 in run 1"),
    ],
    ids=["few", "empty", "constant", "nan", "negative", "none", "binnings", "dimensions"],
)
def test_what_nothing_can_be_learned_from_is_refused(unfitted, stack, words):
    with pytest.raises(ValueError, match=words):
        unfitted.fit(stack)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (histograms(LINE, 9, n_bins=30), "binning of x differs: .* in run 9, .* in the model of"),
        (histograms("A/map", 9), "2 axes in run 9, 1 in the model of"),
    ],
    ids=["bins", "dimensions"],
)
def test_another_binning_than_the_models_is_refused(fitted, other, words):
    for call in (fitted.score_samples, fitted.reasons, lambda stack: fitted.explain(stack, 1)):
        with pytest.raises(ValueError, match=words):
            call(other)


def test_a_profile_is_no_counts(unfitted):
    if isinstance(unfitted, Combined):
        assert isinstance(unfitted.fit(profile(1)).detectors_[0], Profiles)
    else:
        with pytest.raises(ValueError, match="takes counts, for profiles use Profiles"):
            unfitted.fit(profile(1))


def test_profiles_want_profiles():
    fitted = Profiles().fit([profile(run) for run in RUNS])
    bad = profile(9)
    bad.contents[3, 5] = np.nan
    bad.sum_of_weights[4] = 0
    assert fitted.reasons(bad) == {4: "not finite", 5: "empty"}
    with pytest.raises(ValueError, match=r"binning of x differs|1 axes"):
        fitted.score_samples(histograms(LINE, 9))
    with pytest.raises(ValueError, match="Profiles"):
        Profiles().fit(histograms(LINE, 1))


# -- conditions ----------------------------------------------------------------------------------


def pileup(runs, n_ls=40, missing=()):
    keys = [(run, ls) for run in runs for ls in range(1, n_ls + 1) if (run, ls) not in missing]
    index = pd.MultiIndex.from_tuples(keys, names=["run_number", "ls_number"])
    return pd.DataFrame({"pileup": 30 + 0.1 * index.get_level_values(1)}, index=index)


def test_a_model_of_conditions_does_not_assess_without(unfitted):
    fitted = unfitted.fit([histograms(LINE, run) for run in RUNS], pileup(RUNS))
    stack = histograms(LINE, 9)
    known = fitted.score_samples(stack, pileup([9]))
    assert np.isfinite(known).all()
    partly = fitted.reasons(stack, pileup([9], missing={(9, 7)}))
    never = fitted.reasons(stack)
    if isinstance(fitted, Scan):
        assert partly == {7: "no conditions"}
        assert never == dict.fromkeys(range(1, 41), "no conditions")
    else:  # it looks at none, or what does not need them judges alone
        assert partly == never == {}


def test_conditions_that_are_ambiguous_are_refused():
    twice = pd.concat([pileup([1]), pileup([1])])
    with pytest.raises(ValueError, match=r"\(1, 1\) more than once"):
        Scan().fit(histograms(LINE, 1), twice)
    with pytest.raises(ValueError, match="want run_number, ls_number"):
        Scan().fit(histograms(LINE, 1), pileup([1]).reset_index(drop=True))


# -- files ---------------------------------------------------------------------------------------


def test_a_damaged_file_is_refused_and_a_whole_one_says_the_same(fitted, tmp_path):
    path, stack = tmp_path / "m.npz", histograms(LINE, 9, n_ls=10)
    fitted.save(path)
    np.testing.assert_array_equal(load(path).score_samples(stack), fitted.score_samples(stack))
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1], whole[1:], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged, or not a saved detector"):
            load(path)
