"""Compaction: fewer rows, and the same answers to the bit, whatever happens to the files."""

import concurrent.futures
import dataclasses
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import sqlalchemy as sa
from stack_samples import assert_equal, example

import ml4ad
from ml4ad import dqmio, ingest, simulate
from ml4ad.ingest import compact, take
from ml4ad.ingest.compact import compact as compacted
from ml4ad.store import dimensions, schema

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"
KINDS = ("TH1F", "TH2F", "TH1S", "TProfile", "TProfile2D")


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened
    take.close_engines()


def stacks_of(ls_numbers, seed=0, run_number=9, per_run=True):
    """One element of each of several kinds, with the whole run as well."""
    numbers = [*([0] if per_run else []), *ls_numbers]
    return [
        dataclasses.replace(
            example(kind, numbers, seed=[seed, i], me=f"A/{kind}"), run_number=run_number
        )
        for i, kind in enumerate(KINDS)
    ]


def write_many(folder, n_files=6, n_ls=30, **options):
    """Files of one run whose lumisections lie between each other's."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(3)
    parts = np.array_split(rng.permutation(np.arange(1, n_ls + 1)), n_files)
    paths = []
    for i, part in enumerate(parts):
        path = folder / f"{i}.root"
        dqmio.write(path, stacks_of(sorted(part.tolist()), seed=i, **options))
        paths.append(path)
    return paths


def take_in(archive, *paths, **options):
    done = list(ingest.ingest(archive, list(paths), dataset=DATASET, **options))
    assert {d.state for d in done} <= {"PROCESSED"}, done
    return done


def everything(archive):
    return list(archive.stacks())


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert_equal(mine, other)
        known = mine.run_ls_numbers, other.run_ls_numbers
        assert (known[0] is None) == (known[1] is None)
        assert known[0] is None or np.array_equal(*known)


def fresh(archive, *paths, **options):
    """What the archive gives if only these files were taken in, never compacted."""
    if len(archive.files()):
        ingest.forget_dataset(archive, DATASET)
    take_in(archive, *paths, **options)
    return everything(archive)


def n_blocks(archive, **conditions):
    query = sa.select(sa.func.count()).select_from(schema.block)
    for name, value in conditions.items():
        query = query.where(schema.block.c[name] == value)
    with archive.engine.connect() as connection:
        return connection.scalar(query)


def test_a_campaign_of_many_small_files_reads_the_same_from_fewer_rows(archive, tmp_path):
    made = simulate.campaign(4, runs=2, lumisections=60, elements="small")
    simulate.generate(tmp_path, made, files_per_run=6)
    assert {d.state for d in ingest.ingest(archive, tmp_path / "store")} == {"PROCESSED"}
    before, tables = everything(archive), archive.scalars()
    rows = n_blocks(archive)
    done = list(compacted(archive))
    assert [d.run_number for d in done] == [run.run_number for run in made.runs]
    assert sum(d.n_before - d.n_after for d in done) == rows - n_blocks(archive)
    assert n_blocks(archive) < rows / 3
    assert sum(d.bytes_after for d in done) < sum(d.bytes_before for d in done)
    assert_same(everything(archive), before)
    assert archive.scalars().equals(tables)
    assert list(compacted(archive)) == []


def test_every_kind_and_part_of_a_run_reads_the_same(archive, tmp_path):
    take_in(archive, *write_many(tmp_path))
    before = everything(archive)
    parts = [list(archive.stacks(ls_numbers=slice(a, a + 3))) for a in range(1, 28, 4)]
    compacted_rows = list(compacted(archive, DATASET, 9))
    assert [(d.n_before, d.n_after) for d in compacted_rows] == [(30, 5)]
    assert_same(everything(archive), before)
    for a, part in zip(range(1, 28, 4), parts, strict=True):
        assert_same(list(archive.stacks(ls_numbers=slice(a, a + 3))), part)
    # The whole run stays with its files.
    assert n_blocks(archive, first_ls=0) == 30


def test_merged_blocks_are_never_larger_than_those_of_a_large_file(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(compact, "BLOCK_BYTES", 7 * 8 * 4)
    take_in(archive, *write_many(tmp_path, n_files=10))
    before = everything(archive)
    list(compacted(archive))
    with archive.engine.connect() as connection:
        name = sa.select(schema.me.c.me_id).where(schema.me.c.me == "A/TH1F").scalar_subquery()
        merged = sa.select(sa.func.max(schema.block.c.n_ls)).where(schema.block.c.me_id == name)
        assert connection.scalar(merged) == 6
    assert_same(everything(archive), before)
    assert list(compacted(archive)) == []


def test_another_title_or_binning_is_not_merged_with(archive, tmp_path):
    for i, (title, n_bins) in enumerate([("a", 6), ("a", 6), ("b", 6), ("b", 6), ("b", 9)]):
        numbers = [2 * i + 1, 2 * i + 2]
        made = dataclasses.replace(example("TH1F", numbers, seed=i, n_bins=n_bins), title=title)
        dqmio.write(tmp_path / f"{i}.root", [made])
    take_in(archive, tmp_path)
    before = everything(archive)
    part = archive.stack("A/b", 9, ls_numbers=[1, 2, 3])
    assert [(d.n_before, d.n_after) for d in compacted(archive)] == [(4, 2)]
    assert_same(everything(archive), before)
    assert archive.stack("A/b", 9, ls_numbers=[1, 2, 3]).title == part.title == "a"


def test_what_lies_between_lumisections_of_another_title_is_left(archive, tmp_path):
    for i, (title, numbers) in enumerate([("b", [1, 5, 9]), ("a", [4]), ("a", [6])]):
        made = dataclasses.replace(example("TH1F", numbers, seed=i), title=title)
        dqmio.write(tmp_path / f"{i}.root", [made])
    take_in(archive, tmp_path)
    assert list(compacted(archive)) == []
    assert archive.stack("A/b", 9, ls_numbers=5).title == "b"


def test_a_stack_without_squares_does_not_take_on_anothers(archive, tmp_path):
    plain, weighted = example("TH1F", [1, 2]), example("TH1F", [3, 4], seed=1)
    weighted = dataclasses.replace(weighted, sumw2=weighted.contents.astype("f8") * 3)
    dqmio.write(tmp_path / "1.root", [plain])
    dqmio.write(tmp_path / "2.root", [weighted])
    take_in(archive, tmp_path)
    assert list(compacted(archive)) == []
    assert archive.stack("A/b", 9, ls_numbers=[1, 2]).sumw2 is None


# -- what files do afterwards ----------------------------------------------------------------------


def test_more_files_of_the_run_are_merged_to_what_is_there(archive, tmp_path):
    paths = write_many(tmp_path)
    take_in(archive, *paths[:3])
    list(compacted(archive))
    take_in(archive, *paths[3:])
    assert [(d.n_before, d.n_after) for d in compacted(archive)] == [(20, 5)]
    ours = everything(archive)
    assert_same(ours, fresh(archive, *paths))


def test_a_file_that_is_forgotten_goes_out_of_merged_blocks(archive, tmp_path):
    paths = write_many(tmp_path)
    take_in(archive, *paths)
    list(compacted(archive))
    assert ingest.forget_file(archive, str(paths[2])) == 5
    ours = everything(archive)
    assert_same(ours, fresh(archive, *paths[:2], *paths[3:]))


def test_forgetting_every_file_leaves_nothing(archive, tmp_path):
    paths = write_many(tmp_path, n_files=3)
    take_in(archive, *paths)
    list(compacted(archive))
    for path in paths:
        ingest.forget_file(archive, str(path))
    assert n_blocks(archive) == 0


def test_a_file_that_changed_is_taken_in_anew(archive, tmp_path):
    paths = write_many(tmp_path)
    take_in(archive, *paths)
    list(compacted(archive))
    old = archive.lumisections().ls_number[archive.lumisections().file == str(paths[1])].tolist()
    dqmio.write(paths[1], stacks_of(old[1:], seed=99), overwrite=True)
    take_in(archive, paths[1])
    ours = everything(archive)
    assert old[0] not in archive.lumisections().ls_number.tolist()
    assert_same(ours, fresh(archive, *paths))


def test_a_newer_file_takes_lumisections_out_of_merged_blocks(archive, tmp_path):
    paths = write_many(tmp_path)
    for path in paths:
        os.utime(path, (1e9, 1e9))
    newer = tmp_path / "newer.root"
    dqmio.write(newer, stacks_of([3, 4, 5, 40], seed=77, per_run=False))
    take_in(archive, *paths)
    list(compacted(archive))
    (done,) = take_in(archive, newer, replace=True)
    assert (done.n_ls, done.n_refused) == (4, 0)
    ours, files = everything(archive), archive.files()
    assert files.n_histograms.sum() == len(KINDS) * (31 + len(paths))
    want = fresh(archive, *paths)
    take_in(archive, newer, replace=True)
    assert_same(ours, everything(archive))
    assert not np.array_equal(want[0].contents, ours[0].contents)


def test_a_file_that_moves_to_another_dataset_takes_its_own_along(archive, tmp_path):
    paths = write_many(tmp_path)
    take_in(archive, *paths)
    list(compacted(archive))
    list(ingest.ingest(archive, paths[0], dataset="/Other/Run2024F-v-v1/DQMIO"))
    counts = archive.datasets().set_index("dataset").n_ls
    assert counts.to_dict() == {DATASET: 25, "/Other/Run2024F-v-v1/DQMIO": 5}
    assert len(archive.stack("A/TH1F", 9, "/Other/Run2024F-v-v1/DQMIO")) == 6
    assert len(archive.stack("A/TH1F", 9, DATASET)) == 26


# -- beside others, and killed ---------------------------------------------------------------------


def test_ingestion_goes_on_beside_it(archive, tmp_path):
    paths = write_many(tmp_path, n_files=20, n_ls=60)
    found = [f.file_id for f in ingest.index(archive, paths, DATASET)]
    ingest.enqueue(archive, found)

    def merge(_):
        return [list(compacted(archive)) for _ in range(8)]

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        merging = [threads.submit(merge, i) for i in range(2)]
        done = list(threads.map(lambda i: ingest.ingest_file(archive.url, i), found))
        for future in merging:
            future.result()
    assert {d.state for d in done} == {"PROCESSED"}
    ours = everything(archive)
    assert_same(ours, fresh(archive, *paths))


def test_files_taken_in_anew_beside_it_do_not_deadlock(archive, tmp_path):
    paths = write_many(tmp_path, n_files=8, n_ls=40)
    take_in(archive, *paths)
    list(compacted(archive))
    for i, path in enumerate(paths):
        numbers = archive.lumisections().ls_number[archive.lumisections().file == str(path)]
        dqmio.write(path, stacks_of(sorted(numbers), seed=50 + i), overwrite=True)
    found = [f.file_id for f in ingest.index(archive, paths, DATASET)]
    ingest.enqueue(archive, found)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        merging = threads.submit(lambda: [list(compacted(archive)) for _ in range(6)])
        done = list(threads.map(lambda i: ingest.ingest_file(archive.url, i), found))
        merging.result()
    assert {d.state for d in done} == {"PROCESSED"}
    ours = everything(archive)
    assert_same(ours, fresh(archive, *paths))


KILLED = """
    import os, signal, sys
    import ml4ad
    from ml4ad.ingest import compact, repack

    replaced, calls = repack.replace, iter(range(1000))

    def die(*arguments):
        if next(calls) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return replaced(*arguments)

    repack.replace = die
    compact._TRANSACTION_BYTES = 1
    with ml4ad.connect(sys.argv[1]) as archive:
        list(compact.compact(archive))
"""


@pytest.mark.parametrize("when", [0, 3])
def test_killed_nothing_is_lost_and_another_call_goes_on(archive, tmp_path, when):
    take_in(archive, *write_many(tmp_path))
    before = everything(archive)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), archive.url, str(when)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert n_blocks(archive, file_id=0) == when
    assert_same(everything(archive), before)
    assert [d.n_after for d in compacted(archive)] == [5 - when]
    assert_same(everything(archive), before)


def test_it_waits_for_files_that_are_being_stored(archive, tmp_path):
    take_in(archive, *write_many(tmp_path))
    with archive.engine.connect() as other:
        held = sa.func.pg_advisory_xact_lock_shared(
            dimensions.DATASET_LOCK, dimensions.dataset_id(archive.engine, DATASET)
        )
        other.execute(sa.select(held))
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            merging = threads.submit(lambda: list(compacted(archive)))
            with pytest.raises(concurrent.futures.TimeoutError):
                merging.result(timeout=0.5)
            assert n_blocks(archive, file_id=0) == 0
            other.rollback()
            assert len(merging.result()) == 1


# -- bad input -------------------------------------------------------------------------------------


def test_a_damaged_block_is_told_and_the_others_are_merged(archive, tmp_path):
    take_in(archive, *write_many(tmp_path))
    with archive.engine.begin() as connection:
        first = sa.select(sa.func.min(schema.block.c.me_id)).scalar_subquery()
        one = (schema.block.c.me_id == first) & (schema.block.c.first_ls == 1)
        cut = sa.func.substr(schema.block.c.packed, 1, 60)
        connection.execute(sa.update(schema.block).where(one).values(packed=cut))
    (done,) = compacted(archive)
    assert (done.n_before, done.n_after) == (24, 4)
    (told,) = done.damaged
    assert told.startswith("A/TH1F, run 9, lumisections from 1, file ")
    assert [len(d.damaged) for d in compacted(archive)] == [1]


def test_an_unknown_dataset_is_refused(archive):
    with pytest.raises(KeyError, match="no dataset '/A/B/DQMIO'"):
        list(compacted(archive, "/A/B/DQMIO"))


def test_a_damaged_merged_block_is_told_and_its_file_is_not_called_bad(archive, tmp_path):
    paths = write_many(tmp_path)
    take_in(archive, *paths)
    list(compacted(archive))
    with archive.engine.begin() as connection:
        merged = schema.block.c.file_id == 0
        cut = sa.func.substr(schema.block.c.packed, 1, 60)
        connection.execute(sa.update(schema.block).where(merged).values(packed=cut))
    with pytest.raises(ValueError, match=r"several files: .* forget the dataset"):
        archive.stack("A/TH1F", 9)
    dqmio.write(paths[0], stacks_of([50], seed=1), overwrite=True)
    (done,) = ingest.ingest(archive, paths[0], dataset=DATASET, attempts=1)
    assert (done.state, "several files" in done.reason) == ("FAILED", True)
    ingest.forget_dataset(archive, DATASET)
    take_in(archive, *paths)
    assert archive.stack("A/TH1F", 9).ls_numbers[-1] == 50
