"""Kill -9 of anything at any moment: nothing is lost, nothing is there twice."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa

import ml4ad
from ml4ad import Axis, HistogramStack, dqmio, ingest
from ml4ad.ingest import take
from ml4ad.store import schema, server

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"
N_FILES, N_KILLS = 8, 20
VICTIMS = ("worker", "scheduler", "main", "postgres")


def write(path, run_number, version):
    rng = np.random.default_rng([run_number, version])
    stacks = [
        HistogramStack.from_arrays(
            rng.poisson(20, (30, 40)).astype("f4"),
            Axis.regular(40, 0, 1),
            ls_numbers=range(1, 31),
            run_number=run_number,
            me=f"Pixel/Layer{i}/charge",
        )
        for i in range(40)
    ]
    dqmio.write(path, stacks, overwrite=True)
    return {stack.me: stack for stack in stacks}


class Processes:
    """Scheduler, workers and `ml4ad ingest`, each a process of its own."""

    def __init__(self, folder, environment):
        self.folder = folder
        self.environment = environment
        self.running = {}

    def spawn(self, name, *arguments):
        log = (self.folder / f"{name}.log").open("ab")
        self.running[name] = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env=self.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()

    def alive(self, name):
        return name in self.running and self.running[name].poll() is None

    def kill(self, name):
        process = self.running.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def keep(self):
        """Start what is not running."""
        address = self.folder / "scheduler.json"
        if not self.alive("scheduler"):
            address.unlink(missing_ok=True)
            for name in ("worker-0", "worker-1"):
                if name in self.running:
                    self.kill(name)
            self.spawn(
                "scheduler",
                *("distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"),
                *("--host", "127.0.0.1", "--scheduler-file", str(address)),
            )
            wait_for(address.exists, "the scheduler")
        for name in ("worker-0", "worker-1"):
            if not self.alive(name):
                self.spawn(
                    name,
                    *("distributed.cli.dask_worker", "--scheduler-file", str(address)),
                    *("--nthreads", "1", "--no-nanny", "--no-dashboard"),
                )

    def stop(self):
        for name in list(self.running):
            self.kill(name)


def wait_for(condition, what, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not come up"
        time.sleep(0.05)


def scheduler_url(folder):
    import json

    return json.loads((folder / "scheduler.json").read_text())["address"]


def connected(data_dir, file_states=()):
    """Whether PostgreSQL is there, and some file in one of these states."""
    try:
        with psycopg.connect(server.status(data_dir).url or "", connect_timeout=5) as connection:
            found = connection.execute(
                "SELECT count(*) FROM file WHERE state = ANY(%s)", [list(file_states)]
            ).fetchone()
            return not file_states or found[0] > 0
    except psycopg.Error:
        return False


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_lose_nothing_and_double_nothing(tmp_path, data_dir):
    seed = int(os.environ.get("ML4AD_KILL_SEED", "20"))
    print(f"ML4AD_KILL_SEED={seed}")  # noqa: T201 (pytest shows it where the test fails)
    chance = random.Random(seed)  # noqa: S311 (which to kill, not a secret)
    files = tmp_path / "files"
    files.mkdir()
    environment = os.environ | {"ML4AD_DATA_DIR": str(data_dir)}
    environment.pop("ML4AD_DATABASE_URL", None)
    processes = Processes(tmp_path, environment)
    truth = {run: write(files / f"{run}.root", run, 0) for run in range(1, N_FILES + 1)}
    killed = []
    n_at_work = 0
    try:
        for kill in range(N_KILLS):
            # What was taken in changes, so that there is always something to do.
            for run in chance.sample(range(1, N_FILES + 1), 4) if kill else ():
                truth[run] = write(files / f"{run}.root", run, kill)
            server.start(data_dir)
            processes.keep()
            processes.spawn(
                "main",
                *("ml4ad", "ingest", str(files), "--dataset", DATASET),
                *("--scheduler", scheduler_url(tmp_path), "--attempts", "2"),
            )
            victim = VICTIMS[kill % len(VICTIMS)]
            # Let it get to work, then strike at a random moment.
            wait_for(
                lambda: connected(data_dir, ["RUNNING"]) or not processes.alive("main"),
                "an ingester",
            )
            time.sleep(chance.uniform(0, 0.4))
            n_at_work += connected(data_dir, ["RUNNING", "PENDING"])
            if victim == "postgres":
                os.kill(server.status(data_dir).pid, signal.SIGKILL)
            else:
                name = f"worker-{chance.randrange(2)}" if victim == "worker" else victim
                if processes.alive(name):
                    processes.kill(name)
            killed.append(victim)
            if processes.alive("main"):
                time.sleep(chance.uniform(0, 0.5))
                processes.kill("main")
        processes.stop()

        url = server.start(data_dir)
        with ml4ad.connect(url) as archive:
            list(ingest.ingest(archive, files, dataset=DATASET))
            states = archive.files().state
            assert states.tolist() == ["PROCESSED"] * N_FILES
            for run, stacks in truth.items():
                for me, stack in stacks.items():
                    got = archive.stack(me, run)
                    assert np.array_equal(got.ls_numbers, stack.ls_numbers)
                    assert np.array_equal(got.contents, stack.contents)
            with archive.engine.connect() as connection:
                n_stored = connection.scalar(sa.select(sa.func.sum(schema.block.c.n_ls)))
                n_ls = connection.scalar(sa.select(sa.func.count()).select_from(schema.lumisection))
            assert n_stored == N_FILES * 40 * 30
            assert n_ls == N_FILES * 30
        take.close_engines()
        assert len(killed) == N_KILLS
        # Else the kills met nobody at work, and this test has shown nothing.
        assert n_at_work > N_KILLS // 2
    finally:
        processes.stop()
