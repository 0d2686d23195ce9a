"""What a notebook's parameters leave open: the dataset, the runs, an element, the workers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ml4ad import cluster as clusters
from ml4ad import settings, workspaces
from ml4ad.detect import registry

if TYPE_CHECKING:
    from distributed import Client

    from ml4ad.archive import Archive
    from ml4ad.stack import HistogramStack
    from ml4ad.workspaces import Use


def dataset(archive: Archive, given: str = "") -> str:
    """``given``, or the only dataset that the archive has.

    Raises ValueError, naming them, if there are several or none, KeyError for one that is not
    there.
    """
    there = archive.datasets()["dataset"].tolist()
    if given:
        if given not in there:
            raise KeyError(f"no dataset {given!r}; there: {', '.join(there) or 'none'}")
        return given
    if len(there) != 1:
        raise ValueError(f"{len(there)} datasets, name one: {', '.join(there) or 'none is there'}")
    return str(there[0])


def newest_dataset(archive: Archive, given: str = "", run_numbers: Sequence[int] = ()) -> str:
    """``given``, or the dataset of the newest run, of those in ``run_numbers`` if there are any.

    Raises ValueError if the archive has none, KeyError for a dataset or runs that are not there.
    """
    there = archive.runs()
    if run_numbers and not given:
        there = there[there["run_number"].isin(run_numbers)]
        if there.empty:
            raise KeyError(f"no run {', '.join(map(str, run_numbers))} in the archive")
    if given or there.empty:
        return dataset(archive, given)
    return str(there.sort_values("run_number")["dataset"].iloc[-1])


def runs(archive: Archive, dataset: str, given: Sequence[int] = (), newest: int = 1) -> list[int]:
    """``given``, or the ``newest`` runs of a dataset, in rising order.

    Raises KeyError for a run that the dataset does not have.
    """
    there = sorted(archive.runs(dataset)["run_number"].tolist())
    unknown = [run_number for run_number in given if run_number not in there]
    if unknown or not there:
        span = f"{len(there)} from {there[0]} to {there[-1]}" if there else "none"
        raise KeyError(f"{dataset}: no run {unknown[0] if unknown else ''}; there: {span}")
    return sorted(given) if given else there[-newest:]


def element(
    archive: Archive, dataset: str, run_number: int, pattern: str = "*", dim: int = 1
) -> str:
    """The first element of a run that matches ``pattern`` and has ``dim`` axes.

    Raises KeyError if there is none, naming what is near or how many axes those have that match.
    """
    found = archive.elements(pattern, dataset=dataset, run_number=run_number)
    fitting = found[found["dim"] == dim]["me"]
    if fitting.empty:
        others = found.head(3)[["me", "dim"]].itertuples(index=False)
        have = ", ".join(f"{me} has {own}" for me, own in others)
        raise KeyError(
            f"run {run_number} of {dataset}: no element matches {pattern!r} with {dim} axes; "
            f"{have or archive.near(pattern, dataset)}"
        )
    return str(fitting.iloc[0])


def elements(
    archive: Archive, dataset: str, patterns: Sequence[str], workspace: str = "", use: Use = "shown"
) -> list[str]:
    """Patterns of elements: those given, or those that a workspace has for a use.

    Raises KeyError for a workspace that is not there, or has nothing of this dataset.
    """
    name = workspace or settings.load().workspace
    if not name:
        return list(patterns)
    found = workspaces.elements_of(workspaces.get(archive.engine, name), dataset, use)
    if not found:
        raise KeyError(f"workspace {name}: nothing of {dataset}")
    return list(found)


def model(archive: Archive, given: str = "") -> str:
    """Name and version of the model ``given``, or of the only one that is at work.

    Raises KeyError for one that is not there, ValueError, naming them, if several are or none.
    """
    if given:
        return str(registry.get(archive, given))
    there = [str(one) for one in registry.active(archive)]
    if len(there) != 1:
        raise ValueError(f"{len(there)} models at work, name one: {', '.join(there) or 'none is'}")
    return there[0]


def good_stacks(
    archive: Archive, dataset: str, me: str, *, golden: str = "", where: str = ""
) -> list[HistogramStack]:
    """Stacks of an element with good lumisections only, one per run.

    Raises ValueError if there is none.
    """
    good = archive.good(dataset, golden=golden or None, where=where or None)
    wanted: dict[int, list[int]] = {}
    for run_number, ls_number in zip(good["run_number"], good["ls_number"], strict=True):
        wanted.setdefault(int(run_number), []).append(int(ls_number))
    stacks = [
        stack.select(wanted[stack.run_number])
        for stack in archive.stacks(me, list(wanted) or None, dataset)
        if stack.run_number in wanted
    ]
    found = [stack for stack in stacks if len(stack)]
    if not found:
        raise ValueError(f"{me} of {dataset}: no good lumisection")
    return found


@contextmanager
def workers(number: int = 0, cluster: str = "") -> Iterator[Client | None]:
    """Dask client of a named cluster or of ``number`` local processes; None: this one alone.

    The settings may name a cluster for all notebooks. In a recorded run the address of the
    scheduler lies beside the record while it is at work, so that others can see the workers.
    """
    chosen = settings.load()
    if not number and not cluster and chosen.cluster is None:
        yield None
        return
    with clusters.client(chosen, workers=number or None, name=cluster or None) as client:
        if "ML4AD_RUN_DIR" not in os.environ:
            yield client
            return
        address = output(clusters.SCHEDULER_FILE)
        client.write_scheduler_file(str(address))
        try:
            yield client
        finally:
            address.unlink(missing_ok=True)


def output(name: str) -> Path:
    """Path of a file that a notebook writes: beside its record, or by hand in this folder."""
    return Path(os.environ.get("ML4AD_RUN_DIR", "")) / name
