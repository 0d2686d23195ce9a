"""From scores and people's words to good, bad and not assessed."""

import json

import numpy as np
import pandas as pd
import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from scored_samples import DATASET, judged

from ml4ad import cli, conditions, detect, verdict, workspaces
from ml4ad.conditions import ranges
from ml4ad.detect.alarms import refresh
from ml4ad.store import dimensions, scoring

NAN = np.nan
LOUD = -40.0

#: Eight lumisections of two elements: 3 alarms in the first, 6 was not assessed in the second.
SCORES = [[0, 0, LOUD, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, NAN, 0, 0]]


@pytest.fixture
def archive(database_url):
    with judged(database_url, SCORES, mes=["Pixel/a", "Ecal/b"]) as opened:
        yield opened


def states(archive, **given):
    return "".join(state[0] for state in verdict.states(archive, DATASET, 7, **given)["state"])


def test_a_lumisection_is_good_only_if_all_was_assessed_and_nothing_alarms(archive):
    assert states(archive) == "ggbggngg"
    found = verdict.states(archive, DATASET, 7).set_index("ls_number")
    assert found.loc[3, "reason"] == "Pixel/a: p = 4.2e-18"
    assert found.loc[6, "reason"] == "Ecal/b: low statistics"
    assert found.loc[1, "reason"] == ""
    assert found["n_assessed"].tolist() == [2, 2, 2, 2, 2, 1, 2, 2]
    assert not found["by_person"].any()


def test_how_much_must_be_assessed_can_be_said(archive):
    assert states(archive, min_assessed=0.5) == "ggbggggg"
    with pytest.raises(ValueError, match=r"min_assessed 1\.5, want 0 to 1"):
        states(archive, min_assessed=1.5)


def test_what_was_never_scored_is_never_good(database_url):
    unscored = [[0, 0, 0, 0], [NAN] * 4]
    with judged(database_url, unscored) as archive:
        assert states(archive) == "nnnn"
        reasons = verdict.states(archive, DATASET, 7)["reason"]
        assert reasons.unique().tolist() == ["Pixel/e1: not scored yet"]
        assert states(archive, min_assessed=0) == "gggg"


def test_nothing_assessed_is_not_good_whatever_is_demanded(database_url):
    with judged(database_url, [[NAN, 0]]) as archive:
        assert states(archive, min_assessed=0) == "ng"


def test_without_a_model_nothing_is_good(archive):
    detect.retire(archive, "model")
    assert states(archive) == "n" * 8
    (reason,) = verdict.states(archive, DATASET, 7)["reason"].unique()
    assert reason == "no model has learned an element of this dataset"


def test_a_lumisection_that_only_the_conditions_know_is_not_assessed(archive):
    keys = pd.MultiIndex.from_tuples([(7, 8), (7, 9)], names=["run_number", "ls_number"])
    known = pd.DataFrame({"recorded_lumi": [1.0, 2.0]}, index=keys)
    conditions.load(archive, conditions.Conditions("here", lumisections=known))
    assert states(archive) == "ggbggnggn"
    assert verdict.states(archive, DATASET, 7)["reason"].iloc[-1] == "not in the archive"


def test_an_incident_gives_the_reason(archive):
    refresh(archive, "model", DATASET, 7)
    found = verdict.states(archive, DATASET, 7).set_index("ls_number")
    assert found.loc[3, "reason"] == "a: unlike all known-good lumisections in LS 3"


def test_flags_are_the_scores_that_alarm(archive):
    (flag,) = verdict.flags(archive, 7).to_dict("records")
    assert (flag["me"], flag["run_number"], flag["ls_number"]) == ("Pixel/a", 7, 3)
    assert verdict.flags(archive, 7, me="Ecal/*").empty


# -- people --------------------------------------------------------------------------------------


def add(archive, said, pairs=(1, 8), **given):
    return verdict.add(archive, 7, pairs, said, why="because", by="ann", **given)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("good", "gggggggg"),
        ("bad", "bbbbbbbb"),
        ("not assessed", "nnnnnnnn"),
        ("known", "gggggngg"),
        ("seen", "ggbggngg"),
    ],
)
def test_a_word_on_all_stands_over_the_detectors(archive, said, expected):
    add(archive, said)
    assert states(archive) == expected


def test_a_later_word_counts_and_the_earlier_is_kept(archive):
    add(archive, "bad", (1, 4))
    add(archive, "good", (2, 3))
    add(archive, "seen", (1, 8))
    assert states(archive) == "bggbgngg"
    said = verdict.list_(archive, 7)
    assert said["verdict"].tolist() == ["bad", "good", "seen"]
    assert said["said_by"].unique().tolist() == ["ann"]
    found = verdict.states(archive, DATASET, 7)
    assert found["reason"].iloc[0] == "ann: bad (because)"
    assert found["by_person"].tolist() == [True] * 4 + [False] * 4


def test_a_word_on_an_element_leaves_the_others_alone(archive):
    add(archive, "good", (3, 3), me="Ecal/b")
    assert states(archive) == "ggbggngg"
    add(archive, "good", (3, 3), me="Pixel/a")
    assert states(archive) == "gggggngg"
    add(archive, "bad", (8, 8), me="Ecal/b")
    assert states(archive) == "gggggngb"


def test_a_word_on_a_workspace_is_for_its_elements(archive):
    workspaces.put(
        archive.engine,
        [
            workspaces.Workspace("pix", (DATASET,), ("Pixel/",)),
            workspaces.Workspace("cal", (DATASET,), ("Ecal/",)),
        ],
    )
    assert states(archive, workspace="pix") == "ggbggggg"
    assert states(archive, workspace="cal") == "gggggngg"
    add(archive, "good", (1, 8), workspace="cal")
    assert states(archive, workspace="cal") == "gggggggg"
    assert states(archive, workspace="pix") == "ggbggggg"
    assert states(archive) == "ggbggggg"
    add(archive, "bad", (1, 1), workspace="pix")
    assert states(archive) == "bgbggggg"
    assert states(archive, workspace="cal") == "gggggggg"


def test_a_word_on_another_dataset_does_not_count(archive):
    dimensions.dataset_id(archive.engine, "/Other/Run2024F-v1/DQMIO")
    add(archive, "bad", dataset="/Other/Run2024F-v1/DQMIO")
    assert states(archive) == "ggbggngg"


def test_detectors_scores_are_not_touched_by_words(archive):
    before = detect.scores(archive, 7)
    add(archive, "bad")
    pd.testing.assert_frame_equal(detect.scores(archive, 7), before)


def test_a_word_is_never_changed_or_deleted(archive):
    add(archive, "bad", (1, 4))
    for change in (sa.update(scoring.verdict).values(why="x"), sa.delete(scoring.verdict)):
        with (
            pytest.raises(sa.exc.IntegrityError, match="never changed or deleted") as refused,
            archive.engine.begin() as connection,
        ):
            connection.execute(change)
        assert isinstance(refused.value.orig, psycopg.errors.CheckViolation)
    assert verdict.list_(archive)["why"].tolist() == ["because"]


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"verdict": "fine"}, ValueError, "verdict 'fine', want one of good, bad, known"),
        ({"verdict": "bad", "why": " "}, ValueError, "verdict of 'bad' wants a reason"),
        ({"run_number": 0}, ValueError, "run 0, want 1 to"),
        ({"lumisections": [[5, 3]]}, ValueError, "want 1 <= first <= last"),
        ({"lumisections": []}, ValueError, "no lumisection"),
        ({"lumisections": 0}, ValueError, "want 1 <= first <= last"),
        ({"dataset": "/No/Such/DQMIO"}, KeyError, "no dataset"),
        ({"workspace": "nobody"}, KeyError, "no workspace 'nobody'"),
        ({"me": "Pixel/z"}, KeyError, "no element 'Pixel/z'"),
        ({"incident_id": 5}, KeyError, "incident 5 of run 7: no such incident"),
        ({"by": " "}, ValueError, "want a name of 1 to 255"),
        ({"why": "x" * 5001}, ValueError, "5001 characters of reason"),
    ],
)
def test_a_word_that_cannot_be_is_refused(archive, changed, error, words):
    given = {"run_number": 7, "lumisections": (1, 2), "verdict": "good"}
    with pytest.raises(error, match=words):
        verdict.add(archive, **(given | changed))
    assert verdict.list_(archive).empty


def test_each_range_is_a_verdict_of_its_own(archive):
    numbers = add(archive, "bad", [(1, 2), (3, 3), (8, 8)])
    found = verdict.list_(archive, 7)
    assert found["verdict_id"].tolist() == numbers
    assert found[["first_ls", "last_ls"]].to_numpy().tolist() == [[1, 3], [8, 8]]


# -- certification -------------------------------------------------------------------------------


def test_the_certificate_is_in_three_states_with_reasons(archive, tmp_path):
    found = verdict.certification(archive, DATASET)
    assert found.good == {7: [(1, 2), (4, 5), (7, 8)]}
    assert found.bad == {7: [(3, 3)]}
    assert found["not assessed"] == {7: [(6, 6)]}
    found.write(tmp_path / "cert.json")
    assert json.loads((tmp_path / "cert.json").read_text()) == {"7": [[1, 2], [4, 5], [7, 8]]}
    (reason,) = found.reasons("bad").to_dict("records")
    assert reason == {
        "run_number": 7,
        "first_ls": 3,
        "last_ls": 3,
        "n_ls": 1,
        "reason": "Pixel/a: p = 4.2e-18",
    }
    told = json.loads(found.to_json())
    assert told["bad"] == {"7": [[3, 3]]}
    assert told["demands"]["models"] == ["model:1"]
    assert told["reasons"]["not_assessed"][0]["reason"] == "Ecal/b: low statistics"
    assert found.summary().to_dict("records") == [
        {"run_number": 7, "good": 6, "bad": 1, "not assessed": 1, "outside": 0}
    ]


def test_lists_limit_what_is_asked_for(archive):
    found = verdict.certification(
        archive, DATASET, golden={7: [[2, 4]]}, dcs=[{7: [[1, 3]]}, {7: [[3, 8]]}]
    )
    assert found.good == {}
    assert found.bad == {7: [(3, 3)]}
    assert found.outside == {7: [(1, 2), (4, 8)]}


def test_luminosity_that_is_not_known_is_not_assessed(archive):
    keys = pd.MultiIndex.from_product([[7], [1, 2, 3]], names=["run_number", "ls_number"])
    known = pd.DataFrame({"recorded_lumi": [5.0, 0.1, 5.0]}, index=keys)
    conditions.load(archive, conditions.Conditions("here", lumisections=known))
    found = verdict.certification(archive, DATASET, min_lumi=1.0)
    assert found.good == {7: [(1, 1)]}
    assert found.outside == {7: [(2, 2)]}
    assert found.bad == {7: [(3, 3)]}
    assert found.not_assessed == {7: [(4, 8)]}


def test_the_difference_to_a_given_list_is_told_in_states(archive, tmp_path):
    (tmp_path / "given.json").write_text('{"7": [[2, 6], [10, 11]], "9": [[1, 1]]}')
    found = verdict.certification(archive, DATASET)
    differs = verdict.difference(archive, found, tmp_path / "given.json")
    assert differs == {
        "both": {7: [(2, 2), (4, 5)]},
        "only_here": {7: [(1, 1), (7, 8)]},
        "only_there": {7: [(3, 3), (6, 6), (10, 11)], 9: [(1, 1)]},
        "bad_there": {7: [(3, 3)]},
        "not_assessed_there": {7: [(6, 6)]},
    }


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"run_number": 9}, KeyError, "no run of those asked for"),
        ({"golden": "nowhere.json"}, KeyError, "nowhere.json"),
        ({"workspace": "nobody"}, KeyError, "no workspace"),
        ({"model": "nobody"}, KeyError, "no model"),
        ({"min_lumi": -1.0}, ValueError, "min_lumi -1.0"),
    ],
)
def test_a_certificate_that_cannot_be_is_refused(archive, given, error, words):
    with pytest.raises(error, match=words):
        verdict.certification(archive, DATASET, **given)


cells = st.lists(
    st.lists(st.sampled_from([0.0, LOUD, NAN]), min_size=6, max_size=6), min_size=1, max_size=3
)


@given(cells, st.sampled_from([0.0, 0.5, 1.0]))
def test_states_share_out_all_lumisections(log_p, min_assessed):
    array = np.array(log_p)
    board = verdict._Board(
        {f"e{i}": i for i in range(len(array))},
        len(array),
        np.arange(1, 7),
        np.where(np.isnan(array), 0, np.where(array < -1, 2, 1)).astype(np.int8),
        np.zeros(array.shape, dtype=bool),
        np.full(array.shape, "", dtype=object),
    )
    found = verdict._summary(board, 7, min_assessed, np.zeros(6, dtype=np.int64))
    bad = (array < -1).any(axis=0)
    assert ((found["state"] == "bad").to_numpy() == bad).all()
    good = (found["state"] == "good").to_numpy()
    share = (~np.isnan(array)).mean(axis=0)
    assert (share[good] >= min_assessed).all()
    assert not np.isnan(array[:, good]).all(axis=0).any()


# -- commands ------------------------------------------------------------------------------------


def run(*arguments):
    with pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    return left.value.code


@pytest.mark.usefixtures("archive")
def test_the_commands_certify(tmp_path, capsys):
    out, bad, report = (tmp_path / name for name in ("cert.json", "bad.json", "all.json"))
    words = ["--run", "7", "--ls", "1-2,5", "--why", "layer off", "--by", "ann"]
    assert run("verdict", "add", "bad", *words) == 0
    assert capsys.readouterr().out == "kept as 1, 2\n"
    assert run("verdict", "list", "--run", "7") == 0
    assert "bad\tlayer off" in capsys.readouterr().out
    wanted = ["--out", str(out), "--bad", str(bad), "--report", str(report)]
    assert run("certify", "--dataset", DATASET, *wanted, "--compare", str(out)) == 1
    assert "no file" in capsys.readouterr().err
    assert run("certify", "--dataset", DATASET, *wanted) == 0
    assert ranges.read(out) == {7: [(4, 4), (7, 8)]}
    assert ranges.read(bad) == {7: [(1, 3), (5, 5)]}
    assert json.loads(report.read_text())["not_assessed"] == {"7": [[6, 6]]}
    assert "ann: bad (layer off)" in capsys.readouterr().out
    assert run("certify", "--dataset", DATASET, "--compare", str(out)) == 0
    assert "only_there\t0\t{}" in capsys.readouterr().out
    assert run("verdict", "add", "bad", "--run", "7", "--ls", "x") == 2
    assert run("verdict", "add", "bad", "--run", "7", "--ls", "1") == 1
