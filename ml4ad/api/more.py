"""``/api/v2/``: whole stacks, scores, incidents, states; conditions and verdicts, also new."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pandas as pd
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ml4ad import conditions, detect, verdict, workspaces
from ml4ad.api import access, bodies, pages, rows, tables, whole
from ml4ad.api.app import Seen
from ml4ad.api.tables import AskedTable
from ml4ad.api.view import View
from ml4ad.archive import Archive
from ml4ad.conditions import files, names
from ml4ad.detect import registry
from ml4ad.store.scoring import VERDICTS

router = APIRouter(prefix="/api/v2", tags=["v2"])

_LARGEST = 2**63 - 1
_PLAIN = r"^[^\x00]*$"
Name = Annotated[str, Query(min_length=1, max_length=1000, pattern=_PLAIN)]
Run = Annotated[int, Query(ge=0, le=_LARGEST)]
Ls = Annotated[int, Query(ge=0, le=_LARGEST)]
Glob = Annotated[
    str | None, Query(max_length=1000, pattern=_PLAIN, description="* and ? as in a shell")
]
Form = Annotated[whole.Format, Query(alias="format")]


class Said(BaseModel):
    """What a person says of lumisections; see ``ml4ad verdict``."""

    model_config = ConfigDict(extra="forbid")

    run_number: int = Field(ge=1, le=2**31 - 1)
    lumisections: list[tuple[int, int]] = Field(
        min_length=1, max_length=1000, description="ranges, both ends included"
    )
    verdict: Literal[VERDICTS]  # type: ignore[valid-type]
    why: str = Field("", max_length=5000, pattern=_PLAIN)
    dataset: str = Field("", max_length=255, pattern=_PLAIN)
    me: str = Field("", max_length=255, pattern=_PLAIN)
    incident_id: int | None = Field(None, ge=1, le=2**31 - 1)


class Kept(BaseModel):
    """Numbers of the new verdicts."""

    verdict_ids: list[int]


# -- stacks --------------------------------------------------------------------------------------


@router.get(
    "/stack",
    response_class=Response,
    responses={200: {"content": dict.fromkeys(whole.MEDIA.values(), tables.BINARY)}},
)
def stack(
    request: Request,
    seen: Seen,
    me: Name,
    dataset: Name,
    run_number: Run,
    first_ls: Ls = 0,
    last_ls: Ls = _LARGEST,
    form: Form = "arrow",
    compression: whole.Compression = "lz4",
) -> Response:
    """All lumisections of one element of one run, exactly, in one answer.

    lz4 is soon packed and unpacked; zstd is the smallest, for a slow network.
    """
    own = whole.element(seen, me, dataset, run_number)
    # Its columns are compressed already.
    del request
    found = whole.written(own, whole.parts(seen, own, first_ls, last_ls), form, compression)
    return pages.sent(found, whole.MEDIA[form])


@router.get("/axes", response_model=rows.Element)
def axes(request: Request, seen: Seen, me: Name, dataset: Name, run_number: Run) -> Response:
    """Kind, title and axes of an element in a run: exact edges, labels."""
    return pages.json(request, whole.element(seen, me, dataset, run_number).described())


# -- what was found ------------------------------------------------------------------------------


def _known(seen: View, dataset: str) -> tuple[Archive, tuple[str, ...]]:
    """The archive, and globs of the elements that are seen; KeyError for an unseen dataset."""
    with seen.reading() as connection:
        if not seen.datasets(connection, name=dataset):
            raise KeyError(f"Not found, or not to be seen: dataset {dataset!r}")
    own = seen.workspace
    patterns = workspaces.elements_of(own, dataset, "shown") if own else ("*",)
    return Archive(seen.engine), patterns


@router.get("/scores", response_model=list[rows.Score], responses=tables.ARROW)
def scores(
    request: Request,
    seen: Seen,
    dataset: Name,
    run_number: Run,
    wanted: AskedTable,
    me: Glob = None,
    model: Glob = None,
) -> Response:
    """Every lumisection of a run with its score, or the reason why there is none.

    Of the models that are active, unless one is named; where none is active there is no row, and
    the header ``Note`` says so.
    """
    archive, patterns = _known(seen, dataset)
    found = detect.scores(archive, run_number, me=me, dataset=dataset, model=model)
    answer = tables.of_frame(request, found[_fits(found, patterns)], wanted)
    if found.empty and model is None and not registry.active(archive):
        answer.headers["Note"] = "no model is active; model= names one of those before"
    return answer


@router.get("/incidents", response_model=list[rows.Incident], responses=tables.ARROW)
def incidents(
    request: Request, seen: Seen, dataset: Name, run_number: Run, wanted: AskedTable
) -> Response:
    """What the models found in a run: where, since when, in words."""
    archive, patterns = _known(seen, dataset)
    found = detect.incidents(archive, run_number, dataset=dataset)
    found = found[_fits(found, patterns)]
    shown = [[me for me in mes if workspaces.fits(patterns, me)] for mes in found["mes"]]
    return tables.of_frame(request, found.assign(mes=shown), wanted)


@router.get("/states", response_model=list[rows.LumisectionState], responses=tables.ARROW)
def states(
    request: Request, seen: Seen, dataset: Name, run_number: Run, wanted: AskedTable
) -> Response:
    """Each lumisection of a run: good, bad or not assessed, and why."""
    archive, _ = _known(seen, dataset)
    workspace = seen.workspace.name if seen.workspace else None
    return tables.of_frame(
        request, verdict.states(archive, dataset, run_number, workspace=workspace), wanted
    )


@router.get("/conditions", response_model=list[rows.LumisectionConditions], responses=tables.ARROW)
def conditions_(
    request: Request, seen: Seen, dataset: Name, run_number: Run, wanted: AskedTable
) -> Response:
    """Conditions of each lumisection of a run; luminosity is in 1/ub."""
    archive, _ = _known(seen, dataset)
    found = conditions.lumisections(archive.engine, dataset, run_number)
    return tables.of_frame(request, found.reset_index(), wanted)


class Loaded(BaseModel):
    """Rows that were taken in."""

    n_runs: int
    n_lumisections: int
    n_rates: int
    n_flags: int
    n_references: int
    certifications: list[str]


_LOADER = bodies.may("write", "conditions", everywhere=True)
_CONDITIONS = {
    "application/json": {
        "schema": {"anyOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}]}
    },
    "text/csv": {"schema": {"type": "string"}},
}


@router.post(
    "/conditions",
    response_model=Loaded,
    openapi_extra={"requestBody": {"required": True, "content": _CONDITIONS}},
)
def load_conditions(
    request: Request,
    seen: Annotated[View, _LOADER],
    content: Annotated[bytes, bodies.content(_LOADER)],
    name: Annotated[
        str,
        Query(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$",
            max_length=200,
            description="what the file would be called; also the name of a certification",
        ),
    ] = "conditions",
    kind: Annotated[files.Kind | None, Query(description="else the body and `name` tell")] = None,
    lumi_unit: Annotated[names.Unit, Query(description="of luminosities in a table")] = "/pb",
) -> Response:
    """Take conditions in: JSON or CSV as `ml4ad conditions load` does, all of it or nothing.

    Runs, lumisections, trigger rates, Run Registry's entries, or a certification. What is given
    replaces what is stored of its run or lumisection, what is missing leaves it; a certification
    replaces the one of its kind and name. They are everybody's: the key must be of no workspace.
    """
    details: dict[str, Any] = {"name": name, "kind": kind, "bytes": len(content)}
    with access.noted(seen.engine, seen.caller.name, "conditions", details, done=200):
        # The source by which it is stored, and what is wrong is told of.
        source = f"REST/{seen.caller.name}/{name}"
        found = files.parse(content, source, kind=kind, lumi_unit=lumi_unit)
        loaded = conditions.load(seen, found)
        kept = {column: getattr(loaded, column) for column in Loaded.model_fields}
        details |= kept
    return pages.json(request, kept)


def _fits(found: pd.DataFrame, patterns: tuple[str, ...]) -> Any:
    names = {name: workspaces.fits(patterns, name) for name in found["me"].astype(str).unique()}
    return found["me"].astype(str).map(names).astype(bool)


# -- verdicts ------------------------------------------------------------------------------------


@router.get("/verdicts", response_model=list[rows.Verdict], responses=tables.ARROW)
def verdicts(
    request: Request, seen: Seen, dataset: Name, run_number: Run, wanted: AskedTable
) -> Response:
    """What people said of a run, in the order in which they said it."""
    archive, patterns = _known(seen, dataset)
    workspace = seen.workspace.name if seen.workspace else None
    found = verdict.list_(archive, run_number, workspace=workspace, dataset=dataset)
    return tables.of_frame(request, found[(found["me"] == "") | _fits(found, patterns)], wanted)


_SPEAKER = bodies.may("write", "verdict")


@router.post(
    "/verdicts", response_model=Kept, status_code=201, openapi_extra=bodies.described(Said)
)
def say(
    request: Request,
    seen: Annotated[View, _SPEAKER],
    said: Annotated[Said, bodies.of(Said, _SPEAKER)],
) -> Response:
    """Say what lumisections are; kept for ever, and noted with the name of the key."""
    caller, details = seen.caller, said.model_dump(exclude={"why"})
    with access.noted(seen.engine, caller.name, "verdict", details, done=201):
        if said.dataset:
            _, patterns = _known(seen, said.dataset)
            if said.me and not workspaces.fits(patterns, said.me):
                raise KeyError(f"Not found, or not to be seen: element {said.me!r}")
        numbers = verdict.add(
            Archive(seen.engine),
            said.run_number,
            said.lumisections,
            said.verdict,
            why=said.why,
            dataset=said.dataset,
            workspace=seen.workspace.name if seen.workspace else "",
            me=said.me,
            incident_id=said.incident_id,
            by=caller.name,
        )
    return pages.json(request, {"verdict_ids": numbers}, 201)
