import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import uproot
from dqmio_samples import (
    assert_same,
    axes_of,
    expected,
    make_stack,
    read_with_jsroot,
    read_with_uproot,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ml4ad import dqmio
from ml4ad.dqmio import layouts, rootfile
from ml4ad.stack import KINDS, Axis, HistogramStack

SMALL14 = Path(__file__).parent / "data" / "small14.root"
COMPRESSIONS = ["zlib", "lzma", "lz4", "zstd", "none"]


# -- what is written -------------------------------------------------------------------------------


def everything():
    """Stacks of all kinds and of all that is uncommon."""
    stacks = []
    for kind, (n_axes, _) in KINDS.items():
        stacks += [
            make_stack(kind, f"A/{kind}/plain", [0, 1, 2, 3, 5], seed=1),
            make_stack(kind, f"A/{kind}/sumw2", [1, 3], seed=2, sumw2=True, flags=7),
            make_stack(kind, f"A/{kind}/late", [2, 5], axes=axes_of(n_axes, labelled=True)),
            make_stack(
                kind,
                f"A/{kind}/variable",
                [1, 2, 3],
                axes=axes_of(n_axes, variable=True, labelled=True),
            ),
            make_stack(kind, f"A/{kind}/plain", [4], run_number=380000),
        ]
    odd = np.array([[np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38, 0, 0, 0]], dtype="f4")
    stacks += [
        make_stack("TH1F", "B/#Sigma η_φ/ü + - #", [1], title="μετά √s [TeV]" * 40),
        make_stack("TH1F", "B/" + "n" * 253, [1], title="t" * 254),
        make_stack("TH1F", "B/title255", [1], title="t" * 255),
        make_stack("TH1F", "B/no_title", [1], title=""),
        make_stack("TH1F", "B/odd", [1], contents=odd, axes=axes_of(1)),
        make_stack("TH1S", "B/extremes", [2], contents=np.full((1, 9), -32768, dtype="i2")),
        make_stack("TH1I", "B/int extremes", [2], contents=np.full((1, 9), 2**31 - 1, dtype="i4")),
        make_stack("TProfile", "B/limits", [2], value_range=(-1.5, 8.0), error_mode="s"),
        make_stack("TProfile2D", "B/2D limits", [3], value_range=(-1.5, 8.0), error_mode="g"),
        make_stack("TH2F", "B/wide", [1, 2], axes=axes_of(2, sizes=(300, 200))),
        make_stack("TH1D", "B/many", np.arange(1, 300), axes=axes_of(1, (200,), labelled=True)),
    ]
    return stacks


def some_scalars():
    rows = [
        (380001, 1, "Info/run", "Int", -(2**40) - 1, 0),
        (380001, 1, "Info/rate", "Float", float("nan"), 3),
        (380001, 1, "Info/text", "String", "η" * 300, 0),
        (380001, 2, "Info/run", "Int", 2**52 + 1, 0),
        (380001, 2, "Info/rate", "Float", float("-inf"), 0),
        (380001, 0, "Info/text", "String", "", 2**32 - 1),
    ]
    return pd.DataFrame(rows, columns=["run_number", "ls_number", "me", "kind", "value", "flags"])


def some_lumisections():
    begin = pd.Timestamp("2024-05-01 10:00:00.000001", tz="UTC")
    rows = [
        (
            380001,
            ls,
            begin + pd.Timedelta(23.3, "s") * ls,
            begin + pd.Timedelta(23.3, "s") * (ls + 1),
        )
        for ls in (1, 2, 3, 5, 7)
    ]
    rows.append((380001, 0, begin, pd.NaT))
    return pd.DataFrame(rows, columns=["run_number", "ls_number", "begin_time", "end_time"])


@pytest.fixture(scope="module")
def all_stacks():
    return everything()


@pytest.fixture(scope="module")
def written(tmp_path_factory, all_stacks):
    path = tmp_path_factory.mktemp("written") / "all.root"
    dqmio.write(path, all_stacks, scalars=some_scalars(), lumisections=some_lumisections(), seed=1)
    return path


def read_with_ours(path):
    with dqmio.open(path) as file:
        found = expected(file.stacks(), file.scalars())
        assert (
            len(found)
            == (file.index["last"] - file.index["first"] + 1)[file.index["kind"] != ""].sum()
        )
        return found


READERS = {"ours": read_with_ours, "uproot": read_with_uproot, "JSROOT": read_with_jsroot}
readers = pytest.mark.parametrize("reader", list(READERS))


@readers
def test_independent_readers_find_what_was_written(reader, written, all_stacks):
    assert_same(READERS[reader](written), expected(all_stacks, some_scalars()))


@readers
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_compression_is_read(reader, compression, tmp_path, all_stacks):
    some = all_stacks[:-2:4]  # JSROOT's LZMA takes no basket of several chunks, as wide maps have
    path = tmp_path / "file.root"
    dqmio.write(path, some, scalars=some_scalars(), compression=compression)
    assert_same(READERS[reader](path), expected(some, some_scalars()))


@readers
@pytest.mark.parametrize("limit", [0, 20_000])
def test_addresses_of_64_bits_are_read(reader, limit, tmp_path, all_stacks, monkeypatch):
    monkeypatch.setattr(rootfile, "BIG_FILE", limit)
    path = tmp_path / "file.root"
    dqmio.write(path, all_stacks[::3], scalars=some_scalars())
    assert path.stat().st_size > limit
    assert_same(READERS[reader](path), expected(all_stacks[::3], some_scalars()))


@readers
def test_an_empty_file_has_all_trees(reader, tmp_path):
    path = tmp_path / "file.root"
    dqmio.write(path, [])
    assert READERS[reader](path) == {}
    with uproot.open(path) as file:
        assert file["Indices"].num_entries == 0
        assert len(file.keys(filter_classname="TTree", recursive=False)) == 15


# -- the parts of the file -------------------------------------------------------------------------


def indices_of(path):
    with uproot.open(path) as file:
        return file["Indices"].arrays(library="pd").astype(np.uint64).astype(object)


def test_indices_tell_lumisections_in_order_with_the_run_last(written):
    frame = indices_of(written)
    keys = list(dict.fromkeys(zip(frame["Run"], frame["Lumi"], strict=True)))
    numbers = [*range(1, 300), 0]
    assert keys == [(380000, 4), *((380001, ls) for ls in numbers)]
    for _, rows in frame.groupby(["Run", "Lumi"]):
        assert rows["Type"].is_monotonic_increasing
    for kind, rows in frame[frame["Type"] != 1000].groupby("Type"):
        assert (
            rows["FirstIndex"].iloc[1:].values == rows["LastIndex"].iloc[:-1].values + 1
        ).all(), kind


def test_a_lumisection_without_elements_is_told(tmp_path):
    path = tmp_path / "file.root"
    dqmio.write(path, [make_stack("TH1F", "a", [2])], lumisections=some_lumisections())
    frame = indices_of(path)
    empty = frame[frame["Type"] == 1000]
    assert empty["Lumi"].tolist() == [1, 3, 5, 7, 0]
    assert (empty[["FirstIndex", "LastIndex"]] == 0).all(axis=None)


def test_times_are_seconds_and_microseconds(written):
    frame = indices_of(written)
    row = frame[(frame["Run"] == 380001) & (frame["Lumi"] == 2)].iloc[0]
    begin = pd.Timestamp("2024-05-01 10:00:46.600001", tz="UTC")
    assert row["BeginTime"] >> 32 == int(begin.timestamp())
    assert row["BeginTime"] & 0xFFFFFFFF == 600001
    run = frame[frame["Lumi"] == 0].iloc[0]
    assert run["BeginTime"] > 0
    assert run["EndTime"] == 0
    assert set(frame[frame["Run"] == 380000]["BeginTime"]) == {0}


def test_release_and_guid_are_in_the_file(tmp_path):
    path = tmp_path / "file.root"
    guid = "0A1B2C3D-1234-5678-9ABC-DEF012345678"
    dqmio.write(path, [], release="CMSSW_13_0_5", guid=guid)
    with uproot.open(path) as file:
        assert str(file["cms::edm::GUID"]) == guid
        (history,) = file["MetaData/ProcessHistories"].arrays().tolist()
        assert history["ReleaseVersion"] == "CMSSW_13_0_5"
        (sets,) = file["MetaData/ParameterSets"].arrays().tolist()
        assert sets["ParameterSetBlob"]


def test_the_classes_of_branches_are_those_of_root(written):
    with uproot.open(written) as ours, uproot.open(SMALL14) as roots:
        for name in roots.keys(filter_classname="TTree", cycle=False):
            mine, theirs = ours[name], roots[name]
            assert mine.keys() == theirs.keys()
            for branch, other in zip(mine.branches, theirs.branches, strict=True):
                assert branch.classname == other.classname
                for member in (
                    "fTitle",
                    "fBasketSize",
                    "fSplitLevel",
                    "fClassName",
                    "fID",
                    "fType",
                ):
                    if other.has_member(member):
                        assert branch.member(member) == other.member(member), (name, member)


def elements_of(streamer):
    names = ("fName", "fType", "fTypeName", "fSize")
    return [tuple(element.member(name) for name in names) for element in streamer.elements]


def test_descriptions_of_classes_agree_with_those_of_root(written):
    compared = 0
    with uproot.open(written) as ours, uproot.open(SMALL14) as roots:
        for name, versions in roots.file.streamers.items():
            for version, theirs in versions.items():
                mine = ours.file.streamers.get(name, {}).get(version)
                if mine is None or name in ("TBranchObject", "TTree"):
                    continue
                assert mine.member("fCheckSum") == theirs.member("fCheckSum"), name
                assert elements_of(mine) == elements_of(theirs), name
                compared += 1
    assert compared >= 25


@pytest.mark.parametrize(
    ("name", "checksum"),
    [
        ("TH1", 0x1C3740C4),
        ("TAxis", 0x5A496E70),
        ("TH1F", 0xE2939644),
        ("TH2F", 0x689CC295),
        ("TH3F", 0x4D9C3F2B),
        ("TProfile", 0x4BEDEE54),
        ("TProfile2D", 0x36A142AC),
        ("TBranch", 0x10978AAC),
        ("TTree", 0x7264E07F),
        ("ROOT::TIOFeatures", 0x1AA12F10),
    ],
)
def test_checksums_are_those_of_root_6(name, checksum):
    assert layouts.LAYOUTS[name].checksum == checksum


def test_baskets_have_the_size_of_cmssw(written):
    with uproot.open(written) as file:
        many = file["TH1Ds/Value"]
        assert many.num_baskets > 3
        sizes = [many.basket(i).uncompressed_bytes for i in range(many.num_baskets)]
        assert max(sizes) < 140_000
        assert min(sizes[:-1]) > 110_000
        wide = file["TH2Fs/Value"]
        assert [wide.basket(i).num_entries for i in range(wide.num_baskets)].count(1) >= 2


# -- how it is written -----------------------------------------------------------------------------


def test_writing_in_parts_holds_the_same(tmp_path, all_stacks):
    path = tmp_path / "parts.root"
    with dqmio.create(path) as out:
        for numbers in ([4], [5, 3], [0], range(6, 300), [2, 1]):
            parts = [stack.select(list(numbers)) for stack in all_stacks]
            scalars = some_scalars()[some_scalars()["ls_number"].isin(list(numbers))]
            out.write([part for part in parts if len(part)], scalars=scalars)
        assert not path.exists()
    assert_same(read_with_uproot(path), expected(all_stacks, some_scalars()))


def test_the_same_seed_gives_the_same_bytes(tmp_path, all_stacks, written):
    again = tmp_path / "another name.root"
    more = {"scalars": some_scalars(), "lumisections": some_lumisections()}
    dqmio.write(again, all_stacks, seed=1, **more)
    assert again.read_bytes() == written.read_bytes()
    dqmio.write(again, all_stacks, seed=2, overwrite=True, **more)
    assert again.read_bytes() != written.read_bytes()


def test_without_a_seed_every_file_is_its_own(tmp_path):
    guids = set()
    for name in ("a.root", "b.root"):
        dqmio.write(tmp_path / name, [])
        with uproot.open(tmp_path / name) as file:
            guids.add(str(file["cms::edm::GUID"]))
    assert len(guids) == 2


def test_memory_is_bounded_by_the_part(tmp_path):
    def peak(n_parts):
        path = tmp_path / f"{n_parts}.root"
        tracemalloc.start()
        with dqmio.create(path, compression="none") as out:
            for part in range(n_parts):
                numbers = np.arange(part * 10 + 1, part * 10 + 11)
                axes = axes_of(2, sizes=(100, 60))
                out.write([make_stack("TH2F", f"m{i}", numbers, axes=axes) for i in range(4)])
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest, path.stat().st_size

    few, _ = peak(3)
    many, size = peak(30)
    assert size > 25e6
    assert many < few + 2e6


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_no_file(tmp_path, error, all_stacks):
    def stop_halfway():
        with dqmio.create(tmp_path / "file.root") as out:
            out.write(all_stacks)
            raise error

    with pytest.raises(error):
        stop_halfway()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_on_completion_leaves_no_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    out = dqmio.create(tmp_path / "file.root")
    out.write([make_stack("TH1F", "a", [1])])
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        out.close()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_replaced_only_if_asked(tmp_path):
    path = tmp_path / "file.root"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"file\.root exists"):
        dqmio.write(path, [])
    assert path.read_text() == "mine"
    dqmio.write(path, [], overwrite=True)
    assert path.read_bytes()[:4] == b"root"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "file.root"
    out = dqmio.create(path)
    path.write_text("theirs")
    with pytest.raises(FileExistsError):
        out.close()
    assert [p.name for p in tmp_path.iterdir()] == ["file.root"]
    assert path.read_text() == "theirs"


# -- what ROOT wrote, written again ----------------------------------------------------------------

SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "dqmio"


def truth_of(path):
    lines = path.with_name(path.stem + ".truth.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def of_root(path):
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    return path


@pytest.fixture(params=[SMALL14, SHARED / "real.root"], ids=lambda path: path.stem)
def again(request, tmp_path):
    """A file of ROOT, and what we write of what we read of it."""
    source, path = of_root(request.param), tmp_path / "again.root"
    with dqmio.open(source) as file:
        dqmio.write(
            path,
            file.stacks(),
            scalars=file.scalars(),
            lumisections=file.index.drop_duplicates(["run_number", "ls_number"]),
            release=file.release,
            guid=file.guid or None,
        )
    return source, path


@readers
def test_a_file_of_root_is_written_again_with_the_same_contents(again, reader):
    source, path = again
    assert_same(READERS[reader](path), read_with_ours(source))
    with dqmio.open(source) as theirs, dqmio.open(path) as ours:
        assert ours.release == theirs.release
        assert ours.guid == theirs.guid or not theirs.guid
        pd.testing.assert_frame_equal(ours.lumisections, theirs.lumisections)
        columns = ["run_number", "ls_number", "kind", "begin_time", "end_time"]
        frames = [file.index.sort_values(columns[:3])[columns] for file in (ours, theirs)]
        pd.testing.assert_frame_equal(*(frame.reset_index(drop=True) for frame in frames))


def test_what_is_written_again_is_what_root_says(again):
    source, path = again
    found, before = read_with_uproot(path), read_with_uproot(source)
    assert found.keys() == before.keys()
    compared = 0
    for row in truth_of(source):
        if "index" in row or row.get("buffered"):
            continue
        key = row["fullname"], row["run"], row["lumi"]
        mine = found[key]
        assert_same({key: mine}, {key: before[key]})
        if "value" in row:
            assert_same({"value": mine[1]}, {"value": row["value"]})
            continue
        wanted = {"cells": row["raw"], "entries": row["entries"]}
        wanted |= {"class": row["class"], "title": row["title"], "flags": row["flags"]}
        wanted["axes"] = [
            [x["n"], x["min"], x["max"], x.get("xbins", []), x["title"], x.get("labels", {})]
            for x in (row[letter] for letter in "xyz"[: row["dim"]])
        ]
        wanted |= {name: row[key] for name, key in TRUTH_ARRAYS.items() if key in row}
        assert_same({name: mine[name] for name in wanted}, wanted)
        compared += 1
    assert compared >= 55


TRUTH_ARRAYS = {"fSumw2": "sumw2", "fBinEntries": "binentries"}


# -- refusals --------------------------------------------------------------------------------------


def scalar_frame(**changed):
    row = {"run_number": 1, "ls_number": 1, "me": "a", "kind": "Int", "value": 1, "flags": 0}
    return pd.DataFrame([row | changed])


def one(me="a", ls_numbers=(1,), **more):
    return [make_stack("TH1F", me, list(ls_numbers), run_number=1, **more)]


@pytest.mark.parametrize(
    ("stacks", "more", "message"),
    [
        (one(me="n" * 256), {}, "256 bytes, want 1 to 255"),
        (one(me="η" * 128), {}, "256 bytes"),
        (one(me=""), {}, "want a text of 1 to 255 bytes"),
        (one() + one(), {}, "a, run 1, lumisection 1: given twice"),
        (one(), {"scalars": scalar_frame()}, "given twice"),
        (one(ls_numbers=[-1]), {}, "lumisection -1, want a whole number from 0"),
        (one(ls_numbers=[2**32]), {}, "lumisection 4294967296"),
        (one(flags=-2), {}, "flags -2"),
        (one(error_mode="x"), {}, "error mode 'x'"),
        (one(contents=np.full((1, 9), 2.0**24 + 1)), {}, "16777217.0 in a TH1F, want values exact"),
        ([], {"scalars": scalar_frame(kind="Bool")}, "kind 'Bool', want one of Int, Float, String"),
        ([], {"scalars": scalar_frame(value=2**63)}, "want a whole number of 64 bits"),
        ([], {"scalars": scalar_frame(value=1.5)}, "1.5 as an Int"),
        ([], {"scalars": scalar_frame(value="x")}, "'x' as Int, want a number"),
        ([], {"scalars": scalar_frame(kind="String")}, "1 as a String, want a text"),
        ([], {"scalars": scalar_frame(ls_number=-1)}, "lumisection -1"),
        ([], {"scalars": scalar_frame().drop(columns="me")}, "scalars: no column me"),
        ([], {"lumisections": pd.DataFrame({"run_number": [1]})}, "no column ls_number"),
        (
            [],
            {"lumisections": pd.concat([some_lumisections()] * 2)},
            "run 380001, lumisection 1 twice",
        ),
        (
            [],
            {"lumisections": some_lumisections().assign(begin_time=pd.Timestamp("1960-01-01"))},
            "want 1970 to 2106",
        ),
        ([], {"compression": "gzip"}, "'gzip', want one of zlib, lzma, lz4, zstd, none"),
        ([], {"level": 10}, "level 10 of zlib, want 1 to 9"),
        ([], {"level": 0}, "level 0 of zlib"),
        ([], {"compression": "none", "level": 3}, "level 3 of no compression"),
        ([], {"guid": "abc"}, "guid 'abc'"),
        ([], {"release": ""}, "release ''"),
    ],
)
def test_what_is_impossible_is_refused_before_a_file_is_begun(stacks, more, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        dqmio.write(tmp_path / "file.root", stacks, **more)
    assert list(tmp_path.iterdir()) == []


def test_a_histogram_beyond_a_byte_count_is_refused(tmp_path):
    axis = Axis.regular(11_998, 0, 1)
    contents = np.broadcast_to(np.zeros(1), (1, 12_000, 12_000))
    stack = HistogramStack("a", "TH2D", 1, np.array([1]), (axis, axis), contents, np.zeros(1))
    with pytest.raises(ValueError, match="a: 1152000000 bytes of cells, want up to 1056964608"):
        dqmio.write(tmp_path / "file.root", [stack])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"):
        dqmio.write(tmp_path, [])


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        dqmio.write(tmp_path / "nowhere" / "file.root", [])


def test_a_lumisection_is_written_at_once(tmp_path):
    path = tmp_path / "file.root"
    with dqmio.create(path) as out:
        out.write(one())
        with pytest.raises(ValueError, match="run 1, lumisection 1 was written before"):
            out.write(one(me="b"))
        out.write(one(me="b", ls_numbers=[2]))
    assert set(read_with_uproot(path)) == {("a", 1, 1), ("b", 1, 2)}


# -- properties ------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300)
names = texts.filter(lambda text: 0 < len(text.encode()) <= 255)


@given(
    me=names,
    title=texts,
    labels=st.lists(texts, min_size=3, max_size=3),
    cells=st.lists(st.floats(width=32), min_size=5, max_size=5),
    n_ls=st.integers(1, 4),
    flags=st.integers(0, 2**32 - 1),
)
@settings(max_examples=25)
def test_any_text_and_number_comes_back(tmp_path_factory, me, title, labels, cells, n_ls, flags):
    axis = Axis.regular(3, 0, 1, title=title, labels=labels)
    contents = np.array([cells] * n_ls, dtype="f4")
    stack = make_stack(
        "TH1F", me, range(n_ls), axes=(axis,), contents=contents, title=title, flags=flags
    )
    path = tmp_path_factory.mktemp("any") / "file.root"
    dqmio.write(path, [stack])
    assert_same(read_with_uproot(path), expected([stack], some_scalars().iloc[:0]))


def test_integers_of_64_bits_come_back(tmp_path):
    frame = pd.concat(
        [scalar_frame(me=f"m{value}", value=value) for value in (-(2**63), -1, 2**63 - 1)]
    )
    path = tmp_path / "file.root"
    dqmio.write(path, [], scalars=frame)
    values = [value for _, value, _ in read_with_uproot(path).values()]
    assert values == [-(2**63), -1, 2**63 - 1]
