"""Which elements of a file are stored: what workspaces want of its dataset, or all.

In the table ``file`` the column ``wanted`` tells what was asked for, ``selection`` what is stored;
what is asked for only grows. A file that lacks some of it is read again for that alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from ml4ad.dqmio.names import Pattern, glob_to_regex
from ml4ad.store import State
from ml4ad.store.schema import dataset, file
from ml4ad.workspaces import Workspace, elements_of

ALL = "*"


def lacking() -> sa.ColumnElement[bool]:
    """Whether a file is stored, and more is wanted of it."""
    more = file.c.wanted.is_(None) | sa.not_(file.c.wanted.contained_by(file.c.selection))
    stored = (file.c.state == State.PROCESSED) & ~file.c.vanished
    return stored & file.c.selection.is_not(None) & more


def want(
    engine: sa.Engine, scope: sa.ColumnElement[bool], workspaces: Iterable[Workspace]
) -> list[int]:
    """Numbers of the datasets that the workspaces have; their elements are now wanted of its files.

    Of the files in ``scope``. What was wanted before still is, unless the file was never stored and
    does not wait.
    """
    listed = list(workspaces)
    with engine.connect() as connection:
        datasets = connection.execute(sa.select(dataset.c.dataset_id, dataset.c.dataset)).all()
    theirs = []
    for dataset_id, name in datasets:
        patterns = sorted(elements_of(listed, name, use="ingested"))
        if patterns:
            theirs.append(dataset_id)
            with engine.begin() as connection:
                _want(connection, scope & (file.c.dataset_id == dataset_id), patterns)
    return theirs


def _want(
    connection: sa.Connection, scope: sa.ColumnElement[bool], patterns: Sequence[str]
) -> None:
    every = ALL in patterns
    asked = sa.literal(None if every else list(patterns), type_=file.c.wanted.type)
    new = file.c.n_ls.is_(None) & (file.c.state != State.PENDING)
    less = file.c.wanted.is_not(None) & (
        sa.true() if every else sa.not_(file.c.wanted.contains(asked))
    )
    # In one order: two who want of the same files must not wait in a circle.
    changed = scope & ((new & file.c.wanted.is_distinct_from(asked)) | (~new & less))
    numbers = list(
        connection.scalars(
            sa.select(file.c.file_id).where(changed).order_by(file.c.file_id).with_for_update()
        )
    )
    each = sa.func.unnest(file.c.wanted.concat(asked)).table_valued("pattern").render_derived()
    both = sa.select(sa.func.array_agg(sa.distinct(each.c.pattern))).scalar_subquery()
    more = asked if every else sa.case((new, asked), else_=both)
    these = sa.bindparam("these", numbers, type_=sa.ARRAY(sa.Integer))
    connection.execute(
        sa.update(file).where(file.c.file_id == sa.any_(these), changed).values(wanted=more)
    )


def to_store(row: Any, *, adding: bool) -> Pattern:
    """Which elements to read of a file: those wanted; ``adding``: that are not stored."""
    wanted = [ALL] if row.wanted is None else row.wanted
    if not adding:
        return ALL if row.wanted is None else list(wanted)
    return without(wanted, [ALL] if row.selection is None else row.selection)


def without(wanted: Iterable[str], stored: Iterable[str]) -> re.Pattern[str]:
    """Pattern of the names that a glob of ``wanted`` means, and none of ``stored``.

    >>> from ml4ad.dqmio.names import matcher
    >>> more = matcher(without(["Pixel/*", "Strip/*"], ["Pixel/charge*"]))
    >>> [more(name) for name in ("Pixel/charge_1", "Pixel/size", "Strip/a", "Ecal/a")]
    [False, True, True, False]
    """
    yes, no = ("|".join(map(glob_to_regex, globs)) for globs in (wanted, stored))
    return re.compile(rf"\A(?!{no})(?:{yes})")
