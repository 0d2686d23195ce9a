"""What commands print on a terminal of any width, and in a pipe."""

import sys

import click
import pandas as pd
import pytest

from ml4ad.cli import show

TABLE = pd.DataFrame(
    {
        "run_number": [381843, 383612],
        "first_ls": [11, 5],
        "sentence": ["layer_1: 3 bins empty since LS 11; expected 410, seen 0", "hardly high"],
        "packed_bytes": [26_005_817, 12],
        "score": [0.123456789, float("nan")],
    }
)


@pytest.fixture
def printed(capsys, monkeypatch):
    """Lines of the table on a terminal of that width."""

    def of(width, frame=TABLE):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(width))
        show.table(frame, title="Incidents")
        return click.unstyle(capsys.readouterr().out).splitlines()

    return of


def test_a_pipe_gets_plain_lines_with_exact_numbers(capsys):
    show.table(TABLE, title="Incidents")
    head, first, _ = capsys.readouterr().out.splitlines()
    assert head.split("\t") == list(TABLE.columns)
    sentence = TABLE.sentence[0]
    assert first.split("\t") == ["381843", "11", sentence, "26005817", "0.123457"]


def test_a_wide_terminal_gets_a_row_a_line(printed):
    lines = printed(140)
    (row,) = [line for line in lines if "381843" in line]
    for told in ("11", TABLE.sentence[0], "26 MB", "0.1235"):
        assert told in row
    assert "nan" not in "".join(lines)


@pytest.mark.parametrize("width", [30, 40, 60, 80])
def test_what_does_not_fit_is_told_below_its_row(printed, width):
    lines = printed(width)
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert f"sentence: {TABLE.sentence[0]}" in text
    at = [i for i, line in enumerate(lines) if line.strip().startswith(("381843", "383612"))]
    assert "hardly high" in " ".join(lines[at[1] :])
    assert "hardly high" not in " ".join(lines[: at[1]])


def test_heads_of_narrow_columns_are_broken_at_underscores(printed):
    lines = printed(60)
    upper, lower = lines[1:3]
    assert upper.split()[:2] == ["run_", "first_"]
    assert lower.split()[:2] == ["number", "ls"]
    assert printed(10, TABLE.iloc[:0])[1:3] == ["  run_", "number"]
