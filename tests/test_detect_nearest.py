"""Detectors find what differs from known-good lumisections; the nearest of them are the judge."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from ml4ad.detect import NearestReference, load
from ml4ad.stack import Axis, HistogramStack

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
AXIS = Axis.regular(100, 0, 80_000, title="charge [e]")


def charges(run_number, n_ls=40, *, gain=1.0, low=0.0, entries=50_000, seed=0):
    """Peak of charge with a falling edge; ``low`` is the share of entries at small charge."""
    rng = np.random.default_rng([seed, run_number])
    x = AXIS.centers / gain
    peak = np.exp(-0.5 * ((x - 26_000) / 8_000) ** 2)
    plateau = (x < 20_000) * 1.0
    shape = (1 - low) * peak / peak.sum() + low * plateau / plateau.sum()
    counts = rng.poisson(entries * shape, (n_ls, 100)).astype("f4")
    return HistogramStack.from_arrays(
        counts, AXIS, ls_numbers=np.arange(1, n_ls + 1), run_number=run_number, me="P/charge"
    )


@pytest.fixture(scope="module")
def fitted():
    return NearestReference().fit([charges(1), charges(2, gain=0.9), charges(3, gain=0.97)])


def test_good_lumisections_score_about_one_and_faults_far_more(fitted):
    good = fitted.score_samples(charges(9, gain=0.95))
    bad = fitted.score_samples(charges(9, gain=0.95, low=0.2))
    assert 0.05 < np.median(good) < 2
    assert bad.min() > 5 * good.max()


def test_a_scale_that_none_of_the_good_had_is_no_fault(fitted):
    assert fitted.scaled_
    drifted = charges(9, gain=0.8)
    rigid = NearestReference(scale_free=False).fit([charges(1), charges(2, gain=0.97)])
    assert np.median(fitted.score_samples(drifted)) < 2
    assert rigid.score_samples(drifted).min() > 20


@pytest.mark.parametrize(("first", "last", "rebin"), [(0, 100, 4), (0, 60, 1), (5, 100, 1)])
def test_the_scale_is_free_on_other_axes_of_the_same_quantity(first, last, rebin):
    def cut(stack):
        contents = stack.values()[:, first:last]
        contents = contents.reshape(len(stack), -1, rebin).sum(axis=-1)
        edges = AXIS.edges[first : last + 1 : rebin]
        axis = Axis.regular(len(edges) - 1, edges[0], edges[-1], title="charge [e]")
        return HistogramStack.from_arrays(
            contents,
            axis,
            ls_numbers=stack.ls_numbers,
            run_number=stack.run_number,
            me="P/charge",
        )

    detector = NearestReference().fit([cut(charges(1)), cut(charges(2, gain=0.97))])
    assert detector.scaled_
    assert np.median(detector.score_samples(cut(charges(9, gain=0.85)))) < 2
    bad = cut(charges(9, gain=0.85, low=0.2))
    assert detector.score_samples(bad).min() > 10
    expected = detector.explain(bad, 3).reference.contents
    assert_allclose(expected.sum(), bad[3].sum(), rtol=0.02)


def test_few_entries_are_not_strange_for_their_noise(fitted):
    few = fitted.score_samples(charges(9, entries=1_000))
    assert np.median(few) < 2


def test_the_explanation_names_reference_and_place(fitted):
    stack = charges(9, gain=0.95, low=0.2)
    found = fitted.explain(stack, 7)
    assert found.reference.contents.shape == (100,)
    assert_allclose(found.reference.contents.sum(), stack[7].sum(), rtol=0.02)
    assert all(run in (1, 2, 3) and 1 <= ls <= 40 for run, ls in found.reference.lumisections)
    assert found.direction == "high"
    assert found.place.ranges[0][1] <= 30_000
    assert "charge" in found.sentence
    assert "since LS 7" in found.sentence


def test_a_fault_among_the_good_is_no_reference():
    good = charges(1, n_ls=100)
    contents = good.contents.copy()
    contents[50] = charges(5, n_ls=1, low=0.4).contents[0]
    dirty = HistogramStack.from_arrays(
        contents, AXIS, ls_numbers=good.ls_numbers, run_number=1, me="P/charge"
    )
    detector = NearestReference().fit([dirty, charges(2, n_ls=100)])
    assert (1, 51) not in set(
        zip(detector.reference_runs_.tolist(), detector.reference_ls_.tolist(), strict=True)
    )
    assert detector.score_samples(charges(9, low=0.4)).min() > 5


@pytest.mark.parametrize(("n_runs", "from_run"), [(9, True), (3, False)])
def test_training_is_scored_by_other_runs_if_there_are_enough(n_runs, from_run):
    stacks = [charges(run, low=0.3 if run == 1 else 0.0) for run in range(1, n_runs + 1)]
    detector = NearestReference()
    training = detector._training(stacks)
    scores = detector.fit(stacks).training_scores(training)
    assert (np.median(scores[training.run_numbers == 1]) > 10) == from_run
    assert np.median(scores[training.run_numbers == 2]) < 2


def test_it_survives_a_round_trip_through_disk(fitted, tmp_path):
    fitted.save(tmp_path / "model.npz")
    back = load(tmp_path / "model.npz")
    stack = charges(9, low=0.1)
    assert_allclose(back.score_samples(stack), fitted.score_samples(stack))
    assert back.get_params() == fitted.get_params()
    assert back.explain(stack, 3).sentence == fitted.explain(stack, 3).sentence


def test_damaged_and_newer_files_are_refused(fitted, tmp_path):
    path = tmp_path / "model.npz"
    fitted.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        load(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match="damaged"):
        load(path)
    with _open(whole) as file:
        arrays = {name: file[name] for name in file.files}
    newer = bytes(arrays["header"]).replace(b'"version": 3', b'"version": 9')
    arrays["header"] = np.frombuffer(newer, dtype=np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="version 9"):
        load(path)
    foreign = newer.replace(b'"version": 9', b'"version": 3').replace(
        b"NearestReference", b"os.system"
    )
    arrays["header"] = np.frombuffer(foreign, dtype=np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"os\.system"):
        load(path)
    path.write_text("no model")
    with pytest.raises(ValueError, match="damaged"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.npz")


def _open(content):
    import io

    return np.load(io.BytesIO(content), allow_pickle=False)


def test_parameters_are_cloned_as_scikit_learn_does():
    detector = NearestReference(tolerance=0.01)
    assert clone(detector).get_params() == detector.get_params()
    assert clone(detector).set_params(tolerance=0.03).tolerance == 0.03


def test_what_cannot_be_assessed_has_a_reason(fitted):
    good = charges(9, n_ls=6)
    contents = good.contents.copy()
    contents[0] = 0
    contents[1, 5] = np.nan
    contents[2, 5] = -3
    contents[3] = np.round(contents[3] / 800)
    stack = HistogramStack.from_arrays(
        contents, AXIS, ls_numbers=[1, 2, 3, 4, 5, 8], run_number=9, me="P/charge"
    )
    scores = fitted.score_samples(stack)
    assert np.isnan(scores[:4]).all()
    assert np.isfinite(scores[4:]).all()
    assert fitted.reasons(stack) == {
        1: "empty",
        2: "not finite",
        3: "negative counts",
        4: "low statistics",
        6: "absent",
        7: "absent",
    }
    with pytest.raises(ValueError, match="LS 1 is not assessed: empty"):
        fitted.explain(stack, 1)


def test_refusals_say_what_was_seen(fitted):
    with pytest.raises(ValueError, match="10 usable lumisections of 10"):
        NearestReference().fit(charges(1, n_ls=10))
    with pytest.raises(ValueError, match="no stack"):
        NearestReference().fit([])
    with pytest.raises(ValueError, match="not fitted"):
        NearestReference().score_samples(charges(1))
    with pytest.raises(ValueError, match="binning of x differs"):
        fitted.score_samples(charges(1).rebin(2))
    with pytest.raises(ValueError, match="binning of x differs"):
        NearestReference().fit([charges(1), charges(2).rebin(2)])
    with pytest.raises(KeyError, match="no lumisection 99"):
        fitted.explain(charges(1), 99)
    one_bin = np.zeros((30, 100))
    one_bin[:, 3] = 1_000
    constant = HistogramStack.from_arrays(
        one_bin, AXIS, ls_numbers=np.arange(1, 31), run_number=1, me="P/charge"
    )
    with pytest.raises(ValueError, match="constant"):
        NearestReference().fit(constant)


@pytest.fixture(scope="module")
def labelled():
    path = SHARED / "zerobias2017" / "train.csv.gz"
    if not path.is_file():
        pytest.skip(f"no real labelled data at {path}")
    return pd.read_csv(path)


def stacks_of(table, first=0, last=100, rebin=1):
    bins = [f"bin_{i + 1}" for i in range(first, last)]
    edges = AXIS.edges[first : last + 1 : rebin]
    axis = Axis.regular(len(edges) - 1, edges[0], edges[-1], title="charge [e]")
    return [
        HistogramStack.from_arrays(
            rows[bins].to_numpy("f4").reshape(len(rows), -1, rebin).sum(axis=-1),
            axis,
            ls_numbers=rows.lumi,
            run_number=run,
            me="P/charge",
        )
        for run, rows in table.groupby("run")
    ]


def scores_of(detector, table, **binning):
    return np.concatenate([detector.score_samples(s) for s in stacks_of(table, **binning)])


@pytest.mark.parametrize("binning", [{}, {"rebin": 4}, {"last": 70}, {"first": 5}], ids=str)
def test_it_tells_real_faults_from_a_good_run_that_it_never_saw(labelled, binning):
    good = labelled[(labelled.good == 1) & (labelled.good_pixel == 1)]
    bad = labelled[labelled.good_pixel == 0]
    areas = []
    for run in good.run.unique():
        detector = NearestReference().fit(stacks_of(good[good.run != run], **binning))
        fine = scores_of(detector, good[good.run == run], **binning)
        wrong = scores_of(detector, bad, **binning)
        truth = np.repeat([0, 1], [len(fine), len(wrong)])
        areas.append(roc_auc_score(truth, np.concatenate([fine, wrong])))
    assert np.mean(areas) >= 0.99


def test_it_tells_real_faults_from_good_lumisections(labelled):
    good = labelled[(labelled.good == 1) & (labelled.good_pixel == 1)]
    bad = labelled[labelled.good_pixel == 0]
    areas, false = [], []
    # A handful of good lumisections are odd; several lengths, for they stand together.
    for length in (10, 20, 30):
        for part in range(4):
            test = good.lumi // length % 4 == part
            detector = NearestReference().fit(stacks_of(good[~test]))
            fine, wrong = scores_of(detector, good[test]), scores_of(detector, bad)
            truth = np.repeat([0, 1], [len(fine), len(wrong)])
            areas.append(roc_auc_score(truth, np.concatenate([fine, wrong])))
            false.append(np.mean(fine > np.quantile(wrong, 0.01)))
    assert np.mean(areas) >= 0.998
    assert np.mean(false) <= 0.005
