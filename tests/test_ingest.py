"""Files on their way into the archive: known again, whole or not at all, once."""

import concurrent.futures
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

import ml4ad
from ml4ad import Axis, HistogramStack, dqmio, ingest
from ml4ad.ingest import take
from ml4ad.store import dimensions, schema

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"
BAD = Path(__file__).parents[1].parent / "shared" / "data" / "dqmio" / "bad"


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened
    take.close_engines()


def stacks_of(run_number, ls_numbers, seed=0, n_elements=3):
    rng = np.random.default_rng([seed, run_number])
    ls_numbers = list(ls_numbers)
    return [
        HistogramStack.from_arrays(
            rng.poisson(20, (len(ls_numbers), 12)).astype("f4"),
            Axis.regular(12, 0, 1, title="x"),
            ls_numbers=ls_numbers,
            run_number=run_number,
            me=f"Pixel/Layer{i}/charge",
        )
        for i in range(n_elements)
    ]


def write(path, *stacks, seed=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    dqmio.write(path, [s for several in stacks for s in several], seed=seed, **options)
    return path


def take_in(archive, *paths, **options):
    return list(ingest.ingest(archive, list(paths), dataset=DATASET, **options))


def contents(archive):
    """Everything stored, in comparable form."""
    return {
        (stack.dataset, stack.run_number, stack.me): (
            stack.ls_numbers.tolist(),
            stack.contents.tobytes(),
        )
        for stack in archive.stacks()
    }


def count(archive, table):
    with archive.engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table))


# -- the catalogue --------------------------------------------------------------------------------


def outcomes(archive, *paths, **options):
    return [f.outcome for f in ingest.index(archive, list(paths), **options)]


def test_dataset_and_era_follow_from_the_path(archive, tmp_path, small14):
    path = tmp_path / "store/data/Run2024F/EGamma0/DQMIO/PromptReco-v1/000/382/255/00000/a.root"
    path.parent.mkdir(parents=True)
    shutil.copy(small14, path)
    (found,) = ingest.index(archive, tmp_path)
    assert (found.outcome, found.dataset) == ("new", "/EGamma0/Run2024F-PromptReco-v1/DQMIO")
    assert archive.files().era.tolist() == ["Run2024F"]


def test_a_path_that_tells_no_dataset_says_what_to_do(archive, tmp_path, small14):
    path = shutil.copy(small14, tmp_path / "x.root")
    (found,) = ingest.index(archive, path)
    assert found.outcome == "failed"
    assert "--dataset" in found.reason
    assert outcomes(archive, path, dataset=DATASET) == ["changed"]
    assert [d.state for d in ingest.ingest(archive)] == ["PROCESSED"]


def test_folders_globs_and_files_are_found_and_known_again(archive, tmp_path):
    for name in ("b/1.root", "a/2.root", "a/deep/3.root"):
        write(tmp_path / name, stacks_of(1, [1]))
    (tmp_path / "a" / "notes.txt").write_text("not for us")
    paths = [f.path for f in ingest.index(archive, tmp_path, DATASET)]
    assert [Path(p).name for p in paths] == ["2.root", "3.root", "1.root"]
    assert outcomes(archive, tmp_path / "*" / "*.root", tmp_path) == ["known"] * 5


def test_a_file_that_may_still_be_written_is_left_until_it_is_quiet(archive, tmp_path):
    path = write(tmp_path / "a.root", stacks_of(1, [1]))
    assert outcomes(archive, tmp_path, dataset=DATASET, quiet_s=60) == ["waiting"]
    assert count(archive, schema.file) == 0
    os.utime(path, (time.time() - 61, time.time() - 61))
    assert outcomes(archive, tmp_path, dataset=DATASET, quiet_s=60) == ["new"]


def test_two_who_index_a_folder_take_turns(archive, tmp_path):
    for number in range(20):
        write(tmp_path / f"{number}.root", stacks_of(number + 1, [1]))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        looks = [pool.submit(outcomes, archive, tmp_path, dataset=DATASET) for _ in range(2)]
        seen = sorted((look.result() for look in looks), key=lambda one: one[0])
    assert seen == [["known"] * 20, ["new"] * 20]


def test_a_known_file_is_not_opened_again(archive, tmp_path, monkeypatch):
    write(tmp_path / "a.root", stacks_of(1, [1]))
    assert outcomes(archive, tmp_path, dataset=DATASET) == ["new"]
    monkeypatch.setattr(dqmio, "open", None)
    assert outcomes(archive, tmp_path) == ["known"]


def test_a_moved_file_is_known_and_keeps_its_histograms(archive, tmp_path):
    path = write(tmp_path / "a.root", stacks_of(1, [1, 2]))
    take_in(archive, path)
    before = contents(archive)
    path.rename(tmp_path / "b.root")
    assert outcomes(archive, tmp_path, dataset=DATASET) == ["moved"]
    files = archive.files()
    assert [Path(p).name for p in files.path] == ["b.root"]
    assert files.state.tolist() == ["PROCESSED"]
    assert contents(archive) == before


def test_a_copy_is_known_and_takes_the_place_of_the_original(archive, tmp_path):
    path = write(tmp_path / "a.root", stacks_of(1, [1, 2]))
    take_in(archive, path)
    shutil.copy(path, tmp_path / "b.root")
    assert outcomes(archive, tmp_path, dataset=DATASET) == ["known", "copy"]
    assert outcomes(archive, tmp_path, dataset=DATASET) == ["known", "known"]
    path.unlink()
    assert outcomes(archive, tmp_path, dataset=DATASET) == ["known"]
    files = archive.files()
    assert [Path(p).name for p in files.path] == ["b.root"]
    assert not files.vanished.any()


def test_a_vanished_file_is_marked_and_its_histograms_kept(archive, tmp_path):
    path = write(tmp_path / "a.root", stacks_of(1, [1, 2]))
    take_in(archive, path)
    path.unlink()
    assert outcomes(archive, tmp_path) == []
    assert archive.files().vanished.tolist() == [True]
    assert len(contents(archive)) == 3


def test_a_changed_file_is_taken_in_anew(archive, tmp_path):
    path = write(tmp_path / "a.root", stacks_of(1, [1, 2, 3]))
    take_in(archive, path)
    dqmio.write(path, stacks_of(1, [2, 5], seed=9), overwrite=True)
    (done,) = take_in(archive, path)
    assert (done.state, done.n_ls) == ("PROCESSED", 2)
    assert archive.stack("Pixel/Layer1/charge", 1).ls_numbers.tolist() == [2, 5]
    assert archive.lumisections().ls_number.tolist() == [2, 5]


def test_a_file_that_changes_after_it_was_indexed_is_not_stored_as_the_other(archive, tmp_path):
    path = write(tmp_path / "a.root", stacks_of(1, [1]))
    (found,) = ingest.index(archive, path, DATASET)
    dqmio.write(path, stacks_of(1, [2]), overwrite=True)
    done = ingest.ingest_file(archive.url, found.file_id)
    assert (done.state, "index it again" in done.reason) == ("FAILED", True)


def test_a_file_of_another_dataset_moves_there(archive, tmp_path):
    path = write(tmp_path / "a.root", stacks_of(1, [1]))
    take_in(archive, path)
    list(ingest.ingest(archive, path, dataset="/Other/Run2024F-v-v1/DQMIO"))
    assert {key[0] for key in contents(archive)} == {"/Other/Run2024F-v-v1/DQMIO"}


def test_two_who_index_at_once_make_one_row_of_each_file(archive, tmp_path):
    path = write(tmp_path / "0.root", stacks_of(1, [1]))
    for i in range(1, 4):
        shutil.copy(path, tmp_path / f"{i}.root")
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: outcomes(archive, tmp_path, dataset=DATASET), range(4)))
    assert len(archive.files()) == 1
    assert count(archive, schema.copy) == 3


# -- bad input ------------------------------------------------------------------------------------


def test_bad_files_are_bad_with_a_reason_and_the_next_is_taken(archive, tmp_path):
    write(tmp_path / "z.root", stacks_of(1, [1]))
    (tmp_path / "empty.root").write_bytes(b"")
    (tmp_path / "four.root").write_bytes(b"root")
    (tmp_path / "text.root").write_text("this is no ROOT file " * 100)
    cut = write(tmp_path / "cut.root", stacks_of(2, [1]))
    cut.write_bytes(cut.read_bytes()[:-2000])
    done = {Path(d.path).name: d for d in take_in(archive, tmp_path)}
    assert done.keys() == {"z.root"}
    files = archive.files().set_index(archive.files().path.map(lambda p: Path(p).name))
    assert files.state.to_dict() == {
        "z.root": "PROCESSED",
        **dict.fromkeys(("empty.root", "four.root", "text.root", "cut.root"), "BAD"),
    }
    assert files.reason.drop("z.root").str.contains(".root").all()
    assert len(contents(archive)) == 3


@pytest.mark.skipif(not BAD.is_dir(), reason="no ../shared/data/dqmio/bad")
@pytest.mark.parametrize("path", sorted(BAD.glob("*.root")), ids=lambda p: p.stem)
def test_damaged_files_leave_nothing(archive, path):
    take_in(archive, path)
    files = archive.files()
    assert files.state.tolist() == ["BAD"]
    assert 0 < len(files.reason[0]) <= schema.MAX_REASON
    for table in (schema.block, schema.scalar, schema.lumisection, schema.run):
        assert count(archive, table) == 0


def test_a_path_that_is_not_there_is_told_and_the_next_is_taken(archive, tmp_path):
    good = write(tmp_path / "a.root", stacks_of(1, [1]))
    done = take_in(archive, tmp_path / "nothing.root", good, tmp_path / "*.dat")
    assert [d.state for d in done] == ["FAILED", "FAILED", "PROCESSED"]
    assert "nothing.root" in done[0].reason
    assert "no file matches" in done[1].reason
    assert len(archive.files()) == 1


def test_a_file_that_vanishes_before_it_is_read_has_failed(archive, tmp_path):
    path = write(tmp_path / "a.root", stacks_of(1, [1]))
    (found,) = ingest.index(archive, path, DATASET)
    path.unlink()
    done = ingest.ingest_file(archive.url, found.file_id)
    assert done.state == "FAILED"
    assert archive.files().vanished.tolist() == [True]


def test_a_failure_in_the_middle_leaves_nothing(archive, tmp_path, monkeypatch):
    path = write(tmp_path / "a.root", stacks_of(1, [1], n_elements=50))
    packed = take.blocks.pack
    calls = iter(range(1000))

    def failing(stack):
        if next(calls) == 40:
            raise OSError(5, "Input/output error")
        return packed(stack)

    monkeypatch.setattr(take.blocks, "pack", failing)
    (done,) = take_in(archive, path, attempts=1)
    assert (done.state, "Input/output" in done.reason) == ("FAILED", True)
    assert count(archive, schema.block) == count(archive, schema.lumisection) == 0
    (done,) = take_in(archive, path)
    assert done.state == "PROCESSED"
    assert archive.files().attempts.tolist() == [2]


# -- once -----------------------------------------------------------------------------------------


def test_twice_is_once(archive, tmp_path):
    path = write(tmp_path / "a.root", stacks_of(1, range(1, 9)), stacks_of(2, [3]))
    (first,) = take_in(archive, path)
    before = contents(archive)
    assert take_in(archive, path) == []
    again = ingest.ingest_file(archive.url, first.file_id)
    assert (again.state, again.n_histograms) == ("PROCESSED", 27)
    assert contents(archive) == before
    assert count(archive, schema.block) == 6


def test_a_lumisection_of_two_files_stays_with_the_first(archive, tmp_path):
    one = write(tmp_path / "1.root", stacks_of(7, [1, 2, 3, 4]))
    two = write(tmp_path / "2.root", stacks_of(7, [3, 4, 5, 6, 9], seed=1))
    take_in(archive, one)
    (done,) = take_in(archive, two)
    assert (done.state, done.n_ls, done.n_refused) == ("PROCESSED", 3, 2)
    assert str(one) in done.reason
    assert str(two) in done.reason
    assert "run 7: 3-4" in done.reason
    stack = archive.stack("Pixel/Layer0/charge", 7)
    assert stack.ls_numbers.tolist() == [1, 2, 3, 4, 5, 6, 9]
    first = stacks_of(7, [1, 2, 3, 4])[0]
    assert np.array_equal(stack.select([3, 4]).contents, first.select([3, 4]).contents)


def test_replace_takes_the_newer_whatever_the_order(archive, tmp_path):
    old = write(tmp_path / "old.root", stacks_of(7, [1, 2, 3, 4]))
    new = write(tmp_path / "new.root", stacks_of(7, [3, 4, 5], seed=1))
    os.utime(old, (1e9, 1e9))
    take_in(archive, new)
    (kept,) = take_in(archive, old, replace=True)
    assert f"held by {new}, which is newer (run 7: 3-4)" in kept.reason
    assert (kept.n_ls, kept.n_refused) == (2, 2)
    first = contents(archive)
    ingest.forget_file(archive, str(new))
    assert [d.n_ls for d in ingest.ingest(archive)] == [4]
    (taken,) = take_in(archive, new, replace=True)
    assert (taken.n_ls, taken.n_refused) == (3, 0)
    assert contents(archive) == first
    files = archive.files().set_index("path")
    assert files.n_ls[str(old)] == 2
    assert files.n_histograms[str(old)] == 6
    assert "replaced by" in files.reason[str(old)]


def test_a_second_copy_of_a_run_adds_nothing_to_its_per_run_elements(archive, tmp_path):
    whole = stacks_of(3, [0], n_elements=1)[0]
    one = write(tmp_path / "1.root", [whole], stacks_of(3, [1, 2], n_elements=4)[1:])
    two = write(tmp_path / "2.root", [whole], stacks_of(3, [1, 2], n_elements=4)[1:])
    three = write(tmp_path / "3.root", [whole], stacks_of(3, [5], n_elements=4)[1:])
    take_in(archive, one, two, three)
    stack = archive.stack(whole.me, 3)
    assert np.array_equal(stack.contents, 2 * whole.contents)


def test_scalars_are_kept_with_their_kind(archive, tmp_path):
    columns = ["run_number", "ls_number", "me", "kind", "value"]
    rows = [
        (1, 1, "A/i", "Int", -(2**63)),
        (1, 1, "A/f", "Float", float("inf")),
        (1, 0, "A/s", "String", "pixel \u03b7 \x01"),
    ]
    scalars = pd.DataFrame(rows, columns=columns)
    take_in(archive, write(tmp_path / "a.root", stacks_of(1, [1]), scalars=scalars))
    found = archive.scalars()
    assert sorted(map(tuple, found[columns].to_numpy().tolist()), key=str) == sorted(rows, key=str)


def test_a_call_takes_in_whether_or_not_somebody_reads_what_became_of_it(archive, tmp_path):
    ingest.ingest(archive, write(tmp_path / "1.root", stacks_of(7, [1, 2])), dataset=DATASET)
    assert archive.lumisections().ls_number.tolist() == [1, 2]


def test_a_dataset_counts_the_files_of_which_something_is_stored(archive, tmp_path):
    (tmp_path / "broken.root").write_bytes(b"root" + b"\0" * 400)
    take_in(
        archive,
        write(tmp_path / "1.root", stacks_of(7, [1, 2])),
        write(tmp_path / "2.root", stacks_of(7, [1, 2], seed=1)),
        tmp_path / "broken.root",
    )
    assert (len(archive.files()), archive.datasets().n_files.tolist()) == (3, [1])


def test_forgetting_a_file_gives_its_lumisections_to_who_was_refused(archive, tmp_path):
    one = write(tmp_path / "1.root", stacks_of(7, [1, 2]))
    two = write(tmp_path / "2.root", stacks_of(7, [2, 3], seed=1))
    take_in(archive, one, two)
    assert ingest.forget_file(archive, str(one)) == 2
    assert [d.n_refused for d in ingest.ingest(archive)] == [0]
    assert archive.lumisections().ls_number.tolist() == [2, 3]


def test_forgetting_a_dataset_leaves_the_others(archive, tmp_path):
    take_in(archive, write(tmp_path / "1.root", stacks_of(7, [1, 2])))
    other = write(tmp_path / "2.root", stacks_of(7, [1, 2], seed=4))
    list(ingest.ingest(archive, other, dataset="/Other/X-v1/DQMIO"))
    assert ingest.forget_dataset(archive, DATASET) == 1
    assert archive.datasets().dataset.tolist() == ["/Other/X-v1/DQMIO"]
    assert {key[0] for key in contents(archive)} == {"/Other/X-v1/DQMIO"}
    with pytest.raises(KeyError, match="no dataset"):
        ingest.forget_dataset(archive, DATASET)


def test_what_is_not_known_cannot_be_forgotten(archive):
    with pytest.raises(KeyError, match=r"no file '/x\.root'"):
        ingest.forget_file(archive, "/x.root")


# -- several at once, and killed ------------------------------------------------------------------


def test_two_ingesters_of_the_same_files_store_each_once(archive, tmp_path):
    for i in range(6):
        write(tmp_path / f"{i}.root", stacks_of(i, range(1, 6)))
    found = [f.file_id for f in ingest.index(archive, tmp_path, DATASET)]
    ingest.enqueue(archive, found)
    orders = [found, found[::-1], found[3:] + found[:3]]
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda ids: [ingest.ingest_file(archive.url, i) for i in ids], orders))
    assert archive.files().state.tolist() == ["PROCESSED"] * 6
    assert archive.files().attempts.tolist() == [1] * 6
    assert count(archive, schema.block) == 18


def test_files_that_claim_the_same_lumisections_at_once_do_not_deadlock(archive, tmp_path):
    for i in range(4):
        parts = [stacks_of(run, range(1, 20), seed=i) for run in (1, 2, 3)]
        write(tmp_path / f"{i}.root", *parts[i % 3 :], *parts[: i % 3])
    found = [f.file_id for f in ingest.index(archive, tmp_path, DATASET)]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        done = list(threads.map(lambda i: ingest.ingest_file(archive.url, i), found))
    assert [d.state for d in done] == ["PROCESSED"] * 4
    assert sum(d.n_ls for d in done) == 57
    assert len(archive.stack("Pixel/Layer0/charge", 2)) == 19


KILLED = """
    import os, signal, sys
    from ml4ad.ingest import take
    from ml4ad import ingest

    stored = take._store_scalars

    def die(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    take._store_scalars = die
    ingest.ingest_file(sys.argv[1], int(sys.argv[2]))
"""


def test_the_file_of_a_killed_worker_waits_again_and_is_stored_once(archive, tmp_path):
    path = write(tmp_path / "a.root", stacks_of(1, range(1, 9)))
    (found,) = ingest.index(archive, path, DATASET)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), archive.url, str(found.file_id)]
    assert subprocess.run(command, check=False).returncode == -9
    assert archive.files().state.tolist() == ["RUNNING"]
    deadline = time.monotonic() + 60
    while not ingest.release_orphans(archive):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert count(archive, schema.lumisection) == 0
    assert [d.state for d in ingest.ingest(archive)] == ["PROCESSED"]
    assert count(archive, schema.block) == 3


def test_a_file_that_a_worker_has_is_left_to_it(archive, tmp_path):
    path = write(tmp_path / "a.root", stacks_of(1, [1]))
    (found,) = ingest.index(archive, path, DATASET)
    with archive.engine.connect() as other:
        lock = sa.func.pg_advisory_lock(dimensions.FILE_LOCK, found.file_id)
        other.execute(sa.select(lock))
        assert ingest.ingest_file(archive.url, found.file_id).state == "INDEXED"
        with pytest.raises(RuntimeError, match="is being ingested"):
            ingest.forget_file(archive, str(path))
        unlock = sa.func.pg_advisory_unlock(dimensions.FILE_LOCK, found.file_id)
        other.execute(sa.select(unlock))
    assert ingest.ingest_file(archive.url, found.file_id).state == "PROCESSED"


def test_the_record_of_a_file_can_be_pickled(archive, tmp_path):
    (done,) = take_in(archive, write(tmp_path / "a.root", stacks_of(1, [1])))
    assert pickle.loads(pickle.dumps(done)) == done  # noqa: S301


def test_states_and_errors_are_counted_from_the_rows(archive, tmp_path):
    write(tmp_path / "a.root", stacks_of(1, [1]))
    (tmp_path / "b.root").write_bytes(b"")
    take_in(archive, tmp_path)
    assert ingest.states(archive).set_index("state").n_files.to_dict() == {
        "BAD": 1,
        "PROCESSED": 1,
    }
    (error,) = ingest.errors(archive)
    assert error.path == str(tmp_path / "b.root")
