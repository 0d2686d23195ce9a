"""Notebooks run by papermill, by hand or by schedule, with a record of each run."""

from ml4ad.pipelines.records import AlreadyRunError, Origin, Record
from ml4ad.pipelines.run import CHAIN, OverlapError, RunError, chain, plan, rerun, run

__all__ = [
    "CHAIN",
    "AlreadyRunError",
    "Origin",
    "OverlapError",
    "Record",
    "RunError",
    "chain",
    "plan",
    "rerun",
    "run",
]
