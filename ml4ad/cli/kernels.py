"""``ml4ad kernels`` and ``ml4ad lab``: Jupyter with this package's kernel."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.group()
def kernels() -> None:
    """Install the Jupyter kernel, with a database, a cluster and a workspace of its own.

    \b
    ml4ad kernels install --user
    """


@kernels.command()
@click.option("--user", is_flag=True, help="Among this user's kernels.")
@click.option("--prefix", type=click.Path(path_type=Path), help="Under PREFIX/share/jupyter.")
@click.option("--name", default="ml4ad", show_default=True, help="What notebooks ask for.")
@click.option("--display-name", help="What people see; else the name.")
@click.option("--database-url", help="Database of this kernel.")
@click.option("--cluster", help="Cluster of the settings that its notebooks work on.")
@click.option("--workspace", help="Workspace of its notebooks.")
@click.option("--isolated", is_flag=True, help="Ignore packages of PYTHONPATH and of the user.")
def install(
    user: bool,
    prefix: Path | None,
    name: str,
    display_name: str | None,
    database_url: str | None,
    cluster: str | None,
    workspace: str | None,
    isolated: bool,
) -> None:
    """Install the kernel; without --user and --prefix in the environment of this Python.

    \b
    ml4ad kernels install --user --name ml4ad-pixel --display-name 'ml4ad (pixel)' \\
        --database-url postgresql://me@dbod-ml4ad.cern.ch:6600/ml4ad --workspace pixel
    """
    from ml4ad.pipelines import kernels as home

    variables = home.environment(database_url, cluster, workspace, isolated=isolated)
    folder = home.install(variables, name=name, display_name=display_name, user=user, prefix=prefix)
    click.echo(folder)
    if user and (other := home.hiding(folder)) is not None:
        click.echo(
            f"the Jupyter of {sys.prefix} takes {other} first: install without --user, or under "
            "another --name, to have this one there",
            err=True,
        )


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("folder", type=click.Path(path_type=Path), default=Path())
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
def lab(folder: Path, more: tuple[str, ...]) -> None:
    """Open JupyterLab in FOLDER with the kernel; what follows is JupyterLab's.

    \b
    ml4ad lab notebooks --no-browser
    """
    import os

    from ml4ad.pipelines import kernels as home

    command, variables = home.lab(folder, more)
    os.execve(command[0], command, variables)  # noqa: S606 (our own Python)
