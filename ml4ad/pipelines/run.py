"""Notebooks run by papermill, one after the other or alone, each with its record."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml4ad.pipelines import notebook as notebooks
from ml4ad.pipelines import records
from ml4ad.pipelines.records import AlreadyRunError, Origin, Record
from ml4ad.store import DatabaseError
from ml4ad.store.execution import RunState

if TYPE_CHECKING:
    import sqlalchemy as sa

    from ml4ad.pipelines.kernel import Execution

#: What `chain` runs: what is new is found and taken in, scored, and told.
CHAIN = ("ingest", "score", "report")

#: A database that is away at the end of a run is waited for so long, in seconds.
_PATIENCE_S = 120


class RunError(RuntimeError):
    """A run ended badly; the message says where, its record (`records.find`) says all."""


class OverlapError(RuntimeError):
    """The job's run before this one has not ended."""


def run(
    notebook: str | Path,
    parameters: Mapping[str, Any] | None = None,
    *,
    timeout_s: float | None = None,
    start_timeout_s: float = 300,
    database_url: str | None = None,
    origin: Origin | None = None,
    on_cell: Callable[[int, int], None] | None = None,
) -> Record:
    """Record of the run of ``notebook``, a path or a name that comes with ml4ad.

    The executed notebook and its HTML page lie in a folder of the run's own under
    ``<data_dir>/runs``. ``on_cell`` is told the number of each code cell, and how many there are.
    The kernel works in the current folder, on ``database_url`` or the database of the settings.
    Raises ValueError for parameters that the notebook does not declare so, and RunError if a cell
    raises, the kernel dies or does not start, or it takes longer than ``timeout_s``.
    """
    from ml4ad import settings

    read = notebooks.read(notebook)
    given = read.check(parameters or {})
    if timeout_s is not None and not timeout_s > 0:
        raise ValueError(f"timeout {timeout_s} s, want a positive time")
    from ml4ad.pipelines.kernel import Execution

    environment = dict(os.environ)
    if database_url is not None:
        environment["ML4AD_DATABASE_URL"] = database_url
    with records.opened(database_url) as engine:
        folder = settings.load().data_dir / "runs"
        record = records.begin(engine, read, given, folder, origin or Origin())
        execution = Execution(
            content=read.content,
            output=Path(record.output or ""),
            environment=environment | _identity(record),
            timeout_s=timeout_s,
            start_timeout_s=start_timeout_s,
        )
        if on_cell is not None:
            execution.on_cell = lambda cell: on_cell(cell, record.n_cells)
        with _alive(engine, record, execution):
            ended = _executed(engine, record, execution, given)
    if ended.state is not RunState.DONE:
        raise RunError(f"{ended}; see {ended.page or ended.output}")
    return ended


def rerun(run_id: int, **options: Any) -> Record:
    """Record of a new run of the same notebook with the same parameters, in the same folder.

    The notebook is taken as it is now. ``options`` and errors are those of `run`; KeyError if there
    is no run of that number.
    """
    with records.opened(options.get("database_url")) as engine:
        before = records.find(engine, run_id)
    here = Path.cwd()
    if Path(before.cwd).is_dir():
        os.chdir(before.cwd)
    try:
        origin = Origin(rerun_of=before.pipeline_run_id)
        return run(before.path, before.given, origin=origin, **options)
    finally:
        os.chdir(here)


def chain(
    parameters: Mapping[str, Any] | None = None,
    *,
    steps: Sequence[str | Path] = CHAIN,
    origin: Origin | None = None,
    **options: Any,
) -> list[Record]:
    """Records of the notebooks ``steps``, run one after the other; the first that fails ends it.

    Each gets those of the ``parameters`` that it declares. Raises ValueError, before anything runs,
    for a parameter that none of them declares so; OverlapError if ``origin`` names a job that runs
    already, AlreadyRunError if its run of that moment is another's; else as `run`.
    """
    shared = dict(parameters or {})
    planned = plan(steps, shared)
    origin = origin or Origin()
    with _alone(planned, origin, options.get("database_url")):
        done: list[Record] = []
        for path, given in planned:
            done.append(run(path, given, origin=origin, **options))
            first = origin.chain_id or done[0].pipeline_run_id
            # Only the first is what was planned for the moment; the others follow from it.
            origin = replace(origin, planned_at=None, chain_id=first)
    return done


@contextmanager
def _alone(
    steps: Sequence[tuple[Path, dict[str, Any]]], origin: Origin, database_url: str | None
) -> Iterator[None]:
    """Hold the job's lock, so that no two runs of it overlap, on whatever machines."""
    if origin.job is None:
        yield
        return
    holder = f"ml4ad job {origin.job} on {socket.gethostname()}, process {os.getpid()}"
    with (
        records.opened(database_url) as engine,
        records.locked(engine, origin.job, holder) as lock,
    ):
        if isinstance(lock, str):
            path, given = steps[0]
            reason = f"still at it: {lock}"
            read = notebooks.read(path)
            noted = records.note(engine, read, given, origin, state=RunState.REFUSED, reason=reason)
            if noted is None:
                # What is at it is the run of this very moment, on another machine.
                raise AlreadyRunError(records.taken(engine, origin))
            raise OverlapError(f"job {origin.job} is {reason}")
        yield


def plan(
    names: Sequence[str | Path], parameters: Mapping[str, Any], *, texts: bool = False
) -> list[tuple[Path, dict[str, Any]]]:
    """Path of each notebook with those of the parameters that it declares, checked.

    With ``texts`` the values are those of a command line. Raises ValueError if no notebook declares
    a parameter, or not so.
    """
    read = [notebooks.read(name) for name in names]
    if not read:
        raise ValueError("no notebook to run")
    known = {name: parameter for own in read for name, parameter in own.parameters.items()}
    unknown = [name for name in parameters if name not in known]
    if unknown:
        there = ", ".join(f"{p.name} ({p.type})" for p in known.values())
        raise ValueError(
            f"none of {', '.join(own.name for own in read)} has a parameter {unknown[0]!r}; "
            f"there: {there or 'none'}"
        )
    steps = []
    for own in read:
        given = {name: value for name, value in parameters.items() if name in own.parameters}
        steps.append((own.path, own.parse(given) if texts else own.check(given)))
    return steps


def _identity(record: Record) -> dict[str, str]:
    """Variables by which a notebook's calls know the run that they belong to."""
    return {
        "ML4AD_RUN": str(record.pipeline_run_id),
        "ML4AD_RUN_DIR": str(Path(record.output or "").parent),
    }


# -- one run -------------------------------------------------------------------------------------


def _executed(
    engine: sa.Engine, record: Record, execution: Execution, given: Mapping[str, Any]
) -> Record:
    outcome: dict[str, Any] = {"state": RunState.STOPPED, "reason": "interrupted"}
    try:
        with _haltable(execution):
            outcome = _outcome(execution, given)
    finally:
        # Also where it is interrupted: the record must not say that it runs.
        ended = _persistently(
            lambda: records.end(engine, record.pipeline_run_id, cell=execution.cell, **outcome)
        )
    return _paged(engine, ended)


def _outcome(execution: Execution, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the record will say, after the notebook was executed."""
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    try:
        execution.execute(given)
    except (PapermillExecutionError, DeadKernelError, RuntimeError, OSError) as error:
        at = f"In [{execution.cell}]"
        name, said = type(error).__name__, str(error)
        if execution.halted is RunState.OVERTIME:
            state, reason = RunState.OVERTIME, f"{at}: longer than {execution.timeout_s:g} s"
        elif execution.halted is not None:
            state, reason = execution.halted, f"{at}: interrupted or terminated from outside"
        elif isinstance(error, PapermillExecutionError):
            name, said = error.ename, error.evalue
            first = f"{name}: {said}".strip().splitlines()[0]
            state, reason = RunState.FAILED, f"{at}: {first}"
        elif isinstance(error, DeadKernelError):
            ending = _ending(execution.exit_code)
            state, reason = RunState.DIED, f"{at}: the kernel ended ({ending})"
        else:
            state, reason = RunState.FAILED, f"not started: {said}"
        return {"state": state, "reason": reason, "error_name": name, "error_message": said}
    return {"state": RunState.DONE}


def _ending(exit_code: int | None) -> str:
    if exit_code is None:
        return "no exit code"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"{name}: out of memory?" if -exit_code == signal.SIGKILL else name


def _paged(engine: sa.Engine, record: Record) -> Record:
    from ml4ad.pipelines import page

    if record.output is None or not Path(record.output).is_file():
        return record
    written = page.write(Path(record.output))
    return _persistently(lambda: records.paged(engine, record.pipeline_run_id, written))


def _persistently(act: Callable[[], Record]) -> Record:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return act()
        except DatabaseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


@contextmanager
def _alive(engine: sa.Engine, record: Record, execution: Execution) -> Iterator[None]:
    """Keep the record alive, with the cell that it is at."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(records.HEARTBEAT_S):
            # Where the database is away it may be back for the next; the end of the run will tell.
            with suppress(DatabaseError):
                records.beat(engine, record.pipeline_run_id, execution.cell)

    thread = threading.Thread(target=beat, name=f"heartbeat-{record.pipeline_run_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _haltable(execution: Execution) -> Iterator[None]:
    """Take SIGINT and SIGTERM as the wish to halt, so that the record says what happened."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def halt(_number: int, _frame: object) -> None:
        execution.halt(RunState.STOPPED)

    before = {number: signal.signal(number, halt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
