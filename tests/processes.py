"""Processes of their own that tests start, and how they surely end."""

import os
import signal
import subprocess
from contextlib import contextmanager

#: As long as a server may take to end on a busy machine; JupyterLab gives each kernel 5 s.
END_S = 30


def end(process, seconds=END_S):
    """Ask a process to end; kill it, with its group, if it does not. It is buried either way."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def started(command, **options):
    """A process that leads a group of its own, until the end of a ``with`` at the latest."""
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            end(process)
