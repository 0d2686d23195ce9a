"""A server starts with nothing, survives its database's restart, and ends without cutting off."""

import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import processes
import pytest
import requests
from scored_samples import MAP, good_runs, histograms, put
from served import Service

import ml4ad
from ml4ad import api
from ml4ad.store import server


@contextmanager
def process(url):
    """`ml4ad api` as a process of its own: its address, and the process."""
    environment = {**os.environ, "ML4AD_DATABASE_URL": url}
    command = [sys.executable, "-m", "ml4ad", "api", "--port", "0"]
    with processes.started(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        address = None
        while address is None:
            line = running.stderr.readline()
            assert line, "it ended"
            address = re.search(r"http://127\.0\.0\.1:\d+", line)
        yield address[0], running


def test_it_starts_on_an_empty_database_and_stops_when_told(empty_database_url):
    with process(empty_database_url) as (address, running):
        with ml4ad.connect(empty_database_url) as archive:
            key = {"X-CLIENT-SECRET": api.create(archive.engine, "first")}
        assert requests.get(address + "/health", timeout=30).json()["status"] == "ok"
        page = requests.get(address + "/api/v1/run/", headers=key, timeout=30).json()
        assert page == {"next": None, "previous": None, "results": []}
        running.send_signal(signal.SIGTERM)
        lines = running.stderr.read().splitlines()
        assert running.wait(30) in (0, -signal.SIGTERM)
    told = [json.loads(line) for line in lines if line.startswith("{")]
    assert [(one["path"], one["status"], one["who"]) for one in told] == [
        *(("/health", 200, ""), ("/api/v1/run/", 200, "first"))
    ]
    assert not any("Traceback" in line for line in lines)


def test_an_answer_under_way_is_sent_to_its_end_when_the_server_stops(database_url, tmp_path):
    with ml4ad.connect(database_url) as archive:
        put(archive, tmp_path, histograms(MAP, 1, n_ls=300, n_bins=1500, entries=1e6))
        key = {"X-CLIENT-SECRET": api.create(archive.engine, "reader")}
    with process(database_url) as (address, running):
        url = address + "/api/v1/th2/?page_size=500"
        plain = {**key, "Accept-Encoding": "identity"}
        with requests.get(url, headers=plain, stream=True, timeout=60) as answer:
            parts = answer.iter_content(65536)
            began = next(parts)
            running.send_signal(signal.SIGTERM)
            # No longer there for others.
            while True:
                try:
                    requests.get(address + "/health", timeout=30)
                except requests.ConnectionError:
                    break
            assert running.poll() is None
            whole = began + b"".join(parts)
        assert len(json.loads(whole)["results"]) == 300
        # More than the sockets between them hold: it was not all sent before.
        assert len(whole) > 8 * 2**20
        lines = running.stderr.read()
        assert running.wait(30) in (0, -signal.SIGTERM)
    assert "Traceback" not in lines


def test_a_restart_of_the_database_is_survived(data_dir, tmp_path):
    url = server.start(data_dir, durable=False)
    paths = ("health", "api/v1/run/", "api/v1/lumisection/", "api/v1/th1/", "api/v1/mes/") * 3

    def statuses(service):
        with ThreadPoolExecutor(len(paths)) as readers:
            return list(readers.map(lambda path: service.get(path).status_code, paths))

    with ml4ad.connect(url) as archive:
        good_runs(archive, tmp_path, (MAP,), (1,), n_ls=3)
        with Service(archive) as service:
            # Many connections at once, so that many are dead afterwards.
            assert set(statuses(service)) == {200}
            assert server.stop(data_dir)
            assert set(statuses(service)) == {503}
            answer = service.get("api/v1/run/")
            told = answer.json()
            assert told["code"] == "unavailable"
            assert int(answer.headers["Retry-After"]) > 0
            assert str(data_dir) not in json.dumps(told)
            assert server.start(data_dir, durable=False) == url
            assert set(statuses(service)) == {200}
            assert len(service.get("api/v1/th2/").json()["results"]) == 3


def test_an_answer_that_loses_its_database_is_cut_not_ended(data_dir, tmp_path, monkeypatch):
    url = server.start(data_dir, durable=False)
    monkeypatch.setattr("ml4ad.api.histograms._FIRST_BYTES", 1)
    monkeypatch.setattr("ml4ad.api.histograms._MOST_READ", 1)
    with ml4ad.connect(url) as archive:
        put(archive, tmp_path, histograms(MAP, 1, n_ls=300, n_bins=1500, entries=1e6))
        with Service(archive) as service:
            headers = {"X-CLIENT-SECRET": service.key, "Accept-Encoding": "identity"}
            page = service.url + "api/v1/th2/?page_size=500"
            with requests.get(page, headers=headers, stream=True, timeout=60) as answer:
                parts = answer.iter_content(65536)
                began = next(parts)
                server.stop(data_dir)
                with pytest.raises(requests.exceptions.ChunkedEncodingError):
                    began += b"".join(parts)
            server.start(data_dir, durable=False)
            assert service.get("health").status_code == 200
