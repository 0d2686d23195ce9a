"""QUERY scores: every lumisection with its score or reason, as a table or as a map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from numpy.typing import NDArray

from ml4ad.conditions.query import Runs, among
from ml4ad.detect import reasons, registry
from ml4ad.detect.registry import Model, ModelLike
from ml4ad.dqmio.names import Pattern, matcher
from ml4ad.stack import Floats, Ints
from ml4ad.store import schema, scoring

if TYPE_CHECKING:
    from ml4ad.archive import Archive

_SCORE, _MODEL = scoring.score, scoring.model


@dataclass
class Row:
    """Scores of one element in one run, as they are stored; all arrays ``(n_ls,)``.

    ``codes`` are of ``ml4ad.detect.reasons``; ``sources`` what each lumisection was made from.
    """

    ls_numbers: Ints
    sources: Ints
    scores: Floats
    log_p: Floats
    codes: NDArray[np.uint8]
    detail: str = ""

    @classmethod
    def none(cls, ls_numbers: Ints, sources: Ints, reason: str, detail: str = "") -> Row:
        """No lumisection is scored, for one reason."""
        n_ls = len(ls_numbers)
        return cls(
            ls_numbers,
            sources,
            np.full(n_ls, np.nan),
            np.full(n_ls, np.nan),
            np.full(n_ls, reasons.code(reason), dtype=np.uint8),
            detail,
        )

    def as_columns(self) -> dict[str, Any]:
        """Values of the columns of the table ``score``, but for the key."""
        is_scored = self.codes == reasons.SCORED
        n_scored = int(is_scored.sum())
        # What failed for reasons that may pass is new when it is looked at again.
        again = np.isin(self.codes, [reasons.code(text) for text in reasons.TRY_AGAIN])
        sources = np.where(again, 0, self.sources)
        return {
            "n_ls": len(self.ls_numbers),
            "n_scored": n_scored,
            "least_log_p": float(self.log_p[is_scored].min()) if n_scored else None,
            "detail": self.detail[: schema.MAX_REASON],
            "ls_numbers": self.ls_numbers.astype("<i4").tobytes(),
            "scores": self.scores.astype("<f8").tobytes(),
            "log_p": self.log_p.astype("<f8").tobytes(),
            "codes": self.codes.tobytes(),
            "sources": sources.astype("<i8").tobytes(),
        }


_ARRAYS = tuple(_SCORE.c[n] for n in ("ls_numbers", "sources", "scores", "log_p", "codes"))


def rows_of(
    connection: sa.Connection, where: sa.ColumnElement[bool]
) -> Iterator[tuple[tuple[int, int, int, int], Row]]:
    """Stored rows by (model_id, dataset_id, run_number, me_id), in that order."""
    keys = [*_SCORE.primary_key]
    query = sa.select(*keys, *_ARRAYS, _SCORE.c.detail).where(where).order_by(*keys)
    for model_id, dataset_id, run_number, me_id, *packed, detail in connection.execute(query):
        yield (
            (model_id, dataset_id, run_number, me_id),
            Row(
                np.frombuffer(packed[0], "<i4").astype(np.int64),
                np.frombuffer(packed[1], "<i8"),
                np.frombuffer(packed[2], "<f8"),
                np.frombuffer(packed[3], "<f8"),
                np.frombuffer(packed[4], np.uint8),
                detail,
            ),
        )


@dataclass(frozen=True)
class ScoreMap:
    """All scores that one model gave in one run of a dataset: elements down, lumisections across.

    ``scores`` and ``log_p`` (natural logarithm) are ``(n_mes, n_ls)``, NaN where ``codes`` (of
    ``ml4ad.detect.reasons``) is not 0. ``log_alpha``: an element alarms where its log_p is less.
    ``details`` holds, by element, what concerns its whole run.
    """

    model: Model
    dataset: str
    run_number: int
    mes: tuple[str, ...]
    me_ids: tuple[int, ...]
    ls_numbers: Ints
    scores: Floats
    log_p: Floats
    codes: NDArray[np.uint8]
    details: Mapping[str, str]
    log_alpha: float

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """Which pairs of element and lumisection alarm, ``(n_mes, n_ls)``."""
        return self.log_p < self.log_alpha

    def reasons(self) -> NDArray[np.object_]:
        """Why there is no score, ``(n_mes, n_ls)`` of texts, "" where there is one."""
        return reasons.texts(self.codes)


def score_map(archive: Archive, model: ModelLike, dataset: str, run_number: int) -> ScoreMap:
    """Scores of a model in a run, as arrays; without elements if it was not scored.

    Raises KeyError for a model or dataset that is not there.
    """
    chosen = registry.get(archive, model)
    with archive.engine.connect() as connection:
        dataset_id = dataset_number(connection, dataset)
        where = sa.and_(
            _SCORE.c.model_id == chosen.model_id,
            _SCORE.c.dataset_id == dataset_id,
            _SCORE.c.run_number == run_number,
        )
        found = [(key[3], row) for key, row in rows_of(connection, where)]
        names = me_names(connection, [me_id for me_id, _ in found])
    found.sort(key=lambda one: names[one[0]])
    ls_numbers = np.unique(
        np.concatenate([np.empty(0, np.int64), *(r.ls_numbers for _, r in found)])
    )
    shape = (len(found), len(ls_numbers))
    scores, log_p = np.full(shape, np.nan), np.full(shape, np.nan)
    codes = np.full(shape, reasons.code("absent"), dtype=np.uint8)
    for i, (_, row) in enumerate(found):
        at = np.searchsorted(ls_numbers, row.ls_numbers)
        scores[i, at], log_p[i, at], codes[i, at] = row.scores, row.log_p, row.codes
    return ScoreMap(
        chosen,
        dataset,
        run_number,
        tuple(names[me_id] for me_id, _ in found),
        tuple(me_id for me_id, _ in found),
        ls_numbers,
        scores,
        log_p,
        codes,
        {names[me_id]: row.detail for me_id, row in found if row.detail},
        registry.threshold(archive, chosen),
    )


def scores(
    archive: Archive,
    run_number: Runs = None,
    *,
    me: Pattern | None = None,
    dataset: str | None = None,
    model: ModelLike | Sequence[ModelLike] | None = None,
) -> pd.DataFrame:
    """Every lumisection of runs with its score, or the reason why there is none.

    ``me`` holds patterns; ``model`` None is all active ones, and those of a run need not be active
    any more to be asked for by name. Columns: model, dataset, me, run_number, ls_number, score
    (high is strange, NaN if none), p_value, log_p (natural logarithm), flagged, reason ("" where
    there is a score). Raises KeyError for a model or dataset that is not there.
    """
    chosen = {one.model_id: one for one in models_or_active(archive, model)}
    where = [
        _SCORE.c.model_id.in_(list(chosen)),
        among(_SCORE.c.run_number, run_number),
    ]
    if me is not None:
        where.append(_SCORE.c.me_id.in_(_matching(archive, me)))
    with archive.engine.connect() as connection:
        if dataset is not None:
            where.append(_SCORE.c.dataset_id == dataset_number(connection, dataset))
        found = list(rows_of(connection, sa.and_(*where)))
        names = me_names(connection, {key[3] for key, _ in found})
        every = connection.execute(sa.select(schema.dataset.c.dataset_id, schema.dataset.c.dataset))
        datasets = {int(number): str(name) for number, name in every}
    return _long(
        [
            (str(chosen[model_id]), datasets[dataset_id], names[me_id], run, row)
            for (model_id, dataset_id, run, me_id), row in found
        ],
        {str(one): registry.threshold(archive, one) for one in chosen.values()},
    )


def _matching(archive: Archive, me: Pattern) -> list[int]:
    matches = matcher(me)
    with archive.engine.connect() as connection:
        every = connection.execute(sa.select(schema.me.c.me_id, schema.me.c.me))
        return [me_id for me_id, name in every if matches(name)]


def _long(
    found: Sequence[tuple[str, str, str, int, Row]], log_alphas: Mapping[str, float]
) -> pd.DataFrame:
    lengths = [len(row.ls_numbers) for *_, row in found]

    def repeated(values: Sequence[str]) -> pd.Categorical:
        return pd.Categorical(np.repeat(np.array(values, dtype=object), lengths))

    def joined(name: str, dtype: Any) -> NDArray[Any]:
        parts = [getattr(row, name) for *_, row in found]
        return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)

    log_p = joined("log_p", np.float64)
    limits = np.repeat(np.array([log_alphas[own[0]] for own in found], np.float64), lengths)
    codes = joined("codes", np.uint8)
    return pd.DataFrame(
        {
            "model": repeated([own[0] for own in found]),
            "dataset": repeated([own[1] for own in found]),
            "me": repeated([own[2] for own in found]),
            "run_number": np.repeat(np.array([own[3] for own in found], np.int64), lengths),
            "ls_number": joined("ls_numbers", np.int64),
            "score": joined("scores", np.float64),
            "p_value": np.exp(log_p),
            "log_p": log_p,
            "flagged": log_p < limits,
            "reason": reasons.texts(codes),
        }
    )


def models_or_active(
    archive: Archive, model: ModelLike | Sequence[ModelLike] | None
) -> list[Model]:
    """Models of these names; of None all active ones, which may be none."""
    if model is None:
        return registry.active(archive)
    listed = [model] if isinstance(model, int | str) else list(model)
    return [registry.get(archive, one) for one in listed]


def dataset_number(connection: sa.Connection, dataset: str) -> int:
    """Number of a dataset; raises KeyError if the archive does not have it."""
    table = schema.dataset
    query = sa.select(table.c.dataset_id).where(table.c.dataset == dataset)
    found = connection.execute(query).scalar_one_or_none()
    if found is None:
        there = connection.execute(sa.select(table.c.dataset).limit(10)).scalars()
        raise KeyError(f"no dataset {dataset!r}; there are {', '.join(there) or 'none'}")
    return found


def me_names(connection: sa.Connection, me_ids: Sequence[int] | set[int]) -> dict[int, str]:
    """Names of elements by their numbers."""
    listed = sa.literal(list(me_ids), sa.ARRAY(sa.Integer))
    query = sa.select(schema.me.c.me_id, schema.me.c.me).where(schema.me.c.me_id == sa.any_(listed))
    return {int(me_id): str(name) for me_id, name in connection.execute(query)}
