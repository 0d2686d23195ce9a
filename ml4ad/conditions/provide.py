"""One call for all that knows conditions: files, live services, or conditions already in hand."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from ml4ad.conditions import files, storage
from ml4ad.conditions.record import Conditions
from ml4ad.conditions.storage import Loaded
from ml4ad.settings import Settings

#: Services that can be asked by name.
SERVICES = ("oms", "runregistry")


class OfflineWarning(UserWarning):
    """A service could not be asked; what is stored stands in."""


class HasEngine(Protocol):
    """An archive, or anything else that has an engine on its database."""

    @property
    def engine(self) -> sa.Engine:
        """Engine on a database with this code's schema."""
        ...


class Provider(Protocol):
    """A live service: ``OMSClient``, ``RunRegistryClient``, or the user's own."""

    source: str

    def fetch(self, run_numbers: Iterable[int]) -> Conditions:
        """Conditions of runs."""
        ...


def load(
    archive: HasEngine,
    source: str | Path | Conditions | Provider,
    kind: str | None = None,
    *,
    name: str | None = None,
    lumi_unit: str = "/pb",
    run_numbers: Iterable[int] | None = None,
    settings: Settings | None = None,
    **options: Any,
) -> Loaded:
    """Take conditions in from a source, and say what came.

    ``source`` is a file (``kind``, ``name`` and ``lumi_unit`` as in ``files.read``), "oms" or
    "runregistry" (as the settings have them), a client, or ``Conditions``. A service needs
    ``run_numbers``; ``options`` are those of its ``fetch`` (``paths`` of OMS, ``dataset`` of Run
    Registry). A service that is not configured or does not answer leaves what is stored as it is:
    then ``live`` is False, ``note`` says why and how old that is, and an OfflineWarning is given.
    Raises as ``files.read``, ``OMSClient.fetch`` and ``RunRegistryClient.fetch``.
    """
    if isinstance(source, Conditions):
        return storage.store(archive.engine, source)
    if isinstance(source, str | Path) and str(source) not in SERVICES:
        return storage.store(
            archive.engine, files.read(source, kind=kind, name=name, lumi_unit=lumi_unit)
        )
    if run_numbers is None:
        raise ValueError(f"{_called(source)}: want run_numbers")
    wanted = [int(run_number) for run_number in run_numbers]
    return _fetch(archive.engine, source, wanted, settings, options)


def _called(source: Any) -> str:
    return str(getattr(source, "source", source))


def _fetch(
    engine: sa.Engine,
    source: Any,
    run_numbers: Sequence[int],
    settings: Settings | None,
    options: dict[str, Any],
) -> Loaded:
    from ml4ad.conditions import runregistry
    from ml4ad.conditions.service import UnavailableError

    try:
        if isinstance(source, str | Path):
            with _client(str(source), settings) as client:
                found = client.fetch(run_numbers, **options)
        else:
            found = source.fetch(run_numbers, **options)
    except UnavailableError as error:
        registry = source == "runregistry" or isinstance(source, runregistry.RunRegistryClient)
        return _stored(engine, _called(source), run_numbers, str(error), registry=registry)
    return storage.store(engine, found)


def _client(service: str, settings: Settings | None) -> Any:
    from ml4ad import settings as settings_module
    from ml4ad.conditions import oms, runregistry

    chosen = settings if settings is not None else settings_module.load()
    return {"oms": oms, "runregistry": runregistry}[service].client(chosen)


def _stored(
    engine: sa.Engine, source: str, run_numbers: Sequence[int], why: str, *, registry: bool
) -> Loaded:
    known = storage.stored_runs(engine, run_numbers, registry=registry)
    n_asked = len(set(run_numbers))
    age = f", of {known['loaded_at'].min():%Y-%m-%d %H:%M} UTC or later" if len(known) else ""
    note = f"{why}; stored already: {len(known)} of {n_asked} runs{age}"
    warnings.warn(note, OfflineWarning, stacklevel=4)
    return Loaded(
        source=source,
        n_runs=len(known),
        n_lumisections=int(known["n_lumisections"].sum()),
        live=False,
        note=note,
    )
