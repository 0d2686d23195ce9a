"""The schedule: a small TOML file that says what runs when, with which parameters.

timezone = "Europe/Zurich"

[jobs.hourly]
notebooks = ["ingest", "score", "report"]
when = "5 * * * *"
timeout = 3000
parameters = { paths = ["/eos/cms/store/data"], workers = 4 }
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from ml4ad import settings
from ml4ad.pipelines.cron import Cron
from ml4ad.pipelines.notebook import lasting
from ml4ad.pipelines.run import plan

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,51}")
_KEYS = {"notebooks", "when", "timeout", "parameters"}


@dataclass(frozen=True)
class Job:
    """One or more notebooks, run one after the other at moments that come again.

    Raises ValueError for a name that is not lower-case letters, digits and "-" (it becomes one of a
    systemd unit), no notebook, or a timeout that is not positive.
    """

    name: str
    notebooks: tuple[str, ...]
    when: Cron
    parameters: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"job {self.name!r}: want lower-case letters, digits and '-'")
        if not self.notebooks:
            raise ValueError(f"job {self.name}: no notebook")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ValueError(f"job {self.name}: timeout {self.timeout_s}, want seconds")


@dataclass(frozen=True)
class Schedule:
    """Jobs by name, and the time zone of their moments."""

    jobs: Mapping[str, Job]
    timezone: str = "UTC"


def default_path() -> Path:
    """The file ``schedule.toml`` beside the settings file."""
    return settings.settings_file().with_name("schedule.toml")


def read(path: Path) -> Schedule:
    """The schedule in the file ``path``; an empty one if there is no such file.

    Raises ValueError naming job and key of what is not understood, FileNotFoundError for a notebook
    that is not there.
    """
    document = _document(path).unwrap()
    unknown = set(document) - {"timezone", "jobs"}
    if unknown:
        raise ValueError(f"{path}: {sorted(unknown)[0]!r}, want timezone and jobs")
    timezone = document.get("timezone", "UTC")
    jobs = {name: _job(path, name, own, timezone) for name, own in document.get("jobs", {}).items()}
    return Schedule(jobs, timezone)


def add(path: Path, job: Job) -> None:
    """Write ``job`` into the file, in place of one of that name; the rest stays as it is.

    Its notebooks are written so that they are found from every folder.
    Raises ValueError if its parameters are not what its notebooks declare.
    """
    _checked(job)
    document = _document(path)
    table = tomlkit.table()
    table["notebooks"] = [lasting(name) for name in job.notebooks]
    table["when"] = job.when.text
    if job.timeout_s is not None:
        table["timeout"] = job.timeout_s
    if job.parameters:
        inline = tomlkit.inline_table()
        inline.update(dict(job.parameters))
        table["parameters"] = inline
    jobs = document.setdefault("jobs", tomlkit.table(is_super_table=True))
    jobs[job.name] = table
    _write(path, document)


def remove(path: Path, name: str) -> None:
    """Take job ``name`` out of the file; KeyError if it is not in it."""
    document = _document(path)
    jobs = document.get("jobs", {})
    if name not in jobs:
        raise KeyError(f"{path}: no job {name!r}; there: {', '.join(jobs) or 'none'}")
    jobs.remove(name)
    _write(path, document)


def _document(path: Path) -> tomlkit.TOMLDocument:
    if not path.exists():
        return tomlkit.document()
    try:
        return tomlkit.parse(path.read_text(encoding="utf-8"))
    except TOMLKitError as error:
        raise ValueError(f"{path}: {error}") from error


def _write(path: Path, document: tomlkit.TOMLDocument) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(tomlkit.dumps(document), encoding="utf-8")
    beside.replace(path)


def _job(path: Path, name: str, own: Any, timezone: str) -> Job:
    if not isinstance(own, dict):
        raise ValueError(f"{path}: job {name} is {own!r}, want a table")
    unknown = set(own) - _KEYS
    missing = {"notebooks", "when"} - set(own)
    if unknown or missing:
        seen = f"key {sorted(unknown)[0]!r}" if unknown else f"no {sorted(missing)[0]!r}"
        raise ValueError(f"{path}: job {name}: {seen}, want {', '.join(sorted(_KEYS))}")
    notebooks, parameters = own["notebooks"], own.get("parameters", {})
    if isinstance(notebooks, str):
        notebooks = [notebooks]
    wanted = (
        ("notebooks", notebooks, list),
        ("when", own["when"], str),
        ("parameters", parameters, dict),
        ("timeout", own.get("timeout", 1), int | float),
    )
    for key, value, kind in wanted:
        if not isinstance(value, kind):
            raise ValueError(f"{path}: job {name}: {key} = {value!r} is not understood")
    try:
        job = Job(
            name, tuple(notebooks), Cron(own["when"], timezone), parameters, own.get("timeout")
        )
        return _checked(job)
    except ValueError as error:
        raise ValueError(f"{path}: job {name}: {error}") from error


def _checked(job: Job) -> Job:
    plan(job.notebooks, job.parameters)
    return job
