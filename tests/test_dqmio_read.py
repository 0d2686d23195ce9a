"""The reader gives exactly what ROOT wrote, and says what is wrong with everything else."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import uproot

from ml4ad import dqmio
from ml4ad.dqmio.axes import RawAxis
from ml4ad.dqmio.baskets import Loss
from ml4ad.dqmio.flush import Filled, flush
from ml4ad.dqmio.inflate import inflate
from ml4ad.dqmio.walk import FRAMES
from ml4ad.stack import KINDS, Axis, HistogramStack, is_profile

HERE = Path(__file__).parent / "data"
SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "dqmio"
BAD = SHARED / "bad"
BASES = {"small14": HERE / "small14", "real": SHARED / "real"}
needs_shared = pytest.mark.skipif(not BAD.exists(), reason="the shared data folder is absent")


def base_of(name: str) -> Path:
    if not BASES[name].with_suffix(".root").exists():
        pytest.skip(f"{name}.root is not here")
    return BASES[name]


def truth_of(name: str) -> list[dict[str, Any]]:
    lines = Path(f"{base_of(name)}.truth.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def cells(array: np.ndarray) -> np.ndarray:
    """Cells of one histogram in ROOT's order, x fastest."""
    return array.transpose().ravel()


def exact(found: Any, wanted: Any) -> bool:
    return np.array_equal(
        np.asarray(found, dtype="f8"), np.asarray(wanted, dtype="f8"), equal_nan=True
    )


def check_axis(axis: Axis, told: dict[str, Any]) -> None:
    assert (axis.n_bins, axis.name, axis.title) == (told["n"], told["name"], told["title"])
    assert (axis.edges[0], axis.edges[-1]) == (told["min"], told["max"])
    assert axis.variable == ("xbins" in told)
    if axis.variable:
        assert exact(axis.edges, told["xbins"])
    labels = told.get("labels", {})
    wanted = [labels.get(str(i), "") for i in range(1, told["n"] + 1)] if labels else []
    assert list(axis.labels) == wanted


def check_histogram(stack: HistogramStack, i: int, told: dict[str, Any]) -> None:
    """Everything that the truth tells of one histogram but its statistics."""
    assert stack.title == told["title"]
    assert stack.flags == told["flags"]
    assert stack.contents.dtype == np.dtype(KINDS[stack.kind][1])
    assert len(stack.axes) == told["dim"]
    for letter, axis in zip("xyz", stack.axes, strict=False):
        check_axis(axis, told[letter])
    if told["buffered"]:
        return
    assert exact(cells(stack.contents[i]), told["raw"])
    assert stack.entries[i] == told["entries"]
    assert (stack.sumw2 is not None) == ("sumw2" in told)
    if stack.sumw2 is not None:
        assert exact(cells(stack.sumw2[i]), told["sumw2"])
    assert (stack.sum_of_weights is not None) == ("binentries" in told)
    if stack.sum_of_weights is not None:
        assert exact(cells(stack.sum_of_weights[i]), told["binentries"])
        means = np.nan_to_num(cells(stack.values(flow=True)[i]))
        assert np.allclose(means, told["getbincontent"], rtol=1e-15, atol=0)


@pytest.mark.parametrize("memory_mb", [1, 256])
@pytest.mark.parametrize("name", list(BASES))
def test_every_histogram_equals_the_truth(name: str, memory_mb: int) -> None:
    wanted = {
        (told["class"], told["fullname"], told["run"], told["lumi"]): told
        for told in truth_of(name)
        if "class" in told
    }
    with dqmio.open(f"{base_of(name)}.root") as file:
        for stack in file.stacks(memory_mb=memory_mb):
            for i, ls in enumerate(stack.ls_numbers.tolist()):
                told = wanted.pop((stack.kind, stack.me, stack.run_number, ls))
                check_histogram(stack, i, told)
        assert not wanted
        assert not file.losses


@pytest.mark.parametrize("name", list(BASES))
def test_statistics_are_those_of_root_where_it_kept_them(name: str) -> None:
    compared = 0
    with dqmio.open(f"{base_of(name)}.root") as file:
        stacks = {
            (s.kind, s.me, s.run_number, ls): (s, i)
            for s in file.stacks()
            for i, ls in enumerate(s.ls_numbers.tolist())
        }
    for told in truth_of(name):
        if "stats" not in told:
            continue
        stack, i = stacks[told["class"], told["fullname"], told["run"], told["lumi"]]
        # Where no sums were kept, or a range of the axis is set, ROOT computes them from the bins.
        if (not stack.statistics[i][0] and stack.entries[i]) or stack.me == "A/B/timeaxis":
            continue
        assert exact(stack.statistics[i], told["stats"]), stack.me
        compared += 1
    assert compared > 50


@pytest.mark.parametrize("name", list(BASES))
def test_index_and_lumisections_equal_the_truth(name: str) -> None:
    rows = [told["index"] for told in truth_of(name) if "index" in told]
    with dqmio.open(f"{base_of(name)}.root") as file:
        index = file.index
        assert index.run_number.tolist() == [row[0] for row in rows]
        assert index.ls_number.tolist() == [row[1] for row in rows]
        kinds = [(*dqmio.read.TYPES,)[row[5]] if row[5] < 1000 else "" for row in rows]
        assert index.kind.tolist() == kinds
        assert index["first"].tolist() == [row[6] for row in rows]
        begin = pd.to_datetime([row[3] >> 32 for row in rows], unit="s", utc=True)
        assert list(index.begin_time.dt.floor("s")) == list(begin)
        assert str(index.begin_time.dt.tz) == "UTC"
        seen = {(row[0], row[1]) for row in rows if row[1] > 0}
        found = file.lumisections
        assert set(zip(found.run_number, found.ls_number, strict=True)) == seen
        assert (found.begin_time < found.end_time).all()
        for run, ls, n_mes in found[["run_number", "ls_number", "n_mes"]].itertuples(index=False):
            filled = [row for row in rows if row[:2] == [run, ls] and row[5] < 1000]
            assert n_mes == sum(row[7] - row[6] + 1 for row in filled)


def test_a_lumisection_that_held_nothing_is_known() -> None:
    with dqmio.open(HERE / "small14.root") as file:
        empty = file.lumisections.query("n_mes == 0")
        assert len(empty) == 1
        run, ls = int(empty.run_number.iloc[0]), int(empty.ls_number.iloc[0])
        stack = next(file.stacks("A/B/plain", run, slice(1, None)))
        assert ls in stack.run_ls_numbers
        assert ls in stack.missing


@pytest.mark.parametrize("name", list(BASES))
def test_scalars_equal_the_truth(name: str) -> None:
    wanted = [t for t in truth_of(name) if t.get("tree") in ("Ints", "Floats", "Strings")]
    with dqmio.open(f"{base_of(name)}.root") as file:
        found = file.scalars()
        assert len(found) == len(wanted)
        told = {(t["fullname"], t["run"], t["lumi"]): t for t in wanted}
        for row in found.itertuples():
            right = told[row.me, row.run_number, row.ls_number]
            same = row.value == right["value"]
            assert same or (math.isnan(row.value) and math.isnan(right["value"]))
            assert row.flags == right["flags"]
            assert f"{row.kind}s" == right["tree"]
            assert type(row.value) in (int, float, str)
        some = file.scalars("Info/neg", 367000, [1, 2])
        assert list(some.ls_number) == ([1, 2] if name == "small14" else [])


def test_what_is_buffered_is_filled_as_root_fills_it() -> None:
    with dqmio.open(HERE / "small14.root") as file:
        stacks = list(file.stacks("A/B/buffered"))
    assert stacks
    # ROOT's buffer of each: 0.5, 1.5 and so on, weighted 1 to 7.
    for stack in stacks:
        for i in range(len(stack)):
            assert stack.contents[i].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0]
            assert stack.entries[i] == 7
            assert stack.statistics[i].tolist() == [28, 140, 126, 651]


def test_identity_of_the_file() -> None:
    with dqmio.open(HERE / "small14.root") as file, uproot.open(HERE / "small14.root") as root:
        assert file.release == "CMSSW_13_0_5"
        assert file.guid == "0A1B2C3D-1234-5678-9ABC-DEF012345678"
        assert file.uuid == str(root.file.uuid)
        assert file.dataset == ""
    path = HERE / "small14.root"
    with dqmio.open(path, dataset="/ZeroBias/Run2023C-PromptReco-v4/DQMIO") as file:
        assert next(file.stacks()).dataset == "/ZeroBias/Run2023C-PromptReco-v4/DQMIO"


def test_the_dataset_is_that_of_the_path(tmp_path: Path) -> None:
    folder = tmp_path / "store/data/Run2022A/ZeroBias/DQMIO/19Jan2023-v2/30000"
    folder.mkdir(parents=True)
    shutil.copy(HERE / "small14.root", folder / "a.root")
    with dqmio.open(folder / "a.root") as file:
        assert file.dataset == "/ZeroBias/Run2022A-19Jan2023-v2/DQMIO"


def test_elements_tell_every_name_once_per_kind() -> None:
    with dqmio.open(HERE / "small14.root") as file:
        found = file.elements.set_index("me")
        told = {t["fullname"]: t["tree"][:-1] for t in truth_of("small14") if "fullname" in t}
        assert found.kind.to_dict() == told
        assert found.n_ls["A/B/plain"] == 9
        assert found.per_run["A/B/plain"]
        assert found.n_ls["A/B/onlyls2"] == 2
        assert not found.per_run["A/B/onlyls2"]


def test_one_element_of_one_run_comes_as_one_stack_or_with_what_there_is() -> None:
    with dqmio.open(HERE / "small14.root") as file:
        stack = file.stack("*/plain", 367001)
        assert (stack.me, stack.ls_numbers.tolist()) == ("A/B/plain", [1, 2, 4, 5])
        assert file.stack("A/B/plain", 367000, 0).ls_numbers.tolist() == [0]
        with pytest.raises(KeyError, match=r"no element matches 'A/\*/plan'; near: A/B/plain"):
            file.stack("A/*/plan")
        with pytest.raises(ValueError, match=r"'A/B/\*' means 18 elements, want one of A/B/plain,"):
            file.stack("A/B/*")
        with pytest.raises(ValueError, match=r"of 2 runs, want one of \[367000, 367001\]"):
            file.stack("A/B/plain")
        with pytest.raises(KeyError, match="nothing of run 1; runs there: 367000, 367001"):
            file.stack("A/B/plain", 1)
        with pytest.raises(KeyError, match="nothing of lumisections 9 of run 367000;"):
            file.stack("A/B/plain", 367000, 9)


def test_rows_per_run_are_stacks_of_their_own() -> None:
    with dqmio.open(HERE / "small14.root") as file:
        stacks = list(file.stacks())
    whole = [stack for stack in stacks if 0 in stack.ls_numbers]
    assert whole
    assert all(stack.ls_numbers.tolist() == [0] for stack in whole)
    assert all((stack.run_ls_numbers >= 1).all() for stack in stacks)


@pytest.mark.parametrize(
    ("wanted", "n_found"),
    [
        ({"me": "A/B/plain"}, 4),
        ({"me": dqmio.prefix("A/B/t25")}, 12),
        ({"me": re.compile("^A/2/.*lab$")}, 4),
        ({"me": ["A/B/plain", re.compile("onlyls2")]}, 6),
        ({"me": "a/b/plain"}, 0),
        ({"me": "A/B/plain", "run_number": 367000}, 2),
        ({"me": "A/B/plain", "run_number": [367000, 367001]}, 4),
        ({"me": "A/B/plain", "run_number": 1}, 0),
        ({"me": "A/B/plain", "ls_numbers": [2, 3]}, 2),
        ({"me": "A/B/plain", "ls_numbers": 0}, 2),
        ({"kinds": "TH3F"}, 8),
        ({"kinds": ["TH1I", "TH2I"]}, 8),
    ],
)
def test_selection(wanted: dict[str, Any], n_found: int) -> None:
    with dqmio.open(HERE / "small14.root") as file:
        stacks = list(file.stacks(**wanted))
        if "ls_numbers" in wanted:
            numbers = set(np.atleast_1d(wanted["ls_numbers"]).tolist())
            assert all(set(stack.ls_numbers.tolist()) <= numbers for stack in stacks)
        everything = {
            (s.kind, s.me, s.run_number, ls): s.contents[i].tobytes()
            for s in file.stacks()
            for i, ls in enumerate(s.ls_numbers.tolist())
        }
    assert len(stacks) == n_found
    for stack in stacks:
        for i, ls in enumerate(stack.ls_numbers.tolist()):
            key = (stack.kind, stack.me, stack.run_number, ls)
            assert stack.contents[i].tobytes() == everything[key]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kinds": "TH4F"}, "kind 'TH4F', want one of TH1F"),
        ({"on_error": "ignore"}, "on_error 'ignore'"),
        ({"memory_mb": 0}, "memory_mb 0"),
    ],
)
def test_wrong_arguments_are_refused_at_once(wrong: dict[str, Any], message: str) -> None:
    with dqmio.open(HERE / "small14.root") as file, pytest.raises(ValueError, match=message):
        file.stacks(**wrong)


# -- another witness ------------------------------------------------------------------------------


def mended(kind: str, entry: bytes, classname: str) -> bytes:
    """An entry with the frame of its own class, which uproot wants."""
    if classname == "TBranchObject":
        return entry[entry[0] + 2 :]
    version = {"TH1": 2, "TH2": 3}[FRAMES[kind][1]]
    return struct.pack(">IH", 0x40000000 | (len(entry) + 2), version) + entry


def with_uproot(file: Any, kind: str) -> list[Any]:
    """All objects of a tree, by uproot's object layer."""
    branch = file[f"{kind}s/Value"]
    model = file.file.class_named(kind)
    made = []
    for n_basket in range(branch.num_baskets):
        basket = branch.basket(n_basket)
        data, offsets = basket.data, basket.byte_offsets
        for first, last in itertools.pairwise(offsets):
            entry = data[first:last].tobytes()
            bytes_ = mended(kind, entry, branch.classname)
            # References count from the key of the basket, from where the entry stood in it.
            shift = int(first) + len(entry) - len(bytes_)
            cursor = uproot.source.cursor.Cursor(0, origin=-(basket.member("fKeylen") + shift))
            chunk = uproot.source.chunk.Chunk.wrap(branch.file.source, np.frombuffer(bytes_, "u1"))
            made.append(model.read(chunk, cursor, {}, branch.file, branch.file, branch))
    return made


@pytest.mark.parametrize("kind", list(KINDS))
def test_uproot_reads_the_same_once_the_frames_are_mended(kind: str) -> None:
    with uproot.open(HERE / "small14.root") as root:
        objects = with_uproot(root, kind)
    told = [t for t in truth_of("small14") if t.get("tree") == f"{kind}s"]
    with dqmio.open(HERE / "small14.root") as file:
        found = {
            (s.me, s.run_number, ls): (s, i)
            for s in file.stacks(kinds=kind)
            for i, ls in enumerate(s.ls_numbers.tolist())
        }
    assert len(objects) == len(told) == len(found)
    for histogram, row in zip(objects, told, strict=True):
        stack, i = found[row["fullname"], row["run"], row["lumi"]]
        assert histogram.member("fTitle") == stack.title
        labels = [str(label) for label in histogram.member("fXaxis").member("fLabels") or ()]
        assert sorted(labels) == sorted(label for label in stack.axes[0].labels if label)
        assert exact(histogram.axis(0).edges(), stack.axes[0].edges)
        if row["buffered"]:
            continue
        if is_profile(kind):
            assert exact(histogram.member("fBinEntries"), cells(stack.sum_of_weights[i]))
        else:
            assert exact(histogram.values(flow=True), stack.contents[i])
        assert histogram.member("fEntries") == stack.entries[i]


# -- what is wrong --------------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("zero.root", dqmio.NotDQMIOError, "not a ROOT file"),
        ("header4.root", dqmio.NotDQMIOError, "4 bytes"),
        ("notroot.root", dqmio.NotDQMIOError, "not a ROOT file"),
        ("notdqmio.root", dqmio.NotDQMIOError, "no tree 'Indices', only T, h"),
        ("trunc60_small.root", dqmio.CorruptFileError, "truncated: 49056 bytes of 81760"),
        ("flip_indices_small.root", dqmio.CorruptFileError, "Indices"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(name: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        dqmio.open(BAD / name)
    assert "\n" not in str(raised.value)
    assert name in str(raised.value)


@needs_shared
def test_a_corrupt_basket_loses_its_entries_only() -> None:
    path = BAD / "flip_payload_small.root"
    with dqmio.open(path) as file:
        told = r"flip_payload_small.root: TH1Fs, entries \d+ to \d+: Value: .*block"
        with pytest.raises(dqmio.CorruptFileError, match=told):
            list(file.stacks())
    with dqmio.open(path) as file:
        stacks = list(file.stacks(on_error="skip"))
        (loss,) = file.losses
        rows = file.sizes.set_index("kind").n_entries
    assert loss.tree == "TH1Fs"
    assert loss.first > 0
    n_read = sum(len(stack) for stack in stacks)
    assert n_read == rows.reindex(list(KINDS), fill_value=0).sum() - (loss.last - loss.first + 1)


def flipped(tree: str, branch: str, path: Path) -> int:
    """Write the small file with the middle of a branch's last basket inverted; its entries."""
    data = bytearray((HERE / "small14.root").read_bytes())
    with uproot.open(HERE / "small14.root") as root:
        found = root[f"{tree}/{branch}"]
        last = found.num_baskets - 1
        middle = int(found.member("fBasketSeek")[last] + found.member("fBasketBytes")[last] // 2)
        first, stop = found.basket_entry_start_stop(last)
    for at in range(middle, middle + 8):
        data[at + 20] ^= 0xFF
    path.write_bytes(data)
    return int(stop - first)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_flipped_basket_of_any_tree_is_told_and_skipped(kind: str, tmp_path: Path) -> None:
    n_lost = flipped(f"{kind}s", "Value", tmp_path / "x.root")
    with dqmio.open(tmp_path / "x.root") as file:
        with pytest.raises(dqmio.CorruptFileError, match=f"{kind}s, entries"):
            list(file.stacks())
        assert sum(len(s) for s in file.stacks(kinds=set(KINDS) - {kind})) > 0
        assert not file.losses
        assert sum(len(s) for s in file.stacks(on_error="skip")) == 431 - n_lost
        assert [loss.tree for loss in file.losses] == [f"{kind}s"]


def test_flipped_names_lose_their_histograms(tmp_path: Path) -> None:
    n_lost = flipped("TH2Fs", "FullName", tmp_path / "x.root")
    with dqmio.open(tmp_path / "x.root") as file:
        with pytest.raises(dqmio.CorruptFileError, match="TH2Fs, entries 0 to 54: FullName"):
            list(file.stacks())
        assert sum(len(s) for s in file.stacks(on_error="skip")) == 431 - n_lost


@pytest.mark.parametrize("kind", ["Int", "Float", "String"])
def test_a_flipped_basket_of_scalars_is_told_and_skipped(kind: str, tmp_path: Path) -> None:
    n_lost = flipped(f"{kind}s", "Value", tmp_path / "x.root")
    with dqmio.open(tmp_path / "x.root") as file:
        with pytest.raises(dqmio.CorruptFileError, match=f"{kind}s, entries"):
            file.scalars()
        found = file.scalars(on_error="skip")
        assert kind not in set(found.kind)
        assert len(found) == 110 - n_lost


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (str, FileNotFoundError),
        (Path.mkdir, IsADirectoryError),
        (os.mkfifo, OSError),
    ],
    ids=["missing", "directory", "pipe"],
)
def test_what_cannot_be_opened_is_an_error_of_the_system(
    make: Any, error: type, tmp_path: Path
) -> None:
    path = tmp_path / "x.root"
    make(path)
    with pytest.raises(error):
        dqmio.open(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_forbidden_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    path = tmp_path / "x.root"
    shutil.copy(HERE / "small14.root", path)
    path.chmod(0)
    with pytest.raises(PermissionError):
        dqmio.open(path)


def test_a_file_that_vanishes_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "x.root"
    shutil.copy(HERE / "small14.root", path)
    with dqmio.open(path) as file:
        path.unlink()
        assert sum(len(stack) for stack in file.stacks()) == 431


def test_a_file_that_is_cut_while_it_is_read_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "x.root"
    shutil.copy(HERE / "small14.root", path)
    with dqmio.open(path) as file:
        os.truncate(path, 1000)
        with pytest.raises(dqmio.CorruptFileError):
            list(file.stacks())


def test_reading_may_stop_at_any_time() -> None:
    before = threading.active_count()
    with dqmio.open(HERE / "small14.root") as file:
        stacks = file.stacks(memory_mb=1)
        next(stacks)
        stacks.close()
    assert threading.active_count() == before


def test_a_url_is_opened_by_fsspec() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/folder/small14.root", (HERE / "small14.root").read_bytes())
    with dqmio.open("memory://folder/small14.root") as file:
        assert sum(len(stack) for stack in file.stacks()) == 431
    with dqmio.open(f"file://{HERE / 'small14.root'}") as file:
        assert len(file.elements) == 50
    with pytest.raises(FileNotFoundError):
        dqmio.open("memory://folder/absent.root")


def test_an_unknown_protocol_says_what_to_install() -> None:
    pytest.importorskip("fsspec")
    try:
        import fsspec_xrootd  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"ml4ad\[xrootd\]"):
            dqmio.open("root://eos.cern.ch//store/x.root")
    with pytest.raises(ImportError, match="nonsense:// cannot be opened"):
        dqmio.open("nonsense://x.root")


# -- layouts that the files here do not have ------------------------------------------------------


def stack_of(**changed: Any) -> HistogramStack:
    given: dict[str, Any] = {
        "contents": np.arange(12.0, dtype="f4").reshape(2, 6),
        "axes": Axis.regular(6, 0, 6),
        "ls_numbers": [1, 2],
        "run_number": 1,
        "me": "A/b",
    }
    return HistogramStack.from_arrays(**(given | changed))


def read_back(path: Path, stacks: list[HistogramStack], **how: Any) -> list[HistogramStack]:
    dqmio.write(path, stacks, **how)
    with dqmio.open(path) as file:
        return list(file.stacks())


@pytest.mark.parametrize("compression", ["zlib", "lzma", "lz4", "zstd", "none"])
def test_every_compression_of_root_is_read(compression: str, tmp_path: Path) -> None:
    (found,) = read_back(tmp_path / "x.root", [stack_of()], compression=compression)
    assert exact(found.contents[:, 1:-1], stack_of().values())


def test_lumisections_that_differ_in_layout_are_stacks_of_their_own(tmp_path: Path) -> None:
    labels = ["a", "b", "c", "d", "e", "f"]
    given = [
        stack_of(ls_numbers=[1, 4]),
        stack_of(ls_numbers=[2, 5], title="other"),
        stack_of(ls_numbers=[3, 6], axes=Axis.regular(6, 0, 7)),
        stack_of(ls_numbers=[7, 8], sumw2=np.ones((2, 6))),
        stack_of(ls_numbers=[9, 10], axes=Axis.regular(6, 0, 6, labels=labels)),
        stack_of(ls_numbers=[11, 12], axes=Axis.regular(6, 0, 6, labels=[*labels[:5], "g"])),
    ]
    found = read_back(tmp_path / "x.root", given)
    assert [s.ls_numbers.tolist() for s in found] == [s.ls_numbers.tolist() for s in given]
    for one, other in zip(found, given, strict=True):
        assert one.axes == other.axes
        assert one.title == other.title
        assert exact(one.contents, other.contents)
        assert (one.sumw2 is None) == (other.sumw2 is None)


def test_one_lumisection_after_the_other_where_memory_is_short(tmp_path: Path) -> None:
    shape = (40, 300, 200)
    given = stack_of(
        contents=np.random.default_rng(3).poisson(2.0, shape).astype("f4"),
        axes=[Axis.regular(300, 0, 1), Axis.regular(200, 0, 1, name="yaxis")],
        ls_numbers=np.arange(1, 41),
    )
    dqmio.write(tmp_path / "x.root", [given])
    with dqmio.open(tmp_path / "x.root") as file:
        found = list(file.stacks(memory_mb=4))
        assert max(stack.nbytes for stack in found) < 4 << 20
        assert exact(np.concatenate([s.ls_numbers for s in found]), given.ls_numbers)
        assert exact(np.concatenate([s.contents for s in found]), given.contents)
        (one,) = file.stacks(ls_numbers=17, memory_mb=1)
        assert exact(one.contents[0], given.contents[16])


def test_bytes_that_are_no_text_are_spelled_out() -> None:
    from ml4ad.dqmio.axes import decoded

    assert decoded("η".encode()) == "η"
    assert decoded(b"\xb5m\0") == "\\xb5m\\x00"


def test_blocks_that_promise_too_much_are_refused() -> None:
    import zlib

    packed = zlib.compress(bytes(1000), 1)
    head = b"ZL\x08" + len(packed).to_bytes(3, "little")
    out = np.empty(1000, dtype=np.uint8)
    inflate(memoryview(head + (1000).to_bytes(3, "little") + packed), out)
    assert not out.any()
    for size in (999, 0xFFFFFF):
        with pytest.raises(ValueError, match="block"):
            inflate(memoryview(head + size.to_bytes(3, "little") + packed), out)
    with pytest.raises(ValueError, match="compression b'QQ'"):
        inflate(memoryview(b"QQ" + bytes(20)), out)


def flushed(kind: str, raw: list[RawAxis], buffer: list[float], **arrays: Any) -> tuple[Any, Any]:
    shape = (1, *(axis.n_bins + 2 for axis in raw))
    n_sums = {"TH1S": 4, "TH1F": 4, "TH2F": 7, "TProfile": 6}[kind]
    empty = np.zeros(shape, dtype=KINDS[kind][1])
    filled = Filled(empty, np.zeros(1), np.zeros((1, n_sums)), **arrays)
    value_range = arrays.get("value_range", (0.0, 0.0))
    axes = flush(kind, raw, filled, {0: np.array(buffer)}, value_range, 8)
    return filled, axes


UNIT = RawAxis(4, 0.0, 4.0, (), "", "xaxis", ())


def test_a_buffer_fills_flow_bins_but_not_their_statistics() -> None:
    filled, _ = flushed("TH1F", [UNIT], [4, 1, -1, 1, 0.5, 1, 9, 1, math.nan])
    assert filled.contents.tolist() == [[1, 1, 0, 0, 0, 2]]
    assert filled.entries.tolist() == [4]
    assert filled.statistics.tolist() == [[1, 1, 0.5, 0.25]]
    assert filled.sumw2 is None


def test_weights_in_a_buffer_begin_sumw2_and_shorts_saturate() -> None:
    filled, _ = flushed("TH1S", [UNIT], [2, 40000, 0.5, 2, 1.5])
    assert filled.contents.tolist() == [[0, 32767, 2, 0, 0, 0]]
    assert filled.sumw2.tolist() == [[0, 1.6e9, 4, 0, 0, 0]]


def test_a_buffer_of_two_axes_holds_weight_x_and_y() -> None:
    filled, _ = flushed("TH2F", [UNIT, UNIT], [1, 1, 0.5, 2.5])
    assert filled.contents[0, 1, 3] == 1
    assert filled.statistics.tolist() == [[1, 1, 0.5, 0.25, 2.5, 6.25, 1.25]]


def test_a_buffer_of_a_profile_holds_its_values() -> None:
    none = np.zeros((1, 6))
    filled, _ = flushed(
        "TProfile", [UNIT], [2, 1, 0.5, 10, 1, 0.5, 20], sumw2=none, sum_of_weights=none.copy()
    )
    assert filled.contents[0, 1] == 30
    assert filled.sumw2[0, 1] == 500
    assert filled.sum_of_weights[0, 1] == 2
    assert filled.statistics.tolist() == [[2, 2, 1, 0.5, 30, 500]]


def test_an_axis_without_limits_spans_what_is_buffered() -> None:
    open_ended = RawAxis(4, 0.0, 0.0, (), "", "xaxis", ())
    filled, (axis,) = flushed("TH1F", [open_ended], [3, 1, 2, 1, 5, 1, 12])
    assert filled.contents[0, 1:-1].sum() == 3
    assert (axis.edges[0], axis.edges[-1]) == (1, 13)
    assert open_ended.axis().edges.tolist() == [0, 1, 2, 3, 4]


def test_a_buffer_that_holds_fewer_than_it_says_is_refused() -> None:
    with pytest.raises(ValueError, match="a buffer of 3 numbers for 2"):
        flushed("TH1F", [UNIT], [2, 1, 1])


def test_a_loss_reads_as_a_line() -> None:
    assert str(Loss("TH1Fs", 3, 7, "gone")) == "TH1Fs, entries 3 to 7: gone"
