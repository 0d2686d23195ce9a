"""Notebooks started in a process of their own, which goes on when the one that asked has ended."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ml4ad.pipelines.records import Record
from ml4ad.pipelines.run import plan


@dataclass(frozen=True)
class Started:
    """A process that runs notebooks; ``what`` says which, in words."""

    what: str
    process: subprocess.Popen[str]
    said: IO[str]

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise than well; False while it runs."""
        return self.process.poll() not in (None, 0)

    def last_line(self) -> str:
        """What it said last, "" if it said nothing."""
        self.said.seek(0)
        lines = [line.strip() for line in self.said if line.strip()]
        return lines[-1] if lines else ""

    def owns(self, record: Record) -> bool:
        """Whether a record is of a run in this process."""
        return record.pid == self.process.pid and record.host == socket.gethostname()


def steps(
    notebooks: Sequence[str],
    parameters: Mapping[str, Any],
    *,
    timeout_s: float | None = None,
    job: str | None = None,
    database_url: str | None = None,
) -> Started:
    """Notebooks that run one after the other, as `pipelines.chain` does.

    ``database_url`` None is the database of the settings. Raises ValueError, before anything is
    started, for a parameter that none of them declares so.
    """
    plan(notebooks, parameters)
    order = {
        "notebooks": list(notebooks),
        "parameters": dict(parameters),
        "timeout_s": timeout_s,
        "job": job,
    }
    what = f"job {job}" if job else ", then ".join(notebooks)
    return _process(what, order, database_url)


def again(run_id: int, *, database_url: str | None = None) -> Started:
    """A run started anew, as `pipelines.rerun` does."""
    return _process(f"run {run_id} again", {"rerun": run_id}, database_url)


def _process(what: str, order: Mapping[str, Any], database_url: str | None) -> Started:
    environment = dict(os.environ)
    if database_url is not None:
        environment["ML4AD_DATABASE_URL"] = database_url
    # A pipe would break, and end it, when whoever asked has ended.
    said = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 (its owner closes it)
    process = subprocess.Popen(
        [sys.executable, "-m", "ml4ad.pipelines"],
        stdin=subprocess.PIPE,
        stdout=said,
        stderr=said,
        text=True,
        cwd=Path.home(),
        env=environment,
        start_new_session=True,
    )
    if process.stdin is not None:
        process.stdin.write(json.dumps(order))
        process.stdin.close()
    return Started(what, process, said)
