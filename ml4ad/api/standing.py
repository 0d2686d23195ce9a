"""``/api/v2/``: files and runs of the whole archive, and where each of them stands."""

from __future__ import annotations

from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.dialects.postgresql import TIMESTAMP

from ml4ad.api import rows, tables
from ml4ad.api.app import Seen
from ml4ad.api.tables import AskedTable
from ml4ad.api.view import View, any_of, between, like
from ml4ad.store import State
from ml4ad.store.schema import dataset as dataset_table
from ml4ad.store.schema import file, lumisection, me, run
from ml4ad.store.scoring import incident, score, verdict

router = APIRouter(prefix="/api/v2", tags=["v2"])

Name = Annotated[str | None, Query(min_length=1, max_length=1000)]
Glob = Annotated[str | None, Query(max_length=1000, description="* and ? as in a shell")]
Number = Annotated[int | None, Query(ge=0, le=2**63 - 1)]


@router.get("/files", response_model=list[rows.File], responses=tables.ARROW)
def files(
    request: Request,
    seen: Seen,
    wanted: AskedTable,
    dataset: Name = None,
    state: State | None = None,
    path: Glob = None,
    next_token: tables.Token = None,
) -> Response:
    """Files, in which state each is and why; the address of the next page stands in ``Link``."""
    del next_token
    own = file.c
    plain = (
        *("path", "state", "reason", "size", "era", "release", "guid", "vanished", "n_ls"),
        *("n_refused", "n_histograms", "packed_bytes", "attempts", "worker"),
    )
    changed = sa.func.coalesce(
        *(own.finished_at, own.started_at, own.indexed_at),
        sa.func.to_timestamp(own.mtime, type_=TIMESTAMP(timezone=True)),
    )
    times = (own.indexed_at, own.started_at, own.finished_at)
    with seen.reading() as connection:
        names = seen.datasets(connection, name=dataset)
        named = sa.func.coalesce(dataset_table.c.dataset, "").label("dataset")
        query = sa.select(own.file_id, named, *(own[name] for name in plain), *times)
        query = query.add_columns(changed.label("changed_at")).outerjoin_from(
            file, dataset_table, dataset_table.c.dataset_id == own.dataset_id
        )
        of_seen = own.dataset_id == any_of(list(names))
        if seen.workspace is None and dataset is None:
            of_seen |= own.dataset_id.is_(None)
        query = query.where(of_seen)
        if state is not None:
            query = query.where(own.state == state)
        if path is not None:
            query = query.where(like(own.path, [path]))
        sortable = ("dataset", "path", "state", "size", "changed_at")
        return tables.of_query(
            request, connection, query, wanted, key=["file_id"], sortable=sortable
        )


@router.get("/runs", response_model=list[rows.Run], responses=tables.ARROW)
def runs(
    request: Request,
    seen: Seen,
    wanted: AskedTable,
    dataset: Name = None,
    run_number: Number = None,
    first_run: Number = None,
    last_run: Number = None,
    next_token: tables.Token = None,
) -> Response:
    """Runs of datasets: lumisections that are here, scores, incidents and verdicts."""
    del next_token
    with seen.reading() as connection:
        names = seen.datasets(connection, name=dataset)
        query = (
            sa.select(run.c.dataset_id.label("_dataset_id"), dataset_table.c.dataset)
            .add_columns(run.c.run_number)
            .join_from(run, dataset_table, dataset_table.c.dataset_id == run.c.dataset_id)
            .where(run.c.dataset_id == any_of(list(names)))
            .group_by(run.c.dataset_id, dataset_table.c.dataset, run.c.run_number)
        )
        query = between(query, run.c.run_number, run_number, first_run, last_run)
        return tables.of_query(
            request,
            connection,
            query,
            wanted,
            key=["dataset", "run_number"],
            sortable=[],
            more=_of_run(seen),
        )


def _of_run(seen: View) -> dict[str, Any]:
    """What a page of runs tells of each besides its name, by the column's name."""

    def made(table: sa.Table, value: sa.ColumnElement[Any], *where: Any) -> Any:
        def column(page: sa.Subquery) -> sa.ScalarSelect[Any]:
            query = sa.select(value).where(table.c.run_number == page.c.run_number, *where)
            if "dataset_id" in table.c:
                query = query.where(table.c.dataset_id == page.c["_dataset_id"])
            else:
                query = query.where(table.c.dataset.in_(["", page.c.dataset]))
            return query.correlate(page).scalar_subquery()

        return column

    n = sa.func.count()
    shown = sa.select(me.c.me_id).where(seen.elements())
    own: sa.ColumnElement[bool] = sa.true()
    if seen.workspace is not None:
        own = verdict.c.workspace.in_(["", seen.workspace.name])
    return {
        "n_files": made(run, sa.func.count(run.c.file_id)),
        "n_ls": made(lumisection, n, lumisection.c.ls_number > 0),
        "begin_time": made(run, sa.func.min(run.c.begin_time)),
        "end_time": made(run, sa.func.max(run.c.end_time)),
        "n_scored_elements": made(
            score, sa.func.count(score.c.me_id.distinct()), score.c.me_id.in_(shown)
        ),
        "scored_at": made(score, sa.func.max(score.c.scored_at)),
        "n_incidents": made(incident, n, incident.c.me_id.in_(shown)),
        "n_verdicts": made(verdict, n, own),
    }
