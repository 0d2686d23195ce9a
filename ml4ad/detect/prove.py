"""PROVE: how well a registered model finds faults that are put in, kept with the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from ml4ad.conditions import ranges
from ml4ad.detect import registry
from ml4ad.detect.evaluate import Evaluation, evaluate
from ml4ad.detect.registry import Model, ModelLike
from ml4ad.detect.train import numbers_of, training_stacks
from ml4ad.dqmio.names import matcher
from ml4ad.stack import Floats

if TYPE_CHECKING:
    from ml4ad.archive import Archive

_KEY = "faults put into "
#: Points of a curve that are kept: evenly over the logarithm of the false positive rate.
_POINTS = 60


def prove(
    archive: Archive,
    model: ModelLike,
    me: str | Sequence[str] = "*",
    *,
    n_trials: int = 50,
    most_elements: int = 5,
    seed: int = 0,
    each: Callable[[str], object] = lambda _: None,
) -> pd.DataFrame:
    """How well a model finds faults in its elements: a row per element and fault, kept with it.

    A detector with the model's class and parameters learns the first half of the model's runs and
    is tried on the later half, at the threshold that the model alarms at: see `evaluate`, which
    names the columns. ``me`` holds patterns, of which the first ``most_elements`` elements are
    tried; ``each`` is told their names. Raises KeyError for a model, or a pattern that fits no
    element of it, ValueError for one that was not trained here, or on fewer than two runs.
    """
    chosen = registry.get(archive, model)
    dataset, spans = (chosen.selection.get(name) for name in ("dataset", "lumisections"))
    if not dataset or not spans:
        raise ValueError(f"model {chosen} was registered, not trained here: its runs are not known")
    every = registry.learned(archive, chosen)
    matches = matcher(me)
    names = [name for name in every if matches(name)][:most_elements]
    if not names:
        raise KeyError(f"model {chosen} learned no element {me!r}; there: {', '.join(every[:5])}")
    wanted = ranges.of_mapping(spans)
    tables = []
    for name in names:
        each(name)
        detector = clone(registry.fitted(archive, chosen.model_id, name).detector)
        found = evaluate(
            {str(chosen): detector},
            training_stacks(archive, name, dataset, wanted),
            conditions=numbers_of(archive, list(wanted)),
            seed=seed,
            n_trials=n_trials,
            false_alarms=chosen.false_alarms / len(every),
        )
        registry.add_metrics(archive, chosen.model_id, {_KEY + name: _kept(found, n_trials)})
        tables.append(found.table.droplevel("detector").assign(me=name))
    return pd.concat(tables).reset_index().set_index(["me", "fault"])


def proofs(model: Model) -> dict[str, dict[str, Any]]:
    """What `prove` kept with a model, by element.

    ``faults`` holds a row of the table per fault, ``curves`` false and true positive rates,
    ``alarms``, ``incidents`` and ``nominal`` count on the ``test_lumisections`` without faults.
    """
    return {
        name.removeprefix(_KEY): own for name, own in model.metrics.items() if name.startswith(_KEY)
    }


def _kept(found: Evaluation, n_trials: int) -> dict[str, Any]:
    summary = found.detectors.iloc[0]
    return {
        "faults": found.table.droplevel("detector").to_dict("index"),
        "curves": {fault: _thinned(*curve) for (_, fault), curve in found.curves.items()},
        **{key: summary[key] for key in ("alarms", "incidents", "nominal")},
        "training_runs": found.training_runs,
        "test_runs": found.test_runs,
        "n_trials": n_trials,
        "seed": found.seed,
    }


def _thinned(false: Floats, true: Floats) -> list[list[float]]:
    """The curve at fewer points, its first and last among them."""
    if len(false) <= _POINTS:
        return [false.tolist(), true.tolist()]
    least = max(float(false[false > 0].min(initial=1.0)), 1e-9)
    at = np.searchsorted(false, np.geomspace(least, 1, _POINTS - 1), side="right") - 1
    kept = np.unique([0, *at, len(false) - 1])
    return [false[kept].tolist(), true[kept].tolist()]
