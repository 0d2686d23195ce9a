"""Disks that are full, really: a small one is mounted, which only root can do."""

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

import ml4ad
from ml4ad import Axis, HistogramStack, dqmio, ingest
from ml4ad.ingest import take
from ml4ad.store import DatabaseError, schema, server

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"
N_LS = 10


class Disk:
    """A folder that holds so many MB."""

    def __init__(self, folder, size_mb):
        self.folder = folder
        self._mount(size_mb)

    def _mount(self, size_mb, *options):
        chosen = ",".join((*options, f"size={size_mb}m", "mode=711"))
        command = ["mount", "-t", "tmpfs", "-o", chosen, "ml4ad-test", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True, text=True)

    def fill(self, *, but_mb):
        """Leave so much room and no more."""
        facts = os.statvfs(self.folder)
        room = facts.f_bavail * facts.f_frsize - (but_mb << 20)
        (self.folder / "filling").write_bytes(bytes(max(0, room)))

    def grow(self, size_mb):
        self._mount(size_mb, "remount")


@contextmanager
def disk_of(size_mb):
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip(
            "WHAT HAPPENS WHEN A DISK IS FULL IS NOT TESTED: only root can mount a small one"
        )
    with tempfile.TemporaryDirectory(prefix="ml4ad-disk-") as name:
        Path(name).chmod(0o711)
        folder = Path(name) / "disk"
        folder.mkdir()
        try:
            disk = Disk(folder, size_mb)
        except subprocess.CalledProcessError as refused:
            pytest.skip(f"WHAT HAPPENS WHEN A DISK IS FULL IS NOT TESTED: {refused.stderr.strip()}")
        try:
            yield disk
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def write(path, run_number, n_bins):
    """Contents that hardly can be packed, about 2.6 bytes per bin."""
    rng = np.random.default_rng(run_number)
    stacks = [
        HistogramStack.from_arrays(
            rng.integers(0, 2**20, (N_LS, n_bins)).astype("f4"),
            Axis.regular(n_bins, 0, 1),
            ls_numbers=range(1, N_LS + 1),
            run_number=run_number,
            me=f"Pixel/Layer{i}/charge",
        )
        for i in range(20)
    ]
    dqmio.write(path, stacks, level=1)
    return stacks


def count(archive, table):
    with archive.engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table))


def assert_stored(archive, *runs):
    stacks = [stack for run in runs for stack in run]
    assert count(archive, schema.lumisection) == len(runs) * N_LS
    with archive.engine.connect() as connection:
        n_stored = connection.scalar(sa.select(sa.func.sum(schema.block.c.n_ls)))
    assert n_stored == sum(len(stack) for stack in stacks)
    for stack in stacks:
        got = archive.stack(stack.me, stack.run_number)
        assert np.array_equal(got.contents, stack.contents)


@pytest.mark.parametrize("but_mb", [3, 9, 24])
def test_a_database_whose_disk_is_full_has_the_file_whole_or_not_at_all(tmp_path, but_mb):
    small = write(tmp_path / "1.root", 1, 50)
    large = write(tmp_path / "2.root", 2, 40_000)
    with disk_of(200) as disk:
        data_dir = disk.folder / "archive"
        try:
            with ml4ad.connect(server.start(data_dir, durable=False)) as archive:
                (done,) = ingest.ingest(archive, tmp_path / "1.root", dataset=DATASET)
                assert done.state == "PROCESSED"
                disk.fill(but_mb=but_mb)
                # Where its log has no room either, PostgreSQL ends, and starts again with more.
                try:
                    (done,) = ingest.ingest(
                        archive, tmp_path / "2.root", dataset=DATASET, attempts=2, backoff_s=0.1
                    )
                    told = done.reason if done.state == "FAILED" else done.state
                except (DatabaseError, OSError) as error:
                    told = str(error)
                assert "no space left" in told or "database" in told
            take.close_engines()
            disk.grow(600)
            with ml4ad.connect(server.start(data_dir, durable=False)) as archive:
                assert_stored(archive, small)
                (done,) = ingest.ingest(archive, tmp_path / "2.root", dataset=DATASET)
                assert done.state == "PROCESSED"
                assert_stored(archive, small, large)
            take.close_engines()
        finally:
            server.stop(data_dir)


def test_tables_on_a_full_disk_fail_with_the_reason_and_the_server_goes_on(tmp_path):
    small = write(tmp_path / "1.root", 1, 50)
    large = write(tmp_path / "2.root", 2, 40_000)
    with disk_of(60) as disk, server.temporary() as url:
        user = server._server_user()
        tables = disk.folder / "tables"
        tables.mkdir(mode=0o700)
        os.chown(tables, *user)
        with ml4ad.connect(url) as archive:
            (done,) = ingest.ingest(archive, tmp_path / "1.root", dataset=DATASET)
            with archive.engine.connect() as connection:
                outside = connection.execution_options(isolation_level="AUTOCOMMIT")
                outside.exec_driver_sql(f"CREATE TABLESPACE small LOCATION '{tables}'")
                number = outside.scalar(sa.select(schema.dataset.c.dataset_id))
                outside.exec_driver_sql(f"ALTER TABLE block_{number} SET TABLESPACE small")
            disk.fill(but_mb=5)
            (done,) = ingest.ingest(
                archive, tmp_path / "2.root", dataset=DATASET, attempts=2, backoff_s=0.1
            )
            assert done.state == "FAILED"
            assert "no space left for the database" in done.reason
            assert archive.files().attempts.tolist() == [1, 2]
            assert_stored(archive, small)
            disk.grow(200)
            (done,) = ingest.ingest(archive, tmp_path / "2.root", dataset=DATASET)
            assert done.state == "PROCESSED"
            assert_stored(archive, small, large)
        take.close_engines()


def test_a_scratch_folder_that_is_full_holds_nothing_half_copied(
    database_url, tmp_path, monkeypatch
):
    stacks = write(tmp_path / "1.root", 1, 2_000)
    size = (tmp_path / "1.root").stat().st_size
    with disk_of(1) as disk, ml4ad.connect(database_url) as archive:
        monkeypatch.setenv("ML4AD_SCRATCH_DIR", str(disk.folder))
        assert size > 1 << 20
        (done,) = ingest.ingest(
            archive, tmp_path / "1.root", dataset=DATASET, attempts=2, backoff_s=0.01
        )
        assert done.state == "FAILED"
        assert "No space left" in done.reason
        assert archive.files().attempts.tolist() == [2]
        assert list(disk.folder.iterdir()) == []
        assert count(archive, schema.lumisection) == count(archive, schema.block) == 0
        disk.grow(16)
        (done,) = ingest.ingest(archive, tmp_path / "1.root", dataset=DATASET)
        assert done.state == "PROCESSED"
        assert list(disk.folder.iterdir()) == []
        assert_stored(archive, stacks)
        take.close_engines()
