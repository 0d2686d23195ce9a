"""Workspaces: which datasets and elements a group of people ingests, looks at and trains on.

A pattern fits a whole name. "*" stands for any text, "?" for one character, and nothing else has a
meaning of its own: names hold "+", "[", "." and "#". A pattern that ends in "/" is a folder, and
fits all that lies in it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from ml4ad.dqmio.names import matcher
from ml4ad.store.context import workspace as table
from ml4ad.store.schema import MAX_NAME

#: What is done with elements.
Use = Literal["ingested", "shown", "trained"]

DEFAULTS = Path(__file__).with_name("workspaces.toml")

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_PATTERN_FIELDS = ("datasets", "elements", "shown", "trained")


@dataclass(frozen=True)
class Workspace:
    """Patterns under a name; ``shown`` and ``trained`` are a part of ``elements``, empty is all.

    Raises ValueError for a name that is not lower-case letters, digits, "-" and "_", no datasets or
    elements, or a pattern that is empty, too long, holds control characters or stands there twice.
    """

    name: str
    datasets: tuple[str, ...]
    elements: tuple[str, ...]
    shown: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"workspace {self.name!r}: want lower-case letters, digits, - and _")
        if not self.datasets or not self.elements:
            lacking = "datasets" if not self.datasets else "elements"
            raise ValueError(f"workspace {self.name}: no {lacking}: want a pattern, '*' for all")
        if not self.description.isprintable():
            raise ValueError(f"workspace {self.name}: description {self.description!r}: want text")
        for field in _PATTERN_FIELDS:
            own = getattr(self, field)
            for pattern in own:
                if not 1 <= len(pattern) <= MAX_NAME or not pattern.isprintable():
                    raise ValueError(
                        f"workspace {self.name}: pattern {pattern!r}: want 1 to {MAX_NAME} "
                        "printable characters"
                    )
                if own.count(pattern) > 1:
                    raise ValueError(f"workspace {self.name}: {pattern!r} is in {field} twice")


# -- patterns ------------------------------------------------------------------------------------


def globs(patterns: Iterable[str]) -> tuple[str, ...]:
    """Patterns as `ml4ad.dqmio` and the archive understand them; folders end in ``/*``.

    >>> globs(["PixelPhase1/", "*/charge_PXDisk_+1"])
    ('PixelPhase1/*', '*/charge_PXDisk_+1')
    """
    return tuple(f"{one}*" if one.endswith("/") else one for one in patterns)


@cache
def _matcher(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    return matcher(globs(patterns))


def fits(patterns: Iterable[str], name: str) -> bool:
    """Whether one of the patterns fits a name.

    >>> fits(["EcalBarrel/", "Ecal/EventInfo/"], "EcalBarrel/EBOccupancyTask/EBOT digi occupancy")
    True
    >>> fits(["EcalBarrel/"], "Calibration/EcalBarrel/x")
    False
    """
    return _matcher(tuple(patterns))(name)


# -- selection -----------------------------------------------------------------------------------


def selects(
    workspaces: Workspace | Iterable[Workspace], use: Use = "ingested"
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Globs of the datasets and of the elements of workspaces together, each once.

    Which elements belong to which dataset is not in it: see ``elements_of``.
    """
    chosen = _listed(workspaces)
    datasets = (pattern for own in chosen for pattern in own.datasets)
    elements = (pattern for own in chosen for pattern in _elements(own, use))
    return globs(dict.fromkeys(datasets)), globs(dict.fromkeys(elements))


def elements_of(
    workspaces: Workspace | Iterable[Workspace], dataset: str, use: Use = "ingested"
) -> tuple[str, ...]:
    """Globs of the elements that the workspaces want of a dataset; empty if none has it.

    They can be given to all that takes patterns of elements, such as ``archive.elements``.

    >>> muon = Workspace("muon", datasets=("/Muon0/*",), elements=("Muons/",))
    >>> elements_of(muon, "/Muon0/Run2025D-PromptReco-v1/DQMIO")
    ('Muons/*',)
    """
    return selects([own for own in _listed(workspaces) if fits(own.datasets, dataset)], use)[1]


def _listed(workspaces: Workspace | Iterable[Workspace]) -> list[Workspace]:
    return [workspaces] if isinstance(workspaces, Workspace) else list(workspaces)


def _elements(own: Workspace, use: Use) -> tuple[str, ...]:
    if use not in ("ingested", "shown", "trained"):
        raise ValueError(f"use {use!r}: want ingested, shown or trained")
    return (own.shown if use == "shown" else own.trained if use == "trained" else ()) or (
        own.elements
    )


# -- the database --------------------------------------------------------------------------------


def stored(engine: sa.Engine) -> list[Workspace]:
    """All workspaces, by name."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(table).order_by(table.c.workspace)).mappings()
        return [_of_row(row) for row in rows]


def get(engine: sa.Engine, *names: str) -> list[Workspace]:
    """Workspaces of these names, in this order; raises KeyError, naming those there are."""
    known = {own.name: own for own in stored(engine)}
    for name in names:
        if name not in known:
            raise KeyError(f"no workspace {name!r}; there are {', '.join(known) or 'none'}")
    return [known[name] for name in names]


def add(engine: sa.Engine, workspace: Workspace) -> None:
    """Store a new workspace; raises ValueError if there is one of that name."""
    row = insert(table).values(**_row(workspace)).on_conflict_do_nothing()
    with engine.begin() as connection:
        if connection.execute(row.returning(table.c.workspace)).scalar_one_or_none() is None:
            raise ValueError(f"workspace {workspace.name} is there already: edit it")


def put(engine: sa.Engine, workspaces: Workspace | Iterable[Workspace]) -> None:
    """Store workspaces, in place of those of their names; all or none."""
    rows = [_row(own) for own in sorted(_listed(workspaces), key=lambda own: own.name)]
    if not rows:
        return
    new = insert(table).values(rows)
    changed = {name: new.excluded[name] for name in rows[0] if name != "workspace"}
    with engine.begin() as connection:
        connection.execute(new.on_conflict_do_update(index_elements=["workspace"], set_=changed))


def edit(
    engine: sa.Engine,
    name: str,
    *,
    add: dict[str, Sequence[str]] | None = None,
    remove: dict[str, Sequence[str]] | None = None,
    description: str | None = None,
) -> Workspace:
    """The workspace with patterns added to and removed from its fields, as it is stored now.

    Keys are datasets, elements, shown and trained; adding what is there changes nothing.
    Raises KeyError if there is no such workspace, ValueError if a pattern to remove is not there or
    what remains is no workspace.
    """
    with engine.begin() as connection:
        found = connection.execute(
            sa.select(table).where(table.c.workspace == name).with_for_update()
        ).mappings()
        row = found.one_or_none()
        if row is None:
            raise KeyError(f"no workspace {name!r}")
        own = _of_row(row)
        changes: dict[str, Any] = {} if description is None else {"description": description}
        for field in sorted({*(add or {}), *(remove or {})}):
            if field not in _PATTERN_FIELDS:
                raise ValueError(f"{field!r}: want one of {', '.join(_PATTERN_FIELDS)}")
            changes[field] = _changed(
                own, field, (add or {}).get(field, ()), (remove or {}).get(field, ())
            )
        edited = replace(own, **changes)
        connection.execute(sa.update(table).where(table.c.workspace == name).values(**_row(edited)))
    return edited


def _changed(
    own: Workspace, field: str, more: Sequence[str], less: Sequence[str]
) -> tuple[str, ...]:
    here = getattr(own, field)
    for pattern in less:
        if pattern not in here:
            raise ValueError(
                f"workspace {own.name}: {pattern!r} is not in its {field}: "
                f"{', '.join(here) or 'none'}"
            )
    kept = [pattern for pattern in here if pattern not in less]
    return tuple(dict.fromkeys([*kept, *more]))


def remove(engine: sa.Engine, name: str) -> None:
    """Forget a workspace, not what was ingested for it; raises KeyError if there is none."""
    gone = sa.delete(table).where(table.c.workspace == name).returning(table.c.workspace)
    with engine.begin() as connection:
        if connection.execute(gone).scalar_one_or_none() is None:
            raise KeyError(f"no workspace {name!r}")


def _row(own: Workspace) -> dict[str, Any]:
    patterns = {field: list(getattr(own, field)) for field in _PATTERN_FIELDS}
    return {"workspace": own.name, "description": own.description, **patterns}


def _of_row(row: Any) -> Workspace:
    patterns = {field: tuple(row[field]) for field in _PATTERN_FIELDS}
    return Workspace(row["workspace"], description=row["description"], **patterns)


# -- TOML ----------------------------------------------------------------------------------------


def defaults() -> list[Workspace]:
    """Workspaces that a new archive has, after those of DIALS."""
    return read(DEFAULTS)


def read(path: str | Path) -> list[Workspace]:
    """Workspaces of a TOML file: a table ``[workspaces.NAME]`` for each.

    Raises OSError, or ValueError naming the file and what is wrong in it.
    """
    try:
        loaded = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not TOML ({error})") from error
    tables = loaded.get("workspaces")
    if not isinstance(tables, dict) or not all(isinstance(own, dict) for own in tables.values()):
        raise ValueError(
            f"{path}: want tables [workspaces.NAME], got {', '.join(loaded) or 'none'}"
        )
    return [_of_table(name, own, str(path)) for name, own in tables.items()]


def _of_table(name: str, own: dict[str, Any], source: str) -> Workspace:
    unknown = sorted(set(own) - {*_PATTERN_FIELDS, "description"})
    if unknown:
        known = ", ".join((*_PATTERN_FIELDS, "description"))
        raise ValueError(f"{source}: {name}: {', '.join(unknown)}: want {known}")
    patterns: dict[str, tuple[str, ...]] = {}
    for field in _PATTERN_FIELDS:
        listed = own.get(field, [])
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise ValueError(f"{source}: {name}: {field} is {listed!r}: want a list of patterns")
        patterns[field] = tuple(listed)
    description = own.get("description", "")
    if not isinstance(description, str):
        raise ValueError(f"{source}: {name}: description is {description!r}: want text")
    datasets, elements = patterns.pop("datasets"), patterns.pop("elements")
    return Workspace(name, datasets, elements, description=description, **patterns)


def dumps(workspaces: Iterable[Workspace]) -> str:
    """TOML of workspaces, as ``read`` takes it."""
    return "\n".join(_table_of(own) for own in workspaces)


def _table_of(own: Workspace) -> str:
    lines = [f"[workspaces.{own.name}]"]
    if own.description:
        lines.append(f"description = {_quoted(own.description)}")
    for field in _PATTERN_FIELDS:
        patterns = getattr(own, field)
        if patterns:
            lines += [f"{field} = [", *(f"    {_quoted(one)}," for one in patterns), "]"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # JSON's escapes of quotes and backslashes are TOML's; there are no control characters.
    return json.dumps(text, ensure_ascii=False)
