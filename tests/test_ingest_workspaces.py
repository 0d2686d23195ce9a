"""Workspaces choose what is stored of a file; more is added, and nothing read or lost twice."""

import concurrent.futures

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from stack_samples import assert_equal, example

import ml4ad
from ml4ad import dqmio, ingest, workspaces
from ml4ad.ingest import forget, take
from ml4ad.ingest.bring import import_folder
from ml4ad.ingest.compact import compact
from ml4ad.ingest.export import export
from ml4ad.store import dimensions, schema
from ml4ad.workspaces import Workspace

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"
OTHER = "/Muon0/Run2024F-PromptReco-v1/DQMIO"
PIXEL = Workspace("pixel", ("/ZeroBias/*",), ("Pixel/",))
STRIP = Workspace("strip", ("/ZeroBias/*",), ("Strip/", "Pixel/charge"))
MUON = Workspace("muon", ("/Muon0/*",), ("*",))
EVERYTHING = Workspace("everything", ("*",), ("*",))
NAMES = ("Pixel/charge", "Pixel/size +1", "Strip/charge", "Ecal/map")


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened
    take.close_engines()


def stacks_of(ls_numbers, seed=0):
    return [example("TH1F", ls_numbers, seed=[seed, i], me=name) for i, name in enumerate(NAMES)]


def scalars_of(ls_number):
    rows = [(9, ls_number, f"{name}_n", "Int", 7) for name in ("Pixel/x", "Strip/x", "Ecal/x")]
    return pd.DataFrame(rows, columns=["run_number", "ls_number", "me", "kind", "value"])


@pytest.fixture
def paths(tmp_path):
    for i, numbers in enumerate(([0, 1, 2, 3], [0, 3, 4, 5])):
        dqmio.write(tmp_path / f"{i}.root", stacks_of(numbers, i), scalars=scalars_of(1 + 4 * i))
    return [tmp_path / f"{i}.root" for i in range(2)]


def take_in(archive, paths, *chosen, dataset=DATASET, **options):
    spaces = chosen or None
    done = list(ingest.ingest(archive, paths, dataset=dataset, workspaces=spaces, **options))
    assert {d.state for d in done} <= {"PROCESSED"}, done
    return done


def names(archive, dataset=None):
    return archive.elements(dataset=dataset).me.tolist()


def everything(archive):
    found = {(s.me, s.run_number): s for s in archive.stacks()}
    return found, archive.scalars(), archive.lumisections()


def assert_same(ours, theirs):
    assert ours[0].keys() == theirs[0].keys()
    for key, stack in ours[0].items():
        assert_equal(stack, theirs[0][key])
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        pd.testing.assert_frame_equal(mine, other)


def rows(archive):
    """Places of the blocks, as PostgreSQL numbers them: a row that was written again has moved."""
    query = sa.select(sa.literal_column("ctid::text"), sa.literal_column("xmin::text"))
    with archive.engine.connect() as connection:
        return {tuple(row) for row in connection.execute(query.select_from(schema.block))}


def test_only_what_workspaces_want_is_stored(archive, paths):
    take_in(archive, paths, PIXEL)
    assert names(archive) == ["Pixel/charge", "Pixel/size +1", "Pixel/x_n"]
    assert archive.lumisections().ls_number.tolist() == [1, 2, 3, 4, 5]
    assert archive.files().n_histograms.tolist() == [8, 6]
    assert len(archive.stack("Pixel/charge", 9)) == 6


def test_files_of_no_workspace_are_left(archive, paths):
    take_in(archive, paths[0], PIXEL, MUON)
    assert take_in(archive, paths[1], PIXEL, dataset="/JetMET/Run2024F-v-v1/DQMIO") == []
    assert archive.files("/JetMET/Run2024F-v-v1/DQMIO").state.tolist() == ["INDEXED"]
    take_in(archive, paths[1], PIXEL, MUON, dataset=OTHER)
    assert set(NAMES) < set(names(archive, OTHER))


def test_ingesting_again_with_more_adds_only_what_is_missing(archive, paths):
    take_in(archive, paths, PIXEL)
    before, files = rows(archive), archive.files()
    assert take_in(archive, paths, PIXEL) == []
    done = take_in(archive, paths, STRIP)
    assert [d.n_histograms for d in done] == [12, 9]
    after = rows(archive)
    # What was there is where it was, and Strip/charge of two files came, of run and lumisections.
    assert before < after
    assert len(after) == len(before) + 4
    assert "Ecal/map" not in names(archive)
    now = archive.files()
    assert now.n_refused.tolist() == files.n_refused.tolist() == [0, 1]
    assert now.reason.tolist() == files.reason.tolist()
    assert take_in(archive, paths, PIXEL, STRIP) == []


def test_part_by_part_is_the_same_as_at_once(archive, paths):
    for chosen in (PIXEL, STRIP, EVERYTHING):
        take_in(archive, paths, chosen)
    ours = everything(archive)
    ingest.forget_dataset(archive, DATASET)
    take_in(archive, paths)
    assert_same(ours, everything(archive))
    assert take_in(archive, paths, PIXEL) == []
    assert_same(ours, everything(archive))


def test_without_paths_all_files_of_the_workspace_get_what_they_lack(archive, paths):
    take_in(archive, paths, PIXEL)
    assert take_in(archive, None) == []
    assert len(take_in(archive, None, STRIP)) == 2
    assert "Strip/charge" in names(archive)


def test_what_was_asked_for_is_what_a_later_call_without_workspaces_stores(archive, paths):
    found = [f.file_id for f in ingest.index(archive, paths, DATASET)]
    ingest.enqueue(archive, found, workspaces=[PIXEL])
    take_in(archive, None)
    assert names(archive) == ["Pixel/charge", "Pixel/size +1", "Pixel/x_n"]


def test_adding_to_a_stored_workspace_adds_to_the_archive(archive, paths):
    workspaces.add(archive.engine, PIXEL)
    take_in(archive, paths, *workspaces.get(archive.engine, "pixel"))
    workspaces.edit(archive.engine, "pixel", add={"elements": ["Ecal/map"]})
    take_in(archive, paths, *workspaces.get(archive.engine, "pixel"))
    assert "Ecal/map" in names(archive)
    # Taking elements from a workspace takes nothing from the archive.
    workspaces.edit(archive.engine, "pixel", remove={"elements": ["Pixel/"]})
    assert take_in(archive, paths, *workspaces.get(archive.engine, "pixel")) == []
    assert "Pixel/charge" in names(archive)


def test_a_file_that_changed_keeps_what_was_wanted_of_it(archive, paths):
    take_in(archive, paths, PIXEL)
    take_in(archive, paths, STRIP)
    dqmio.write(paths[0], stacks_of([1, 2], 9), overwrite=True)
    take_in(archive, paths[0])
    assert "Ecal/map" not in names(archive)
    stack = archive.stack("Strip/charge", 9)
    assert stack.ls_numbers.tolist() == [0, 1, 2, 4, 5]
    theirs = stacks_of([1, 2], 9)[2].contents
    assert np.array_equal(stack.select([1, 2]).contents, theirs)


def test_more_is_added_to_what_was_compacted(archive, paths):
    take_in(archive, paths, PIXEL)
    list(compact(archive))
    take_in(archive, paths, EVERYTHING)
    list(compact(archive))
    ours = everything(archive)
    ingest.forget_dataset(archive, DATASET)
    take_in(archive, paths)
    assert_same(ours, everything(archive))


def test_a_file_that_vanished_is_not_asked_for_more(archive, paths, tmp_path):
    take_in(archive, paths, PIXEL)
    paths[0].unlink()
    list(ingest.index(archive, tmp_path, DATASET))
    assert len(take_in(archive, None, STRIP)) == 1
    assert archive.files().state.tolist() == ["PROCESSED"] * 2


def test_an_addition_that_fails_changes_nothing_and_another_passes(archive, paths, monkeypatch):
    take_in(archive, paths, PIXEL)
    before = everything(archive)
    stored = take._store_scalars

    def failing(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(take, "_store_scalars", failing)
    failed = ingest.ingest(archive, paths, dataset=DATASET, workspaces=[STRIP], attempts=1)
    assert [d.state for d in failed] == ["FAILED"] * 2
    assert_same(everything(archive), before)
    monkeypatch.setattr(take, "_store_scalars", stored)
    ingest.retry(archive)
    take_in(archive, None)
    ours = everything(archive)
    ingest.forget_dataset(archive, DATASET)
    take_in(archive, paths, PIXEL, STRIP)
    assert_same(ours, everything(archive))


def test_several_who_add_at_once_add_each_element_once(archive, tmp_path):
    for i in range(6):
        dqmio.write(tmp_path / f"{i}.root", stacks_of([2 * i + 1, 2 * i + 2], i))
    take_in(archive, tmp_path, PIXEL)
    spaces = [[STRIP], [EVERYTHING], [PIXEL, STRIP], [EVERYTHING]]

    def add(chosen):
        return list(ingest.ingest(archive, tmp_path, dataset=DATASET, workspaces=chosen))

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        list(threads.map(add, spaces))
    take_in(archive, None, EVERYTHING)
    ours = everything(archive)
    assert archive.files().n_histograms.tolist() == [2 * len(NAMES)] * 6
    ingest.forget_dataset(archive, DATASET)
    take_in(archive, tmp_path)
    assert_same(ours, everything(archive))


def test_an_export_is_taken_in_by_workspace_too(archive, paths, tmp_path):
    take_in(archive, paths)
    export(archive, DATASET, tmp_path / "out")
    ingest.forget_dataset(archive, DATASET)
    take_in(archive, tmp_path / "out" / "manifest.json", PIXEL)
    assert names(archive) == ["Pixel/charge", "Pixel/size +1", "Pixel/x_n"]
    import_folder(archive, tmp_path / "out")
    take_in(archive, None, EVERYTHING)
    assert set(NAMES) < set(names(archive))


def test_what_a_file_has_brought_is_known(archive, paths):
    (done,) = take_in(archive, paths[0], PIXEL)
    number = dimensions.dataset_id(archive.engine, DATASET)
    with archive.engine.connect() as connection:
        assert forget.has_contents(connection, number, done.file_id)
        assert not forget.has_contents(connection, number, done.file_id + 1)
