"""What is written in tests, and what readers that are not ours find of it, as plain values."""

import itertools
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import uproot
from uproot.source.chunk import Chunk
from uproot.source.cursor import Cursor

from ml4ad.stack import KINDS, Axis, HistogramStack, is_profile, statistics_names

JSROOT = Path(__file__).parent / "jsroot"


def axes_of(n_axes, sizes=(7, 5, 3), labelled=False, variable=False):
    axes = []
    for i, size in enumerate(sizes[:n_axes]):
        labels = [f"bin {j} of {'xyz'[i]}" if j % 3 else "" for j in range(size)]
        edges = np.cumsum(np.arange(size + 1) + 0.5) if variable else np.linspace(-1, 2, size + 1)
        axes.append(
            Axis(
                edges,
                title=f"title of {'xyz'[i]}",
                name=f"{'xyz'[i]}axis",
                labels=labels if labelled else (),
                variable=variable,
            )
        )
    return tuple(axes)


def make_stack(kind, me, ls_numbers, *, run_number=380001, seed=3, sumw2=False, axes=None, **more):
    rng = np.random.default_rng(seed)
    n_axes, dtype = KINDS[kind]
    axes = axes or axes_of(n_axes)
    shape = (len(ls_numbers), *(axis.n_bins + 2 for axis in axes))
    contents = rng.integers(-3, 300, shape).astype(dtype)
    arrays = {}
    if is_profile(kind):
        arrays["sum_of_weights"] = rng.random(shape)
        arrays["sum_of_weights_squared"] = rng.random(shape) if sumw2 else None
    if sumw2 or is_profile(kind):
        arrays["sumw2"] = rng.random(shape)
    values = {
        "contents": contents,
        "entries": rng.random(len(ls_numbers)) * 1e6,
        "statistics": rng.normal(size=(len(ls_numbers), len(statistics_names(kind)))),
        "title": f"title of {me}",
    }
    return HistogramStack(
        me=me,
        kind=kind,
        run_number=run_number,
        ls_numbers=np.array(ls_numbers),
        axes=axes,
        **(values | arrays | more),
    )


def plain_axis(n_bins, low, high, edges, title, labels):
    return [n_bins, float(low), float(high), [float(e) for e in edges], title, labels]


def expected_histogram(stack, row):
    def cells(array):
        if array is None:
            return []
        return np.asarray(array[row]).transpose().ravel().astype(np.float64).tolist()

    axes = [
        plain_axis(
            axis.n_bins,
            axis.edges[0],
            axis.edges[-1],
            axis.edges if axis.variable else [],
            axis.title,
            {i: text for i, text in enumerate(axis.labels, start=1) if text},
        )
        for axis in stack.axes
    ]
    found = {
        "class": stack.kind,
        "name": stack.me.rsplit("/", 1)[-1],
        "title": stack.title,
        "flags": stack.flags,
        "entries": stack.entries[row],
        "axes": axes,
        "cells": cells(stack.contents),
        "fSumw2": cells(stack.sumw2),
        "sums": stack.statistics[row].tolist(),
    }
    if stack.is_profile:
        found |= {
            "fBinEntries": cells(stack.sum_of_weights),
            "fBinSumw2": cells(stack.sum_of_weights_squared),
            "fErrorMode": ["", "s", "i", "g"].index(stack.error_mode),
            "range": list(stack.value_range),
        }
    return found


def expected(stacks, scalars):
    values = {
        (stack.me, stack.run_number, ls_number): expected_histogram(stack, row)
        for stack in stacks
        for row, ls_number in enumerate(stack.ls_numbers.tolist())
    }
    for row in scalars.itertuples():
        values[row.me, row.run_number, row.ls_number] = [row.kind, row.value, row.flags]
    return values


def from_root(kind, flags, member, cells, axis):
    """Plain values of a histogram of which ``member(name)`` gives ROOT's members."""
    n_axes = KINDS[kind][0]
    found = {
        "class": kind,
        "name": member("fName"),
        "title": member("fTitle"),
        "flags": flags,
        "entries": member("fEntries"),
        "axes": [axis(member(f"f{x}axis")) for x in "XYZ"[:n_axes]],
        "cells": [float(cell) for cell in cells],
        "fSumw2": [float(value) for value in member("fSumw2")],
        "sums": [member(f"fT{name}") for name in statistics_names(kind)],
    }
    if is_profile(kind):
        value_axis = "YZ"[n_axes - 1]
        found |= {name: [float(v) for v in member(name)] for name in ("fBinEntries", "fBinSumw2")}
        found["fErrorMode"] = member("fErrorMode")
        found["range"] = [member(f"f{value_axis}min"), member(f"f{value_axis}max")]
    return found


def by_place(indices, rows):
    """Rows of the type trees by (me, run, lumisection); ``rows[kind]`` is a list of (me, value)."""
    trees = dict(enumerate(rows))
    found = {}
    for run_number, ls_number, number, first, last in indices:
        if number == 1000:
            assert (first, last) == (0, 0)
            continue
        for entry in range(first, last + 1):
            me, value = rows[trees[number]][entry]
            assert (me, run_number, ls_number) not in found
            found[me, run_number, ls_number] = value
    assert len(found) == sum(map(len, rows.values()))
    return found


def array_base(model):
    for base in model.bases:
        if type(base).__name__.startswith("Model_TArray"):
            return np.asarray(base)
        inner = array_base(base)
        if inner is not None:
            return inner
    return None


def uproot_axis(axis):
    labels = axis.member("fLabels")
    return plain_axis(
        axis.member("fNbins"),
        axis.member("fXmin"),
        axis.member("fXmax"),
        axis.member("fXbins"),
        axis.member("fTitle"),
        {} if labels is None else {label.member("@fUniqueID"): str(label) for label in labels},
    )


def bare_objects(branch, kind):
    """Objects of a TBranchElement: uproot's object layer, with the missing frame put in front."""
    file = branch.file
    model = file.class_named(kind, branch.member("fClassVersion"))
    for number in range(branch.num_baskets):
        basket = branch.basket(number)
        starts = np.asarray(basket.byte_offsets)
        data = basket.data.tobytes()
        for first, last in itertools.pairwise(starts):
            body = data[first:last]
            frame = (0x40000000 | len(body) + 2).to_bytes(4, "big")
            version = branch.member("fClassVersion").to_bytes(2, "big")
            entry = np.frombuffer(frame + version + body, dtype=np.uint8)
            cursor = Cursor(0, origin=6 - basket.member("fKeylen") - int(first))
            chunk = Chunk.wrap(file.source, entry)
            yield model.read(chunk, cursor, {"reading": True, "breadcrumbs": ()}, file, file, None)
            assert cursor.index == len(entry)


def uproot_objects(branch, kind):
    if branch.classname == "TBranchElement":
        return list(bare_objects(branch, kind))
    return list(branch.array(library="np"))


def read_with_uproot(path):
    with uproot.open(path) as file:
        rows = {}
        for kind in ("Int", "Float", "String", *KINDS):
            rows[kind] = []
            if f"{kind}s" not in file:
                continue  # files older than 2022 lack two trees
            tree = file[f"{kind}s"]
            names = tree["FullName"].array(library="np").tolist()
            flags = tree["Flags"].array(library="np").tolist()
            if kind in KINDS:
                objects = uproot_objects(tree["Value"], kind) if names else []
                values = [
                    from_root(
                        kind,
                        flag,
                        lambda name, found=found: found.member(name),
                        array_base(found),
                        uproot_axis,
                    )
                    for flag, found in zip(flags, objects, strict=True)
                ]
            else:
                plain = tree["Value"].array(library="np").tolist()
                values = [[kind, v, f] for v, f in zip(plain, flags, strict=True)]
            rows[kind] = list(zip(names, values, strict=True))
        columns = file["Indices"].arrays(
            ["Run", "Lumi", "Type", "FirstIndex", "LastIndex"], library="np"
        )
        indices = zip(*(column.tolist() for column in columns.values()), strict=True)
        return by_place(indices, rows)


def jsroot_axis(axis):
    labels = axis["fLabels"]
    return plain_axis(
        axis["fNbins"],
        axis["fXmin"],
        axis["fXmax"],
        axis["fXbins"],
        axis["fTitle"],
        {} if labels is None else {label["fUniqueID"]: label["fString"] for label in labels["arr"]},
    )


def as_utf8(value):
    """The same with texts decoded, of which JSROOT gives each byte as a character."""
    if isinstance(value, dict):
        return {key: as_utf8(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_utf8(inner) for inner in value]
    return value.encode("latin-1").decode() if isinstance(value, str) else value


def run_jsroot(path):
    if shutil.which("node") is None or not (JSROOT / "node_modules").is_dir():
        pytest.skip("Node or JSROOT is not here: npm install --prefix tests/jsroot")
    done = subprocess.run(
        ["node", str(JSROOT / "read.mjs"), str(path)],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    trees = {}
    for line in done.stdout.splitlines():
        row = as_utf8(json.loads(line))
        rows = trees.setdefault(row["tree"], [])
        if "entry" in row:
            assert row["entry"] == len(rows)
            rows.append(row)
        else:
            trees[row["tree"] + ".n"] = row["n_entries"]
    for name in [name for name in trees if not name.endswith(".n")]:
        assert len(trees[name]) == trees.pop(f"{name}.n"), name
    return trees


def jsroot_integer(value):
    # JSROOT 7.11 takes the low word of a negative integer as signed, and so adds 2**32 to some.
    value = int(value)
    return value - 2**32 if value < 0 and value % 2**32 < 2**31 else value


def read_with_jsroot(path):
    trees = run_jsroot(path)
    rows = {}
    for kind in ("Int", "Float", "String", *KINDS):
        rows[kind] = []
        for row in trees[f"{kind}s"]:
            value = row["Value"]
            if kind in KINDS:
                cells = value["fArray"]
                member = value.__getitem__
                value = from_root(kind, row["Flags"], member, cells, jsroot_axis)
            else:
                value = jsroot_integer(value) if kind == "Int" else value
                value = [kind, value, row["Flags"]]
            rows[kind].append((row["FullName"], value))
    indices = [
        [int(row[name]) for name in ("Run", "Lumi", "Type", "FirstIndex", "LastIndex")]
        for row in trees["Indices"]
    ]
    return by_place(indices, rows)


NUMBERS = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf, "-0": -0.0}


def as_numbers(value):
    """The same with every number a float, JSON's texts for NaN and infinity included."""
    if isinstance(value, dict):
        return {str(key): as_numbers(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return value.astype(np.float64).tolist()
    if isinstance(value, list):
        return [as_numbers(inner) for inner in value]
    if isinstance(value, str):
        return NUMBERS.get(value, value)
    return float(value) if isinstance(value, int | float | np.number) else value


def assert_same(found, wanted):
    """Both hold the same keys and values, to the sign of a zero; any NaN is like any other."""
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        # Texts of floats are exact, and one for all NaN.
        mine, theirs = repr(as_numbers(found[key])), repr(as_numbers(value))
        assert mine == theirs, key
