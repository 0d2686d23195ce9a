"""``ml4ad list``, ``show``, ``draw``: what the archive holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import pandas as pd

    from ml4ad.stack import HistogramStack

_DATASET = click.option("--dataset", help="Dataset, where several hold what is asked for.")
_RUN = click.option("--run", "run_number", type=int, help="Run number.")


@click.command(name="list")
@click.argument(
    "what", type=click.Choice(["datasets", "files", "runs", "lumisections", "elements", "scalars"])
)
@click.argument("pattern", default="*")
@_DATASET
@_RUN
def list_(what: str, pattern: str, dataset: str | None, run_number: int | None) -> None:
    """List what the archive holds; PATTERN (a glob) chooses elements and scalars.

    \b
    Examples:
      ml4ad list datasets
      ml4ad list runs --dataset /ZeroBias/Run2024F-PromptReco-v1/DQMIO
      ml4ad list elements '*/charge_PXLayer_?' --run 383218
    """
    from ml4ad import connect
    from ml4ad.cli.show import table

    if what not in ("elements", "scalars") and pattern != "*":
        raise click.UsageError(f"a pattern chooses elements and scalars, not {what}")
    if what not in ("lumisections", "elements", "scalars") and run_number is not None:
        raise click.UsageError(f"--run chooses lumisections, elements and scalars, not {what}")
    if what == "datasets" and dataset is not None:
        raise click.UsageError("--dataset does not go with datasets")
    with connect() as archive:
        if what == "datasets":
            frame = archive.datasets()
        elif what == "files":
            frame = archive.files(dataset)
        elif what == "runs":
            frame = archive.runs(dataset)
        elif what == "lumisections":
            frame = archive.lumisections(dataset, run_number)
        elif what == "elements":
            frame = archive.elements(pattern, dataset, run_number)
        else:
            frame = archive.scalars(pattern, run_number, dataset)
    table(frame)


@click.command()
@click.argument("me")
@click.option("--run", "run_number", type=int, required=True, help="Run number.")
@click.option("--ls", "ls_number", type=int, help="One lumisection, with its bins.")
@_DATASET
def show(me: str, run_number: int, ls_number: int | None, dataset: str | None) -> None:
    """Print one element of one run: a line per lumisection, or the bins of one.

    \b
    Examples:
      ml4ad show PixelPhase1/Tracks/PXBarrel/charge_PXLayer_1 --run 383218
      ml4ad show PixelPhase1/Tracks/PXBarrel/charge_PXLayer_1 --run 383218 --ls 12
    """
    from ml4ad import connect
    from ml4ad.cli.show import table

    with connect() as archive:
        stack = archive.stack(me, run_number, dataset, ls_number)
    click.echo(repr(stack), err=True)
    table(_lumisections(stack) if ls_number is None else _bins(stack))


@click.command()
@click.argument("me")
@click.option("--run", "run_number", type=int, required=True, help="Run number.")
@click.option("--ls", "ls_number", type=int, help="One lumisection; without it all together.")
@click.option("-o", "--output", default="ml4ad.png", show_default=True, type=click.Path())
@_DATASET
def draw(me: str, run_number: int, ls_number: int | None, output: str, dataset: str | None) -> None:
    """Draw one element of one run into a picture (.png, .pdf, .svg).

    \b
    Example:
      ml4ad draw PixelPhase1/Tracks/PXBarrel/charge_PXLayer_1 --run 383218 --ls 12 -o charge.pdf
    """
    from ml4ad import connect, pictures

    with connect() as archive:
        stack = archive.stack(me, run_number, dataset, ls_number)
    pictures.save(pictures.draw(stack), output)
    click.echo(output)


def _lumisections(stack: HistogramStack) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    values = stack.values().reshape(len(stack), -1).astype(np.float64)
    columns = {"ls_number": stack.ls_numbers, "entries": stack.entries}
    if stack.is_profile:
        # A bin without entries has no mean.
        return pd.DataFrame({**columns, "filled_bins": np.isfinite(values).sum(axis=1)})
    everything = stack.values(flow=True).reshape(len(stack), -1)
    total = everything.sum(axis=1, dtype=np.float64)
    inside = values.sum(axis=1)
    return pd.DataFrame({**columns, "sum": inside, "flow": total - inside})


def _bins(stack: HistogramStack) -> pd.DataFrame:
    """A row per bin, flow included: the limits on each axis, the label, and the value."""
    import numpy as np
    import pandas as pd

    values = stack.values(flow=True)[0]
    places = np.indices(values.shape).reshape(values.ndim, -1)
    columns: dict[str, object] = {}
    for name, axis, place in zip("xyz", stack.axes, places, strict=False):
        edges = np.concatenate(([-np.inf], axis.edges, [np.inf]))
        columns |= {f"{name}_low": edges[place], f"{name}_high": edges[place + 1]}
        if axis.labels:
            columns[f"{name}_label"] = np.array(["underflow", *axis.labels, "overflow"])[place]
    return pd.DataFrame({**columns, "value": values.ravel()})
