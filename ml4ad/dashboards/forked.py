"""Kernels of pages as forks of one process that has imported all: soon there, memory shared.

`Mother` starts that process and asks it for kernels; `Provisioner` has Jupyter do so. The process
itself is this module run by ``python -m``: a request is a line of JSON, the answer a line with the
number of the kernel's process. It ends, and its kernels with it, when nobody can ask any more.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from jupyter_client.provisioning.local_provisioner import LocalProvisioner

#: Whether kernels can be forked here. Elsewhere each is a process that imports for itself: macOS
#: has libraries that do not survive a fork.
POSSIBLE = sys.platform == "linux" and hasattr(os, "pidfd_open")
#: What every page needs, or soon will, beside the pages themselves.
_READY = (
    "IPython.core.completerlib",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "ipykernel.debugger",
    "ipykernel.ipkernel",
    "ipykernel.kernelapp",
    "ipykernel.zmqshell",
    "sqlite3",
    "tornado.platform.asyncio",
    "tornado.queues",
    "anywidget",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "ml4ad.archive",
    "ml4ad.conditions",
    "ml4ad.store.connection",
)
_PAGES = ("certify", "explore", "models", "operate", "shift")
_LAUNCHER = "ipykernel_launcher"
#: Threads do not survive a fork; and of twenty kernels on one machine none is to take all of it.
_ONE_THREAD = dict.fromkeys(
    (
        "OPENBLAS_NUM_THREADS",
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_MAX_THREADS",
        "NUMEXPR_NUM_THREADS",
        "BLOSC_NTHREADS",
    ),
    "1",
)
_ENDING_S = 10.0


class Mother:
    """The process that kernels are forked from; begun at the first `fork`, ended by `close`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def fork(self, argv: Sequence[str], env: Mapping[str, str], cwd: str) -> Forked:
        """A kernel with these arguments, environment and folder.

        Raises RuntimeError if the process has ended; the next one asked for begins it anew.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                command = [sys.executable, "-m", __name__]
                self._process = subprocess.Popen(  # noqa: S603  # this very module
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**env, **_ONE_THREAD},
                    # Ctrl-C is for the server, which ends its kernels in order.
                    start_new_session=True,
                )
            said = self._ask({"argv": [*argv], "env": dict(env), "cwd": cwd})
        if not said:
            raise RuntimeError("the process that kernels are forked from has ended: see the log")
        return Forked.of(int(said))

    def _ask(self, request: Mapping[str, Any]) -> str:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return ""
        try:
            process.stdin.write(f"{json.dumps(request)}\n")
            process.stdin.flush()
        except BrokenPipeError:
            return ""
        return process.stdout.readline().strip()

    def close(self) -> None:
        """End it, and with it the kernels that still run."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait(_ENDING_S)


@dataclass
class Forked:
    """A kernel's process, which is not our child: what Jupyter wants of a ``Popen``."""

    pid: int
    _fd: int
    returncode: int | None = None
    stdin: None = field(default=None, init=False)
    stdout: None = field(default=None, init=False)
    stderr: None = field(default=None, init=False)

    @classmethod
    def of(cls, pid: int) -> Forked:
        """The process of that number, which may have ended already."""
        try:
            return cls(pid, os.pidfd_open(pid))
        except ProcessLookupError:
            return cls(pid, -1, 0)

    def poll(self) -> int | None:
        """None while it runs, else 0: how it ended only its parent is told."""
        return self._ended(0)

    def wait(self) -> int:
        """Wait until it has ended."""
        return self._ended(None) or 0

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._fd], [], [], timeout)[0]:
            os.close(self._fd)
            self.returncode = 0
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._fd, signum)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class Provisioner(LocalProvisioner):
    """Has Jupyter's kernels forked from ``mother``, where that is possible."""

    mother: ClassVar[Mother] = Mother()
    process: Any = None

    async def launch_kernel(self, cmd: list[str], **given: Any) -> Any:
        """Fork the kernel; how to connect to it."""
        # A kernel's log would tell of every connection that it is not encrypted: it is local.
        cmd = [*cmd, "--log-level=ERROR"]
        if not POSSIBLE or _LAUNCHER not in cmd:
            return await super().launch_kernel(cmd, **given)
        import asyncio

        argv = cmd[cmd.index(_LAUNCHER) + 1 :]
        env = {name: str(value) for name, value in (given.get("env") or os.environ).items()}
        cwd = str(given.get("cwd") or Path.cwd())
        fork = asyncio.get_running_loop().run_in_executor
        self.process = await fork(None, self.mother.fork, argv, env, cwd)
        self.pid = self.pgid = self.process.pid
        self.cwd = cwd
        return self.connection_info


# -- the process itself ----------------------------------------------------------------------------


def _asked() -> dict[str, Any] | None:
    """Fork a process for each request; in the forked one its request, None at the end in ours."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            return dict(json.loads(line))
        print(pid, flush=True)  # noqa: T201  # the answer
    return None


def _become(request: Mapping[str, Any]) -> None:
    """Be the kernel that was asked for, until it ends."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    # A notebook's own folder comes first, as for any kernel.
    sys.path[0] = ""
    import ipywidgets
    from ipykernel.kernelapp import IPKernelApp

    # By its parent a kernel sees that it is alone, and ends.
    parent = f"--IPKernelApp.parent_handle={os.getppid()}"
    sys.argv = [_LAUNCHER, *request["argv"], parent]
    app: Any = IPKernelApp.instance()
    app.initialize()
    # It was imported before there was a kernel to answer for it: a browser would have to ask for
    # the state of each widget by itself.
    ipywidgets.register_comm_target()
    app.start()


def main() -> None:
    """Import everything, then fork kernels for who asks on standard input."""
    # Nobody debugs a page: that would be 50 MB for each.
    sys.modules["debugpy"] = None  # type: ignore[assignment]
    for name in (*_READY, *(f"ml4ad.dashboards.{page}" for page in _PAGES)):
        importlib.import_module(name)
    # Nobody waits for kernels; they are not to stay as zombies.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.collect()
    # What is here now is never looked at by a kernel's collector, which would copy its pages.
    gc.freeze()
    request = _asked()
    if request is not None:
        _become(request)


if __name__ == "__main__":
    main()
