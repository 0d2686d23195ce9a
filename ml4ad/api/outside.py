"""``/api/v1/``: workspaces, and OMS as its users know it, from stored conditions or forwarded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import pandas as pd
from fastapi import APIRouter, Query, Request, Response

from ml4ad import conditions, settings
from ml4ad.api import pages
from ml4ad.api.app import Seen, Who
from ml4ad.api.view import View, allowed, view
from ml4ad.conditions import names, oms

router = APIRouter(prefix="/api/v1", tags=["v1"])

# OMS's own names of columns that have another here.
_LS_NAMES = {
    "ls_number": "lumisection_number",
    "delivered_lumi": "delivered_lumi_per_lumisection",
    "recorded_lumi": "recorded_lumi_per_lumisection",
}
_RUN_NAMES = {"last_ls_number": "last_lumisection_number", "beams_stable": "stable_beam"}
_LUMINOSITY = ("delivered_lumi", "recorded_lumi")
_FILTER = re.compile(r"filter\[([a-z0-9_]{1,64})\](?:\[([A-Z]{1,8})\])?")
_DEFAULT_ROWS, _MOST_ROWS = 100, 100_000


@router.get("/workspaces/")
def workspaces(request: Request, who: Who) -> Response:
    """Names of the workspaces that the caller may choose."""
    return pages.json(request, allowed(request.app.state.engine, who))


@router.get("/workspaces/my-default/")
@router.get("/auth/user-default-workspace", include_in_schema=False)
@router.get("/auth/user-default-workspace/", include_in_schema=False)
def default_workspace(request: Request, who: Who) -> Response:
    """The workspace of requests that name none; null is all."""
    own = view(request.app.state.engine, who, None).workspace
    return pages.json(request, {"workspace": own.name if own else None})


@router.get("/auth/workspaces", include_in_schema=False)
@router.get("/auth/workspaces/", include_in_schema=False)
def workspaces_before(request: Request, who: Who) -> Response:
    """As clients up to 2.2 ask."""
    return pages.json(request, {"workspaces": allowed(request.app.state.engine, who)})


@router.get("/oms-proxy/")
def oms_proxy(
    request: Request,
    seen: Seen,
    endpoint: Annotated[str, Query(pattern="^[A-Za-z0-9_]{1,64}$")],
) -> Response:
    """Rows of OMS: ``endpoint`` runs or lumisections, ``filter[name][EQ]``, ``page[limit]``.

    Where OMS is configured every endpoint is forwarded; elsewhere stored conditions answer.
    """
    filters: list[oms.Filter] = []
    limit, offset = _DEFAULT_ROWS, 0
    for name, value in request.query_params.multi_items():
        matched = _FILTER.fullmatch(name)
        if matched:
            operator = matched[2] or "EQ"
            if operator not in oms.OPERATORS:
                raise ValueError(f"operator {operator}, want one of {', '.join(oms.OPERATORS)}")
            filters.append((matched[1], operator, value))
        elif name == "page[limit]":
            limit = min(_whole(value), _MOST_ROWS)
        elif name == "page[offset]":
            offset = _whole(value)
        elif name.startswith("filter["):
            raise ValueError("want filter[name][operator]")
    configured = settings.load()
    if configured.oms_url is not None:
        with oms.client(configured) as client:
            rows, total = client.page(endpoint, filters, limit=limit, offset=offset)
    else:
        found = _stored(seen, endpoint, filters)
        rows, total = found[offset : offset + limit], len(found)
    meta = {} if total is None else {"totalResourceCount": total}
    return pages.json(request, {"data": rows, "links": {}, "meta": meta})


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError("want a whole number for page[limit] and page[offset]")
    return int(text)


def _stored(seen: View, endpoint: str, filters: list[oms.Filter]) -> list[dict[str, Any]]:
    runs = [int(v) for n, op, v in filters if (n, op) == ("run_number", "EQ") and _is_whole(v)]
    wanted = runs[:1] or None
    if endpoint == "runs":
        found, renamed = conditions.runs(seen.engine, run_number=wanted), _RUN_NAMES
    elif endpoint == "lumisections":
        found, renamed = conditions.lumisections(seen.engine, run_number=wanted), _LS_NAMES
    else:
        raise KeyError("Stored conditions answer for runs and lumisections")
    frame = found.reset_index()
    for name in _LUMINOSITY:
        frame[name] = frame[name] / names.UB_PER_PB
    rows = [_attributes(row, renamed) for row in frame.to_dict(orient="records")]
    for name, operator, value in filters:
        rows = [row for row in rows if _passes(row.get(name), operator, str(value))]
    keys = ["run_number"] if endpoint == "runs" else ["run_number", "lumisection_number"]
    return [
        {
            "id": "_".join(str(row[key]) for key in keys),
            "type": endpoint,
            "attributes": row,
            "meta": {},
        }
        for row in rows
    ]


def _is_whole(value: str | int) -> bool:
    text = str(value)
    return text.isascii() and text.isdigit() and len(text) < 19


def _attributes(row: Mapping[Any, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """A row with OMS's names besides ours; what is not known is null."""
    plain = {str(name): _plain(value) for name, value in row.items()}
    return plain | {other: plain[own] for own, other in renamed.items()}


def _plain(value: Any) -> Any:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return None
    return value.isoformat() if isinstance(value, pd.Timestamp) else value


_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "EQ": lambda own, asked: own == asked,
    "NEQ": lambda own, asked: own != asked,
    "LT": lambda own, asked: own < asked,
    "GT": lambda own, asked: own > asked,
    "LE": lambda own, asked: own <= asked,
    "GE": lambda own, asked: own >= asked,
    "LIKE": lambda own, asked: str(asked).strip("%") in str(own),
}


def _passes(own: Any, operator: str, text: str) -> bool:
    if own is None:
        return False
    asked: Any = text
    if isinstance(own, bool):
        own, asked = str(own).lower(), text.lower()
    elif isinstance(own, int | float) and operator != "LIKE":
        try:
            asked = float(text)
        except ValueError as error:
            raise ValueError("want a number to compare a number with") from error
    else:
        own = str(own)
    return _COMPARED[operator](own, asked)
