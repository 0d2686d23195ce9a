"""Events of the archive, as a client of server-sent events gets them."""

import json
import time
from contextlib import contextmanager

import psycopg
import pytest
import requests
from scored_samples import DATASET, LINE, OTHER, histograms, put
from served import Service

import ml4ad
from ml4ad import api, verdict, workspaces
from ml4ad.api import events
from ml4ad.store import scoring
from ml4ad.workspaces import Workspace


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened


@pytest.fixture
def service(archive, tmp_path):
    put(archive, tmp_path, histograms(LINE, 1, n_ls=3))
    with Service(archive) as running:
        yield running


class Stream:
    """A client that has begun to listen."""

    def __init__(self, answer):
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        self.lines = answer.iter_lines(chunk_size=1)
        assert next(self.lines) == b": listening"

    def blocks(self):
        block = []
        for line in self.lines:
            if line:
                block.append(line.decode())
            elif block:
                yield block
                block = []

    def take(self, n):
        found = []
        for block in self.blocks():
            if not block[0].startswith(":"):
                told = dict(line.split(": ", 1) for line in block)
                found.append((int(told["id"]), told["event"], json.loads(told["data"])))
                if len(found) == n:
                    break
        return found


@contextmanager
def listening(service, key=None, last=None, **params):
    headers = {"X-CLIENT-SECRET": key or service.key}
    if last is not None:
        headers["Last-Event-ID"] = str(last)
    url = service.url + "api/v2/events"
    with requests.get(url, params, headers=headers, stream=True, timeout=20) as answer:
        yield Stream(answer)


def say(archive, ls_number, **scope):
    verdict.add(archive, 1, ls_number, "good", by="alice", **scope)


def hearing(service):
    """Connections on which this archive's database is listened to."""
    with psycopg.connect(service.archive.url.replace("+psycopg", "")) as connection:
        query = (
            "SELECT pid FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'ml4ad events'"
        )
        return [pid for (pid,) in connection.execute(query)]


def test_what_happens_is_told_and_what_was_missed_is_sent_again(service, tmp_path):
    archive = service.archive
    with listening(service) as stream:
        say(archive, 1)
        put(archive, tmp_path, histograms(LINE, 2, n_ls=3), name="another")
        (said, taken) = stream.take(2)
    assert (said[1], said[2]["by"], said[2]["run_number"]) == ("verdict", "alice", 1)
    assert (taken[1], taken[2]["dataset"], taken[2]["n_ls"]) == ("file", DATASET, 3)
    assert taken[2]["path"].endswith(".root")
    say(archive, 2)
    say(archive, 3)
    with listening(service, last=said[0]) as stream:
        assert stream.take(1) == [taken]
        more = stream.take(2)
        say(archive, 1)
        more += stream.take(1)
    numbers = [number for number, *_ in (said, taken, *more)]
    assert numbers == sorted(set(numbers))
    assert [what for _, what, _ in more] == ["verdict"] * 3
    with listening(service, last=0, what="file") as stream:
        assert [what for _, what, _ in stream.take(2)] == ["file", "file"]


def test_the_stream_is_described(service):
    described = requests.get(service.url + "api/openapi.json", timeout=30).json()
    own = described["paths"]["/api/v2/events"]["get"]
    assert list(own["responses"]["200"]["content"]) == [events.MEDIA]
    assert {"what", "seconds", "last-event-id", "workspace"} <= {
        one["name"].lower() for one in own["parameters"]
    }
    assert {"403", "429", "503"} <= set(own["responses"])


def test_a_workspace_is_told_of_its_own(service):
    archive = service.archive
    workspaces.put(archive.engine, Workspace("maps", ("*",), ("Ecal/",)))
    workspaces.put(archive.engine, Workspace("lines", ("*",), ("Pixel/",)))
    key = api.create(archive.engine, "narrow", workspace_names=["maps"])
    with listening(service, key) as stream:
        say(archive, 1, workspace="lines")
        say(archive, 1, me=LINE)
        with archive.engine.begin() as connection:
            told = {"what": "incidents", "dataset": DATASET, "run_number": 1, "model": "m"}
            scoring.notify(connection, **told, n_incidents=2, mes=[LINE, OTHER])
            scoring.notify(connection, **told, n_incidents=2, mes=[LINE, "Ecal/a"])
        say(archive, 2)
        first, second = stream.take(2)
    assert (first[1], first[2]["mes"], first[2]["n_incidents"]) == ("incidents", ["Ecal/a"], 1)
    assert second[1] == "verdict"


def test_one_connection_listens_for_all_and_is_made_anew(service):
    assert hearing(service) == []
    with listening(service) as one, listening(service) as two, listening(service) as three:
        (pid,) = hearing(service)
        with psycopg.connect(service.archive.url.replace("+psycopg", "")) as connection:
            connection.execute("SELECT pg_terminate_backend(%s)", [pid])
        say(service.archive, 1)
        told = [stream.take(1) for stream in (one, two, three)]
        assert told[0] == told[1] == told[2]
        assert len(hearing(service)) == 1
    end = time.monotonic() + 20
    while hearing(service):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_silence_has_signs_of_life_and_an_end(service, monkeypatch):
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.1)
    with listening(service, seconds=1) as stream:
        assert next(stream.blocks()) == [": still here"]
        assert list(stream.blocks())


def test_a_stopping_server_does_not_wait_for_listeners(service):
    with listening(service) as stream:
        began = time.monotonic()
        service.server.should_exit = True
        list(stream.blocks())
        service.thread.join(5)
        assert time.monotonic() - began < 5
        assert not service.thread.is_alive()


def test_who_is_too_far_behind_is_let_go(monkeypatch):
    monkeypatch.setattr(events, "MOST_WAITING", 2)
    listener = events.Listener(0)
    for number in (1, 2):
        listener.tell(number)
    assert not listener.over
    listener.tell(3)
    assert listener.over
    assert listener.waiting.qsize() == 2


def test_what_cannot_be_resumed_is_refused_and_so_is_one_too_many(service, monkeypatch):
    headers = {"X-CLIENT-SECRET": service.key}
    for last in ("x", "-1", str(2**70)):
        url = service.url + "api/v2/events"
        answer = requests.get(url, headers=headers | {"Last-Event-ID": last}, timeout=20)
        assert answer.status_code == 422, last
    assert service.get("api/v2/events", "nobody").status_code == 403
    monkeypatch.setattr(events, "MOST_LISTENERS", 1)
    with listening(service) as first:
        refused = service.get("api/v2/events", seconds=5)
        assert first.lines
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
