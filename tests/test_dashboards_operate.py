"""The page that operates, and the start page's facts, without a browser."""

import re
import time
from urllib.parse import quote

import numpy as np
import pytest
import scored_samples as samples
import sqlalchemy as sa

import ml4ad
from ml4ad import dashboards, ingest, pipelines, verdict
from ml4ad.dashboards import glance
from ml4ad.dashboards.operate import _paths
from ml4ad.detect import alarms, registry
from ml4ad.ingest import pace
from ml4ad.pipelines import records, schedule
from ml4ad.pipelines.cron import Cron
from ml4ad.store.execution import RunState

PATIENCE_S = 240


@pytest.fixture
def archive(database_url, tmp_path, monkeypatch):
    """A run of two elements, a file that is none, and nothing of the user's."""
    monkeypatch.setenv("ML4AD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ML4AD_SETTINGS", str(tmp_path / "settings.toml"))
    (tmp_path / "files").mkdir()
    with ml4ad.connect(database_url) as archive:
        samples.good_runs(archive, tmp_path / "files", runs=(5,), n_ls=4)
        broken = tmp_path / "files" / "broken.root"
        broken.write_bytes(b"root" + b"\0" * 400)
        list(ingest.index(archive, [broken], samples.DATASET))
        yield archive


@pytest.fixture
def page(archive):
    page = dashboards.Operate(archive)
    yield page
    page.close()


def wait(page, what):
    """Pulse as a browser does until the page says so."""
    deadline = time.monotonic() + PATIENCE_S
    while what not in page.starter.widget.value:
        assert time.monotonic() < deadline, page.starter.widget.value
        assert not page.banner.value, page.banner.value
        time.sleep(0.1)
        page.frame._heard("pulse", "")


def cells(text):
    return [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", text)]


def test_files_by_state_are_those_of_the_archive(page, archive):
    states = ingest.states(archive).set_index("state")["n_files"]
    assert states.to_dict() == {"BAD": 1, "PROCESSED": 1}
    found = cells(page.files.value)
    assert (found[0], found[1]) == ("BAD", "1")
    assert "1 file failed or bad" in page.strip.value
    assert "broken.root" in page.why.value
    assert pace.history(archive)["n_files"].sum() == 1
    drawn = np.asarray(page.rate.figure["data"][0]["x"])
    assert len(drawn) == 24


def test_what_is_started_is_done_and_recorded_and_a_rerun_is_linked_to_it(page, archive, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    samples.dqmio.write(new / "six.root", [samples.histograms(samples.LINE, 6, n_ls=3)], seed=9)
    page.paths.value = str(new)
    page.dataset.value = samples.DATASET
    page.workers.value = 0
    page.go.click()
    assert "Started: ingest" in page.starter.widget.value
    wait(page, "Done: ingest")
    assert archive.runs()["run_number"].tolist() == [5, 6]
    (record,) = records.recent(archive.engine)
    assert (record.notebook, record.state) == ("ingest", RunState.DONE)
    assert record.given["paths"] == [str(new)]
    assert f"../../ml4ad/runs/{record.pipeline_run_id}" in page.runs.value
    look = glance.Look(archive)
    assert look.executed(record.pipeline_run_id, "html").read_text().startswith("<!DOCTYPE html>")
    page.rerun.click()
    wait(page, "Done: run 1 again")
    assert records.recent(archive.engine)[0].rerun_of == record.pipeline_run_id


def test_what_failed_is_tried_again(page, archive, tmp_path):
    path = tmp_path / "files" / "broken.root"
    path.unlink()
    samples.dqmio.write(path, [samples.histograms(samples.LINE, 8, n_ls=2)], seed=3)
    page.action.value = "retry"
    page.failed.value = [str(path)]
    page.workers.value = 0
    page.go.click()
    wait(page, "Done: retry")
    assert 8 in archive.runs()["run_number"].tolist()
    assert "failed" not in page.strip.value
    page.go.click()
    assert "nothing failed" in page.banner.value


def test_a_run_that_fails_says_why(page):
    page.action.value = "score"
    page.dataset.value = "/No/Such/DQMIO"
    page.workers.value = 0
    page.go.click()
    wait(page, "Failed: score")
    assert "run 1 of score: failed" in page.starter.widget.value


def test_a_form_that_cannot_be_right_starts_nothing(page, archive):
    page.paths.value = "here/files"
    page.go.click()
    assert "from / on" in page.banner.value
    page.action.value = "score"
    page.numbers.value = "12, x"
    page.go.click()
    assert "want a number" in page.banner.value
    assert records.recent(archive.engine) == []
    assert _paths("/a, root://b//c", needed=True) == ["/a", "root://b//c"]
    with pytest.raises(ValueError, match="no path"):
        _paths(" ", needed=True)


def test_an_address_fills_the_form_and_starts_nothing(page, archive):
    page.action.value = "score"
    page.numbers.value = "5"
    page.notebook.value = ""
    page.publish()
    other = dashboards.Operate(archive)
    other.frame._heard("hello", page.frame.view)
    assert other.view() == page.view()
    assert other.action.value == "score"
    assert records.recent(archive.engine) == []
    other.frame._heard("hello", "id=77")
    assert "no run 77" in other.banner.value
    other.close()


def test_the_schedule_is_shown_with_who_keeps_it_and_a_job_runs_now(page, archive, tmp_path):
    job = schedule.Job("hourly", ("index",), Cron("5 * * * *"), {"paths": [str(tmp_path)]})
    schedule.add(schedule.default_path(), job)
    page.load()
    assert cells(page.jobs.value)[:3] == ["hourly", "index", "5 * * * *"]
    assert "Nobody keeps it" in page.jobs.value
    with records.locked(archive.engine, records.SCHEDULE, "ml4ad schedule on mars"):
        page.load()
        assert "ml4ad schedule on mars" in page.jobs.value
    page.now.click()
    wait(page, "Done: job hourly")
    (record,) = records.recent(archive.engine)
    assert (record.job, record.planned_at) == ("hourly", None)


def test_a_schedule_that_is_damaged_is_said_not_raised(page):
    schedule.default_path().write_text("[jobs.x]\nwhen = 3\n")
    page.load()
    assert "The schedule cannot be read." in page.jobs.value
    assert not page.banner.value


def test_the_workers_of_a_run_are_shown(page, archive, tmp_path):
    from ml4ad import cluster, settings
    from ml4ad.pipelines import notebook as notebooks

    read = notebooks.read("index")
    record = records.begin(archive.engine, read, {}, tmp_path, pipelines.Origin())
    folder = (tmp_path / record.output).parent
    folder.mkdir()
    with cluster.client(settings.load(), workers=1) as client:
        client.wait_for_workers(1)
        client.write_scheduler_file(str(folder / cluster.SCHEDULER_FILE))
        page.load()
        page._asked.result(PATIENCE_S)
        page.load()
        worker, host, n_tasks = cells(page.dask.value)[:3]
        assert (worker, host, n_tasks) == ("0", "127.0.0.1", "0")
        if page._asked is not None:
            page._asked.result(PATIENCE_S)
    page._asked = None
    page.load()
    page._asked.result(PATIENCE_S)
    page.load()
    assert "does not answer" in page.dask.value


# -- the start page ------------------------------------------------------------------------------


def mood(archive, name, of):
    return {fact.name: (fact.value, fact.mood) for fact in glance.facts(archive)[of]}[name]


def test_the_start_page_tells_of_failed_files_and_of_what_is_not_assessed(archive):
    assert mood(archive, "Files", "operate") == ("0 wait, 1 failed or bad", "bad")
    assert mood(archive, "State", "shift") == ("not assessed: no model is active", "warn")
    assert mood(archive, "At work", "models") == ("none", "warn")


def test_a_model_that_is_being_trained_is_told_wherever_none_is_at_work(archive):
    model = {"patterns": ["*"], "datasets": [samples.DATASET], "selection": {}}
    registry.create(archive, samples.quick(), name="pixel", false_alarms=1, seed=1, **model)
    said = "not assessed: no model is active yet, pixel is being trained"
    assert mood(archive, "State", "shift") == (said, "warn")
    assert mood(archive, "Training", "models") == ("pixel is being trained", "")
    operate = dashboards.Operate(archive)
    assert "pixel is being trained" in operate.strip.value
    operate.close()
    shift = dashboards.Shift(archive)
    assert "pixel is being trained" in shift._listing.value
    shift.close()


def test_the_start_page_leads_to_the_newest_run(archive):
    assert glance.Look(archive)().query == f"dataset={quote(samples.DATASET, safe='')}&run=5"


def test_the_start_page_counts_incidents_until_they_are_explained(database_url):
    log_p = np.full((2, 10), -0.5)
    log_p[1, 3:6] = -30.0
    with samples.judged(database_url, log_p, mes=["A/quiet", "B/loud"]) as archive:
        alarms.refresh(archive, "model", samples.DATASET, 7)
        assert mood(archive, "State", "shift") == ("1 incident that nobody explained", "bad")
        (number,) = alarms.incidents(archive, 7)["incident_id"]
        verdict.add(archive, 7, (4, 6), "known", why="off", by="Ada", incident_id=int(number))
        assert mood(archive, "State", "shift")[1] == "good"
        assert mood(archive, "At work", "models") == ("model:1", "")
        registry.retire(archive, "model")
        assert mood(archive, "State", "shift") == ("not assessed: no model is active", "warn")


def test_the_start_page_of_an_empty_archive_and_of_a_database_that_is_gone(database_url):
    with ml4ad.connect(database_url) as archive:
        assert mood(archive, "Archive", "shift") == ("empty: nothing was ingested yet", "warn")
        assert mood(archive, "Last data", "operate") == ("never", "warn")
    url = sa.make_url(database_url).set(database="gone")
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"))
    found = glance.Look(ml4ad.Archive(engine))()
    assert found.trouble == "The database does not answer."
    assert found.reason
    engine.dispose()


def test_an_executed_notebook_that_is_not_here_is_said_to_be_elsewhere(archive, tmp_path):
    from ml4ad.pipelines import notebook as notebooks

    read = notebooks.read("index")
    record = records.begin(archive.engine, read, {}, tmp_path, pipelines.Origin())
    look = glance.Look(archive)
    with pytest.raises(LookupError, match="left no html yet"):
        look.executed(record.pipeline_run_id, "html")
    with pytest.raises(LookupError, match="is not here; it ran on"):
        look.executed(record.pipeline_run_id, "ipynb")
    records.paged(archive.engine, record.pipeline_run_id, tmp_path / "secret.txt")
    (tmp_path / "secret.txt").write_text("no")
    with pytest.raises(LookupError, match="not here"):
        look.executed(record.pipeline_run_id, "html")
    with pytest.raises(KeyError, match="no run 99"):
        look.executed(99, "html")
