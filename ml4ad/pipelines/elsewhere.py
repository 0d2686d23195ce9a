"""A schedule as others keep it: a crontab, systemd's timers, Kubernetes' CronJobs."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from ml4ad.pipelines.schedule import Job, Schedule


def command(job: Job) -> list[str]:
    """The command that runs ``job`` once a moment, and refuses while it is still at it."""
    line = ["ml4ad", "chain", *job.notebooks, "--job", job.name]
    line += ["--when", job.when.text, "--timezone", job.when.timezone]
    if job.timeout_s is not None:
        line += ["--timeout", f"{job.timeout_s:g}"]
    for name, value in job.parameters.items():
        line += ["-p", name, value if isinstance(value, str) else json.dumps(value)]
    return line


def crontab(schedule: Schedule) -> str:
    """Lines for ``crontab -``."""
    program = str(Path(sys.executable).with_name("ml4ad"))
    lines = [f"CRON_TZ={schedule.timezone}"]
    for job in schedule.jobs.values():
        # A percent sign ends the command of a crontab unless it is escaped.
        line = shlex.join([program, *command(job)[1:]]).replace("%", r"\%")
        lines.append(f"{job.when.plain} {line}  # {job.name}")
    return "\n".join(lines) + "\n"


def systemd(schedule: Schedule) -> str:
    """Units, each headed by the name of its file in ``~/.config/systemd/user``."""
    program = str(Path(sys.executable).with_name("ml4ad"))
    units = []
    for job in schedule.jobs.values():
        line = " ".join(_systemd_quoted(word) for word in [program, *command(job)[1:]])
        units += [
            f"# ml4ad-{job.name}.service",
            "[Unit]",
            f"Description=ml4ad: {job.name}",
            "[Service]",
            "Type=oneshot",
            f"ExecStart={line}",
            "",
            f"# ml4ad-{job.name}.timer",
            "[Unit]",
            f"Description=ml4ad: {job.name}, {job.when.text}",
            "[Timer]",
            f"OnCalendar={job.when.calendar()}",
            "Persistent=true",
            "[Install]",
            "WantedBy=timers.target",
            "",
        ]
    return "\n".join(units)


def kubernetes(schedule: Schedule) -> str:
    """A list of CronJobs as JSON, which YAML's readers take too; fill in the image and the secret.

    The database is expected in the secret ``ml4ad``, under ``database-url``.
    """
    secret = {"secretKeyRef": {"name": "ml4ad", "key": "database-url"}}
    items = []
    for job in schedule.jobs.values():
        container = {
            "name": "ml4ad",
            "image": "ml4ad",
            "command": command(job),
            "env": [{"name": "ML4AD_DATABASE_URL", "valueFrom": secret}],
        }
        pod = {"restartPolicy": "Never", "containers": [container]}
        spec = {
            "schedule": job.when.plain,
            "timeZone": schedule.timezone,
            "concurrencyPolicy": "Forbid",
            "jobTemplate": {"spec": {"backoffLimit": 0, "template": {"spec": pod}}},
        }
        whole = {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "metadata": {"name": f"ml4ad-{job.name}"},
            "spec": spec,
        }
        items.append(whole)
    # Not one document after the other: kubectl reads a single one of JSON.
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2) + "\n"


#: Name on the command line -> what prints it.
FORMS: Mapping[str, Callable[[Schedule], str]] = {
    "crontab": crontab,
    "systemd": systemd,
    "kubernetes": kubernetes,
}


def _systemd_quoted(word: str) -> str:
    # systemd has its own quoting: specifiers begin with %, variables with $.
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != word or not word or " " in word or "'" in word else word
