"""What DIALS cannot do: whole stacks, exactly, and what was found in them."""

import dataclasses
import json
import socket
import time
from contextlib import contextmanager

import numpy as np
import psycopg
import pyarrow as pa
import pytest
import requests
from scored_samples import DATASET, LINE, MAP, OTHER, histograms, judged, put
from served import Service

import ml4ad
from ml4ad import HistogramStack, api, conditions, dqmio, ingest, workspaces
from ml4ad.api import watch, whole
from ml4ad.api.watch import Gate
from ml4ad.detect import registry
from ml4ad.workspaces import Workspace


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened


def fill(url, _folder):
    log_p = np.array([[-1, -1, -1, -1, np.nan], [-1, -40, -30, -1, -1]], dtype=float)
    judged(url, log_p, mes=[LINE, OTHER]).close()


@pytest.fixture
def scored(opened):
    with Service(opened(fill)) as running:
        yield running


def assert_same(one, other):
    for field in dataclasses.fields(HistogramStack):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(theirs, np.ndarray):
            assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape), field.name
            assert np.array_equal(mine, theirs, equal_nan=theirs.dtype.kind == "f"), field.name
        else:
            assert mine == theirs, field.name


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_every_kind_of_histogram_comes_back_exactly(archive, small14, form):
    (done,) = ingest.ingest(archive, [small14], dataset=DATASET)
    assert done.state == "PROCESSED"
    stacks = list(archive.stacks())
    assert {stack.kind for stack in stacks} >= {"TH1F", "TH2F", "TProfile", "TProfile2D", "TH3F"}
    with Service(archive) as service:
        for stack in stacks:
            answer = service.get(
                "api/v2/stack",
                me=stack.me,
                dataset=DATASET,
                run_number=stack.run_number,
                format=form,
            )
            assert answer.status_code == 200, answer.text
            assert_same(api.read(answer.content), stack)
        for stack in {stack.kind: stack for stack in stacks}.values():
            asked = {"me": stack.me, "dataset": DATASET, "run_number": stack.run_number}
            few = service.get("api/v2/stack", **asked, first_ls=10**6, format=form)
            none = api.read(few.content)
            assert len(none) == 0
            assert (none.axes, none.kind) == (stack.axes, stack.kind)


def test_what_is_no_stack_is_refused():
    with pytest.raises(ValueError, match="want an Arrow stream or Parquet"):
        api.read(b"no")
    with pytest.raises(ValueError, match="want one of /api/v2/stack"):
        api.read(pa.table({"x": [1]}))


def test_a_long_run_is_sent_in_parts_and_may_be_cut(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "_PART_BYTES", 1000)
    stack = histograms(MAP, 3, n_ls=25)
    put(archive, tmp_path, stack)
    with Service(archive) as service:
        asked = {"me": MAP, "dataset": DATASET, "run_number": 3}
        every = service.get("api/v2/stack", **asked)
        some = service.get("api/v2/stack", **asked, first_ls=7, last_ls=9)
        none = service.get("api/v2/stack", **asked, first_ls=70)
        axes = service.get("api/v2/axes", **asked).json()
    table = pa.ipc.open_stream(every.content).read_all()
    assert table["contents"].num_chunks > 5
    assert table["ls_number"].to_pylist() == list(range(1, 26))
    assert pa.ipc.open_stream(some.content).read_all()["ls_number"].to_pylist() == [7, 8, 9]
    assert pa.ipc.open_stream(none.content).read_all().num_rows == 0
    assert axes["axes"][1]["edges"] == [-3, -2, -1, 0, 1, 2, 3]


def test_what_is_not_seen_is_not_found(archive, tmp_path):
    put(archive, tmp_path, histograms(LINE, 1))
    workspaces.put(archive.engine, Workspace("maps", ("*",), ("Ecal/",)))
    key = api.create(archive.engine, "narrow", workspace_names=["maps"])
    with Service(archive) as service:
        asked = {"me": LINE, "dataset": DATASET, "run_number": 1}
        assert service.get("api/v2/stack", **asked).status_code == 200
        for name in ("stack", "axes"):
            answer = service.get(f"api/v2/{name}", key, **asked)
            told = f"Not found, or not to be seen: element {LINE!r} in run 1"
            assert (answer.status_code, answer.json()["detail"]) == (404, told)
        changes = {
            f"element {LINE!r} in run 9": {"run_number": 9},
            "element 'x' in run 1": {"me": "x"},
            "dataset '/a/b/c'": {"dataset": "/a/b/c"},
        }
        for told, changed in changes.items():
            answer = service.get("api/v2/stack", **{**asked, **changed})
            told = f"Not found, or not to be seen: {told}"
            assert (answer.status_code, answer.json()["detail"]) == (404, told)


def test_scores_of_every_lumisection(scored):
    asked = {"dataset": DATASET, "run_number": 7}
    rows = scored.get("api/v2/scores", **asked).json()
    assert len(rows) == 10
    flagged = [(row["me"], row["ls_number"]) for row in rows if row["flagged"]]
    assert flagged == [(OTHER, 2), (OTHER, 3)]
    (lacking,) = [row for row in rows if row["reason"]]
    assert (lacking["ls_number"], lacking["score"]) == (5, None)
    answer = scored.get("api/v2/scores", **asked, me=OTHER, format="arrow")
    assert pa.ipc.open_stream(answer.content).read_all().num_rows == 5
    assert scored.get("api/v2/scores", dataset="/a/b/c", run_number=7).status_code == 404
    assert scored.get("api/v2/scores", **asked, model="none").status_code == 404


@pytest.mark.parametrize("name", ["incidents", "states", "conditions", "verdicts"])
@pytest.mark.parametrize("form", ["json", "arrow"])
def test_tables_of_a_run(scored, name, form):
    answer = scored.get(f"api/v2/{name}", dataset=DATASET, run_number=7, format=form)
    assert answer.status_code == 200, answer.text
    if form == "json":
        n_rows = len(answer.json())
    else:
        n_rows = pa.ipc.open_stream(answer.content).read_all().num_rows
    assert n_rows == (5 if name in ("states", "conditions") else 0)


def test_a_verdict_is_kept_and_audited(scored):
    engine = scored.archive.engine
    key = api.create(engine, "shift", scope="write")
    said = {
        "run_number": 7,
        "lumisections": [[2, 3]],
        "verdict": "known",
        "why": "a test pulse",
        "dataset": DATASET,
    }

    def say(key, **changed):
        headers = {"X-CLIENT-SECRET": key}
        url = scored.url + "api/v2/verdicts"
        return requests.post(url, json={**said, **changed}, headers=headers, timeout=30).status_code

    reader = api.create(engine, "reader")
    assert say(key) == 201
    assert say(reader) == 403
    assert say("nothing") == 403
    assert say(key, verdict="bad", why="") == 400
    assert say(key, verdict="nonsense") == 422
    assert say(key, lumisections=[]) == 422
    assert say(key, more=1) == 422
    states = scored.get("api/v2/states", dataset=DATASET, run_number=7).json()
    assert [row["state"] for row in states] == ["good"] * 4 + ["not assessed"]
    (row,) = scored.get("api/v2/verdicts", dataset=DATASET, run_number=7).json()
    assert (row["said_by"], row["why"]) == ("shift", "a test pulse")
    audit = api.audit(engine)
    assert list(zip(audit.who, audit.status, strict=True)) == [
        *(("shift", 400), ("reader", 403), ("shift", 201))
    ]


# -- conditions ----------------------------------------------------------------------------------


def load(service, body, key=None, **params):
    """What is answered to conditions that are sent; ``body`` is JSON unless it is a text."""
    sent = body if isinstance(body, str | bytes) else json.dumps(body)
    headers = {"X-CLIENT-SECRET": key or service.key}
    url = service.url + "api/v2/conditions"
    return requests.post(url, data=sent, params=params, headers=headers, timeout=30)


def test_conditions_are_taken_in_and_read_back(scored):
    key = api.create(scored.archive.engine, "loader", scope="write")
    table = {
        "run_number": [7, 7],
        "ls_number": [1, 2],
        "pileup": [31.5, None],
        "vdm": ["a", "b\ud800\0"],
    }
    answer = load(scored, table, key)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["n_lumisections"], answer.json()["n_runs"]) == (2, 0)
    lumi = "run_number,ls_number,delivered_lumi\n7,2,1.5\n"
    assert load(scored, lumi, key, lumi_unit="/nb").json()["n_lumisections"] == 1
    rows = scored.get("api/v2/conditions", dataset=DATASET, run_number=7).json()
    assert [(row["pileup"], row["delivered_lumi"], row["vdm"]) for row in rows[:3]] == [
        *((31.5, None, "a"), (None, 1500.0, "b?"), (None, None, None))
    ]
    name = "Cert_Collisions2024_Golden.json"
    assert load(scored, {"7": [[1, 3]]}, key, name=name).json()["certifications"] == [
        "golden Cert_Collisions2024_Golden"
    ]
    assert load(scored, {"7": [[2, 3]]}, key, name="mine", kind="dcs").status_code == 200
    good = scored.archive.good(DATASET, golden="Cert_Collisions2024_Golden", dcs="mine")
    assert good.ls_number.tolist() == [2, 3]
    sources = set(conditions.certifications(scored.archive.engine).source)
    assert sources == {f"REST/loader/{name}", "REST/loader/mine"}
    audit = api.audit(scored.archive.engine)
    assert set(zip(audit.who, audit.action, audit.status, strict=True)) == {
        ("loader", "conditions", 200)
    }
    assert [row["n_lumisections"] for row in audit.details] == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("body", "params", "told"),
    [
        ([{"run_number": 7, "ls_number": 0}], {}, "row 0: ls_number is 0: want 1 to "),
        ([{"run_number": 7, "ls_number": 1, "pileup": "x"}], {}, "'x': want a finite number"),
        ([{"run_number": 7, "beams_stable": "maybe"}], {}, "'maybe': want true or false"),
        ([{"lumisection": 7}], {}, "no column run_number, only ls_number"),
        ({"7": [[3, 1]]}, {"kind": "golden"}, "[3, 1]: want 1 <= first <= last"),
        ({"7": [[1, 3]]}, {}, "conditions: a certification, but of which kind? Say golden"),
        ("", {}, "neither JSON nor CSV"),
        ("{", {}, "not JSON"),
        (b"\xff\xfe", {}, "not text"),
        ('[{"run_number": 7, "era": "\\ud800"}]', {}, "'\\ud800': want text without NUL"),
        ("[" * 100_000, {}, "not JSON"),
    ],
)
def test_conditions_that_make_no_sense_are_refused_whole(scored, body, params, told):
    answer = load(scored, body, **params)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid"), answer.text
    assert told in answer.json()["detail"]
    assert len(answer.json()["detail"]) < 500
    assert conditions.runs(scored.archive.engine).empty
    assert conditions.certifications(scored.archive.engine).empty
    assert api.audit(scored.archive.engine).status.tolist() == [400]


def test_conditions_are_everybodys_and_no_workspace_changes_them(scored):
    engine = scored.archive.engine
    workspaces.put(engine, Workspace("all", ("*",), ("*",)))
    narrow = api.create(engine, "narrow", scope="admin", workspace_names=["all"])
    reader = api.create(engine, "reader")
    body = [{"run_number": 7, "era": "F"}]
    for key, status in ((narrow, 403), (reader, 403), ("ml4ad_nobody", 403), (scored.key, 200)):
        assert load(scored, body, key).status_code == status
    for params in ({"kind": "zip"}, {"lumi_unit": "/x"}, {"name": "../x"}, {"name": "x" * 201}):
        assert load(scored, body, **params).status_code == 422
    assert load(scored, b" " * (2 << 20)).status_code == 413


def test_who_may_not_write_is_not_told_what_is_wrong_with_the_body(scored):
    engine = scored.archive.engine
    keys = {name: api.create(engine, name, scope=name) for name in ("read", "write")}
    refused = {"detail": "Not allowed", "code": "not_allowed"}
    for name, scope in (
        *(("verdicts", "write"), ("conditions", "write"), ("score", "write")),
        *(("index", "admin"), ("ingest", "admin")),
    ):
        below = ("read", "write")[: 1 + (scope == "admin")]
        for key in (*(keys[one] for one in below), "ml4ad_x"):
            for body in (b"", b"{", b'{"more": 1}'):
                headers = {"X-CLIENT-SECRET": key}
                url = f"{scored.url}api/v2/{name}"
                answer = requests.post(url, data=body, headers=headers, timeout=30)
                assert (answer.status_code, answer.json()) == (403, refused), (name, body)
    told = api.audit(engine)
    assert set(told.status) == {403}
    assert set(zip(told.who, told.action, strict=True)) >= {("read", "verdict"), ("read", "index")}


def test_without_an_active_model_the_answer_says_so(scored):
    asked = {"dataset": DATASET, "run_number": 7}
    assert "Note" not in scored.get("api/v2/scores", **asked).headers
    assert "Note" not in scored.get("api/v2/scores", **{**asked, "run_number": 8}).headers
    for model in registry.active(scored.archive):
        registry.retire(scored.archive, model)
    answer = scored.get("api/v2/scores", **asked)
    assert (answer.json(), answer.headers["Note"]) == (
        [],
        "no model is active; model= names one of those before",
    )
    assert len(scored.get("api/v2/scores", **asked, model=str(model)).json()) == 10


# -- tables --------------------------------------------------------------------------------------


def test_fields_order_limit_and_count(scored):
    asked = {"dataset": DATASET, "run_number": 7}
    answer = scored.get(
        "api/v2/scores", **asked, fields="ls_number,me", order="-score,ls_number", limit=3, count=1
    )
    assert answer.headers["Total-Count"] == "10"
    assert answer.json() == [
        {"ls_number": 2, "me": OTHER},
        {"ls_number": 3, "me": OTHER},
        {"ls_number": 1, "me": LINE},
    ]
    arrow = scored.get("api/v2/states", **asked, fields="state", order="-ls_number", format="arrow")
    table = pa.ipc.open_stream(arrow.content).read_all()
    assert table.column_names == ["state"]
    assert table["state"][0].as_py() == "not assessed"
    for name in ("fields", "order"):
        refused = scored.get("api/v2/scores", **asked, **{name: "nothing"})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid")
        assert "want one of model, dataset" in refused.json()["detail"]


def through(service, address, **params):
    """All rows of a list, page by page."""
    answer = service.get(address, **params)
    every = []
    while True:
        assert answer.status_code == 200, answer.text
        every.append(answer.json())
        following = answer.links.get("next")
        if following is None:
            return every
        answer = service.get(following["url"].removeprefix(service.url))


def test_lists_of_files_and_runs_in_pages(archive, tmp_path):
    for number in (5, 3, 4):
        put(archive, tmp_path, histograms(LINE, number, n_ls=3), name=f"of_{number}")
    lost = tmp_path / "lost.root"
    lost.write_bytes(b"nothing")
    list(ingest.ingest(archive, [lost], dataset=DATASET))
    with Service(archive) as service:
        for order in ("file_id", "-size,path", "path", "-changed_at", "state,-path"):
            every = through(service, "api/v2/files", limit=1, order=order)
            assert [len(page) for page in every] == [1] * 4, order
            whole = service.get("api/v2/files", order=order).json()
            assert [page[0] for page in every] == whole
        (bad,) = service.get("api/v2/files", state="BAD", fields="state,path,reason").json()
        assert bad["path"] == str(lost)
        assert bad["reason"]
        counted = service.get("api/v2/files?path=*/of_*", count=1, limit=2, fields="file_id")
        assert (counted.headers["Total-Count"], len(counted.json())) == ("3", 2)
        every = through(
            service, "api/v2/runs", limit=1, order="-run_number", fields="run_number,n_ls"
        )
        assert every == [[{"run_number": n, "n_ls": 3}] for n in (5, 4, 3)]
        (run,) = service.get("api/v2/runs", run_number=4).json()
        assert (run["n_files"], run["n_incidents"], run["scored_at"]) == (1, 0, None)
        for token in ("x", "W10", "WyJhIl0", "WzFd"):
            refused = service.get("api/v2/files", order="path", next_token=token)
            assert refused.status_code == 400, token
        assert service.get("api/v2/files", order="worker").status_code == 400


def test_a_workspace_sees_its_own_runs_and_files(scored):
    workspaces.put(scored.archive.engine, Workspace("other", ("/Nothing/*",), ("*",)))
    key = api.create(scored.archive.engine, "narrow", workspace_names=["other"])
    assert scored.get("api/v2/files").json()
    assert scored.get("api/v2/runs").json()
    for name in ("files", "runs"):
        assert scored.get(f"api/v2/{name}", key).json() == []


# -- many, and slow ------------------------------------------------------------------------------


def connections(archive):
    """Connections to the database of this archive besides the one that asks."""
    with psycopg.connect(archive.url.replace("+psycopg", "")) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        return connection.execute(f"{query} AND state <> 'idle'").fetchone()[0] - 1


@contextmanager
def slow_reader(service, **params):
    """A client that asks for a stack, reads its head, and no more."""
    query = requests.compat.urlencode({"dataset": DATASET, "compression": "none", **params})
    host, port = service.url.split("/")[2].split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        asked = f"GET /api/v2/stack?{query} HTTP/1.1\r\nHost: x\r\nX-CLIENT-SECRET: {service.key}"
        client.sendall(f"{asked}\r\n\r\n".encode())
        assert client.recv(12) == b"HTTP/1.1 200"
        yield client


def inside(service):
    """Requests that are let in and not answered."""
    layer = service.server.config.app.middleware_stack
    while not isinstance(layer, Gate):
        layer = layer.app
    return layer.inside


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_slow_client_holds_no_connection_and_is_let_go(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(Gate.__init__, "__defaults__", (watch.MOST_REQUESTS, 1.0))
    put(archive, tmp_path, histograms(MAP, 3, n_ls=400, n_bins=500))
    with Service(archive) as service, slow_reader(service, me=MAP, run_number=3):
        until(lambda: connections(archive) == 0)
        assert inside(service) == 1
        until(lambda: inside(service) == 0)
        assert service.get("api/v2/runs").status_code == 200
    assert archive.engine.pool.checkedout() == 0


def test_more_requests_than_fit_are_told_to_come_again(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(Gate.__init__, "__defaults__", (2, 60.0))
    put(archive, tmp_path, histograms(MAP, 3, n_ls=400, n_bins=500))
    with Service(archive) as service:
        with (
            slow_reader(service, me=MAP, run_number=3),
            slow_reader(service, me=MAP, run_number=3),
        ):
            refused = service.get("api/v2/runs")
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            assert refused.json()["code"] == "unavailable"
            assert service.get("health").status_code == 200
        until(lambda: inside(service) == 0)
        assert service.get("api/v2/runs").status_code == 200


# -- runs of notebooks ---------------------------------------------------------------------------


def ended(service, address):
    """The run at an address, once it does not run any more."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
        run = service.get(address).json()
        if run["state"] != "running":
            return run
        time.sleep(0.3)
    raise AssertionError(f"{address} still runs")


def begin(service, name, key=None, **body):
    headers = {"X-CLIENT-SECRET": key or service.key}
    return requests.post(service.url + f"api/v2/{name}", json=body, headers=headers, timeout=150)


@pytest.mark.slow
def test_files_are_taken_in_and_the_run_is_followed(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("ML4AD_DATA_DIR", str(tmp_path / "data"))
    folder = tmp_path / "files"
    folder.mkdir()
    dqmio.write(folder / "one.root", [histograms(LINE, 5, n_ls=3)], seed=1)
    with Service(archive) as service:
        asked = {"paths": [str(folder)], "dataset": DATASET, "workers": 0}
        answer = begin(service, "ingest", **asked)
        assert answer.status_code == 202, answer.text
        assert begin(service, "ingest", **asked).status_code == 409
        address = answer.headers["Location"].removeprefix(service.url)
        assert address == f"api/v2/pipeline-runs/{answer.json()['pipeline_run_id']}"
        run = ended(service, address)
        assert (run["state"], run["notebook"], run["given"]) == ("done", "ingest", asked)
        assert archive.stack(LINE, 5).n_ls == 3
        listed = service.get("api/v2/pipeline-runs", fields="notebook,state", count=1)
        assert listed.json() == [{"notebook": "ingest", "state": "done"}]
        # Without a model there is nothing to score with, and the run says so.
        answer = begin(service, "score", workers=0)
        failed = ended(service, answer.headers["Location"].removeprefix(service.url))
        assert (failed["state"], failed["error_name"]) == ("failed", "ValueError")
    told = api.audit(archive.engine)
    assert sorted(zip(told.action, told.status, strict=True)) == [
        *(("ingest", 202), ("ingest", 409), ("score", 202))
    ]


@pytest.mark.parametrize(
    ("scope", "name", "body", "status"),
    [
        ("write", "ingest", {"paths": ["/x"]}, 403),
        ("write", "index", {"paths": ["/x"]}, 403),
        ("read", "score", {}, 403),
        ("admin", "index", {"paths": ["relative"]}, 422),
        ("admin", "index", {"paths": []}, 422),
        ("admin", "score", {"more": 1}, 422),
        ("admin", "score", {"workers": 1000}, 422),
    ],
)
def test_what_may_not_be_started_is_not(archive, scope, name, body, status):
    key = api.create(archive.engine, "caller", scope=scope)
    with Service(archive) as service:
        assert begin(service, name, key, **body).status_code == status
        assert service.get("api/v2/pipeline-runs").json() == []
        assert service.get("api/v2/pipeline-runs/1").status_code == 404


def test_who_works_in_a_workspace_starts_and_sees_no_runs(archive):
    workspaces.put(archive.engine, Workspace("maps", ("*",), ("Ecal/",)))
    key = api.create(archive.engine, "narrow", scope="admin", workspace_names=["maps"])
    with Service(archive) as service:
        assert begin(service, "score", key).status_code == 403
        assert service.get("api/v2/pipeline-runs", key).status_code == 403
