"""Dask workers: local processes by default, a running scheduler, or a cluster named in settings."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

    from ml4ad.settings import Settings

#: Kind of cluster -> (module, class, extra of this package that brings it).
KINDS: Mapping[str, tuple[str, str, str]] = {
    "local": ("distributed", "LocalCluster", ""),
    "htcondor": ("dask_jobqueue", "HTCondorCluster", "batch"),
    "slurm": ("dask_jobqueue", "SLURMCluster", "batch"),
    "kubernetes": ("dask_kubernetes.operator", "KubeCluster", "kubernetes"),
}

#: Where a run notes the address of its scheduler, in Dask's own format.
SCHEDULER_FILE = "dask-scheduler.json"

# Without an address Dask takes port 8787, which a second cluster would find taken.
_ANY_PORT = "127.0.0.1:0"

# A terminal sends Ctrl-C to workers, too, which are stopped by the process that has them.
_LEFT_TO_US = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"


def build(kind: str, options: Mapping[str, Any] | None = None) -> Any:
    """Cluster of ``kind`` with the library's own ``options``; no worker is started.

    Raises ValueError for an unknown kind or options that the library refuses, ImportError if the
    extra that brings it is not installed.
    """
    if kind not in KINDS:
        raise ValueError(f"cluster of kind {kind!r}, want one of {', '.join(KINDS)}")
    module, name, extra = KINDS[kind]
    try:
        cluster_class = getattr(importlib.import_module(module), name)
    except ImportError as missing:
        raise ImportError(
            f"clusters of kind {kind!r} need more packages: pip install 'ml4ad[{extra}]'"
        ) from missing
    chosen = dict(options or {})
    if kind == "local":
        _keep_memory()
        # Processes, not threads: a crash of one worker must not take the others along.
        chosen = {
            "n_workers": 0,
            "threads_per_worker": 1,
            "dashboard_address": _ANY_PORT,
            "preload": [_LEFT_TO_US],
        } | chosen
    try:
        return cluster_class(**chosen)
    except (TypeError, ValueError) as refused:
        raise ValueError(f"cluster of kind {kind!r} with options {chosen}: {refused}") from refused


def _keep_memory() -> None:
    """Have local workers keep the memory that one lumisection's arrays leave for the next's.

    Dask lets them give it back to the system at once, which then clears each page again: half of
    the time that training on a large map takes.
    """
    import dask

    once_more = {"MALLOC_TRIM_THRESHOLD_": 1 << 30, "MALLOC_MMAP_THRESHOLD_": 1 << 30}
    for name, n_bytes in once_more.items():
        dask.config.set({f"distributed.nanny.pre-spawn-environ.{name}": n_bytes})


def job_script(settings: Settings, name: str) -> str:
    """Text that the batch system would be given for one worker of the cluster ``name``.

    Raises KeyError if settings hold no such cluster, ValueError if it is not a batch system.
    """
    kind, options, _ = _described(settings, name)
    if kind not in ("htcondor", "slurm"):
        raise ValueError(f"cluster {name!r} is of kind {kind!r}, which has no job script")
    with build(kind, {"scheduler_options": {"dashboard_address": _ANY_PORT}} | options) as cluster:
        return cluster.job_script()


@contextmanager
def client(
    settings: Settings,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    name: str | None = None,
) -> Iterator[Client]:
    """Dask client; what was started for it is stopped at the end.

    ``scheduler`` is the address of a running one (``tcp://host:8786``); ``name`` a cluster of the
    settings file, by default the one that they name as ``cluster``; otherwise ``workers`` local
    processes are started (default: one per core).
    Raises ValueError if more than one of scheduler and name is given, or workers is not positive,
    KeyError for an unknown name, OSError if the scheduler does not answer.
    """
    import os

    from distributed import Client

    if scheduler is not None and name is not None:
        raise ValueError(f"scheduler {scheduler!r} and cluster {name!r}: want one of them")
    if workers is not None and workers < 1:
        raise ValueError(f"{workers} workers, want at least 1")
    if scheduler is None and name is None:
        name = settings.cluster
    if scheduler is not None:
        with Client(scheduler, timeout=20) as connected:
            yield connected
        return
    if name is not None:
        kind, options, jobs = _described(settings, name)
    else:
        kind, options, jobs = "local", {}, os.cpu_count() or 1
    with build(kind, options) as cluster:
        cluster.scale(workers or jobs)
        with Client(cluster) as connected:
            yield connected


def workers(scheduler_file: Path, timeout_s: float = 2) -> pd.DataFrame:
    """Workers of the scheduler that the file names: worker, host, n_tasks, cpu, memory, limit.

    ``n_tasks`` are at work, ``cpu`` is in per cent of a core, memory and limit in bytes. Raises
    OSError if there is no such file or the scheduler does not answer.
    """
    import json

    import pandas as pd
    from distributed import Client

    address = json.loads(scheduler_file.read_text(encoding="utf-8"))["address"]
    with Client(address, timeout=timeout_s, set_as_default=False) as client:
        found = client.scheduler_info()["workers"]
        busy = client.processing()
    rows = [
        {
            "worker": str(own["name"]),
            "host": own["host"],
            "n_tasks": len(busy.get(at, ())),
            "cpu": float(own["metrics"].get("cpu", 0.0)),
            "memory": int(own["metrics"].get("memory", 0)),
            "limit": int(own["memory_limit"] or 0),
        }
        for at, own in found.items()
    ]
    return pd.DataFrame(rows, columns=["worker", "host", "n_tasks", "cpu", "memory", "limit"])


def _described(settings: Settings, name: str) -> tuple[str, dict[str, Any], int]:
    if name not in settings.clusters:
        known = ", ".join(settings.clusters) or "none"
        raise KeyError(f"no cluster {name!r} in settings; there: {known}")
    described = settings.clusters[name]
    return described.kind, dict(described.options), described.workers
