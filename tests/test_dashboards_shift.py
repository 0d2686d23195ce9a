"""The shift page without a browser."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import scored_samples as samples
import sqlalchemy as sa
from test_dashboards import array

import ml4ad
from ml4ad import dashboards, verdict
from ml4ad.dashboards import plots
from ml4ad.detect import alarms, registry
from ml4ad.detect.reasons import REASONS
from ml4ad.detect.score import score
from ml4ad.detect.train import train
from ml4ad.store import schema, scoring, server

LOUD = -30.0


def cells(page):
    return array(page.map.figure["data"][0]["z"])


@pytest.fixture
def judged(database_url):
    """Three elements, of which the last alarms in lumisections 4 to 6 of ten."""
    log_p = np.full((3, 10), -0.5)
    log_p[2, 3:6] = LOUD
    log_p[0, 9] = np.nan
    archive = samples.judged(database_url, log_p, mes=["A/quiet", "A/calm", "B/loud"])
    alarms.refresh(archive, "model", samples.DATASET, 7)
    yield archive
    archive.close()


@pytest.fixture
def opened():
    """Opens pages, and closes them when the test ends."""
    pages = []

    def open_page(*given):
        pages.append(dashboards.Shift(*given))
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()


def test_the_worst_subsystem_and_element_stand_on_top(judged, opened):
    page = opened(judged)
    assert page.map.figure["layout"]["meta"]["rows"][0] == "B/loud"
    drawn = cells(page)
    expected = round(-LOUD / np.log(10) * 4)
    assert np.array_equal(np.flatnonzero(drawn[0] > 4), [3, 4, 5])
    assert set(drawn[0, 3:6].tolist()) == {min(expected, 48)}


def test_what_is_not_assessed_is_grey_with_its_reason(judged, opened):
    page = opened(judged)
    row = page.map.figure["layout"]["meta"]["rows"].index("A/quiet")
    assert cells(page)[row, 9] < 0
    page.map.clicked = {"x": 10, "y": row, "trace": 0, "times": 1}
    assert "Not assessed: low statistics" in page.reason.value


def test_an_incident_is_a_sentence_and_the_strip_counts_it(judged, opened):
    page = opened(judged)
    assert len(page.list.options) == 1
    assert "LS 4 to 6: loud" in page.list.options[0][0]
    assert "1 incident" in page.strip.value
    assert (page.first.value, page.last.value) == (4, 6)


def test_a_verdict_is_kept_with_its_name_and_shown_to_others(judged, opened):
    page, other = opened(judged), opened(judged)
    other.frame._heard("pulse", "")
    page.by.value, page.why.value = "Ada", "module off"
    page.says["known"].click()
    (row,) = verdict.list_(judged, 7).to_dict("records")
    assert (row["verdict"], row["said_by"], row["why"]) == ("known", "Ada", "module off")
    assert (row["first_ls"], row["last_ls"], row["me"]) == (4, 6, "B/loud")
    assert row["incident_id"] == page.list.value
    assert "All right" in page.strip.value
    other.frame._heard("pulse", "")
    assert "module off" in other.verdicts.value
    assert "known by Ada" in other.list.options[0][0]


@pytest.mark.parametrize(
    ("by", "kind", "said"), [("", "seen", "say who you are"), ("Ada", "bad", "wants a reason")]
)
def test_a_verdict_without_a_name_or_reason_is_refused_in_words(judged, by, kind, said, opened):
    page = opened(judged)
    page.by.value = by
    page.says[kind].click()
    assert said in page.banner.value
    assert not len(verdict.list_(judged, 7))


def test_a_run_without_scores_is_not_called_good(judged, opened):
    with judged.engine.begin() as connection:
        connection.execute(sa.delete(scoring.score))
        connection.execute(sa.delete(scoring.incident))
    page = opened(judged)
    assert "was not assessed" in page._listing.value
    assert "ml4ad score" in page._listing.value
    assert "Not assessed" in page.strip.value


def test_without_an_active_model_the_page_says_how_to_get_one(judged, opened):
    registry.retire(judged, "model")
    page = opened(judged)
    assert "no model is active" in page._listing.value
    assert "ml4ad train" in page._listing.value
    assert "explore.ipynb?dataset=" in page.reason.value
    assert "run=7" in page.reason.value


def test_without_an_active_model_people_say_what_they_know_of_the_run(judged, opened):
    registry.retire(judged, "model")
    page = opened(judged)
    assert page._detail.layout.display != "none"
    assert (page.first.value, page.last.value, page.scope.value) == (1, 10, "all")
    page.by.value, page.why.value, page.first.value = "Ada", "no high voltage", 4
    # News that come meanwhile leave what somebody is writing.
    page._refresh()
    page.says["bad"].click()
    (said,) = verdict.list_(judged, 7).to_dict("records")
    assert (said["first_ls"], said["last_ls"], said["me"]) == (4, 10, "")
    assert "no high voltage" in page.verdicts.value
    page.scope.value, page.why.value = "me", "of what?"
    page.says["bad"].click()
    assert "choose an incident" in page.banner.value
    assert len(verdict.list_(judged, 7)) == 1


def test_where_nothing_alarms_the_run_is_spoken_of_until_a_place_is_chosen(judged, opened):
    with judged.engine.begin() as connection:
        connection.execute(sa.delete(scoring.incident))
    page = opened(judged)
    assert "Explore it" in page.reason.value
    assert page.scope.value == "all"
    page.map.clicked = {"x": 5, "y": 1, "times": 1}
    assert (page.first.value, page.scope.value) == (5, "me")


def test_a_verdict_is_listed_with_its_workspace(judged, opened):
    verdict.add(judged, 7, 2, "seen", dataset=samples.DATASET, by="Ada")
    verdict.add(judged, 7, 3, "seen", dataset=samples.DATASET, by="Ada", workspace="tracker")
    said = opened(judged).verdicts.value
    assert "<th>workspace</th>" in said
    assert "<td>tracker</td>" in said
    assert "<td>all</td>" in said


def test_new_lumisections_and_runs_are_followed_and_the_selection_stays(judged, opened):
    page, fixed = opened(judged), opened(judged, 7)
    with fixed.setting():
        fixed.newest.value = False
    with judged.engine.begin() as connection:
        found = connection.execute(sa.select(schema.run)).mappings().one()
        row = {name: found[name] for name in ("dataset_id", "file_id")} | {"run_number": 8}
        connection.execute(sa.insert(schema.run).values(row))
        connection.execute(sa.insert(schema.lumisection).values(row | {"ls_number": 1, "n_mes": 1}))
        scoring.notify(connection, what="file", file_id=row["file_id"])
    for one in (page, fixed):
        one.frame._heard("pulse", "")
    assert page.run.value == 8
    assert fixed.run.value == 7
    assert fixed._at == ("B/loud", 4)


def test_an_address_of_another_run_shows_that_run(database_url, tmp_path, opened):
    log_p = np.full((2, 10), -0.5)
    log_p[0, 3:6] = LOUD
    archive = samples.judged(database_url, log_p, mes=["A/one", "B/two"])
    alarms.refresh(archive, "model", samples.DATASET, 7)
    samples.good_runs(archive, tmp_path, (samples.MAP,), (9,), n_ls=3)
    page = opened(archive)
    page.run.value = 7
    assert page.view()["me"] == "A/one"
    # A page is warm with what was newest; then an address comes that names another run only.
    page.prepare("run=9")
    assert page.run.value == 9
    assert "me" not in page.view()
    page.prepare("run=7")
    assert page.view()["me"] == "A/one"
    archive.close()


def test_an_address_opens_the_same_place(judged, opened):
    page = opened(judged)
    page.map.clicked = {"x": 5, "y": 0, "trace": 0, "times": 1}
    other = opened(judged)
    other.frame._heard("hello", page.frame.view)
    assert other.view() == page.view()
    assert other._at == ("B/loud", 5)


def test_the_histogram_stands_beside_what_was_expected(database_url, tmp_path, opened):
    archive = ml4ad.connect(database_url)
    samples.good_runs(archive, tmp_path, mes=(samples.LINE,), runs=(1, 2))
    strange = samples.with_hole(samples.histograms(samples.LINE, 3), 20, 25)
    samples.put(archive, tmp_path, strange, name="strange")
    trained = train(
        archive,
        samples.LINE,
        samples.DATASET,
        name="quick",
        run_number=[1, 2],
        detector=samples.quick(),
    )
    registry.activate(archive, trained)
    score(archive, run_number=3)
    page = opened(archive, 3)
    assert page.first.value == 20
    traces = {t["name"]: t for t in page.plot.figure["data"] if t.get("mode") != "lines"}
    ls_number = page._at[1]
    observed = archive.stack(samples.LINE, 3)[ls_number].values()
    assert np.array_equal(array(traces[f"LS {ls_number}"]["y"]), observed)
    expected = array(traces["expected"]["y"])
    assert expected.sum() == pytest.approx(observed.sum(), rel=0.2)
    off = array(traces["difference / error"]["y"])
    assert np.argmin(off) in range(4, 8)
    assert off.min() < -10
    low, high = (page.plot.figure["layout"]["shapes"][0][name] for name in ("x0", "x1"))
    assert low <= 3.0 <= high
    assert "Compared with known-good" in page.reason.value
    archive.close()


def test_a_map_of_300_elements_and_2000_lumisections_is_small():
    rng = np.random.default_rng(1)
    figure = plots.alarm_map(
        [f"S/e{i}" for i in range(300)],
        np.arange(1, 2001),
        np.log(rng.uniform(size=(300, 2000))),
        np.zeros((300, 2000), dtype=np.uint8),
        REASONS,
        np.log(1e-6),
    )
    assert len(figure["data"][0]["z"]["bdata"]) < 1_000_000


def test_a_server_that_is_stopped_is_said_and_the_page_goes_on_when_it_is_back(data_dir, opened):
    url = server.start(data_dir, durable=False)
    judged = samples.judged(url, [[-0.5, -0.5, LOUD, -0.5]], mes=["B/loud"])
    alarms.refresh(judged, "model", samples.DATASET, 7)
    page = opened(judged)
    chosen = page.view()
    server.stop(data_dir)
    page.frame._heard("pulse", "")
    assert "The database does not answer." in page.banner.value
    assert "tries again by itself" in page.banner.value
    # Who presses a button meanwhile is told the same, and loses nothing.
    page.by.value = "Ada"
    page.says["seen"].click()
    assert "The database does not answer." in page.banner.value
    assert server.start(data_dir, durable=False) == url
    page.frame._heard("pulse", "")
    assert page.banner.value == ""
    assert page.view() == chosen
    assert page.by.value == "Ada"
    verdict.add(judged, 7, 3, "seen", why="looked", dataset=samples.DATASET, by="Bob")
    page.frame._heard("pulse", "")
    assert "Bob" in page.verdicts.value
    judged.close()


def test_a_page_that_follows_says_when_data_stop_coming(judged, opened):
    page, fixed = opened(judged), opened(judged, 7)
    with fixed.setting():
        fixed.newest.value = False
    long_ago = datetime.now(UTC) - timedelta(hours=3)
    with judged.engine.begin() as connection:
        connection.execute(sa.update(schema.file).values(finished_at=long_ago))
        scoring.notify(connection, what="file", file_id=1)
    for one in (page, fixed):
        one.frame._heard("pulse", "")
    assert "No new data for 3 h" in page.strip.value
    assert "call the expert" in page.strip.value
    assert "No new data" not in fixed.strip.value


def test_what_is_chosen_is_framed_in_the_map(judged, opened):
    page = opened(judged)
    (frame,) = page.map.marks
    assert (frame["x0"], frame["x1"], frame["y0"], frame["y1"]) == (3.5, 6.5, -0.5, 0.5)
    page.last.value = 9
    assert page.map.marks[0]["x1"] == 9.5


@pytest.mark.parametrize("n_rows", [3, 60, 300])
def test_alarms_can_be_seen_however_many_elements_there_are(n_rows):
    log_p = np.full((n_rows, 12), -0.5)
    log_p[1, 3:6] = log_p[2, 0] = log_p[2, 11] = LOUD
    names = [f"A/e{i}" for i in range(n_rows)]
    codes = np.zeros(log_p.shape, dtype=np.uint8)
    figure = plots.alarm_map(names, np.arange(5, 17), log_p, codes, REASONS, np.log(1e-6))
    high = figure["layout"]["height"] - 86
    low, up = figure["layout"]["yaxis"]["range"]
    pixels_of_row = high / (low - up)
    frame = plots.cell_mark(1, 8, 10, n_rows)
    assert up <= plots.cell_mark(0, 8, 10, n_rows)["y0"]
    # What is framed is not covered by the frame, which is two pixels wide.
    assert (frame["y1"] - frame["y0"]) * pixels_of_row > 2 * 2 + 3
    if pixels_of_row > 8:
        assert len(figure["data"]) == 1
        return
    x, y = (array(figure["data"][1][name]).reshape(-1, 3) for name in "xy")
    assert x[:, :2].tolist() == [[7.5, 10.5], [4.5, 5.5], [15.5, 16.5]]
    assert np.isnan(x[:, 2]).all()
    assert y[:, 0].tolist() == [1, 2, 2]
