"""``ml4ad index``, ``ingest``, ``status``, ``forget``: files on their way into the archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ml4ad.archive import Archive
    from ml4ad.ingest import Found, Ingested

_PATHS = click.argument("paths", nargs=-1, type=click.Path())
_DATASET = click.option(
    "--dataset", metavar="NAME", help="Dataset of the files, where their path does not tell it."
)
_WORKSPACES = click.option(
    "--workspace",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only elements and datasets of this workspace; may be given several times.",
)
_ERA = click.option("--era", help="Era of the files, where dataset and path do not tell it.")


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@_DATASET
@_ERA
@click.option(
    "--quiet",
    default=0.0,
    show_default=True,
    help="Leave alone what changed within so many seconds: it may still be written.",
)
def index(paths: tuple[str, ...], dataset: str | None, era: str | None, quiet: float) -> None:
    """Note which DQMIO files there are, without reading their histograms.

    PATHS are files, folders (all *.root below), globs or URLs. Known files are recognised, also
    where they have moved to.

    \b
    Examples:
      ml4ad index /eos/cms/store/data/Run2024F
      ml4ad index 'copies/*.root' --dataset /ZeroBias/Run2024F-PromptReco-v1/DQMIO
      ml4ad index /eos/cms/store/data --quiet 60
    """
    import pandas as pd

    from ml4ad import connect, ingest
    from ml4ad.cli.show import progress, table

    found: list[Found] = []
    with connect() as archive, progress() as bars:
        looked = ingest.index(archive, paths, dataset, era, quiet)
        found.extend(bars.track(looked, description="files"))
    columns = ["outcome", "dataset", "path", "reason"]
    listed = [f for f in found if f.outcome != "known"]
    if listed:
        table(pd.DataFrame([[getattr(f, c) for c in columns] for f in listed], columns=columns))
    _summary([f.outcome for f in found])
    if any(f.outcome in ("bad", "failed") for f in found):
        click.get_current_context().exit(1)


def _workers(command: Any) -> Any:
    """Options that say who does the work."""
    options = (
        click.option(
            "--workers",
            type=click.IntRange(1),
            help="So many workers: of the cluster, else local processes; default: this one.",
        ),
        click.option(
            "--scheduler", metavar="URL", help="A running Dask scheduler, tcp://host:8786."
        ),
        click.option(
            "--cluster",
            metavar="NAME",
            help="A Dask cluster of the settings file; default: theirs.",
        ),
        click.option(
            "--attempts",
            type=click.IntRange(1),
            default=3,
            show_default=True,
            help="How often a file is tried that fails for a passing reason.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command(name="ingest")
@_PATHS
@_DATASET
@_ERA
@click.option("--replace", is_flag=True, help="Take lumisections from older files that hold them.")
@click.option(
    "--memory-mb", type=click.IntRange(1), help="Contents held in memory at a time, in MB."
)
@_WORKSPACES
@_workers
def ingest(
    paths: tuple[str, ...],
    dataset: str | None,
    era: str | None,
    names: tuple[str, ...],
    replace: bool,
    memory_mb: int | None,
    **who: Any,
) -> None:
    """Take DQMIO files into the archive; without PATHS, all that were indexed and wait.

    One file is stored whole or not at all, and what is stored already is left alone: run it again
    after any failure. With --workspace only its elements are stored; where a file lacks some,
    they are added.

    \b
    Examples:
      ml4ad ingest /eos/cms/store/data/Run2024F
      ml4ad ingest --workspace tracker --workspace ecal
      ml4ad ingest file.root --dataset /ZeroBias/Run2024F-PromptReco-v1/DQMIO
      ml4ad ingest --workers 4
      ml4ad ingest --scheduler tcp://farm:8786
    """
    import pandas as pd

    from ml4ad import connect, workspaces
    from ml4ad import ingest as ingestion
    from ml4ad.cli.show import fail, progress, table

    done: list[Ingested] = []
    with connect() as archive:
        file_ids = None
        if paths:
            with progress() as bars:
                looked = ingestion.index(archive, paths, dataset, era)
                found = list(bars.track(looked, description="indexing", total=None))
            done += [_not_indexed(each) for each in found if each.file_id is None]
            file_ids = [each.file_id for each in found if each.file_id is not None]
        chosen = workspaces.get(archive.engine, *names) if names else None
        queued = ingestion.enqueue(archive, file_ids, replace=replace, workspaces=chosen)
        others = sorted(set(file_ids or ()) - set(queued))
        with (
            _taking(archive, bool(queued), memory_mb=memory_mb, replace=replace, **who) as take,
            _stoppable() as stopped,
        ):
            done.extend(ingestion.shown(archive, queued, take))
        n_left = len(queued) - len(set(queued) & {each.file_id for each in done})
        done.extend(ingestion.as_it_is(archive, file_id) for file_id in others)
    columns = ["state", "path", "n_ls", "n_refused", "n_histograms", "seconds", "reason"]
    if done:
        rows: list[list[Any]] = [[getattr(d, c) for c in columns] for d in done]
        table(pd.DataFrame(rows, columns=columns))
    _summary([d.state for d in done])
    if stopped:
        fail(f"interrupted: {n_left} files wait for the next `ml4ad ingest`")
    if stopped or any(d.state in ("FAILED", "BAD") for d in done):
        click.get_current_context().exit(1)


def _not_indexed(found: Found) -> Ingested:
    from ml4ad.ingest import Ingested

    return Ingested(0, found.path, "FAILED", found.reason)


@contextmanager
def _stoppable() -> Iterator[list[bool]]:
    """Empty, until Ctrl-C ends what is inside; what follows still is to be told."""
    stopped: list[bool] = []
    try:
        yield stopped
    except KeyboardInterrupt:
        stopped.append(True)


@contextmanager
def _taking(
    archive: Archive,
    anything: bool,
    *,
    workers: int | None,
    scheduler: str | None,
    cluster: str | None,
    **options: Any,
) -> Iterator[Callable[..., Iterator[Ingested]]]:
    """Function that takes files in, one after the other here, or on Dask workers."""
    from functools import partial

    from ml4ad import ingest, settings
    from ml4ad.cluster import client

    if scheduler is not None and cluster is not None:
        raise click.UsageError("--scheduler and --cluster: want one of them")
    configured = settings.load()
    # No worker is asked for where there is nothing to do.
    if not (anything and (workers or scheduler or cluster or configured.cluster)):
        yield partial(ingest.in_turn, archive, **options)
        return
    with client(configured, workers=workers, scheduler=scheduler, name=cluster) as connected:
        yield partial(ingest.ingest_parallel, archive, connected, **options)


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@_DATASET
@_ERA
@click.option("--quiet", default=5.0, show_default=True, help="Seconds a file must not change.")
@click.option("--every", default=2.0, show_default=True, help="Seconds between two looks.")
@click.option("--for", "lasting", type=float, help="Seconds to go on for; default: until Ctrl-C.")
@_WORKSPACES
@_workers
def watch(
    paths: tuple[str, ...],
    dataset: str | None,
    era: str | None,
    names: tuple[str, ...],
    quiet: float,
    every: float,
    lasting: float | None,
    **who: Any,
) -> None:
    """Take new DQMIO files in as they arrive below PATHS, once they have stopped growing.

    Of several that watch the same PATHS one works and the others stand by. A line per file.

    \b
    Example:
      ml4ad watch /eos/cms/store/data/Run2024F --workers 2
    """
    import time

    from ml4ad import connect, workspaces
    from ml4ad.cli.show import lines
    from ml4ad.ingest import enqueue
    from ml4ad.ingest import watch as watch_paths

    end = None if lasting is None else time.monotonic() + lasting
    with connect() as archive, _taking(archive, True, **who) as take:
        chosen = workspaces.get(archive.engine, *names) if names else None
        arriving = watch_paths(
            *(archive, paths),
            lambda file_ids: take(enqueue(archive, file_ids, workspaces=chosen)),
            dataset=dataset,
            era=era,
            quiet_s=quiet,
            every_s=every,
            going=lambda: end is None or time.monotonic() < end,
        )
        for each in arriving:
            outcome = getattr(each, "outcome", None) or getattr(each, "state", "")
            click.echo(lines([outcome, each.path, each.reason]))


@click.command()
@click.option(
    "--errors", default=10, show_default=True, help="How many of the last errors to show."
)
def status(errors: int) -> None:
    """Show how many files are in which state, how fast they go, what is held, the last errors.

    \b
    Example:
      ml4ad status --errors 50
    """
    import pandas as pd

    from ml4ad import connect, ingest
    from ml4ad.cli.show import table
    from ml4ad.ingest import pace

    with connect() as archive:
        ingest.release_orphans(archive)
        table(ingest.states(archive), title="files")
        table(pace.rates(archive), title="taken in")
        _print_size(pace.waiting(archive), pace.database_bytes(archive))
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


def _print_size(waiting: dict[str, Any], nbytes: int) -> None:
    import pandas as pd

    from ml4ad.cli.show import table

    row = {
        "database_bytes": nbytes,
        **{f"waiting_{name}": value for name, value in waiting.items()},
    }
    table(pd.DataFrame([row]), title="database, and what waits")


def _summary(outcomes: list[str]) -> None:
    counts = [f"{outcomes.count(each)} {each}" for each in dict.fromkeys(outcomes)]
    click.echo(f"{len(outcomes)} files: {', '.join(counts) or 'nothing to do'}", err=True)
