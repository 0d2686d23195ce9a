"""INCIDENTS: what alarms together, in words, kept with a number that people can refer to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from ml4ad.conditions.query import Runs, among
from ml4ad.detect import registry
from ml4ad.detect.base import Explanation
from ml4ad.detect.episodes import find
from ml4ad.detect.incidents import Incident
from ml4ad.detect.registry import ModelLike
from ml4ad.detect.scored import ScoreMap, dataset_number, me_names, models_or_active, score_map
from ml4ad.detect.spread import FAILURES
from ml4ad.detect.train import element_stacks, numbers_of
from ml4ad.store import schema, scoring

if TYPE_CHECKING:
    from ml4ad.archive import Archive

_INCIDENT = scoring.incident

# First half of the keys of advisory locks; the second is of the run.
_RUN_LOCK = 0x6D6C3412
# Elements that an event names at most.
_MOST_NAMED = 1000
#: Of more incidents in a run the clearest are explained; more than that nobody reads.
MOST_EXPLAINED = 50


def refresh(archive: Archive, model: ModelLike, dataset: str, run_number: int) -> int:
    """Find the incidents of a run anew from its stored scores; how many there are.

    One that was there before, and shares an element and a lumisection, keeps its number. Doing it
    again changes nothing.
    """
    scored = score_map(archive, model, dataset, run_number)
    log_p = dict(zip(scored.mes, scored.log_p, strict=True))
    found = find(run_number, scored.ls_numbers, log_p, scored.log_alpha)
    where = sa.and_(
        _INCIDENT.c.model_id == scored.model.model_id,
        _INCIDENT.c.run_number == run_number,
    )
    with archive.engine.begin() as connection:
        number = dataset_number(connection, dataset)
        key = sa.func.hashtext(f"{scored.model.model_id} {number} {run_number}")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_RUN_LOCK, key)))
        where &= _INCIDENT.c.dataset_id == number
        before = {row["incident_id"]: row for row in connection.execute(
            sa.select(_INCIDENT).where(where).order_by(_INCIDENT.c.incident_id)
        ).mappings()}  # fmt: skip
        kept: set[int] = set()
        for rank, incident in enumerate(found):
            row = _row(archive, scored, incident, before, explained=rank < MOST_EXPLAINED)
            old = _same(row, before, kept)
            if old is None:
                row |= {"model_id": scored.model.model_id, "dataset_id": number}
                row |= {"run_number": run_number}
                connection.execute(sa.insert(_INCIDENT).values(row))
                continue
            kept.add(old)
            connection.execute(
                sa.update(_INCIDENT).where(_INCIDENT.c.incident_id == old).values(row)
            )
        gone = [incident_id for incident_id in before if incident_id not in kept]
        connection.execute(sa.delete(_INCIDENT).where(_INCIDENT.c.incident_id.in_(gone)))
        scoring.notify(
            connection,
            what="incidents",
            model=str(scored.model),
            dataset=dataset,
            run_number=run_number,
            n_incidents=len(found),
            mes=[incident.elements[0] for incident in found[:_MOST_NAMED]],
        )
    return len(found)


def _same(
    row: Mapping[str, Any], before: Mapping[int, Mapping[Any, Any]], kept: set[int]
) -> int | None:
    for incident_id, old in before.items():
        overlaps = old["first_ls"] <= row["last_ls"] and row["first_ls"] <= old["last_ls"]
        if incident_id not in kept and overlaps and set(old["me_ids"]) & set(row["me_ids"]):
            return incident_id
    return None


def _row(
    archive: Archive,
    scored: ScoreMap,
    incident: Incident,
    before: Mapping[int, Mapping[Any, Any]],
    *,
    explained: bool,
) -> dict[str, Any]:
    rows = [scored.mes.index(me) for me in incident.elements]
    lead, peak = rows[0], int(np.searchsorted(scored.ls_numbers, incident.peak_ls))
    during = (scored.ls_numbers >= incident.first_ls) & (scored.ls_numbers <= incident.last_ls)
    row = {
        "first_ls": incident.first_ls,
        "last_ls": incident.last_ls,
        "open": incident.open,
        "n_flagged": int(scored.flagged[rows][:, during].sum()),
        "me_id": scored.me_ids[lead],
        "me_ids": [scored.me_ids[i] for i in rows],
        "peak_ls": incident.peak_ls,
        "score": float(scored.scores[lead, peak]),
        "log_p": float(scored.log_p[lead, peak]),
    }
    for old in before.values():
        same = all(old[name] == row[name] for name in _SAID_OF)
        # Without a place, the words tell the lumisections.
        if same and (old["place"] or old["last_ls"] == row["last_ls"]):
            return row | {name: old[name] for name in _EXPLAINED}
    why = explain(archive, scored, scored.mes[lead], incident.peak_ls) if explained else None
    return row | _words(incident, why)


# What the words depend on, beside the lumisection that they explain.
_SAID_OF = ("me_id", "me_ids", "first_ls", "peak_ls", "score")
_EXPLAINED = (*("direction", "strength", "observed", "expected", "place", "reference", "sentence"),)


def explain(archive: Archive, scored: ScoreMap, me: str, ls_number: int) -> Explanation | None:
    """The detector's reason for a score; None where it can give none any more."""
    try:
        fitted = registry.fitted(archive, scored.model.model_id, me)
        conditions = numbers_of(archive, [scored.run_number])
        for stack in element_stacks(archive, me, scored.dataset, scored.run_number):
            if ls_number in stack.ls_numbers:
                return fitted.detector.explain(stack, ls_number, conditions)
    except FAILURES:
        # A detector without reasons, or a model whose bytes are gone, leaves the alarm standing.
        return None
    return None


def _words(incident: Incident, why: Explanation | None) -> dict[str, Any]:
    if why is None or why.place is None:
        name = incident.elements[0].rsplit("/", 1)[-1]
        first, last = incident.first_ls, incident.last_ls
        span = f"in LS {first}" if first == last else f"in LS {first} to {last}"
        sentence = f"{name}: unlike all known-good lumisections {span}"
    else:
        sentence = why.sentence
        if why.since == why.ls_number != incident.first_ls:
            # A detector that looks at one lumisection alone cannot tell more than that.
            sentence = sentence.replace(f" since LS {why.since};", f" in LS {why.since};")
        # Too little at first to be an alarm, or seen in another element before.
        if why.since != incident.first_ls:
            sentence += f"; alarm since LS {incident.first_ls}"
    more = len(incident.elements) - 1
    if more:
        sentence += f"; and {more} more element{'s' if more > 1 else ''}"
    place: dict[str, Any] = {}
    if why is not None and why.place is not None:
        place = {
            "bins": why.place.bins,
            "ranges": why.place.ranges,
            "titles": why.place.titles,
        }
    numbers = {
        name: None if why is None or place == {} else getattr(why, name)
        for name in ("strength", "observed", "expected")
    }
    lumisections = () if why is None or why.reference is None else why.reference.lumisections
    return {
        "direction": "" if why is None else why.direction,
        **{name: None if n is None or not np.isfinite(n) else n for name, n in numbers.items()},
        "place": registry.jsonable(place),
        "reference": registry.jsonable(lumisections),
        "sentence": sentence,
    }


def incidents(
    archive: Archive,
    run_number: Runs = None,
    *,
    dataset: str | None = None,
    model: ModelLike | Sequence[ModelLike] | None = None,
    me: str | None = None,
) -> pd.DataFrame:
    """Incidents of runs, the clearest of each run first; ``model`` None is all active ones.

    ``me`` is the full name of an element that shows it. ``first_ls`` is the first lumisection with
    an alarm; ``sentence`` tells since when the difference is there, and both where they differ.
    Columns: incident_id, model, dataset, run_number, first_ls, last_ls, open (not over at the
    run's last lumisection), n_elements, n_flagged, me (that shows it most clearly), mes (all),
    peak_ls, score, log_p, direction, strength, observed, expected, place, reference, sentence,
    found_at. Raises KeyError for a model, dataset or element that is not there.
    """
    chosen = {one.model_id: str(one) for one in models_or_active(archive, model)}
    query = (
        sa.select(_INCIDENT, schema.dataset.c.dataset)
        .join(schema.dataset, schema.dataset.c.dataset_id == _INCIDENT.c.dataset_id)
        .where(_INCIDENT.c.model_id.in_(list(chosen)))
        .where(among(_INCIDENT.c.run_number, run_number))
        .order_by(schema.dataset.c.dataset, _INCIDENT.c.run_number, _INCIDENT.c.log_p)
    )
    if me is not None:
        number = registry.me_ids(archive, [me])[me]
        query = query.where(sa.literal(number) == sa.any_(_INCIDENT.c.me_ids))
    with archive.engine.connect() as connection:
        if dataset is not None:
            query = query.where(_INCIDENT.c.dataset_id == dataset_number(connection, dataset))
        rows = connection.execute(query).mappings().all()
        names = me_names(connection, {me_id for row in rows for me_id in row["me_ids"]})
    listed = [
        {
            "incident_id": row["incident_id"],
            "model": chosen[row["model_id"]],
            "dataset": row["dataset"],
            **{name: row[name] for name in ("run_number", "first_ls", "last_ls", "open")},
            "n_elements": len(row["me_ids"]),
            "n_flagged": row["n_flagged"],
            "me": names[row["me_id"]],
            "mes": [names[me_id] for me_id in row["me_ids"]],
            **{name: row[name] for name in ("peak_ls", "score", "log_p", *_EXPLAINED, "found_at")},
        }
        for row in rows
    ]
    columns = ["incident_id", "model", "dataset", "run_number", "first_ls", "last_ls", "open"]
    columns += ["n_elements", "n_flagged", "me", "mes", "peak_ls", "score", "log_p"]
    return pd.DataFrame(listed, columns=[*columns, *_EXPLAINED, "found_at"])
