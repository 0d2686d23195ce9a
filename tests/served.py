"""A real server over a database of its own, for the tests of REST."""

import threading
import time

import pytest
import requests
from cmsdials import Dials
from cmsdials.auth.secret_key import Credentials as SecretCredentials

from ml4ad import api
from ml4ad.api.serve import server


def logged(caplog, n, within_s=30):
    """The first ``n`` lines of the log; a request's is written after its answer has come."""
    until = time.monotonic() + within_s
    while len(caplog.records) < n and time.monotonic() < until:
        time.sleep(0.01)
    return [record.message for record in caplog.records[:n]]


class Service:
    """A server in a thread, and the addresses and keys to reach it."""

    def __init__(self, archive, name="test"):
        self.archive = archive
        self.server = server(archive.engine, port=0)
        self.key = api.create(archive.engine, name, scope="admin")
        self.thread = threading.Thread(target=self.server.run)

    def __enter__(self):
        self.thread.start()
        while not self.server.started and self.thread.is_alive():
            self.thread.join(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()

    def get(self, path, key=None, **params):
        headers = {"X-CLIENT-SECRET": key or self.key}
        return requests.get(self.url + path, params=params, headers=headers, timeout=30)

    def dials(self, workspace=None, key=None):
        with pytest.warns(DeprecationWarning, match="X-CLIENT-SECRET"):
            creds = SecretCredentials(token=key or self.key)
        return Dials(creds, workspace=workspace, base_url=self.url)
