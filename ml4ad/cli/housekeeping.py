"""``ml4ad retry``, ``compact``, ``export``, ``import``: keeping an archive in order."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("files", nargs=-1, type=click.Path())
def retry(files: tuple[str, ...]) -> None:
    """Let FILES that failed or are bad wait again, or all; `ml4ad ingest` then takes them.

    \b
    Examples:
      ml4ad retry && ml4ad ingest --workers 4
      ml4ad retry /eos/cms/store/data/Run2024F/broken.root
    """
    from ml4ad import connect, ingest

    with connect() as archive:
        paths = [ingest.known_path(archive, each) for each in files] if files else None
        click.echo(f"{len(ingest.retry(archive, paths))} files wait again")


@click.command()
@click.option("--dataset", metavar="NAME", help="Only this dataset.")
@click.option("--run", "run_number", type=int, help="Only this run.")
def compact(dataset: str | None, run_number: int | None) -> None:
    """Merge small blocks of runs that came in many files: the same histograms in fewer rows.

    Ingestion goes on meanwhile, and it can be stopped and run again at any time. A line per run.

    \b
    Examples:
      ml4ad compact
      ml4ad compact --dataset /ZeroBias/Run2024F-PromptReco-v1/DQMIO --run 383218
    """
    import pandas as pd

    from ml4ad import connect
    from ml4ad.cli.show import fail, progress, table
    from ml4ad.ingest.compact import compact as compacted

    with connect() as archive, progress() as bars:
        runs = compacted(archive, dataset, run_number)
        done = list(bars.track(runs, description="runs", total=None))
    columns = ["dataset", "run_number", "n_before", "n_after", "bytes_before", "bytes_after"]
    if done:
        table(pd.DataFrame([[getattr(d, c) for c in columns] for d in done], columns=columns))
    click.echo(
        f"{sum(d.n_before for d in done)} blocks are now {sum(d.n_after for d in done)}", err=True
    )
    damaged = [told for d in done for told in d.damaged]
    for told in damaged:
        fail(f"left as it is: {told}")
    if damaged:
        click.get_current_context().exit(1)


@click.command()
@click.argument("dataset")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--me", default="*", show_default=True, metavar="PATTERN", help="Which elements.")
@click.option("--run", "run_number", type=int, help="Only this run.")
def export(dataset: str, folder: Path, me: str, run_number: int | None) -> None:
    """Write a dataset into FOLDER as Parquet, a file per element and run.

    Any program that reads Parquet can use it, and `ml4ad import` takes it into another archive.

    \b
    Examples:
      ml4ad export /ZeroBias/Run2024F-PromptReco-v1/DQMIO zerobias2024f
      ml4ad export /ZeroBias/Run2024F-PromptReco-v1/DQMIO pixel --me 'PixelPhase1/*' --run 383218
    """
    from ml4ad import connect
    from ml4ad.cli.show import progress
    from ml4ad.ingest.export import export as exported

    with connect() as archive, progress() as bars:
        task = bars.add_task("files", total=None)
        done = exported(
            *(archive, dataset, folder),
            me=me,
            run_number=run_number,
            each=lambda _: bars.advance(task),
        )
    click.echo(
        f"{done.folder}: {done.n_files} files, {done.n_runs} runs, {done.n_ls} lumisections, "
        f"{done.n_histograms} histograms, {done.nbytes / 1e6:.1f} MB"
    )


@click.command(name="import")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--dataset", metavar="NAME", help="Dataset to import as, where not its own.")
@click.option("--replace", is_flag=True, help="Take lumisections from older files that hold them.")
def import_(folders: tuple[Path, ...], dataset: str | None, replace: bool) -> None:
    """Take FOLDERS that `ml4ad export` wrote into the archive; each whole or not at all.

    \b
    Example:
      ml4ad import zerobias2024f
    """
    import pandas as pd

    from ml4ad import connect
    from ml4ad.cli.show import table
    from ml4ad.ingest.bring import import_folder

    columns = ["state", "path", "n_ls", "n_refused", "n_histograms", "reason"]
    with connect() as archive:
        done = [
            import_folder(archive, folder, dataset=dataset, replace=replace) for folder in folders
        ]
    table(pd.DataFrame([[getattr(d, c) for c in columns] for d in done], columns=columns))
    if any(d.state != "PROCESSED" for d in done):
        click.get_current_context().exit(1)
