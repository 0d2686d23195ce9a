"""Nothing that the installed `cmsdials` offers is left out: its classes tell what they have."""

import importlib
import inspect
import json
import pkgutil
import re
import threading
import warnings
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import cmsdials.auth
import numpy as np
import pandas as pd
import pytest
from cmsdials import Dials, filters
from cmsdials.auth.client import AuthClient
from requests.exceptions import HTTPError
from scored_samples import DATASET, LINE, MAP, good_runs, judged
from served import Service
from urllib3.util import Retry

from ml4ad import conditions, workspaces
from ml4ad.conditions import record
from ml4ad.workspaces import Workspace

NEVER = 10**8


@pytest.fixture(scope="module")
def service(shared_archive, tmp_path_factory):
    """Two runs with histograms, and a third with scores."""
    good_runs(shared_archive, tmp_path_factory.mktemp("files"), (LINE, MAP), (1, 2), n_ls=3)
    log_p = np.array([[-1, -40, -30]], dtype=float)
    url = shared_archive.engine.url.render_as_string(hide_password=False)
    judged(url, log_p, mes=[LINE], run_number=7).close()
    frame = pd.DataFrame({"run_number": [1, 1], "ls_number": [1, 2], "pileup": [60.0, 61.0]})
    lumis = record.lumisections(record.with_keys(frame), "test")
    told = conditions.Conditions("test", lumisections=lumis)
    conditions.storage.store(shared_archive.engine, told)
    workspaces.put(shared_archive.engine, Workspace("all", ("*",), ("*",)))
    with Service(shared_archive) as running:
        yield running


@pytest.fixture(scope="module")
def dials(service):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return service.dials("all")


def clients(dials):
    return {name: own for name, own in vars(dials).items() if not name.startswith("_")}


def plain(rows):
    return [row.model_dump() for row in rows]


def every(client, **given):
    """All rows that a filter leaves; of elements there are no pages."""
    asked = client.filter_class(**given)
    if hasattr(client, "list_all"):
        return plain(client.list_all(asked).results)
    return plain(client.list(asked))


# -- methods -------------------------------------------------------------------------------------

CHOSEN = ([1], [1], [7])
CALLS = {
    ("dataset_index", "get"): lambda c: c.get(1, 1),
    ("file_index", "get"): lambda c: c.get(1, 1),
    ("run", "get"): lambda c: c.get(1, 2),
    ("lumi", "get"): lambda c: c.get(1, 2, 3),
    ("h1d", "get"): lambda c: c.get(1, 2, 3, c.list().results[0].me_id),
    ("h2d", "get"): lambda c: c.get(1, 2, 3, c.list().results[0].me_id),
    ("mes", "get"): lambda c: c.get(1),
    ("ml_models_index", "get"): lambda c: c.get(1),
    ("ml_bad_lumis", "get"): lambda c: c.get(1, 1, 7, 2),
}
PLAIN_CALLS = {
    ("ml_bad_lumis", "cert_json"): lambda c: c.cert_json(*CHOSEN)["7"].keys() == {"2", "3"},
    ("ml_bad_lumis", "golden_json"): lambda c: c.golden_json(*CHOSEN) == {"7": [[1, 1]]},
    ("oms", "query"): lambda c: c.query("lumisections", [])["meta"] == {"totalResourceCount": 2},
    ("workspace", "list"): lambda c: "all" in c.list(),
    ("workspace", "my_workspace"): lambda c: c.my_workspace() == {"workspace": None},
}


def methods(client):
    of_class = inspect.getmembers(type(client), inspect.isfunction)
    return {name for name, _ in of_class if not name.startswith("_")}


def test_every_method_is_called_here(dials):
    offered = {(name, own) for name, client in clients(dials).items() for own in methods(client)}
    listed = {
        (name, own)
        for name, client in clients(dials).items()
        if hasattr(client, "filter_class")
        for own in methods(client) & {"list", "list_all"}
    }
    assert offered == {*CALLS, *PLAIN_CALLS, *listed}


@pytest.mark.parametrize(("name", "method"), CALLS)
@pytest.mark.parametrize("retries", [0, Retry(total=2, backoff_factor=0.1)])
def test_one_row_is_the_one_of_the_list(dials, name, method, retries):
    client = getattr(dials, name)
    found = CALLS[name, method](client)
    assert isinstance(found, client.data_model)
    assert found.model_dump() in every(client)
    assert client.list(retries=retries)


@pytest.mark.parametrize(("name", "method"), PLAIN_CALLS)
def test_what_has_no_model_is_answered(dials, name, method):
    assert PLAIN_CALLS[name, method](getattr(dials, name))


@pytest.mark.parametrize(
    "name",
    ["dataset_index", "file_index", "run", "lumi", "h1d", "h2d", "ml_models_index", "ml_bad_lumis"],
)
def test_lists_are_whole_in_pages_of_any_size_and_tables_have_their_columns(dials, name):
    client = getattr(dials, name)
    whole = every(client)
    assert len({json.dumps(row, default=str) for row in whole}) == len(whole) > 0
    assert plain(client.list().results) == whole[:10]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for page_size in (1, 2):
            asked = client.filter_class(page_size=page_size)
            first = client.list_all(asked, max_pages=1, enable_progress=True)
            assert plain(first.results) == whole[:page_size]
            rest = client.list_all(asked, resume_from=first, keep_failed=True, retries=2)
            assert plain(rest.results) == whole
            assert rest.exc_type is None
    table = client.list_all(client.filter_class()).to_pandas()
    assert list(table.columns) == list(client.data_model.model_fields)
    assert len(table) == len(whole)


def test_what_failed_midway_is_resumed(service, dials):
    asked = filters.LumisectionFilters(page_size=1)
    began = dials.lumi.list_all(asked, max_pages=2)
    broken = service.dials("all", key="wrong").lumi
    with pytest.warns(RuntimeWarning, match="returning partial results"):
        kept = broken.list_all(asked, resume_from=began, keep_failed=True)
    assert (kept.exc_type, len(kept.results)) == ("HTTPError", 2)
    assert plain(dials.lumi.list_all(asked, resume_from=kept).results) == every(dials.lumi)


# -- filters -------------------------------------------------------------------------------------

# Of what a row does not show: a value that it has, and the rows that have it.
HIDDEN = {
    ("h1d", "logical_file_name"): lambda d: d.file_index.get(1, 1).logical_file_name,
    ("h2d", "logical_file_name"): lambda d: d.file_index.get(1, 1).logical_file_name,
    ("ml_models_index", "input_signature_contains_me"): lambda _: LINE,
    ("ml_models_index", "tag_name"): lambda _: "dataset",
    ("ml_models_index", "tag_value"): lambda _: "active",
    ("ml_bad_lumis", "dataset"): lambda _: DATASET,
    ("ml_bad_lumis", "me"): lambda _: LINE,
    ("ml_bad_lumis", "me_id"): lambda d: d.mes.list(filters.MEFilters(me=LINE))[0].me_id,
}
# Filters whose name is not the field's.
RENAMED = {"min_size": "file_size__gte", "ls_numbet__lte": "ls_number__lte"}
PAGING = {"next_token", "page_size"}


def filters_of_all():
    for name, client in clients(Dials(None)).items():
        for own in getattr(getattr(client, "filter_class", None), "model_fields", ()):
            if own not in PAGING:
                yield name, own


def test_the_client_has_filters_to_try():
    assert len(list(filters_of_all())) >= 80


@pytest.mark.parametrize(("name", "own"), list(filters_of_all()))
def test_every_filter_keeps_what_fits_and_only_that(dials, name, own):
    client = getattr(dials, name)
    whole = every(client)
    field, _, how = RENAMED.get(own, own).partition("__")
    if (name, field) in HIDDEN:
        value = HIDDEN[name, field](dials)
    else:
        values = [row[field] for row in whole]
        value = sorted(values)[len(values) // 2]
    if isinstance(value, bool):
        assert every(client, **{own: value}) == [row for row in whole if row[field] == value]
        assert every(client, **{own: not value}) == [row for row in whole if row[field] != value]
        return
    fits, given, none = {
        "": (lambda v: v == value, value, NEVER if isinstance(value, int) else "nothing"),
        "regex": (lambda v: v == value, f"^{re.escape(str(value))}$", "^nothing$"),
        "gte": (lambda v: v >= value, value, NEVER),
        "lte": (lambda v: v <= value, value, -1),
        "in": (lambda v: v == value, [value, NEVER], [NEVER]),
    }[how]
    kept = every(client, **{own: given})
    assert kept
    if (name, field) not in HIDDEN:
        assert kept == [row for row in whole if fits(row[field])]
    assert every(client, **{own: none}) == []
    if how == "in":
        assert every(client, **{own: []}) == whole


@pytest.mark.parametrize(
    "operator", inspect.get_annotations(filters.OMSFilter)["operator"].__args__
)
def test_every_operator_of_oms_compares(dials, operator):
    asked = filters.OMSFilter(attribute_name="ls_number", value=2, operator=operator)
    rows = dials.oms.query("lumisections", [asked])["data"]
    wanted = {"NEQ": {1}, "LT": {1}, "LE": {1, 2}, "GT": set()}.get(operator, {2})
    assert {row["attributes"]["lumisection_number"] for row in rows} == wanted


# -- credentials ---------------------------------------------------------------------------------


def ways_in(service, folder):
    far = datetime(2100, 1, 1)
    bearer = {
        "token": service.key,
        "token_type": "Bearer",
        "expires_at": far,
        "expires_in": 3600,
        "refresh_expires_at": far,
        "refresh_expires_in": 3600,
        "refresh_token": "unused",
        "cache_dir": str(folder),
    }
    login = AuthClient(keycloak_url=service.url + "auth", realm="x", audience="y")
    return {
        "secret_key": {"token": service.key},
        "bearer": bearer,
        "device": bearer,
        "client_credentials": {
            "client_id": "my-script",
            "client_secret": service.key,
            "client": login,
        },
    }


def kinds_of_credentials():
    for module in pkgutil.iter_modules(cmsdials.auth.__path__):
        found = importlib.import_module(f"cmsdials.auth.{module.name}")
        if hasattr(found, "Credentials"):
            yield module.name, found.Credentials


@pytest.mark.parametrize(("name", "kind"), list(kinds_of_credentials()))
def test_every_kind_of_credentials_opens(service, tmp_path, name, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        creds = kind(**ways_in(service, tmp_path)[name])
    opened = Dials(creds, base_url=service.url)
    assert len(every(opened.run)) == 3
    assert opened.ml_bad_lumis.golden_json(*CHOSEN) == {"7": [[1, 1]]}


def test_a_wrong_secret_gets_no_token(service):
    login = AuthClient(keycloak_url=service.url + "auth", realm="x", audience="y")
    with pytest.raises(HTTPError, match="401 Client Error: Unauthorized"):
        login.api_access_token("my-script", "123456789")


# -- OMS -----------------------------------------------------------------------------------------


@pytest.fixture
def oms(monkeypatch):
    """OMS with 250 rows of each endpoint; what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            query = {name: own[0] for name, own in parse_qs(parts.query).items()}
            asked.append((parts.path, query))
            offset, limit = int(query["page[offset]"]), int(query["page[limit]"])
            rows = [{"attributes": {"n": n}} for n in range(250)][offset : offset + limit]
            body = json.dumps({"data": rows, "meta": {"totalResourceCount": 250}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("ML4AD_OMS_URL", f"http://127.0.0.1:{server.server_port}/oms")
    yield asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_oms_is_asked_where_it_is_configured(dials, oms):
    named = filters.OMSFilter(attribute_name="dataset_name", value="ZeroBias", operator="LIKE")
    pages = [
        filters.OMSPage(attribute_name="limit", value=30),
        filters.OMSPage(attribute_name="offset", value=240),
    ]
    found = dials.oms.query("datasetrates", [named], pages)
    assert [row["attributes"]["n"] for row in found["data"]] == list(range(240, 250))
    assert found["meta"] == {"totalResourceCount": 250}
    ((path, query),) = oms
    assert path.strip("/") == "oms/datasetrates"
    assert query["filter[dataset_name][LIKE]"] == "ZeroBias"
