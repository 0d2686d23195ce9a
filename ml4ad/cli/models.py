"""``ml4ad train``, ``score``, ``models``: what detectors learn, and what they say of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ml4ad.cli import show as shown

if TYPE_CHECKING:
    from distributed import Client

    from ml4ad.archive import Archive


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where the work is done: ``--workers``, ``--scheduler``, ``--cluster``."""
    for option in (
        click.option("--cluster", help="Cluster of that name in the settings file."),
        click.option("--scheduler", metavar="URL", help="Running Dask scheduler."),
        click.option(
            "--workers", type=click.IntRange(1), help="Local processes; else this one alone."
        ),
    ):
        command = option(command)
    return command


@contextmanager
def dask_client(
    workers: int | None, scheduler: str | None, cluster: str | None
) -> Iterator[Client | None]:
    """Dask client for these options; None if there is none of them: this process does the work."""
    if workers is None and scheduler is None and cluster is None:
        yield None
        return
    from ml4ad import cluster as clusters
    from ml4ad import settings

    chosen = settings.load()
    with clusters.client(chosen, workers=workers, scheduler=scheduler, name=cluster) as client:
        yield client


def runs_in(archive: Archive, text: str | None, dataset: str | None) -> list[int] | None:
    """Runs of the archive that ``355862,355870-355999`` means; None if nothing is asked."""
    if text is None:
        return None
    spans = [_span(part) for part in text.split(",")]
    held = sorted(set(archive.runs(dataset)["run_number"].tolist()))
    found = [run for run in held if any(low <= run <= high for low, high in spans)]
    if not found:
        there = f"{held[0]} to {held[-1]}" if held else "none"
        raise KeyError(f"no run {text} in {dataset or 'the archive'}; there are {there}")
    return found


def _span(part: str) -> tuple[int, int]:
    low, dash, high = part.strip().partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()):
        raise click.UsageError(f"runs {part!r}: want 355862, or 355862-355999")
    return int(low), int(high) if dash else int(low)


def parameters_of(texts: tuple[str, ...]) -> dict[str, Any]:
    """Values of ``name=value`` texts: JSON where it is JSON, else the text itself."""
    import json

    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise click.UsageError(f"parameter {text!r}: want name=value")
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values


@click.command()
@click.option("--dataset", required=True, help="Dataset to learn from.")
@click.option("--me", "mes", multiple=True, required=True, help="Pattern of elements; many times.")
@click.option("--name", required=True, help="Name of the model; trained again: a new version.")
@click.option("--runs", help="Runs to learn from: 355862, or 355862,355870-355999.")
@click.option("--golden", help="Certification (stored name, or JSON file) that must list them.")
@click.option("--dcs", help="The same for the detectors' state.")
@click.option("--exclude", help="List of lumisections to leave out.")
@click.option("--where", help="Cut on conditions, as in `ml4ad good`.")
@click.option(
    "--detector", default="default", show_default=True, help="Class of detector, or module.Class."
)
@click.option("--set", "parameters", multiple=True, help="Parameter of the detector: name=value.")
@click.option(
    "--for", "datasets", multiple=True, help="Pattern of the datasets that it will score."
)
@click.option(
    "--false-alarms",
    type=float,
    default=1.0,
    show_default=True,
    help="Nominal number in a shift of 8 hours, of all elements together.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is random.")
@click.option("--activate", is_flag=True, help="Put the model to work at once.")
@cluster_options
def train(
    dataset: str,
    mes: tuple[str, ...],
    name: str,
    runs: str | None,
    golden: str | None,
    dcs: str | None,
    exclude: str | None,
    where: str | None,
    detector: str,
    parameters: tuple[str, ...],
    datasets: tuple[str, ...],
    false_alarms: float,
    seed: int,
    activate: bool,
    workers: int | None,
    scheduler: str | None,
    cluster: str | None,
) -> None:
    """Learn what is normal from known-good lumisections: a new version of a model.

    \b
    Examples:
      ml4ad train --dataset /ZeroBias/Run2024F-PromptReco-v1/DQMIO --me 'PixelPhase1/*' \\
          --runs 382200-382700 --golden golden --where 'pileup > 20' --name pixel --workers 2
      ml4ad train --dataset /ZeroBias/Run2024F-PromptReco-v1/DQMIO --me '*/charge_PXLayer_?' \\
          --golden Cert_Golden.json --name charge --detector NearestReference --activate
    """
    from ml4ad import connect
    from ml4ad.detect import registry
    from ml4ad.detect.train import train as learn

    values = parameters_of(parameters)
    with (
        connect() as archive,
        dask_client(workers, scheduler, cluster) as client,
        shown.progress() as bars,
    ):
        bar = bars.add_task("training", total=None)
        model_id = learn(
            archive,
            list(mes),
            dataset,
            name=name,
            run_number=runs_in(archive, runs, dataset),
            golden=golden,
            dcs=dcs,
            exclude=exclude,
            where=where,
            detector=detector,
            parameters=values,
            datasets=list(datasets) or None,
            false_alarms=false_alarms,
            seed=seed,
            client=client,
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )
        if activate:
            registry.activate(archive, model_id)
        model = registry.get(archive, model_id)
        found = registry.elements(archive, model_id)
    refused = found.loc[found["reason"] != "", ["me", "reason"]]
    if len(refused):
        shown.table(refused, title="Not learned")
    click.echo(
        f"model {model} ({model.state}): {len(found) - len(refused)} elements of "
        f"{model.selection['n_lumisections']} lumisections, {len(refused)} not learned"
    )


@click.command()
@click.option("--run", "runs", help="Runs: 355862, or 355862,355870-355999; else all.")
@click.option("--dataset", help="Dataset; else all that the model is for.")
@click.option("--model", "names", multiple=True, help="Model: name, or name:version; else active.")
@click.option("--all", "everything", is_flag=True, help="Also what is scored already.")
@cluster_options
def score(
    runs: str | None,
    dataset: str | None,
    names: tuple[str, ...],
    everything: bool,
    workers: int | None,
    scheduler: str | None,
    cluster: str | None,
) -> None:
    """Score lumisections that are new, or whose histograms or conditions changed.

    Every lumisection gets a score, or the reason why there is none; then incidents are found.

    \b
    Examples:
      ml4ad score
      ml4ad score --run 383218 --model pixel:3 --all --workers 2
    """
    from ml4ad import connect
    from ml4ad.detect.score import score as judge

    with (
        connect() as archive,
        dask_client(workers, scheduler, cluster) as client,
        shown.progress() as bars,
    ):
        bar = bars.add_task("scoring", total=None)
        done = judge(
            archive,
            list(names) or None,
            dataset=dataset,
            run_number=runs_in(archive, runs, dataset),
            new_only=not everything,
            client=client,
            progress=lambda n, total: bars.update(bar, completed=n, total=total),
        )
    if len(done):
        shown.table(done)
    click.echo(f"{len(done)} runs scored, {int(done['n_incidents'].sum())} incidents")


@click.group(invoke_without_command=True)
@click.pass_context
def models(ctx: click.Context) -> None:
    """Models: list, show, activate, retire, compare. Without a command: list.

    A model is named by its number, its name (the active version, else the newest), or name:version.

    \b
    Examples:
      ml4ad models
      ml4ad models activate pixel:3 --why 'new layer 1'
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@models.command("list")
@click.option(
    "--state", type=click.Choice(["training", "candidate", "active", "retired"]), help="Only these."
)
def list_(state: str | None = None) -> None:
    """List all models, the newest first.

    \b
    Example: ml4ad models list --state active
    """
    from ml4ad import connect
    from ml4ad.detect import registry

    with connect() as archive:
        found = registry.models(archive, state)
    found["patterns"] = found["patterns"].map(" ".join)
    shown.table(found, title="Models")


@models.command()
@click.argument("model")
def show(model: str) -> None:
    """Print what MODEL learned from what, its elements, and the history of its states.

    \b
    Example: ml4ad models show pixel:3
    """
    import pandas as pd

    from ml4ad import connect
    from ml4ad.detect import registry

    with connect() as archive:
        chosen = registry.get(archive, model)
        elements = registry.elements(archive, model)
        history = registry.history(archive, model)
    selection = {name: own for name, own in chosen.selection.items() if name != "lumisections"}
    told = {
        "model": str(chosen),
        **{name: getattr(chosen, name) for name in ("model_id", "state", "detector", "parameters")},
        "elements": " ".join(chosen.patterns),
        "scores": " ".join(chosen.datasets),
        **{f"learned from: {name}": own for name, own in selection.items() if own is not None},
        "runs": " ".join(chosen.selection.get("lumisections", {})),
        **{name: own for name, own in chosen.metrics.items() if not isinstance(own, dict)},
        **{
            name: getattr(chosen, name)
            for name in ("false_alarms", "seed", "code_version", "created_by", "created_at")
        },
    }
    shown.table(pd.DataFrame({"what": list(told), "value": [str(own) for own in told.values()]}))
    shown.table(elements, title="Elements")
    shown.table(history, title="History")


@models.command()
@click.argument("model")
@click.option("--why", default="", help="Reason, for the record.")
@click.option("--false-alarms", type=float, help="New nominal number of false alarms per shift.")
def activate(model: str, why: str, false_alarms: float | None) -> None:
    """Put MODEL to work; an active version of the same name is retired.

    \b
    Example: ml4ad models activate pixel:3 --why 'new layer 1'
    """
    from ml4ad import connect
    from ml4ad.detect import registry

    with connect() as archive:
        changed = registry.activate(archive, model, why=why, false_alarms=false_alarms)
    click.echo(f"model {changed} is active")


@models.command()
@click.argument("model")
@click.option("--why", default="", help="Reason, for the record.")
def retire(model: str, why: str) -> None:
    """Take MODEL from work; its scores stay.

    \b
    Example: ml4ad models retire pixel --why 'too many alarms'
    """
    from ml4ad import connect
    from ml4ad.detect import registry

    with connect() as archive:
        changed = registry.retire(archive, model, why=why)
    click.echo(f"model {changed} is retired")


@models.command()
@click.argument("first")
@click.argument("second")
@click.option("--dataset", required=True, help="Dataset of the run.")
@click.option("--run", "run_number", type=int, required=True, help="Run that both have scored.")
def compare(first: str, second: str, dataset: str, run_number: int) -> None:
    """Compare how models FIRST and SECOND judge the same run.

    \b
    Example: ml4ad models compare pixel:2 pixel:3 --run 383218 \\
        --dataset /ZeroBias/Run2024F-PromptReco-v1/DQMIO
    """
    from ml4ad import connect
    from ml4ad.detect.compare import compare as side_by_side

    with connect() as archive:
        shown.table(side_by_side(archive, first, second, dataset, run_number))
