"""``ml4ad demo``: the whole line once."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default="demo")
@click.option(
    "--files",
    multiple=True,
    type=click.Path(exists=True),
    help="DQMIO files or folders of your own, instead of simulated ones; many times.",
)
@click.option("--dataset", help="Of your own files, where their paths do not tell it.")
@click.option("--preset", default="demo", show_default=True, help="Size: small, demo or large.")
@click.option("--seed", default=1, show_default=True, help="Of the simulated detector.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--serve/--no-serve", default=True, help="Open the dashboards at the end.")
def demo(
    folder: Path,
    files: tuple[str, ...],
    dataset: str | None,
    preset: str,
    seed: int,
    workers: int,
    serve: bool,
) -> None:
    """Simulate a detector, take its files in, train, score, draw, and show what was found.

    Everything is kept in FOLDER, also the embedded PostgreSQL, unless ML4AD_DATABASE_URL names
    another. What was done before is not done again. Files of your own are taken in and drawn;
    to learn from them, `ml4ad conditions load` and `ml4ad train` come next.

    \b
    Examples:
      ml4ad demo
      ml4ad demo --no-serve
      ml4ad demo try --files file.root --dataset /ZeroBias/Run2023C-v1/DQMIO --no-serve
    """
    import os

    import pandas as pd

    from ml4ad import connect, settings
    from ml4ad.cli.show import table
    from ml4ad.pipelines import demo as pipeline
    from ml4ad.store import State, server

    # Whatever archive was used before, this one is the folder's own.
    os.environ["ML4AD_DATA_DIR"] = str((folder / "data").absolute())
    with connect() as archive:
        done = pipeline.run(
            archive,
            folder,
            files=files,
            dataset=dataset,
            preset=preset,
            seed=seed,
            workers=workers,
            say=lambda step: click.echo(f"-- {step}", err=True),
        )
        table(archive.datasets(), title="Datasets")
        table(archive.runs(), title="Runs")
    steps = pd.DataFrame(list(done.seconds.items()), columns=["step", "seconds"])
    table(steps.round(1), title="Steps")
    if len(done.incidents):
        shown = ["run_number", "first_ls", "last_ls", "sentence"]
        table(done.incidents[shown], title="Incidents")
    if len(done.faults):
        table(done.faults, title="Faults that were put in")
        click.echo(f"{done.faults['found'].sum()} of {len(done.faults)} faults were found")
        others = len(done.incidents) - int(done.incidents["of_fault"].sum())
        if others:
            click.echo(
                f"{others} of {len(done.incidents)} incidents are not of a fault that was put in: "
                "each model learned from few runs, and runs differ; eight or more show how much"
            )
    refused = done.files[done.files["state"] != State.PROCESSED]
    if len(refused):
        table(refused[["path", "state", "reason"]], title="Files that were not taken in")
    for path in done.pictures:
        click.echo(f"picture: {path}")
    click.echo(f"archive: ML4AD_DATA_DIR={os.environ['ML4AD_DATA_DIR']}")
    nothing = len(refused) == len(done.files)
    if nothing or not serve:
        # Leave nothing running; the next command starts the server again.
        configured = settings.load()
        if configured.database_url is None:
            server.stop(configured.data_dir)
    if nothing:
        raise ValueError(f"none of {len(done.files)} files was taken in")
    if serve:
        from ml4ad.cli import group

        group.main(["dashboards"], prog_name="ml4ad", standalone_mode=False)
