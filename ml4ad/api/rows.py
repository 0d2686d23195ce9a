"""Rows of ``/api/v2/``, for its description: a field that was not asked for is not there."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from ml4ad.store import State
from ml4ad.store.execution import RunState
from ml4ad.store.scoring import VERDICTS

Number: TypeAlias = float | None
Text: TypeAlias = str | None
Time: TypeAlias = datetime | None
Whole: TypeAlias = int | None


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str
    code: str = ""


#: What every address may answer besides.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "makes no sense, or takes too long"},
    403: {"model": Problem, "description": "not allowed"},
    404: {"model": Problem, "description": "not there, or not to be seen"},
    413: {"model": Problem, "description": "the body is too large"},
    429: {"model": Problem, "description": "too often; see Retry-After"},
    503: {"model": Problem, "description": "too many, or no database; see Retry-After"},
}


class Axis(BaseModel):
    """An axis: ``edges`` of all bins, ``labels`` of each or none."""

    name: str
    title: str
    edges: list[float]
    labels: list[str]
    variable: bool


class Element(BaseModel):
    """What all lumisections of an element of a run share."""

    me: str
    dataset: str
    run_number: int
    kind: str
    title: str
    flags: int
    error_mode: str
    value_range: list[float]
    axes: list[Axis]
    statistics: list[str]


class Score(BaseModel):
    """A lumisection of an element as a model sees it; ``log_p`` is a natural logarithm."""

    model: str = ""
    dataset: str = ""
    me: str = ""
    run_number: int = 0
    ls_number: int = 0
    score: Number = None
    p_value: Number = None
    log_p: Number = None
    flagged: bool = False
    reason: str = ""


class Incident(BaseModel):
    """Lumisections in a row in which elements alarm together."""

    incident_id: int = 0
    model: str = ""
    dataset: str = ""
    run_number: int = 0
    first_ls: int = 0
    last_ls: int = 0
    open: bool = False
    n_elements: int = 0
    n_flagged: int = 0
    me: str = ""
    mes: list[str] = []
    peak_ls: int = 0
    score: Number = None
    log_p: Number = None
    direction: str = ""
    strength: Number = None
    observed: Number = None
    expected: Number = None
    place: dict[str, Any] = {}
    reference: list[Any] = []
    sentence: str = ""
    found_at: Time = None


class LumisectionState(BaseModel):
    """What is known of a lumisection, and why."""

    run_number: int = 0
    ls_number: int = 0
    state: Literal["good", "bad", "not assessed"] = "not assessed"
    reason: str = ""
    n_assessed: int = 0
    n_elements: int = 0
    n_alarms: int = 0
    by_person: bool = False


class LumisectionConditions(BaseModel):
    """Conditions of a lumisection, and whatever else is stored of it; luminosity in 1/ub."""

    model_config = ConfigDict(extra="allow")

    run_number: int = 0
    ls_number: int = 0


class Verdict(BaseModel):
    """What somebody said; empty texts stand for any dataset, all workspaces, all elements."""

    verdict_id: int = 0
    run_number: int = 0
    first_ls: int = 0
    last_ls: int = 0
    verdict: Literal[VERDICTS] = "seen"  # type: ignore[valid-type]
    why: str = ""
    dataset: str = ""
    workspace: str = ""
    me: str = ""
    incident_id: Whole = None
    said_by: str = ""
    said_at: Time = None


class File(BaseModel):
    """A file on its way into the archive; counts are those of its last ingestion."""

    file_id: int = 0
    dataset: str = ""
    path: str = ""
    state: State = State.INDEXED
    reason: str = ""
    size: int = 0
    era: str = ""
    release: str = ""
    guid: Text = None
    vanished: bool = False
    n_ls: Whole = None
    n_refused: Whole = None
    n_histograms: Whole = None
    packed_bytes: Whole = None
    attempts: int = 0
    worker: Text = None
    indexed_at: Time = None
    started_at: Time = None
    finished_at: Time = None
    changed_at: Time = None


class Run(BaseModel):
    """A run of a dataset: what is here of it, and what was made of that."""

    dataset: str = ""
    run_number: int = 0
    n_files: int = 0
    n_ls: int = 0
    begin_time: Time = None
    end_time: Time = None
    n_scored_elements: int = 0
    scored_at: Time = None
    n_incidents: int = 0
    n_verdicts: int = 0


class PipelineRun(BaseModel):
    """A notebook that was run, or is; ``cell`` of ``n_cells`` is how far it has come."""

    pipeline_run_id: int = 0
    notebook: str = ""
    state: RunState = RunState.RUNNING
    reason: str = ""
    given: dict[str, Any] = {}
    who: str = ""
    host: str = ""
    job: Text = None
    chain_id: Whole = None
    rerun_of: Whole = None
    cell: int = 0
    n_cells: int = 0
    started_at: Time = None
    heartbeat_at: Time = None
    finished_at: Time = None
    error_name: Text = None
    error_message: Text = None
