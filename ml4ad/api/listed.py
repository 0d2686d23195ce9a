"""``/api/v1/``: datasets, files, runs, lumisections, elements and histograms, as DIALS has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy.dialects.postgresql import TIMESTAMP

from ml4ad.api import pages, shapes
from ml4ad.api.app import Seen
from ml4ad.api.counts import histogram_counts, of_elements
from ml4ad.api.histograms import MOST_BYTES, Asked, Key, Pages, logical_name
from ml4ad.api.view import View, any_of, matching
from ml4ad.dqmio.names import parse_dataset
from ml4ad.store import State
from ml4ad.store.context import run_condition
from ml4ad.store.schema import file, lumisection, me, run

router = APIRouter(prefix="/api/v1", tags=["v1"])

_LARGEST, _LARGEST_ID = 2**63 - 1, 2**31 - 1
#: Numbers as filters and in paths; what is beyond the database's range is refused at the door.
Number = Annotated[int | None, Query(ge=-_LARGEST, le=_LARGEST)]
Id = Annotated[int | None, Query(ge=-_LARGEST_ID, le=_LARGEST_ID)]
Text = Annotated[str | None, Query(max_length=1000)]
PathId = Annotated[int, Path(ge=0, le=_LARGEST_ID)]
PathNumber = Annotated[int, Path(ge=0, le=_LARGEST)]

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
def datasets(
    request: Request,
    seen: Seen,
    dataset: Text = None,
    dataset__regex: Text = None,
    next_token: Text = None,
    page_size: Text = None,
) -> Response:
    """Datasets."""
    start, n_rows = pages.cursor(next_token, 1), pages.size(page_size)
    with seen.reading() as connection:
        names = seen.datasets(connection, name=dataset, regex=dataset__regex)
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
def files(
    request: Request,
    seen: Seen,
    dataset_id: Id = None,
    dataset: Text = None,
    dataset__regex: Text = None,
    logical_file_name: Text = None,
    logical_file_name__regex: Text = None,
    status: Text = None,
    min_size: Number = None,
    next_token: Text = None,
    page_size: Text = None,
) -> Response:
    """Files."""
    start, n_rows = pages.cursor(next_token, 1), pages.size(page_size)
    with seen.reading() as connection:
        names = _datasets(connection, seen, dataset_id, dataset, dataset__regex)
        query = _files(names)
        query = matching(query, logical_name(), logical_file_name, logical_file_name__regex)
        if status is not None:
            states = [own for own, word in STATUSES.items() if status in (word, own.value)]
            query = query.where(file.c.state.in_(states))
        if min_size is not None:
            query = query.where(file.c.size >= min_size)
        query = pages.after(query, [file.c.file_id], start, n_rows)
        rows = [_file(row, names) for row in connection.execute(query)]
    return pages.page(request, rows, ["file_id"], n_rows)


@router.get("/file-index/{dataset_id}/{file_id}/", response_model=shapes.FileIndex)
def file_(request: Request, seen: Seen, dataset_id: PathId, file_id: PathId) -> Response:
    """One file."""
    with seen.reading() as connection:
        names = seen.datasets(connection, ids=[dataset_id])
        query = _files(names).where(file.c.file_id == file_id)
        rows = [_file(row, names) for row in connection.execute(query)]
    return pages.json(request, one(rows))


def _datasets(
    connection: sa.Connection,
    seen: View,
    dataset_id: int | None,
    name: str | None,
    regex: str | None,
) -> dict[int, str]:
    ids = None if dataset_id is None else [dataset_id]
    return seen.datasets(connection, name=name, regex=regex, ids=ids)


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
def runs(
    request: Request,
    seen: Seen,
    dataset_id: Id = None,
    dataset: Text = None,
    dataset__regex: Text = None,
    run_number: Number = None,
    run_number__lte: Number = None,
    run_number__gte: Number = None,
    next_token: Text = None,
    page_size: Text = None,
) -> Response:
    """Runs of datasets."""
    start, n_rows = pages.cursor(next_token, 2), pages.size(page_size)
    with seen.reading() as connection:
        names = _datasets(connection, seen, dataset_id, dataset, dataset__regex)
        query = between(
            _runs(names), run.c.run_number, run_number, run_number__gte, run_number__lte
        )
        query = pages.after(query, [run.c.dataset_id, run.c.run_number], start, n_rows)
        rows = _counted(connection, query, names)
    return pages.page(request, rows, ["dataset_id", "run_number"], n_rows)


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


@router.get("/lumisection/", response_model=shapes.Page[shapes.Lumisection])
def lumisections(
    request: Request,
    seen: Seen,
    dataset_id: Id = None,
    dataset: Text = None,
    dataset__regex: Text = None,
    run_number: Number = None,
    run_number__lte: Number = None,
    run_number__gte: Number = None,
    ls_number: Number = None,
    ls_number__lte: Number = None,
    ls_number__gte: Number = None,
    next_token: Text = None,
    page_size: Text = None,
) -> Response:
    """Lumisections of datasets, and how many histograms they have."""
    start, n_rows = pages.cursor(next_token, 3), pages.size(page_size)
    own = lumisection.c
    with seen.reading() as connection:
        names = _datasets(connection, seen, dataset_id, dataset, dataset__regex)
        query = _lumisections(names)
        query = between(query, own.run_number, run_number, run_number__gte, run_number__lte)
        query = between(query, own.ls_number, ls_number, ls_number__gte, ls_number__lte)
        keys = [own.dataset_id, own.run_number, own.ls_number]
        found = connection.execute(pages.after(query, keys, start, n_rows)).all()
        rows = _with_counts(connection, seen, found, names)
    return pages.page(request, rows, ["dataset_id", "run_number", "ls_number"], n_rows)


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
def elements(
    request: Request, seen: Seen, me: Text = None, me__regex: Text = None, dim: Id = None
) -> Response:
    """Monitoring elements, all at once."""
    query = matching(_elements(seen), _ME.c.me, me, me__regex)
    if dim is not None:
        query = query.where(_ME.c.dim == dim)
    return pages.json(request, _element_rows(seen, query))


@router.get("/mes/{me_id}/", response_model=shapes.Element)
def element(request: Request, seen: Seen, me_id: PathId) -> Response:
    """One monitoring element."""
    rows = _element_rows(seen, _elements(seen).where(_ME.c.me_id == me_id))
    return pages.json(request, one(rows))


_ME = me


def _elements(seen: View) -> sa.Select[Any]:
    query = sa.select(_ME.c.me_id, _ME.c.me, _ME.c.dim).where(_ME.c.dim.in_([1, 2]))
    return query.where(seen.elements()).order_by(_ME.c.me_id)


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


def _histograms(
    request: Request,
    seen: View,
    n_axes: int,
    next_token: Text = None,
    page_size: Text = None,
    **filters: Any,
) -> Response:
    start, n_rows = pages.cursor(next_token, 4), pages.size(page_size)
    asked = Asked(n_axes, **{name: own for name, own in filters.items() if own is not None})
    key = None if start is None else (start[0], start[1], start[2], start[3])
    return pages.stream(request, _page(request, Pages(seen, asked), key, n_rows))


def _page(request: Request, found: Pages, start: Key | None, n_rows: int) -> Iterator[bytes]:
    sent = nbytes = 0
    key, more = None, False
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


def _span(exact: int | None, least: int | None, most: int | None) -> tuple[int, int]:
    low, high = max(0, least or 0), _LARGEST if most is None else most
    return (low, high) if exact is None else (max(low, exact), min(high, exact))


def _listing(n_axes: int) -> Any:
    def histograms(
        request: Request,
        seen: Seen,
        dataset_id: Id = None,
        dataset: Text = None,
        dataset__regex: Text = None,
        file_id: Id = None,
        logical_file_name: Text = None,
        logical_file_name__regex: Text = None,
        run_number: Number = None,
        run_number__lte: Number = None,
        run_number__gte: Number = None,
        ls_number: Number = None,
        ls_number__lte: Number = None,
        ls_numbet__lte: Annotated[Number, Query(description="as `cmsdials` spells it")] = None,
        ls_number__gte: Number = None,
        me_id: Id = None,
        me: Text = None,
        me__regex: Text = None,
        entries__gte: Number = None,
        next_token: Text = None,
        page_size: Text = None,
    ) -> Response:
        """Histograms, in the order of dataset, element, run and lumisection."""
        most = [limit for limit in (ls_number__lte, ls_numbet__lte) if limit is not None]
        first_run, last_run = _span(run_number, run_number__gte, run_number__lte)
        first_ls, last_ls = _span(ls_number, ls_number__gte, min(most, default=None))
        return _histograms(
            request,
            seen,
            n_axes,
            next_token,
            page_size,
            dataset_id=dataset_id,
            dataset=dataset,
            dataset_regex=dataset__regex,
            file_id=file_id,
            logical_file_name=logical_file_name,
            logical_file_name_regex=logical_file_name__regex,
            first_run=first_run,
            last_run=last_run,
            first_ls=max(first_ls, 1),
            last_ls=last_ls,
            me_id=me_id,
            me=me,
            me_regex=me__regex,
            least_entries=entries__gte,
        )

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
