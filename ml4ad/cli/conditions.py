"""``ml4ad conditions`` and ``ml4ad good``: what is known of lumisections, and which are good."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml4ad.cli import show as shown
from ml4ad.cli.database import opened

if TYPE_CHECKING:
    import pandas as pd

    from ml4ad.conditions import Loaded

_RUN_COLUMNS = ("fill_number", "last_ls_number", "recorded_lumi", "hlt_key", "start_time")
_LS_COLUMNS = ("pileup", "recorded_lumi", "prescale_name", "beams_stable", "cms_active")


@click.group()
def conditions() -> None:
    """Luminosity, pileup, flags and certification: load, fetch, show.

    \b
    ml4ad conditions load omsdata_Run2024B-v1.json Cert_Collisions2024_Golden.json
    ml4ad conditions fetch oms --runs 378981-379075
    ml4ad conditions show --run 378981
    """


@conditions.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--kind",
    type=click.Choice(["table", "brilcalc", "runregistry", "golden", "muon", "dcs", "bad"]),
    help="What the files are; without it, they tell themselves.",
)
@click.option("--name", help="Name of a certification; without it, the file's.")
@click.option(
    "--lumi-unit", default="/pb", show_default=True, help="Unit of luminosity in a table."
)
def load(files: tuple[Path, ...], kind: str | None, name: str | None, lumi_unit: str) -> None:
    """Take conditions in from FILES: JSON or CSV of OMS, brilcalc, certification JSON.

    \b
    ml4ad conditions load conditions.json golden.json dcs.json
    ml4ad conditions load --kind bad --name pixel bad_pixel.json
    """
    if name is not None and len(files) > 1:
        raise click.UsageError(f"--name is one certification's; there are {len(files)} files")
    from ml4ad import conditions as conditions_module

    loaded = []
    with opened() as engine, shown.progress() as bars:
        for path in bars.track(files, description="loading"):
            loaded.append(
                conditions_module.load(engine, path, kind, name=name, lumi_unit=lumi_unit)
            )
    _print_loaded(loaded)


@conditions.command()
@click.argument("service", type=click.Choice(["oms", "runregistry"]))
@click.option("--runs", required=True, help="Runs: 378981, or 378981,378985-378990.")
@click.option("--path", "paths", multiple=True, help="OMS: rates of this HLT path, with version.")
@click.option("--dataset", help="Run Registry: only this dataset, by its own name.")
def fetch(service: str, runs: str, paths: tuple[str, ...], dataset: str | None) -> None:
    """Ask OMS or Run Registry for runs; without an answer, say what is stored.

    The settings oms_url, runregistry_url, oidc_client_id and oidc_client_secret lead there. The
    exit status is 1 if the service did not answer.

    \b
    ml4ad conditions fetch oms --runs 378981-378985 --path HLT_ZeroBias_v8
    ml4ad conditions fetch runregistry --runs 398903 --dataset /PromptReco/Collisions2025/DQM
    """
    options: dict[str, Any] = {}
    if paths:
        options["paths"] = paths
    if dataset is not None:
        options["dataset"] = dataset
    if (paths and service != "oms") or (dataset and service != "runregistry"):
        raise click.UsageError("--path is for oms, --dataset for runregistry")
    from ml4ad import conditions as conditions_module

    with opened() as engine, warnings.catch_warnings():
        # The note is printed.
        warnings.simplefilter("ignore", conditions_module.OfflineWarning)
        found = conditions_module.load(engine, service, run_numbers=run_numbers(runs), **options)
    _print_loaded([found])
    if not found.live:
        raise RuntimeError(found.note)


@conditions.command()
@click.option("--run", "run_number", type=int, help="One run, with its lumisections.")
@click.option("--all", "everything", is_flag=True, help="All columns that hold anything.")
def show(run_number: int | None, everything: bool) -> None:
    """Print what is stored: the runs and lists, or one run with its lumisections.

    \b
    ml4ad conditions show
    ml4ad conditions show --run 378981 --all
    """
    from ml4ad import conditions as conditions_module

    with opened() as engine:
        runs = conditions_module.runs(engine, run_number=run_number)
        if run_number is None:
            shown.table(_chosen(runs, _RUN_COLUMNS, everything), title="Runs")
            shown.table(conditions_module.certifications(engine), title="Certification")
            return
        lumisections = conditions_module.lumisections(engine, run_number=run_number)
        flags = conditions_module.flags(engine, run_number)
    if runs.empty and lumisections.empty:
        raise KeyError(f"no conditions of run {run_number} are stored: load or fetch them")
    shown.table(_chosen(runs, _RUN_COLUMNS, everything), title=f"Run {run_number}")
    shown.table(_chosen(lumisections, _LS_COLUMNS, everything), title="Lumisections")
    if len(flags):
        shown.table(flags, title="Run Registry")


@conditions.command()
@click.argument("dataset")
@click.option("--run", "run_number", type=int, help="Only this run.")
@click.option("--expected", multiple=True, help="List: a stored name or a JSON file.")
def complete(dataset: str, run_number: int | None, expected: tuple[str, ...]) -> None:
    """Print how much of each run of DATASET the archive has, and what is missing.

    Expected are the lumisections of the lists, else up to the last one that conditions know, else
    up to the last one seen.

    \b
    ml4ad conditions complete /ZeroBias/Run2024B-PromptReco-v1/DQMIO --expected dcs.json
    """
    from ml4ad import conditions as conditions_module

    with opened() as engine:
        found = conditions_module.completeness(engine, dataset, run_number, expected=expected)
    shown.table(found.reset_index(), title=dataset)


@click.command()
@click.argument("dataset")
@click.option("--run", "run_number", type=int, help="Only this run.")
@click.option("--golden", multiple=True, help="Golden list: a stored name or a JSON file.")
@click.option("--dcs", multiple=True, help="DCS-only list: a stored name or a JSON file.")
@click.option("--exclude", multiple=True, help="List of bad ones: a stored name or a JSON file.")
@click.option("--where", help="Cut on conditions, such as 'pileup > 25 and beams_stable'.")
@click.option(
    "--json", "out", type=click.Path(path_type=Path, dir_okay=False), help="Write ranges here."
)
def good(
    dataset: str,
    run_number: int | None,
    golden: tuple[str, ...],
    dcs: tuple[str, ...],
    exclude: tuple[str, ...],
    where: str | None,
    out: Path | None,
) -> None:
    """Print the good lumisections of a DATASET in the archive, as ranges.

    Names in --where are those of `ml4ad conditions show --all`; run.NAME is a run's, and there are
    rate("HLT_ZeroBias") and flag("tracker-pixel"). What is missing does not pass.

    \b
    ml4ad good /ZeroBias/Run2024B-PromptReco-v1/DQMIO --golden Cert_Collisions2024_Golden \\
        --where 'pileup > 25 and beams_stable' --json good.json
    """
    import pandas as pd

    from ml4ad import conditions as conditions_module

    with opened() as engine:
        found = conditions_module.good(
            engine,
            dataset,
            run_number=run_number,
            golden=golden,
            dcs=dcs,
            exclude=exclude,
            where=where,
        )
    kept = conditions_module.as_ranges(found)
    if out is not None:
        conditions_module.ranges.write(kept, out)
    rows = [
        {
            "run_number": run,
            "n_good": conditions_module.ranges.count({run: own}),
            "ranges": _said(own),
        }
        for run, own in kept.items()
    ]
    shown.table(pd.DataFrame(rows, columns=["run_number", "n_good", "ranges"]), title=dataset)
    counts = found.attrs
    click.echo(
        f"{len(found)} of {counts['n_asked']} lumisections are good; "
        f"{counts['n_without_conditions']} have no conditions",
        err=True,
    )


def _said(pairs: list[tuple[int, int]]) -> str:
    return json.dumps([list(pair) for pair in pairs])


def run_numbers(text: str) -> list[int]:
    """Run numbers of a text such as 378981,378985-378990; raises UsageError."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise click.UsageError(f"--runs {text!r}: want 378981 or 378981,378985-378990")
        found += range(int(first), int(last or first) + 1)
    if not found:
        raise click.UsageError(f"--runs {text!r}: no run is in it")
    return found


def _chosen(frame: pd.DataFrame, columns: tuple[str, ...], everything: bool) -> pd.DataFrame:
    kept = frame.dropna(axis="columns", how="all") if everything else frame.loc[:, list(columns)]
    return kept.reset_index()


def _print_loaded(loaded: list[Loaded]) -> None:
    import pandas as pd

    counts = ["n_runs", "n_lumisections", "n_rates", "n_flags", "n_references"]
    rows = [
        {
            "source": own.source,
            **{name: getattr(own, name) for name in counts},
            "certification": ", ".join(own.certifications),
        }
        for own in loaded
    ]
    shown.table(pd.DataFrame(rows))
