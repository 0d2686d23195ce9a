"""``/api/v1/``: datasets, files, runs, lumisections, elements and histograms, as DIALS has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.dialects.postgresql import TIMESTAMP

from ml4ad.api import filters, pages, shapes
from ml4ad.api.app import Seen
from ml4ad.api.counts import histogram_counts, of_elements
from ml4ad.api.filters import PathId, PathNumber
from ml4ad.api.histograms import MOST_BYTES, Asked, Key, Pages, logical_name
from ml4ad.api.view import View, any_of, between, matching
from ml4ad.dqmio.names import parse_dataset
from ml4ad.store import State
from ml4ad.store.context import run_condition
from ml4ad.store.schema import file, lumisection, me, run

router = APIRouter(prefix="/api/v1", tags=["v1"])

#: DIALS' words for where a file stands.
STATUSES = {
    State.INDEXED: "PENDING",
    State.PENDING: "PENDING",
    State.RUNNING: "STARTED",
    State.PROCESSED: "FINISHED",
    State.FAILED: "FILE_NOT_AVAILABLE",
    State.BAD: "ROOTFILE_ERROR",
}


def one(rows: Sequence[Any]) -> Any:
    """The only row; raises KeyError if there is none."""
    if not rows:
        raise KeyError("Not found")
    return rows[0]


# -- datasets ------------------------------------------------------------------------------------


@router.get("/dataset-index/", response_model=shapes.Page[shapes.DatasetIndex])
def datasets(request: Request, seen: Seen, asked: Annotated[filters.Datasets, Query()]) -> Response:
    """Datasets."""
    start, n_rows = asked.start(1), asked.n_rows
    with seen.reading() as connection:
        names = seen.datasets(connection, name=asked.dataset, regex=asked.dataset__regex)
        wanted = [number for number in names if start is None or number > start[0]][: n_rows + 1]
        rows = _described(connection, {number: names[number] for number in wanted})
    return pages.page(request, rows, ["dataset_id"], n_rows)


@router.get("/dataset-index/{dataset_id}/", response_model=shapes.DatasetIndex)
@router.get("/dataset-index/{dataset_id}/{_}/", include_in_schema=False)
def dataset(request: Request, seen: Seen, dataset_id: PathId) -> Response:
    """One dataset."""
    with seen.reading() as connection:
        rows = _described(connection, seen.datasets(connection, ids=[dataset_id]))
    return pages.json(request, one(rows))


def _described(connection: sa.Connection, names: dict[int, str]) -> list[dict[str, Any]]:
    query = (
        sa.select(
            file.c.dataset_id,
            sa.func.max(file.c.era).label("era"),
            sa.func.max(_changed()).label("changed"),
        )
        .where(file.c.dataset_id == any_of(list(names)))
        .group_by(file.c.dataset_id)
    )
    facts = {row.dataset_id: row for row in connection.execute(query)}
    rows = []
    for number, name in names.items():
        known = facts.get(number)
        primary, processed, tier, version = _parts(name)
        rows.append(
            {
                "dataset_id": number,
                "dataset": name,
                "era": known.era if known else "",
                "data_tier": tier,
                "primary_ds_name": primary,
                "processed_ds_name": processed,
                "processing_version": version,
                "last_modification_date": known.changed if known else 0,
            }
        )
    return rows


def _parts(name: str) -> tuple[str, str, str, int]:
    """Primary, processed name, tier and version; of a name of another form all is primary."""
    try:
        parsed = parse_dataset(name)
    except ValueError:
        return name, "", "", 0
    return parsed.primary_dataset, name.split("/")[2], parsed.tier, parsed.version


# -- files ---------------------------------------------------------------------------------------


@router.get("/file-index/", response_model=shapes.Page[shapes.FileIndex])
def files(request: Request, seen: Seen, asked: Annotated[filters.Files, Query()]) -> Response:
    """Files."""
    status, exact, regex = asked.status, asked.logical_file_name, asked.logical_file_name__regex
    with seen.reading() as connection:
        names = asked.names(seen, connection)
        query = matching(_files(names), logical_name(), exact, regex)
        if status is not None:
            states = [own for own, word in STATUSES.items() if status in (word, own.value)]
            query = query.where(file.c.state.in_(states))
        if asked.min_size is not None:
            query = query.where(file.c.size >= asked.min_size)
        query = pages.after(query, [file.c.file_id], asked.start(1), asked.n_rows)
        rows = [_file(row, names) for row in connection.execute(query)]
    return pages.page(request, rows, ["file_id"], asked.n_rows)


@router.get("/file-index/{dataset_id}/{file_id}/", response_model=shapes.FileIndex)
def file_(request: Request, seen: Seen, dataset_id: PathId, file_id: PathId) -> Response:
    """One file."""
    with seen.reading() as connection:
        names = seen.datasets(connection, ids=[dataset_id])
        query = _files(names).where(file.c.file_id == file_id)
        rows = [_file(row, names) for row in connection.execute(query)]
    return pages.json(request, one(rows))


def _files(names: dict[int, str]) -> sa.Select[Any]:
    return sa.select(
        *(file.c[name] for name in ("dataset_id", "file_id", "size", "state", "reason")),
        _created().label("created"),
        _changed().label("changed"),
        logical_name().label("logical_file_name"),
    ).where(file.c.dataset_id == any_of(list(names)))


def _created() -> sa.ColumnElement[Any]:
    return sa.func.coalesce(
        file.c.indexed_at, sa.func.to_timestamp(file.c.mtime, type_=TIMESTAMP(timezone=True))
    )


def _changed() -> sa.ColumnElement[Any]:
    return sa.func.coalesce(file.c.finished_at, file.c.started_at, _created())


def _file(row: Any, names: dict[int, str]) -> dict[str, Any]:
    return {
        "dataset_id": row.dataset_id,
        "dataset": names[row.dataset_id],
        "file_id": row.file_id,
        "file_size": row.size,
        "creation_date": row.created,
        "last_modification_date": row.changed,
        "logical_file_name": row.logical_file_name,
        "status": STATUSES[State(row.state)],
        "err_trace": row.reason or None,
    }


# -- runs and lumisections -----------------------------------------------------------------------


@router.get("/run/", response_model=shapes.Page[shapes.Run])
def runs(request: Request, seen: Seen, asked: Annotated[filters.Runs, Query()]) -> Response:
    """Runs of datasets."""
    keys = [run.c.dataset_id, run.c.run_number]
    with seen.reading() as connection:
        names = asked.names(seen, connection)
        query = asked.of_runs(_runs(names), run.c.run_number)
        query = pages.after(query, keys, asked.start(2), asked.n_rows)
        rows = _counted(connection, query, names)
    return pages.page(request, rows, ["dataset_id", "run_number"], asked.n_rows)


@router.get("/run/{dataset_id}/{run_number}/", response_model=shapes.Run)
def run_(request: Request, seen: Seen, dataset_id: PathId, run_number: PathNumber) -> Response:
    """One run of a dataset."""
    with seen.reading() as connection:
        names = seen.datasets(connection, ids=[dataset_id])
        query = _runs(names).where(run.c.run_number == run_number)
        rows = _counted(connection, query, names)
    return pages.json(request, one(rows))


def _runs(names: dict[int, str]) -> sa.Select[Any]:
    # Grouped in the order of the key, this stops as soon as the page is full.
    return (
        sa.select(run.c.dataset_id, run.c.run_number)
        .where(run.c.dataset_id == any_of(list(names)))
        .group_by(run.c.dataset_id, run.c.run_number)
    )


def _counted(
    connection: sa.Connection, query: sa.Select[Any], names: dict[int, str]
) -> list[dict[str, Any]]:
    listed = query.subquery()
    of_run = (
        sa.select(
            sa.func.count().label("ls_count"), sa.func.max(lumisection.c.ls_number).label("last_ls")
        )
        .where(lumisection.c.dataset_id == listed.c.dataset_id)
        .where(lumisection.c.run_number == listed.c.run_number, lumisection.c.ls_number > 0)
        .lateral()
    )
    expected = sa.func.greatest(run_condition.c.last_ls_number, of_run.c.last_ls)
    counted = (
        sa.select(listed, of_run.c.ls_count, expected.label("expected"))
        .select_from(listed)
        .join(of_run, sa.true())
        .outerjoin(run_condition, run_condition.c.run_number == listed.c.run_number)
        .order_by(listed.c.dataset_id, listed.c.run_number)
    )
    return [
        {
            "dataset_id": row.dataset_id,
            "dataset": names[row.dataset_id],
            "run_number": row.run_number,
            "ls_count": row.ls_count,
            "ls_completeness": row.ls_count / row.expected if row.expected else None,
        }
        for row in connection.execute(counted)
    ]


@router.get("/lumisection/", response_model=shapes.Page[shapes.Lumisection])
def lumisections(
    request: Request, seen: Seen, asked: Annotated[filters.Lumisections, Query()]
) -> Response:
    """Lumisections of datasets, and how many histograms they have."""
    own = lumisection.c
    keys = [own.dataset_id, own.run_number, own.ls_number]
    of_run = (asked.ls_number, asked.ls_number__gte, asked.ls_number__lte)
    with seen.reading() as connection:
        names = asked.names(seen, connection)
        query = asked.of_runs(_lumisections(names), own.run_number)
        query = pages.after(
            between(query, own.ls_number, *of_run), keys, asked.start(3), asked.n_rows
        )
        rows = _with_counts(connection, seen, connection.execute(query).all(), names)
    return pages.page(request, rows, ["dataset_id", "run_number", "ls_number"], asked.n_rows)


@router.get(
    "/lumisection/{dataset_id}/{run_number}/{ls_number}/", response_model=shapes.Lumisection
)
def lumisection_(
    request: Request, seen: Seen, dataset_id: PathId, run_number: PathNumber, ls_number: PathNumber
) -> Response:
    """One lumisection of a dataset."""
    with seen.reading() as connection:
        names = seen.datasets(connection, ids=[dataset_id])
        query = _lumisections(names).where(
            lumisection.c.run_number == run_number, lumisection.c.ls_number == ls_number
        )
        rows = _with_counts(connection, seen, connection.execute(query).all(), names)
    return pages.json(request, one(rows))


def _lumisections(names: dict[int, str]) -> sa.Select[Any]:
    own = lumisection.c
    return sa.select(own.dataset_id, own.run_number, own.ls_number).where(
        own.dataset_id == any_of(list(names)), own.ls_number > 0
    )


def _with_counts(
    connection: sa.Connection, seen: View, found: Sequence[Any], names: dict[int, str]
) -> list[dict[str, Any]]:
    rows = []
    for row in found:
        name = names[row.dataset_id]
        counts = histogram_counts(connection, seen, row.dataset_id, name, row.run_number)
        th1, th2 = counts.get(row.ls_number, (0, 0))
        rows.append(
            {
                "dataset_id": row.dataset_id,
                "dataset": name,
                "run_number": row.run_number,
                "ls_number": row.ls_number,
                "th1_count": th1,
                "th2_count": th2,
            }
        )
    return rows


# -- elements ------------------------------------------------------------------------------------


@router.get("/mes/", response_model=list[shapes.Element])
def elements(request: Request, seen: Seen, asked: Annotated[filters.Elements, Query()]) -> Response:
    """Monitoring elements, all at once."""
    query = matching(_elements(seen), me.c.me, asked.me, asked.me__regex)
    if asked.dim is not None:
        # Of the column's own type, a larger number would be an error.
        query = query.where(me.c.dim == sa.literal(asked.dim, sa.Integer))
    return pages.json(request, _element_rows(seen, query))


@router.get("/mes/{me_id}/", response_model=shapes.Element)
def element(request: Request, seen: Seen, me_id: PathId) -> Response:
    """One monitoring element."""
    rows = _element_rows(seen, _elements(seen).where(me.c.me_id == me_id))
    return pages.json(request, one(rows))


def _elements(seen: View) -> sa.Select[Any]:
    query = sa.select(me.c.me_id, me.c.me, me.c.dim).where(me.c.dim.in_([1, 2]))
    return query.where(seen.elements()).order_by(me.c.me_id)


def _element_rows(seen: View, query: sa.Select[Any]) -> list[dict[str, Any]]:
    with seen.reading() as connection:
        found = connection.execute(query).all()
        datasets = seen.datasets(connection)
        counts = of_elements(connection, datasets, [row.me_id for row in found])
    return [
        {"me_id": row.me_id, "me": row.me, "count": counts.get(row.me_id, 0), "dim": row.dim}
        for row in found
    ]


# -- histograms ----------------------------------------------------------------------------------


def _page(
    request: Request, found: Pages, after: Sequence[int] | None, n_rows: int
) -> Iterator[bytes]:
    sent = nbytes = 0
    key, more = None, False
    start: Key | None = None if after is None else (after[0], after[1], after[2], after[3])
    for this, row in found.rows(start):
        if sent == n_rows or nbytes >= MOST_BYTES:
            more = True
            break
        yield b"," + row if sent else b'{"results":[' + row
        sent, nbytes, key = sent + 1, nbytes + len(row), this
    # Whether there is more is known last, and stands last.
    tail = pages.next_url(request, key if more else None)
    opening = b"" if sent else b'{"results":['
    yield opening + b'],"next":' + pages.dumps(tail) + b',"previous":null}'


def _one_histogram(
    seen: View, n_axes: int, dataset_id: int, run_number: int, ls_number: int, me_id: int
) -> Response:
    asked = Asked(
        n_axes,
        dataset_id=dataset_id,
        me_id=me_id,
        first_run=run_number,
        last_run=run_number,
        first_ls=max(ls_number, 1),
        last_ls=ls_number,
    )
    rows = [row for _, row in Pages(seen, asked).rows(None)]
    return Response(one(rows), media_type="application/json")


def _listing(n_axes: int) -> Any:
    def histograms(
        request: Request, seen: Seen, asked: Annotated[filters.Histograms, Query()]
    ) -> Response:
        """Histograms, in the order of dataset, element, run and lumisection."""
        found = Pages(seen, asked.of(n_axes))
        return pages.stream(request, _page(request, found, asked.start(4), asked.n_rows))

    histograms.__name__ = f"th{n_axes}"
    return histograms


def _single(n_axes: int) -> Any:
    def histogram(
        seen: Seen,
        dataset_id: PathId,
        run_number: PathNumber,
        ls_number: PathNumber,
        me_id: PathId,
    ) -> Response:
        """One histogram."""
        return _one_histogram(seen, n_axes, dataset_id, run_number, ls_number, me_id)

    histogram.__name__ = f"th{n_axes}_one"
    return histogram


for _n_axes, _shape in ((1, shapes.Histogram1D), (2, shapes.Histogram2D)):
    router.add_api_route(
        f"/th{_n_axes}/",
        _listing(_n_axes),
        response_model=shapes.Page[_shape],  # type: ignore[valid-type]
    )
    router.add_api_route(
        f"/th{_n_axes}/{{dataset_id}}/{{run_number}}/{{ls_number}}/{{me_id}}/",
        _single(_n_axes),
        response_model=_shape,
    )
