"""What went in comes out: the archive's answers against what the files hold."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from stack_samples import assert_equal, example

import ml4ad
from ml4ad import archive as archive_module
from ml4ad import dqmio, ingest
from ml4ad.cli import group
from ml4ad.ingest import take
from ml4ad.stack import concatenate

DATASET = "/ZeroBias/Run2023C-PromptReco-v1/DQMIO"
REAL = Path(__file__).parents[1].parent / "shared" / "data" / "dqmio" / "real.root"
FILES = [Path(__file__).parent / "data" / "small14.root", REAL]


@pytest.fixture
def archive(database_url):
    with ml4ad.connect(database_url) as opened:
        yield opened
    take.close_engines()


def take_in(archive, path, dataset=DATASET):
    (done,) = ingest.ingest(archive, path, dataset=dataset)
    assert (done.state, done.reason) == ("PROCESSED", "")


def written(archive, path, stacks, dataset=DATASET, **options):
    dqmio.write(path, stacks, **options)
    take_in(archive, path, dataset)


def by_element(stacks):
    found = {}
    for stack in stacks:
        found.setdefault((stack.me, stack.run_number), []).append(stack)
    return {key: concatenate(parts) for key, parts in found.items()}


# -- exact ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_stack_equals_what_the_file_gives(archive, path):
    if not path.exists():
        pytest.skip(f"no {path.name} in ../shared/data")
    take_in(archive, path)
    with dqmio.open(path, DATASET) as file:
        given = by_element(file.stacks())
        scalars = file.scalars()
        lumisections = file.lumisections
        elements = file.elements
    stored = by_element(archive.stacks())
    assert stored.keys() == given.keys()
    for (me, run_number), stack in given.items():
        assert_equal(stored[me, run_number], stack)
        assert_equal(archive.stack(me, run_number), stack)
        if stack.ls_numbers[0] > 0:
            one = archive.stack(me, run_number)
            assert one.missing.tolist() == stack.missing.tolist()
    key = ["run_number", "ls_number", "me", "kind", "value"]
    theirs = sorted(map(repr, scalars[key].to_numpy().tolist()))
    assert sorted(map(repr, archive.scalars()[key].to_numpy().tolist())) == theirs
    seen = archive.lumisections()
    for name in ("run_number", "ls_number", "begin_time", "end_time", "n_mes"):
        assert seen[name].tolist() == lumisections[name].tolist()
    assert set(archive.elements().me) == set(elements.me)


@pytest.mark.parametrize("memory_mb", [1, 256])
def test_parts_of_a_large_stack_come_back_as_one(archive, tmp_path, memory_mb):
    stack = example("TH2F", range(1, 301), n_bins=40)
    dqmio.write(tmp_path / "a.root", [stack])
    list(ingest.ingest(archive, tmp_path, dataset="/D/E/DQMIO", memory_mb=memory_mb))
    assert_equal(archive.stack(stack.me, 9), stack)


# -- selection ------------------------------------------------------------------------------------


def fill(url, folder):
    """Two runs, each in a file of its own, with three elements."""
    with ml4ad.connect(url) as archive:
        for run_number in (9, 10):
            stacks = [
                ml4ad.stack.dataclasses.replace(
                    example("TH1F", [1, 2, 3, 5, 8], seed=i, me=me), run_number=run_number
                )
                for i, me in enumerate(
                    ("Pixel/Layer1/charge", "Pixel/Layer2/charge", "Ecal/digis +")
                )
            ]
            written(archive, folder / f"{run_number}.root", stacks)
    take.close_engines()


@pytest.fixture
def filled(opened):
    """An archive with them, for one test."""
    return opened(fill)


def test_lumisections_are_chosen_as_in_a_stack(filled):
    def chosen(wanted):
        return filled.stack("Ecal/digis +", 9, ls_numbers=wanted).ls_numbers.tolist()

    assert chosen(3) == [3]
    assert chosen([2, 8, 99]) == [2, 8]
    assert chosen(slice(2, 5)) == [2, 3, 5]
    assert chosen(slice(5, None)) == [5, 8]
    assert chosen([[1, 2], [8, 9]]) == [1, 2, 8]


def test_stacks_are_chosen_by_pattern_and_run(filled):
    def keys(*arguments, **options):
        return [(s.me, s.run_number) for s in filled.stacks(*arguments, **options)]

    assert keys("*/charge") == [
        ("Pixel/Layer1/charge", 9),
        ("Pixel/Layer1/charge", 10),
        ("Pixel/Layer2/charge", 9),
        ("Pixel/Layer2/charge", 10),
    ]
    assert keys("*", 10) == [
        ("Ecal/digis +", 10),
        ("Pixel/Layer1/charge", 10),
        ("Pixel/Layer2/charge", 10),
    ]
    assert keys("Ecal/digis +", [9, 10]) == [("Ecal/digis +", 9), ("Ecal/digis +", 10)]
    assert keys(re.compile("Layer[2-9]"), 9) == [("Pixel/Layer2/charge", 9)]
    assert keys(["Ecal/*", dqmio.prefix("Pixel/Layer1")], 9, ls_numbers=4) == []


def test_elements_are_those_of_dataset_and_run(filled, tmp_path):
    written(filled, tmp_path / "x.root", [example("TProfile2D", [7], me="Hcal/x")], "/O/X-v1/DQMIO")
    assert filled.elements("H*").to_numpy().tolist() == [["Hcal/x", "TProfile2D", "Hcal", 2]]
    assert len(filled.elements(dataset=DATASET)) == 3
    assert len(filled.elements("*charge", run_number=9)) == 2
    assert len(filled.elements(run_number=11)) == 0


def test_a_dataset_must_be_named_where_several_have_the_run(filled, tmp_path):
    stack = example("TH1F", [1, 2], seed=5, me="Ecal/digis +")
    written(filled, tmp_path / "x.root", [stack], "/Other/X-v1/DQMIO")
    with pytest.raises(ValueError, match=f"2 datasets: say which of /Other/X-v1/DQMIO, {DATASET}"):
        filled.stack("Ecal/digis +", 9)
    assert len(filled.stack("Ecal/digis +", 9, DATASET)) == 5
    assert len(filled.stack("Ecal/digis +", 9, "/Other/X-v1/DQMIO")) == 2
    assert len(filled.stack("Ecal/digis +", 10)) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("Pixel/Layer1/chrge", 9), "no element matches .*; near: Pixel/Layer1/charge"),
        (("charge", 9), "near: .*Layer"),
        (("Ecal/digis +", 3), "no run 3; runs 9, 10"),
        (("Ecal/digis +", 9, "/ZeroBias"), f"no dataset '/ZeroBias'; near: {DATASET}"),
        (("Ecal/digis +", 9, None, 4), "none of the lumisections 4"),
        (("Ecal/digis +", 9, None, [4, 7]), "none of the lumisections"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(filled, arguments, words):
    with pytest.raises(KeyError, match=words):
        filled.stack(*arguments)


def test_a_pattern_that_matches_nothing_is_told(filled):
    with pytest.raises(KeyError, match=r"no element matches '\*/chrge'"):
        list(filled.stacks("*/chrge"))


def test_an_element_that_a_run_lacks_is_told(filled, tmp_path):
    written(filled, tmp_path / "x.root", [example("TH1F", [77], me="Only/here")])
    with pytest.raises(KeyError, match="Only/here is not in run 10; it is in run 9"):
        filled.stack("Only/here", 10)


def test_an_empty_archive_has_empty_tables(archive):
    assert len(archive.datasets()) == len(archive.files()) == len(archive.runs()) == 0
    assert len(archive.lumisections()) == len(archive.elements()) == len(archive.scalars()) == 0
    with pytest.raises(KeyError, match="the archive is empty"):
        archive.stack("A/b", 1)


def test_a_binning_that_changes_within_a_run_is_told(archive, tmp_path):
    written(archive, tmp_path / "1.root", [example("TH1F", [1, 2])])
    written(archive, tmp_path / "2.root", [example("TH1F", [3], n_bins=8)])
    with pytest.raises(ValueError, match=r"binning changes within run 9"):
        archive.stack("A/b", 9)
    assert [len(s) for s in archive.stacks("A/b")] == [2, 1]
    assert archive.stack("A/b", 9, ls_numbers=3).axes[0].n_bins == 8


def test_runs_tell_how_complete_they_are(filled):
    runs = filled.runs(DATASET)
    assert runs.run_number.tolist() == [9, 10]
    assert runs.n_ls.tolist() == [5, 5]
    assert runs.last_ls.tolist() == [8, 8]
    assert runs.completeness.tolist() == [5 / 8] * 2
    assert filled.stack("Ecal/digis +", 9).missing.tolist() == []


# -- how it is used -------------------------------------------------------------------------------


def test_one_element_of_one_run_is_one_read_of_one_index(filled):
    me_id = filled.elements("Ecal/digis +")
    assert len(me_id) == 1
    with filled.engine.connect() as connection:
        number = connection.scalar(
            archive_module.sa.select(archive_module.me.c.me_id).where(
                archive_module.me.c.me == "Ecal/digis +"
            )
        )
        query = archive_module._block_query([1], number, None)
        query = query.where(archive_module.block.c.run_number == 9)
        text = query.compile(connection.engine, compile_kwargs={"literal_binds": True})
        off = archive_module.sa.text("SET LOCAL enable_seqscan = off")
        connection.execute(off)
        plan = connection.exec_driver_sql(f"EXPLAIN {text}").scalars().all()
    assert any("Index Cond: ((me_id =" in line and "run_number" in line for line in plan), plan
    assert not any("block" in line and "Seq Scan" in line for line in plan)


def test_an_archive_can_be_pickled_and_is_then_open(filled):
    with pickle.loads(pickle.dumps(filled)) as again:  # noqa: S301
        assert_equal(again.stack("Ecal/digis +", 9), filled.stack("Ecal/digis +", 9))


def test_a_query_that_takes_too_long_is_cut_off(filled, monkeypatch):
    monkeypatch.setenv("ML4AD_STATEMENT_TIMEOUT_S", "1")
    sleep = archive_module.sa.select(archive_module.sa.func.pg_sleep(30))
    with filled._reading() as connection, pytest.raises(TimeoutError, match="took too long"):
        connection.execute(sleep)


def test_what_it_says_of_itself_names_no_password(filled):
    assert re.match(r"Archive\('postgresql.*', 1 datasets, 10 lumisections\)", repr(filled))
    page = filled._repr_html_()
    assert "<table" in page
    assert re.match(r"<div>Archive ml4ad_test_\w+ at [\w./:-]+</div>", page)


# -- commands -------------------------------------------------------------------------------------


def command(*arguments):
    done = CliRunner().invoke(group, list(arguments))
    return done.exit_code, done.stdout.splitlines(), done.stderr, done.exception


def test_commands_go_from_file_to_histogram(archive, small14):
    status, lines, errors, _ = command("index", str(small14), "--dataset", DATASET)
    assert (status, lines[1].split("\t")[:2]) == (0, ["new", DATASET]), errors
    status, lines, errors, _ = command("ingest")
    assert (status, lines[1].split("\t")[0]) == (0, "PROCESSED"), errors
    assert "1 files: 1 PROCESSED" in errors
    with dqmio.open(small14) as file:
        stack = next(file.stacks(kinds="TH2F"))
        n_elements = len(set(file.elements.me))
    for what, rows in {"datasets": 1, "files": 1, "runs": 2, "elements": n_elements}.items():
        status, lines, errors, _ = command("list", what)
        assert (status, len(lines)) == (0, rows + 1), errors
    number = str(stack.ls_numbers[0])
    status, lines, errors, _ = command(
        "show", stack.me, "--run", str(stack.run_number), "--ls", number
    )
    assert (status, len(lines)) == (0, stack.contents[0].size + 1), errors
    values = [float(line.split("\t")[-1] or "nan") for line in lines[1:]]
    assert np.allclose(values, stack.contents[0].ravel(), equal_nan=True, rtol=1e-5)
    status, lines, errors, _ = command("status")
    assert (status, lines[1].split("\t")[:2]) == (0, ["PROCESSED", "1"]), errors
    status, lines, errors, _ = command("forget", str(small14), "--yes")
    assert (status, lines) == (0, ["forgot 10 lumisections"]), errors
    assert len(archive.files()) == 0


def test_commands_fail_where_a_file_does(database_url, tmp_path):
    (tmp_path / "bad.root").write_bytes(b"root")
    assert database_url
    status, lines, errors, _ = command("ingest", str(tmp_path), "--dataset", DATASET)
    assert (status, lines[1].split("\t")[0]) == (1, "BAD"), errors
    status, lines, _, _ = command("status")
    assert (status, "bad.root" in lines[-1]) == (0, True)


def test_a_command_that_asks_for_what_is_not_there_says_so(database_url):
    assert database_url
    status, _, _, error = command("show", "A/b", "--run", "1")
    assert (status, isinstance(error, KeyError)) == (1, True)
    assert "the archive is empty" in str(error)


@pytest.mark.parametrize(
    "arguments",
    [("list", "nothing"), ("list", "runs", "A*"), ("list", "runs", "--run", "1"), ("show", "A/b")],
)
def test_wrong_use_is_told_as_such(arguments):
    assert command(*arguments)[0] == 2


def test_the_database_is_shown_without_its_password(database_url):
    status, lines, errors, _ = command("db", "status")
    assert status == 0, errors
    assert any(line.startswith("schema\t0") for line in lines)
    assert command("db", "url")[1] == [database_url]
    assert command("db", "upgrade")[0] == 0
    assert command("db", "start")[0] == 2
