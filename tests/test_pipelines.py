import itertools
import os
import re
import shlex
import shutil
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import processes
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ml4ad import pipelines, store
from ml4ad.cli.pipelines import chain, run, runs
from ml4ad.pipelines import notebook as notebooks
from ml4ad.pipelines import records
from ml4ad.store.execution import RunState, pipeline_run

DECLARED = "n: int = 3  # how many\nnames: list[str] = ['a']  # who\nscale: float = 1.5  # by what"


@pytest.fixture
def engine(database_url, tmp_path, monkeypatch):
    monkeypatch.setenv("ML4AD_DATA_DIR", str(tmp_path / "data"))
    engine = store.engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def written(tmp_path):
    def write(*cells, parameters=DECLARED, name="own"):
        content = new_notebook(
            cells=[
                new_markdown_cell("# A page"),
                new_code_cell(parameters, metadata={"tags": ["parameters"]}),
                *(new_code_cell(cell) for cell in cells),
            ],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        )
        path = tmp_path / f"{name}.ipynb"
        nbformat.write(content, path)
        return path

    return write


def texts(path):
    content = nbformat.read(path, as_version=4)
    return [
        output.get("text", output.get("evalue", ""))
        for cell in content.cells
        for output in cell.get("outputs", [])
    ]


def test_a_run_keeps_the_executed_notebook_a_page_and_a_record(engine, written):
    path = written("print(n, names, scale)", "import os; print(os.environ['ML4AD_RUN'])")
    given = {"n": 7, "names": ['quoted "{x}"', "back\\slash"], "scale": 2}

    record = pipelines.run(path, given)

    assert record == records.find(engine, record.pipeline_run_id)
    assert record.state is RunState.DONE
    assert record.given == given
    assert record.parameters == {**given, "scale": 2.0}
    assert (record.notebook, record.cell, record.n_cells) == ("own", 4, 4)
    assert record.code_version.startswith("0.")
    assert record.page is not None
    assert texts(record.output) == [
        "7 ['quoted \"{x}\"', 'back\\\\slash'] 2.0\n",
        f"{record.pipeline_run_id}\n",
    ]
    assert texts(path) == []


@pytest.mark.usefixtures("engine")
def test_a_page_loads_nothing_from_elsewhere(written):
    drawn = "from IPython.display import HTML; HTML('<b>bold</b>')"
    page = Path(pipelines.run(written(drawn)).page).read_text()
    assert "<b>bold</b>" in page
    assert "<script" not in page
    assert "src=" not in page
    assert "@import" not in page


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"m": 1}, r"no parameter 'm'.*there: n \(int\), names \(list\[str\]\), scale \(float\)"),
        ({"name": ["a"]}, "near: names"),
        ({"n": "3"}, "n = '3': want int"),
        ({"n": True}, "n = True: want int"),
        ({"n": 1.0}, "n = 1.0: want int"),
        ({"names": "a"}, r"names = 'a': want list\[str\]"),
        ({"names": ["a", 1]}, "names"),
        ({"scale": float("nan")}, "scale = nan: want float"),
    ],
)
def test_what_is_not_declared_so_is_refused_before_anything_runs(engine, written, given, words):
    with pytest.raises(ValueError, match=words):
        pipelines.run(written("1"), given)
    assert records.recent(engine) == []


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int", "-3", -3),
        ("float", "1e3", 1000.0),
        ("str", "3", "3"),
        ("bool", "Yes", True),
        ("bool", "0", False),
        ("list[int]", "1, 2", [1, 2]),
        ("list[int]", "", []),
        ("list[str]", '["a,b", "c"]', ["a,b", "c"]),
        ("list[float]", "[1, 2.5]", [1.0, 2.5]),
    ],
)
def test_texts_of_a_command_line_become_what_is_declared(kind, text, value):
    assert notebooks.Parameter("own", kind, None, "").parse(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("int", "1.5"),
        ("bool", "maybe"),
        ("float", "inf"),
        ("list[int]", "1,a"),
        ("list[str]", "[1"),
    ],
)
def test_texts_that_are_not_of_the_type_are_refused(kind, text):
    with pytest.raises(ValueError, match=r"parameter own = .*: want"):
        notebooks.Parameter("own", kind, None, "").parse(text)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("n = 3", "want name: type = value"),
        ("n: int | None = None", "want int, float"),
        ("n: int = len('abc')", "want a plain value"),
        ("n: int = 'three'", "want int"),
        ("n: int =", "line 1"),
    ],
)
def test_a_notebook_that_declares_badly_is_refused(written, source, words):
    with pytest.raises(ValueError, match=words):
        notebooks.read(written("1", parameters=source))


def test_values_may_hold_equal_signs_and_hashes(written):
    read = notebooks.read(written("1", parameters="pattern: str = 'a=b#c'  # fits names"))
    assert read.parameters["pattern"].default == "a=b#c"
    assert read.parameters["pattern"].meaning == "fits names"


def test_a_name_that_is_no_notebook_is_answered_with_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"no notebook 'nowhere'; there:"):
        notebooks.read("nowhere")


def test_a_file_that_is_no_notebook_is_refused(tmp_path):
    path = tmp_path / "own.ipynb"
    path.write_text("not JSON")
    with pytest.raises(ValueError, match="is not a notebook"):
        notebooks.read(path)


def test_a_failing_cell_fails_the_run_and_leaves_what_was_done(engine, written):
    path = written("print('before')", "{}['key']", "print('after')")
    with pytest.raises(pipelines.RunError, match=r"failed: In \[3\]: KeyError: 'key'; see .*html"):
        pipelines.run(path)
    (record,) = records.recent(engine)
    assert record.state is RunState.FAILED
    assert (record.cell, record.error_name, record.error_message) == (3, "KeyError", "'key'")
    assert texts(record.output) == ["before\n", "'key'"]
    assert "KeyError" in Path(record.page).read_text()


def test_a_kernel_that_dies_is_reported_as_that(engine, written):
    path = written("import os, signal", "os.kill(os.getpid(), signal.SIGKILL)", "print('after')")
    with pytest.raises(pipelines.RunError, match=r"died: In \[3\]: the kernel ended \(SIGKILL"):
        pipelines.run(path)
    (record,) = records.recent(engine)
    assert record.state is RunState.DIED
    assert texts(record.output) == ["Kernel died"]


def test_what_a_dead_kernel_started_is_ended_too(engine, written):
    started = "import os, subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'input("
    started += ")'], stdin=subprocess.PIPE); print(child.pid, flush=True)"
    with pytest.raises(pipelines.RunError, match="exit code 3"):
        pipelines.run(written(started, "os._exit(3)"))
    (record,) = records.recent(engine)
    pid = int(texts(record.output)[0])
    # It is killed, or a zombie that nobody has buried yet.
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_run_that_takes_too_long_is_ended_and_reported_as_that(engine, written):
    path = written("import time", "time.sleep(60)")
    # Where the machine is busy, the kernel itself may not be there in time.
    with pytest.raises(pipelines.RunError, match=r"overtime: In \[[0-3]\]: longer than 1.5 s"):
        pipelines.run(path, timeout_s=1.5)
    (record,) = records.recent(engine)
    assert record.state is RunState.OVERTIME
    assert record.duration.total_seconds() < 30


@pytest.mark.usefixtures("engine")
def test_several_start_at_once_and_do_not_trip(written, database_url):
    paths = [written("print(n * n)", name=f"own{i}") for i in range(4)]
    done = {}

    def one(i):
        done[i] = pipelines.run(paths[i], {"n": i}, database_url=database_url)

    threads = [threading.Thread(target=one, args=[i]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i: texts(record.output) for i, record in done.items()} == {
        i: [f"{i * i}\n"] for i in range(4)
    }


@contextmanager
def at_work(path, tmp_path):
    """A run in a process of its own, when its cell is at work: with its kernel and its errors."""
    program = f"from ml4ad import pipelines; pipelines.run({str(path)!r})"
    errors = tmp_path / "stderr"
    command = [sys.executable, "-c", program]
    with errors.open("w") as told, processes.started(command, stderr=told) as process:
        with (tmp_path / "fifo").open() as fifo:
            kernel = int(fifo.readline())
        yield process, kernel, errors


@pytest.fixture
def busy(written, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    tell = f"import os, time; fifo = open({str(tmp_path / 'fifo')!r}, 'w')"
    # It stays open: an interrupt in the destructor of a file is lost, and the cell goes on.
    return written(f"{tell}\nprint(os.getpid(), file=fifo, flush=True)\ntime.sleep(120)")


def test_terminated_from_outside_the_record_says_so(engine, busy, tmp_path):
    with at_work(busy, tmp_path) as (process, _, errors):
        process.terminate()
        assert process.wait(60) == 1
    assert "RunError" in errors.read_text()
    (record,) = records.recent(engine)
    assert record.state is RunState.STOPPED
    assert texts(record.output) == [""]  # KeyboardInterrupt says nothing


def test_killed_in_the_middle_it_is_lost_and_its_kernel_ends(engine, busy, tmp_path, monkeypatch):
    with at_work(busy, tmp_path) as (process, kernel, _):
        command = Path(f"/proc/{kernel}/cmdline").read_text().split("\0")
        sockets = Path(next(word for word in command if word.endswith("k.json"))).parent
        process.kill()
        process.wait(60)
    (record,) = records.recent(engine)
    assert record.state is RunState.RUNNING
    monkeypatch.setattr(records, "SILENT_S", 0.0)
    lost = records.find(engine, record.pipeline_run_id)
    assert lost.state is RunState.LOST
    assert f"from process {process.pid} on" in lost.reason
    assert records.SILENT_S + records.HEARTBEAT_S < 60
    deadline = threading.Event()
    while Path(f"/proc/{kernel}").exists() and not deadline.wait(0.2):
        pass  # the kernel looks every second whether its parent is there
    shutil.rmtree(sockets)  # nobody was left to do it


def test_a_run_that_was_thought_lost_lives_again(engine, written):
    read = notebooks.read(written("1"))
    record = records.begin(engine, read, {}, Path("runs"), pipelines.Origin())
    silent = sa.func.now() - sa.text("interval '1 hour'")
    with engine.begin() as connection:
        connection.execute(sa.update(pipeline_run).values(heartbeat_at=silent))
    assert records.find(engine, record.pipeline_run_id).state is RunState.LOST
    records.beat(engine, record.pipeline_run_id, 2)
    again = records.find(engine, record.pipeline_run_id)
    assert (again.state, again.cell, again.reason) == (RunState.RUNNING, 2, "")
    ended = records.end(engine, record.pipeline_run_id, RunState.DONE)
    records.beat(engine, record.pipeline_run_id, 2)
    assert records.find(engine, record.pipeline_run_id) == ended


def test_a_moment_of_a_job_has_one_run(engine, written):
    read = notebooks.read(written("1"))
    origin = pipelines.Origin(job="hourly", planned_at=datetime(2024, 5, 1, 10, tzinfo=UTC))
    records.begin(engine, read, {}, Path("runs"), origin)
    with pytest.raises(pipelines.AlreadyRunError, match="hourly"):
        records.begin(engine, read, {}, Path("runs"), origin)


@pytest.mark.usefixtures("engine")
def test_a_rerun_is_the_same_notebook_with_the_same_parameters(written):
    first = pipelines.run(written("print(n)"), {"n": 8})
    second = pipelines.rerun(first.pipeline_run_id)
    assert second.rerun_of == first.pipeline_run_id
    assert (second.given, second.digest) == (first.given, first.digest)
    assert texts(second.output) == texts(first.output) == ["8\n"]
    assert second.output != first.output
    with pytest.raises(KeyError, match="the newest is 2"):
        pipelines.rerun(99)


def test_a_chain_gives_each_what_it_declares_and_ends_at_the_first_failure(engine, written):
    one = written("print(n)", parameters="n: int = 1  # number", name="one")
    two = written("1 / m", parameters="m: int = 1  # divisor", name="two")
    three = written("1", name="three")
    with pytest.raises(pipelines.RunError, match="of two: failed"):
        pipelines.chain({"n": 4, "m": 0}, steps=[one, two, three])
    second, first = records.recent(engine)
    assert (first.given, second.given) == ({"n": 4}, {"m": 0})
    assert second.chain_id == first.pipeline_run_id
    with pytest.raises(ValueError, match="none of one, two has a parameter 'k'"):
        pipelines.chain({"k": 4}, steps=[one, two])


def examples():
    """Lines of help, README and docs that give a notebook its parameters."""
    root = Path(__file__).parents[1]
    texts = [path.read_text() for path in [root / "README.md", *(root / "docs").glob("*.md")]]
    texts += [path.read_text() for path in (root / "ml4ad" / "cli").glob("*.py")]
    for text in texts:
        joined = text.replace("\\\n", " ")
        yield from re.findall(
            r"^ *ml4ad (run|chain|schedule add) (.* -p .*)$", joined, re.MULTILINE
        )


def test_examples_name_notebooks_and_parameters_that_are_there():
    found = list(examples())
    assert len(found) >= 5
    for command, rest in found:
        words = shlex.split(rest, comments=True)
        given = {words[i + 1]: words[i + 2] for i, word in enumerate(words) if word == "-p"}
        first = 1 if command == "schedule add" else 0  # the job's name
        names = list(itertools.takewhile(lambda word: word[0] != "-", words[first:]))
        assert pipelines.plan(names or pipelines.CHAIN, given, texts=True)


@pytest.mark.usefixtures("engine")
def test_the_commands_run_and_list(written):
    path = str(written("print(n)"))
    asked = CliRunner().invoke(run, [path, "--help-parameters"], catch_exceptions=False)
    assert "how many" in asked.output
    done = CliRunner().invoke(run, [path, "-p", "n", "5"], catch_exceptions=False)
    assert done.output.startswith("run 1 of own: done")
    chained = CliRunner().invoke(chain, [path, "-p", "names", "x,y"], catch_exceptions=False)
    assert chained.output.startswith("run 2 of own: done")
    listed = CliRunner().invoke(runs, ["--notebook", "own"], catch_exceptions=False)
    assert [line.split("\t")[:3] for line in listed.output.splitlines()[1:]] == [
        ["2", "own", "done"],
        ["1", "own", "done"],
    ]
    shown = CliRunner().invoke(runs, ["show", "2"], catch_exceptions=False)
    assert 'given\t{"names": ["x", "y"]}' in shown.output
    with pytest.raises(ValueError, match="state 'broken', want one of running, done"):
        CliRunner().invoke(runs, ["--state", "broken"], catch_exceptions=False)
