"""Tasks on real worker processes, which are killed: nothing is lost, nothing else goes wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ml4ad
from ml4ad import cluster
from ml4ad.detect.spread import each
from ml4ad.settings import Settings

SHARED = {"conditions": list(range(100))}


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened


def slowly(_archive, shared, task):
    time.sleep(0.3)
    return os.getpid(), task * sum(shared["conditions"])


def test_all_workers_may_die_at_once(archive):
    tasks = list(range(12))
    with cluster.client(Settings(), workers=2) as client:
        client.wait_for_workers(2, timeout=300)
        pids = set(client.run(os.getpid).values())
        came = {}
        for task, (pid, value) in each(archive, client, slowly, tasks, SHARED):
            came[task] = pid, value
            if len(came) == 3:
                for own in pids:
                    os.kill(own, signal.SIGKILL)
    assert {task: value for task, (_, value) in came.items()} == {n: 4950 * n for n in tasks}
    # Those who took their place did the rest.
    assert {pid for pid, _ in came.values()} - pids


@pytest.fixture
def farm(tmp_path):
    """A scheduler with a worker, as processes of their own: its address, and the scheduler."""
    told = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    given = {"stderr": subprocess.DEVNULL, "env": environment}
    own = ["--no-dashboard", "--scheduler-file", str(told)]
    scheduler = subprocess.Popen(
        [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", *own], **given
    )
    worker = subprocess.Popen([*dask, "worker", "--no-nanny", "--nthreads", "1", *own], **given)
    yield told, scheduler
    for process in (scheduler, worker):
        process.kill()
        process.wait()


def address(told):
    """Where the scheduler is, once it says so."""
    end = time.monotonic() + 60
    while not told.exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    return json.loads(told.read_text())["address"]


def test_who_loses_the_scheduler_is_told_so_in_a_sentence(archive, farm):
    told, scheduler = farm
    with cluster.client(Settings(), scheduler=address(told)) as client:
        done = each(archive, client, slowly, list(range(20)), SHARED)
        next(done)
        scheduler.kill()
        with pytest.raises(ConnectionError, match="the Dask scheduler is lost, and with it"):
            list(done)
