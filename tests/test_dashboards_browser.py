"""A real server, a real browser: what a person sees. Nothing may be asked of another host."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import processes
import pytest
import scored_samples as samples
import sqlalchemy as sa

from ml4ad import verdict
from ml4ad.detect import registry
from ml4ad.detect.score import score
from ml4ad.detect.train import train

WAIT_MS = 60_000
READABLE = Path(__file__).with_name("readable.js")
TOKEN = "only-for-tests"  # noqa: S105


@pytest.fixture(scope="module")
def admin(server_url):
    url = sa.make_url(server_url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def archive(shared_archive, tmp_path_factory):
    """Two good runs that a model learned, and a third with dead bins from lumisection 20 to 25."""
    folder = tmp_path_factory.mktemp("files")
    samples.good_runs(shared_archive, folder, runs=(1, 2))
    strange = samples.with_hole(samples.histograms(samples.LINE, 3), 20, 25)
    samples.put(shared_archive, folder, strange, samples.histograms(samples.MAP, 3), name="strange")
    trained = train(
        shared_archive,
        [samples.LINE, samples.MAP],
        samples.DATASET,
        name="quick",
        run_number=[1, 2],
        detector=samples.quick(),
    )
    registry.activate(shared_archive, trained)
    score(shared_archive, run_number=3)
    return shared_archive


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The server's home folder, with its log."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def address(archive, home):
    """Where `ml4ad dashboards` serves, behind a prefix as of a hub; without the token."""
    command = [sys.executable, "-m", "ml4ad", "dashboards", "--port", "0", "--no-browser"]
    command += ["--base-url", "/user/me/", "--token", TOKEN, "--verbose"]
    environment = os.environ | {"ML4AD_DATABASE_URL": archive.url, "HOME": str(home)}
    with (
        (home / "log").open("w") as log,
        processes.started(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        ) as server,
    ):
        line = server.stdout.readline()
        assert line.startswith("dashboards: http"), (home / "log").read_text()
        yield line.split(": ", 1)[1].split("?")[0].strip()


class Visitor:
    """A browser of one person, and what went wrong in it."""

    def __init__(self, browser, address):
        self.context = browser.new_context(viewport={"width": 1280, "height": 800})
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.host = urlsplit(address).netloc
        self.address = address
        self.wrong = []
        self.page.on("request", self._asked)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("console", self._told)

    def _asked(self, request):
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != self.host:
            self.wrong.append(f"asked another host: {request.url}")

    def _told(self, message):
        if message.type == "error":
            self.wrong.append(f"console: {message.text}")

    def open(self, where):
        joint = "&" if "?" in where else "?"
        self.page.goto(f"{self.address}{where}{joint}token={TOKEN}")
        self.wait_until_alive()

    def wait_until_alive(self):
        """Wait until the page itself stands where its poster was."""
        self.page.locator("#ml4ad-starting").wait_for(state="detached")
        assert self.page.locator("#ml4ad-poster").count() == 0

    def drawn(self, number=0):
        """Points of the first trace with markers in a picture."""
        self.wait_until_alive()
        self.page.wait_for_selector(f".ml4ad-plot-frame[data-drawn] >> nth={number}")
        return np.array(
            self.page.evaluate(
                """(number) => {
                    const plot = document.querySelectorAll(".ml4ad-plot")[number];
                    const at = plot.data.findIndex((one) => one.mode === "markers");
                    return plot.calcdata[at].map((point) => point.y);
                }""",
                number,
            )
        )


@pytest.fixture
def visit(browser, address):
    """Opens browsers; afterwards nothing may have gone wrong in any."""
    visitors = []

    def new():
        visitors.append(Visitor(browser, address))
        return visitors[-1]

    yield new
    for visitor in visitors:
        visitor.context.close()
    assert [wrong for visitor in visitors for wrong in visitor.wrong] == []


@pytest.mark.parametrize("where", ["", "voila/render/shift.ipynb", "voila/render/explore.ipynb"])
def test_without_the_token_one_is_asked_for_it(address, where):
    with urllib.request.urlopen(f"{address}{where}") as answer:  # noqa: S310
        assert urlsplit(answer.url).path == "/user/me/login"
        assert "password" in answer.read().decode()


def test_a_click_on_an_element_shows_its_numbers_and_the_address_opens_it_again(visit, archive):
    first = visit()
    first.open("")
    first.page.get_by_role("link", name="Explore").click()
    first.page.wait_for_selector(".ml4ad-plot-frame[data-drawn]")
    first.page.get_by_label("Search elements").fill("layer_1")
    first.page.get_by_role("button", name=samples.LINE).click()
    first.page.wait_for_function("location.search.includes('layer_1')")
    first.page.wait_for_function(
        "document.querySelector('.ml4ad-plot')?.data?.[0].type === 'scatter'"
    )
    expected = archive.stack(samples.LINE, 3).values().sum(axis=0)
    assert np.array_equal(first.drawn(), expected)
    first.page.get_by_role("button", name="one by one").click()
    first.page.wait_for_function("location.search.includes('ls=')")
    colleague = visit()
    colleague.open(first.page.url.removeprefix(first.address).replace("ls=1", "ls=22"))
    colleague.page.wait_for_function("location.search.includes('ls=22')")
    colleague.page.wait_for_function(
        "document.querySelector('.ml4ad-plot')?.data?.[0].name.includes('LS 22')"
    )
    assert np.array_equal(colleague.drawn(), archive.stack(samples.LINE, 3)[22].values())


def test_a_shifter_finds_the_fault_and_what_is_said_of_it_reaches_another(visit, archive, admin):
    one, other = visit(), visit()
    for visitor in (one, other):
        visitor.open("voila/render/shift.ipynb")
        visitor.page.wait_for_selector(".ml4ad-strip .state.bad")
    assert "1 incident" in one.page.inner_text(".ml4ad-strip")
    # A browser sets the blanks of an option so that it does not wrap.
    incidents = one.page.inner_text("select[size]").replace("\xa0", " ")
    assert "LS 20 to 25: layer_1: 4 bins at charge" in incidents
    one.page.wait_for_function(
        "[...document.querySelectorAll('.ml4ad-plot')].some((p) => p.data && p.data.length > 3)"
    )
    rows = one.page.evaluate("document.querySelector('.ml4ad-plot').layout.meta.rows")
    assert rows[0] == samples.LINE
    one.page.get_by_placeholder("your name").fill("Ada")
    one.page.get_by_placeholder("reason or comment").fill("layer 1 is off")
    one.page.get_by_placeholder("reason or comment").press("Tab")
    one.page.get_by_role("button", name="Known problem").click()
    one.page.get_by_text("Kept: LS 20 to 25, known.").wait_for()
    other.page.get_by_text("layer 1 is off").first.wait_for()
    other.page.wait_for_selector(".ml4ad-strip .state.good")

    # The database goes away, and comes back, under an open page.
    name = archive.engine.url.database
    activity = sa.table("pg_stat_activity", sa.column("pid"), sa.column("datname"))
    end = sa.select(sa.func.pg_terminate_backend(activity.c.pid))
    try:
        with admin.connect() as connection:
            connection.exec_driver_sql(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            connection.execute(end.where(activity.c.datname == name)).all()
        other.page.get_by_text("The database does not answer.").wait_for()
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        # Its pooled connections were ended, too.
        archive.engine.dispose()
    other.page.get_by_text("The database does not answer.").wait_for(state="detached")
    assert "Traceback" not in other.page.inner_text("body")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pages_can_be_read_and_reached_with_the_keyboard(visit, scheme):
    visitor = visit()
    visitor.page.emulate_media(color_scheme=scheme)
    for name in ("shift", "explore"):
        visitor.open(f"voila/render/{name}.ipynb")
        visitor.page.wait_for_selector(".ml4ad-plot-frame[data-drawn]")
        visitor.page.wait_for_timeout(500)
        assert visitor.page.evaluate(READABLE.read_text()) == []
    # What finds nothing must be able to find something.
    visitor.page.evaluate(
        """() => {
            const bad = document.createElement("button");
            bad.style.color = bad.style.backgroundColor = "rgb(120, 120, 120)";
            bad.textContent = "pale";
            bad.tabIndex = -1;
            document.querySelector(".ml4ad-page").append(bad);
        }"""
    )
    assert len(visitor.page.evaluate(READABLE.read_text())) == 2


def test_the_alarm_map_is_walked_with_arrow_keys(visit):
    visitor = visit()
    visitor.open("voila/render/shift.ipynb?run=3")
    visitor.page.wait_for_function("location.search.includes('layer_1')")
    visitor.page.wait_for_selector(".ml4ad-plot[tabindex]")
    visitor.page.locator(".ml4ad-plot").first.focus()
    visitor.page.keyboard.press("ArrowDown")
    visitor.page.wait_for_function("location.search.includes('map')")
    visitor.page.keyboard.press("ArrowUp")
    visitor.page.wait_for_function("location.search.includes('layer_1')")


def test_an_address_of_a_run_that_is_not_here_is_answered_in_a_sentence(visit):
    visitor = visit()
    visitor.open("voila/render/explore.ipynb?run=77")
    visitor.page.get_by_text("run 77 is not here").wait_for()


def test_what_is_certified_is_shown(visit, archive):
    visitor = visit()
    visitor.open("voila/render/certify.ipynb?run=1")
    visitor.page.wait_for_function(
        "document.querySelector('.ml4ad-table tbody td')?.innerText === '1'"
    )
    row = visitor.page.locator(".ml4ad-table tbody tr").first.inner_text().split()
    expected = verdict.certification(archive, samples.DATASET, 1).summary()
    assert row == [str(number) for number in expected.iloc[0]]


def test_the_kernel_of_a_page_that_is_closed_ends(visit, home):
    visitor = visit()
    visitor.open("voila/render/certify.ipynb")
    visitor.page.wait_for_selector(".ml4ad-table tbody td")
    with visitor.page.expect_request("**/voila/api/shutdown/**") as asked:
        visitor.open("")
    kernel = asked.value.url.rsplit("/", 1)[-1]
    deadline = time.monotonic() + WAIT_MS / 1000
    while f"Kernel shutdown: {kernel}" not in (home / "log").read_text():
        assert time.monotonic() < deadline, (home / "log").read_text()[-2000:]
        time.sleep(0.2)


def test_a_page_says_that_it_is_starting_before_anything_else(address):
    where = f"{address}voila/render/certify.ipynb?token={TOKEN}"
    with urllib.request.urlopen(where) as answer:  # noqa: S310
        begins = answer.read(400).decode()
        assert "<title>ml4ad: Certify</title>" in begins
        assert "Starting the page" in begins + answer.read().decode()


def test_a_page_whose_kernel_was_not_warm_shows_how_it_is_too(archive, home):
    command = [sys.executable, "-m", "ml4ad", "dashboards", "--port", "0", "--no-browser"]
    command += ["--token", "", "--pool", "0"]
    environment = os.environ | {"ML4AD_DATABASE_URL": archive.url, "HOME": str(home)}
    with processes.started(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        where = server.stdout.readline().split(": ", 1)[1].strip()
        page = f"{where}voila/render/shift.ipynb?run=3"
        with urllib.request.urlopen(page, timeout=WAIT_MS / 1000) as answer:  # noqa: S310
            text = answer.read().decode()
    poster = text[text.index('id="ml4ad-poster"') :]
    assert "40 LS, none missing" in poster
    assert "LS 20 to 25: layer_1: 4 bins at charge" in poster


def test_a_server_that_is_stopped_while_kernels_start_says_nothing(archive, home):
    command = [sys.executable, "-m", "ml4ad", "dashboards", "--port", "0", "--no-browser"]
    environment = os.environ | {"ML4AD_DATABASE_URL": archive.url, "HOME": str(home)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with processes.started(command, env=environment, **pipes) as server:
        assert server.stdout.readline().startswith("dashboards: http")
        server.send_signal(signal.SIGTERM)
        said = server.stderr.read()
        assert server.wait(60) == 0, said
    assert "Traceback" not in said


def test_a_page_shows_how_it_is_before_its_buttons_answer(visit):
    visitor = visit()
    held = []
    visitor.page.route("**/voila.js", lambda request: held.append(request))
    where = f"{visitor.address}voila/render/shift.ipynb?run=3&token={TOKEN}"
    visitor.page.goto(where, wait_until="commit")
    poster = visitor.page.locator("#ml4ad-poster")
    poster.locator("[data-sketched]").first.wait_for()
    assert "40 LS, none missing" in poster.locator(".ml4ad-strip").inner_text()
    sentences = poster.locator("select[size]").inner_text().replace("\xa0", " ")
    assert "LS 20 to 25: layer_1: 4 bins at charge" in sentences
    # Its picture is the alarm map: six lumisections are darker than all others.
    dark = poster.locator("canvas").first.evaluate(
        """(canvas) => {
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            let n = 0;
            for (let i = 0; i < data.length; i += 4)
                n += data[i] === 0x4a && data[i + 1] === 0x0d && data[i + 2] === 0x3a;
            return n;
        }"""
    )
    assert dark > 100
    # What does not answer yet says so, and does not ask for a click either.
    visitor.page.get_by_text("Buttons answer in a moment").wait_for()
    assert poster.get_by_role("button").count() == 0
    for request in held:
        request.continue_()
    visitor.wait_until_alive()
    visitor.page.wait_for_selector(".ml4ad-strip .state.bad, .ml4ad-strip .state.good")
    visitor.page.get_by_role("button", name="Seen").wait_for()


def test_what_is_looked_at_goes_along_to_the_other_pages(visit):
    visitor = visit()
    visitor.open("")
    visitor.page.get_by_role("link", name="Certify").click()
    visitor.page.wait_for_function("location.search.includes('run=3')")
    visitor.open("voila/render/certify.ipynb?run=1")
    visitor.page.wait_for_function("location.search.includes('run=1')")
    visitor.page.get_by_role("link", name="Explore").click()
    visitor.page.wait_for_selector(".ml4ad-plot-frame[data-drawn]")
    visitor.page.wait_for_function("/explore.*run=1/.test(location.href)")
