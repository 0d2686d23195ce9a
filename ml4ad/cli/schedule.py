"""``ml4ad schedule``: what runs when; kept here, or printed for other schedulers."""

from __future__ import annotations

from pathlib import Path

import click

from ml4ad.cli import show


@click.group(invoke_without_command=True)
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="ML4AD_SCHEDULE",
    help="The schedule; else schedule.toml beside the settings file.",
)
@click.pass_context
def schedule(ctx: click.Context, path: Path | None) -> None:
    """Print the schedule, change it, or keep it.

    \b
    ml4ad schedule
    ml4ad schedule add hourly ingest score report --when '5 * * * *' -p paths /eos/cms/store/data
    ml4ad schedule run
    """
    from ml4ad.pipelines import schedule as schedules

    ctx.obj = path or schedules.default_path()
    if ctx.invoked_subcommand is None:
        from ml4ad.pipelines import outlook, records

        with records.opened() as engine:
            show.table(outlook.table(engine, schedules.read(ctx.obj)), title=str(ctx.obj))


@schedule.command()
@click.argument("name")
@click.argument("notebooks", nargs=-1, required=True)
@click.option("--when", required=True, help="As in a crontab: '5 * * * *', or @hourly, @daily.")
@click.option(
    "-p",
    "--parameter",
    "parameters",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="A parameter of the notebooks; lists with commas between.",
)
@click.option("--timeout", type=float, metavar="SECONDS", help="Longest time of one notebook.")
@click.pass_obj
def add(
    path: Path,
    name: str,
    notebooks: tuple[str, ...],
    when: str,
    parameters: tuple[tuple[str, str], ...],
    timeout: float | None,
) -> None:
    """Add the job NAME, which runs NOTEBOOKS one after the other; one of that name is replaced.

    \b
    ml4ad schedule add nightly report --when '30 6 * * *' -p workspace pixel
    """
    from ml4ad import pipelines
    from ml4ad.pipelines import schedule as schedules
    from ml4ad.pipelines.cron import Cron

    planned = pipelines.plan(notebooks, dict(parameters), texts=True)
    values = {name: value for _, own in planned for name, value in own.items()}
    cron = Cron(when, schedules.read(path).timezone)
    schedules.add(path, schedules.Job(name, notebooks, cron, values, timeout))


@schedule.command()
@click.argument("name")
@click.pass_obj
def remove(path: Path, name: str) -> None:
    """Remove the job NAME.

    \b
    ml4ad schedule remove nightly
    """
    from ml4ad.pipelines import schedule as schedules

    schedules.remove(path, name)


@schedule.command("print")
@click.argument("form", type=click.Choice(["crontab", "systemd", "kubernetes"]))
@click.pass_obj
def print_(path: Path, form: str) -> None:
    """Print the schedule for those who keep it elsewhere.

    \b
    (crontab -l; ml4ad schedule print crontab) | crontab -
    """
    from ml4ad.pipelines import elsewhere
    from ml4ad.pipelines import schedule as schedules

    click.echo(elsewhere.FORMS[form](schedules.read(path)), nl=False)


@schedule.command()
@click.pass_obj
def run(path: Path) -> None:
    """Keep the schedule until it is interrupted; one process does, on all machines.

    \b
    ml4ad schedule run
    """
    import signal

    from ml4ad.pipelines.keep import Keeper

    keeper = Keeper(path, click.echo)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: keeper.stop())
    keeper.keep()
