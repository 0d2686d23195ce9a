"""``ml4ad evaluate`` and ``similar``: how well faults are found, and what else looked like one."""

from __future__ import annotations

from pathlib import Path

import click

from ml4ad.cli import show as shown
from ml4ad.cli.models import cluster_options, dask_client, runs_in


@click.command()
@click.option("--dataset", help="Dataset whose good lumisections faults are put into.")
@click.option("--me", "mes", multiple=True, help="Pattern of elements; many times.")
@click.option("--runs", help="Runs: 355862, or 355862,355870-355999; else all.")
@click.option("--golden", help="Certification (stored name, or JSON file) that must list them.")
@click.option("--dcs", help="The same for the detectors' state.")
@click.option("--exclude", help="List of lumisections to leave out.")
@click.option("--where", help="Cut on conditions, as in `ml4ad good`.")
@click.option(
    "--detector",
    "detectors",
    multiple=True,
    help="One more: Name, module.Name, or Name(parameter=value); many times.",
)
@click.option("--others/--no-others", default=True, help="The reference detectors beside yours.")
@click.option(
    "--faults",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Faults of your own, a TOML or JSON file; else the usual ones of each element's kind.",
)
@click.option("--trials", type=click.IntRange(1), default=50, show_default=True, help="Per fault.")
@click.option(
    "--false-alarms",
    type=float,
    default=1.0,
    show_default=True,
    help="Allowed in a shift of 8 hours, of one element.",
)
@click.option(
    "--contamination",
    type=float,
    default=0.0,
    show_default=True,
    help="Share of the lumisections learned from that is bad.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is random.")
@click.option(
    "--again",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Repeat the evaluation.json of a report, and say what differs.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="evaluation",
    show_default=True,
    help="Folder of the report.",
)
@cluster_options
def evaluate(
    dataset: str | None,
    mes: tuple[str, ...],
    runs: str | None,
    golden: str | None,
    dcs: str | None,
    exclude: str | None,
    where: str | None,
    detectors: tuple[str, ...],
    others: bool,
    faults: Path | None,
    trials: int,
    false_alarms: float,
    contamination: float,
    seed: int,
    again: Path | None,
    out: Path,
    workers: int | None,
    scheduler: str | None,
    cluster: str | None,
) -> None:
    """Put faults into good lumisections, count what detectors find, and write a report.

    They learn from the earlier half of the runs and are tested on the other. --out gets
    report.html, all numbers, and evaluation.json, from which --again repeats it.

    \b
    Examples:
      ml4ad evaluate --dataset /ZeroBias/Run2024F-PromptReco-v1/DQMIO --me '*/charge_PXLayer_1' \\
          --golden golden --detector 'sklearn.svm.OneClassSVM(nu=0.01)' --out pixel
      ml4ad evaluate --dataset /ZeroBias/Run2024F-PromptReco-v1/DQMIO --me '*/charge_PXLayer_1' \\
          --golden golden --faults faults.toml
      ml4ad evaluate --again pixel/evaluation.json --out pixel-again
    """
    from ml4ad import connect
    from ml4ad.detect.evaluate import Protocol
    from ml4ad.pipelines import evaluation

    if (again is None) == (dataset is None or not mes):
        raise click.UsageError("want --dataset and --me, or --again")
    if again is not None and faults is not None:
        raise click.UsageError("--again has its own faults: leave --faults out")
    with (
        connect() as archive,
        dask_client(workers, scheduler, cluster) as client,
        shown.progress() as bars,
    ):
        if again is not None:
            plan = evaluation.read(again)
        else:
            assert dataset is not None  # noqa: S101 (checked above; for the type checker)
            plan = evaluation.plan(
                archive,
                list(mes),
                dataset,
                detectors=detectors,
                others=others,
                faults=None if faults is None else evaluation.faults(faults),
                protocol=Protocol(trials, false_alarms, contamination, seed=seed),
                run_number=runs_in(archive, runs, dataset),
                golden=golden,
                dcs=dcs,
                exclude=exclude,
                where=where,
            )
        bar = bars.add_task("evaluating", total=None)
        result = evaluation.carry_out(
            archive,
            plan,
            client=client,
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )
    shown.table(result.summary().reset_index(), title="All elements and faults")
    for me, why in result.refused.items():
        click.echo(f"not evaluated: {me}: {why}")
    click.echo(f"report: {evaluation.write(result, out)}")
    if again is not None:
        told = evaluation.differences(result, again)
        for line in told[:20]:
            click.echo(f"differs: {line}")
        n_numbers = result.table.size + result.detectors.size
        same = "all numbers but times are the same" if not told else f"{len(told)} differ"
        click.echo(f"{n_numbers} numbers, against {again}: {same}")


@click.command()
@click.option("--me", required=True, help="Element; with --ls its full name, else a pattern.")
@click.option("--run", "run_number", type=int, required=True, help="Run number.")
@click.option("--ls", "ls_number", type=int, help="Lumisection; without it whole runs.")
@click.option("--dataset", help="Dataset, where several hold it.")
@click.option("--among", help="Runs to look in: 355862, or 355862,355870-355999; else all.")
@click.option("-n", type=click.IntRange(1), default=10, show_default=True, help="How many.")
@click.option("--beside", default=5, show_default=True, help="Nearest lumisections to leave out.")
@click.option("--scale-free", is_flag=True, help="Whatever the scale of the axis is.")
def similar(
    me: str,
    run_number: int,
    ls_number: int | None,
    dataset: str | None,
    among: str | None,
    n: int,
    beside: int,
    scale_free: bool,
) -> None:
    """Find what else looked like a lumisection of an element, or like a run: the nearest first.

    \b
    Examples:
      ml4ad similar --me PixelPhase1/Tracks/PXBarrel/charge_PXLayer_1 --run 383218 --ls 40
      ml4ad similar --me 'PixelPhase1/*' --run 383218 --among 382000-382999
    """
    from ml4ad import connect, detect
    from ml4ad.pipelines import choice

    with connect() as archive:
        runs = runs_in(archive, among, dataset)
        if ls_number is None:
            chosen = choice.dataset(archive, dataset or "")
            found = detect.similar_runs_in(
                archive, run_number, me=me, dataset=chosen, runs=runs, n=n
            )
        else:
            found = detect.similar_in(
                archive,
                me,
                run_number,
                ls_number,
                dataset=dataset,
                runs=runs,
                n=n,
                beside=beside,
                scale_free=scale_free,
            )
    shown.table(found, title=f"Most like run {run_number}")
    if found.attrs.get("other_binning"):
        left_out = ", ".join(map(str, found.attrs["other_binning"]))
        click.echo(f"left out, of another binning: {left_out}", err=True)
