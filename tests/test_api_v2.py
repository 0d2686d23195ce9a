"""What DIALS cannot do: whole stacks, exactly, and what was found in them."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from scored_samples import DATASET, LINE, MAP, OTHER, histograms, judged, put
from test_api import Service

import ml4ad
from ml4ad import api, ingest, workspaces
from ml4ad.api import whole
from ml4ad.workspaces import Workspace


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened


@pytest.fixture
def scored(database_url):
    log_p = np.array([[-1, -1, -1, -1, np.nan], [-1, -40, -30, -1, -1]], dtype=float)
    archive = judged(database_url, log_p, mes=[LINE, OTHER])
    with archive, Service(archive) as running:
        yield running


def arrays(table, stack):
    cells = [axis.n_bins + 2 for axis in stack.axes]
    for name in ("contents", "sumw2", "sum_of_weights", "sum_of_weights_squared"):
        column = table[name].combine_chunks()
        if column.null_count == len(column):
            yield name, None
        else:
            shaped = column.flatten().to_numpy().reshape(len(table), *cells[::-1])
            yield name, shaped.transpose(0, *range(len(cells), 0, -1))


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
            opened = io.BytesIO(answer.content)
            table = (
                pa.ipc.open_stream(opened).read_all() if form == "arrow" else pq.read_table(opened)
            )
            assert table["ls_number"].to_pylist() == stack.ls_numbers.tolist()
            assert np.array_equal(table["entries"].to_numpy(), stack.entries)
            for name, got in arrays(table, stack):
                held = getattr(stack, name)
                assert (got is None) == (held is None), name
                if held is not None:
                    assert got.dtype == held.dtype
                    assert np.array_equal(got, held, equal_nan=True), name
            told = json.loads(table.schema.metadata[b"ml4ad"])
            assert told["kind"] == stack.kind
            assert [axis["edges"] for axis in told["axes"]] == [
                a.edges.tolist() for a in stack.axes
            ]
            assert [tuple(axis["labels"]) for axis in told["axes"]] == [
                a.labels for a in stack.axes
            ]


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
            assert service.get(f"api/v2/{name}", key, **asked).status_code == 404
        for changed in ({"run_number": 9}, {"me": "x"}, {"dataset": "/a/b/c"}):
            answer = service.get("api/v2/stack", **{**asked, **changed})
            assert (answer.status_code, answer.json()["detail"]) == (404, "Not found")


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
    assert say(key, verdict="nonsense") == 400
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
