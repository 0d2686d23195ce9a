"""Models in the database: what each learned from what, its versions, and which are at work."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert

from ml4ad.detect.base import Detector
from ml4ad.detect.calibrate import Tail, alpha
from ml4ad.detect.saved import load
from ml4ad.provenance import code_version, user
from ml4ad.stack import Floats
from ml4ad.store import schema, scoring

if TYPE_CHECKING:
    from ml4ad.archive import Archive

_MODEL, _CHANGE, _ELEMENT = scoring.model, scoring.model_change, scoring.model_element

# First half of the keys of advisory locks; the second is of the model's name.
_NAME_LOCK = 0x6D6C3411

#: No p-value is smaller: infinity has no place in JSON, and nobody needs to tell these apart.
LEAST_LOG_P = -1e4

#: A model, as users name it: its number, "name" (the active version, else the newest), "name:3".
ModelLike = int | str


@dataclass(frozen=True)
class Model:
    """A registered model; see the table ``model`` for what the fields hold."""

    model_id: int
    name: str
    version: int
    patterns: list[str]
    datasets: list[str]
    detector: str
    parameters: dict[str, Any]
    seed: int
    code_version: str
    selection: dict[str, Any]
    false_alarms: float
    metrics: dict[str, Any]
    state: str
    created_by: str
    created_at: datetime

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"

    def _repr_html_(self) -> str:
        shown = {
            "model": str(self),
            "state": self.state,
            "detector": self.detector,
            "parameters": self.parameters,
            "elements": ", ".join(self.patterns),
            "datasets": ", ".join(self.datasets),
            **{key: text for key, text in self.selection.items() if text is not None},
            "false alarms in 8 hours": self.false_alarms,
            "seed": self.seed,
            "code version": self.code_version,
            "made": f"{self.created_at:%Y-%m-%d %H:%M:%S %Z} by {self.created_by}",
        }
        with pd.option_context("display.max_colwidth", None):
            return pd.Series(shown, dtype=object).to_frame().to_html(header=False)


@dataclass(frozen=True)
class Fitted:
    """What a model learned of one element: a detector and the tail of good scores."""

    detector: Detector
    tail: Tail

    def log_p(self, scores: Floats) -> Floats:
        """Natural logarithm of the p-value of each score, NaN where there is none."""
        return np.maximum(self.tail.log_p(self.detector.strain(scores)), LEAST_LOG_P)


# -- making --------------------------------------------------------------------------------------


def create(
    archive: Archive,
    detector: Detector,
    *,
    name: str,
    patterns: Sequence[str],
    datasets: Sequence[str],
    selection: Mapping[str, Any],
    false_alarms: float,
    seed: int,
    created_by: str | None = None,
) -> int:
    """Number of a new version of the model ``name``, in state "training".

    Raises ValueError for a name that is empty, too long, or holds a colon.
    """
    if not 1 <= len(name) <= schema.MAX_NAME or ":" in name or name.isdigit():
        raise ValueError(
            f"model name {name!r}: want 1 to {schema.MAX_NAME} characters, no colon, not a number"
        )
    if not false_alarms > 0 or not math.isfinite(false_alarms):
        raise ValueError(f"{false_alarms} false alarms per shift: want a positive number")
    with archive.engine.begin() as connection:
        key = sa.func.hashtext(name)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_NAME_LOCK, key)))
        newest = sa.select(sa.func.coalesce(sa.func.max(_MODEL.c.version), 0))
        version = connection.execute(newest.where(_MODEL.c.name == name)).scalar_one() + 1
        row = sa.insert(_MODEL).values(
            name=name,
            version=version,
            patterns=list(patterns),
            datasets=list(datasets),
            detector=type(detector).__name__,
            parameters=jsonable(detector.get_params(deep=False)),
            seed=seed,
            code_version=code_version(),
            selection=jsonable(dict(selection)),
            false_alarms=false_alarms,
            state="training",
            created_by=created_by or user(),
        )
        model_id: int = connection.execute(row.returning(_MODEL.c.model_id)).scalar_one()
        _note(connection, model_id, "training", created_by, "")
    return model_id


def jsonable(value: Any) -> Any:
    """The value as JSON has it: numbers, texts, lists and objects; NaN and infinity as None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): jsonable(own) for key, own in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(own) for own in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return repr(value)


def to_bytes(detector: Detector) -> bytes:
    """What `Detector.save` writes."""
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        detector.save(file.name)
        return Path(file.name).read_bytes()


def from_bytes(artefact: bytes) -> Detector:
    """The detector that `to_bytes` was given; raises ValueError as `load` does."""
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        file.write(artefact)
        file.flush()
        try:
            return load(file.name)
        except ValueError as error:
            raise ValueError(str(error).replace(f"{file.name}: ", "")) from error


def put_element(
    archive: Archive,
    model_id: int,
    me_id: int,
    fitted: Fitted | None,
    *,
    reason: str = "",
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Keep what a model learned of an element, or the reason why it could not."""
    row = {
        "model_id": model_id,
        "me_id": me_id,
        "reason": reason[: schema.MAX_REASON],
        "artefact": None if fitted is None else to_bytes(fitted.detector),
        "calibration": {} if fitted is None else asdict(fitted.tail),
        "metrics": jsonable(dict(metrics or {})),
    }
    given = insert(_ELEMENT).values(row)
    replaced = {name: given.excluded[name] for name in row if name not in ("model_id", "me_id")}
    keys = ["model_id", "me_id"]
    with archive.engine.begin() as connection:
        connection.execute(given.on_conflict_do_update(index_elements=keys, set_=replaced))


def finish(archive: Archive, model_id: int, metrics: Mapping[str, Any]) -> None:
    """The model has learned: note its metrics, and make it a candidate."""
    with archive.engine.begin() as connection:
        connection.execute(
            sa.update(_MODEL)
            .where(_MODEL.c.model_id == model_id)
            .values(metrics=jsonable(dict(metrics)), state="candidate")
        )
        _note(connection, model_id, "candidate", None, "")


def discard(archive: Archive, model_id: int) -> None:
    """Delete a model that never got beyond its training; ValueError if it did."""
    with archive.engine.begin() as connection:
        gone = connection.execute(
            sa.delete(_MODEL).where(_MODEL.c.model_id == model_id, _MODEL.c.state == "training")
        )
    if not gone.rowcount:
        raise ValueError(f"model {model_id} is not in training: retire it instead")


def add_metrics(archive: Archive, model: ModelLike, metrics: Mapping[str, Any]) -> None:
    """Add to a model's metrics, such as what an evaluation found; equal names are replaced."""
    chosen = get(archive, model)
    with archive.engine.begin() as connection:
        connection.execute(
            sa.update(_MODEL)
            .where(_MODEL.c.model_id == chosen.model_id)
            .values(metrics=_MODEL.c.metrics.concat(sa.literal(jsonable(dict(metrics)), JSONB)))
        )


def register(
    archive: Archive,
    fitted: Mapping[str, Fitted],
    *,
    name: str,
    datasets: Sequence[str],
    patterns: Sequence[str] = (),
    false_alarms: float = 1.0,
    seed: int = 0,
    note: str = "",
    created_by: str | None = None,
) -> int:
    """Number of a new candidate made of detectors that were fitted elsewhere, by element name.

    Raises ValueError if there is none, KeyError for an element that the archive does not have.
    """
    if not fitted:
        raise ValueError("no fitted detector to register: want at least one")
    numbers = me_ids(archive, fitted)
    first = next(iter(fitted.values())).detector
    model_id = create(
        archive,
        first,
        name=name,
        patterns=patterns or sorted(fitted),
        datasets=datasets,
        selection={"registered": note},
        false_alarms=false_alarms,
        seed=seed,
        created_by=created_by,
    )
    for me, one in fitted.items():
        put_element(archive, model_id, numbers[me], one)
    finish(archive, model_id, {"n_elements": len(fitted), "n_refused": 0})
    return model_id


def me_ids(archive: Archive, names: Iterable[str]) -> dict[str, int]:
    """Numbers of monitoring elements; KeyError naming one that is not in the archive."""
    wanted = sorted(set(names))
    query = sa.select(schema.me.c.me, schema.me.c.me_id).where(
        schema.me.c.me == sa.any_(sa.bindparam("listed", wanted, type_=sa.ARRAY(sa.Text)))
    )
    with archive.engine.connect() as connection:
        found = {me: me_id for me, me_id in connection.execute(query)}  # noqa: C416 (rows)
    missing = [me for me in wanted if me not in found]
    if missing:
        raise KeyError(f"no monitoring element {missing[0]!r} in the archive")
    return found


# -- reading -------------------------------------------------------------------------------------


def get(archive: Archive, model: ModelLike) -> Model:
    """The model of that number, name or "name:version"; raises KeyError, naming those there are.

    Of a name: the active version, or the newest one.
    """
    query = sa.select(_MODEL).order_by((_MODEL.c.state == "active").desc(), _MODEL.c.version.desc())
    name, _, version = str(model).partition(":")
    if version:
        if not version.isdigit():
            raise KeyError(f"no model {model!r}: want a number after the colon")
        query = query.where(_MODEL.c.name == name, _MODEL.c.version == int(version))
    elif name.isdigit():
        query = query.where(_MODEL.c.model_id == int(name))
    else:
        query = query.where(_MODEL.c.name == name)
    with archive.engine.connect() as connection:
        row = connection.execute(query.limit(1)).mappings().one_or_none()
        if row is None:
            names = sa.select(_MODEL.c.name).distinct().order_by(_MODEL.c.name).limit(20)
            there = ", ".join(connection.execute(names).scalars()) or "none"
            raise KeyError(f"no model {model!r}; there are {there}")
    return _model(row)


def active(archive: Archive) -> list[Model]:
    """Models that are at work, by name."""
    query = sa.select(_MODEL).where(_MODEL.c.state == "active")
    with archive.engine.connect() as connection:
        rows = connection.execute(query.order_by(_MODEL.c.name, _MODEL.c.version)).mappings().all()
    return [_model(row) for row in rows]


def _model(row: Mapping[Any, Any]) -> Model:
    return Model(**{field.name: row[field.name] for field in fields(Model)})


def models(archive: Archive, state: str | None = None) -> pd.DataFrame:
    """All models, newest first: name, version, state, pattern, what they learned from, by whom."""
    if state is not None and state not in scoring.MODEL_STATES:
        raise ValueError(f"state {state!r}, want one of {', '.join(scoring.MODEL_STATES)}")
    counted = (
        sa.select(
            _ELEMENT.c.model_id,
            sa.func.count().filter(_ELEMENT.c.reason == "").label("n_elements"),
            sa.func.count().filter(_ELEMENT.c.reason != "").label("n_refused"),
        )
        .group_by(_ELEMENT.c.model_id)
        .subquery()
    )
    query = (
        sa.select(
            *(_MODEL.c[name] for name in ("model_id", "name", "version", "state", "detector")),
            _MODEL.c.patterns,
            sa.func.coalesce(counted.c.n_elements, 0).label("n_elements"),
            sa.func.coalesce(counted.c.n_refused, 0).label("n_refused"),
            _MODEL.c.selection["dataset"].astext.label("dataset"),
            sa.cast(_MODEL.c.selection["n_lumisections"].astext, sa.BigInteger).label(
                "n_lumisections"
            ),
            *(_MODEL.c[name] for name in ("false_alarms", "created_by", "created_at")),
        )
        .join_from(_MODEL, counted, counted.c.model_id == _MODEL.c.model_id, isouter=True)
        .order_by(_MODEL.c.model_id.desc())
    )
    if state is not None:
        query = query.where(_MODEL.c.state == state)
    return frame(archive, query)


def history(archive: Archive, model: ModelLike) -> pd.DataFrame:
    """States that a model went through: state, changed_by, changed_at, why."""
    chosen = get(archive, model)
    query = (
        sa.select(_CHANGE.c.state, _CHANGE.c.changed_by, _CHANGE.c.changed_at, _CHANGE.c.why)
        .where(_CHANGE.c.model_id == chosen.model_id)
        .order_by(_CHANGE.c.change_id)
    )
    return frame(archive, query)


def elements(archive: Archive, model: ModelLike) -> pd.DataFrame:
    """Elements that a model learned, or the reason why not, with calibration and metrics."""
    chosen = get(archive, model)
    query = (
        sa.select(
            schema.me.c.me,
            _ELEMENT.c.reason,
            sa.func.length(_ELEMENT.c.artefact).label("bytes"),
            _ELEMENT.c.calibration,
            _ELEMENT.c.metrics,
        )
        .join_from(_ELEMENT, schema.me)
        .where(_ELEMENT.c.model_id == chosen.model_id)
        .order_by(schema.me.c.me)
    )
    found = frame(archive, query)
    for column in ("calibration", "metrics"):
        wide = pd.json_normalize(found.pop(column).tolist())
        found = found.join(wide.set_axis(found.index))
    return found


def learned(archive: Archive, model: Model) -> list[str]:
    """Names of the elements of which a model learned something, sorted."""
    query = (
        sa.select(schema.me.c.me)
        .join_from(_ELEMENT, schema.me)
        .where(_ELEMENT.c.model_id == model.model_id, _ELEMENT.c.reason == "")
        .order_by(schema.me.c.me)
    )
    with archive.engine.connect() as connection:
        return list(connection.execute(query).scalars())


def fitted(archive: Archive, model: ModelLike, me: str) -> Fitted:
    """Detector and calibration of one element, as they were stored.

    Raises KeyError if the model does not know the element, ValueError if it learned nothing of it,
    or its bytes are damaged or of another version.
    """
    chosen = get(archive, model)
    query = (
        sa.select(_ELEMENT.c.reason, _ELEMENT.c.artefact, _ELEMENT.c.calibration)
        .join_from(_ELEMENT, schema.me)
        .where(_ELEMENT.c.model_id == chosen.model_id, schema.me.c.me == me)
    )
    with archive.engine.connect() as connection:
        row = connection.execute(query).one_or_none()
    if row is None:
        raise KeyError(f"model {chosen} knows no element {me!r}")
    if row.artefact is None:
        raise ValueError(f"model {chosen} learned nothing of {me}: {row.reason}")
    return unpacked(row.artefact, row.calibration)


def unpacked(artefact: bytes, calibration: Mapping[str, float]) -> Fitted:
    """Detector and calibration of their stored forms; ValueError if they are damaged."""
    try:
        tail = Tail(**calibration)
    except TypeError as error:
        raise ValueError(f"damaged calibration {json.dumps(dict(calibration))}") from error
    return Fitted(from_bytes(artefact), tail)


def threshold(archive: Archive, model: Model) -> float:
    """Ln p below which this model alarms: its budget shared by the elements that it learned."""
    query = sa.select(sa.func.count()).where(
        _ELEMENT.c.model_id == model.model_id, _ELEMENT.c.reason == ""
    )
    with archive.engine.connect() as connection:
        n_elements = connection.execute(query).scalar_one()
    return math.log(alpha(model.false_alarms, n_elements=max(n_elements, 1)))


def frame(archive: Archive, query: sa.Select[Any]) -> pd.DataFrame:
    """Rows of a query."""
    with archive.engine.connect() as connection:
        result = connection.execute(query)
        return pd.DataFrame(result.all(), columns=list(result.keys()))


# -- changing ------------------------------------------------------------------------------------


def activate(
    archive: Archive,
    model: ModelLike,
    *,
    why: str = "",
    by: str | None = None,
    false_alarms: float | None = None,
) -> Model:
    """The model, now at work; an active one of the same name is retired.

    ``false_alarms`` changes its budget per shift. Raises KeyError if there is no such model,
    ValueError if its training did not end.
    """
    chosen = get(archive, model)
    if chosen.state == "training":
        raise ValueError(f"model {chosen} is in training, or that was interrupted: train it again")
    if false_alarms is not None and not (false_alarms > 0 and math.isfinite(false_alarms)):
        raise ValueError(f"{false_alarms} false alarms per shift: want a positive number")
    with archive.engine.begin() as connection:
        key = sa.func.hashtext(chosen.name)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_NAME_LOCK, key)))
        others = connection.execute(
            sa.update(_MODEL)
            .where(_MODEL.c.name == chosen.name, _MODEL.c.state == "active")
            .where(_MODEL.c.model_id != chosen.model_id)
            .values(state="retired")
            .returning(_MODEL.c.model_id)
        ).scalars()
        for other in others:
            _note(connection, other, "retired", by, f"replaced by version {chosen.version}")
        changed = {"state": "active"}
        if false_alarms is not None:
            changed["false_alarms"] = false_alarms  # type: ignore[assignment]
        connection.execute(
            sa.update(_MODEL).where(_MODEL.c.model_id == chosen.model_id).values(changed)
        )
        said = why if false_alarms is None else f"{false_alarms:g} false alarms per shift. {why}"
        _note(connection, chosen.model_id, "active", by, said.strip())
    return get(archive, chosen.model_id)


def retire(archive: Archive, model: ModelLike, *, why: str = "", by: str | None = None) -> Model:
    """The model, no longer at work; its scores and incidents stay."""
    chosen = get(archive, model)
    with archive.engine.begin() as connection:
        connection.execute(
            sa.update(_MODEL).where(_MODEL.c.model_id == chosen.model_id).values(state="retired")
        )
        _note(connection, chosen.model_id, "retired", by, why)
    return get(archive, chosen.model_id)


def _note(connection: sa.Connection, model_id: int, state: str, by: str | None, why: str) -> None:
    connection.execute(
        sa.insert(_CHANGE).values(model_id=model_id, state=state, changed_by=by or user(), why=why)
    )
