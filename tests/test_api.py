"""The real `cmsdials` against a real server over real files: every method that it offers."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest
import requests
from cmsdials import Dials
from cmsdials.auth.client import AuthClient
from cmsdials.auth.client_credentials import Credentials as ClientCredentials
from cmsdials.auth.device import Credentials as BearerCredentials
from cmsdials.filters import (
    DatasetIndexFilters,
    FileIndexFilters,
    LumisectionFilters,
    LumisectionHistogram1DFilters,
    LumisectionHistogram2DFilters,
    MEFilters,
    MLBadLumisectionFilters,
    MLModelsIndexFilters,
    OMSFilter,
    OMSPage,
    RunFilters,
)
from requests.exceptions import HTTPError
from scored_samples import DATASET, LINE, MAP, OTHER, good_runs, histograms, judged, put
from served import Service, logged

import ml4ad
from ml4ad import HistogramStack, api, conditions, workspaces
from ml4ad.api import histograms as found
from ml4ad.conditions import record
from ml4ad.workspaces import Workspace

N_LS = 40
EVERY_LS = range(1, N_LS + 1)


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened


@pytest.fixture(scope="module")
def service(shared_archive, tmp_path_factory):
    """For tests that change nothing but keys."""
    folder = tmp_path_factory.mktemp("files")
    good_runs(shared_archive, folder, (LINE, MAP), (1, 2), n_ls=N_LS)
    with Service(shared_archive) as running:
        yield running


@pytest.fixture
def own_service(archive, tmp_path):
    """For tests that change something."""
    good_runs(archive, tmp_path, (LINE, MAP), (1, 2), n_ls=N_LS)
    with Service(archive) as running:
        yield running


@pytest.fixture
def dials(service):
    return service.dials()


def rows(page):
    return [row.model_dump() for row in page.results]


def expected(archive, me, run_number):
    stack = archive.stack(me, run_number)
    values = stack.values()
    return stack.ls_numbers, values if values.ndim == 2 else values.transpose(0, 2, 1)


# -- histograms ----------------------------------------------------------------------------------


def test_histograms_come_back_as_they_were_stored(service, dials):
    found = dials.h1d.list_all(LumisectionHistogram1DFilters(me=LINE, run_number=1, page_size=7))
    frame = found.to_pandas()
    numbers, values = expected(service.archive, LINE, 1)
    assert frame.ls_number.tolist() == numbers.tolist()
    assert np.array_equal(np.array(frame.data.tolist()), values)
    assert set(frame.dataset) == {DATASET}
    assert set(zip(frame.x_min, frame.x_max, frame.x_bin, strict=True)) == {(0, 10, 20)}
    entries = service.archive.stack(LINE, 1).entries
    assert frame.entries.tolist() == entries.tolist()


def test_maps_are_rows_over_y(service, dials):
    frame = dials.h2d.list_all(LumisectionHistogram2DFilters(me=MAP, run_number=2)).to_pandas()
    _, values = expected(service.archive, MAP, 2)
    assert np.array_equal(np.array(frame.data.tolist()), values)
    assert values.shape[1:] == (6, 20)
    assert set(zip(frame.y_min, frame.y_max, frame.y_bin, strict=True)) == {(-3, 3, 6)}


def test_one_histogram_is_the_one_of_the_list(dials):
    filters = LumisectionHistogram2DFilters(me=MAP, run_number=2, ls_number=17)
    (listed,) = dials.h2d.list(filters).results
    got = dials.h2d.get(listed.dataset_id, 2, 17, listed.me_id)
    assert got == listed
    with pytest.raises(HTTPError, match="404"):
        dials.h2d.get(listed.dataset_id, 2, 1000, listed.me_id)
    with pytest.raises(HTTPError, match="404"):
        dials.h1d.get(listed.dataset_id, 2, 17, listed.me_id)


@pytest.mark.parametrize("page_size", [1, 3, 16, 17, 80, 500])
def test_pages_give_every_histogram_once_in_order(service, page_size):
    seen, token = [], None
    while True:
        answer = service.get("api/v1/th1/", page_size=page_size, next_token=token).json()
        seen += [(row["run_number"], row["ls_number"]) for row in answer["results"]]
        if answer["next"] is None:
            break
        token = re.search(r"next_token=([^&]+)", answer["next"])[1]
    assert seen == [(run, ls) for run in (1, 2) for ls in range(1, N_LS + 1)]


@pytest.mark.parametrize(
    ("asked", "run_numbers", "ls_numbers"),
    [
        ({"run_number__gte": 2}, [2], EVERY_LS),
        ({"run_number__lte": 1}, [1], EVERY_LS),
        ({"ls_number__gte": 30}, [1, 2], range(30, N_LS + 1)),
        ({"ls_numbet__lte": 5}, [1, 2], range(1, 6)),
        ({"ls_number": 5, "run_number": 1}, [1], [5]),
        ({"dataset": DATASET}, [1, 2], EVERY_LS),
        ({"dataset__regex": "ZeroBias.*DQMIO"}, [1, 2], EVERY_LS),
        ({"dataset": "/other/a/DQMIO"}, [], []),
        ({"me__regex": "layer_[12]$"}, [1, 2], EVERY_LS),
        ({"me__regex": "nothing"}, [], []),
        ({"logical_file_name__regex": "file_0.root$"}, [1], EVERY_LS),
        ({"entries__gte": 10**6}, [], []),
        ({"dataset_id": 99}, [], []),
        ({"file_id": 2}, [2], EVERY_LS),
    ],
)
def test_filters_of_histograms(dials, asked, run_numbers, ls_numbers):
    found = rows(dials.h1d.list_all(LumisectionHistogram1DFilters(**asked, page_size=500)))
    wanted = [(run_number, ls) for run_number in run_numbers for ls in ls_numbers]
    assert [(row["run_number"], row["ls_number"]) for row in found] == wanted


def test_lumisections_of_a_run_in_many_files_come_in_order(archive, tmp_path):
    whole = histograms(LINE, 5, n_ls=60)
    for part in range(4):
        put(archive, tmp_path, whole.select(range(1 + part, 61, 4)))
    with Service(archive) as service:
        filters = LumisectionHistogram1DFilters(page_size=7)
        frame = service.dials().h1d.list_all(filters).to_pandas()
        lumisections = service.dials().lumi.list_all(LumisectionFilters(page_size=500)).to_pandas()
    assert frame.ls_number.tolist() == list(range(1, 61))
    assert np.array_equal(np.array(frame.data.tolist()), whole.values())
    assert frame.file_id.tolist() == [1, 2, 3, 4] * 15
    assert lumisections.th1_count.tolist() == [1] * 60


def test_what_json_cannot_have_is_zero(archive, tmp_path):
    values = np.array([[1.5, np.nan, np.inf, -2.0]], dtype="f4")
    stack = HistogramStack.from_arrays(
        values, [[0, 1, 2, 3, 4]], ls_numbers=[3], run_number=1, me="A/b", dataset=DATASET
    )
    put(archive, tmp_path, stack)
    with Service(archive) as service:
        (found,) = service.dials().h1d.list(LumisectionHistogram1DFilters()).results
    assert found.data == [1.5, 0, 0, -2]


def test_resuming_goes_on_where_a_page_ended(dials):
    filters = LumisectionHistogram1DFilters(run_number=1)
    first = dials.h1d.list_all(filters, max_pages=2)
    assert len(first.results) == 20
    rest = dials.h1d.list_all(filters, resume_from=first)
    assert [row.ls_number for row in rest.results] == list(EVERY_LS)
    kept = dials.h1d.list_all(filters, keep_failed=True)
    assert kept.exc_type is None
    assert len(kept.results) == N_LS


# -- indexes -------------------------------------------------------------------------------------


def test_datasets(dials):
    (found,) = dials.dataset_index.list_all(DatasetIndexFilters(dataset=DATASET)).results
    assert (found.era, found.data_tier, found.primary_ds_name) == ("Run2024F", "DQMIO", "ZeroBias")
    assert (found.processed_ds_name, found.processing_version) == ("Run2024F-PromptReco-v1", 1)
    assert dials.dataset_index.get(found.dataset_id, 1) == found
    assert not dials.dataset_index.list(DatasetIndexFilters(dataset__regex="Muon")).results
    with pytest.raises(HTTPError, match="404"):
        dials.dataset_index.get(99, 1)


def test_files(service, dials):
    found = dials.file_index.list_all(FileIndexFilters(status="FINISHED", page_size=1)).results
    stored = service.archive.files()
    assert [row.file_size for row in found] == stored.sort_values("path")["size"].tolist()
    assert {row.err_trace for row in found} == {None}
    assert dials.file_index.get(found[1].dataset_id, found[1].file_id) == found[1]
    name = found[0].logical_file_name
    assert dials.file_index.list(FileIndexFilters(logical_file_name=name)).results == found[:1]
    regex = FileIndexFilters(logical_file_name__regex=r"file_1\.root$")
    assert dials.file_index.list(regex).results == found[1:]
    assert not dials.file_index.list(FileIndexFilters(min_size=10**12)).results
    assert not dials.file_index.list(FileIndexFilters(status="PENDING")).results


def test_runs_and_lumisections(dials):
    found = dials.run.list_all(RunFilters(page_size=1)).results
    assert [(row.run_number, row.ls_count, row.ls_completeness) for row in found] == [
        *((1, N_LS, 1.0), (2, N_LS, 1.0))
    ]
    assert dials.run.get(found[0].dataset_id, 2) == found[1]
    assert dials.run.list(RunFilters(run_number__gte=2)).results == found[1:]
    lumisections = dials.lumi.list_all(LumisectionFilters(ls_number__lte=3, run_number=2)).results
    assert [(row.ls_number, row.th1_count, row.th2_count) for row in lumisections] == [
        *((1, 1, 1), (2, 1, 1), (3, 1, 1))
    ]
    assert dials.lumi.get(found[0].dataset_id, 2, 3) == lumisections[2]
    with pytest.raises(HTTPError, match="404"):
        dials.lumi.get(found[0].dataset_id, 2, 1000)


def test_completeness_is_against_what_oms_says(own_service):
    service, dials = own_service, own_service.dials()
    frame = pd.DataFrame({"run_number": [1], "last_lumisection_number": [50]})
    told = conditions.Conditions("test", runs=record.runs(record.with_keys(frame), "test"))
    conditions.storage.store(service.archive.engine, told)
    assert dials.run.get(1, 1).ls_completeness == N_LS / 50


def test_elements(dials):
    found = dials.mes.list(MEFilters())
    assert {(row.me, row.dim, row.count) for row in found} == {(LINE, 1, 80), (MAP, 2, 80)}
    assert [row.me for row in dials.mes.list(MEFilters(dim=2))] == [MAP]
    assert [row.me for row in dials.mes.list(MEFilters(me__regex="^Pixel"))] == [LINE]
    assert dials.mes.get(found[0].me_id) == found[0]


# -- models and certification --------------------------------------------------------------------


@pytest.fixture
def scored(database_url):
    """Two elements, five lumisections: the second alarms in 2 and 3, the first has none in 5."""
    log_p = np.array([[-1, -1, -1, -1, np.nan], [-1, -40, -30, -1, -1]], dtype=float)
    archive = judged(database_url, log_p, mes=[LINE, OTHER])
    with archive, Service(archive) as running:
        yield running


def test_models(scored):
    dials = scored.dials()
    (found,) = dials.ml_models_index.list_all(MLModelsIndexFilters(active=True)).results
    assert (found.name, found.revision, found.ready) == ("model", 1, True)
    assert [one["me"] for one in found.input_signature] == [LINE, OTHER]
    assert dials.ml_models_index.get(found.id) == found
    for asked, n in [
        ({"id": found.id}, 1),
        ({"id__in": [found.id, 99]}, 1),
        ({"id__in": []}, 1),
        ({"name__regex": "^mo"}, 1),
        ({"name": "other"}, 0),
        ({"active": False}, 0),
        ({"ready": True}, 1),
        ({"type": "Scan"}, 0),
        ({"input_signature_contains_me": LINE}, 1),
        ({"input_signature_contains_me__regex": "^Ecal"}, 0),
        ({"tag_name": "state", "tag_value": "active"}, 1),
        ({"tag_name": "dataset", "tag_value": DATASET}, 1),
        ({"tag_value": "retired"}, 0),
    ]:
        assert len(dials.ml_models_index.list(MLModelsIndexFilters(**asked)).results) == n, asked


def test_bad_lumisections(scored):
    client = scored.dials().ml_bad_lumis
    found = client.list_all(MLBadLumisectionFilters(page_size=1)).results
    assert [row.ls_number for row in found] == [2, 3]
    assert [row.metric_value for row in found] == pytest.approx([40 / np.log(10), 30 / np.log(10)])
    first = found[0]
    assert client.get(first.model_id, first.dataset_id, 7, 2) == first
    with pytest.raises(HTTPError, match="404"):
        client.get(first.model_id, first.dataset_id, 7, 1)
    for asked, n in [
        ({"model_id__in": [first.model_id]}, 2),
        ({"model_id": 99}, 0),
        ({"run_number__in": [7, 8]}, 2),
        ({"run_number": 8}, 0),
        ({"ls_number": 3}, 1),
        ({"me": LINE}, 0),
        ({"me__regex": "layer_2"}, 2),
        ({"dataset__regex": "^/Zero"}, 2),
        ({"dataset_id__in": [99]}, 0),
    ]:
        assert len(client.list(MLBadLumisectionFilters(**asked)).results) == n, asked


def test_certification(scored):
    client = scored.dials().ml_bad_lumis
    (first, _) = client.list_all(MLBadLumisectionFilters()).results
    asked = ([first.model_id], [first.dataset_id], [7, 8])
    bad = client.cert_json(*asked)
    assert set(bad) == {"7", "8"}
    assert set(bad["7"]) == {"2", "3"}
    (alarm,) = bad["7"]["2"]
    assert (alarm["me"], alarm["filename"]) == (OTHER, "model:1")
    # 5 was not assessed in full: not good.
    assert client.golden_json(*asked) == {"7": [[1, 1], [4, 4]]}
    query = {
        "model_id__in": str(first.model_id),
        "dataset_id__in": str(first.dataset_id),
        "run_number__in": "7,8",
    }
    for name, answer in (("cert", bad), ("golden", {"7": [[1, 1], [4, 4]]})):
        got = scored.get(f"api/v1/ml-bad-lumisection/{name}-json/", **query)
        assert got.json() == answer


# -- OMS and workspaces --------------------------------------------------------------------------


def test_oms_answers_from_stored_conditions(own_service):
    service, dials = own_service, own_service.dials()
    frame = pd.DataFrame(
        {
            "run_number": [1, 1, 2],
            "ls_number": [1, 2, 1],
            "recorded_lumi": [2.0, 4.0, 1.0],
            "beams_stable": [True, False, True],
        }
    )
    lumis = record.lumisections(record.with_keys(frame), "test")
    told = conditions.Conditions("test", lumisections=lumis)
    conditions.storage.store(service.archive.engine, told)

    def asked(*filters, pages=None):
        listed = [OMSFilter(attribute_name=n, operator=op, value=v) for n, op, v in filters]
        answer = dials.oms.query("lumisections", listed, pages)
        return [row["attributes"] for row in answer["data"]], answer["meta"]["totalResourceCount"]

    found, n = asked(("run_number", "EQ", 1))
    assert [row["lumisection_number"] for row in found] == [1, 2]
    assert n == 2
    # In 1/pb, as OMS has it.
    assert [row["recorded_lumi_per_lumisection"] for row in found] == [2, 4]
    assert len(asked(("beams_stable", "EQ", "true"))[0]) == 2
    assert len(asked(("recorded_lumi", "GT", 2))[0]) == 1
    (last,), n = asked(
        pages=[OMSPage(attribute_name="limit", value=1), OMSPage(attribute_name="offset", value=2)]
    )
    assert (last["run_number"], n) == (2, 3)
    with pytest.raises(HTTPError, match="404"):
        dials.oms.query("fills", [])


def test_a_workspace_shows_its_own(own_service):
    service = own_service
    workspaces.put(
        service.archive.engine,
        [
            Workspace("maps", ("/ZeroBias/*",), ("*",), shown=("Ecal/",)),
            Workspace("muons", ("/Muon*",), ("*",)),
        ],
    )
    maps = service.dials("maps")
    assert [row.me for row in maps.mes.list(MEFilters())] == [MAP]
    assert not maps.h1d.list(LumisectionHistogram1DFilters()).results
    assert maps.lumi.get(1, 1, 1).th1_count == 0
    assert not service.dials("muons").run.list(RunFilters()).results
    with pytest.raises(HTTPError, match="404"):
        service.dials("nothing").run.list(RunFilters())
    assert {"maps", "muons"} < set(maps.workspace.list())
    assert maps.workspace.my_workspace() == {"workspace": None}


def test_a_key_of_a_workspace_opens_no_other(own_service):
    service = own_service
    own = Workspace("maps", ("/ZeroBias/*",), ("Ecal/",))
    workspaces.put(service.archive.engine, [own, Workspace("all", ("*",), ("*",))])
    key = api.create(service.archive.engine, "narrow", workspace_names=["maps"])
    assert [row.me for row in service.dials(key=key).mes.list(MEFilters())] == [MAP]
    assert service.dials(key=key).workspace.list() == ["maps"]
    assert service.dials(key=key).workspace.my_workspace() == {"workspace": "maps"}
    with pytest.raises(HTTPError, match="403"):
        service.dials("all", key).mes.list(MEFilters())


# -- who may come in -----------------------------------------------------------------------------


def test_the_three_ways_in_without_a_browser(service, tmp_path):
    far = datetime(2100, 1, 1)
    bearer = BearerCredentials(
        token=service.key,
        token_type="Bearer",  # noqa: S106
        expires_at=far,
        expires_in=3600,
        refresh_expires_at=far,
        refresh_expires_in=3600,
        refresh_token="unused",  # noqa: S106
        cache_dir=str(tmp_path),
    )
    login = AuthClient(keycloak_url=service.url + "auth", realm="x", audience="y")
    granted = ClientCredentials(client_id="a", client_secret=service.key, client=login)
    for creds in (bearer, granted):
        assert len(Dials(creds, base_url=service.url).run.list(RunFilters()).results) == 2


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-CLIENT-SECRET": ""},
        {"X-CLIENT-SECRET": "ml4ad_" + "a" * 43},
        {"X-CLIENT-SECRET": "x" * 5000},
        {"X-CLIENT-SECRET": "ml4ad_' OR 1=1 --"},
        {"Authorization": "Bearer nothing"},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."},
    ],
)
def test_anybody_else_is_refused_in_the_same_words(service, headers):
    answer = requests.get(service.url + "api/v1/run/", headers=headers, timeout=30)
    assert answer.status_code == 403
    assert answer.json() == {"detail": "Not allowed", "code": "not_allowed"}


def test_a_key_ends_when_it_is_revoked_or_expires(service):
    engine = service.archive.engine
    soon = datetime.now().astimezone() + timedelta(days=1)
    key = api.create(engine, "short", expires_at=soon)
    assert service.get("api/v1/run/", key).status_code == 200
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE api_key SET expires_at = now() WHERE name = 'short'")
    assert service.get("api/v1/run/", key).status_code == 403
    other = api.create(engine, "other")
    assert service.get("api/v1/run/", other).status_code == 200
    api.revoke(engine, "other")
    assert service.get("api/v1/run/", other).status_code == 403
    listed = api.keys(engine).set_index("name")
    states = {"test": "valid", "short": "expired", "other": "revoked"}
    assert listed.state[list(states)].to_dict() == states
    assert other not in listed.to_string()


def test_keys_are_not_stored(service):
    with service.archive.engine.connect() as connection:
        held = str(connection.exec_driver_sql("SELECT * FROM api_key").all())
    assert service.key not in held
    assert service.key.removeprefix("ml4ad_") not in held


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"scope": "root"}, "want one of read, write, admin"),
        ({"name": ""}, "1 to 255 printable"),
        ({"name": "test"}, "is there already"),
        ({"expires_at": datetime(2020, 1, 1).astimezone()}, "has passed"),
        ({"workspace_names": ["nothing"]}, "no workspace 'nothing'"),
    ],
)
def test_keys_that_cannot_be_are_refused(archive, given, words):
    api.create(archive.engine, "test")
    with pytest.raises((ValueError, KeyError), match=words):
        api.create(archive.engine, **{"name": "new", **given})


# -- what hostile clients send -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "params", "status"),
    [
        ("th1/", {"next_token": "nonsense"}, 404),
        ("th1/", {"next_token": "WzEsMl0"}, 404),
        ("th1/", {"next_token": "WzEsMiwzLDFlOTk5XQ"}, 404),
        ("run/", {"next_token": "é"}, 404),
        ("run/", {"run_number": "' OR 1=1"}, 422),
        ("run/", {"run_number": 2**70}, 422),
        ("run/", {"run_number": ""}, 200),
        ("run/", {"page_size": "many"}, 200),
        ("run/", {"dataset__regex": "("}, 400),
        ("th1/", {"me__regex": "("}, 400),
        ("th1/", {"me": "a\0b"}, 400),
        ("ml-bad-lumisection/", {"run_number__in": "1;2"}, 422),
        ("mes/", {"dim": 2**15}, 200),
        ("mes/", {"me": "'; DROP TABLE me; --"}, 200),
        ("th1/", {"unknown": "1"}, 200),
        ("ml-models-index/", {"id__in": "1,x"}, 422),
        ("ml-models-index/", {"id__in": str(2**70)}, 422),
        ("oms-proxy/", {"endpoint": "../secret"}, 422),
        ("oms-proxy/", {"endpoint": "runs", "filter[a][OR]": "1"}, 400),
        ("oms-proxy/", {"endpoint": "runs", "page[limit]": "-1"}, 400),
        ("run/99999999999/1/", {}, 422),
        ("../../etc/passwd", {}, 404),
    ],
)
def test_what_makes_no_sense_is_told_so(service, path, params, status):
    answer = service.get("api/v1/" + path, **params)
    assert answer.status_code == status, answer.text
    assert service.get("health").status_code == 200


def test_an_empty_archive_is_no_error(archive):
    with Service(archive) as service:
        dials = service.dials()
        assert dials.run.list_all(RunFilters()).to_pandas().empty
        assert dials.h2d.list_all(LumisectionHistogram2DFilters()).to_pandas().empty
        assert dials.mes.list(MEFilters()) == []
        assert dials.ml_bad_lumis.list(MLBadLumisectionFilters()).results == []
        assert dials.ml_bad_lumis.golden_json([1], [1], [1]) == {}


# -- how the server is watched --------------------------------------------------------------------


def test_the_page_loads_nothing_from_elsewhere(service):
    for path in ("", "api/"):
        answer = requests.get(service.url + path, timeout=30)
        assert answer.status_code == 200
        assert not re.findall(r"(?:src|href)=[^ >]*//|@import|https?:", answer.text)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    paths = requests.get(service.url + "api/openapi.json", timeout=30).json()["paths"]
    assert {"/api/v1/th1/", "/api/v1/run/", "/api/v1/oms-proxy/"} <= set(paths)


def test_requests_are_counted_and_logged_without_secrets(service, caplog):
    with caplog.at_level("INFO", logger="ml4ad.api"):
        service.get("api/v1/run/", dataset="/secret/x/DQMIO")
        service.get("api/v1/run/", "ml4ad_wrong")
        text = service.get("metrics").text
        lines = [json.loads(line) for line in logged(caplog, 3)]
    told = [(line["path"], line["status"], line["who"]) for line in lines[:2]]
    assert told == [("/api/v1/run/", 200, "test"), ("/api/v1/run/", 403, "")]
    assert all(line["ms"] > 0 for line in lines)
    for secret in (service.key, "ml4ad_wrong", "/secret/x/DQMIO"):
        assert secret not in caplog.text
    assert 'route="/api/v1/run/",status="403"' in text
    assert requests.get(service.url + "metrics", timeout=30).status_code == 403


def test_who_asks_too_often_is_told_to_wait(archive, monkeypatch):
    monkeypatch.setenv("ML4AD_API_REQUESTS_PER_S", "0.01")
    with Service(archive) as service:
        answers = [service.get("api/v1/run/") for _ in range(2)]
        other = api.create(archive.engine, "other")
        assert service.get("api/v1/run/", other).status_code == 200
    assert [answer.status_code for answer in answers] == [200, 429]
    assert int(answers[1].headers["Retry-After"]) > 1


def test_answers_are_compressed_where_that_is_understood(service):
    sizes = {}
    for encoding in ("gzip", "identity", "gzip;q=0"):
        headers = {"X-CLIENT-SECRET": service.key, "Accept-Encoding": encoding}
        url = service.url + "api/v1/th2/?page_size=80"
        answer = requests.get(url, headers=headers, timeout=30, stream=True)
        sizes[encoding] = len(answer.raw.read(decode_content=False))
        assert answer.headers.get("Content-Encoding") == ("gzip" if encoding == "gzip" else None)
    assert sizes["gzip"] < sizes["identity"] / 2
    assert sizes["gzip;q=0"] == sizes["identity"]


def test_two_hundred_readers_at_once_are_all_answered(own_service):
    # Of several keys, for each has its limit.
    keys = [api.create(own_service.archive.engine, f"reader {n}") for n in range(8)]

    def read(n):
        path = ("run/", "lumisection/", "th1/?page_size=50", "th2/?page_size=20")[n % 4]
        return own_service.get("api/v1/" + path, keys[n % 8]).status_code

    with ThreadPoolExecutor(200) as readers:
        assert list(readers.map(read, range(200))) == [200] * 200


def test_a_page_that_would_be_too_large_ends_early(service, monkeypatch):
    monkeypatch.setattr("ml4ad.api.listed.MOST_BYTES", 2000)
    whole = service.dials().h1d.list_all(LumisectionHistogram1DFilters(page_size=500))
    assert [row.ls_number for row in whole.results] == [*EVERY_LS, *EVERY_LS]
    assert len(service.get("api/v1/th1/", page_size=500).json()["results"]) < N_LS


def test_a_block_that_moves_meanwhile_is_found_again(own_service, monkeypatch):
    packed, moved = found._packed, []

    def gone_once(connection, dataset_id, places):
        held = packed(connection, dataset_id, places)
        if not moved:
            moved.append(held.popitem())
        return held

    monkeypatch.setattr(found, "_packed", gone_once)
    answer = own_service.get("api/v1/th1/", page_size=500).json()
    assert [row["ls_number"] for row in answer["results"]] == [*EVERY_LS, *EVERY_LS]
    assert moved
