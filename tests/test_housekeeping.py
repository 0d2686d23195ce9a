"""The commands that keep an archive in order, and what `ml4ad status` tells."""

import datetime

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from stack_samples import example

import ml4ad
from ml4ad import cli, dqmio, ingest, workspaces
from ml4ad.ingest import pace, take
from ml4ad.store import schema
from ml4ad.workspaces import Workspace

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened
    take.close_engines()


@pytest.fixture
def run(capsys):
    """Run a command: exit code, table on standard output, lines on standard error."""

    def command(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(each) for each in arguments])
        told = capsys.readouterr()
        return ended.value.code, told.out.splitlines(), told.err.splitlines()

    return command


def write(folder, n_files=4, names=("Pixel/a", "Ecal/b")):
    for i in range(n_files):
        numbers = [2 * i + 1, 2 * i + 2]
        stacks = [example("TH1F", numbers, seed=i, me=name) for name in names]
        dqmio.write(folder / f"{i}.root", stacks)
    return folder


def test_retry_lets_failed_and_bad_files_wait(archive, tmp_path, run):
    write(tmp_path, n_files=1)
    bad = tmp_path / "bad.root"
    bad.write_text("no ROOT file")
    assert run("ingest", tmp_path, "--dataset", DATASET)[0] == 1
    assert run("retry", tmp_path / "0.root")[1] == ["0 files wait again"]
    assert run("retry", bad)[1] == ["1 files wait again"]
    assert sorted(archive.files().state) == ["PENDING", "PROCESSED"]
    assert run("retry")[1] == ["0 files wait again"]
    assert run("ingest")[0] == 1
    assert run("retry")[1] == ["1 files wait again"]
    code, _, told = run("retry", tmp_path / "none.root")
    assert code == 1
    assert "none.root" in told[0]


def test_compact_tells_what_it_did(archive, tmp_path, run):
    run("ingest", write(tmp_path), "--dataset", DATASET)
    code, table, told = run("compact")
    assert code == 0
    assert table[1].split("\t")[:4] == [DATASET, "9", "8", "2"]
    assert told == ["8 blocks are now 2"]
    assert run("compact", "--dataset", DATASET, "--run", 9)[2] == ["0 blocks are now 0"]
    assert run("compact", "--dataset", "/A/B/C")[0] == 1
    assert len(archive.stack("Pixel/a", 9)) == 8


def test_compact_fails_where_a_block_is_damaged(archive, tmp_path, run):
    run("ingest", write(tmp_path), "--dataset", DATASET)
    with archive.engine.begin() as connection:
        first = schema.block.c.first_ls == 1
        connection.execute(sa.update(schema.block).where(first).values(packed=b"mb damaged"))
    code, _, told = run("compact")
    assert code == 1
    assert told[1].startswith("ml4ad: left as it is: Ecal/b, run 9, lumisections from 1, file 1:")


def test_a_dataset_goes_out_and_comes_back(archive, tmp_path, run):
    run("ingest", write(tmp_path), "--dataset", DATASET)
    before = archive.stack("Pixel/a", 9)
    code, told, _ = run("export", DATASET, tmp_path / "out", "--me", "Pixel/*", "--run", 9)
    assert code == 0
    assert told[0].startswith(f"{tmp_path / 'out'}: 1 files, 1 runs, 8 lumisections, 8 histograms")
    assert run("forget", DATASET, "--yes")[0] == 0
    code, table, _ = run("import", tmp_path / "out")
    assert code == 0
    assert table[1].split("\t")[0] == "PROCESSED"
    assert np.array_equal(archive.stack("Pixel/a", 9).contents, before.contents)
    (path,) = (tmp_path / "out" / "9").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    code, table, _ = run("import", tmp_path / "out", "--dataset", "/Other/X-v1/DQMIO")
    assert code == 1
    assert str(path) in table[1]
    code, _, told = run("import", tmp_path)
    assert code == 1
    assert "manifest.json: no such file" in told[0]


def test_a_workspace_is_chosen_by_name(archive, tmp_path, run):
    write(tmp_path)
    workspaces.add(archive.engine, Workspace("pixel", ("/ZeroBias/*",), ("Pixel/",)))
    assert run("ingest", tmp_path, "--dataset", DATASET, "--workspace", "pixel")[0] == 0
    assert archive.elements().me.tolist() == ["Pixel/a"]
    workspaces.edit(archive.engine, "pixel", add={"elements": ["Ecal/"]})
    assert run("ingest", "--workspace", "pixel")[2] == ["4 files: 4 PROCESSED"]
    assert archive.elements().me.tolist() == ["Ecal/b", "Pixel/a"]
    code, _, told = run("ingest", "--workspace", "nobody")
    assert code == 1
    assert "no workspace 'nobody'" in told[0]


def test_arriving_files_are_taken_in_by_workspace(archive, tmp_path, run):
    write(tmp_path, n_files=2)
    workspaces.add(archive.engine, Workspace("pixel", ("/ZeroBias/*",), ("Pixel/",)))
    arguments = ("--dataset", DATASET, "--workspace", "pixel", "--quiet", 0, "--every", 0.1)
    code, told, _ = run("watch", tmp_path, *arguments, "--for", 2)
    assert code == 0
    assert [line.split("\t")[0] for line in told] == ["new", "new", "PROCESSED", "PROCESSED"]
    assert archive.elements().me.tolist() == ["Pixel/a"]


# -- what status tells -----------------------------------------------------------------------------


def set_times(archive, path, **seconds_ago):
    now = datetime.datetime.now(datetime.UTC)
    times = {name: now - datetime.timedelta(seconds=ago) for name, ago in seconds_ago.items()}
    with archive.engine.begin() as connection:
        this = schema.file.c.path == str(path)
        connection.execute(sa.update(schema.file).where(this).values(size=3_000_000, **times))


def test_rates_are_of_the_last_hour_and_of_ever(archive, tmp_path):
    list(ingest.ingest(archive, write(tmp_path, n_files=3), dataset=DATASET))
    set_times(archive, tmp_path / "0.root", started_at=7200, finished_at=7000)
    set_times(archive, tmp_path / "1.root", started_at=600, finished_at=300)
    set_times(archive, tmp_path / "2.root", started_at=300, finished_at=0)
    hour, ever = pace.rates(archive).itertuples()
    assert (hour.since, hour.n_files, hour.bytes) == ("last 60 minutes", 2, 6_000_000)
    assert hour.minutes == pytest.approx(10, abs=1)
    assert hour.mb_per_minute == pytest.approx(6 / hour.minutes)
    assert (ever.n_files, ever.minutes) == (3, pytest.approx(120, abs=1))
    assert ever.files_per_minute == pytest.approx(3 / 120, rel=0.01)


def test_what_began_before_the_hour_counts_within_it(archive, tmp_path):
    list(ingest.ingest(archive, write(tmp_path, n_files=1), dataset=DATASET))
    set_times(archive, tmp_path / "0.root", started_at=7200, finished_at=60)
    assert pace.rates(archive).minutes[0] == pytest.approx(60)
    assert pace.rates(archive, minutes=10).minutes[0] == pytest.approx(10)
    with pytest.raises(ValueError, match="0 minutes"):
        pace.rates(archive, minutes=0)


def test_in_an_empty_archive_nothing_waits(archive, run):
    rates = pace.rates(archive)
    assert rates.n_files.tolist() == [0, 0]
    assert rates.files_per_minute[0] == 0
    assert np.isnan(rates.files_per_minute[1])
    told = pace.waiting(archive)
    assert (told["n_files"], told["bytes"], told["path"]) == (0, 0, "")
    assert pd.isna(told["oldest"])
    assert pace.database_bytes(archive) > 1_000_000
    assert run("status")[0] == 0


def test_the_oldest_that_waits_is_named(archive, tmp_path, run):
    list(ingest.index(archive, write(tmp_path, n_files=3), DATASET))
    set_times(archive, tmp_path / "1.root", indexed_at=900)
    told = pace.waiting(archive)
    assert (told["n_files"], told["path"]) == (3, str(tmp_path / "1.root"))
    code, lines, _ = run("status")
    assert code == 0
    assert any(str(tmp_path / "1.root") in line for line in lines)
