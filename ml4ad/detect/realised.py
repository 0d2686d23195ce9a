"""Realised against nominal alarms: how often a model alarms, and how often it should have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import sqlalchemy as sa

from ml4ad.conditions import ranges
from ml4ad.conditions.certified import CertificationLike, certification
from ml4ad.detect import registry
from ml4ad.detect.registry import ModelLike
from ml4ad.detect.scored import rows_of
from ml4ad.store import schema, scoring

if TYPE_CHECKING:
    from ml4ad.archive import Archive

_COLUMNS = ("dataset", "run_number", "n_ls", "n_scored", "nominal", "realised", "n_ls_alarming")


def realised(
    archive: Archive, model: ModelLike, *, only: CertificationLike | None = None
) -> pd.DataFrame:
    """Alarms that a model gave, a row per run that it scored.

    Columns dataset, run_number, n_ls (lumisections with a score), n_scored (pairs of element and
    lumisection), nominal (pairs that alarm by chance where all is good, as the model was set),
    realised (pairs that do alarm) and n_ls_alarming. ``only`` is a stored list or JSON file: on
    lumisections known to be good the two should agree. Raises KeyError for a model or list that is
    not there.
    """
    chosen = registry.get(archive, model)
    log_alpha = registry.threshold(archive, chosen)
    wanted = None if only is None else certification(archive.engine, only)
    counts: dict[tuple[int, int], list[int]] = {}
    lumisections: dict[tuple[int, int], tuple[set[int], set[int]]] = {}
    with archive.engine.connect() as connection:
        every = connection.execute(sa.select(schema.dataset.c.dataset_id, schema.dataset.c.dataset))
        datasets = {int(number): str(name) for number, name in every}
        where = scoring.score.c.model_id == chosen.model_id
        for (_, dataset_id, run_number, _), row in rows_of(connection, where):
            there = row.codes == 0
            if wanted is not None:
                runs = np.full(len(row.ls_numbers), run_number)
                there &= ranges.mask(wanted, runs, row.ls_numbers)
            alarms = there & (row.log_p < log_alpha)
            key = dataset_id, run_number
            own = counts.setdefault(key, [0, 0])
            own[0] += int(there.sum())
            own[1] += int(alarms.sum())
            scored, alarming = lumisections.setdefault(key, (set(), set()))
            scored.update(row.ls_numbers[there].tolist())
            alarming.update(row.ls_numbers[alarms].tolist())
    rows = [
        (
            *(datasets[dataset_id], run_number, len(lumisections[dataset_id, run_number][0])),
            *(n_scored, n_scored * float(np.exp(log_alpha)), n_alarms),
            len(lumisections[dataset_id, run_number][1]),
        )
        for (dataset_id, run_number), (n_scored, n_alarms) in sorted(counts.items())
    ]
    found = pd.DataFrame(rows, columns=list(_COLUMNS))
    return found[found["n_scored"] > 0].reset_index(drop=True)
