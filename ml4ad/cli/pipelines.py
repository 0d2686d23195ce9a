"""``ml4ad run``, ``chain``, ``runs``, ``rerun``: notebooks by papermill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from ml4ad.cli import show

if TYPE_CHECKING:
    from ml4ad.pipelines import Record

_PARAMETERS = click.option(
    "-p",
    "--parameter",
    "parameters",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="A parameter of the notebook; lists with commas between.",
)
_TIMEOUT = click.option(
    "--timeout", type=float, metavar="SECONDS", help="Longest time that a notebook may take."
)


@click.command()
@click.argument("notebook")
@_PARAMETERS
@_TIMEOUT
@click.option("--help-parameters", is_flag=True, help="Print what the notebook declares, and stop.")
def run(
    notebook: str,
    parameters: tuple[tuple[str, str], ...],
    timeout: float | None,
    help_parameters: bool,
) -> None:
    """Run NOTEBOOK, a path or a name such as ingest, and keep a record of it.

    \b
    ml4ad run ingest -p paths /eos/cms/store/data/Run2024F -p workers 4
    ml4ad run score --help-parameters
    """
    from ml4ad import pipelines
    from ml4ad.pipelines import notebook as notebooks

    read = notebooks.read(notebook)
    if help_parameters:
        show.table(notebooks.table(read), title=read.name)
        return
    with _progress() as on_cell:
        record = pipelines.run(
            read.path, read.parse(dict(parameters)), timeout_s=timeout, on_cell=on_cell
        )
    _tell(record)


@click.command()
@click.argument("notebooks", nargs=-1)
@_PARAMETERS
@_TIMEOUT
@click.option("--job", metavar="NAME", help="Refuse while a run of the job NAME is under way.")
@click.option("--when", help="Moments of the job, as in a crontab: each is run once, anywhere.")
@click.option("--timezone", default="UTC", show_default=True, help="Time zone of these moments.")
def chain(
    notebooks: tuple[str, ...],
    parameters: tuple[tuple[str, str], ...],
    timeout: float | None,
    job: str | None,
    when: str | None,
    timezone: str,
) -> None:
    """Run NOTEBOOKS one after the other: ingest, score and report if none is named.

    Each gets those of the parameters that it declares; the first that fails ends the chain.

    \b
    ml4ad chain -p paths /eos/cms/store/data/Run2024F -p workers 4
    ml4ad chain ingest score --job hourly --when '5 * * * *' -p paths /eos/cms/store/data/Run2024F
    """
    from datetime import UTC, datetime

    from ml4ad import pipelines
    from ml4ad.pipelines.cron import Cron

    if when is not None and job is None:
        raise click.UsageError("--when tells the moments of a job: give --job too")

    steps = notebooks or pipelines.CHAIN
    given = pipelines.plan(steps, dict(parameters), texts=True)
    values = {name: value for _, own in given for name, value in own.items()}
    planned_at = Cron(when, timezone).last(datetime.now(UTC)) if when is not None else None
    origin = pipelines.Origin(job=job, planned_at=planned_at)
    try:
        with _progress() as on_cell:
            records = pipelines.chain(
                values, steps=steps, timeout_s=timeout, on_cell=on_cell, origin=origin
            )
    except pipelines.AlreadyRunError as another:
        # As it should be where several machines keep the same crontab.
        click.echo(another)
        return
    for record in records:
        _tell(record)


@click.command()
@click.argument("run_id", type=int)
@_TIMEOUT
def rerun(run_id: int, timeout: float | None) -> None:
    """Run the notebook of run RUN_ID again, with the same parameters.

    \b
    ml4ad rerun 12
    """
    from ml4ad import pipelines

    with _progress() as on_cell:
        record = pipelines.rerun(run_id, timeout_s=timeout, on_cell=on_cell)
    _tell(record)


@click.group(invoke_without_command=True)
@click.option("--notebook", help="Only of this notebook.")
@click.option("--state", help="Only in this state: running, done, failed, died, lost, ...")
@click.option("--job", help="Only of this job of the schedule.")
@click.option("-n", "--number", type=click.IntRange(min=1), default=20, show_default=True)
@click.pass_context
def runs(
    ctx: click.Context, notebook: str | None, state: str | None, job: str | None, number: int
) -> None:
    """Print the newest runs of notebooks, or one in full.

    \b
    ml4ad runs --state failed
    ml4ad runs show 12
    """
    if ctx.invoked_subcommand is not None:
        return
    from ml4ad.pipelines import records

    with records.opened() as engine:
        found = records.recent(engine, notebook=notebook, state=state, job=job, limit=number)
    show.table(records.table(found), title="Runs")


@runs.command("show")
@click.argument("run_id", type=int)
def show_run(run_id: int) -> None:
    """Print all that is known of run RUN_ID.

    \b
    ml4ad runs show 12
    """
    import pandas as pd

    from ml4ad.pipelines import records

    with records.opened() as engine:
        record = records.find(engine, run_id)
    rows = [(name, value) for name, value in records.described(record).items()]
    show.table(pd.DataFrame(rows, columns=["what", "value"]), title=str(record))


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    with show.progress() as bars:
        task = bars.add_task("cells", total=None)

        def on_cell(cell: int, n_cells: int) -> None:
            bars.update(task, completed=cell - 1, total=n_cells)

        yield on_cell


def _tell(record: Record) -> None:
    click.echo(f"{record}, {record.duration.total_seconds():.1f} s")
    click.echo(record.output)
    click.echo(record.page)
