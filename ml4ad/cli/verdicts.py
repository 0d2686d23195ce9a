"""``ml4ad incidents``, ``verdict``, ``certify``: what is wrong, what people say, what is good."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml4ad.cli import show as shown
from ml4ad.cli.models import runs_in

if TYPE_CHECKING:
    from ml4ad.conditions.ranges import Ranges

_COLUMNS = ("incident_id", "run_number", "first_ls", "last_ls", "open", "n_elements", "sentence")


@click.command()
@click.option("--run", "runs", help="Runs: 355862, or 355862,355870-355999; else all.")
@click.option("--dataset", help="Dataset.")
@click.option("--model", "names", multiple=True, help="Model: name, or name:version; else active.")
@click.option("--me", help="Full name of an element that shows it.")
def incidents(
    runs: str | None, dataset: str | None, names: tuple[str, ...], me: str | None
) -> None:
    """Print what went wrong in runs: where, since when, how strong; the clearest first.

    \b
    Example: ml4ad incidents --run 383218
    """
    from ml4ad import connect
    from ml4ad.detect import alarms

    with connect() as archive:
        found = alarms.incidents(
            archive,
            runs_in(archive, runs, dataset),
            dataset=dataset,
            model=list(names) or None,
            me=me,
        )
    shown.table(found[list(_COLUMNS)], title="Incidents")


@click.group()
def verdict() -> None:
    """What people say of lumisections; it stands over the detectors', and is never changed.

    \b
    Examples:
      ml4ad verdict add --run 383218 --ls 40-80 bad --why 'layer 1 module off'
      ml4ad verdict list --run 383218
    """


@verdict.command()
@click.argument("said", type=click.Choice(["good", "bad", "known", "not assessed", "seen"]))
@click.option("--run", "run_number", type=int, required=True, help="Run number.")
@click.option("--ls", "lumisections", required=True, help="Lumisections: 213, or 1-5,213-260.")
@click.option("--why", default="", help="Reason; wanted for bad and known.")
@click.option("--dataset", default="", help="Only of this dataset.")
@click.option("--workspace", default="", help="Only of this workspace's elements.")
@click.option("--me", default="", help="Only of this element.")
@click.option("--incident", "incident_id", type=int, help="Incident that this answers to.")
@click.option("--by", help="Who says so; else the user of this process.")
def add(
    said: str,
    run_number: int,
    lumisections: str,
    why: str,
    dataset: str,
    workspace: str,
    me: str,
    incident_id: int | None,
    by: str | None,
) -> None:
    """Say that lumisections are good, bad, known, not assessed, or seen. A later word counts.

    Known: the alarm is explained, and does not make it bad. Seen: nothing is judged.

    \b
    Example: ml4ad verdict add bad --run 383218 --ls 40-80 --why 'layer 1 module off'
    """
    from ml4ad import connect
    from ml4ad import verdict as verdicts

    with connect() as archive:
        numbers = verdicts.add(
            archive,
            run_number,
            [_pair(part) for part in lumisections.split(",")],
            said,
            why=why,
            dataset=dataset,
            workspace=workspace,
            me=me,
            incident_id=incident_id,
            by=by,
        )
    click.echo(f"kept as {', '.join(map(str, numbers))}")


def _pair(part: str) -> tuple[int, int]:
    low, dash, high = part.strip().partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()):
        raise click.UsageError(f"lumisections {part!r}: want 213, or 213-260")
    return int(low), int(high) if dash else int(low)


@verdict.command("list")
@click.option("--run", "runs", help="Runs: 355862, or 355862,355870-355999; else all.")
@click.option("--dataset", help="Leave out what was said of other datasets only.")
@click.option("--workspace", help="Leave out what was said of other workspaces only.")
def list_(runs: str | None, dataset: str | None, workspace: str | None) -> None:
    """Print all that people said, in the order in which they said it.

    \b
    Example: ml4ad verdict list --run 383218
    """
    from ml4ad import connect
    from ml4ad import verdict as verdicts

    with connect() as archive:
        wanted = runs_in(archive, runs, dataset)
        shown.table(verdicts.list_(archive, wanted, workspace=workspace, dataset=dataset))


@click.command()
@click.option("--dataset", required=True, help="Dataset.")
@click.option("--run", "runs", help="Runs: 355862, or 355862,355870-355999; else all.")
@click.option("--workspace", help="Only this workspace's elements count.")
@click.option("--model", "names", multiple=True, help="Model: name, or name:version; else active.")
@click.option("--golden", help="Only lumisections of this list (stored name, or JSON file).")
@click.option("--dcs", help="The same for the detectors' state.")
@click.option("--min-lumi", type=float, help="Least recorded luminosity of a lumisection, 1/ub.")
@click.option(
    "--min-assessed",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Part of the elements with a model that a good lumisection must have a score of.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the good ones, as golden JSON.")
@click.option("--bad", type=click.Path(path_type=Path), help="Write the bad ones, as JSON.")
@click.option("--report", type=click.Path(path_type=Path), help="Write all, with the reasons.")
@click.option("--compare", help="List (stored name, or JSON file) to tell the differences from.")
def certify(
    dataset: str,
    runs: str | None,
    workspace: str | None,
    names: tuple[str, ...],
    golden: str | None,
    dcs: str | None,
    min_lumi: float | None,
    min_assessed: float,
    out: Path | None,
    bad: Path | None,
    report: Path | None,
    compare: str | None,
) -> None:
    """Certify lumisections: good, bad, or not assessed, each with its reason.

    \b
    Examples:
      ml4ad certify --dataset /ZeroBias/Run2024F-PromptReco-v1/DQMIO --golden golden --out Cert.json
      ml4ad certify --dataset /ZeroBias/Run2024F-PromptReco-v1/DQMIO --run 383218 --compare golden
    """
    from ml4ad import connect
    from ml4ad import verdict as verdicts

    with connect() as archive:
        found = verdicts.certification(
            archive,
            dataset,
            runs_in(archive, runs, dataset),
            workspace=workspace,
            golden=golden,
            dcs=dcs,
            min_lumi=min_lumi,
            model=list(names) or None,
            min_assessed=min_assessed,
        )
        differs = None if compare is None else verdicts.difference(archive, found, compare)
    if out is not None:
        found.write(out)
        if not found.good:
            click.echo(f"{out}: no lumisection is good, for the reasons below", err=True)
    if bad is not None:
        found.write(bad, "bad")
    if report is not None:
        report.write_text(found.to_json() + "\n", encoding="utf-8")
    shown.table(found.summary(), title="Lumisections")
    for state in ("bad", "not assessed"):
        reasons = found.reasons(state)
        if len(reasons):
            shown.table(reasons, title=state.capitalize())
    if differs is not None:
        shown.table(_as_table(differs), title=f"Good here, and in {compare}")


def _as_table(differs: dict[str, Ranges]) -> Any:
    import pandas as pd

    from ml4ad.conditions import ranges

    rows = [
        {"what": what, "n_ls": ranges.count(own), "lumisections": ranges.dumps(own)}
        for what, own in differs.items()
    ]
    return pd.DataFrame(rows)
