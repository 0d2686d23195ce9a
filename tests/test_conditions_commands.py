"""`ml4ad conditions`, `ml4ad good` and `ml4ad workspaces` on a real database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ml4ad import cli, conditions, store, workspaces
from ml4ad.store import schema

DATASET = "/ZeroBias/Run2024B-PromptReco-v1/DQMIO"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.fixture
def folder(database_url: str, tmp_path: Path) -> Path:
    """Files of an analyst; the archive holds lumisections 1 to 4 of run 7."""
    engine = store.engine(database_url)
    with engine.begin() as connection:
        connection.execute(schema.dataset.insert().values(dataset=DATASET))
        connection.execute(
            schema.file.insert().values(dataset_id=1, path="a", size=1, mtime=1, state="PROCESSED")
        )
        held = [
            {"dataset_id": 1, "file_id": 1, "run_number": 7, "ls_number": ls, "n_mes": 1}
            for ls in (1, 2, 3, 4)
        ]
        connection.execute(schema.lumisection.insert(), held)
    engine.dispose()
    oms = {"run_number": [7, 7, 7], "lumisection_number": [1, 2, 3], "pileup": [30, 40, 10]}
    (tmp_path / "conditions.json").write_text(json.dumps(oms))
    (tmp_path / "golden.json").write_text('{"7": [[2, 9]]}')
    return tmp_path


def test_files_are_loaded_and_good_lumisections_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("conditions", "load", f"{folder}/conditions.json", f"{folder}/golden.json") == 0
    assert "golden golden" in capsys.readouterr().out
    out = folder / "good.json"
    cut = ("--golden", "golden", "--where", "pileup > 25", "--json", str(out))
    assert run("good", DATASET, *cut) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["run_number\tn_good\tranges", "7\t1\t[[2, 2]]"]
    assert "1 of 4 lumisections are good; 1 have no conditions" in printed.err
    assert conditions.ranges.read(out) == {7: [(2, 2)]}
    assert run("conditions", "complete", DATASET, "--expected", "golden") == 0
    complete = capsys.readouterr().out.splitlines()[1].split("\t")
    assert complete == ["7", "4", "8", "1", "0.375", "[[5, 9]]", "list"]
    assert run("good", DATASET, "--golden", "golden") == 0
    assert "7\t3\t[[2, 4]]" in capsys.readouterr().out


def test_what_is_stored_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("conditions", "show", "--run", "7") == 1
    assert "no conditions of run 7" in capsys.readouterr().err
    run("conditions", "load", f"{folder}/conditions.json", f"{folder}/golden.json")
    capsys.readouterr()
    assert run("conditions", "show", "--run", "7", "--all") == 0
    assert "7\t2\t40" in capsys.readouterr().out.splitlines()
    assert run("conditions", "show") == 0
    assert "golden\tgolden\t1\t8" in capsys.readouterr().out


def test_mistakes_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("conditions", "load", f"{folder}/conditions.json")
    capsys.readouterr()
    for arguments, status, words in (
        (("good", DATASET, "--where", "pilup > 25"), 1, "no column 'pilup'; near: pileup"),
        (("good", DATASET, "--golden", "silver"), 1, "'silver'"),
        (("good", "/X/Y/DQMIO"), 1, f"no dataset '/X/Y/DQMIO'; there are {DATASET}"),
        (("conditions", "load", f"{folder}/none.json"), 1, "none.json"),
        (("conditions", "fetch", "oms", "--runs", "7-8"), 1, "stored already: 1 of 2 runs"),
        (("workspaces", "show", "mine"), 1, "no workspace 'mine'; there are csc"),
    ):
        assert run(*arguments) == status
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert words in said[0]
    for arguments in (
        ("conditions", "fetch", "oms", "--runs", "seven"),
        ("conditions", "fetch", "oms", "--runs", "9-7"),
        ("conditions", "fetch", "oms", "--runs", "7", "--dataset", "online"),
        ("conditions", "load", "a.json", "b.json", "--name", "x"),
        ("workspaces", "import"),
    ):
        assert run(*arguments) == 2


def test_workspaces_are_changed_and_carried_over(
    folder: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("workspaces", "add", "mine", "--dataset", "/Z/*", "--element", "Pixel/") == 0
    assert (
        run("workspaces", "edit", "mine", "--element", "*/a+1", "--remove-element", "Pixel/") == 0
    )
    capsys.readouterr()
    assert run("workspaces", "show", "mine") == 0
    assert "mine\telements\t*/a+1" in capsys.readouterr().out
    assert run("workspaces", "export", "mine") == 0
    (folder / "mine.toml").write_text(capsys.readouterr().out)
    assert run("workspaces", "remove", "mine") == 0
    assert run("workspaces", "remove", "csc") == 0
    assert run("workspaces", "import", f"{folder}/mine.toml", "--defaults") == 0
    capsys.readouterr()
    assert run("workspaces", "list") == 0
    listed = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert listed == sorted([*(own.name for own in workspaces.defaults()), "mine"])
    engine = store.engine(database_url)
    assert workspaces.get(engine, "mine") == [workspaces.Workspace("mine", ("/Z/*",), ("*/a+1",))]
    engine.dispose()
