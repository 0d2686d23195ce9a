"""``ml4ad inspect``: what is in a DQMIO file, without the contents unless one is to be drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ml4ad.cli.show import size, table

if TYPE_CHECKING:
    import pandas as pd

    from ml4ad.dqmio import DQMIOFile


@click.command()
@click.argument("path", metavar="FILE")
@click.option("--me", metavar="PATTERN", help="List the elements that a glob means.")
@click.option("--elements", "all_elements", is_flag=True, help="List all elements.")
@click.option("--lumisections", is_flag=True, help="List all lumisections with their times.")
@click.option("--draw", metavar="ME", help="Draw the histogram of this name.")
@click.option("--run", "run_number", type=int, help="With --draw: the run (default: the first).")
@click.option("--ls", "ls_number", type=int, help="With --draw: one lumisection (default: all).")
@click.option("--dataset", help="The dataset, where the path does not tell it.")
def inspect(
    path: str,
    me: str | None,
    all_elements: bool,
    lumisections: bool,
    draw: str | None,
    run_number: int | None,
    ls_number: int | None,
    dataset: str | None,
) -> None:
    r"""Tell what is in the DQMIO file FILE, a path or a URL.

    \b
    Examples:
      ml4ad inspect file.root
      ml4ad inspect file.root --me 'PixelPhase1/*charge_PXLayer_?'
      ml4ad inspect file.root --draw PixelPhase1/Tracks/charge_PXLayer_1 --ls 12
    """
    from ml4ad import dqmio

    try:
        file = dqmio.open(path, dataset=dataset)
    except ImportError as missing:
        raise click.ClickException(str(missing)) from missing
    with file:
        if draw is not None:
            click.echo(drawn(file, draw, run_number, ls_number))
        elif me is not None or all_elements:
            table(elements(file, me or "*"))
        elif lumisections:
            table(file.lumisections)
        else:
            table(summary(file))
            table(by_subsystem(file))


def summary(file: DQMIOFile) -> pd.DataFrame:
    """A row per fact about the file."""
    import pandas as pd

    from ml4ad.dqmio.names import era_from_path

    seen = file.lumisections
    runs = sorted(file.index.run_number.unique())
    span = f"{runs[0]} to {runs[-1]}" if len(runs) > 1 else "".join(map(str, runs))
    begin, end = seen.begin_time.min(), seen.end_time.max()
    facts = {
        "file": file.path,
        "size": size(file.file_bytes),
        "dataset": file.dataset or "unknown",
        "era": era_from_path(file.dataset) or era_from_path(file.path) or "unknown",
        "release": file.release or "unknown",
        "GUID": file.guid or "none",
        "UUID": file.uuid,
        "runs": f"{len(runs)} ({span})" if runs else "0",
        "lumisections": f"{len(seen)}, {int((seen.n_mes == 0).sum())} of them empty",
        "begin": "" if pd.isna(begin) else f"{begin:%Y-%m-%d %H:%M:%S} UTC",
        "end": "" if pd.isna(end) else f"{end:%Y-%m-%d %H:%M:%S} UTC",
    }
    return pd.DataFrame({"fact": list(facts), "value": list(facts.values())})


def by_subsystem(file: DQMIOFile) -> pd.DataFrame:
    """Number of elements by subsystem (rows) and kind, with the compressed size of each kind."""
    import pandas as pd

    found = file.elements
    subsystem = found.me.str.split("/", n=1).str[0]
    counts = pd.crosstab(subsystem, pd.Categorical(found.kind, _kinds(file), ordered=True))
    counts = counts.assign(all=counts.sum(axis=1)).sort_index()
    counts.loc["all"] = counts.sum()
    sizes = file.sizes.set_index("kind")
    stored = sizes.contents_bytes + sizes.names_bytes
    shown = counts.astype(str)
    shown.loc["size"] = [
        size(int(stored.sum() if kind == "all" else stored[kind])) for kind in counts.columns
    ]
    return shown.rename_axis("subsystem").reset_index()


def _kinds(file: DQMIOFile) -> list[str]:
    return [kind for kind in file.sizes.kind if (file.elements.kind == kind).any()]


def elements(file: DQMIOFile, pattern: str) -> pd.DataFrame:
    """Elements that ``pattern`` means. Raises KeyError if there are none."""
    from ml4ad.dqmio.names import matcher

    found = file.elements
    found = found[[matcher(pattern)(me) for me in found.me]]
    if not len(found):
        raise KeyError(f"no element {pattern!r} in {file.path}; --elements lists all")
    return found


def drawn(file: DQMIOFile, me: str, run_number: int | None, ls_number: int | None) -> str:
    """One histogram as text: of one lumisection, or of all of a run together.

    Raises KeyError if the file does not have it.
    """
    from ml4ad.cli.plot import picture
    from ml4ad.dqmio.names import literal
    from ml4ad.stack import concatenate

    found = list(file.stacks(literal(me), run_number, ls_number))
    if not found:
        where = "" if run_number is None else f" in run {run_number}"
        which = "" if ls_number is None else f", lumisection {ls_number}"
        raise KeyError(f"no histogram {me!r}{where}{which} in {file.path}; --elements lists all")
    first = found[0].run_number
    stacks = [stack for stack in found if stack.run_number == first]
    # What was filled for the whole run is told apart from its lumisections: never summed twice.
    per_ls = [stack for stack in stacks if stack.ls_numbers[-1] > 0] or stacks
    stack = concatenate(
        [s for s in per_ls if s.axes == per_ls[0].axes and s.kind == per_ls[0].kind]
    )
    if ls_number is None and stack.ls_numbers[-1] > 0:
        stack = stack.select(slice(1, None))
    return picture(stack)
