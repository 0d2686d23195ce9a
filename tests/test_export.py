"""Export to Parquet and back: every bit, whole or not at all, and nothing that is damaged."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from stack_samples import assert_equal, example

import ml4ad
from ml4ad import Axis, dqmio, ingest
from ml4ad.ingest import export as export_module
from ml4ad.ingest import take
from ml4ad.ingest.bring import import_folder
from ml4ad.ingest.export import export, file_name
from ml4ad.ingest.exported import MANIFEST, open_folder
from ml4ad.stack import KINDS
from ml4ad.store import schema

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"
OTHER = "/Other/Run2024F-PromptReco-v1/DQMIO"


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened
    take.close_engines()


def odd_nans(stack):
    """The stack with floats that are easily lost."""
    if stack.contents.dtype.kind != "f":
        return stack
    cells = stack.contents.copy()
    unsigned = cells.dtype.str.replace("f", "u")
    quiet = 0x7FC00001 if cells.itemsize == 4 else 0x7FF8000000000001
    cells.reshape(-1).view(unsigned)[:2] = [quiet, quiet + 4]
    cells.reshape(-1)[2:6] = [np.nan, -0.0, np.inf, -np.inf]
    return dataclasses.replace(stack, contents=cells)


def fill(url, folder):
    """Two runs, in three files, with every kind and all that may get lost."""
    scalars = pd.DataFrame(
        [
            (9, 1, "B/i", "Int", -(2**63)),
            (9, 0, "B/s", "String", "pixel \u03b7 \x01"),
            (9, 2, "B/f", "Float", float("nan")),
            (9, 2, "B/g", "Float", float("-inf")),
        ],
        columns=["run_number", "ls_number", "me", "kind", "value"],
    )
    times = pd.DataFrame(
        {
            "run_number": 9,
            "ls_number": [1, 2, 5],
            "begin_time": pd.to_datetime(["2024-06-01T00:00:01Z", None, "2024-06-01T00:01:00Z"]),
            "end_time": pd.to_datetime(["2024-06-01T00:00:24Z", None, None]),
        }
    )
    for i, numbers in enumerate(([0, 1, 2], [0, 3, 4])):
        stacks = [
            odd_nans(example(kind, numbers, seed=[i, n], me=f"A+b #{n}/{kind} x"))
            for n, kind in enumerate(KINDS)
        ]
        more = {"scalars": scalars, "lumisections": times} if i == 0 else {}
        dqmio.write(folder / f"{i}.root", stacks, **more)
    labelled = Axis(
        np.array([0.0, 0.1, 1.0]), title="#eta \u03b7", labels=("", "on"), variable=True
    )
    weighted = example("TH1F", [7, 8], me="A/" + "long " * 49, n_bins=2)
    weighted = dataclasses.replace(
        weighted, axes=(labelled,), sumw2=weighted.contents.astype("f8") / 3, run_number=10
    )
    dqmio.write(folder / "2.root", [weighted])
    with ml4ad.connect(url) as archive:
        done = list(ingest.ingest(archive, folder, dataset=DATASET))
        assert [d.state for d in done] == ["PROCESSED"] * 3
    take.close_engines()


@pytest.fixture
def full(opened):
    """An archive with them, for one test."""
    return opened(fill)


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert_equal(dataclasses.replace(mine, dataset=""), dataclasses.replace(other, dataset=""))
        known = mine.run_ls_numbers, other.run_ls_numbers
        assert (known[0] is None) == (known[1] is None)
        assert known[0] is None or np.array_equal(*known)


def tables(archive, dataset):
    drop = ["dataset", "file", "n_files"]
    found = [archive.runs(dataset), archive.lumisections(dataset), archive.scalars(dataset=dataset)]
    return [frame.drop(columns=drop, errors="ignore") for frame in found]


def count(archive, table):
    with archive.engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table))


def test_all_comes_back_to_the_bit(full, tmp_path):
    before, known = list(full.stacks()), tables(full, DATASET)
    out = tmp_path / "out"
    done = export(full, DATASET, out)
    assert (done.n_files, done.n_runs, done.n_ls) == (len(KINDS) + 1, 2, 7)
    assert done.nbytes == sum(p.stat().st_size for p in out.rglob("*.parquet"))
    ingest.forget_dataset(full, DATASET)
    record = import_folder(full, out)
    assert (record.state, record.n_ls, record.n_refused) == ("PROCESSED", 7, 0)
    assert_same(list(full.stacks()), before)
    for ours, theirs in zip(tables(full, DATASET), known, strict=True):
        pd.testing.assert_frame_equal(ours, theirs)
    files = full.files(DATASET)
    assert files.path.tolist() == [str(out / MANIFEST)]
    assert files.era.tolist() == ["Run2024F"]


def test_it_is_as_if_written_by_anyone_who_reads_parquet(full, tmp_path):
    export(full, DATASET, tmp_path / "out", me="*TH2F*", run_number=9)
    (path,) = (tmp_path / "out" / "9").glob("*.parquet")
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"ml4ad"])
    cells = np.array(table["contents"].to_pylist(), dtype="f4").reshape(-1, *about["shape"])
    stack = full.stack(about["me"], 9)
    assert np.array_equal(cells, stack.contents, equal_nan=True)
    assert about["stack"]["axes"][0]["regular"] == [6, 0.0, 1.0]
    assert table["ls_number"].to_pylist() == stack.ls_numbers.tolist()


def test_twice_is_once(full, tmp_path):
    out = tmp_path / "out"
    first = export(full, DATASET, out)
    names = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert export(full, DATASET, out) == first
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == names
    assert import_folder(full, out, dataset=OTHER).n_ls == 7
    blocks = count(full, schema.block)
    assert import_folder(full, out, dataset=OTHER).n_ls == 7
    assert (count(full, schema.block), len(full.files(OTHER))) == (blocks, 1)
    assert_same(list(full.stacks(dataset=OTHER)), list(full.stacks(dataset=DATASET)))


def test_into_an_archive_that_has_it_nothing_is_added(full, tmp_path):
    export(full, DATASET, tmp_path / "out")
    before = list(full.stacks())
    record = import_folder(full, tmp_path / "out")
    assert (record.n_ls, record.n_refused) == (0, 7)
    assert "are held by" in record.reason
    assert_same(list(full.stacks()), before)


def test_elements_and_a_run_can_be_chosen(full, tmp_path):
    done = export(full, DATASET, tmp_path / "out", me="A+b*", run_number=9)
    assert (done.n_files, done.n_runs, done.n_ls) == (len(KINDS), 1, 5)
    import_folder(full, tmp_path / "out", dataset=OTHER)
    assert full.runs(OTHER).run_number.tolist() == [9]
    assert len(full.scalars(dataset=OTHER)) == 0
    with pytest.raises(KeyError, match="no element matches"):
        export(full, DATASET, tmp_path / "none", me="nothing*")
    with pytest.raises(KeyError, match="has no run 77"):
        export(full, DATASET, tmp_path / "none", run_number=77)
    with pytest.raises(KeyError, match="no dataset"):
        export(full, "/A/B/C", tmp_path / "none")
    assert not (tmp_path / "none" / MANIFEST).exists()


def test_an_element_whose_binning_changes_is_in_several_files(archive, tmp_path):
    for i, n_bins in enumerate((6, 7)):
        dqmio.write(tmp_path / f"{i}.root", [example("TH1F", [i + 1], n_bins=n_bins)])
    list(ingest.ingest(archive, tmp_path, dataset=DATASET))
    before = list(archive.stacks())
    assert export(archive, DATASET, tmp_path / "out").n_files == 2
    ingest.forget_dataset(archive, DATASET)
    import_folder(archive, tmp_path / "out")
    assert_same(list(archive.stacks()), before)


def test_a_long_run_is_written_and_read_in_parts(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "BLOCK_BYTES", 3 * 8 * 4)
    dqmio.write(tmp_path / "a.root", [example("TH1F", range(12))])
    list(ingest.ingest(archive, tmp_path, dataset=DATASET))
    before = list(archive.stacks())
    export(archive, DATASET, tmp_path / "out")
    with open_folder(tmp_path / "out") as folder:
        assert [len(stack) for stack in folder.stacks()] == [3, 3, 3, 3]
    import_folder(archive, tmp_path / "out", dataset=OTHER)
    assert_same(list(archive.stacks(dataset=OTHER)), before)


def test_another_export_replaces_what_was_there_but_not_another_dataset(full, tmp_path):
    out = tmp_path / "out"
    export(full, DATASET, out)
    export(full, DATASET, out, me="*/TH1?*", run_number=9)
    names = sorted(p.name.split("-")[0] for p in (out / "9").iterdir())
    assert names == [f"A%2Bb%20%23{n}%2F{k}%20x" for n, k in enumerate(KINDS) if "TH1" in k]
    assert list((out / "10").iterdir()) == []
    import_folder(full, out, dataset=OTHER)
    with pytest.raises(FileExistsError, match="holds an export of"):
        export(full, OTHER, out)


def test_an_export_that_breaks_off_is_none(full, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export(full, DATASET, out)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "_write_scalars", full_disk)
    with pytest.raises(OSError, match="No space"):
        export(full, DATASET, out)
    with pytest.raises(FileNotFoundError, match=r"manifest\.json: no such file"):
        import_folder(full, out, dataset=OTHER)
    assert not list(out.rglob(".*"))


# -- what is damaged -------------------------------------------------------------------------------


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("damage", [flipped, cut, Path.unlink])
@pytest.mark.parametrize("which", ["9/*TH2F*", "lumisections.parquet", "scalars.parquet"])
def test_what_is_damaged_is_refused_by_name_and_nothing_stored(full, tmp_path, damage, which):
    out = tmp_path / "out"
    export(full, DATASET, out)
    (path,) = out.glob(which)
    whole = path.read_bytes()
    damage(path)
    record = import_folder(full, out, dataset=OTHER)
    assert record.state in ("BAD", "FAILED")
    assert str(path) in record.reason
    assert OTHER not in full.runs().dataset.tolist()
    path.write_bytes(whole)
    assert import_folder(full, out, dataset=OTHER).state == "PROCESSED"
    assert_same(list(full.stacks(dataset=OTHER)), list(full.stacks(dataset=DATASET)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda told: told.update(version=99), "99, want 1"),
        (lambda told: told.update(era="Run2025A"), "damaged"),
        (lambda told: told.pop("files"), "damaged"),
        (lambda told: told["files"][0].update(path="../x.parquet"), "uuid"),
    ],
)
def test_a_manifest_that_was_changed_is_refused(full, tmp_path, change, told):
    out = tmp_path / "out"
    export(full, DATASET, out)
    manifest = json.loads((out / MANIFEST).read_text())
    change(manifest)
    (out / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=told) as refused:
        import_folder(full, out)
    assert str(out / MANIFEST) in str(refused.value)


def test_a_manifest_that_leads_elsewhere_is_refused(full, tmp_path):
    from ml4ad.ingest.exported import uuid_of

    out = tmp_path / "out"
    export(full, DATASET, out)
    manifest = json.loads((out / MANIFEST).read_text())
    manifest["files"][0]["path"] = "../../secret.parquet"
    manifest["uuid"] = uuid_of(manifest)
    (out / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="want one inside the folder"):
        import_folder(full, out)


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=255)


@given(st.lists(NAMES, min_size=2, max_size=2, unique=True))
def test_no_two_elements_have_the_same_file(names):
    first, second = map(file_name, names)
    assert first != second
    for name in (first, second):
        assert len(name) <= 200
        assert os.sep not in name
        assert name.isascii()


def test_an_export_in_an_indexed_folder_has_not_vanished(full, tmp_path):
    export(full, DATASET, tmp_path / "out")
    import_folder(full, tmp_path / "out", dataset=OTHER)
    list(ingest.index(full, tmp_path, DATASET))
    assert full.files(OTHER).vanished.tolist() == [False]
    (tmp_path / "out" / MANIFEST).unlink()
    list(ingest.index(full, tmp_path, DATASET))
    assert full.files(OTHER).vanished.tolist() == [True]
