"""Training, scores of every lumisection, and incidents, on real files in a real database."""

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scored_samples import (
    DATASET,
    LINE,
    MAP,
    OTHER,
    good_runs,
    histograms,
    judged,
    put,
    quick,
    with_hole,
)
from test_registry import newer

import ml4ad
from ml4ad import Axis, HistogramStack, cli, cluster, conditions, detect
from ml4ad.detect import reasons, registry
from ml4ad.detect.alarms import refresh
from ml4ad.detect.base import Place, describe
from ml4ad.detect.calibrate import Tail
from ml4ad.detect.episodes import find
from ml4ad.detect.train import calibration_scores, careful_tail
from ml4ad.settings import Settings
from ml4ad.store import scoring

# -- incidents ------------------------------------------------------------------------------------

ALPHA = np.log(1e-4)


def of(**log_p):
    arrays_of = {me: np.asarray(own, dtype=float) for me, own in log_p.items()}
    n_ls = len(next(iter(arrays_of.values())))
    return find(7, np.arange(1, n_ls + 1), arrays_of, ALPHA)


def strange(first, last, *, n_ls=60, log_p=-20.0):
    out = np.zeros(n_ls)
    out[first - 1 : last] = log_p
    return out


def test_a_quiet_run_has_no_incident():
    assert of(a=np.zeros(50), b=np.full(50, np.nan)) == []


def test_elements_that_begin_together_are_one_incident_and_the_clearest_leads():
    (only,) = of(a=strange(11, 20), b=np.zeros(60), c=strange(13, 30, log_p=-50.0))
    assert only.elements == ("c", "a")
    assert (only.first_ls, only.last_ls) == (11, 30)
    assert not only.open


def test_a_fault_that_lasts_all_run_does_not_swallow_another():
    found = of(a=strange(6, 60), b=strange(41, 45, log_p=-50.0), c=strange(42, 44))
    assert [own.elements for own in found] == [("b", "c"), ("a",)]
    assert [own.open for own in found] == [False, True]


def test_faults_one_after_the_other_stay_apart():
    found = of(a=strange(5, 6), b=strange(8, 9, log_p=-50.0))
    assert [own.elements for own in found] == [("b",), ("a",)]


scores_of_runs = arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.integers(1, 40)),
    elements=st.sampled_from([np.nan, 0.0, float(ALPHA) + 1, -15.0, -30.0]),
)


@given(scores_of_runs)
def test_every_alarm_is_in_an_incident_of_its_element(log_p):
    found = of(**{str(i): own for i, own in enumerate(log_p)})
    for row, column in zip(*np.nonzero(log_p < ALPHA), strict=True):
        assert any(
            str(row) in own.elements and own.first_ls <= column + 1 <= own.last_ls for own in found
        )
    assert [own.log10_p for own in found] == sorted(own.log10_p for own in found)


# -- training ------------------------------------------------------------------------------------


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened


def trained(archive, me="*", **given):
    wanted = {"name": "all", "detector": quick(), "run_number": [1, 2, 3]}
    model_id = detect.train(archive, me, DATASET, **(wanted | given))
    detect.activate(archive, model_id)
    return model_id


def test_a_model_records_what_it_learned_from(archive, tmp_path):
    good_runs(archive, tmp_path)
    model_id = trained(archive, lumisections={1: [[1, 30]], 2: [[1, 40]]}, run_number=None)
    model = registry.get(archive, model_id)
    assert model.selection["lumisections"] == {"1": [[1, 30]], "2": [[1, 40]]}
    assert model.selection["n_lumisections"] == 70
    assert model.metrics["n_elements"] == 2
    assert model.datasets == ["/ZeroBias/*/DQMIO"]
    found = registry.elements(archive, model_id).set_index("me")
    assert found["n_lumisections"].tolist() == [70, 70]
    assert found["n_calibration"].tolist() == [70, 70]
    assert found["below_1e-2"].between(0, 1).all()


def test_an_element_that_cannot_be_learned_does_not_stop_the_others(archive, tmp_path):
    good_runs(archive, tmp_path, mes=(LINE,))
    constant = HistogramStack.from_arrays(
        np.eye(1, 20).repeat(40, axis=0) * 500,
        [Axis.regular(20, 0, 1)],
        ls_numbers=np.arange(1, 41),
        run_number=4,
        me="Flat/constant",
    )
    few = histograms("Short/few", 4, n_ls=5)
    other = histograms("Changed/binning", 4, n_bins=20)
    again = histograms("Changed/binning", 5, n_bins=25)
    put(archive, tmp_path, constant, few, other)
    put(archive, tmp_path, again)
    model_id = trained(archive, run_number=None)
    why = registry.elements(archive, model_id).set_index("me")["reason"]
    assert why[LINE] == ""
    assert "constant" in why["Flat/constant"]
    assert "5 usable lumisections of 5" in why["Short/few"]
    assert "binning of x differs" in why["Changed/binning"]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"me": "Nothing/*"}, KeyError, "no element fits"),
        ({"run_number": [99]}, ValueError, "no lumisection to learn from: 0 of"),
        ({"where": "pileup > 20"}, ValueError, "120 of them without conditions"),
        ({"detector": "Psychic"}, ValueError, "want one of default, .*NearestReference"),
        ({"detector": "scan", "parameters": {"colour": 1}}, ValueError, "colour"),
        ({"golden": "nowhere"}, KeyError, "nowhere"),
        ({"name": "a:b"}, ValueError, "no colon"),
    ],
)
def test_a_training_that_cannot_be_is_refused(archive, tmp_path, given, error, words):
    good_runs(archive, tmp_path, mes=(LINE,))
    with pytest.raises(error, match=words):
        trained(archive, **given)
    assert len(detect.models(archive)) == 0


def test_a_training_without_any_success_leaves_nothing(archive, tmp_path):
    good_runs(archive, tmp_path, mes=(LINE,), runs=(1,), n_ls=5)
    with pytest.raises(ValueError, match="nothing learned of 1 elements: Pixel/Charge/layer_1: 5"):
        trained(archive, run_number=None)
    assert len(detect.models(archive)) == 0


# -- scores --------------------------------------------------------------------------------------


def test_a_fault_becomes_an_incident_with_its_element_and_lumisections(archive, tmp_path):
    good_runs(archive, tmp_path)
    trained(archive)
    bad = with_hole(histograms(MAP, 8), 21, 26)
    put(archive, tmp_path, histograms(LINE, 8), bad)
    done = detect.score(archive, run_number=8)
    assert done[["n_elements", "n_ls", "n_scored", "n_failed"]].values.tolist() == [[2, 40, 80, 0]]
    (incident,) = detect.incidents(archive, 8).to_dict("records")
    assert (incident["first_ls"], incident["last_ls"]) == (21, 26)
    assert incident["mes"] == [MAP]
    assert not incident["open"]
    assert incident["direction"] in ("empty", "low")
    (low, high), _ = incident["place"]["ranges"]
    assert (low, high) == (2.0, 4.0)
    assert "map: " in incident["sentence"]
    assert incident["reference"][0][0] in (1, 2, 3)
    flagged = detect.scores(archive, 8).query("flagged")
    assert set(flagged["me"]) == {MAP}
    assert flagged["ls_number"].tolist() == list(range(21, 27))


def test_workers_in_other_processes_say_the_same(archive, tmp_path):
    good_runs(archive, tmp_path)
    put(archive, tmp_path, histograms(LINE, 8), with_hole(histograms(MAP, 8), 21, 26))
    alone = trained(archive, name="alone")
    with cluster.client(Settings(), workers=2) as client:
        spread = trained(archive, name="spread", client=client)
        done = detect.score(archive, ["alone", "spread"], run_number=8, client=client)
    assert done["n_incidents"].tolist() == [1, 1]
    first, second = (detect.score_map(archive, m, DATASET, 8) for m in (alone, spread))
    assert first.mes == second.mes == (MAP, LINE)
    assert np.array_equal(first.scores, second.scores)
    assert np.array_equal(first.log_p, second.log_p)


def damage(archive, model_id, me, change):
    table = scoring.model_element
    number = registry.me_ids(archive, [me])[me]
    own = sa.and_(table.c.model_id == model_id, table.c.me_id == number)
    with archive.engine.begin() as connection:
        artefact = connection.scalar(sa.select(table.c.artefact).where(own))
        connection.execute(sa.update(table).where(own).values(artefact=change(artefact)))


def test_every_lumisection_has_a_score_or_the_reason_why_not(archive, tmp_path):
    mes = [LINE, *(f"Case/{c}" for c in ("vanished", "binning", "nan", "low", "old", "newer"))]
    good_runs(archive, tmp_path, mes=mes)
    model_id = trained(archive)
    damage(archive, model_id, "Case/old", lambda own: own[:100])
    damage(archive, model_id, "Case/newer", newer)
    broken = histograms("Case/nan", 8)
    broken.contents[4, 3] = np.nan
    put(
        archive,
        tmp_path,
        histograms(LINE, 8).select([[1, 10], [15, 40]]),
        histograms("Case/binning", 8, n_bins=30),
        broken,
        histograms("Case/low", 8, entries=20),
        histograms("Case/old", 8),
        histograms("Case/newer", 8),
        histograms("Case/new", 8),
    )
    detect.score(archive, run_number=8)
    found = detect.scores(archive, 8)
    assert (found["score"].isna() == (found["reason"] != "")).all()
    assert found.groupby("me", observed=True).size().eq(40).all()
    why = {me: dict(own.groupby("reason").size()) for me, own in found.groupby("me", observed=True)}
    assert why == {
        LINE: {"": 36, "absent": 4},
        "Case/vanished": {"absent": 40},
        "Case/binning": {"other binning": 40},
        "Case/nan": {"": 39, "not finite": 1},
        "Case/low": {"low statistics": 40},
        "Case/old": {"model unreadable": 40},
        "Case/newer": {"model unreadable": 40},
        "Case/new": {"no model": 40},
    }
    told = detect.score_map(archive, model_id, DATASET, 8).details
    assert "binning of x differs" in told["Case/binning"]
    assert "this program reads" in told["Case/newer"]
    assert "has not learned" in told["Case/new"]


def test_only_what_is_new_is_scored(archive, tmp_path):
    good_runs(archive, tmp_path, mes=(LINE,))
    trained(archive)
    assert detect.score(archive)["run_number"].tolist() == [1, 2, 3]
    assert detect.score(archive).empty
    before = detect.scores(archive, 3)
    put(archive, tmp_path, histograms(LINE, 3, first_ls=41, n_ls=10))
    assert detect.score(archive)["run_number"].tolist() == [3]
    after = detect.scores(archive, 3)
    assert len(after) == 50
    pd.testing.assert_frame_equal(after.iloc[:40], before)
    assert detect.score(archive, new_only=False)["run_number"].tolist() == [1, 2, 3]
    pd.testing.assert_frame_equal(detect.scores(archive, 3), after)


def test_a_detector_without_memory_looks_only_at_what_is_new(archive, tmp_path, monkeypatch):
    good_runs(archive, tmp_path, mes=(LINE,))
    trained(archive)
    detect.score(archive, run_number=3)
    put(archive, tmp_path, histograms(LINE, 3, first_ls=41, n_ls=10))
    looked_at = []
    whole = detect.NearestReference.score_samples

    def watched(self, stack, conditions=None):
        looked_at.append(stack.ls_numbers.tolist())
        return whole(self, stack, conditions)

    monkeypatch.setattr(detect.NearestReference, "score_samples", watched)
    detect.score(archive, run_number=3)
    assert looked_at == [list(range(41, 51))]


class Boasting(detect.NearestReference):
    """A detector whose p-values are far too small."""

    def tail(self, scores):
        own = super().tail(scores)
        return Tail(own.location, own.width / 10)


def test_a_detector_that_boasts_is_believed_less():
    stacks = [histograms(LINE, run) for run in (1, 2, 3)]
    detector = Boasting().fit(stacks)
    scores = calibration_scores(detector, stacks, pd.DataFrame())
    tail = careful_tail(detector, scores)
    assert tail == Tail.fit(detector.strain(scores))
    assert tail.threshold(1e-5) > detector.tail(scores).threshold(1e-5)


def test_conditions_that_come_later_are_looked_at(archive, tmp_path):
    good_runs(archive, tmp_path, mes=(LINE,))
    trained(archive)
    detect.score(archive)
    known = pd.DataFrame(
        {"pileup": [30.0]},
        index=pd.MultiIndex.from_tuples([(2, 5)], names=["run_number", "ls_number"]),
    )
    conditions.load(archive, conditions.Conditions("here", lumisections=known))
    assert detect.score(archive)["run_number"].tolist() == [2]


def test_what_failed_is_tried_again(archive, tmp_path):
    good_runs(archive, tmp_path, mes=(LINE, OTHER))
    model_id = trained(archive)
    kept = {}

    def spoil(artefact):
        kept["artefact"] = artefact
        return b"nonsense"

    damage(archive, model_id, LINE, spoil)
    assert detect.score(archive, run_number=1)["n_failed"].tolist() == [1]
    damage(archive, model_id, LINE, lambda _: kept["artefact"])
    again = detect.score(archive, run_number=1)
    assert again[["n_elements", "n_failed"]].values.tolist() == [[1, 0]]
    assert (detect.scores(archive, 1)["reason"] == "").all()


def test_an_incident_keeps_its_number_while_it_grows(archive, tmp_path):
    good_runs(archive, tmp_path, mes=(LINE,))
    model_id = trained(archive)
    put(archive, tmp_path, with_hole(histograms(LINE, 8), 31, 40))
    detect.score(archive, run_number=8)
    (first,) = detect.incidents(archive, 8).to_dict("records")
    assert first["open"]
    assert refresh(archive, model_id, DATASET, 8) == 1
    assert detect.incidents(archive, 8).to_dict("records") == [first]
    more = histograms(LINE, 8, first_ls=41, n_ls=20)
    put(archive, tmp_path, with_hole(more, 41, 45))
    detect.score(archive, run_number=8)
    (second,) = detect.incidents(archive, 8).to_dict("records")
    assert second["incident_id"] == first["incident_id"]
    assert (second["first_ls"], second["last_ls"], second["open"]) == (31, 45, False)


def test_an_incident_that_is_no_more_is_gone(database_url):
    log_p = np.zeros((1, 20))
    log_p[0, 4] = -40
    with judged(database_url, log_p) as archive:
        assert refresh(archive, "model", DATASET, 7) == 1
        registry.activate(archive, "model", false_alarms=1e-20)
        assert refresh(archive, "model", DATASET, 7) == 0
        assert detect.incidents(archive, 7).empty


def test_a_model_that_cannot_explain_leaves_the_alarm_standing(database_url):
    log_p = np.zeros((2, 20))
    log_p[:, 4:7] = -40
    with judged(database_url, log_p) as archive:
        refresh(archive, "model", DATASET, 7)
        (only,) = detect.incidents(archive, 7)["sentence"]
        assert only == "e0: unlike all known-good lumisections in LS 5 to 7; and 1 more element"
        assert len(detect.incidents(archive, me="Pixel/e1")) == 1


@pytest.mark.parametrize(
    ("since", "said"),
    [
        (5, "empty since LS 5; expected 400, seen 0"),
        # Too weak at first, or another element began before.
        (3, "empty since LS 3; expected 400, seen 0; alarm since LS 5"),
        (6, "empty since LS 6; expected 400, seen 0; alarm since LS 5"),
        # Of one lumisection alone.
        (None, "empty in LS 9; expected 400, seen 0; alarm since LS 5"),
    ],
)
def test_words_and_numbers_tell_one_beginning(database_url, monkeypatch, since, said):
    log_p = np.zeros((1, 20))
    log_p[0, 4:12], log_p[0, 8] = -40, -50
    stack = histograms("Pixel/e", 7, n_ls=20)
    place = Place.of(stack.axes, [(1, 4)])
    reason = describe(stack, 9, 50.0, place, 0.0, 400.0, since=since)
    monkeypatch.setattr("ml4ad.detect.alarms.explain", lambda *_: reason)
    with judged(database_url, log_p, mes=["Pixel/e"]) as archive:
        refresh(archive, "model", DATASET, 7)
        (found,) = detect.incidents(archive, 7).to_dict("records")
        assert (found["first_ls"], found["peak_ls"]) == (5, 9)
        assert found["sentence"] == f"e: 4 bins at charge = 1.5 ke, {said}"


def test_words_follow_what_is_scored_later(database_url):
    log_p = np.zeros((2, 20))
    log_p[0, 4:7] = -40
    with judged(database_url, log_p) as archive:
        model = registry.get(archive, "model")
        refresh(archive, model, DATASET, 7)
        log_p[:, 4:9] = -40
        scored = detect.score_map(archive, model, DATASET, 7)
        rewrite(archive, scored, log_p)
        refresh(archive, model, DATASET, 7)
        (only,) = detect.incidents(archive, 7)["sentence"]
        assert only == "e0: unlike all known-good lumisections in LS 5 to 9; and 1 more element"


def rewrite(archive, scored, log_p):
    """Other scores of the same lumisections."""
    with archive.engine.begin() as connection:
        for me_id, own in zip(scored.me_ids, log_p, strict=True):
            packed = own.astype("<f8").tobytes()
            changed = sa.update(scoring.score).where(scoring.score.c.me_id == me_id)
            connection.execute(changed.values(log_p=packed, least_log_p=float(own.min())))


def test_listeners_are_told_of_incidents(database_url):
    with judged(database_url, np.zeros((1, 20))) as archive:
        listener = archive.engine.raw_connection()
        listener.driver_connection.autocommit = True
        listener.driver_connection.execute(f"LISTEN {scoring.CHANNEL}")
        refresh(archive, "model", DATASET, 7)
        (told,) = listener.driver_connection.notifies(timeout=10, stop_after=1)
        listener.close()
    assert '"run_number": 7' in told.payload


def test_two_models_are_compared_on_what_both_scored(archive, tmp_path):
    good_runs(archive, tmp_path, mes=(LINE,))
    put(archive, tmp_path, with_hole(histograms(LINE, 8), 11, 20))
    for name in ("a", "b"):
        trained(archive, name=name)
    with pytest.raises(ValueError, match=r"model a:1 has not scored run 8"):
        detect.compare(archive, "a", "b", DATASET, 8)
    detect.score(archive, run_number=8)
    (row,) = detect.compare(archive, "a", "b", DATASET, 8).to_dict("records")
    assert row["me"] == LINE
    assert row["correlation"] == pytest.approx(1)
    assert (row["flagged_both"], row["first_onset"]) == (10, 11)


def test_nothing_is_scored_without_an_active_model(archive, tmp_path):
    good_runs(archive, tmp_path, mes=(LINE,), runs=(1,))
    with pytest.raises(ValueError, match="no model is active"):
        detect.score(archive)
    with pytest.raises(KeyError, match="no model 'x'"):
        detect.score(archive, "x")
    assert detect.scores(archive).empty
    assert detect.incidents(archive).empty


def test_reasons_have_numbers_that_stay():
    assert reasons.texts(np.array([0, 1, 5, 8, 250], dtype=np.uint8)).tolist() == [
        *("", "absent", "other binning", "no model", "other")
    ]


# -- commands ------------------------------------------------------------------------------------


def run(*arguments):
    with pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    return left.value.code


def test_the_commands_go_from_training_to_incidents(archive, tmp_path, capsys):
    good_runs(archive, tmp_path, mes=(LINE,))
    put(archive, tmp_path, with_hole(histograms(LINE, 8), 11, 20))
    common = ["--dataset", DATASET, "--me", "Pixel/*", "--detector", "nearestreference"]
    assert run("train", *common, "--runs", "1-3", "--name", "pixel") == 0
    assert "model pixel:1 (candidate): 1 elements of 120 lumisections" in capsys.readouterr().out
    assert run("score") == 1
    assert "no model is active" in capsys.readouterr().err
    assert run("models", "activate", "pixel", "--why", "first") == 0
    assert run("score", "--run", "8", "--workers", "1") == 0
    assert "1 runs scored, 1 incidents" in capsys.readouterr().out
    assert run("incidents", "--run", "8") == 0
    assert "layer_1: " in capsys.readouterr().out
    assert run("models") == 0
    assert "pixel\t1\tactive\tNearestReference" in capsys.readouterr().out
    assert run("models", "show", "pixel") == 0
    assert "learned from: n_lumisections\t120" in capsys.readouterr().out
    assert run("models", "retire", "pixel:1") == 0
    assert run("score", "--run", "999") == 1
    assert "no run 999" in capsys.readouterr().err
    assert run("train", *common, "--runs", "x", "--name", "pixel") == 2
