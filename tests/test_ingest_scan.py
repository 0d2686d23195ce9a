"""What another scan of known files costs, counted; and folders behind URLs."""

import json
import os
import subprocess
import sys
import textwrap

import fsspec
import numpy as np
import pytest

import ml4ad
from ml4ad import Axis, HistogramStack, dqmio, ingest

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"

# A process of its own: an audit hook stays for good.
SCAN = """
    import collections, json, sys
    import sqlalchemy as sa
    from ml4ad import ingest, store

    engine = store.engine(sys.argv[1])
    statements, listed, opened = [], [], []

    def heard(event, arguments):
        if event == "os.scandir":
            listed.append(str(arguments[0]))
        elif event == "open" and str(arguments[0]).endswith(".root"):
            opened.append(str(arguments[0]))

    def scan(paths):
        for heard_before in (statements, listed, opened):
            heard_before.clear()
        found = collections.Counter(f.outcome for f in ingest.index(engine, paths))
        told = {"found": found, "statements": statements, "listed": listed, "opened": opened}
        return json.dumps(told)

    sa.event.listen(engine, "before_cursor_execute", lambda *a: statements.append(a[2].split()[0]))
    sys.addaudithook(heard)
    for paths in json.loads(sys.argv[2]):
        print(scan(paths))
"""


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened


def write(path, run_number):
    path.parent.mkdir(parents=True, exist_ok=True)
    stack = HistogramStack.from_arrays(
        np.full((1, 4), run_number, dtype="f4"),
        Axis.regular(4, 0, 1),
        ls_numbers=[1],
        run_number=run_number,
        me="Pixel/charge",
    )
    dqmio.write(path, [stack])
    return path


def scanned(url, *scans):
    """What each scan, a list of paths, found and did."""
    listed = json.dumps([[str(path) for path in paths] for paths in scans])
    command = [sys.executable, "-c", textwrap.dedent(SCAN), url, listed]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_second_scan_lists_folders_opens_nothing_and_writes_nothing(archive, tmp_path):
    roots = [tmp_path / "one", tmp_path / "two"]
    paths = [write(roots[i % 2] / f"{i % 6}" / f"{i}.root", i + 1) for i in range(48)]
    first = [f.outcome for f in ingest.index(archive, roots, DATASET)]
    assert first == ["new"] * 48
    few, told, named = scanned(archive.url, [roots[0] / "0"], roots, paths)
    assert told["found"] == named["found"] == {"known": 48}
    assert told["opened"] == named["opened"] == []
    folders = [str(f) for root in roots for f in (root, *root.iterdir())]
    assert sorted(told["listed"]) == sorted(folders)
    # The same for each root, however many files it has, up to a thousand; nothing is written.
    assert len(told["statements"]) == 2 * len(few["statements"])
    assert set(told["statements"]) == {"SELECT"}
    assert named["statements"] == ["SELECT", "SELECT"]

    os.utime(paths[3], (1e9, 1e9))
    (told,) = scanned(archive.url, roots)
    assert set(told["opened"]) == {str(paths[3])}


def test_a_file_that_is_gone_from_a_folder_behind_a_url_is_marked(archive, tmp_path):
    memory = fsspec.filesystem("memory")
    for number in (1, 2):
        local = write(tmp_path / f"{number}.root", number)
        memory.pipe(f"/store/{number}.root", local.read_bytes())
    found = [f.outcome for f in ingest.index(archive, "memory://store", DATASET)]
    assert found == ["new", "new"]
    memory.rm("/store/1.root")
    assert [f.outcome for f in ingest.index(archive, "memory://store", DATASET)] == ["known"]
    files = archive.files()
    assert dict(zip(files.path, files.vanished, strict=True)) == {
        "memory:///store/1.root": True,
        "memory:///store/2.root": False,
    }
    memory.rm("/store", recursive=True)
