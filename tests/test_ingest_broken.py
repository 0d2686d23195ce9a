"""Connections that break: nothing is half-stored, and another attempt passes."""

import contextlib
import socket
import threading
import time

import numpy as np
import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

import ml4ad
from ml4ad import Axis, HistogramStack, cluster, dqmio, ingest, store
from ml4ad.ingest import take
from ml4ad.settings import Settings
from ml4ad.store import DatabaseError, schema

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"
N_LS, N_ELEMENTS = 20, 12
TABLES = (schema.block, schema.scalar, schema.lumisection, schema.run)


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened
    take.close_engines()


@pytest.fixture(scope="module")
def workers():
    with cluster.client(Settings(), workers=1) as client:
        client.wait_for_workers(1, timeout=300)
        yield client


def stacks_of(run_number, n_bins=400):
    rng = np.random.default_rng(run_number)
    return [
        HistogramStack.from_arrays(
            rng.integers(0, 2**20, (N_LS, n_bins)).astype("f4"),
            Axis.regular(n_bins, 0, 1),
            ls_numbers=range(1, N_LS + 1),
            run_number=run_number,
            me=f"Pixel/Layer{i}/charge",
        )
        for i in range(N_ELEMENTS)
    ]


def write(path, run_number, **options):
    """The stacks of a file, which has scalars, too."""
    import pandas as pd

    stacks = stacks_of(run_number, **options)
    rows = [(run_number, ls, "Pixel/n", "Int", ls) for ls in range(1, N_LS + 1)]
    scalars = pd.DataFrame(rows, columns=["run_number", "ls_number", "me", "kind", "value"])
    dqmio.write(path, stacks, scalars=scalars)
    return stacks


def rows(archive):
    """How many rows of contents there are, in each table."""
    with archive.engine.connect() as connection:
        counts = [sa.select(sa.func.count()).select_from(table) for table in TABLES]
        return [connection.scalar(count) for count in counts]


def attempts(archive):
    return archive.files().attempts.tolist()


WHOLE = [N_ELEMENTS, N_LS, N_LS, 1]
NOTHING = [0, 0, 0, 0]


def assert_stored(archive, stacks):
    for stack in stacks:
        got = archive.stack(stack.me, stack.run_number)
        assert np.array_equal(got.ls_numbers, stack.ls_numbers)
        assert np.array_equal(got.contents, stack.contents)


# -- connections -----------------------------------------------------------------------------------


class Wire:
    """A port that leads to the server, until so many bytes were sent through it once."""

    def __init__(self, url):
        address = sa.make_url(url)
        folder = address.query.get("host")
        self.server = f"{folder}/.s.PGSQL.{address.port or 5432}" if folder else None
        self.there = (address.host, address.port or 5432)
        self.cut_after = None
        self.n_sent = 0
        self.lock = threading.Lock()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = address.set(
            host="127.0.0.1", port=self.listening.getsockname()[1], query={}
        ).render_as_string(hide_password=False)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listening.accept()
            except OSError:
                return
            if self.server:
                server = socket.socket(socket.AF_UNIX)
                server.connect(self.server)
            else:
                server = socket.create_connection(self.there)
            for pair in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source, target, counted):
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                if counted and self._is_cut(len(data)):
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _is_cut(self, n_bytes):
        with self.lock:
            self.n_sent += n_bytes
            if self.cut_after is None or self.n_sent < self.cut_after:
                return False
            self.cut_after = None
            return True

    def close(self):
        self.listening.close()


@pytest.fixture
def wire(database_url):
    made = Wire(database_url)
    yield made
    take.close_engines()
    made.close()


def test_a_connection_that_drops_at_any_byte_leaves_all_or_nothing_and_is_tried_again(
    archive, wire, tmp_path
):
    path = tmp_path / "a.root"
    stacks = write(path, 1)
    (found,) = ingest.index(archive, path, DATASET)
    assert ingest.ingest_file(wire.url, found.file_id).state == "PROCESSED"
    n_bytes = wire.n_sent
    assert n_bytes > 50_000
    n_dropped = n_nothing = 0
    for part in np.linspace(0, 1, 11)[:-1]:
        ingest.forget_file(archive, str(path))
        (found,) = ingest.index(archive, path, DATASET)
        take.close_engines()
        wire.n_sent, wire.cut_after = 0, max(1, int(part * n_bytes))
        try:
            ingest.ingest_file(wire.url, found.file_id)
        except DatabaseError:
            n_dropped += 1
        there = rows(archive)
        assert there in (WHOLE, NOTHING), part
        n_nothing += there == NOTHING
        # The server may take a moment to see that nobody is there any more.
        end = time.monotonic() + 60
        while rows(archive) != WHOLE:
            assert time.monotonic() < end
            list(ingest.in_turn(archive, [found.file_id], backoff_s=0.01))
        assert archive.files().state.tolist() == ["PROCESSED"]
        assert_stored(archive, stacks)
    assert n_dropped >= 8
    assert n_nothing >= 8


def test_a_dropped_connection_is_retried_by_itself(archive, wire, tmp_path):
    stacks = write(tmp_path / "a.root", 1)
    (found,) = ingest.index(archive, tmp_path / "a.root", DATASET)
    reader = store.engine(wire.url)
    arriving = ingest.in_turn(reader, [found.file_id], backoff_s=0.01)
    wire.n_sent, wire.cut_after = 0, 30_000
    (done,) = arriving
    reader.dispose()
    assert done.state == "PROCESSED"
    assert attempts(archive) == [2]
    assert rows(archive) == WHOLE
    assert_stored(archive, stacks)


def test_a_database_that_stays_away_is_told(archive, wire, tmp_path):
    write(tmp_path / "a.root", 1)
    (found,) = ingest.index(archive, tmp_path / "a.root", DATASET)
    arriving = ingest.in_turn(store.engine(wire.url), [found.file_id], attempts=2, backoff_s=0.01)
    wire.n_sent, wire.cut_after = 0, 30_000
    wire.listening.close()
    with pytest.raises(DatabaseError, match=r"refused|lost"):
        next(arriving)
    assert rows(archive) == NOTHING


def waiters(connection, blocking_pid):
    """Pids of connections that wait for a lock of the other."""
    query = "SELECT pid FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
    return [pid for (pid,) in connection.execute(query, [blocking_pid])]


@pytest.mark.parametrize("table", ["run", "lumisection", "me", "block", "scalar", "dataset lock"])
def test_a_worker_whose_connection_is_terminated_tries_again(archive, workers, tmp_path, table):
    stacks = write(tmp_path / "a.root", 1)
    (found,) = ingest.index(archive, tmp_path / "a.root", DATASET)
    dataset_id = 1
    url = archive.url.replace("+psycopg", "")
    records = []

    def ingesting():
        records.extend(
            ingest.ingest_parallel(archive, workers, [found.file_id], attempts=4, backoff_s=0.1)
        )

    with psycopg.connect(url) as blocking, psycopg.connect(url, autocommit=True) as other:
        if table == "dataset lock":
            lock = "SELECT pg_advisory_xact_lock(%s, %s)"
            blocking.execute(lock, [take.DATASET_LOCK, dataset_id])
        else:
            lock = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE")
            blocking.execute(lock.format(sql.Identifier(table)))
        thread = threading.Thread(target=ingesting, daemon=True)
        thread.start()
        end = time.monotonic() + 60
        while not (stuck := waiters(other, blocking.info.backend_pid)):
            assert time.monotonic() < end, "nobody came to this stage"
            time.sleep(0.02)
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [stuck[0]])
        blocking.rollback()
    thread.join(timeout=60)
    assert [r.state for r in records] == ["PROCESSED"]
    assert attempts(archive) == [2]
    assert rows(archive) == WHOLE
    assert_stored(archive, stacks)


def test_a_damaged_file_is_not_tried_again(archive, workers, tmp_path):
    path = tmp_path / "a.root"
    write(path, 1)
    data = bytearray(path.read_bytes())
    # Contents of the first basket; the header, which is read when it is indexed, is whole.
    data[2000:2600] = bytes(600)
    path.write_bytes(data)
    (found,) = ingest.index(archive, path, DATASET)
    assert found.outcome == "new"
    takings = (
        lambda **o: ingest.in_turn(archive, [found.file_id], **o),
        lambda **o: ingest.ingest_parallel(archive, workers, [found.file_id], **o),
    )
    for taking in takings:
        ingest.retry(archive)
        (record,) = taking(attempts=5, backoff_s=60)
        assert record.state == "BAD"
        assert attempts(archive) == [1]
        assert rows(archive) == NOTHING
