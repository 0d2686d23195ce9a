"""What a test starts is gone after it, whatever it does when it is told to end."""

import subprocess
import sys

import processes

STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print("there", flush=True)
child.wait()
"""


def test_a_process_that_does_not_end_is_killed_with_what_it_started():
    command = [sys.executable, "-c", STUBBORN]
    with processes.started(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "there\n"
        processes.end(process, seconds=0.1)
        # The pipe ends when the last process that could write to it does.
        assert process.stdout.read() == ""
    assert process.returncode < 0
