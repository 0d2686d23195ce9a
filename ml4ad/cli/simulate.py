"""The command ``ml4ad simulate``: write a campaign of a detector that never existed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_HELP_OF_FAULT = (
    "A fault, as key=value,...: kind, me (name or pattern), run, ls (first-last), strength, "
    "x and y (low:high in axis units), module, x_to and y_to (of a swap), sign. Repeatable."
)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", default=1, show_default=True, help="Same seed, same files.")
@click.option(
    "--preset", default="demo", show_default=True, help="small, demo or large: size and elements."
)
@click.option("--era", "--eras", "eras", multiple=True, help="An era, as Run2024F. Repeatable.")
@click.option("--runs", type=int, help="Runs in each era.")
@click.option("--lumisections", type=int, help="Lumisections of each run.")
@click.option("--elements", multiple=True, help="Pattern of elements to make. Repeatable.")
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    help="Primary dataset and processing, as StreamExpress/Express-v1. Repeatable.",
)
@click.option("--fault", "faults", multiple=True, help=_HELP_OF_FAULT)
@click.option(
    "--faults-from",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON file with a list of faults, as objects with the keys of --fault.",
)
@click.option("--random-faults", type=click.IntRange(0), help="Draw so many more from the seed.")
@click.option("--good-runs", default=0, help="First runs of each era without random faults.")
@click.option("--corrupt", default=0, help="Broken files to add.")
@click.option("--files-per-run", default=3, show_default=True)
@click.option("--compression", default="zlib", show_default=True, help="zlib, lzma, lz4, zstd.")
@click.option("--list", "listing", is_flag=True, help="Only list the runs and elements.")
def simulate(
    out: Path,
    seed: int,
    preset: str,
    faults: tuple[str, ...],
    faults_from: Path | None,
    corrupt: int,
    files_per_run: int,
    compression: str,
    listing: bool,
    **options: Any,
) -> None:
    """Write DQMIO files of a simulated detector into the folder OUT, with recorded faults.

    Beside the files stand conditions.json, runs.json and rates.json as of OMS, golden.json and
    dcs.json, and truth.json: which fault is where.

    \b
    Examples:
      ml4ad simulate demo
      ml4ad simulate out --preset small --seed 7 --random-faults 5 --corrupt 2
      ml4ad simulate out --list
      ml4ad simulate out --fault 'kind=hv_off,me=*EBOT digi*,ls=20-60,module=EB+07,strength=0.5'
    """
    import pandas as pd

    from ml4ad import simulate as simulation
    from ml4ad.cli.show import progress, table

    made = simulation.preset_campaign(
        preset, seed, **_changes(options, [*_read(faults_from), *map(_parse, faults)])
    )
    if listing:
        runs = pd.DataFrame(
            [(r.run_number, r.era, r.fill_number, r.n_ls) for r in made.runs],
            columns=["run_number", "era", "fill_number", "n_ls"],
        )
        table(runs, "Runs")
        columns = ["me", "kind", "bins"]
        rows = [
            (e.me, e.kind, " x ".join(str(a.n_bins) for a in e.axes) + " per run" * e.per_run)
            for e in made.elements
        ]
        table(pd.DataFrame(rows, columns=columns), "Elements")
        return
    with progress() as bars:
        task = bars.add_task("blocks of lumisections", total=None)
        record = simulation.generate(
            out,
            made,
            corrupt=corrupt,
            files_per_run=files_per_run,
            compression=compression,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    table(record.summary(), f"{out}: {record.n_bytes / 1e6:.1f} MB")


def _changes(options: dict[str, Any], faults: list[Any]) -> dict[str, Any]:
    """Arguments of a campaign that were asked for, others stay the preset's."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    return given | {"faults": faults} if faults else given


def _parse(text: str) -> Any:
    from ml4ad.simulate import Fault

    return Fault.parse(text)


def _read(path: Path | None) -> list[Any]:
    import json

    from ml4ad.simulate import Fault

    if path is None:
        return []
    try:
        listed = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise ValueError(f"{path}: want a list of faults, each an object")
    return [Fault.from_mapping(item) for item in listed]
