"""From scores to flags, to what people say, to certification: good, bad, or not assessed.

A lumisection is good only if everything that has a model was assessed and nothing alarms. People's
verdicts stand over the detectors', and change none of their scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from numpy.typing import NDArray

from ml4ad import workspaces
from ml4ad.conditions import lumisections as conditions_of
from ml4ad.conditions import ranges
from ml4ad.conditions.certified import CertificationLike, Certifications, all_of
from ml4ad.conditions.certified import certification as certified
from ml4ad.conditions.query import Runs, among
from ml4ad.conditions.ranges import LARGEST_RUN, Ranges
from ml4ad.detect.registry import ModelLike, frame, learned
from ml4ad.detect.scored import ScoreMap, dataset_number, models_or_active, score_map, scores
from ml4ad.detect.train import named
from ml4ad.dqmio.names import Pattern, matcher
from ml4ad.provenance import user
from ml4ad.stack import Ints
from ml4ad.store import schema, scoring
from ml4ad.store.scoring import VERDICTS

if TYPE_CHECKING:
    from ml4ad.archive import Archive

#: States of a lumisection; in arrays -1 stands for what nobody asked about.
STATES = ("not assessed", "good", "bad")
_NEUTRAL, _NOT_ASSESSED, _GOOD, _BAD = -1, 0, 1, 2

_VERDICT, _INCIDENT = scoring.verdict, scoring.incident


# -- flags ---------------------------------------------------------------------------------------


def flags(
    archive: Archive,
    run_number: Runs = None,
    *,
    me: Pattern | None = None,
    dataset: str | None = None,
    model: ModelLike | Sequence[ModelLike] | None = None,
) -> pd.DataFrame:
    """Pairs of element and lumisection that alarm, as rows of ``detect.scores``."""
    every = scores(archive, run_number, me=me, dataset=dataset, model=model)
    found = every[every["flagged"]].drop(columns=["flagged", "reason"])
    for name in ("model", "dataset", "me"):
        found[name] = found[name].cat.remove_unused_categories()
    return found.reset_index(drop=True)


# -- what people say -----------------------------------------------------------------------------


def add(
    archive: Archive,
    run_number: int,
    lumisections: int | Sequence[Any],
    verdict: str,
    *,
    why: str = "",
    dataset: str = "",
    workspace: str = "",
    me: str = "",
    incident_id: int | None = None,
    by: str | None = None,
) -> list[int]:
    """Numbers of the new verdicts: one per range of lumisections, kept for ever.

    ``lumisections`` is one number, a pair (first, last), or a list of pairs. ``verdict`` is good,
    bad, known (the alarm is explained and does not make it bad), not assessed, or seen (which
    judges nothing). ``dataset``, ``workspace`` and ``me`` narrow it; empty is all. A later verdict
    supersedes an earlier one; none is changed or deleted. Raises ValueError for what cannot be,
    KeyError for a dataset, workspace or element that is not there.
    """
    if verdict not in VERDICTS:
        raise ValueError(f"verdict {verdict!r}, want one of {', '.join(VERDICTS)}")
    if verdict in ("bad", "known") and not why.strip():
        raise ValueError(f"a verdict of {verdict!r} wants a reason")
    if len(why) > schema.MAX_REASON or "\0" in why:
        raise ValueError(f"{len(why)} characters of reason, want at most {schema.MAX_REASON}")
    if not 1 <= run_number <= LARGEST_RUN:
        raise ValueError(f"run {run_number}, want 1 to {LARGEST_RUN}")
    pairs = _pairs(run_number, lumisections)
    _check_scope(archive, dataset, workspace, me)
    if incident_id is not None:
        _check_incident(archive, incident_id, run_number)
    said_by = (by or user()).strip()
    if not 1 <= len(said_by) <= schema.MAX_NAME:
        raise ValueError(f"said by {said_by!r}, want a name of 1 to {schema.MAX_NAME} characters")
    rows = [
        {
            "run_number": run_number,
            "first_ls": first,
            "last_ls": last,
            "verdict": verdict,
            "why": why.strip(),
            "dataset": dataset,
            "workspace": workspace,
            "me": me,
            "incident_id": incident_id,
            "said_by": said_by,
        }
        for first, last in pairs
    ]
    with archive.engine.begin() as connection:
        numbers = connection.execute(
            sa.insert(_VERDICT).returning(_VERDICT.c.verdict_id, sort_by_parameter_order=True), rows
        ).scalars()
        scoring.notify(
            connection,
            what="verdict",
            run_number=run_number,
            verdict=verdict,
            by=said_by,
            dataset=dataset,
            workspace=workspace,
            me=me,
        )
        return list(numbers)


def _pairs(run_number: int, lumisections: int | Sequence[Any]) -> list[tuple[int, int]]:
    if isinstance(lumisections, int | np.integer):
        listed: list[Any] = [(int(lumisections), int(lumisections))]
    elif len(lumisections) == 2 and all(isinstance(n, int | np.integer) for n in lumisections):
        listed = [tuple(lumisections)]
    else:
        listed = list(lumisections)
    checked = ranges.of_mapping({run_number: listed}, "lumisections")
    if not checked:
        raise ValueError("no lumisection: want a number, a pair (first, last), or a list of pairs")
    return checked[run_number]


def _check_scope(archive: Archive, dataset: str, workspace: str, me: str) -> None:
    if workspace:
        workspaces.get(archive.engine, workspace)
    for name, table in (("dataset", schema.dataset), ("me", schema.me)):
        wanted = dataset if name == "dataset" else me
        if not wanted:
            continue
        with archive.engine.connect() as connection:
            if not connection.scalar(sa.select(sa.exists().where(table.c[name] == wanted))):
                raise KeyError(f"no {'element' if name == 'me' else name} {wanted!r} here")


def _check_incident(archive: Archive, incident_id: int, run_number: int) -> None:
    query = sa.select(_INCIDENT.c.run_number).where(_INCIDENT.c.incident_id == incident_id)
    with archive.engine.connect() as connection:
        found = connection.execute(query).scalar_one_or_none()
    if found != run_number:
        there = "no such incident" if found is None else f"it is of run {found}"
        raise KeyError(f"incident {incident_id} of run {run_number}: {there}")


def list_(
    archive: Archive,
    run_number: Runs = None,
    *,
    workspace: str | None = None,
    dataset: str | None = None,
) -> pd.DataFrame:
    """All that people said, in the order in which they said it; a row per verdict.

    ``workspace`` and ``dataset`` leave out what was said of others only.
    """
    query = sa.select(_VERDICT).where(among(_VERDICT.c.run_number, run_number))
    if workspace is not None:
        query = query.where(_VERDICT.c.workspace.in_(["", workspace]))
    if dataset is not None:
        query = query.where(_VERDICT.c.dataset.in_(["", dataset]))
    found = frame(archive, query.order_by(_VERDICT.c.verdict_id))
    return found.astype({"incident_id": "Int64"})


# -- states of lumisections ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Board:
    """States of all that judges a run, ``(n_rows, n_ls)``.

    The first ``n_judged`` rows are the elements that models learned, the others what people spoke
    of besides. ``states`` holds -1 (nobody asked), 0 not assessed, 1 good, 2 bad; ``said`` what a
    person decided; ``why`` a reason for what is not plainly good.
    """

    rows: dict[str, int]
    n_judged: int
    ls_numbers: Ints
    states: NDArray[np.int8]
    said: NDArray[np.bool_]
    why: NDArray[np.object_]


_EVERYTHING = "the lumisection"


@dataclass(frozen=True)
class _Said:
    """What a person said, and of what."""

    first_ls: int
    last_ls: int
    verdict: str
    why: str
    workspace: str
    me: str
    said_by: str

    @property
    def scope(self) -> str:
        return self.me or (f"workspace {self.workspace}" if self.workspace else _EVERYTHING)


def states(
    archive: Archive,
    dataset: str,
    run_number: int,
    *,
    workspace: str | None = None,
    model: ModelLike | Sequence[ModelLike] | None = None,
    min_assessed: float = 1.0,
) -> pd.DataFrame:
    """State of every lumisection of a run: good, bad or not assessed, and why.

    Lumisections are those that the archive has of ``dataset``, and those that the conditions know
    besides. Bad: an element with a model alarms, or a person said so. Good: nothing alarms, and of
    the elements that the models learned at least the part ``min_assessed`` (1: all) was assessed.
    With ``workspace`` only its elements count; ``model`` None is all active ones. Columns:
    run_number, ls_number, state, reason, n_assessed, n_elements (of models), n_alarms, by_person.
    Raises KeyError for a dataset, workspace or model that is not there, ValueError unless
    ``min_assessed`` lies from 0 to 1.
    """
    if not 0 <= min_assessed <= 1:
        raise ValueError(f"min_assessed {min_assessed}, want 0 to 1")
    own = workspaces.get(archive.engine, workspace) if workspace else []
    patterns = workspaces.elements_of(own, dataset, "shown") if own else ("*",)
    used = [
        one
        for one in models_or_active(archive, model)
        if model is not None or matcher(one.datasets)(dataset)
    ]
    maps = [score_map(archive, one.model_id, dataset, run_number) for one in used]
    names = {me for one in used for me in learned(archive, one) if workspaces.fits(patterns, me)}
    spoken = list_(archive, run_number, workspace=workspace, dataset=dataset)
    said = [
        _Said(*row)
        for row in spoken[list(_Said.__annotations__)].itertuples(index=False)
        if row.verdict != "seen" and (not row.me or workspaces.fits(patterns, str(row.me)))
    ]
    scopes = [one.scope for one in said]
    board = _board(archive, dataset, run_number, maps, sorted(names), scopes)
    for one in maps:
        _put_scores(board, one, _sentences(archive, one))
    n_alarms = (board.states[: board.n_judged] == _BAD).sum(axis=0)
    for verdict in said:
        _put_verdict(archive, board, verdict)
    return _summary(board, run_number, min_assessed, n_alarms)


def _board(
    archive: Archive,
    dataset: str,
    run_number: int,
    maps: Sequence[ScoreMap],
    judged: Sequence[str],
    scopes: Iterable[str],
) -> _Board:
    stored = _held(archive, dataset, run_number)
    conditions = conditions_of(archive.engine, run_number=run_number)
    known = conditions.index.get_level_values("ls_number").to_numpy(dtype=np.int64)
    every = np.unique(np.concatenate([stored, known, *(one.ls_numbers for one in maps)]))
    rows = [*judged, *(scope for scope in dict.fromkeys(scopes) if scope not in judged)]
    shape = (len(rows), len(every))
    board = _Board(
        {name: i for i, name in enumerate(rows)},
        len(judged),
        every,
        np.full(shape, _NEUTRAL, dtype=np.int8),
        np.zeros(shape, dtype=bool),
        np.full(shape, "", dtype=object),
    )
    # Until a score is found, nothing is known, and that is not good.
    board.states[: len(judged)] = _NOT_ASSESSED
    here = np.isin(every, stored)
    board.why[: len(judged), ~here] = "not in the archive"
    for i, me in enumerate(judged):
        board.why[i, here] = f"{me}: not scored yet"
    return board


def _held(archive: Archive, dataset: str, run_number: int) -> Ints:
    held = schema.lumisection
    with archive.engine.connect() as connection:
        query = (
            sa.select(held.c.ls_number)
            .where(held.c.dataset_id == dataset_number(connection, dataset))
            .where(held.c.run_number == run_number, held.c.ls_number > 0)
        )
        return np.array(connection.execute(query).scalars().all(), dtype=np.int64)


def _put_scores(board: _Board, one: ScoreMap, sentences: Mapping[tuple[int, int], str]) -> None:
    at = np.searchsorted(board.ls_numbers, one.ls_numbers)
    reasons, flagged = one.reasons(), one.flagged
    for i, me in enumerate(one.mes):
        if board.rows.get(me, board.n_judged) >= board.n_judged:
            continue
        row = board.rows[me]
        states, why = board.states[row, at], board.why[row, at]
        # Of several models the one that alarms counts, then one that has a score.
        alarms = flagged[i] & (states < _BAD)
        for j in np.flatnonzero(alarms):
            plain = f"{me}: p = {np.exp(one.log_p[i, j]):.1e}"
            why[j] = sentences.get((one.me_ids[i], int(one.ls_numbers[j])), plain)
        passes = (reasons[i] == "") & (states < _GOOD) & ~alarms
        why[passes] = ""
        lacking = (reasons[i] != "") & (states < _GOOD)
        why[lacking] = [f"{me}: {reason}" for reason in reasons[i, lacking]]
        states[passes], states[alarms] = _GOOD, _BAD
        board.states[row, at], board.why[row, at] = states, why


def _sentences(archive: Archive, one: ScoreMap) -> dict[tuple[int, int], str]:
    """Sentence of the incident that an element's lumisection belongs to."""
    query = (
        sa.select(_INCIDENT)
        .join(schema.dataset, schema.dataset.c.dataset_id == _INCIDENT.c.dataset_id)
        .where(_INCIDENT.c.model_id == one.model.model_id)
        .where(schema.dataset.c.dataset == one.dataset)
        .where(_INCIDENT.c.run_number == one.run_number)
    )
    with archive.engine.connect() as connection:
        rows = connection.execute(query).all()
    return {
        (me_id, ls_number): row.sentence
        for row in rows
        for me_id in row.me_ids
        for ls_number in range(row.first_ls, row.last_ls + 1)
    }


# -- people over detectors -----------------------------------------------------------------------


def _put_verdict(archive: Archive, board: _Board, said: _Said) -> None:
    if said.me:
        rows = [board.rows[said.me]]
    elif said.workspace:
        own = workspaces.get(archive.engine, said.workspace)[0]
        inside = own.shown or own.elements
        judged = list(board.rows)[: board.n_judged]
        rows = [i for i, me in enumerate(judged) if workspaces.fits(inside, me)]
        rows.append(board.rows[said.scope])
    else:
        rows = list(range(len(board.rows)))
    columns = (board.ls_numbers >= said.first_ls) & (board.ls_numbers <= said.last_ls)
    cells = np.ix_(np.isin(np.arange(len(board.rows)), rows), columns)
    states, why, by_person = board.states[cells], board.why[cells], board.said[cells]
    if said.verdict == "known":
        # Only an alarm can be explained; what was not assessed stays so.
        changed = states == _BAD
        states[changed] = _GOOD
    else:
        changed = np.ones(states.shape, dtype=bool)
        states[:] = {"good": _GOOD, "bad": _BAD, "not assessed": _NOT_ASSESSED}[said.verdict]
    why[changed] = f"{said.said_by}: {said.verdict}" + (f" ({said.why})" if said.why else "")
    by_person |= changed
    board.states[cells], board.why[cells], board.said[cells] = states, why, by_person


def _summary(
    board: _Board, run_number: int, min_assessed: float, n_alarms: NDArray[np.int64]
) -> pd.DataFrame:
    judged, spoken = board.states[: board.n_judged], board.states[board.n_judged :]
    assessed = (judged >= _GOOD).sum(axis=0)
    if board.n_judged:
        enough = (assessed > 0) & (assessed >= min_assessed * board.n_judged)
    else:
        # Without a model only a word on the whole lumisection, or workspace, can make it good.
        whole = [name == _EVERYTHING or name.startswith("workspace ") for name in board.rows]
        enough = (spoken[np.array(whole, dtype=bool)] == _GOOD).any(axis=0)
    bad = (board.states == _BAD).any(axis=0)
    good = ~bad & enough & ~(spoken == _NOT_ASSESSED).any(axis=0)
    codes = np.where(bad, _BAD, np.where(good, _GOOD, _NOT_ASSESSED))
    return pd.DataFrame(
        {
            "run_number": np.full(len(codes), run_number, dtype=np.int64),
            "ls_number": board.ls_numbers,
            "state": np.array(STATES)[codes],
            "reason": [_reason(board, j, code) for j, code in enumerate(codes.tolist())],
            "n_assessed": assessed.astype(np.int64),
            "n_elements": np.full(len(codes), board.n_judged, dtype=np.int64),
            "n_alarms": n_alarms.astype(np.int64),
            "by_person": board.said.any(axis=0),
        }
    )


def _reason(board: _Board, column: int, code: int) -> str:
    own = np.flatnonzero(board.states[:, column] == code)
    listed = list(dict.fromkeys(text for text in board.why[own, column].tolist() if text))
    if not listed and code == _NOT_ASSESSED:
        return "no model has learned an element of this dataset"
    more = f"; and {len(listed) - 3} more" if len(listed) > 3 else ""
    return "; ".join(listed[:3]) + more


# -- certification -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """What is good, bad and not assessed among the lumisections that were asked for.

    ``outside`` are those left out by the golden and DCS lists or the luminosity cut. ``states`` has
    a row per lumisection, as `states` gives, with "outside" as a further state. ``demands`` tells
    what was asked.
    """

    dataset: str
    good: Ranges
    bad: Ranges
    not_assessed: Ranges
    outside: Ranges
    states: pd.DataFrame
    demands: dict[str, Any]

    def __getitem__(self, state: str) -> Ranges:
        """Ranges by name: good, bad, not_assessed, outside."""
        sets = {"good": self.good, "bad": self.bad, "not_assessed": self.not_assessed}
        return (sets | {"outside": self.outside})[state.replace(" ", "_")]

    def reasons(self, state: str = "bad") -> pd.DataFrame:
        """Ranges of lumisections in a state with one reason each.

        Columns run_number, first_ls, last_ls, n_ls, reason.
        """
        own = self.states[self.states["state"] == state.replace("_", " ")]
        breaks = (
            (own["run_number"].diff() != 0)
            | (own["ls_number"].diff() != 1)
            | (own["reason"] != own["reason"].shift())
        )
        grouped = own.groupby(breaks.cumsum())
        return pd.DataFrame(
            {
                "run_number": grouped["run_number"].first(),
                "first_ls": grouped["ls_number"].first(),
                "last_ls": grouped["ls_number"].last(),
                "n_ls": grouped.size(),
                "reason": grouped["reason"].first(),
            }
        ).reset_index(drop=True)

    def summary(self) -> pd.DataFrame:
        """Number of lumisections in each state, by run."""
        counted = pd.crosstab(self.states["run_number"], self.states["state"])
        wanted = ["good", "bad", "not assessed", "outside"]
        return counted.reindex(columns=wanted, fill_value=0).reset_index()

    def golden_json(self) -> str:
        """The good lumisections as CMS writes them: ``{"run": [[first, last], ...]}``."""
        return ranges.dumps(self.good)

    def to_json(self) -> str:
        """All three states, the reasons, and what was asked, as one JSON document."""
        document = {
            "dataset": self.dataset,
            "demands": self.demands,
            **{state: self[state] for state in ("good", "bad", "not_assessed", "outside")},
            "reasons": {
                state: self.reasons(state).to_dict(orient="records")
                for state in ("bad", "not_assessed")
            },
        }
        return json.dumps(document, indent=1)

    def write(self, path: str | Path, state: str = "good") -> None:
        """Write the lumisections of one state in CMS's golden format."""
        ranges.write(self[state], path)

    def difference(self, other: Ranges) -> dict[str, Ranges]:
        """What differs from a given list: ``only_here`` and ``only_there`` of the good ones.

        ``bad_there`` and ``not_assessed_there`` say what this certificate holds of the latter.
        """
        only_there = ranges.difference(other, self.good)
        return {
            "both": ranges.intersection(self.good, other),
            "only_here": ranges.difference(self.good, other),
            "only_there": only_there,
            "bad_there": ranges.intersection(only_there, self.bad),
            "not_assessed_there": ranges.intersection(only_there, self.not_assessed),
        }


def certification(
    archive: Archive,
    dataset: str,
    run_number: Runs = None,
    *,
    workspace: str | None = None,
    golden: Certifications = None,
    dcs: Certifications = None,
    min_lumi: float | None = None,
    model: ModelLike | Sequence[ModelLike] | None = None,
    min_assessed: float = 1.0,
) -> Certificate:
    """Certify the lumisections of runs: good, bad, or not assessed, each with its reason.

    ``golden`` and ``dcs`` (names of stored lists, files or ranges) limit what is asked for;
    ``min_lumi`` is the least recorded luminosity of a lumisection in 1/ub, and one whose luminosity
    is not known is not assessed. The rest as in `states`. Raises KeyError for a dataset, list,
    workspace, model or run that is not there.
    """
    demanded = all_of(archive.engine, golden, "golden" if golden is True else None)
    demanded += all_of(archive.engine, dcs, "dcs" if dcs is True else None)
    if min_lumi is not None and not min_lumi >= 0:
        raise ValueError(f"min_lumi {min_lumi}, want a luminosity in 1/ub")
    parts = []
    for run in _runs(archive, dataset, run_number):
        own = states(
            archive,
            dataset,
            run,
            workspace=workspace,
            model=model,
            min_assessed=min_assessed,
        )
        if min_lumi is not None:
            _cut_luminosity(archive, own, run, min_lumi)
        keys = own["run_number"].to_numpy(), own["ls_number"].to_numpy()
        for listed in demanded:
            _set(own, ~ranges.mask(listed, *keys), "outside", "not in the list asked for")
        parts.append(own)
    whole = pd.concat(parts, ignore_index=True)
    sets = {
        state: ranges.of_lumisections(rows["run_number"], rows["ls_number"])
        for state, rows in whole.groupby("state")
    }
    return Certificate(
        dataset=dataset,
        good=sets.get("good", {}),
        bad=sets.get("bad", {}),
        not_assessed=sets.get("not assessed", {}),
        outside=sets.get("outside", {}),
        states=whole,
        demands={
            "workspace": workspace,
            "golden": named(golden),
            "dcs": named(dcs),
            "min_lumi": min_lumi,
            "min_assessed": min_assessed,
            "models": [str(one) for one in models_or_active(archive, model)],
        },
    )


def _runs(archive: Archive, dataset: str, run_number: Runs) -> list[int]:
    held = schema.lumisection
    with archive.engine.connect() as connection:
        number = dataset_number(connection, dataset)
        query = sa.select(held.c.run_number).distinct().where(held.c.dataset_id == number)
        query = query.where(among(held.c.run_number, run_number)).order_by(held.c.run_number)
        found = list(connection.execute(query).scalars())
    if not found:
        asked = "" if run_number is None else " of those asked for"
        raise KeyError(f"{dataset} has no run{asked} in the archive")
    return found


def _cut_luminosity(archive: Archive, own: pd.DataFrame, run: int, min_lumi: float) -> None:
    conditions = conditions_of(archive.engine, run_number=run)
    keys = pd.MultiIndex.from_frame(own[["run_number", "ls_number"]])
    lumi = conditions["recorded_lumi"].reindex(keys).to_numpy(dtype=np.float64)
    unknown = np.isnan(lumi) & (own["state"] == "good").to_numpy()
    _set(own, unknown, "not assessed", "luminosity not known")
    _set(own, lumi < min_lumi, "outside", f"recorded luminosity below {min_lumi:g}/ub")


def _set(own: pd.DataFrame, rows: NDArray[np.bool_], state: str, reason: str) -> None:
    own.loc[rows, "state"] = state
    own.loc[rows, "reason"] = reason


def difference(
    archive: Archive, certificate: Certificate, other: CertificationLike
) -> dict[str, Ranges]:
    """What a certificate differs in from a stored list, a JSON file or ranges."""
    return certificate.difference(certified(archive.engine, other))
