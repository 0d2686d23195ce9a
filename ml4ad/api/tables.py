"""Tables of ``/api/v2/``: the columns that are asked for, in the order asked for, JSON or Arrow.

Whatever the format, ``Total-Count`` and the address of the next page stand in the headers.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from fastapi import Depends, Query, Request, Response

from ml4ad.api import pages
from ml4ad.api.whole import MEDIA

#: Rows of a page of a list: as many without being asked, and at most.
DEFAULT_ROWS, MOST_ROWS = 100, 10_000

#: How the description tells of what is no JSON.
BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
ARROW: dict[int | str, dict[str, Any]] = {200: {"content": {MEDIA["arrow"]: BINARY}}}

# Rows that are made into JSON at a time.
_PART_ROWS = 5000
_NAMES = r"^[A-Za-z_][A-Za-z0-9_]*(,[A-Za-z_][A-Za-z0-9_]*)*$"
_ORDER = r"^-?[A-Za-z_][A-Za-z0-9_]*(,-?[A-Za-z_][A-Za-z0-9_]*)*$"
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Asked:
    """How a table is wanted: ``order`` are names of columns, and whether they fall."""

    fields: tuple[str, ...] = ()
    order: tuple[tuple[str, bool], ...] = ()
    limit: int | None = None
    count: bool = False
    form: str = "json"

    def columns(self, known: Sequence[str]) -> list[str]:
        """Names of the columns that are wanted; raises ValueError for one that is not known."""
        for name in (*self.fields, *(name for name, _ in self.order)):
            if name not in known:
                raise ValueError(f"no field {name}, want one of {', '.join(known)}")
        return list(self.fields or known)


def asked(
    fields: Annotated[
        str | None, Query(pattern=_NAMES, max_length=2000, description="with commas; else all")
    ] = None,
    order: Annotated[
        str | None,
        Query(pattern=_ORDER, max_length=2000, description="fields with commas; -name: falling"),
    ] = None,
    limit: Annotated[int | None, Query(ge=1, le=1_000_000, description="rows at most")] = None,
    count: Annotated[bool, Query(description="tell the number of all rows in Total-Count")] = False,
    form: Annotated[str, Query(alias="format", pattern="^(json|arrow)$")] = "json",
) -> Asked:
    """What a request says of the table that it wants."""
    wanted = tuple(dict.fromkeys(fields.split(","))) if fields else ()
    sorting = {name.removeprefix("-"): name.startswith("-") for name in (order or "").split(",")}
    sorting.pop("", None)
    return Asked(wanted, tuple(sorting.items()), limit, count, form)


AskedTable = Annotated[Asked, Depends(asked)]


def of_frame(request: Request, found: pd.DataFrame, wanted: Asked) -> Response:
    """All rows of a table in memory; raises ValueError for a field that it does not have."""
    names = wanted.columns([str(name) for name in found.columns])
    n_rows = len(found)
    if wanted.order:
        by = [name for name, _ in wanted.order]
        rising = [not falls for _, falls in wanted.order]
        for name in by:
            if found[name].map(lambda value: isinstance(value, dict | list | tuple)).any():
                raise ValueError(f"{name} has no order")
        found = found.sort_values(by, ascending=rising, kind="stable", na_position="last")
    return _answer(request, found.iloc[: wanted.limit][names], wanted, n_rows)


def _answer(request: Request, found: pd.DataFrame, wanted: Asked, n_rows: int | None) -> Response:
    if wanted.form == "arrow":
        answer = Response(_arrow(found), media_type=MEDIA["arrow"])
    else:
        answer = pages.stream(request, _json_parts(found))
    if wanted.count:
        answer.headers["Total-Count"] = str(n_rows)
    return answer


def _arrow(found: pd.DataFrame) -> bytes:
    table = pa.Table.from_pandas(_flat(found), preserve_index=False)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _flat(found: pd.DataFrame) -> pd.DataFrame:
    """Columns of objects that Arrow has no type for as JSON text."""
    plain = found.copy()
    for name in plain.columns:
        if not isinstance(plain[name].dtype, np.dtype) or plain[name].dtype.kind != "O":
            continue
        if plain[name].map(lambda value: isinstance(value, dict | list | tuple)).any():
            plain[name] = [orjson.dumps(_plain(value)).decode() for value in plain[name]]
    return plain


def _json_parts(found: pd.DataFrame) -> Iterator[bytes]:
    """Rows as JSON objects; what is not known is null."""
    names = [str(name) for name in found.columns]
    opening = b"["
    for start in range(0, len(found), _PART_ROWS):
        part = found.iloc[start : start + _PART_ROWS]
        columns = [_column(part[name]) for name in part.columns]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        yield opening + orjson.dumps(rows)[1:-1]
        opening = b","
    yield b"[]" if not len(found) else b"]"


def _column(own: pd.Series[Any]) -> list[Any]:
    if isinstance(own.dtype, np.dtype) and own.dtype.kind in "biu":
        return own.tolist()
    if isinstance(own.dtype, np.dtype) and own.dtype.kind == "f":
        values = own.to_numpy()
        # JSON has no other way to say that there is none.
        return values.astype(object).tolist() if np.isfinite(values).all() else [
            value if math.isfinite(value) else None for value in values.tolist()
        ]  # fmt: skip
    if isinstance(own.dtype, pd.CategoricalDtype):
        return own.astype(object).tolist()
    return [_plain(value) for value in own.astype(object)]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return None
    return value.isoformat() if isinstance(value, datetime) else value


# -- lists that are too long for one answer ------------------------------------------------------

Token = Annotated[str | None, Query(max_length=4000, description="as the page before gave it")]


def select_of(table: sa.Table, names: Sequence[str]) -> sa.Select[Any]:
    """Columns of a table by their names."""
    return sa.select(*(table.c[name] for name in names))


def of_query(
    request: Request,
    connection: sa.Connection,
    query: sa.Select[Any],
    wanted: Asked,
    *,
    key: Sequence[str],
    sortable: Sequence[str],
    more: Mapping[str, Any] | None = None,
) -> Response:
    """A page of a query, whose address of the next one stands in ``Link``.

    ``key`` names columns that tell rows apart, ``sortable`` others that are never null; a page
    begins after the last row of the one before, so the last one is as fast as the first. ``more``
    makes further columns of the page's subquery, of which only those asked for are computed.
    Raises ValueError for a field or a token that cannot be.
    """
    own = query.selected_columns
    further = more or {}
    names = wanted.columns([*(name for name in own.keys() if name[0] != "_"), *further])  # noqa: SIM118
    for name, _ in wanted.order:
        if name not in (*key, *sortable):
            allowed = ", ".join(dict.fromkeys([*key, *sortable]))
            raise ValueError(f"cannot order by {name}, want one of {allowed}")
    falls = wanted.order[-1][1] if wanted.order else False
    listed = dict(wanted.order)
    order = [*wanted.order, *((name, falls) for name in key if name not in listed)]
    limit = min(wanted.limit or DEFAULT_ROWS, MOST_ROWS)
    total = None
    if wanted.count:
        total = connection.scalar(sa.select(sa.func.count()).select_from(query.subquery()))
    token = request.query_params.get("next_token")
    if token:
        query = query.where(_after(own, order, _values(token, [own[name] for name, _ in order])))
    columns = [own[name].desc() if down else own[name].asc() for name, down in order]
    page = query.order_by(*columns).limit(limit + 1).subquery()
    sorting = [page.c[name].desc() if down else page.c[name].asc() for name, down in order]
    shown = [page.c[name] if name in page.c else further[name](page).label(name) for name in names]
    ends = [page.c[name].label(f"_end_{i}") for i, (name, _) in enumerate(order)]
    rows = connection.execute(sa.select(*shown, *ends).order_by(*sorting)).all()
    found = pd.DataFrame([tuple(row)[: len(names)] for row in rows[:limit]], columns=names)
    answer = _answer(request, found, wanted, total)
    if len(rows) > limit:
        last = [_plain(value) for value in tuple(rows[limit - 1])[len(names) :]]
        text = base64.urlsafe_b64encode(orjson.dumps(last)).decode().rstrip("=")
        url = request.url.include_query_params(next_token=text)
        answer.headers["Link"] = f'<{url}>; rel="next"'
    return answer


def _after(
    own: Any, order: Sequence[tuple[str, bool]], values: Sequence[Any]
) -> sa.ColumnElement[bool]:
    columns = [own[name] for name, _ in order]
    bound = [sa.literal(value, c.type) for value, c in zip(values, columns, strict=True)]
    if len({down for _, down in order}) == 1:
        whole, last = sa.tuple_(*columns), sa.tuple_(*bound)
        return whole < last if order[0][1] else whole > last
    following: list[sa.ColumnElement[bool]] = []
    for i, (_, down) in enumerate(order):
        same = [columns[j] == bound[j] for j in range(i)]
        following.append(sa.and_(*same, columns[i] < bound[i] if down else columns[i] > bound[i]))
    return sa.or_(*following)


def _values(token: str, columns: Sequence[sa.ColumnElement[Any]]) -> list[Any]:
    """Values of a token; raises ValueError for one that no page of this order gave."""
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        listed = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (UnicodeEncodeError, binascii.Error, orjson.JSONDecodeError) as error:
        raise ValueError("next_token: want one that a page with this order gave") from error
    if not isinstance(listed, list) or len(listed) != len(columns):
        raise ValueError("next_token: want one that a page with this order gave")
    return [_value(value, column) for value, column in zip(listed, columns, strict=True)]


def _value(value: Any, column: sa.ColumnElement[Any]) -> Any:
    kind = column.type.python_type
    if kind is int and type(value) is int and abs(value) <= _LARGEST:
        return value
    if isinstance(value, str) and "\0" not in value:
        if kind is str:
            return value
        if kind is datetime:
            return datetime.fromisoformat(value)
    raise ValueError("next_token: want one that a page with this order gave")
