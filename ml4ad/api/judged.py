"""``/api/v1/``: models, the lumisections in which they alarm, and certification."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query, Request, Response

from ml4ad import verdict
from ml4ad.api import bodies, filters, pages, shapes
from ml4ad.api.app import Seen
from ml4ad.api.filters import PathId, PathNumber, numbers
from ml4ad.api.listed import one
from ml4ad.api.view import View, any_of, matching
from ml4ad.archive import Archive
from ml4ad.conditions import ranges
from ml4ad.conditions.ranges import Ranges
from ml4ad.detect.calibrate import alpha
from ml4ad.detect.scored import rows_of
from ml4ad.store import scoring
from ml4ad.store.schema import me

router = APIRouter(prefix="/api/v1", tags=["v1"])

_LN10 = math.log(10)
_MODEL, _ELEMENT, _SCORE = scoring.model, scoring.model_element, scoring.score
_CHANGE = scoring.model_change

#: What an alarm is measured by: -log10 of the p-value.
METRIC = "minus_log10_p_value"


# -- models --------------------------------------------------------------------------------------


@router.get("/ml-models-index/", response_model=shapes.Page[shapes.ModelIndex])
def models(request: Request, seen: Seen, asked: Annotated[filters.Models, Query()]) -> Response:
    """Models, every version by itself."""
    own = _MODEL.c
    query = matching(_models(seen), own.name, asked.name, asked.name__regex)
    chosen = _both(asked.id, numbers(asked.id__in))
    if chosen is not None:
        query = query.where(own.model_id == any_of(chosen))
    if asked.active is not None:
        query = query.where((own.state == "active") == asked.active)
    if asked.ready is not None:
        query = query.where(own.state.in_(["active", "candidate"]) == asked.ready)
    if asked.type is not None:
        query = query.where(own.detector == asked.type)
    wanted = (asked.input_signature_contains_me, asked.input_signature_contains_me__regex)
    if any(text is not None for text in wanted):
        learned = sa.select(_ELEMENT.c.model_id).join(me, me.c.me_id == _ELEMENT.c.me_id)
        learned = learned.where(_ELEMENT.c.reason == "", seen.elements())
        query = query.where(own.model_id.in_(matching(learned, me.c.me, *wanted)))
    query = _tagged(query, asked.tag_name, asked.tag_value)
    with seen.reading() as connection:
        page = pages.after(query, [own.model_id], asked.start(1), asked.n_rows)
        rows = _model_rows(connection, seen, connection.execute(page).all())
    return pages.page(request, rows, ["id"], asked.n_rows)


@router.get("/ml-models-index/{model_id}/", response_model=shapes.ModelIndex)
def model(request: Request, seen: Seen, model_id: PathId) -> Response:
    """One version of a model."""
    with seen.reading() as connection:
        found = connection.execute(_models(seen).where(_MODEL.c.model_id == model_id)).all()
        rows = _model_rows(connection, seen, found)
    return pages.json(request, one(rows))


def _models(seen: View) -> sa.Select[Any]:
    query = sa.select(_MODEL).where(_MODEL.c.state != "training")
    if seen.workspace is not None:
        learned = sa.select(_ELEMENT.c.model_id).join(me, me.c.me_id == _ELEMENT.c.me_id)
        learned = learned.where(_ELEMENT.c.reason == "", seen.elements())
        query = query.where(_MODEL.c.model_id.in_(learned))
    return query


def _tagged(query: sa.Select[Any], name: str | None, value: str | None) -> sa.Select[Any]:
    """Models with a tag: their state, and the datasets that they are for."""
    if name is None and value is None:
        return query
    of_state = _MODEL.c.state == value if value is not None else sa.true()
    of_dataset = sa.literal(value) == sa.any_(_MODEL.c.datasets) if value is not None else sa.true()
    fits = [
        condition
        for tag, condition in (("state", of_state), ("dataset", of_dataset))
        if name in (None, tag)
    ]
    return query.where(sa.or_(sa.false(), *fits))


def _model_rows(
    connection: sa.Connection, seen: View, found: Sequence[Any]
) -> list[dict[str, Any]]:
    ids = [row.model_id for row in found]
    elements: dict[int, list[str]] = {number: [] for number in ids}
    learned = (
        sa.select(_ELEMENT.c.model_id, me.c.me)
        .join(me, me.c.me_id == _ELEMENT.c.me_id)
        .where(_ELEMENT.c.model_id == any_of(ids), _ELEMENT.c.reason == "", seen.elements())
        .order_by(_ELEMENT.c.model_id, me.c.me)
    )
    for number, name in connection.execute(learned):
        elements[number].append(name)
    changed = (
        sa.select(_CHANGE.c.model_id, _CHANGE.c.changed_by, _CHANGE.c.changed_at)
        .where(_CHANGE.c.model_id == any_of(ids))
        .order_by(_CHANGE.c.change_id)
    )
    changes = {row.model_id: row for row in connection.execute(changed)}
    limits = _limits(connection, ids)
    rows = []
    for row in found:
        change = changes.get(row.model_id)
        tags = [{"name": "state", "value": row.state}]
        tags += [{"name": "dataset", "value": own} for own in row.datasets]
        rows.append(
            {
                "id": row.model_id,
                "name": row.name,
                "revision": row.version,
                "type": row.detector,
                "description": f"{row.name}:{row.version}, {row.state}: {row.detector} "
                f"of {', '.join(row.patterns)}",
                "ready": row.state in ("active", "candidate"),
                "active": row.state == "active",
                "builtin_threshold": True,
                "anomaly_threshold": -limits[row.model_id] / _LN10,
                "flagging_key": "flagged",
                "metric_key": METRIC,
                "input_signature": [{"name": own, "me": own} for own in elements[row.model_id]],
                "output_signature": [{"name": METRIC}, {"name": "flagged"}],
                "tags": tags,
                "isvc_service_name": None,
                "isvc_yaml": None,
                "created_at": row.created_at,
                "created_by": row.created_by,
                "modified_at": change.changed_at if change else row.created_at,
                "modified_by": change.changed_by if change else row.created_by,
            }
        )
    return rows


def _limits(connection: sa.Connection, model_ids: Iterable[int] | None) -> dict[int, float]:
    """Ln p below which each model alarms; see ``detect.registry.threshold``."""
    learned = sa.func.count(_ELEMENT.c.me_id).filter(_ELEMENT.c.reason == "")
    query = (
        sa.select(_MODEL.c.model_id, _MODEL.c.false_alarms, learned.label("n"))
        .join_from(_MODEL, _ELEMENT, _ELEMENT.c.model_id == _MODEL.c.model_id, isouter=True)
        .group_by(_MODEL.c.model_id)
    )
    if model_ids is not None:
        query = query.where(_MODEL.c.model_id == any_of(list(model_ids)))
    return {
        row.model_id: math.log(alpha(row.false_alarms, n_elements=max(row.n, 1)))
        for row in connection.execute(query)
    }


# -- bad lumisections ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Alarms:
    """Which alarms are asked for; None is all."""

    model_ids: list[int] | None = None
    dataset_ids: list[int] | None = None
    dataset: str | None = None
    dataset_regex: str | None = None
    runs: list[int] | None = None
    ls_number: int | None = None
    me_id: int | None = None
    me: str | None = None
    me_regex: str | None = None


# One lumisection of one run as one model sees it: the key, and -log10 p of each element that
# alarms.
_Bad = tuple[tuple[int, int, int, int], dict[int, float]]


def _bad(
    connection: sa.Connection, seen: View, asked: Alarms, start: Sequence[int] | None = None
) -> Iterator[_Bad]:
    """Lumisections with alarms after a key, in order; the runs are read a few at a time."""
    limits = _limits(connection, asked.model_ids)
    datasets = seen.datasets(
        connection, name=asked.dataset, regex=asked.dataset_regex, ids=asked.dataset_ids
    )
    alarming = sa.or_(
        sa.false(),
        *(
            sa.and_(_SCORE.c.model_id == number, _SCORE.c.least_log_p < limit)
            for number, limit in limits.items()
        ),
    )
    where = [alarming, _SCORE.c.dataset_id == any_of(list(datasets))]
    if asked.runs is not None:
        where.append(_SCORE.c.run_number == any_of(asked.runs))
    own = sa.select(me.c.me_id).where(seen.elements())
    own = matching(own, me.c.me, asked.me, asked.me_regex)
    if asked.me_id is not None:
        own = own.where(me.c.me_id == asked.me_id)
    where.append(_SCORE.c.me_id.in_(own))
    key = [_SCORE.c.model_id, _SCORE.c.dataset_id, _SCORE.c.run_number]
    after = tuple(start) if start is not None else None
    while True:
        groups = sa.select(*key).where(*where).distinct().order_by(*key).limit(20)
        if after is not None:
            bound = [sa.literal(number, sa.BigInteger) for number in after[:3]]
            if len(after) == 4:
                # Of the run that the page before ended in, there may be more.
                groups = groups.where(sa.tuple_(*key) >= sa.tuple_(*bound))
            else:
                groups = groups.where(sa.tuple_(*key) > sa.tuple_(*bound))
        found = [tuple(row) for row in connection.execute(groups)]
        for group in found:
            this = [column == number for column, number in zip(key, group, strict=True)]
            least = after[3] if after is not None and after[:3] == group and len(after) > 3 else 0
            values = _alarms(connection, sa.and_(*where, *this), limits[group[0]])
            for ls_number in sorted(values):
                if ls_number > least and asked.ls_number in (None, ls_number):
                    yield (*group, ls_number), values[ls_number]
        if len(found) < 20:
            return
        after = found[-1]


def _alarms(
    connection: sa.Connection, where: sa.ColumnElement[bool], limit: float
) -> dict[int, dict[int, float]]:
    """By lumisection and element: -log10 p where it alarms."""
    values: dict[int, dict[int, float]] = {}
    for (*_, me_id), row in rows_of(connection, where):
        for at in np.flatnonzero(row.log_p < limit).tolist():
            found = values.setdefault(int(row.ls_numbers[at]), {})
            found[me_id] = -float(row.log_p[at]) / _LN10
    return values


def _bad_row(found: _Bad) -> dict[str, Any]:
    names = ("model_id", "dataset_id", "run_number", "ls_number")
    return {**dict(zip(names, found[0], strict=True)), "metric_value": max(found[1].values())}


@router.get("/ml-bad-lumisection/", response_model=shapes.Page[shapes.BadLumisection])
def bad_lumisections(
    request: Request, seen: Seen, asked: Annotated[filters.BadLumisections, Query()]
) -> Response:
    """Lumisections in which a model alarms."""
    wanted = Alarms(
        model_ids=_both(asked.model_id, numbers(asked.model_id__in)),
        dataset_ids=_both(asked.dataset_id, numbers(asked.dataset_id__in)),
        dataset=asked.dataset,
        dataset_regex=asked.dataset__regex,
        runs=_both(asked.run_number, numbers(asked.run_number__in)),
        ls_number=asked.ls_number,
        me_id=asked.me_id,
        me=asked.me,
        me_regex=asked.me__regex,
    )
    rows: list[dict[str, Any]] = []
    with seen.reading() as connection:
        for found in _bad(connection, seen, wanted, asked.start(4)):
            rows.append(_bad_row(found))
            if len(rows) > asked.n_rows:
                break
    keys = ["model_id", "dataset_id", "run_number", "ls_number"]
    return pages.page(request, rows, keys, asked.n_rows)


def _both(exact: int | None, listed: list[int] | None) -> list[int] | None:
    if exact is None:
        return listed
    return [exact] if listed is None or exact in listed else []


@router.get(
    "/ml-bad-lumisection/{model_id}/{dataset_id}/{run_number}/{ls_number}/",
    response_model=shapes.BadLumisection,
)
@router.get(
    "/ml-bad-lumisection/{model_id}/{dataset_id}/{run_number}/{ls_number}/{me_id}/",
    include_in_schema=False,
)
def bad_lumisection(
    request: Request,
    seen: Seen,
    model_id: PathId,
    dataset_id: PathId,
    run_number: PathNumber,
    ls_number: PathNumber,
    me_id: PathId | None = None,
) -> Response:
    """One lumisection in which a model alarms; not found where it does not."""
    asked = Alarms(
        model_ids=[model_id],
        dataset_ids=[dataset_id],
        runs=[run_number],
        ls_number=ls_number,
        me_id=me_id,
    )
    with seen.reading() as connection:
        rows = [_bad_row(found) for found in _bad(connection, seen, asked)]
    return pages.json(request, one(rows))


# -- certification -------------------------------------------------------------------------------


def chosen(asked: Annotated[filters.BadLumisections, Query()]) -> shapes.Chosen:
    """What older clients send in the address."""
    return shapes.Chosen(
        model_id__in=(numbers(asked.model_id__in) or [])[:1000],
        dataset_id__in=(numbers(asked.dataset_id__in) or [])[:1000],
        run_number__in=(numbers(asked.run_number__in) or [])[:10_000],
    )


@router.get("/ml-bad-lumisection/cert-json/", include_in_schema=False)
def cert_json_of_address(
    request: Request, seen: Seen, asked: Annotated[shapes.Chosen, Depends(chosen)]
) -> Response:
    """As the POST."""
    return cert_json(request, seen, asked)


@router.post("/ml-bad-lumisection/cert-json/", openapi_extra=bodies.described(shapes.Chosen))
def cert_json(
    request: Request,
    seen: Seen,
    asked: Annotated[shapes.Chosen, bodies.of(shapes.Chosen, bodies.SEEN)],
) -> Response:
    """Alarms by run and lumisection: which model, which element, how strange."""
    answer: dict[str, dict[str, list[dict[str, Any]]]] = {
        str(number): {} for number in asked.run_number__in
    }
    wanted = Alarms(
        model_ids=asked.model_id__in, dataset_ids=asked.dataset_id__in, runs=asked.run_number__in
    )
    with seen.reading() as connection:
        found = list(_bad(connection, seen, wanted))
        ids = {number for _, alarms in found for number in alarms}
        query = sa.select(me.c.me_id, me.c.me).where(me.c.me_id == any_of(list(ids)))
        names = {number: name for number, name in connection.execute(query)}  # noqa: C416 (rows)
        query = sa.select(_MODEL.c.model_id, _MODEL.c.name, _MODEL.c.version)
        listed = connection.execute(query.where(_MODEL.c.model_id == any_of(asked.model_id__in)))
        known = {row.model_id: f"{row.name}:{row.version}" for row in listed}
    for (model_id, _, run_number, ls_number), alarms in found:
        rows = answer[str(run_number)].setdefault(str(ls_number), [])
        rows += [
            {
                "model_id": model_id,
                "me_id": me_id,
                "filename": known[model_id],
                "me": names[me_id],
                "mse": value,
            }
            for me_id, value in sorted(alarms.items())
        ]
    return pages.json(request, answer)


@router.get("/ml-bad-lumisection/golden-json/", include_in_schema=False)
def golden_json_of_address(
    request: Request, seen: Seen, asked: Annotated[shapes.Chosen, Depends(chosen)]
) -> Response:
    """As the POST."""
    return golden_json(request, seen, asked)


@router.post("/ml-bad-lumisection/golden-json/", openapi_extra=bodies.described(shapes.Chosen))
def golden_json(
    request: Request,
    seen: Seen,
    asked: Annotated[shapes.Chosen, bodies.of(shapes.Chosen, bodies.SEEN)],
) -> Response:
    """Good lumisections: all that the models learned was assessed, and nothing alarms.

    What people said counts. What was never scored is not good. A run without a good lumisection is
    left out, and one of several datasets is good where it is good in each.
    """
    archive = Archive(seen.engine)
    with seen.reading() as connection:
        datasets = seen.datasets(connection, ids=asked.dataset_id__in)
        query = sa.select(_MODEL.c.model_id).where(_MODEL.c.model_id == any_of(asked.model_id__in))
        known = list(connection.scalars(query))
        held = {name: _held(connection, n, asked.run_number__in) for n, name in datasets.items()}
    good: dict[int, Ranges] = {}
    workspace = seen.workspace.name if seen.workspace else None
    for name, run_numbers in held.items():
        for run_number in run_numbers if known else []:
            certified = verdict.certification(
                archive, name, run_number, workspace=workspace, model=known
            )
            own = certified.good
            if run_number in good:
                own = ranges.intersection(good[run_number], own)
            good[run_number] = own
    answer = {
        str(number): [list(pair) for pair in own[number]]
        for number, own in sorted(good.items())
        if own.get(number)
    }
    return pages.json(request, answer)


def _held(connection: sa.Connection, dataset_id: int, run_numbers: Sequence[int]) -> list[int]:
    from ml4ad.store.schema import lumisection

    query = (
        sa.select(lumisection.c.run_number)
        .where(lumisection.c.dataset_id == dataset_id)
        .where(lumisection.c.run_number == any_of(run_numbers))
        .distinct()
        .order_by(lumisection.c.run_number)
    )
    return list(connection.scalars(query))
