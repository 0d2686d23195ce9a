"""``ml4ad inspect`` tells what is in a file, and draws what is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml4ad import HistogramStack, dqmio
from ml4ad.cli import main
from ml4ad.cli.plot import picture
from ml4ad.dqmio.baskets import Branch
from ml4ad.stack import Axis

SMALL = str(Path(__file__).parent / "data" / "small14.root")


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Status, output and errors of ``ml4ad inspect``."""
    with pytest.raises(SystemExit) as left:
        main(["inspect", *arguments])
    told = capsys.readouterr()
    return int(left.value.code or 0), told.out, told.err


def test_the_summary_tells_what_the_file_is(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = ran(capsys, SMALL, "--dataset", "/ZeroBias/Run2023C-PromptReco-v4/DQMIO")
    assert status == 0
    facts = dict(line.split("\t", 1) for line in out.splitlines())
    assert facts["dataset"] == "/ZeroBias/Run2023C-PromptReco-v4/DQMIO"
    assert facts["era"] == "Run2023C"
    assert facts["release"] == "CMSSW_13_0_5"
    assert facts["runs"] == "2 (367000 to 367001)"
    assert facts["lumisections"] == "10, 1 of them empty"
    assert facts["A"].split("\t")[-1] == "40"
    assert facts["all"].split("\t")[-1] == "50"


def test_a_pattern_lists_elements(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys, SMALL, "--me", "A/2/th2f???")
    assert [line.split("\t")[:2] for line in out.splitlines()[1:]] == [
        ["A/2/th2fvar", "TH2F"],
        ["A/2/th2flab", "TH2F"],
    ]
    _, out, _ = ran(capsys, SMALL, "--elements")
    assert len(out.splitlines()) == 51
    _, out, _ = ran(capsys, SMALL, "--lumisections")
    assert len(out.splitlines()) == 11


def test_no_contents_are_read_for_that(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    pieces = Branch.pieces

    def watched(self: Branch, *arguments: object) -> object:
        read.append(self.name)
        return pieces(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Branch, "pieces", watched)
    ran(capsys, SMALL)
    ran(capsys, SMALL, "--me", "*")
    assert set(read) == {"FullName", "ReleaseVersion"}


def test_a_histogram_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = ran(capsys, SMALL, "--draw", "A/B/plain", "--run", "367001", "--ls", "2")
    assert status == 0
    assert out.splitlines()[1] == "plain · TH1F, run 367001, LS 2, 300 entries"
    assert "█" in out
    _, out, _ = ran(capsys, SMALL, "--draw", "A/B/labels")
    assert "deux été │ 0" in out
    _, out, _ = ran(capsys, SMALL, "--draw", "A/B/plain", "--ls", "0")
    assert "whole run" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--me", "Z/*"), "no element 'Z/*'"),
        (("--draw", "A/B/none"), "no histogram 'A/B/none'"),
        (("--draw", "A/B/plain", "--run", "1"), "no histogram 'A/B/plain' in run 1"),
        (("--draw", "A/B/plain", "--ls", "99"), "no histogram 'A/B/plain', lumisection 99"),
    ],
)
def test_what_is_not_there_is_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, error = ran(capsys, SMALL, *arguments)
    assert status == 1
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_file_that_is_none_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.root").write_bytes(b"none")
    for path in (tmp_path, tmp_path / "x.root", tmp_path / "absent.root", "nonsense://x"):
        status, _, error = ran(capsys, str(path))
        assert status == 1
        assert len(error.splitlines()) == 1
        assert "Traceback" not in error


def test_every_histogram_of_the_file_can_be_drawn() -> None:
    with dqmio.open(SMALL) as file:
        for stack in file.stacks():
            lines = picture(stack, 80).splitlines()
            assert lines[0] == stack.me
            assert max(map(len, lines[2:])) <= 80


def test_the_highest_column_is_that_of_the_highest_bin() -> None:
    values = np.zeros((1, 1000))
    values[0, 500] = 7
    stack = HistogramStack.from_arrays(
        values, Axis.regular(1000, 0, 1), ls_numbers=[1], run_number=1, me="A/b"
    )
    lines = picture(stack, 61).splitlines()
    bars = [line for line in lines if "█" in line]
    assert len(bars) == 16
    assert {line.index("█") for line in bars} == {11 + 25}
