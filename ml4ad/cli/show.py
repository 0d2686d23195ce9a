"""What commands print: tables on a terminal, plain lines in a pipe, progress on standard error."""

from __future__ import annotations

import sys
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


def table(frame: pd.DataFrame, title: str | None = None) -> None:
    """Print a DataFrame: a table on a terminal, else a header line and tab-separated lines."""
    if not sys.stdout.isatty():
        click.echo(lines(list(frame.columns)))
        for row in frame.itertuples(index=False):
            click.echo(lines([_plain(value) for value in row]))
        return
    import pandas as pd
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title)
    for name in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[name])
        drawn.add_column(str(name), justify="right" if numeric else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        drawn.add_row(*(Text(_plain(value)) for value in row))
    Console().print(drawn)


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
