"""``ml4ad workspaces``: which elements of which datasets are ingested, shown and trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ml4ad.cli import show as shown
from ml4ad.cli.database import opened

_FIELDS = {"dataset": "datasets", "element": "elements", "shown": "shown", "trained": "trained"}


@click.group()
def workspaces() -> None:
    """Patterns of datasets and elements, by group of people: list, show, change.

    A pattern fits a whole name: * is any text, ? one character; one that ends in / is a folder.

    \b
    ml4ad workspaces list
    ml4ad workspaces add pixel --dataset '/ZeroBias/*/DQMIO' --element PixelPhase1/
    ml4ad workspaces edit pixel --element '*/charge_PXDisk_+1' --remove-element PixelPhase1/
    """


@workspaces.command("list")
def list_() -> None:
    """Print all workspaces.

    \b
    ml4ad workspaces list
    """
    import pandas as pd

    from ml4ad import workspaces as home

    with opened() as engine:
        stored = home.stored(engine)
    rows = [
        {
            "workspace": own.name,
            "description": own.description,
            "n_datasets": len(own.datasets),
            "n_elements": len(own.elements),
            "datasets": " ".join(own.datasets),
        }
        for own in stored
    ]
    columns = ["workspace", "description", "n_datasets", "n_elements", "datasets"]
    shown.table(pd.DataFrame(rows, columns=columns), title="Workspaces")


@workspaces.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the patterns of workspace NAME.

    \b
    ml4ad workspaces show tracker
    """
    from ml4ad import workspaces as home

    with opened() as engine:
        _print(home.get(engine, name)[0])


def _patterns(command: Callable[..., Any]) -> Callable[..., Any]:
    for option, field in reversed(_FIELDS.items()):
        command = click.option(
            f"--{option}", field, multiple=True, help=f"Pattern of {field} to add; many times."
        )(command)
    return command


@workspaces.command()
@click.argument("name")
@_patterns
@click.option("--description", default="", help="One line on what it is.")
def add(name: str, description: str, **patterns: tuple[str, ...]) -> None:
    """Store a new workspace NAME.

    Without --shown or --trained, all elements are.

    \b
    ml4ad workspaces add pixel --dataset '/ZeroBias/*/DQMIO' --element PixelPhase1/
    """
    from ml4ad import workspaces as home

    made = home.Workspace(name, description=description, **patterns)
    with opened() as engine:
        home.add(engine, made)
    _print(made)


@workspaces.command()
@click.argument("name")
@_patterns
@click.option("--remove-dataset", "no_datasets", multiple=True, help="Pattern to remove.")
@click.option("--remove-element", "no_elements", multiple=True, help="Pattern to remove.")
@click.option("--remove-shown", "no_shown", multiple=True, help="Pattern to remove.")
@click.option("--remove-trained", "no_trained", multiple=True, help="Pattern to remove.")
@click.option("--description", help="One line on what it is.")
def edit(name: str, description: str | None, **patterns: tuple[str, ...]) -> None:
    """Add patterns to workspace NAME and remove others.

    \b
    ml4ad workspaces edit tracker --element 'Tracking/*/Chi2oNDF_GenTk' --remove-element SiStrip/
    """
    from ml4ad import workspaces as home

    fields = _FIELDS.values()
    with opened() as engine:
        edited = home.edit(
            engine,
            name,
            add={field: patterns[field] for field in fields if patterns[field]},
            remove={field: patterns[f"no_{field}"] for field in fields if patterns[f"no_{field}"]},
            description=description,
        )
    _print(edited)


@workspaces.command()
@click.argument("name")
def remove(name: str) -> None:
    """Forget workspace NAME; what was ingested for it stays.

    \b
    ml4ad workspaces remove pixel
    """
    from ml4ad import workspaces as home

    with opened() as engine:
        home.remove(engine, name)


@workspaces.command("export")
@click.argument("names", nargs=-1)
def export(names: tuple[str, ...]) -> None:
    """Print workspaces NAMES, or all, as TOML.

    \b
    ml4ad workspaces export tracker > tracker.toml
    """
    from ml4ad import workspaces as home

    with opened() as engine:
        wanted = home.get(engine, *names) if names else home.stored(engine)
    click.echo(home.dumps(wanted), nl=False)


@workspaces.command("import")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--defaults", is_flag=True, help="The workspaces that a new archive has.")
def import_(files: tuple[Path, ...], defaults: bool) -> None:
    """Store the workspaces of TOML FILES, in place of those of their names.

    \b
    ml4ad workspaces import tracker.toml
    ml4ad workspaces import --defaults
    """
    if not files and not defaults:
        raise click.UsageError("nothing to import: name a file, or say --defaults")
    from ml4ad import workspaces as home

    wanted = [own for path in files for own in home.read(path)]
    wanted += home.defaults() if defaults else []
    with opened() as engine:
        home.put(engine, list({own.name: own for own in wanted}.values()))


def _print(own: Any) -> None:
    import pandas as pd

    rows = [
        {"workspace": own.name, "what": field, "pattern": pattern}
        for field in _FIELDS.values()
        for pattern in getattr(own, field)
    ]
    shown.table(pd.DataFrame(rows), title=own.description or own.name)
