"""What a caller may see: the datasets and elements of the workspace that a request is in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ml4ad import settings, workspaces
from ml4ad.api.access import Caller
from ml4ad.store.schema import dataset, me
from ml4ad.workspaces import Workspace


class RefusedError(PermissionError):
    """The caller may not; what is answered tells no more than that."""


@dataclass(frozen=True)
class View:
    """The archive as one request sees it; without a workspace all of it."""

    engine: sa.Engine
    caller: Caller
    workspace: Workspace | None

    def need(self, scope: str, *, everywhere: bool = False) -> None:
        """Raise RefusedError unless the scope is granted here, or outside all workspaces."""
        able = self.caller.within(None) if everywhere else self.caller
        if able is None or not able.may(scope):
            where = " in all workspaces" if everywhere else ""
            raise RefusedError(f"{self.caller.name} may not {scope}{where}")

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection on which no query runs longer than the settings allow."""
        limit = settings.load().statement_timeout_s * 1000
        with self.engine.connect() as connection:
            timeout = sa.func.set_config("statement_timeout", str(limit), True)
            connection.execute(sa.select(timeout))
            yield connection

    def datasets(
        self,
        connection: sa.Connection,
        *,
        name: str | None = None,
        regex: str | None = None,
        ids: Sequence[int] | None = None,
    ) -> dict[int, str]:
        """Names of the datasets that are seen and asked for, by their rising numbers."""
        query: sa.Select[Any] = sa.select(dataset.c.dataset_id, dataset.c.dataset)
        query = query.order_by(dataset.c.dataset_id)
        if self.workspace is not None:
            query = query.where(like(dataset.c.dataset, self.workspace.datasets))
        query = matching(query, dataset.c.dataset, name, regex)
        if ids is not None:
            query = query.where(dataset.c.dataset_id == any_of(ids))
        return {int(number): str(text) for number, text in connection.execute(query)}

    def elements(self, dataset_name: str | None = None) -> sa.ColumnElement[bool]:
        """Whether a row of ``me`` is seen, in a dataset or in any."""
        own = self.workspace
        if own is None:
            return sa.true()
        if dataset_name is None:
            return like(me.c.me, own.shown or own.elements)
        return like(me.c.me, workspaces.elements_of(own, dataset_name, "shown"))


def view(engine: sa.Engine, caller: Caller, workspace: str | None) -> View:
    """What a caller sees in a workspace; in none given, in the caller's own, or the settings'.

    Raises KeyError if there is no such workspace, RefusedError if it is not the caller's.
    """
    name = workspace or (caller.workspaces[0] if caller.workspaces else settings.load().workspace)
    within = caller.within(name or None)
    if within is None:
        raise RefusedError(f"{caller.name} asked for workspace {name}")
    if not name:
        return View(engine, within, None)
    found = [own for own in workspaces.stored(engine) if own.name == name]
    if not found:
        raise KeyError("no such workspace")
    return View(engine, within, found[0])


def allowed(engine: sa.Engine, caller: Caller) -> list[str]:
    """Names of the workspaces that a caller may choose."""
    every = [own.name for own in workspaces.stored(engine)]
    return [name for name in every if not caller.workspaces or name in caller.workspaces]


# -- conditions of SQL ---------------------------------------------------------------------------


def any_of(numbers: Sequence[int]) -> sa.ColumnElement[Any]:
    """ANY of an array of numbers: one statement whatever their number."""
    return sa.any_(sa.literal(list(numbers), sa.ARRAY(sa.BigInteger)))


def like(column: sa.ColumnElement[str], patterns: Sequence[str]) -> sa.ColumnElement[bool]:
    """Whether a column fits one of a workspace's globs."""
    texts = [_like(one) for one in workspaces.globs(patterns)]
    return sa.or_(sa.false(), *(column.like(text, escape="\\") for text in texts))


def _like(glob: str) -> str:
    plain = glob.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return plain.replace("*", "%").replace("?", "_")


def matching(
    query: sa.Select[Any],
    column: sa.ColumnElement[str],
    exact: str | None,
    regex: str | None,
) -> sa.Select[Any]:
    """The query with a column that is a text, or in which an expression is found."""
    if exact is not None:
        query = query.where(column == exact)
    if regex is not None:
        query = query.where(column.regexp_match(regex))
    return query


def between(
    query: sa.Select[Any],
    column: sa.ColumnElement[int],
    exact: int | None,
    least: int | None,
    most: int | None,
) -> sa.Select[Any]:
    """The query with a column that is a number, or lies in a range."""
    if exact is not None:
        query = query.where(column == exact)
    if least is not None:
        query = query.where(column >= least)
    if most is not None:
        query = query.where(column <= most)
    return query
