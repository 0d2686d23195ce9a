"""Stops an embedded server that nobody has used for a while; runs as a script of its own.

It is started with the server and ends with it. Only the standard library is imported, so that
it stays small.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``; waits for the process that has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def postmaster(data: Path) -> int | None:
    """Pid of the server process on ``data``, or None; another process with its pid is not it."""
    try:
        first = (data / "postmaster.pid").read_text().splitlines()[0]
        pid = int(first)
    except (OSError, IndexError, ValueError):
        return None
    if pid <= 0:
        return None
    arguments = command_line(pid)
    return pid if "postgres" in arguments and str(data) in arguments else None


def command_line(pid: int) -> str:
    """Command line of a process, or "" if there is none of that pid."""
    proc = Path("/proc")
    if (proc / "self").exists():
        try:
            return (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            return ""
    listed = subprocess.run(  # noqa: S603
        ["/bin/ps", "-o", "command=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return listed.stdout


def unused(folder: Path) -> bool:
    """Whether no process holds the server of ``folder``."""
    descriptor = os.open(folder / "users", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def watch(folder: Path, idle_s: float) -> None:
    """Wait until the server has had no user for ``idle_s`` seconds, then stop it."""
    last_used = time.monotonic()
    while (pid := postmaster(folder / "data")) is not None:
        if not unused(folder):
            last_used = time.monotonic()
        elif time.monotonic() - last_used >= idle_s:
            with locked(folder / "lock"):
                if unused(folder):
                    os.kill(pid, signal.SIGINT)  # PostgreSQL's fast shutdown
                    _wait_until_gone(folder)
        time.sleep(min(1.0, idle_s))


def _wait_until_gone(folder: Path, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while postmaster(folder / "data") is not None and time.monotonic() < deadline:
        time.sleep(0.1)


if __name__ == "__main__":
    # What it was born with is not its own: a lock, as of flock in a crontab, would be held for it.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    watch(Path(sys.argv[1]), float(sys.argv[2]))
