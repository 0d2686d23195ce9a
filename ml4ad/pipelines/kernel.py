"""Papermill's execution of one notebook, in a kernel of this very Python.

The kernel is reached through sockets in a folder of its own, not through ports that another kernel
may take between being chosen and being bound: any number can start at the same moment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import DeadKernelError
from papermill import execute_notebook
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines

from ml4ad.pipelines.notebook import is_run
from ml4ad.store.execution import RunState

_ENGINE = "ml4ad"

# The limit of the system is 104 (macOS) to 108 bytes; the name of a socket takes 12.
_LONGEST_SOCKET_FOLDER = 90

# A cell that is interrupted has so long to clean up, in seconds.
_INTERRUPT_S = 10


class HaltedError(RuntimeError):
    """The execution was halted between two cells."""


@dataclass
class Execution:
    """How one notebook is executed, and how far that is."""

    content: Any
    output: Path
    environment: Mapping[str, str]
    timeout_s: float | None = None
    start_timeout_s: float = 300
    on_cell: Callable[[int], None] = lambda _: None
    cell: int = field(default=0, init=False)
    exit_code: int | None = field(default=None, init=False)
    halted: RunState | None = field(default=None, init=False)
    manager: AsyncKernelManager | None = field(default=None, init=False)

    def execute(self, parameters: Mapping[str, Any]) -> None:
        """Execute all cells; ``output`` is written after each.

        Raises papermill's PapermillExecutionError for a cell that raised, nbclient's
        DeadKernelError, HaltedError, RuntimeError for a kernel that does not start.
        """
        self.output.parent.mkdir(parents=True)
        with self._limited(), _own_loop():
            try:
                execute_notebook(
                    self.content,
                    None,
                    dict(parameters),
                    engine_name=_ENGINE,
                    kernel_name=NATIVE_KERNEL_NAME,
                    language="python",
                    progress_bar=False,
                    execution=self,
                )
            finally:
                # Papermill marks the cell that failed after the engine is done.
                self.save()

    def halt(self, why: RunState) -> None:
        """End it: the cell is interrupted, and the kernel killed if that does not help.

        It is safe in a signal handler and in any thread: the kernel's end is what is waited for.
        """
        again = self.halted is not None
        self.halted = self.halted or why
        self.signal(signal.SIGKILL if again else signal.SIGINT)
        if not again:
            killer = threading.Timer(_INTERRUPT_S, self.signal, [signal.SIGKILL])
            killer.daemon = True
            killer.start()

    def signal(self, number: int) -> None:
        """Send a signal to the kernel and what it started, if they run."""
        provisioner = self.manager and self.manager.provisioner
        if isinstance(provisioner, LocalProvisioner) and provisioner.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(provisioner.process.pid, number)

    @contextmanager
    def _limited(self) -> Iterator[None]:
        if self.timeout_s is None:
            yield
            return
        timer = threading.Timer(self.timeout_s, self.halt, [RunState.OVERTIME])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def save(self) -> None:
        """Write the notebook as it is; a reader finds the old or the new one, never a half."""
        beside = self.output.with_suffix(".part")
        beside.write_text(nbformat.writes(self.content), encoding="utf-8")
        beside.replace(self.output)

    def at(self, index: int) -> None:
        """Take note that the cell at ``index`` begins; HaltedError if it must not."""
        if self.halted is not None:
            raise HaltedError(f"{self.halted} before the next cell")
        cells = self.content.cells[: index + 1]
        if is_run(cells[-1]):
            self.cell = sum(is_run(cell) for cell in cells)
            self.on_cell(self.cell)


class _Progress(NotebookExecutionManager):  # type: ignore[misc]  # papermill is untyped
    """Papermill's account of cells, kept in an `Execution`."""

    def __init__(self, nb: Any, execution: Execution) -> None:
        super().__init__(nb, progress_bar=False)
        self.execution = execution
        execution.content = nb

    def save(self, **_: Any) -> None:
        self.execution.save()
        self.last_save_time = self.now()

    def cell_start(self, cell: Any, cell_index: int, **_: Any) -> None:
        self.execution.at(cell_index)
        super().cell_start(cell, cell_index)


class _Client(PapermillNotebookClient):  # type: ignore[misc]  # papermill is untyped
    """A client whose kernel is this Python's own, behind sockets in ``folder``."""

    def __init__(self, progress: _Progress, folder: Path, **options: Any) -> None:
        super().__init__(progress, **options)
        self.folder = folder

    def create_kernel_manager(self) -> AsyncKernelManager:
        self.km = self.nb_man.execution.manager = AsyncKernelManager(
            kernel_name=NATIVE_KERNEL_NAME,
            # A user's own kernel of the same name may be of another Python.
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            transport="ipc",
            connection_file=str(self.folder / "k.json"),
        )
        return self.km

    def papermill_execute_cells(self) -> None:
        try:
            super().papermill_execute_cells()
        except DeadKernelError as error:
            self._bury(str(error))
            raise

    def _bury(self, said: str) -> None:
        """Note how the kernel ended; what it started would live on, and nobody would know."""
        execution = self.nb_man.execution
        provisioner = self.km.provisioner
        if isinstance(provisioner, LocalProvisioner) and provisioner.process is not None:
            execution.exit_code = provisioner.process.returncode
        execution.signal(signal.SIGKILL)
        cell = [c for c in self.nb.cells if c.metadata.papermill["start_time"] is not None][-1]
        cell.metadata.papermill |= {"status": "failed", "exception": True}
        name = DeadKernelError.__name__
        cell.outputs.append(
            nbformat.v4.new_output("error", ename=name, evalue=said, traceback=[said])
        )


class _Engine(NBClientEngine):  # type: ignore[misc]  # papermill is untyped
    """Papermill's engine for an `Execution`."""

    @classmethod
    def execute_notebook(cls, nb: Any, _kernel_name: str, **options: Any) -> Any:
        execution: Execution = options["execution"]
        progress = _Progress(nb, execution)
        progress.notebook_start()
        try:
            with _socket_folder() as folder:
                client = _Client(
                    progress,
                    Path(folder),
                    startup_timeout=execution.start_timeout_s,
                )
                client.execute(cwd=str(Path.cwd()), env=dict(execution.environment))
        finally:
            progress.notebook_complete()
        return progress.nb


@contextmanager
def _own_loop() -> Iterator[None]:
    """Close the event loop that Jupyter's clients make for a thread, and leave open."""
    try:
        yield
    finally:
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # none runs: this is not Jupyter itself, whose loop is not ours
            ensure_event_loop().close()


def _socket_folder() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="ml4ad-")
    if len(folder.name.encode()) <= _LONGEST_SOCKET_FOLDER:
        return folder
    folder.cleanup()
    # Where TMPDIR is long.
    return tempfile.TemporaryDirectory(prefix="ml4ad-", dir="/tmp")


papermill_engines.register(_ENGINE, _Engine)
