"""Detectors evaluated on an archive: the plan, the report, and doing it again."""

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scored_samples import DATASET, LINE, good_runs, histograms, put
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM
from test_detect_nearest import charges
from test_detect_scan import maps

import ml4ad
from ml4ad import cli, detect, pictures
from ml4ad.detect import Detector, Trial, named
from ml4ad.detect.evaluate import Protocol
from ml4ad.pipelines import evaluation

QUICK = Protocol(n_trials=4, seed=5)


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as archive:
        yield archive


def planned(archive, me="Pixel/*", **given):
    wanted = {"detectors": ["PCA"], "others": False, "protocol": QUICK}
    return evaluation.plan(archive, me, DATASET, **(wanted | given))


def test_a_report_is_written_and_can_be_repeated(archive, tmp_path, capsys, monkeypatch):
    good_runs(archive, tmp_path, mes=(LINE,), runs=(1, 2), n_ls=30)
    monkeypatch.chdir(tmp_path)
    words = ("--dataset", DATASET, "--me", "Pixel/*", "--trials", "2")
    own = "sklearn.svm.OneClassSVM(nu=0.05, gamma=50)"
    with pytest.raises(SystemExit) as left:
        cli.main(["evaluate", *words, "--no-others", "--detector", "PCA", "--detector", own])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert "report: evaluation/report.html" in printed
    page = (tmp_path / "evaluation/report.html").read_text()
    for text in (LINE, "OneClassSVM(nu=0.05, gamma=50)", "60 of 2 runs", "dead_region"):
        assert text in page
    assert page.count("data:image/png;base64,") == 2
    loaded = re.findall(r'(?:src|href)="(?!data:)[^"]*"', page)
    assert not loaded
    header = (tmp_path / "evaluation/table.csv").read_text().splitlines()[0]
    assert header.startswith("me,detector,fault,auc,fpr_at_99,fdr_at_99,tpr_at_1e-3,found_in_1")

    again = ["evaluate", "--again", "evaluation/evaluation.json", "--out", "again"]
    with pytest.raises(SystemExit) as left:
        cli.main(again)
    assert left.value.code == 0
    assert "all numbers but times are the same" in capsys.readouterr().out
    ours, theirs = (
        json.loads((tmp_path / f"{name}/evaluation.json").read_text())
        for name in ("evaluation", "again")
    )
    assert ours["found"] == theirs["found"]
    assert len(ours["found"]) > 100

    name = next(key for key in theirs["found"] if key.endswith("/auc"))
    theirs["found"][name] = "0.123"
    (tmp_path / "again/evaluation.json").write_text(json.dumps(theirs))
    with ml4ad.connect() as here:
        result = evaluation.carry_out(here, evaluation.read(tmp_path / "again/evaluation.json"))
    assert evaluation.differences(result, tmp_path / "again/evaluation.json") == [
        f"{name}: {ours['found'][name]}, it was 0.123"
    ]


def test_other_histograms_are_told_from_those_of_the_report(archive, tmp_path):
    good_runs(archive, tmp_path, mes=(LINE,), runs=(1, 2, 3), n_ls=30)
    plan = planned(archive)
    page = evaluation.write(evaluation.carry_out(archive, plan), tmp_path / "out")
    kept = page.with_name("evaluation.json")
    assert evaluation.read(kept) == replace(plan)
    put(archive, tmp_path, histograms(LINE, 4, n_ls=30))
    fewer = replace(plan, lumisections={1: [(1, 30)], 2: [(1, 30)], 3: [(1, 29)]})
    told = evaluation.differences(evaluation.carry_out(archive, fewer), kept)
    assert told[0] == f"{LINE}: histograms or conditions are not those of {kept}"


def test_plans_and_what_came_of_them_travel_to_workers_and_back(archive, tmp_path):
    good_runs(archive, tmp_path, mes=(LINE,), runs=(1, 2), n_ls=30)
    function, plan = pickle.loads(pickle.dumps((evaluation._evaluated, planned(archive))))  # noqa: S301
    found, digest = pickle.loads(pickle.dumps(function(archive, plan, LINE)))  # noqa: S301
    result = evaluation.Result(plan, {LINE: found}, {}, {LINE: digest})
    evaluation.write(evaluation.carry_out(archive, plan), tmp_path / "out")
    assert evaluation.differences(result, tmp_path / "out" / "evaluation.json") == []


def test_an_element_that_cannot_be_evaluated_does_not_stop_the_others(archive, tmp_path):
    good_runs(archive, tmp_path, mes=(LINE,), runs=(1, 2, 3), n_ls=30)
    put(archive, tmp_path, histograms("Once/only", 9, n_ls=30), histograms("A/<b>", 9, n_ls=30))
    put(archive, tmp_path, histograms("A/<b>", 10, n_ls=30, n_bins=21))
    result = evaluation.carry_out(archive, planned(archive, "*"))
    assert list(result.evaluations) == [LINE]
    assert "1 runs to evaluate on, want at least 2" in result.refused["Once/only"]
    assert "binning of x differs" in result.refused["A/<b>"]
    page = evaluation.write(result, tmp_path / "out").read_text()
    assert "A/&lt;b&gt;" in page
    assert "<b>" not in page
    with pytest.raises(ValueError, match="none of 1 elements could be evaluated: Once/only: 1 r"):
        evaluation.carry_out(archive, planned(archive, "Once/*"))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"me": "Nothing/*"}, KeyError, "no element fits"),
        ({"run_number": [99]}, ValueError, "no good lumisection"),
        ({"golden": "nowhere"}, KeyError, "nowhere"),
        ({"detectors": []}, ValueError, "no detector to evaluate"),
        ({"detectors": ["Psychic"]}, ValueError, "detector 'Psychic', want one of default"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(archive, tmp_path, given, error, words):
    good_runs(archive, tmp_path, mes=(LINE,), runs=(1, 2), n_ls=5)
    with pytest.raises(error, match=words):
        planned(archive, **given)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: "{", "no JSON"),
        (lambda _: "[]", "not an evaluation"),
        (lambda own: own.replace('"version": 1', '"version": 2', 1), "format version 2, this"),
        (lambda own: own.replace('"dataset"', '"data"'), "damaged, 'dataset' is missing"),
    ],
    ids=["cut", "foreign", "newer", "damaged"],
)
def test_a_file_that_is_no_evaluation_is_refused(archive, tmp_path, change, words):
    good_runs(archive, tmp_path, mes=(LINE,), runs=(1, 2), n_ls=30)
    result = evaluation.carry_out(archive, planned(archive, faults=[Trial("swap", (2,), n_ls=3)]))
    path = tmp_path / "evaluation.json"
    path.write_text(change(evaluation.dumps(result)))
    with pytest.raises(ValueError, match=words):
        evaluation.read(path)


def test_the_command_wants_something_to_evaluate(database_url, capsys):
    del database_url
    with pytest.raises(SystemExit) as left:
        cli.main(["evaluate", "--dataset", DATASET])
    assert left.value.code == 2
    assert "want --dataset and --me, or --again" in capsys.readouterr().err


# -- an analyst's own ----------------------------------------------------------------------------


class FarMean(Detector):
    """How far the mean of the axis is from what is usual."""

    def _fit(self, training, conditions):
        del conditions
        self.usual_ = self._means(training.counts).mean()

    def _score(self, stack, rows, conditions):
        del conditions
        return np.abs(self._means(stack.values()[rows]) - self.usual_)

    def _means(self, counts):
        return counts @ np.arange(counts.shape[1]) / counts.sum(axis=1)


def test_a_detector_of_ones_own_is_evaluated_in_three_lines():
    good = [charges(run) for run in range(1, 5)]
    mine = {"mean": FarMean(), "neighbours": LocalOutlierFactor(novelty=True)}
    found = detect.evaluate(mine, good, faults=[Trial("gain_shift", (), 0.05, 3)], n_trials=6)
    table = found.table.droplevel("fault")
    assert table.loc["mean", "auc"] == 1
    assert table.loc["mean", "found_in_1"] == 1
    assert set(table.index) == {"mean", "neighbours"}
    with pytest.raises(TypeError, match="or an unfitted outlier detector"):
        detect.evaluate({"class": OneClassSVM}, good)
    with pytest.raises(ValueError, match="0 detectors and 6 faults"):
        detect.evaluate({}, good)


def test_what_is_told_of_a_detector_follows_from_its_scores():
    """A detector that knows nothing finds nothing, and its curves say so."""

    class Guessing(FarMean):
        def _score(self, stack, rows, conditions):
            del conditions
            seeds = stack.values()[rows].astype(np.int64).reshape(len(rows), -1).sum(axis=1)
            return np.array([np.random.default_rng(seed).normal() for seed in seeds])

    good = [charges(run) for run in range(1, 7)]
    faults = [Trial("gain_shift", (), 0.2, 20), Trial("dead_region", (9,), n_ls=20)]
    found = detect.evaluate(
        {"guess": Guessing()}, good, faults=faults, n_trials=60, prevalence=0.1, seed=2
    )
    assert found.table["auc"].between(0.35, 0.65).all()
    assert (found.table["found_in_1"] <= 0.1).all()
    # Nearly everything must be called bad to catch 99 %: then nine in ten are false.
    assert (found.table["fdr_at_99"] > 0.85).all()
    for key, delay in found.delays.items():
        assert delay.shape == (60,)
        assert found.table.loc[key, "found_in_3"] == (delay <= 3).mean()
    for false, true in found.curves.values():
        assert false[0] == true[0] == 0
        assert false[-1] == true[-1] == 1


def test_a_fault_that_is_there_from_the_start_begins_with_the_run():
    trial = Trial("dead_region", (4, 4), n_ls=5, from_start=True)
    for seed in range(5):
        assert trial.drawn(maps(3), np.random.default_rng(seed)).first_ls == 1
    assert str(trial) == "dead_region 4 x 4 from the start"
    found = detect.evaluate(
        detect.NearestReference(), [maps(1), maps(2)], faults=[trial], n_trials=2
    )
    assert np.isfinite(found.table["auc"]).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n_trials": 0}, "0 trials"),
        ({"contamination": 0.7}, "contamination 0.7"),
        ({"prevalence": 0.0}, "prevalence 0"),
        ({"false_alarms": -1.0}, "-1.0 false alarms"),
    ],
)
def test_a_protocol_that_makes_no_sense_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        detect.evaluate(FarMean(), [charges(1), charges(2)], **given)


# -- by name -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["default", "nmf", "NearestReference", "Combined()"])
def test_ours_are_named_as_they_are_called(text):
    assert isinstance(named.detector(text), Detector)


def test_parameters_stand_in_brackets_or_beside():
    assert named.detector("PCA(n_components=7)").n_components == 7
    assert named.detector("PCA", {"n_components": 7}).n_components == 7
    own = named.detector(f"{__name__}.FarMean")
    assert isinstance(own, FarMean)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Psychic", "want one of default, .*NearestReference.*, or module.Name"),
        ("PCA(colour=1)", "Invalid parameter 'colour'"),
        ("PCA(7)", "a value without a name"),
        ("PCA(n_components=print(1))", "want Name, module.Name"),
        ("PCA; import os", "want Name, module.Name"),
        ("[1][0]", "no name of a class"),
        ("os.system", "is no estimator"),
        ("nolab.Mine", "No module named 'nolab'"),
        ("sklearn.svm.Nothing", "no attribute 'Nothing'"),
        ("sklearn.cluster.KMeans", "want a detector of ml4ad.detect, or an unfitted outlier"),
        ("sklearn.pipeline.Pipeline", "required positional argument"),
    ],
)
def test_a_name_that_means_nothing_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        named.detector(text)


def test_a_curve_without_false_positives_is_drawn_at_the_left_edge():
    """Not at half of its own lowest rate, which may be 1."""
    perfect, usual = ([0, 0, 1], [0, 1, 1]), ([0, 0.01, 1], [0, 0.5, 1])
    figure = pictures.roc({"dead": {"perfect": perfect, "usual": usual}, "hot": {"p": perfect}})
    left, right = figure.axes[:2]
    for ax in (left, right):
        np.testing.assert_allclose(ax.get_xlim(), (0.005, 1))
        np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.005, 0.005, 1])


def test_the_share_that_is_found_rises_with_the_lumisections():
    figure = pictures.delays({"dead": {"own": [1, 3, np.inf, 2]}}, n_ls=4)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [0.25, 0.5, 0.75, 0.75])


def test_nothing_is_no_picture():
    for draw in (pictures.roc, pictures.delays):
        with pytest.raises(ValueError, match="no panel"):
            draw({})


OWN = """
[[faults]]
kind = "dead_region"
size = [2]
strength = 0.5
n_ls = 4
name = "half of two bins"

[[faults]]
kind = "gain_shift"
from_start = true
"""


def test_faults_of_ones_own_are_put_in_and_kept_with_the_result(archive, tmp_path, monkeypatch):
    good_runs(archive, tmp_path, mes=(LINE,), runs=(1, 2), n_ls=30)
    monkeypatch.chdir(tmp_path)
    Path("faults.toml").write_text(OWN)
    words = ["--dataset", DATASET, "--me", "Pixel/*", "--trials", "2", "--no-others"]
    with pytest.raises(SystemExit) as left:
        cli.main(["evaluate", *words, "--detector", "PCA", "--faults", "faults.toml"])
    assert left.value.code == 0
    wanted = evaluation.faults("faults.toml")
    assert [str(own) for own in wanted] == ["half of two bins", "gain_shift from the start"]
    assert evaluation.read("evaluation/evaluation.json").faults == wanted
    page = Path("evaluation/report.html").read_text()
    for text in ("half of two bins", "a range of bins loses entries", "2 (30)", "below 3.3 %"):
        assert text in page
    as_json = [{"kind": "dead_region", "size": [2], "strength": 0.5, "n_ls": 4}]
    for content in (as_json, {"faults": as_json}):
        Path("faults.json").write_text(json.dumps(content))
        assert evaluation.faults("faults.json") == (Trial("dead_region", (2,), 0.5, 4),)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[faults]]\nkind = 'dead'", "fault 1: fault 'dead', want one of dead_cell, dead_region"),
        ("[[faults]]\nkind = 3", "fault 1: kind 3, want str"),
        ("[[faults]]\nsize = [3]", r"fault 1: {.size.: \[3\]}, want at least its kind"),
        ("[[faults]]\nkind = 'hv_off'", "fault 1: hv_off: no size, want bins per axis"),
        ("[[faults]]\nkind = 'hv_off'\nsize = [0]", r"hv_off 0: \[0\] bins, want at least 1"),
        ("[[faults]]\nkind = 'hv_off'\nsize = [1.5]", r"size \[1.5\], want whole numbers"),
        ("[[faults]]\nkind = 'hv_off'\nsize = 4", "size 4, want list"),
        ("[[faults]]\nkind = 'hv_off'\nsize = [4]\nstrength = 2", "strength 2, want 0 to 1"),
        ("[[faults]]\nkind = 'hv_off'\nsize = [4]\nn_ls = true", "n_ls True, want int"),
        ("[[faults]]\nkind = 'hv_off'\nsize = [4]\nn_ls = 0", "0 lumisections, want at least 1"),
        ("[[faults]]\nkind = 'hv_off'\nsize = [4]\nwhere = 1", "'where', want one of kind, size"),
        ("[[faults]]\nkind = 'gain_shift'\nsize = [4]", "want none: it takes everything"),
        ("[[faults]]\nkind = 'smear'", "smear of strength 0, want more"),
        ("[[faults]]\nkind = 'missing_element'", "leaves nothing to be scored"),
        ("[[faults]]\nkind = 'empty'\n" * 2, "'empty' twice: want another name"),
        ("faults = []", "want a list of faults"),
        ("faults = 3", "want a list of faults"),
        ("x =", "no TOML"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_with_its_value(tmp_path, text, told):
    path = tmp_path / "faults.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=told) as refused:
        evaluation.faults(path)
    assert str(refused.value).startswith(str(path))
