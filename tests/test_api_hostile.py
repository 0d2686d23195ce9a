"""What an attacker sends: nothing of it is run, kept, told on, or brings the server down."""

import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import requests
import sqlalchemy as sa
from cmsdials.filters import LumisectionHistogram1DFilters
from scored_samples import DATASET, LINE, MAP, good_runs, judged
from served import Service, logged

from ml4ad import api, store, workspaces
from ml4ad.api import application
from ml4ad.api.watch import LISTENING
from ml4ad.workspaces import Workspace

DESCRIBED = application(sa.create_engine("postgresql+psycopg://")).openapi()
GETS = [path for path, methods in DESCRIBED["paths"].items() if "get" in methods]


@pytest.fixture(scope="module")
def service(shared_archive, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ML4AD_API_REQUESTS_PER_S", "100000")
        patch.setenv("ML4AD_API_WRONG_KEYS_PER_MINUTE", "100000")
        good_runs(shared_archive, tmp_path_factory.mktemp("files"), (LINE, MAP), (1,), n_ls=12)
        url = shared_archive.engine.url.render_as_string(hide_password=False)
        judged(url, np.array([[-1, -40]], dtype=float), mes=[LINE]).close()
        maps = Workspace("maps", ("*",), ("Ecal/",))
        workspaces.put(shared_archive.engine, [maps, Workspace("none", ("/Muon*",), ("*",))])
        with Service(shared_archive) as running:
            yield running


# -- SQL -----------------------------------------------------------------------------------------

MARK = "zqx"
SQL = [
    f"' OR '{MARK}'='{MARK}",
    f"'; DROP TABLE me CASCADE; SELECT '{MARK}' --",
    f"1) UNION SELECT name, digest, '{MARK}' FROM api_key --",  # noqa: S608
    f'{MARK}" -- %s %(x)s :x $1 {{0}} \\',
]
FILLED = {"dataset": DATASET, "run_number": 1, "me": LINE, "endpoint": "runs", "format": "json"}
# What would go on for minutes.
SHORT = {LISTENING: {"seconds": 0.05}}


@contextmanager
def statements(engine):
    """Every text that is sent to the database as SQL."""
    seen = []

    def note(_connection, _cursor, statement, *_):
        seen.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(engine, "before_cursor_execute", note)


def contents(engine):
    """Rows of every table; what is noted of a key's use may change."""
    with engine.connect() as connection:
        return {
            name: sorted(map(repr, connection.execute(sa.select(table).order_by(sa.text("1")))))
            for name, table in store.schema.metadata.tables.items()
            if name not in ("api_key", "api_audit")
        }


@pytest.mark.parametrize("path", GETS)
def test_sql_in_every_parameter_is_only_a_value(service, path):
    engine = service.archive.engine
    before = contents(engine)
    told = DESCRIBED["paths"][path]["get"].get("parameters", [])
    needed = SHORT.get(path, {}) | {
        one["name"]: FILLED.get(one["name"], 1)
        for one in told
        if one["required"] and one["in"] == "query"
    }
    with statements(engine) as seen:
        for one in told:
            for text in SQL:
                address, given = path, dict(needed)
                headers = {"X-CLIENT-SECRET": service.key}
                if one["in"] == "path":
                    address = address.replace(f"{{{one['name']}}}", requests.utils.quote(text, ""))
                elif one["in"] == "header":
                    headers[one["name"]] = text
                else:
                    given[one["name"]] = text
                address = re.sub(r"\{\w+\}", "1", address)
                url = service.url.rstrip("/") + address
                answer = requests.get(url, params=given, headers=headers, timeout=30)
                assert answer.status_code in (200, 400, 404, 422), (one["name"], answer.text)
                assert "psycopg" not in answer.text
    assert not [text for text in seen if MARK in text]
    assert contents(engine) == before


def test_sql_in_a_verdict_is_only_text(service):
    headers = {"X-CLIENT-SECRET": service.key}
    url = service.url + "api/v2/verdicts"
    said = {"run_number": 1, "lumisections": [[1, 1]], "verdict": "seen"}
    with statements(service.archive.engine) as seen:
        answer = requests.post(url, json={**said, "why": SQL[1]}, headers=headers, timeout=30)
    assert answer.status_code == 201
    assert not [text for text in seen if MARK in text]
    listed = service.get("api/v2/verdicts", dataset=DATASET, run_number=1).json()
    assert [row["why"] for row in listed] == [SQL[1]]


# -- patterns ------------------------------------------------------------------------------------

EXPLODING = "^" + "(.*)" * 9 + "".join(f"\\{n}" for n in range(1, 10)) + "x?y?$"


@pytest.mark.parametrize(
    ("path", "name"),
    [("run", "dataset__regex"), ("th1", "me__regex"), ("file-index", "logical_file_name__regex")],
)
def test_a_pattern_that_explodes_is_stopped_and_others_go_on(service, monkeypatch, path, name):
    monkeypatch.setenv("ML4AD_STATEMENT_TIMEOUT_S", "1")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(service.get, f"api/v1/{path}/", **{name: EXPLODING})
        assert service.get("api/v1/run/").status_code == 200
        answer = slow.result()
    assert (answer.status_code, answer.json()["code"]) == (400, "too_long")
    assert answer.json()["detail"] == "The query took too long; narrow the pattern or the runs"
    assert answer.elapsed.total_seconds() < 20


@pytest.mark.parametrize("pattern", ["(", "[", "a{999999}", "(x{1,250}){1,250}", "\\", "*", "(?<x"])
def test_a_pattern_that_is_none_is_refused(service, pattern):
    for path, name in [("run", "dataset__regex"), ("th2", "me__regex"), ("mes", "me__regex")]:
        answer = service.get(f"api/v1/{path}/", **{name: pattern})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid"), answer.text


# -- bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["api/v1/ml-bad-lumisection/cert-json/", "api/v2/verdicts"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"null", 422),
        (b"[" * 100_000, 422),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, 422),
        (b"\xff\xfe", 422),
        (b"NaN", 422),
        (b" " * (2 << 20), 413),
        (b'{"run_number__in": [' + b"1," * 11_000 + b"1]}", 422),
        (b'{"run_number": NaN, "lumisections": [[Infinity, 1]], "verdict": "seen"}', 422),
        (b'{"run_number": 1e400, "model_id__in": [1e400]}', 422),
        (b'{"run_number":1,"lumisections":[[1,1]],"verdict":"seen","why":"\\u0000"}', 422),
        (b'{"run_number":1,"lumisections":[[1,1]],"verdict":"seen","why":"\\ud800"}', 422),
        (b'{"__proto__": {"scope": "admin"}}', 422),
    ],
)
def test_a_body_that_makes_no_sense_is_refused(service, path, body, status):
    headers = {"X-CLIENT-SECRET": service.key, "Content-Type": "application/json"}
    answer = requests.post(service.url + path, data=body, headers=headers, timeout=30)
    assert answer.status_code == status, answer.text[:300]
    answer.json()


def test_a_body_without_a_length_is_cut_off_too(service):
    headers = {"X-CLIENT-SECRET": service.key}
    url = service.url + "api/v2/verdicts"
    parts = (b" " * 65536 for _ in range(40))
    assert requests.post(url, data=parts, headers=headers, timeout=30).status_code == 413


def test_the_token_endpoint_takes_no_more(service):
    url = service.url + "auth/realms/x/api-access/token"
    for body, status in (
        (b"a=b&" * 1000, 400),
        (b"grant_type=client_credentials&client_secret=" + b"x" * 100_000, 401),
        (b"\xff=\xff", 400),
        (b"x" * (2 << 20), 413),
    ):
        answer = requests.post(url, data=body, timeout=30)
        assert answer.status_code == status, answer.text


# -- addresses -----------------------------------------------------------------------------------


def raw(service, request):
    """What the server answers to these very bytes."""
    port = int(service.url.rstrip("/").rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        parts = []
        # Whom the server has cut off before the end is not told why.
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(request)
            while part := connection.recv(65536):
                parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    "target",
    [
        "/../../etc/passwd",
        "/api/v1/../../../etc/passwd",
        "/api/%2e%2e/%2e%2e/etc/passwd",
        "/api/..%2f..%2fetc%2fpasswd",
        "/api/v1/run/..%5c..%5cwindows",
        "//etc/passwd",
        "/api/page.html",
        "/api/v1/run/1/%2e%2e/",
        "/api/v1/run/1/1%00/",
        "/api/v1/run/1/%F0%28%8C%28/",
        "/api/v1/th1/1/1/1/1/../../",
        "/api/v1/run/" + "9" * 5000 + "/1/",
        "/" + "a/" * 5000,
        "/api/v1/lumisection/-1/1/1/",
        "/api/v1/mes/1e3/",
        "/api/v1/mes/0x10/",
        "/api/v1/mes/%EF%BC%91/x",
    ],
)
def test_tricks_with_paths_find_nothing(service, target):
    head = f"GET {target} HTTP/1.1\r\nHost: x\r\nX-CLIENT-SECRET: {service.key}\r\n"
    answer = raw(service, head.encode() + b"Connection: close\r\n\r\n")
    assert answer.split(b" ")[1] in (b"400", b"404", b"422"), answer[:300]
    assert b"root:" not in answer
    assert b"<script" not in answer


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /health HTTP/1.1\r\nHost: [::1\r\n\r\n",
        b"GET /api/v1/run/ HTTP/1.1\r\nHost: a b\r\nX-CLIENT-SECRET: KEY\r\n\r\n",
        b"GET /api/v1/run/?page_size=1 HTTP/1.1\r\nHost: [x\r\nX-CLIENT-SECRET: KEY\r\n\r\n",
        b"GET /api/v1/th1/?page_size=1 HTTP/1.1\r\nHost: [x\r\nX-CLIENT-SECRET: KEY\r\n\r\n",
        b"GET http://[evil/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://169.254.169.254/latest/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /api/v2/verdicts HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 1000,
    ],
)
def test_requests_that_are_none_do_no_harm(service, request_):
    given = request_.replace(b"KEY", service.key.encode())
    answer = raw(service, given.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: close\r\n"))
    if answer:
        assert int(answer.split(b" ")[1]) < 500, answer[:300]
    assert service.get("health").status_code == 200


def test_a_line_of_the_log_cannot_be_forged(service, caplog):
    with caplog.at_level("INFO", logger="ml4ad.api"):
        service.get('x%0A{"at":"now","status":200,"who":"admin"}')
        (line,) = logged(caplog, 1)
    assert "\n" not in line
    assert json.loads(line)["who"] == ""


# -- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [11, 10**6, 10**300, "1e9"])
def test_a_page_holds_no_more_than_the_largest(service, monkeypatch, asked):
    monkeypatch.setattr("ml4ad.api.pages.LARGEST_SIZE", 10)
    for path in ("th1", "lumisection"):
        assert len(service.get(f"api/v1/{path}/", page_size=asked).json()["results"]) == 10


def test_tokens_hold_only_a_place(service):
    """One that another server gave, days ago, leads on from there, in this caller's view only."""
    first = service.get("api/v1/th1/", page_size=5).json()
    token = re.search("next_token=([^&]+)", first["next"])[1]
    narrow = api.create(service.archive.engine, "narrow", workspace_names=["maps"])
    with Service(service.archive, name="another") as other:
        rest = other.get("api/v1/th1/", next_token=token).json()["results"]
    assert [row["ls_number"] for row in rest] == list(range(6, 13))
    assert service.get("api/v1/th1/", narrow, next_token=token).json()["results"] == []


# -- who may what --------------------------------------------------------------------------------

POSTS = [
    (f"{method} {path}")
    for path, methods in DESCRIBED["paths"].items()
    for method in methods
    if method != "get" and path.startswith("/api/v2/")
]


def test_whoever_may_only_read_changes_nothing(service):
    key = api.create(service.archive.engine, "only reader")
    assert POSTS
    for one in POSTS:
        method, path = one.split(" ")
        body = {"run_number": 1, "lumisections": [[1, 1]], "verdict": "bad", "why": "x"}
        url = service.url.rstrip("/") + re.sub(r"\{\w+\}", "1", path)
        headers = {"X-CLIENT-SECRET": key}
        answer = requests.request(method, url, json=body, headers=headers, timeout=30)
        assert answer.status_code == 403, one
        assert answer.json() == {"detail": "Not allowed", "code": "not_allowed"}


def test_an_address_that_guesses_is_stopped_and_others_behind_it_are_not(service, monkeypatch):
    monkeypatch.setenv("ML4AD_API_WRONG_KEYS_PER_MINUTE", "3")
    engine = service.archive.engine
    known, new = api.create(engine, "known"), api.create(engine, "new")
    with Service(service.archive, name="guessed at") as other:
        assert other.get("api/v1/run/", known).status_code == 200
        for _ in range(5):
            # Whoever has no key at all guesses nothing.
            assert requests.get(other.url + "api/v1/run/", timeout=30).status_code == 403
        with statements(engine) as looked_at:
            answers = [other.get("api/v1/run/", f"ml4ad_{n}") for n in range(3)]
            n_seen = len(looked_at)
            answers += [other.get("api/v1/run/", f"ml4ad_{n}") for n in range(3, 6)]
            form = {"grant_type": "client_credentials", "client_secret": "ml4ad_7"}
            token = other.url + "auth/realms/x/api-access/token"
            answers.append(requests.post(token, data=form, timeout=30))
            bearer = {"Authorization": "Bearer a.b.c"}
            url = other.url + "api/v1/run/"
            answers.append(requests.get(url, headers=bearer, timeout=30))
            # One that is right, but was not seen before, is not told apart.
            answers.append(other.get("api/v1/run/", new))
            assert len(looked_at) == n_seen
        assert [answer.status_code for answer in answers] == [403] * 3 + [429] * 6
        assert all(0 < int(answer.headers["Retry-After"]) <= 20 for answer in answers[3:])
        assert other.get("api/v1/run/", known).status_code == 200
        # A proxy on this host says for whom it asks.
        elsewhere = {"X-CLIENT-SECRET": new, "X-Forwarded-For": "192.0.2.7"}
        assert requests.get(url, headers=elsewhere, timeout=30).status_code == 200


@pytest.mark.parametrize("path", GETS)
def test_every_address_wants_a_key_and_the_workspace_of_the_key(service, path):
    told = DESCRIBED["paths"][path]["get"].get("parameters", [])
    needed = {
        one["name"]: FILLED.get(one["name"], 1)
        for one in told
        if one["required"] and one["in"] == "query"
    }
    url = service.url.rstrip("/") + re.sub(r"\{\w+\}", "1", path)
    refused = {"detail": "Not allowed", "code": "not_allowed"}
    nobody = requests.get(url, params=needed, timeout=30)
    assert (nobody.status_code, nobody.json()) == (403, refused)
    if any(one["name"].lower() == "workspace" for one in told):
        engine = service.archive.engine
        key = api.create(engine, f"of maps, {path}", workspace_names=["maps"])
        headers = {"X-CLIENT-SECRET": key, "Workspace": "none"}
        other = requests.get(url, params=needed, headers=headers, timeout=30)
        assert (other.status_code, other.json()) == (403, refused)
        # A workspace that does not exist is not told apart from one of others.
        headers["Workspace"] = "no such"
        unknown = requests.get(url, params=needed, headers=headers, timeout=30)
        assert (unknown.status_code, unknown.json()) == (403, refused)


def test_contents_that_json_cannot_have_break_no_page(service):
    found = service.dials().h1d.list(LumisectionHistogram1DFilters(page_size=500))
    assert all(np.isfinite(row.data).all() for row in found.results)
