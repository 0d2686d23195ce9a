"""The whole line once: a detector that never existed, its files, models, incidents and pictures."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ml4ad import cluster, ingest, pictures, settings, simulate
from ml4ad.archive import Archive
from ml4ad.conditions import load as load_conditions
from ml4ad.detect import registry
from ml4ad.detect.alarms import incidents
from ml4ad.detect.score import score
from ml4ad.detect.train import train
from ml4ad.dqmio.names import parse_dataset
from ml4ad.pipelines import report
from ml4ad.store import State

#: Models that the demo trains are called so, with the era behind it.
MODEL = "demo"


@dataclass
class Demo:
    """What the demo did: seconds by step, and what there is to see.

    ``incidents`` as `detect.alarms.incidents` gives them, and ``of_fault``: whether they are of a
    fault that was put in (not for files of your own); ``faults`` has a row per fault that was
    put in, with ``found``: whether an incident of its run overlaps its lumisections and names one
    of its elements. It is empty for files of your own.
    """

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    files: pd.DataFrame = field(default_factory=pd.DataFrame)
    incidents: pd.DataFrame = field(default_factory=pd.DataFrame)
    faults: pd.DataFrame = field(default_factory=pd.DataFrame)
    pictures: list[Path] = field(default_factory=list)


def run(
    archive: Archive,
    folder: str | os.PathLike[str],
    *,
    files: Sequence[str | os.PathLike[str]] = (),
    dataset: str | None = None,
    preset: str = "demo",
    seed: int = 1,
    workers: int = 2,
    say: Callable[[str], object] = lambda _text: None,
) -> Demo:
    """Simulate, index, ingest, train, score and draw; what was done before is not done again.

    ``files`` are DQMIO files or folders of your own instead of simulated ones: these are ingested,
    as of ``dataset`` if it is given, and drawn. ``say`` is told each step.
    Raises ValueError for an unknown preset, OSError if the folder cannot be written.
    """
    done = Demo(Path(folder))
    done.folder.mkdir(parents=True, exist_ok=True)
    sources: list[str | os.PathLike[str]] = list(files)
    if not sources:
        campaign = done.folder / "files"
        if not (campaign / "truth.json").exists():
            with _timed(done, "simulate", say):
                simulate.generate(campaign, simulate.preset_campaign(preset, seed))
        sources = [campaign / "store"]
    with cluster.client(settings.load(), workers=workers) as client:
        with _timed(done, "index", say):
            found = list(ingest.index(archive, sources, dataset=dataset))
        with _timed(done, "ingest", say):
            numbers = [f.file_id for f in found if f.file_id is not None]
            taken = list(ingest.ingest_parallel(archive, client, numbers))
        done.files = archive.files()
        if not files:
            campaign = done.folder / "files"
            with _timed(done, "conditions", say):
                for name in ("conditions", "runs", "rates", "golden", "dcs"):
                    load_conditions(archive, campaign / f"{name}.json")
            if taken or not len(registry.models(archive, "active")):
                _learn(archive, client, done, say)
            done.incidents = incidents(archive)
            truth = json.loads((campaign / "truth.json").read_text())
            done.faults = compared(truth, done.incidents)
            done.incidents["of_fault"] = of_faults(truth, done.incidents)
    with _timed(done, "draw", say):
        done.pictures = list(_draw(archive, done))
    return done


@dataclass(frozen=True)
class _PutIn:
    """A fault of a simulation's truth."""

    run_number: int
    kind: str
    mes: tuple[str, ...]
    first_ls: int
    last_ls: int

    def is_seen_in(self, incident: dict[Any, Any]) -> bool:
        """Whether an incident of its run overlaps it and names one of its elements."""
        return bool(
            incident["run_number"] == self.run_number
            and incident["first_ls"] <= self.last_ls
            and incident["last_ls"] >= self.first_ls
            and {incident["me"], *incident["mes"]} & set(self.mes)
        )


def _put_in(truth: dict[str, Any]) -> list[_PutIn]:
    by_number: dict[int, list[dict[str, Any]]] = {}
    for effect in truth["faults"]:
        by_number.setdefault(effect["fault"], []).append(effect)
    out = []
    for effects in by_number.values():
        spans = [span for effect in effects for span in effect["lumisections"]]
        first, last = min(low for low, _ in spans), max(high for _, high in spans)
        mes = tuple(effect["me"] for effect in effects)
        out.append(_PutIn(effects[0]["run_number"], effects[0]["kind"], mes, first, last))
    return out


def compared(truth: dict[str, Any], found: pd.DataFrame) -> pd.DataFrame:
    """The faults of a simulation's truth, each with whether an incident names it.

    Columns: run_number, kind, me (the first element), first_ls, last_ls, found.
    """
    seen = found.to_dict("records")
    rows = [
        (
            *(fault.run_number, fault.kind, fault.mes[0], fault.first_ls, fault.last_ls),
            any(fault.is_seen_in(row) for row in seen),
        )
        for fault in _put_in(truth)
    ]
    columns = ["run_number", "kind", "me", "first_ls", "last_ls", "found"]
    return pd.DataFrame(rows, columns=columns)


def of_faults(truth: dict[str, Any], found: pd.DataFrame) -> list[bool]:
    """Whether each incident is of one of the truth's faults."""
    faults = _put_in(truth)
    return [any(fault.is_seen_in(row) for fault in faults) for row in found.to_dict("records")]


@contextmanager
def _timed(done: Demo, step: str, say: Callable[[str], object]) -> Iterator[None]:
    say(step)
    started = time.monotonic()
    yield
    done.seconds[step] = time.monotonic() - started


def _learn(archive: Archive, client: Any, done: Demo, say: Callable[[str], object]) -> None:
    # A model per dataset and era, of all runs but the last, which it then judges.
    runs = {
        str(dataset): numbers["run_number"].tolist()
        for dataset, numbers in archive.runs().groupby("dataset")
    }
    with _timed(done, "train", say):
        for dataset, numbers in runs.items():
            name = f"{MODEL}-{parse_dataset(dataset).era}"
            learned = numbers[:-1] or numbers
            model = train(
                *(archive, "*", dataset),
                name=name,
                run_number=learned,
                golden="golden",
                datasets=[dataset],
                client=client,
                progress=_tenths(say, f"train {name}", "elements"),
            )
            registry.activate(archive, model)
    with _timed(done, "score", say):
        score(
            archive,
            run_number=[numbers[-1] for numbers in runs.values()],
            client=client,
            progress=_tenths(say, "score", "elements"),
        )


def _tenths(say: Callable[[str], object], step: str, what: str) -> Callable[[int, int], None]:
    """Progress that is told ten times."""

    def told(n: int, total: int) -> None:
        if 10 * n // total > 10 * (n - 1) // total:
            say(f"{step}: {n} of {total} {what}")

    return told


def _draw(archive: Archive, done: Demo) -> Iterator[Path]:
    """Pictures of the two clearest incidents of each run, or one of the first element there is."""
    folder = done.folder / "pictures"
    folder.mkdir(exist_ok=True)
    clearest = done.incidents
    if len(clearest):
        clearest = clearest.sort_values("log_p").groupby("run_number").head(2)
    for row in clearest.to_dict("records"):
        element = row["me"].rsplit("/", 1)[-1]
        name = f"incident-{row['run_number']}-LS{row['first_ls']}-{element}"
        yield pictures.save(report.picture(archive, row), folder / f"{_safe(name)}.png")
    if not len(done.incidents):
        runs = archive.runs()
        processed = done.files[done.files["state"] == State.PROCESSED]
        if len(runs) and len(processed):
            dataset, run_number = runs[["dataset", "run_number"]].iloc[0]
            stack = next(iter(archive.stacks(run_number=int(run_number), dataset=dataset)))
            name = f"{run_number}-{stack.me.rsplit('/', 1)[-1]}"
            yield pictures.save(pictures.draw(stack), folder / f"{_safe(name)}.png")


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_+." else "_" for letter in name)
