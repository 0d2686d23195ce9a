"""The page of models, and what it tells of them, without a browser."""

import re

import numpy as np
import pytest
import scored_samples as samples
import sqlalchemy as sa
from test_dashboards import array

import ml4ad
from ml4ad import conditions, dashboards, detect
from ml4ad.dashboards.models import _beyond_chance
from ml4ad.detect import registry
from ml4ad.detect.calibrate import LS_PER_SHIFT
from ml4ad.detect.compare import compare
from ml4ad.detect.prove import proofs

TRIED = 4


@pytest.fixture(scope="module")
def module_archive(shared_archive, tmp_path_factory):
    """Three good runs, a model of two of them at work, and a candidate; both have scored run 3."""
    samples.good_runs(shared_archive, tmp_path_factory.mktemp("files"), runs=(1, 2, 3))
    common = {"run_number": [1, 2], "detector": samples.quick()}
    first = detect.train(
        shared_archive, [samples.LINE, samples.MAP], samples.DATASET, name="quick", **common
    )
    registry.activate(shared_archive, first)
    second = detect.train(
        shared_archive, samples.LINE, samples.DATASET, name="quick", false_alarms=50, **common
    )
    detect.score(shared_archive, [first, second])
    detect.prove(shared_archive, first, samples.LINE, n_trials=TRIED)
    return shared_archive


@pytest.fixture
def archive(module_archive, monkeypatch):
    monkeypatch.setenv("ML4AD_DATABASE_URL", module_archive.url)
    yield module_archive
    if [str(one) for one in registry.active(module_archive)] != ["quick:1"]:
        registry.activate(module_archive, "quick:1", false_alarms=1.0)


@pytest.fixture
def page(archive):
    return dashboards.Models(archive, model="quick:1")


def cells(text):
    return [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", text)]


def trace(plot, number=0):
    return plot.figure["data"][number]


def test_what_a_model_learned_from_is_told(page, archive):
    model = registry.get(archive, "quick:1")
    assert "At work" in page.strip.value
    assert f"{model.selection['n_lumisections']} LS" in page.strip.value
    assert {samples.LINE, samples.MAP, samples.DATASET} <= set(cells(page.more.value))
    assert [value for _, value in page.list.options] == ["quick:2", "quick:1"]


def test_significances_are_those_of_the_scores(page, archive):
    page.look.value = "scores"
    assert page.scored.value == (samples.DATASET, 3)
    scores = detect.scores(archive, 3, model="quick:1")
    assert array(trace(page.first)["y"]).sum() == (scores["reason"] == "").sum()
    page.me.value = samples.LINE
    own = scores[(scores["me"] == samples.LINE) & (scores["reason"] == "")]
    assert array(trace(page.first)["y"]).sum() == len(own)
    assert array(trace(page.second)["y"]).sum() == len(own)
    assert f"{int(own['flagged'].sum())} alarm" in page.said.value


def test_faults_that_were_put_in_are_shown_with_their_curves(page, archive):
    page.look.value = "faults"
    proof = proofs(registry.get(archive, "quick:1"))[samples.LINE]
    assert proof["n_trials"] == TRIED
    assert set(proof["training_runs"]).isdisjoint(proof["test_runs"])
    assert [one["name"] for one in page.first.figure["data"]] == list(proof["curves"])
    for drawn, (_, true) in zip(page.first.figure["data"], proof["curves"].values(), strict=True):
        assert np.array_equal(array(drawn["y"]), true)
    assert np.array_equal(
        array(trace(page.second, 1)["x"]), [own["found_in_3"] for own in proof["faults"].values()]
    )
    page.me.value = samples.MAP
    assert "Nobody has put faults" in page.said.value


def test_faults_are_put_into_what_the_detector_has_not_seen(archive):
    with pytest.raises(KeyError, match="learned no element 'No/such'"):
        detect.prove(archive, "quick:1", "No/such")
    fitted = {samples.LINE: registry.fitted(archive, "quick:1", samples.LINE)}
    detect.register(archive, fitted, name="guest", datasets=[samples.DATASET])
    with pytest.raises(ValueError, match="its runs are not known"):
        detect.prove(archive, "guest")
    with archive.engine.begin() as connection:
        model = detect.registry.scoring.model
        connection.execute(sa.delete(model).where(model.c.name == "guest"))


def test_realised_alarms_are_counted_beside_the_nominal_ones(page, archive):
    page.look.value = "alarms"
    found = detect.realised(archive, "quick:1")
    scores = detect.scores(archive, model="quick:1")
    assert found["run_number"].tolist() == [1, 2, 3]
    assert found["realised"].sum() == scores["flagged"].sum()
    assert found["n_scored"].sum() == (scores["reason"] == "").sum()
    expected = found["n_scored"] / (2 * LS_PER_SHIFT)
    assert np.allclose(found["nominal"], expected)
    assert np.array_equal(array(trace(page.first)["y"]), found["realised"])
    assert np.array_equal(array(trace(page.first, 1)["y"]), found["nominal"])
    beyond = _beyond_chance(found["realised"], found["nominal"])
    assert page.more.value.count("beyond chance") == sum(beyond)


def test_more_alarms_than_chance_gives_in_a_hundredth_of_runs_stand_out():
    # Poisson: 3 or more where 0.5 is the mean come in 1.4 % of runs, 4 or more in 0.2 %.
    assert _beyond_chance([0, 3, 4, 1], [0.5, 0.5, 0.5, 0.005]) == [False, False, True, True]


def test_alarms_can_be_counted_on_a_list_of_lumisections(archive, tmp_path):
    path = tmp_path / "golden.json"
    path.write_text('{"3": [[11, 20]]}')
    conditions.load(archive, path, kind="golden", name="ten")
    found = detect.realised(archive, "quick:1", only="ten")
    assert found["n_ls"].tolist() == [10]
    page = dashboards.Models(archive, model="quick:1")
    page.look.value = "alarms"
    page.only.value = "ten"
    assert len(array(trace(page.first)["y"])) == 1


def test_two_models_are_compared_on_the_same_run(page, archive):
    page.look.value = "compare"
    assert page.other.value == "quick:2"
    table = compare(archive, "quick:1", "quick:2", samples.DATASET, 3)
    assert str(int(table["flagged_second"].sum())) in page.said.value
    assert len(array(trace(page.first)["x"])) == table["n_both"].sum()
    assert len(re.findall("<tr>", page.more.value)) == len(table) + 1


def test_who_puts_a_model_to_work_is_asked_for_the_name_which_is_kept(page, archive):
    page.retire.click()
    assert "say who you are" in page.banner.value
    page.by.value, page.why.value = "Ada", "too loud"
    page.retire.click()
    assert registry.active(archive) == []
    assert "retired" in page.strip.value.lower()
    page.budget.value = 2.5
    page.activate.click()
    assert [str(one) for one in registry.active(archive)] == ["quick:1"]
    assert registry.get(archive, "quick:1").false_alarms == 2.5
    last = registry.history(archive, "quick:1").iloc[-2:]
    assert last["state"].tolist() == ["retired", "active"]
    assert last["changed_by"].tolist() == ["Ada", "Ada"]


@pytest.mark.parametrize("look", ["scores", "faults", "alarms", "compare"])
def test_an_address_opens_the_same_side_of_the_same_model(page, archive, look):
    page.look.value = look
    if look in ("scores", "compare"):
        page.scored.value = (samples.DATASET, 2)
    other = dashboards.Models(archive)
    other.frame._heard("hello", page.frame.view)
    assert other.view() == page.view()
    assert other.first.figure == page.first.figure


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("model=none", "no model 'none'; there are quick"),
        ("model=quick:1&look=x", "look 'x' is not here"),
        ("model=quick:1&look=scores&run=9", "is not here"),
    ],
)
def test_an_address_of_what_is_not_there_is_answered_in_a_sentence(page, address, said):
    page.frame._heard("hello", address)
    assert said in page.banner.value.replace("&#x27;", "'")


def test_without_a_model_the_page_says_how_to_train_one_and_follows(database_url):
    with ml4ad.connect(database_url) as archive:
        page = dashboards.Models(archive)
        assert "ml4ad train" in page.body.children[0].value
        assert page.view() == {}
