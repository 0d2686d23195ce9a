# ruff: noqa: F811 (an argument is the fixture of that name)
"""Start page, Operate, Models and Certify in a real browser: what a person sees and does."""

import json
from urllib.parse import urlencode

import numpy as np
import pytest
import scored_samples as samples
import sqlalchemy as sa
from test_dashboards_browser import (  # noqa: F401 (fixtures)
    address,
    admin,
    archive,
    home,
    visit,
)

import ml4ad
from ml4ad import conditions, detect, verdict
from ml4ad.detect import registry
from ml4ad.detect.compare import compare
from ml4ad.detect.prove import proofs
from ml4ad.pipelines import records
from ml4ad.store.execution import RunState

# What is started on a page is a process of its own, and as slow as the machine.
RUN_MS = 300_000
PAGES = ("Shift", "Explore", "Certify", "Models", "Operate")


def row_of(page, text):
    """Cells of the first row of a table that holds the text."""
    row = page.locator(".ml4ad-table tbody tr", has_text=text).first
    return [cell.strip() for cell in row.locator("td").all_inner_texts()]


def test_the_start_page_leads_to_all_pages_and_says_how_the_archive_is(visit, archive):
    visitor = visit()
    visitor.open("")
    facts = visitor.page.inner_text("#state")
    assert "1 incident that nobody explained" in facts
    assert f"3, 40 LS, of {samples.DATASET}" in facts
    assert "quick:1" in facts
    n_ls = int(archive.datasets()["n_ls"].sum())
    assert f"1 dataset, 3 runs, {n_ls} lumisections" in facts
    links = visitor.page.locator(".ml4ad-card h2 a")
    assert links.all_inner_texts() == list(PAGES)
    # By keyboard alone.
    visitor.page.keyboard.press("Tab")
    for _ in PAGES[:-1]:
        visitor.page.keyboard.press("Tab")
    visitor.page.keyboard.press("Enter")
    visitor.page.wait_for_selector(".ml4ad-operate .ml4ad-strip .state")
    here = visitor.page.locator(".ml4ad-nav a")
    assert here.all_inner_texts() == ["ml4ad", *PAGES]


def test_files_are_taken_in_from_the_page_and_the_executed_notebook_is_read(
    visit, archive, tmp_path
):
    samples.dqmio.write(
        tmp_path / "four.root", [samples.histograms(samples.LINE, 4, n_ls=3)], seed=9
    )
    visitor = visit()
    given = urlencode({"paths": str(tmp_path), "dataset": samples.DATASET})
    visitor.open(f"voila/render/operate.ipynb?{given}")
    page = visitor.page
    page.wait_for_selector(".ml4ad-strip .state")
    assert row_of(page, "PROCESSED")[1] == "3"
    assert page.get_by_label("Paths").input_value() == str(tmp_path)
    page.get_by_label("Workers").fill("0")
    page.get_by_label("Workers").press("Tab")
    page.get_by_role("button", name="Start").click()
    page.get_by_text("Done: ingest").wait_for(timeout=RUN_MS)
    assert 4 in archive.runs()["run_number"].tolist()
    record = records.recent(archive.engine)[0]
    assert (record.notebook, record.state) == ("ingest", RunState.DONE)
    shown = row_of(page, "read ingest")
    assert shown[:3] == [str(record.pipeline_run_id), "ingest", "done"]
    page.wait_for_function(
        "[...document.querySelectorAll('td')].some((c) => c.innerText === 'PROCESSED')"
        " && [...document.querySelectorAll('tr')].some((r) => r.innerText.startsWith('PROCESSED')"
        " && r.cells[1].innerText === '4')"
    )
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="read ingest").first.click()
    read = opened.value
    read.wait_for_load_state()
    assert "Take in new DQMIO files" in read.inner_text("body")
    assert "four.root" in read.inner_text("body")
    answer = visitor.context.request.get(f"{read.url}.ipynb")
    assert json.loads(answer.body())["nbformat"] == 4
    missing = visitor.context.request.get(f"{visitor.address}ml4ad/runs/999")
    assert missing.status == 404
    assert "no run 999" in missing.text()


def test_what_cannot_be_started_is_said_beside_the_form(visit):
    visitor = visit()
    visitor.open("voila/render/operate.ipynb?action=index&paths=here")
    visitor.page.wait_for_selector(".ml4ad-strip .state")
    visitor.page.get_by_role("button", name="Start").click()
    visitor.page.get_by_text("want it from / on").wait_for()
    assert "Traceback" not in visitor.page.inner_text("body")


def test_a_model_is_tried_retired_and_put_to_work(visit, archive):
    visitor = visit()
    visitor.open("voila/render/models.ipynb?look=faults")
    page = visitor.page
    page.get_by_text("Nobody has put faults").wait_for()
    page.get_by_label("Each fault").fill("3")
    page.get_by_label("Each fault").press("Tab")
    page.get_by_role("button", name="Put faults in").click()
    page.get_by_text("Done: prove").wait_for(timeout=RUN_MS)
    known = proofs(registry.get(archive, "quick:1"))
    assert set(known) == {samples.LINE, samples.MAP}
    first = known[samples.MAP]
    page.wait_for_function(
        f"document.querySelector('.ml4ad-plot')?.data?.length === {len(first['curves'])}"
    )
    drawn = page.evaluate("document.querySelector('.ml4ad-plot').calcdata[0].map((p) => p.y)")
    assert np.allclose(drawn, next(iter(first["curves"].values()))[1])
    page.get_by_role("button", name="Retire").click()
    page.get_by_text("say who you are").wait_for()
    page.get_by_placeholder("your name").fill("Ada")
    page.get_by_placeholder("your name").press("Tab")
    page.get_by_role("button", name="Retire").click()
    page.get_by_text("quick:1 is retired").wait_for()
    assert registry.active(archive) == []
    page.get_by_role("button", name="Put to work").click()
    page.get_by_text("quick:1 is at work.").wait_for()
    (model,) = registry.active(archive)
    last = registry.history(archive, model.model_id).iloc[-1]
    assert (str(model), last["changed_by"]) == ("quick:1", "Ada")


def test_two_models_are_compared_after_both_have_scored_the_run(visit, archive):
    detect.train(
        archive,
        [samples.LINE],
        samples.DATASET,
        name="other",
        run_number=[1, 2],
        detector=samples.quick(),
    )
    visitor = visit()
    view = {"model": "quick:1", "look": "compare", "with": "other:1"}
    visitor.open(f"voila/render/models.ipynb?{urlencode(view)}")
    page = visitor.page
    page.get_by_text("Model other:1 has not scored run 3").wait_for()
    page.get_by_role("button", name="Score this run with both").click()
    page.get_by_text("Done: score").wait_for(timeout=RUN_MS)
    page.wait_for_function(
        "document.querySelector('.ml4ad-table tbody td')?.innerText.includes('layer_1')"
        " || [...document.querySelectorAll('td')].some((c) => c.innerText.includes('layer_1'))"
    )
    table = compare(archive, "quick:1", "other:1", samples.DATASET, 3).set_index("me")
    row = row_of(page, samples.LINE)
    assert row[1:4] == [str(n) for n in table.loc[samples.LINE, ["n_first", "n_second", "n_both"]]]
    n_points = page.evaluate("document.querySelector('.ml4ad-plot').calcdata[0].length")
    assert n_points == table["n_both"].sum()


def test_a_certificate_is_cut_by_lists_compared_and_downloaded(visit, archive, tmp_path):
    for name, kind, text in (
        ("gold", "golden", '{"3": [[1, 30]]}'),
        ("on", "dcs", '{"3": [[5, 40]]}'),
        ("theirs", "golden", '{"3": [[1, 22]]}'),
    ):
        (tmp_path / f"{name}.json").write_text(text)
        conditions.load(archive, tmp_path / f"{name}.json", kind=kind, name=name)
    visitor = visit()
    view = {"run": 3, "golden": "gold", "dcs": "on", "compare": "theirs", "part": "0.5"}
    visitor.open(f"voila/render/certify.ipynb?{urlencode(view)}")
    page = visitor.page
    page.get_by_text("only there").wait_for()
    found = verdict.certification(
        archive, samples.DATASET, 3, golden="gold", dcs="on", min_assessed=0.5
    )
    numbers = [str(number) for number in found.summary().iloc[0]]
    assert row_of(page, "3")[: len(numbers)] == numbers
    differs = verdict.difference(archive, found, "theirs")
    assert row_of(page, "only there")[2] == conditions.ranges.dumps(differs["only_there"])
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download good (golden JSON)").click()
    saved.value.save_as(tmp_path / "saved.json")
    assert (tmp_path / "saved.json").read_text() == found.golden_json()
    # Without luminosities in the archive a cut on them certifies nothing, and says why.
    page.get_by_label("Least luminosity").fill("10")
    page.get_by_label("Least luminosity").press("Tab")
    page.get_by_text("luminosity not known").first.wait_for()
    page.wait_for_function("location.search.includes('lumi=10')")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("models.ipynb?model=nobody", "no model 'nobody'"),
        ("operate.ipynb?id=12345", "no run 12345"),
    ],
)
def test_an_address_of_what_is_not_there_is_answered_in_a_sentence(visit, where, said):
    visitor = visit()
    visitor.open(f"voila/render/{where}")
    visitor.page.get_by_text(said).first.wait_for()
    assert "Traceback" not in visitor.page.inner_text("body")


def test_a_database_that_goes_and_comes_back_is_followed_on_every_page(visit, archive, admin):
    visitors = {where: visit() for where in ("", "operate.ipynb", "models.ipynb")}
    for where, visitor in visitors.items():
        visitor.open(f"voila/render/{where}" if where else "")
        visitor.page.wait_for_selector(".ml4ad-strip .state, .ml4ad-cards")
    name = archive.engine.url.database
    activity = sa.table("pg_stat_activity", sa.column("pid"), sa.column("datname"))
    end = sa.select(sa.func.pg_terminate_backend(activity.c.pid))
    gone = "The database does not answer."
    try:
        with admin.connect() as connection:
            connection.exec_driver_sql(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            connection.execute(end.where(activity.c.datname == name)).all()
        for visitor in visitors.values():
            visitor.page.get_by_text(gone).wait_for()
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        archive.engine.dispose()
    for visitor in visitors.values():
        visitor.page.get_by_text(gone).wait_for(state="detached")
        assert "Traceback" not in visitor.page.inner_text("body")
    with ml4ad.connect(archive.url) as again:
        assert len(again.runs())
