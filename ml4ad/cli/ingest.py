"""``ml4ad index``, ``ingest``, ``status``, ``forget``: files on their way into the archive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ml4ad.ingest import Found, Ingested

_PATHS = click.argument("paths", nargs=-1, type=click.Path())
_DATASET = click.option(
    "--dataset", metavar="NAME", help="Dataset of the files, where their path does not tell it."
)
_ERA = click.option("--era", help="Era of the files, where dataset and path do not tell it.")


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@_DATASET
@_ERA
def index(paths: tuple[str, ...], dataset: str | None, era: str | None) -> int:
    """Note which DQMIO files there are, without reading their histograms.

    PATHS are files, folders (all *.root below), globs or URLs. Known files are recognised, also
    where they have moved to.

    \b
    Examples:
      ml4ad index /eos/cms/store/data/Run2024F
      ml4ad index 'copies/*.root' --dataset /ZeroBias/Run2024F-PromptReco-v1/DQMIO
    """
    import pandas as pd

    from ml4ad import connect, ingest
    from ml4ad.cli.show import progress, table

    found: list[Found] = []
    with connect() as archive, progress() as bars:
        for each in bars.track(ingest.index(archive, paths, dataset, era), description="files"):
            found.append(each)
    columns = ["outcome", "dataset", "path", "reason"]
    listed = [f for f in found if f.outcome != "known"]
    if listed:
        table(pd.DataFrame([[getattr(f, c) for c in columns] for f in listed], columns=columns))
    _summary([f.outcome for f in found])
    return int(any(f.outcome in ("bad", "failed") for f in found))


@click.command(name="ingest")
@_PATHS
@_DATASET
@_ERA
@click.option("--replace", is_flag=True, help="Take lumisections from older files that hold them.")
@click.option(
    "--memory-mb", type=click.IntRange(1), help="Contents held in memory at a time, in MB."
)
def ingest(
    paths: tuple[str, ...],
    dataset: str | None,
    era: str | None,
    replace: bool,
    memory_mb: int | None,
) -> int:
    """Take DQMIO files into the archive; without PATHS, all that were indexed and wait.

    One file is stored whole or not at all, and what is stored already is left alone: run it again
    after any failure.

    \b
    Examples:
      ml4ad ingest /eos/cms/store/data/Run2024F
      ml4ad ingest file.root --dataset /ZeroBias/Run2024F-PromptReco-v1/DQMIO
      ml4ad ingest
    """
    import pandas as pd

    from ml4ad import connect
    from ml4ad import ingest as ingestion
    from ml4ad.cli.show import progress, table

    done: list[Ingested] = []
    with connect() as archive, progress() as bars:
        file_ids = None
        if paths:
            found = bars.track(
                ingestion.index(archive, paths, dataset, era), description="indexing"
            )
            file_ids = []
            for each in found:
                if each.file_id is None:
                    done.append(ingestion.Ingested(0, each.path, "FAILED", each.reason))
                else:
                    file_ids.append(each.file_id)
        queued = ingestion.enqueue(archive, file_ids, replace=replace)
        others = sorted(set(file_ids or ()) - set(queued))
        for file_id in bars.track(queued, description="ingesting"):
            done.append(
                ingestion.ingest_file(archive.url, file_id, memory_mb=memory_mb, replace=replace)
            )
        done.extend(ingestion.as_it_is(archive, file_id) for file_id in others)
    columns = ["state", "path", "n_ls", "n_refused", "n_histograms", "seconds", "reason"]
    if done:
        rows: list[list[Any]] = [[getattr(d, c) for c in columns] for d in done]
        table(pd.DataFrame(rows, columns=columns))
    _summary([d.state for d in done])
    return int(any(d.state in ("FAILED", "BAD") for d in done))


@click.command()
@click.option(
    "--errors", default=10, show_default=True, help="How many of the last errors to show."
)
def status(errors: int) -> None:
    """Show how many files are in which state, what the archive holds, and the last errors.

    \b
    Example:
      ml4ad status --errors 50
    """
    import pandas as pd

    from ml4ad import connect, ingest
    from ml4ad.cli.show import table

    with connect() as archive:
        table(ingest.states(archive), title="files")
        table(archive.datasets(), title="datasets")
        last = ingest.errors(archive, errors)
        if last:
            columns = ["when", "state", "attempts", "path", "reason"]
            rows = [[getattr(e, c) for c in columns] for e in last]
            table(pd.DataFrame(rows, columns=columns), title="last errors")


@click.command()
@click.argument("name", metavar="DATASET|FILE")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(name: str, yes: bool) -> None:
    """Take a dataset, or a file, out of the archive; the file itself stays where it is.

    \b
    Examples:
      ml4ad forget /ZeroBias/Run2024F-PromptReco-v1/DQMIO
      ml4ad forget broken/file.root --yes
    """
    from ml4ad import connect, ingest

    with connect() as archive:
        datasets = list(archive.datasets().dataset)
        if name in datasets:
            what = f"dataset {name} with all its histograms"
        else:
            what = f"file {name} with its histograms"
            name = ingest.known_path(archive, name)
        if not yes:
            click.confirm(f"Forget {what}?", abort=True, err=True)
        if name in datasets:
            click.echo(f"forgot {ingest.forget_dataset(archive, name)} files")
        else:
            click.echo(f"forgot {ingest.forget_file(archive, name)} lumisections")


def _summary(outcomes: list[str]) -> None:
    counts = [f"{outcomes.count(each)} {each}" for each in dict.fromkeys(outcomes)]
    click.echo(f"{len(outcomes)} files: {', '.join(counts) or 'nothing to do'}", err=True)
