"""``/api/v2/``: notebooks that are started over the network, and how far they are."""

from __future__ import annotations

import threading
import time
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ml4ad.api import access, bodies, pages, rows, tables
from ml4ad.api.app import Seen
from ml4ad.api.tables import AskedTable
from ml4ad.api.view import View
from ml4ad.pipelines import records, start
from ml4ad.pipelines.records import Record
from ml4ad.pipelines.start import Started
from ml4ad.store.execution import RunState, pipeline_run

router = APIRouter(prefix="/api/v2", tags=["v2"])

#: Seconds in which a started process has to say which run it is.
BEGIN_S = 120.0

Where = Annotated[str, Field(pattern=r"^(/|[a-z]+://)[^\x00]*$", max_length=4000)]
Dataset = Annotated[str, Field(max_length=255, pattern=r"^[^\x00]*$")]
Number = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Files(BaseModel):
    """DQMIO files as the server sees them: whole paths of files or folders, globs, addresses."""

    model_config = ConfigDict(extra="forbid")

    paths: list[Where] = Field(min_length=1, max_length=1000)
    dataset: Dataset = Field("", description="empty: as the path of each file tells")


class Ingestion(Files):
    """Files to take in, and those that wait already."""

    replace: bool = Field(False, description="take lumisections from older files that hold them")
    workers: int = Field(2, ge=0, le=64, description="local processes; 0: one alone")


class Scoring(BaseModel):
    """Runs to score: all that are new, unless told otherwise."""

    model_config = ConfigDict(extra="forbid")

    dataset: Dataset = ""
    run_numbers: list[Number] = Field([], max_length=10_000)
    models: list[Dataset] = Field([], max_length=100)
    new_only: bool = True
    workers: int = Field(2, ge=0, le=64, description="local processes; 0: one alone")


_INDEXER = bodies.may("admin", "index", everywhere=True)
_INGESTER = bodies.may("admin", "ingest", everywhere=True)
_SCORER = bodies.may("write", "score", everywhere=True)
_BEGUN: dict[str, Any] = {
    "response_model": rows.PipelineRun,
    "status_code": 202,
    "responses": {409: {"model": rows.Problem, "description": "one is at work; see Location"}},
}


@router.post("/index", **_BEGUN, openapi_extra=bodies.described(Files))
def index(
    request: Request,
    seen: Annotated[View, _INDEXER],
    wanted: Annotated[Files, bodies.of(Files, _INDEXER)],
) -> Response:
    """Begin to note which files there are (scope `admin`); `Location` says how far it is."""
    return _begun(request, seen, "index", wanted)


@router.post("/ingest", **_BEGUN, openapi_extra=bodies.described(Ingestion))
def ingest(
    request: Request,
    seen: Annotated[View, _INGESTER],
    wanted: Annotated[Ingestion, bodies.of(Ingestion, _INGESTER)],
) -> Response:
    """Begin to take files in (scope `admin`); `Location` says how far it is."""
    return _begun(request, seen, "ingest", wanted)


@router.post("/score", **_BEGUN, openapi_extra=bodies.described(Scoring))
def score(
    request: Request,
    seen: Annotated[View, _SCORER],
    wanted: Annotated[Scoring, bodies.of(Scoring, _SCORER)],
) -> Response:
    """Begin to score runs (scope `write`); `Location` says how far it is."""
    return _begun(request, seen, "score", wanted)


def _begun(request: Request, seen: View, notebook: str, wanted: BaseModel) -> Response:
    given = wanted.model_dump(exclude_unset=True)
    job = f"api {notebook}"
    with access.noted(seen.engine, seen.caller.name, notebook, given, done=202):
        # Another process of the server is held off by the job's lock in the database.
        if not _BEGINNING[notebook].acquire(blocking=False):
            raise _at_work(request, notebook, None)
        try:
            already = records.running(seen.engine, job)
            if already is not None:
                raise _at_work(request, notebook, already)
            url = seen.engine.url.render_as_string(hide_password=False)
            started = start.steps([notebook], given, job=job, database_url=url)
            threading.Thread(target=_awaited, args=[started], daemon=True).start()
            record = _record_of(seen, started, job)
        finally:
            _BEGINNING[notebook].release()
        if record.state is RunState.REFUSED:
            raise _at_work(request, notebook, None)
    answer = pages.json(request, _row(record), 202)
    answer.headers["Location"] = _address(request, record)
    return answer


_BEGINNING = {name: threading.Lock() for name in ("index", "ingest", "score")}


def _awaited(started: Started) -> None:
    """A process that has ended is not left behind."""
    started.process.wait()
    started.said.close()


def _record_of(seen: View, started: Started, job: str) -> Record:
    """The record that a process has made; raises OSError, with its words, if it makes none."""
    end = time.monotonic() + BEGIN_S
    while time.monotonic() < end:
        over = started.is_over
        for record in records.recent(seen.engine, job=job, limit=5):
            if started.owns(record):
                return record
        if over:
            break
        time.sleep(0.1)
    raise ConnectionError(f"{started.what}: no run has begun")


def _at_work(request: Request, notebook: str, record: Record | None) -> HTTPException:
    headers = {"Location": _address(request, record)} if record else None
    return HTTPException(409, f"{notebook} is at work", headers=headers)


def _address(request: Request, record: Record) -> str:
    return f"{request.base_url}api/v2/pipeline-runs/{record.pipeline_run_id}"


# -- what was started ----------------------------------------------------------------------------


@router.get("/pipeline-runs", response_model=list[rows.PipelineRun], responses=tables.ARROW)
def pipeline_runs(
    request: Request,
    seen: Seen,
    wanted: AskedTable,
    notebook: Annotated[str | None, Query(min_length=1, max_length=255)] = None,
    state: RunState | None = None,
    next_token: tables.Token = None,
) -> Response:
    """Runs of notebooks, by whomever; for callers of all workspaces."""
    del next_token
    seen.need("read", everywhere=True)
    query = tables.select_of(pipeline_run, list(rows.PipelineRun.model_fields))
    for column, asked in ((pipeline_run.c.notebook, notebook), (pipeline_run.c.state, state)):
        if asked is not None:
            query = query.where(column == asked)
    # Whoever looks marks those that are lost.
    records.recent(seen.engine, limit=1)
    with seen.reading() as connection:
        return tables.of_query(
            request,
            connection,
            query,
            wanted,
            key=["pipeline_run_id"],
            sortable=["notebook", "state", "started_at", "heartbeat_at"],
        )


@router.get("/pipeline-runs/{pipeline_run_id}", response_model=rows.PipelineRun)
def pipeline_run_(
    request: Request, seen: Seen, pipeline_run_id: Annotated[int, Path(ge=1, le=2**31 - 1)]
) -> Response:
    """One run: its state, and the cell that it is at."""
    seen.need("read", everywhere=True)
    return pages.json(request, _row(records.find(seen.engine, pipeline_run_id)))


def _row(record: Record) -> dict[str, Any]:
    return {name: getattr(record, name) for name in rows.PipelineRun.model_fields}
