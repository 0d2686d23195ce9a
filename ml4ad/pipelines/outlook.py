"""What the schedule holds, what came of it last, and what comes next."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ml4ad.pipelines import records
from ml4ad.pipelines.schedule import Schedule

if TYPE_CHECKING:
    import pandas as pd
    import sqlalchemy as sa


def table(engine: sa.Engine, schedule: Schedule) -> pd.DataFrame:
    """One row per job: moments, next one, last run and its state, parameters."""
    import pandas as pd

    now = datetime.now(UTC)
    rows = []
    for job in schedule.jobs.values():
        last = next(iter(records.recent(engine, job=job.name, limit=1)), None)
        rows.append(
            {
                "job": job.name,
                "notebooks": " ".join(job.notebooks),
                "when": job.when.text,
                "next": job.when.next(now),
                "last_run": None if last is None else last.pipeline_run_id,
                "state": "" if last is None else str(last.state),
                "reason": "" if last is None else last.reason,
                "parameters": " ".join(f"{n}={value}" for n, value in job.parameters.items()),
            }
        )
    columns = ["job", "notebooks", "when", "next", "last_run", "state", "reason", "parameters"]
    # Numbers of runs stay whole where a job has none yet.
    return pd.DataFrame(rows, columns=columns).astype({"last_run": "Int64"})
