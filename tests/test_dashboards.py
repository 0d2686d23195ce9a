"""The pages without a browser: set a control's value, read what is shown."""

import base64

import numpy as np
import pandas as pd
import pytest
import scored_samples as samples
import sqlalchemy as sa

import ml4ad
from ml4ad import dashboards, dqmio, ingest
from ml4ad.dashboards.page import table

RUNS = (11, 12)


@pytest.fixture(scope="module")
def module_archive(shared_archive, tmp_path_factory):
    """Two good runs, made once: what is only read may be shared."""
    samples.good_runs(shared_archive, tmp_path_factory.mktemp("files"), runs=RUNS, n_ls=12)
    return shared_archive


@pytest.fixture
def archive(module_archive, monkeypatch):
    monkeypatch.setenv("ML4AD_DATABASE_URL", module_archive.url)
    return module_archive


@pytest.fixture
def page(archive):
    return dashboards.Explore(archive, run_number=12, me=samples.LINE)


def array(packed):
    values = np.frombuffer(base64.b64decode(packed["bdata"]), f"<{packed['dtype']}")
    shape = packed.get("shape")
    return values.reshape([int(n) for n in shape.split(",")]) if shape else values


def points(plot, number=0):
    traces = [t for t in plot.figure["data"] if t.get("mode") == "markers"]
    return array(traces[number]["y"])


def heat(plot, number=0):
    return array([t for t in plot.figure["data"] if t["type"] == "heatmap"][number]["z"])


def test_a_range_of_lumisections_is_drawn_as_their_sum(page, archive):
    page.range.value = (3, 7)
    expected = archive.stack(samples.LINE, 12).select(slice(3, 7)).values().sum(axis=0)
    assert np.array_equal(points(page.plot), expected)
    assert page.view()["range"] == "3-7"


def test_one_lumisection_is_chosen_by_its_number(page, archive):
    page.sums.value = "one"
    page.ls.value = 5
    expected = archive.stack(samples.LINE, 12).select(5).values()[0]
    assert np.array_equal(points(page.plot), expected)


def test_a_map_is_drawn_with_x_across(page, archive):
    page.tree.value = [samples.MAP]
    expected = archive.stack(samples.MAP, 12).values().sum(axis=0)
    assert np.array_equal(heat(page.plot), np.where(expected.T == 0, np.nan, expected.T))


def test_runs_lie_over_each_other_and_over_a_reference(page, archive):
    page.norm.value = "area"
    page.others.value = [f"11:{samples.DATASET}"]
    page.reference.value = f"11:{samples.DATASET}"
    first, second = (archive.stack(samples.LINE, run).values().sum(axis=0) for run in (12, 11))
    # The reference is drawn first; then each with its ratio below.
    assert np.allclose(points(page.plot, 1), first / first.sum())
    assert np.allclose(points(page.plot, 2), first / first.sum() / (second / second.sum()))
    assert np.allclose(points(page.plot, 4), 1)


def test_a_ratio_needs_a_reference(page):
    page.reference.value = ""
    assert page.ratio.disabled
    page.reference.value = "run"
    assert not page.ratio.disabled
    assert "yaxis2" in page.plot.figure["layout"]
    page.look.value = "trend"
    page.look.value, page.reference.value = "histogram", ""
    assert page.ratio.disabled
    assert "yaxis2" not in page.plot.figure["layout"]


def test_the_newest_run_is_opened_whatever_its_dataset_is_called(database_url, tmp_path):
    with ml4ad.connect(database_url) as archive:
        for dataset, run in (("/Z/new-v1/DQMIO", 12), ("/A/old-v1/DQMIO", 11)):
            path = tmp_path / f"{run}.root"
            dqmio.write(path, [samples.histograms(samples.LINE, run, n_ls=12)], seed=run)
            assert [one.state for one in ingest.ingest(archive, [path], dataset=dataset)] == [
                "PROCESSED"
            ]
        for one in (dashboards.Explore(archive), dashboards.Certify(archive)):
            assert one.view()["dataset"] == "/Z/new-v1/DQMIO"
            assert one.view()["run"] in (12, [12])


def test_headings_are_words_and_numbers_stand_under_them_to_the_right():
    frame = pd.DataFrame({"run_number": ["12"], "n_ls": [3], "flagged_first": [1.5], "me": ["A/b"]})
    said = table(frame, marked={"n_ls": [True]})
    assert "<th>run</th>" in said
    assert '<th class="number">LS</th><th class="number">flagged first</th><th>element' in said
    assert '<td class="number"><b class="bad">3</b></td><td class="number">1.5</td>' in said


def test_rebinned_bins_are_sums_of_neighbours(page, archive):
    page.rebin.value = 4
    expected = archive.stack(samples.LINE, 12).rebin(4).values().sum(axis=0)
    assert np.array_equal(points(page.plot), expected)


def test_the_map_of_lumisections_has_a_column_each(page, archive):
    page.look.value = "lumisections"
    assert np.allclose(heat(page.plot), archive.stack(samples.LINE, 12).values().T)


def test_the_trend_of_the_mean_is_that_of_the_bins(page, archive):
    page.look.value = "trend"
    page.moment.value = "mean"
    stack = archive.stack(samples.LINE, 12)
    values = stack.values().astype(float)
    assert np.allclose(points(page.plot), values @ stack.axes[0].centers / values.sum(axis=1))


def test_an_address_opens_the_same_view(page, archive):
    page.tree.value = [samples.MAP]
    page.sums.value = "one"
    page.ls.value = 4
    page.log.value = True
    other = dashboards.Explore(archive)
    other.frame._heard("hello", page.frame.view)
    assert other.view() == page.view()
    assert np.array_equal(heat(other.plot), heat(page.plot), equal_nan=True)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("run=99", "run 99 is not here"),
        ("me=No/such", "no element"),
        ("ls=x", "want a number"),
        ("view=upside", "upside"),
    ],
)
def test_an_address_of_what_is_not_there_is_answered_in_a_sentence(page, address, said):
    page.frame._heard("hello", address)
    assert said in page.banner.value
    assert "Traceback" not in page.banner.value


def test_what_is_downloaded_is_what_is_shown(page, archive, tmp_path):
    import pandas as pd

    page.range.value = (2, 4)
    saved = tmp_path / "saved.parquet"
    saved.write_bytes(page.content("parquet"))
    frame = pd.read_parquet(saved)
    assert frame["ls_number"].tolist() == [2, 3, 4]
    expected = archive.stack(samples.LINE, 12).select(slice(2, 4)).values()
    assert np.array_equal(frame.iloc[:, 4:].to_numpy(), expected)
    assert page.content("csv").decode().startswith("dataset,me,run_number,ls_number")
    assert page.content("pdf").startswith(b"%PDF")
    assert page.content("png").startswith(b"\x89PNG")


def _map(page):
    page.tree.value = [samples.MAP]
    page.reference.value = "run"


def _profile_of_lumisections(page):
    page.look.value = "lumisections"
    page.norm.value = "area"


def _trend(page):
    page.look.value = "trend"
    page.others.value = [f"11:{samples.DATASET}"]


def _compared_runs(page):
    page.range.value = (2, 4)
    page.norm.value = "area"
    page.others.value = [f"11:{samples.DATASET}"]
    page.reference.value = f"11:{samples.DATASET}"


def _several_lumisections(page):
    page.sums.value = "several"
    page.several.value = "3, 5-6+9-10"
    page.rebin.value = 2


@pytest.mark.parametrize(
    "view", [_map, _profile_of_lumisections, _trend, _compared_runs, _several_lumisections]
)
def test_the_python_for_a_view_draws_what_is_downloaded(page, view):
    view(page)
    assert page.banner.value == ""
    names = {}
    *lines, last = page.source().splitlines()
    exec(compile("\n".join([*lines, f"figure = {last}"]), "view", "exec"), names)  # noqa: S102
    names["archive"].close()
    assert [len(ax.get_lines()) for ax in names["figure"].axes] == [
        len(ax.get_lines()) for ax in page.picture().axes
    ]
    for theirs, ours in zip(names["figure"].axes, page.picture().axes, strict=True):
        for one, other in zip(theirs.get_lines(), ours.get_lines(), strict=True):
            drawn, wanted = (np.asarray(a.get_ydata(), dtype=float) for a in (one, other))
            assert np.allclose(drawn, wanted, equal_nan=True)


def test_several_lumisections_and_sums_of_ranges_lie_over_each_other(page, archive):
    page.sums.value = "several"
    assert "no lumisection yet" in page.banner.value
    page.several.value = "3, 5-6+9-10"
    stack = archive.stack(samples.LINE, 12)
    assert np.array_equal(points(page.plot, 0), stack.select(3).values()[0])
    expected = stack.select([5, 6, 9, 10]).values().sum(axis=0)
    assert np.array_equal(points(page.plot, 1), expected)
    other = dashboards.Explore(archive)
    other.frame._heard("hello", page.frame.view)
    assert other.view() == page.view()
    page.several.value = "3, x"
    assert "want a number" in page.banner.value


def test_similar_lumisections_are_listed_with_their_addresses(page):
    page.sums.value = "one"
    page.find.click()
    assert "run 11, LS" in page.likes.value
    assert page.likes.value.count("<a href") == 10


def test_a_scale_that_is_not_known_is_said_not_guessed(page):
    page.norm.value = "luminosity"
    assert "recorded luminosity is not known" in page.banner.value
    page.norm.value = "area"
    assert page.banner.value == ""


def test_one_by_one_begins_where_something_was_filled(database_url, tmp_path):
    stack = samples.histograms(samples.LINE, 5, n_ls=6)
    stack.contents[:2] = 0
    stack.entries[:2] = 0
    with ml4ad.connect(database_url) as archive:
        samples.put(archive, tmp_path, stack)
        page = dashboards.Explore(archive)
        assert (page.ls.min, page.ls.value, page.play.value) == (1, 3, 3)
        page.ls.value = 2
        page.run.value = None
        page.run.value = 5
        assert page.ls.value == 2


def test_an_empty_archive_says_what_to_do_and_fills_itself(database_url, tmp_path):
    archive = ml4ad.connect(database_url)
    page = dashboards.Explore(archive)
    assert "ml4ad ingest" in page.body.children[0].value
    samples.good_runs(archive, tmp_path, runs=(5,), n_ls=3)
    page.frame._heard("pulse", "")
    assert page.run.value == 5
    assert len(page.plot.figure["data"]) == 1
    archive.close()


def test_a_database_that_is_gone_is_said_and_comes_back(page, archive):
    url = archive.engine.url
    admin = sa.create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    activity = sa.table("pg_stat_activity", sa.column("pid"), sa.column("datname"))
    end = sa.select(sa.func.pg_terminate_backend(activity.c.pid))
    with admin.connect() as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS false')
        connection.execute(end.where(activity.c.datname == url.database)).all()
    try:
        page.tree.value = [samples.MAP]
        assert "The database does not answer." in page.banner.value
        page.frame._heard("hello", "run=11")
        assert page.is_gone
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS true')
        admin.dispose()
    page.frame._heard("pulse", "")
    assert not page.is_gone
    assert page.banner.value == ""
    # What the address asked for meanwhile is shown now.
    assert page.run.value == 11
    assert len(heat(page.plot))


def test_stacks_that_were_looked_at_do_not_pile_up(page, monkeypatch):
    monkeypatch.setattr("ml4ad.dashboards.held.MOST_BYTES", 10_000)
    for me in (samples.MAP, samples.LINE) * 2:
        page.tree.value = [me]
    assert len(page._held._stacks) == 1
