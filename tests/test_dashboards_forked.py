"""Kernels that are forked from one process."""

import os
import time

import psutil
import pytest
from jupyter_client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from ml4ad.dashboards.forked import POSSIBLE, Mother

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="kernels are forked on Linux only")
WAIT_S = 120


@pytest.fixture(scope="module")
def mother():
    one = Mother()
    yield one
    one.close()


@pytest.fixture
def kernel(mother, tmp_path):
    """A kernel in a folder of its own, and a client to it."""
    path, _ = write_connection_file(str(tmp_path / "kernel.json"))
    argv = ["-f", path, "--log-level=ERROR"]
    forked = mother.fork(argv, os.environ | {"ML4AD_TOLD": "yes"}, str(tmp_path))
    client = BlockingKernelClient()
    client.load_connection_file(path)
    client.start_channels()
    client.wait_for_ready(WAIT_S)
    yield forked, client
    client.stop_channels()
    forked.kill()
    forked.wait()


def said(client, code):
    """What a line of Python prints in the kernel."""
    out = []
    client.execute_interactive(
        code, timeout=WAIT_S, output_hook=lambda one: out.append(one["content"].get("text", ""))
    )
    return "".join(out).split()


def test_a_kernel_has_its_own_folder_and_environment_and_the_pages_are_imported(kernel, tmp_path):
    forked, client = kernel
    code = "import os, sys; print(os.getpid(), os.getcwd(), os.environ['ML4AD_TOLD'])"
    assert said(client, code) == [str(forked.pid), str(tmp_path), "yes"]
    assert said(client, "print('ml4ad.dashboards.shift' in sys.modules)") == ["True"]


def test_a_browser_gets_the_state_of_all_widgets_at_once(kernel):
    _, client = kernel
    targets = "get_ipython().kernel.comm_manager.targets"
    assert said(client, f"print(*sorted({targets}))") == [
        "jupyter.widget",
        "jupyter.widget.control",
    ]


def test_most_memory_of_a_kernel_is_shared(kernel):
    forked, _ = kernel
    memory = psutil.Process(forked.pid).memory_full_info()
    assert memory.uss < 0.4 * memory.rss


def test_a_kernel_that_is_asked_to_has_ended(kernel):
    forked, client = kernel
    assert forked.poll() is None
    client.shutdown()
    assert forked.wait() == 0
    assert not psutil.pid_exists(forked.pid)
    forked.kill()


def test_kernels_end_with_the_process_that_they_come_from_and_the_next_begins_it_anew(tmp_path):
    one = Mother()
    pids = []
    for name in ("first", "second"):
        path, _ = write_connection_file(str(tmp_path / name))
        forked = one.fork(["-f", path], os.environ, str(tmp_path))
        client = BlockingKernelClient()
        client.load_connection_file(path)
        client.start_channels()
        client.wait_for_ready(WAIT_S)
        client.stop_channels()
        one.close()
        deadline = time.monotonic() + WAIT_S
        while forked.poll() is None:
            assert time.monotonic() < deadline, "the kernel goes on alone"
            time.sleep(0.1)
        pids.append(forked.pid)
    assert len(set(pids)) == 2
