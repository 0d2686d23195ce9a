"""``ml4ad skim``: a smaller file of chosen elements and lumisections."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click


def _ls_ranges(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> list[list[int]] | None:
    ranges = []
    for text in texts:
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        if found is None or int(found[1]) > int(found[2] or found[1]):
            raise click.BadParameter(f"{text!r}, want A or A-B with A up to B", context, parameter)
        ranges.append([int(found[1]), int(found[2] or found[1])])
    return ranges or None


def _source(text: str, opened: ExitStack) -> Any:
    """The path, or the dataset of the archive where there is no such file."""
    if not re.fullmatch(r"/[^/]+/[^/]+/[A-Z]+", text) or Path(text).exists():
        return text
    from ml4ad import connect

    return opened.enter_context(connect()).source(text)


@click.command()
@click.argument("sources", metavar="IN...", nargs=-1, required=True)
@click.argument("out", metavar="OUT", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--me",
    multiple=True,
    metavar="PATTERN",
    help="Elements to keep, * and ? for any text; may be given several times.  [default: all]",
)
@click.option("--run", "runs", multiple=True, type=click.IntRange(0), help="Runs.  [default: all]")
@click.option(
    "--ls",
    "ls_numbers",
    multiple=True,
    metavar="A[-B]",
    callback=_ls_ranges,
    help="Lumisections, both ends kept; 0 is what a file holds per run.  [default: all]",
)
@click.option("--release", help="CMSSW release to name, where the files are of several.")
@click.option("--compression", default="zlib", show_default=True, help="Or lzma, lz4, zstd, none.")
@click.option("--level", type=int, help="Compression level, 1 to 9.")
@click.option("--overwrite", is_flag=True, help="Replace OUT if it exists.")
def skim(
    sources: tuple[str, ...],
    out: Path,
    me: tuple[str, ...],
    runs: tuple[int, ...],
    ls_numbers: list[list[int]] | None,
    release: str | None,
    compression: str,
    level: int | None,
    overwrite: bool,
) -> None:
    """Write chosen elements and lumisections of DQMIO files IN... into the DQMIO file OUT.

    An IN may also be a dataset of the archive, /Primary/Processed/TIER. Times, and lumisections
    that hold nothing, are kept. What several files hold of a whole run is added up.

    \b
    Example:
      ml4ad skim store_data_*.root pixel.root --me 'PixelPhase1/*' --run 367094 --ls 1-200
      ml4ad skim /ZeroBias/Run2024F-PromptReco-v1/DQMIO ecal.root --me 'Ecal*'
    """
    from ml4ad import dqmio
    from ml4ad.cli.show import progress, table

    with progress() as bars, ExitStack() as opened:
        task = bars.add_task("lumisections", total=None)
        written = dqmio.skim(
            [_source(text, opened) for text in sources],
            out,
            me=me or "*",
            run_number=runs or None,
            ls_numbers=ls_numbers,
            release=release,
            compression=compression,
            level=level,
            overwrite=overwrite,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    table(written)
