"""What commands print: tables on a terminal, plain lines in a pipe, progress on standard error."""

from __future__ import annotations

import numbers
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import pandas as pd
    from rich.progress import Progress


def fail(error: object) -> None:
    """Print an error as one line on standard error."""
    # str(KeyError) would quote the message.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    line = " ".join(str(text).split()) or type(error).__name__
    click.echo(f"ml4ad: {line}", err=True)


def lines(values: Sequence[object]) -> str:
    """One tab-separated line; tabs and newlines inside a value become spaces."""
    return "\t".join(" ".join(str(value).split()) for value in values)


def size(n_bytes: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} GB"


def table(frame: pd.DataFrame, title: str | None = None) -> None:
    """Print a DataFrame: a table on a terminal, else a header line and tab-separated lines.

    Where a terminal is too narrow, the longest columns are told below each row.
    """
    names = [str(name) for name in frame.columns]
    if not sys.stdout.isatty():
        click.echo(lines(names))
        for row in frame.itertuples(index=False):
            click.echo(lines([_plain(value) for value in row]))
        return
    import pandas as pd
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [
        [_told(name, value) for name, value in zip(names, row, strict=True)]
        for row in frame.itertuples(index=False)
    ]
    right = [pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]
    console = Console()
    columns = zip(names, *rows, strict=True)
    # The frame takes three signs for a column, and one.
    if sum(max(map(len, own)) + 3 for own in columns) + 1 <= console.width:
        drawn = Table(title=title)
        for name, numeric in zip(names, right, strict=True):
            drawn.add_column(name, justify="right" if numeric else "left")
        for told in rows:
            drawn.add_row(*map(Text, told))
        console.print(drawn)
        return
    if title:
        click.echo(click.style(title, italic=True))
    for line in _narrow(names, rows, right, console.width):
        click.echo(line)


def _narrow(
    names: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool], width: int
) -> Iterator[str]:
    """Lines of a table of which the columns that do not fit are told below each row."""
    heads = [re.findall(r"_*[^_]+_?|_+", name) for name in names]
    columns = zip(heads, *rows, strict=True)
    wide = [max(map(len, (*own, *values))) for own, *values in columns]
    there = list(range(len(names)))
    while sum(wide[i] + 2 for i in there) > width + 2 and len(there) > 1:
        there.remove(max(there[1:], key=lambda i: (wide[i], i)))
    below = [i for i in range(len(names)) if i not in there]

    def line(texts: Sequence[str]) -> str:
        cells = zip(there, texts, strict=True)
        return "  ".join(
            text.rjust(wide[i]) if right[i] else text.ljust(wide[i]) for i, text in cells
        ).rstrip()

    height = max(len(heads[i]) for i in there)
    for parts in zip(*([""] * (height - len(heads[i])) + heads[i] for i in there), strict=True):
        yield click.style(line(parts), bold=True)
    for row in rows:
        yield line([row[i] for i in there])
        more = "; ".join(f"{names[i]}: {row[i]}" for i in below if row[i])
        yield from textwrap.wrap(
            more, width, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
        )


def _told(name: str, value: Any) -> str:
    # Programs read pipes; on a terminal people do.
    if name.endswith("bytes") and isinstance(value, numbers.Real) and value == value:
        return size(float(value))
    if isinstance(value, float) and value == value:
        return f"{value:.4g}"
    return " ".join(_plain(value).split())


def _plain(value: Any) -> str:
    import pandas as pd

    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, pd.Timestamp):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return str(value)


@contextmanager
def progress() -> Iterator[Progress]:
    """Progress bars on standard error; silent where that is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        yield bars
