import json
import os
import re
import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import kubernetes_validate
import nbformat
import processes
import pytest
from apscheduler.triggers.cron import CronTrigger
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook

from ml4ad import pipelines, store
from ml4ad.cli import pipelines as commands
from ml4ad.cli import schedule as command
from ml4ad.pipelines import elsewhere, keep, records, schedule
from ml4ad.pipelines import notebook as notebooks
from ml4ad.pipelines.cron import Cron
from ml4ad.store.execution import RunState

SOURCE = "n: int = 3  # how many\nname: str = 'a'  # who"


@pytest.fixture
def notebook(tmp_path):
    path = tmp_path / "own.ipynb"
    cells = [
        new_code_cell(SOURCE, metadata={"tags": ["parameters"]}),
        new_code_cell("print(n, name)"),
    ]
    nbformat.write(new_notebook(cells=cells), path)
    return str(path)


@pytest.fixture
def engine(database_url, tmp_path, monkeypatch):
    monkeypatch.setenv("ML4AD_DATA_DIR", str(tmp_path / "data"))
    engine = store.engine(database_url)
    yield engine
    engine.dispose()


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("when", "after", "then"),
    [
        ("5 * * * *", "2024-05-01 10:05", "2024-05-01 11:05"),
        ("*/20 8 * * *", "2024-05-01 08:20", "2024-05-01 08:40"),
        ("0 0 * * 0", "2024-05-01 00:00", "2024-05-05 00:00"),  # a Sunday
        ("0 0 * * 7", "2024-05-01 00:00", "2024-05-05 00:00"),
        ("0 6 * * mon-fri", "2024-05-03 07:00", "2024-05-06 06:00"),
        ("0 0 31 * *", "2024-05-31 12:00", "2024-07-31 00:00"),
        ("@weekly", "2024-05-01 00:00", "2024-05-05 00:00"),
        ("10/20 * * * *", "2024-05-01 00:31", "2024-05-01 00:50"),
    ],
)
def test_moments_are_those_of_a_crontab(when, after, then):
    assert Cron(when).next(at(after)) == at(then)


def test_moments_are_in_the_zone_of_the_schedule():
    assert Cron("0 8 * * *", "Europe/Zurich").next(at("2024-05-01 07:00")) == at("2024-05-02 06:00")


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ("* * * *", "want 5 fields"),
        ("60 * * * *", "minute '60': want numbers from 0 to 59"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "rising"),
        ("* * * foo *", "month 'foo'"),
        ("* * * * fun", "day of the week 'fun'"),
        ("0 0 1 * mon", "not both"),
    ],
)
def test_moments_that_are_not_understood_are_refused(when, words):
    with pytest.raises(ValueError, match=words):
        Cron(when)


def test_a_time_zone_that_is_nowhere_is_refused():
    with pytest.raises(ValueError, match="time zone 'Mars/Olympus'"):
        Cron("@daily", "Mars/Olympus")


@given(st.integers(0, 59), st.integers(0, 23), st.integers(1, 12))
def test_plain_fields_are_read_as_apscheduler_reads_them(minute, hour, month):
    now = at("2024-02-11 13:17:30")
    text = f"{minute} {hour} * {month} *"
    theirs = CronTrigger.from_crontab(text, timezone="UTC").get_next_fire_time(None, now)
    assert Cron(text).next(now) == theirs


def test_a_day_that_never_comes_has_no_next_and_no_last():
    assert Cron("0 0 30 2 *").next(at("2024-01-01")) is None
    assert Cron("0 0 30 2 *").last(at("2024-01-01")) is None
    assert Cron("0 0 29 2 *").last(at("2028-02-28")) == at("2024-02-29")


@example("30 2 * * 0", "Europe/Zurich", datetime(2020, 3, 29, 1))
@given(
    st.sampled_from(["*/7 * * * *", "5 * * * *", "30 2 * * 0", "0 0 1 * *", "@yearly"]),
    st.sampled_from(["UTC", "Europe/Zurich"]),
    st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)),
)
def test_the_last_moment_is_the_one_before_the_next(text, zone, now):
    cron, now = Cron(text, zone), now.replace(tzinfo=UTC)
    last = cron.last(now)
    assert last <= now
    assert cron.next(last) == cron.next(now)


def test_jobs_are_added_replaced_and_removed_and_the_rest_stays(tmp_path, notebook):
    path = tmp_path / "schedule.toml"
    path.write_text('# ours\ntimezone = "Europe/Zurich"  # of the shifts\n')
    cron = Cron("@daily", "Europe/Zurich")
    daily = schedule.Job("daily", (notebook,), cron, {"n": 4, "name": 'quoted "x" \\'}, 60.0)
    schedule.add(path, daily)
    schedule.add(path, schedule.Job("other", (notebook,), cron))
    schedule.add(path, schedule.Job("other", (notebook,), Cron("@hourly", "Europe/Zurich")))
    read = schedule.read(path)
    assert read.timezone == "Europe/Zurich"
    assert read.jobs["daily"] == daily
    assert read.jobs["other"].when.text == "@hourly"
    schedule.remove(path, "daily")
    assert list(schedule.read(path).jobs) == ["other"]
    assert path.read_text().startswith('# ours\ntimezone = "Europe/Zurich"  # of the shifts\n')
    with pytest.raises(KeyError, match="no job 'daily'; there: other"):
        schedule.remove(path, "daily")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("job = 1", "'job', want timezone and jobs"),
        ("[jobs.own]\nwhen = '@daily'", "job own: no 'notebooks'"),
        ("[jobs.own]\nnotebooks = ['{}']\nwhen = '@daily'\nnow = 1", "job own: key 'now'"),
        ("[jobs.own]\nnotebooks = ['{}']\nwhen = 'noon'", "job own: 'noon': want 5 fields"),
        ("[jobs.own]\nnotebooks = ['{}']\nwhen = 5", "job own: when = 5"),
        ("[jobs.Own]\nnotebooks = ['{}']\nwhen = '@daily'", "job 'Own': want lower-case"),
        ("[jobs.own]\nnotebooks = []\nwhen = '@daily'", "job own: no notebook"),
        ("[jobs.own]\nnotebooks = '{}'\nwhen = '@daily'\ntimeout = 0", "timeout 0"),
        (
            "[jobs.own]\nnotebooks = ['{}']\nwhen = '@daily'\nparameters = {{ m = 1 }}",
            "job own: none of own has a parameter 'm'",
        ),
        ("[jobs.own", "schedule.toml"),
    ],
)
def test_a_schedule_that_is_not_understood_is_refused(tmp_path, notebook, text, words):
    path = tmp_path / "schedule.toml"
    path.write_text(text.format(notebook) if "'{}'" in text else text)
    with pytest.raises(ValueError, match=words):
        schedule.read(path)


def two_jobs(notebook):
    parameters = {"n": 4, "name": "100% $x 'y' \"z\" \\w"}
    jobs = [
        schedule.Job("hourly", (notebook, notebook), Cron("5 * * * *"), parameters, 60),
        schedule.Job("weekly", (notebook,), Cron("0 6 * * mon,wed")),
    ]
    return schedule.Schedule({job.name: job for job in jobs})


def test_the_printed_command_gives_the_same_parameters(notebook):
    job = two_jobs(notebook).jobs["hourly"]
    line = elsewhere.command(job)
    asked = commands.chain.make_context("chain", line[2:])
    assert asked.params["notebooks"] == (notebook, notebook)
    assert (asked.params["job"], asked.params["when"]) == ("hourly", "5 * * * *")
    assert (asked.params["timezone"], asked.params["timeout"]) == ("UTC", 60)
    texts = {line[i + 1]: line[i + 2] for i, word in enumerate(line) if word == "-p"}
    planned = pipelines.plan([notebook], texts, texts=True)
    assert planned[0][1] == job.parameters


def test_a_crontab_line_is_run_by_the_shell_as_it_is_meant(notebook):
    lines = elsewhere.crontab(two_jobs(notebook)).splitlines()
    assert lines[0] == "CRON_TZ=UTC"
    assert lines[1].startswith("5 * * * * ")
    # cron turns \% into %, and a shell does the rest.
    words = lines[1].removeprefix("5 * * * * ").replace(r"\%", "%")
    shell = shutil.which("sh")
    printed = subprocess.run(
        [shell, "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True, text=True
    ).stdout.split("\0")[:-1]
    assert printed[1:] == elsewhere.command(two_jobs(notebook).jobs["hourly"])[1:]


def test_systemd_understands_its_units(tmp_path, notebook):
    text = elsewhere.systemd(two_jobs(notebook))
    units = dict(re.findall(r"^# (\S+)\n(.*?)(?=^# |\Z)", text, re.DOTALL | re.MULTILINE))
    assert sorted(units) == [
        *("ml4ad-hourly.service", "ml4ad-hourly.timer"),
        *("ml4ad-weekly.service", "ml4ad-weekly.timer"),
    ]
    for name, unit in units.items():
        (tmp_path / name).write_text(unit)
    assert "OnCalendar=Mon,Wed *-*-* 06:00:00 UTC" in text
    assert "100%% $$x 'y' \\\"z\\\" \\\\w" in text
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze on the PATH")
    subprocess.run(
        [analyze, "calendar", Cron("*/15 8-9 1 jan *").calendar()], check=True, cwd=tmp_path
    )
    verified = subprocess.run(
        [analyze, "--user", "--man=no", "verify", *(f"./{name}" for name in units)],
        cwd=tmp_path,
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (verified.returncode, verified.stderr) == (0, "")


@pytest.mark.parametrize(
    "when", ["*/15 8-9 * * *", "0 6 * * mon,wed", "30 0 31 1,12 *", "@weekly", "5 */6 * * 1-5"]
)
def test_systemd_counts_the_same_moments(when):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze on the PATH")
    cron = Cron(when)
    line = [analyze, "calendar", "--iterations=20", "--base-time=2024-05-01 10:00:00 UTC"]
    told = subprocess.run([*line, cron.calendar()], check=True, capture_output=True, text=True)
    lines = re.findall(
        r"(?:Next elapse|Iter\. #\d+|\(in UTC\)): (?:\w+ )?(\S+ \S+ UTC)", told.stdout
    )
    theirs = [datetime.strptime(line, "%Y-%m-%d %H:%M:%S %Z").replace(tzinfo=UTC) for line in lines]
    ours = cron.between(at("2024-05-01 10:00"), theirs[-1])
    assert list(dict.fromkeys(theirs)) == ours
    assert len(ours) == 20


def test_kubernetes_gets_cronjobs_that_fit_its_schema(notebook):
    listed = json.loads(elsewhere.kubernetes(two_jobs(notebook)))
    for job in listed["items"]:
        kubernetes_validate.validate(job, "1.30", strict=True)
    hourly, weekly = listed["items"]
    assert (hourly["kind"], hourly["metadata"]["name"]) == ("CronJob", "ml4ad-hourly")
    assert weekly["spec"]["schedule"] == "0 6 * * mon,wed"
    container = hourly["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == elsewhere.command(two_jobs(notebook).jobs["hourly"])


def test_kubectl_reads_the_cronjobs_and_puts_in_the_image(notebook):
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl on the PATH")
    told = subprocess.run(
        [
            *(kubectl, "set", "image", "--local", "-f", "-"),
            *("ml4ad=registry.example.org/ml4ad:1", "-o", "jsonpath={..image}{'\\n'}"),
        ],
        input=elsewhere.kubernetes(two_jobs(notebook)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["registry.example.org/ml4ad:1"] * 2


def test_the_commands_show_and_change_the_schedule(engine, tmp_path, notebook):
    path = str(tmp_path / "schedule.toml")

    def asked(*words):
        return (
            CliRunner()
            .invoke(command.schedule, ["--file", path, *words], catch_exceptions=False)
            .output
        )

    asked("add", "daily", notebook, "--when", "@daily", "-p", "n", "5")
    origin = pipelines.Origin(job="daily")
    read = notebooks.read(notebook)
    records.note(engine, read, {}, origin, state=RunState.MISSED, reason="slept")
    header, row = (line.split("\t") for line in asked().splitlines())
    shown = dict(zip(header, row, strict=True))
    assert (shown["job"], shown["when"], shown["state"]) == ("daily", "@daily", "missed")
    assert shown["parameters"] == "n=5"
    assert "0 0 * * * " in asked("print", "crontab")
    asked("remove", "daily")
    assert len(asked().splitlines()) == 1


# -- keeping -------------------------------------------------------------------------------------


class Kept:
    """A keeper in a thread, and what it tells."""

    def __init__(self, path):
        self.told = []
        self.news = threading.Condition()
        self.keeper = keep.Keeper(path, self.hear)
        self.error = None
        self.thread = threading.Thread(target=self.keep)

    def keep(self):
        try:
            self.keeper.keep()
        except (RuntimeError, ValueError) as error:
            self.error = error

    def hear(self, line):
        with self.news:
            self.told.append(line)
            self.news.notify_all()

    def wait_for(self, words, seconds=90):
        with self.news:
            assert self.news.wait_for(lambda: any(words in line for line in self.told), seconds), (
                self.told
            )

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.keeper.stop()
        self.thread.join()


class EverySecond(Cron):
    def trigger(self):
        return CronTrigger(second="*", timezone="UTC")


@pytest.fixture
def planned(tmp_path, notebook, monkeypatch):
    """A schedule file whose one job comes up every second, as crontabs cannot say."""
    path = tmp_path / "schedule.toml"
    job = schedule.Job("own", (notebook,), EverySecond("* * * * *"), {"n": 6})
    schedule.add(path, job)
    monkeypatch.setattr(schedule, "Cron", EverySecond)
    return path


def test_a_job_is_run_with_its_parameters_and_overlap_is_refused(engine, planned):
    with Kept(planned) as kept:
        kept.wait_for("own: run ")
        kept.wait_for("refused: the run before it is still at it")
    found = records.recent(engine, job="own", limit=100)
    done = [record for record in found if record.state is RunState.DONE]
    assert done
    assert done[-1].given == {"n": 6}
    assert done[-1].planned_at is not None
    assert any(record.state is RunState.REFUSED for record in found)
    assert not any(record.state is RunState.RUNNING for record in found)
    moments = [record.planned_at for record in found]
    assert len(moments) == len(set(moments))


@pytest.mark.usefixtures("engine")
def test_one_process_keeps_the_schedule(tmp_path, notebook):
    path = tmp_path / "schedule.toml"
    schedule.add(path, schedule.Job("own", (notebook,), Cron("0 0 1 1 *")))
    with Kept(path) as first:
        first.wait_for("own: next at")
        with Kept(path) as second:
            second.thread.join()
        assert isinstance(second.error, keep.AlreadyKeptError)
        assert "ml4ad schedule on" in str(second.error)
    assert first.error is None
    with Kept(path) as third:
        third.wait_for("own: next at")


def test_runs_that_nobody_started_are_told_and_recorded(engine, tmp_path, notebook):
    path = tmp_path / "schedule.toml"
    schedule.add(path, schedule.Job("own", (notebook,), Cron("0 0 1 1 *")))
    origin = pipelines.Origin(job="own", planned_at=at("2021-01-01"))
    read = notebooks.read(notebook)
    records.note(engine, read, {}, origin, state=RunState.REFUSED, reason="for the test")
    with Kept(path) as kept:
        kept.wait_for("missed")
        kept.wait_for("next at")
    newest = records.recent(engine, job="own", limit=1)[0]
    assert newest.state is RunState.MISSED
    assert newest.reason.startswith(f"{newest.planned_at.year - 2021} runs, the first at 2022")
    with Kept(path) as again:
        again.wait_for("next at")
    assert not any("missed" in line for line in again.told)


def test_a_changed_file_is_read_again_and_a_broken_one_is_told(
    engine, tmp_path, notebook, monkeypatch
):
    monkeypatch.setattr(keep, "_LOOK_S", 0.1)
    path = tmp_path / "schedule.toml"
    with Kept(path) as kept:
        kept.wait_for("no job")
        schedule.add(path, schedule.Job("own", (notebook,), Cron("@yearly")))
        kept.wait_for("own: next at")
        path.write_text("[jobs")
        kept.wait_for("not read again")
    assert kept.error is None
    assert records.recent(engine) == []


def test_a_job_that_is_at_it_elsewhere_is_refused(engine, notebook):
    origin = pipelines.Origin(job="own")
    with records.locked(engine, "own", "ml4ad job own on another host") as lock:
        assert not isinstance(lock, str)
        with pytest.raises(pipelines.OverlapError, match="still at it: ml4ad job own on another"):
            pipelines.chain({}, steps=[notebook], origin=origin)
    assert records.recent(engine)[0].state is RunState.REFUSED
    assert pipelines.chain({}, steps=[notebook], origin=origin)[0].state is RunState.DONE
    assert Path(records.recent(engine)[0].output).is_file()


# -- several machines ----------------------------------------------------------------------------


def started(*words):
    return processes.started(
        [sys.executable, "-m", "ml4ad", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_machines_with_the_same_crontab_run_a_moment_once(engine, notebook):
    line = elsewhere.command(schedule.Job("own", (notebook,), Cron("@yearly")))[1:]
    with started(*line) as first, started(*line) as second:
        said = [process.communicate(timeout=300)[0] for process in (first, second)]
    (record,) = records.recent(engine, job="own")
    assert record.state is RunState.DONE
    assert (record.planned_at.month, record.planned_at.day) == (1, 1)
    # Libraries may have said something of their own before.
    done = f"run {record.pipeline_run_id} of own: done"
    assert sum(line.startswith(done) for text in said for line in text.splitlines()) == 1, said
    with started(*line) as later:
        said = later.communicate(timeout=300)[0]
    assert f"is run {record.pipeline_run_id} of own: done, on " in said
    assert later.returncode == 0
    assert records.recent(engine, job="own") == [record]


def test_a_moment_that_was_refused_is_run_by_who_was_about_to(engine, notebook):
    moment = pipelines.Origin(job="own", planned_at=at("2024-05-01 10:00"))
    read = notebooks.read(notebook)
    records.note(engine, read, {}, moment, state=RunState.REFUSED, reason="still at it")
    (done,) = pipelines.chain({}, steps=[notebook], origin=moment)
    assert records.recent(engine, job="own") == [done]
    assert (done.state, done.reason) == (RunState.DONE, "")
    with records.locked(engine, "own", "another"), pytest.raises(pipelines.AlreadyRunError):
        pipelines.chain({}, steps=[notebook], origin=moment)
    assert records.recent(engine, job="own") == [done]


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_a_second_keeper_is_told_of_the_first_and_follows_when_that_is_killed(tmp_path, notebook):
    path = tmp_path / "schedule.toml"
    schedule.add(path, schedule.Job("own", (notebook,), Cron("@yearly")))
    keeping = ("schedule", "--file", str(path), "run")
    with started(*keeping) as first:
        assert first.stdout.readline().startswith("own: next at")
        with started(*keeping) as second:
            said = second.communicate(timeout=300)[0]
        assert second.returncode == 1
        assert re.search(rf"kept already: ml4ad schedule on .*, process {first.pid}", said)
        first.kill()
        first.wait()
    with started(*keeping) as third:
        assert third.stdout.readline().startswith("own: next at")
        third.terminate()
        third.communicate(timeout=300)
    assert third.returncode == 0


def test_a_notebook_of_ones_own_is_found_from_every_folder(tmp_path, notebook, monkeypatch):
    path = tmp_path / "schedule.toml"
    monkeypatch.chdir(tmp_path)
    schedule.add(
        path, schedule.Job("own", ("own.ipynb", "tutorials/01_first_look"), Cron("@daily"))
    )
    monkeypatch.chdir("/")
    assert schedule.read(path).jobs["own"].notebooks == (notebook, "tutorials/01_first_look")
