"""Models in a real database: versions, states, bytes."""

import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scored_samples import DATASET, LINE, MAP, good_runs, histograms, quick

import ml4ad
from ml4ad import cli, detect
from ml4ad.detect import registry
from ml4ad.detect.calibrate import Tail


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened


@pytest.fixture
def fitted():
    detector = quick().fit([histograms(LINE, run) for run in (1, 2, 3)])
    return registry.Fitted(detector, Tail(1.0, 0.5))


def make(archive, name="pixel", **given):
    wanted = {
        "name": name,
        "patterns": ["Pixel/*"],
        "datasets": ["/ZeroBias/*/DQMIO"],
        "selection": {"dataset": DATASET},
        "false_alarms": 1.0,
        "seed": 3,
    }
    return registry.create(archive, quick(), **(wanted | given))


def test_versions_count_up_by_name(archive):
    ids = [make(archive), make(archive), make(archive, "ecal"), make(archive)]
    found = [str(registry.get(archive, model_id)) for model_id in ids]
    assert found == ["pixel:1", "pixel:2", "ecal:1", "pixel:3"]


def test_a_model_keeps_what_it_was_made_of(archive):
    model = registry.get(archive, make(archive, created_by="ann"))
    assert model.detector == "NearestReference"
    assert model.parameters == registry.jsonable(quick().get_params(deep=False))
    assert (model.seed, model.created_by, model.state) == (3, "ann", "training")
    assert model.code_version.startswith(ml4ad.__version__)
    page = model._repr_html_()
    for told in (f"<td>{model}</td>", "<td>NearestReference</td>", "by ann</td>"):
        assert told in page


def test_a_name_means_the_active_version_else_the_newest(archive):
    first, second, third = (make(archive) for _ in range(3))
    for model_id in (first, second, third):
        registry.finish(archive, model_id, {})
    assert registry.get(archive, "pixel").model_id == third
    registry.activate(archive, first)
    assert registry.get(archive, "pixel").model_id == first
    assert registry.get(archive, "pixel:2").model_id == second
    assert registry.get(archive, str(second)).model_id == second


def test_activating_a_version_retires_the_one_before_and_says_so(archive):
    first, second = make(archive), make(archive)
    for model_id in (first, second):
        registry.finish(archive, model_id, {})
    registry.activate(archive, first, by="ann")
    registry.activate(archive, second, by="bob", why="better", false_alarms=2.0)
    assert [m.model_id for m in registry.active(archive)] == [second]
    assert registry.get(archive, second).false_alarms == 2.0
    history = registry.history(archive, first)
    assert history["state"].tolist() == ["training", "candidate", "active", "retired"]
    assert history["why"].tolist()[-1] == "replaced by version 2"
    assert registry.history(archive, second)["why"].tolist()[-1] == (
        "2 false alarms per shift. better"
    )
    registry.retire(archive, second, why="noisy")
    assert registry.active(archive) == []
    listed = detect.models(archive, "retired")
    assert listed["model_id"].tolist() == [second, first]


def test_a_model_whose_training_did_not_end_is_never_put_to_work(archive):
    model_id = make(archive)
    with pytest.raises(ValueError, match="pixel:1 is in training, or that was interrupted"):
        registry.activate(archive, model_id)
    registry.discard(archive, model_id)
    with pytest.raises(KeyError, match="no model 'pixel'; there are none"):
        registry.get(archive, "pixel")


def test_what_was_trained_is_not_discarded(archive):
    model_id = make(archive)
    registry.finish(archive, model_id, {})
    with pytest.raises(ValueError, match="retire it instead"):
        registry.discard(archive, model_id)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": ""}, "1 to 255 characters"),
        ({"name": "a:b"}, "no colon"),
        ({"name": "12"}, "not a number"),
        ({"name": "x" * 256}, "1 to 255 characters"),
        ({"false_alarms": 0.0}, "want a positive number"),
        ({"false_alarms": float("nan")}, "want a positive number"),
    ],
)
def test_a_model_that_cannot_be_named_is_refused(archive, given, words):
    with pytest.raises(ValueError, match=words):
        make(archive, **given)
    assert len(registry.models(archive)) == 0


@pytest.mark.parametrize("asked", ["muon", "pixel:9", "pixel:x", "77", 77])
def test_a_model_that_is_not_there_is_named_beside_those_that_are(archive, asked):
    make(archive)
    with pytest.raises(KeyError, match=r"there are pixel|want a number after the colon"):
        registry.get(archive, asked)


def test_bytes_give_back_the_detector(fitted):
    again = registry.from_bytes(registry.to_bytes(fitted.detector))
    strange = histograms(LINE, 9, n_ls=5)
    assert np.array_equal(again.score_samples(strange), fitted.detector.score_samples(strange))


def test_a_damaged_model_is_refused_by_name(fitted):
    artefact = registry.to_bytes(fitted.detector)
    with pytest.raises(ValueError, match="damaged"):
        registry.from_bytes(artefact[: len(artefact) // 2])
    with pytest.raises(ValueError, match="damaged"):
        registry.from_bytes(b"")


def newer(artefact):
    """The same model, as if a later program had written it."""
    with np.load(io.BytesIO(artefact)) as file:
        arrays = {name: file[name] for name in file.files}
    header = json.loads(bytes(arrays["header"]))
    header["version"] = 9
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def test_a_model_of_a_newer_format_is_refused(fitted):
    with pytest.raises(ValueError, match=r"format version 9, this program reads \d: train"):
        registry.from_bytes(newer(registry.to_bytes(fitted.detector)))


def test_detectors_fitted_elsewhere_are_registered(archive, tmp_path, fitted):
    good_runs(archive, tmp_path, mes=(LINE,), runs=(4,))
    model_id = detect.register(
        archive, {LINE: fitted}, name="mine", datasets=[DATASET], note="on my laptop"
    )
    kept = registry.fitted(archive, model_id, LINE)
    assert kept.tail == fitted.tail
    assert registry.learned(archive, registry.get(archive, model_id)) == [LINE]
    registry.add_metrics(archive, model_id, {"auc": 0.99})
    assert registry.get(archive, model_id).metrics["auc"] == 0.99
    with pytest.raises(KeyError, match="no monitoring element 'Nobody/knows'"):
        detect.register(archive, {"Nobody/knows": fitted}, name="mine", datasets=[DATASET])


def test_an_element_without_a_model_is_told(archive, tmp_path, fitted):
    good_runs(archive, tmp_path, mes=(LINE, MAP), runs=(4,))
    model_id = make(archive)
    numbers = registry.me_ids(archive, [LINE, MAP])
    registry.put_element(archive, model_id, numbers[LINE], fitted)
    registry.put_element(archive, model_id, numbers[MAP], None, reason="too few lumisections")
    with pytest.raises(ValueError, match="learned nothing of Ecal/Occupancy/map: too few"):
        registry.fitted(archive, model_id, MAP)
    with pytest.raises(KeyError, match="knows no element 'A/b'"):
        registry.fitted(archive, model_id, "A/b")
    found = registry.elements(archive, model_id).set_index("me")
    assert found.loc[MAP, "reason"] == "too few lumisections"
    assert found.loc[LINE, "location"] == 1.0
    listed = registry.models(archive).iloc[0]
    assert (listed["n_elements"], listed["n_refused"]) == (1, 1)


def test_trainings_at_the_same_time_get_versions_of_their_own(archive):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: make(archive), range(8)))
    versions = [registry.get(archive, model_id).version for model_id in made]
    assert sorted(versions) == list(range(1, 9))


def run(*arguments):
    with pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    return left.value.code


def test_commands_on_an_archive_without_models_say_what_there_is(archive, capsys):
    for command in (("models",), ("incidents",), ("verdict", "list")):
        assert run(*command) == 0
        header, *rows = capsys.readouterr().out.splitlines()
        assert "\t" in header
        assert not rows
    assert run("models", "show", "x") == 1
    assert "no model 'x'; there are none" in capsys.readouterr().err
    make(archive)
    assert run("models", "show", "pixel") == 0
    assert "state\ttraining" in capsys.readouterr().out
