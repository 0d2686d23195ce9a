"""Files on Dask workers, and files that arrive while somebody watches."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

import ml4ad
from ml4ad import Axis, HistogramStack, cluster, dqmio, ingest
from ml4ad.ingest import take
from ml4ad.ingest.turns import alone
from ml4ad.ingest.watch import Arrivals, watch
from ml4ad.settings import Settings
from ml4ad.store.schema import file

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened
    take.close_engines()


@pytest.fixture(scope="module")
def _workers():
    with cluster.client(Settings(), workers=2) as client:
        yield client


@pytest.fixture
def workers(_workers):
    """Two workers; a test may kill them, and a new one comes for each."""
    _workers.wait_for_workers(2, timeout=300)
    yield _workers
    _workers.run(take.close_engines, on_error="ignore")


def write(path, run_number, n_ls=4):
    rng = np.random.default_rng(run_number)
    stacks = [
        HistogramStack.from_arrays(
            rng.poisson(20, (n_ls, 12)).astype("f4"),
            Axis.regular(12, 0, 1),
            ls_numbers=range(1, n_ls + 1),
            run_number=run_number,
            me=f"Pixel/Layer{i}/charge",
        )
        for i in range(3)
    ]
    dqmio.write(path, stacks, overwrite=True)
    return stacks


def test_workers_store_what_the_files_hold_and_bad_files_do_not_stop_them(
    archive, workers, tmp_path, small14
):
    truth = {run: write(tmp_path / f"{run}.root", run) for run in range(1, 9)}
    (tmp_path / "damaged.root").write_bytes(small14.read_bytes()[:5000])
    found = list(ingest.index(archive, tmp_path, DATASET))
    numbers = [f.file_id for f in found]
    records = list(ingest.ingest_parallel(archive, workers, numbers))
    assert sorted(r.state for r in records) == ["PROCESSED"] * 8
    assert [f.outcome for f in found].count("bad") == 1
    for run, stacks in truth.items():
        for stack in stacks:
            got = archive.stack(stack.me, run)
            assert np.array_equal(got.contents, stack.contents)
    assert list(ingest.ingest_parallel(archive, workers, numbers)) == []


def test_what_fails_for_a_passing_reason_is_tried_again(archive, workers, tmp_path):
    write(tmp_path / "a.root", 1)
    (found,) = ingest.index(archive, tmp_path / "a.root", DATASET)
    away = tmp_path / "away.root"
    (tmp_path / "a.root").rename(away)
    (tmp_path / "a.root").mkdir()

    def attempts():
        with archive.engine.connect() as connection:
            return connection.scalar(sa.select(file.c.attempts))

    def mend():
        # Not as soon as it is claimed: it may not be opened yet.
        while archive.files().state.tolist() != ["FAILED"]:
            time.sleep(0.05)
        (tmp_path / "a.root").rmdir()
        away.rename(tmp_path / "a.root")

    mending = threading.Thread(target=mend, daemon=True)
    mending.start()
    (record,) = ingest.ingest_parallel(
        archive, workers, [found.file_id], attempts=8, backoff_s=0.25
    )
    mending.join()
    assert record.state == "PROCESSED"
    assert attempts() > 1


def test_a_file_that_is_gone_is_not_waited_for(archive, workers, tmp_path):
    write(tmp_path / "a.root", 1)
    (found,) = ingest.index(archive, tmp_path / "a.root", DATASET)
    (tmp_path / "a.root").unlink()
    (record,) = ingest.ingest_parallel(archive, workers, [found.file_id], backoff_s=60)
    assert record.state == "FAILED"
    assert "a.root" in record.reason


def test_a_killed_worker_costs_nothing_but_time(archive, workers, tmp_path):
    for run in range(1, 25):
        write(tmp_path / f"{run}.root", run, n_ls=40)
    numbers = [f.file_id for f in ingest.index(archive, tmp_path, DATASET)]
    records = []
    for record in ingest.ingest_parallel(archive, workers, numbers, backoff_s=0.1):
        if not records:
            victim = next(iter(workers.run(os.getpid).values()))
            os.kill(victim, signal.SIGKILL)
        records.append(record)
    assert [r.state for r in records] == ["PROCESSED"] * 24
    assert len(archive.runs()) == 24


def test_leaving_early_leaves_the_rest_waiting(archive, workers, tmp_path):
    for run in range(1, 13):
        write(tmp_path / f"{run}.root", run)
    numbers = [f.file_id for f in ingest.index(archive, tmp_path, DATASET)]
    arriving = ingest.ingest_parallel(archive, workers, numbers)
    next(arriving)
    arriving.close()
    rest = list(ingest.ingest_parallel(archive, workers))
    assert {r.state for r in rest} <= {"PROCESSED"}
    assert len(archive.runs()) == 12


def test_a_file_is_read_from_a_copy_where_a_scratch_folder_is_set(archive, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    monkeypatch.setenv("ML4AD_SCRATCH_DIR", str(scratch))
    truth = write(tmp_path / "a.root", 1)
    opened = []
    plain = dqmio.open
    monkeypatch.setattr(dqmio, "open", lambda path: opened.append(path) or plain(path))
    (record,) = ingest.ingest(archive, [tmp_path / "a.root"], dataset=DATASET)
    assert record.state == "PROCESSED"
    assert opened[-1].startswith(str(scratch))
    assert list(scratch.iterdir()) == []
    assert np.array_equal(archive.stack(truth[0].me, 1).contents, truth[0].contents)


def test_impossible_attempts_are_refused(archive, workers):
    with pytest.raises(ValueError, match="0 attempts"):
        next(ingest.ingest_parallel(archive, workers, attempts=0))


# -- watching --------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_file_arrives_once_it_is_quiet_and_again_when_it_changes(tmp_path):
    clock = Clock()
    arrivals = Arrivals([tmp_path], quiet_s=5, clock=clock)
    path = tmp_path / "a.root"

    def names():
        return [Path(location.path).name for location in arrivals.look()]

    path.write_bytes(b"1")
    assert names() == []
    clock.now = 4
    path.write_bytes(b"12")
    assert names() == []
    clock.now = 8
    assert names() == []
    clock.now = 9
    assert names() == ["a.root"]
    clock.now = 20
    assert names() == []
    path.write_bytes(b"123")
    assert names() == []
    clock.now = 25
    assert names() == ["a.root"]


def test_what_failed_arrives_once_more_after_a_while(tmp_path):
    clock = Clock()
    arrivals = Arrivals([tmp_path], quiet_s=0, clock=clock)
    path = tmp_path / "a.root"
    path.write_bytes(b"1")
    assert len(arrivals.look()) == 1
    arrivals.again(str(path), 600)
    clock.now = 599
    assert arrivals.look() == []
    clock.now = 600
    assert len(arrivals.look()) == 1
    clock.now = 6000
    assert arrivals.look() == []


def test_a_folder_that_is_not_there_yet_is_waited_for(tmp_path):
    arrivals = Arrivals([tmp_path / "later"], quiet_s=0, clock=Clock())
    assert arrivals.look() == []
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "a.root").write_bytes(b"1")
    assert len(arrivals.look()) == 1


def test_new_files_are_taken_in_while_watching(archive, tmp_path, small14):
    folder = tmp_path / "incoming"
    folder.mkdir()
    write(folder / "1.root", 1)
    left = iter(range(50))

    def take_in(numbers):
        return [ingest.ingest_file(archive.url, number) for number in numbers]

    states = []
    for each in watch(
        archive, [folder], take_in, dataset=DATASET, quiet_s=0, every_s=0.05,
        going=lambda: len(archive.runs()) < 2 and next(left, None) is not None,
    ):  # fmt: skip
        states.append(getattr(each, "outcome", None) or each.state)
        if len(states) == 2:
            shutil.copy(small14, folder / "broken.root")
            with (folder / "broken.root").open("r+b") as stream:
                stream.truncate(9000)
            write(folder / "2.root", 2)
    assert states == ["new", "PROCESSED", "new", "bad", "PROCESSED"]
    assert archive.runs().run_number.tolist() == [1, 2]


def test_only_one_watches_a_folder(archive):
    with alone(archive.engine, "x", wait=False) as first:
        assert first
        with alone(archive.engine, "x", wait=False) as second:
            assert not second
        with alone(archive.engine, "y", wait=False) as other:
            assert other
    with alone(archive.engine, "x") as again:
        assert again


def test_negative_times_are_refused(archive, tmp_path):
    with pytest.raises(ValueError, match="quiet_s=-1"):
        Arrivals([tmp_path], quiet_s=-1)
    with pytest.raises(ValueError, match="every_s=0"):
        next(watch(archive, [tmp_path], list, every_s=0))
