"""The pages in a real browser, on an archive of a million histograms.

    python benchmarks/dashboards.py [--lumisections 2000] [--updates 160] [--pages 20]

An archive of 300 elements is made: four good runs that a model learns from, a run of 2000
lumisections, and a dataset beside it. Its histograms go through the way that ingest takes (pack,
COPY), and a model is trained on 20 elements, which all others look like. Scores of the long run are
random numbers, put into the table, with faults that are in the histograms, too. Then
`ml4ad dashboards` serves, and headless Chromium visits:

* from the address to the first picture (what the page shows while it comes alive) and until its
  buttons answer, with a warm kernel and an empty cache, and how long the browser and the server had
  a core for it, which does not depend on what else the machine does;
* clicks, from the event to the frame in which the picture has changed;
* zooming and moving the alarm map of 300 x 2000;
* so many new lumisections with their notifications (160 are an hour's), one after the other, and
  the memory of kernel and browser before and after;
* so many pages at once, what each costs, and whether their kernels end.

It needs Chromium and playwright. Times are of this machine: the load is printed beside them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import psutil
import sqlalchemy as sa
from playwright.sync_api import Browser, Page, sync_playwright

import ml4ad
from ml4ad import Axis, HistogramStack, verdict
from ml4ad.dashboards.page import PAGES
from ml4ad.detect import alarms, registry
from ml4ad.detect.nearest import NearestReference
from ml4ad.detect.scored import Row
from ml4ad.detect.train import train
from ml4ad.store import blocks, dimensions, schema, scoring
from ml4ad.store import server as postgres

DATASET = "/ZeroBias/Run2024F-PromptReco-v1/DQMIO"
BESIDE = "/ZeroBias/Run2024E-PromptReco-v1/DQMIO"
N_ELEMENTS, N_BINS, GOOD_RUNS, LONG_RUN, LIVE_RUN = 300, 100, (1, 2, 3, 4), 5, 6
#: Elements that look alike are so many apart in the list: a detector is fitted to one of each kind.
N_KINDS = 20
SUBSYSTEMS = ("PixelPhase1", "SiStrip", "EcalBarrel", "Hcal", "CSC", "DT", "Tracking", "JetMET")
ELEMENTS = [f"{SUBSYSTEMS[i % len(SUBSYSTEMS)]}/Layer{i % 7}/charge_{i}" for i in range(N_ELEMENTS)]
FAULTS = {5: (200, 260), 60: (700, 705), 111: (1500, 1700), 200: (1990, 2000)}
WAIT_MS = 180_000
#: Waits in the page until a picture is drawn anew after something was done.
CLICK = """
window.ml4adDrawn = () => [...document.querySelectorAll(".ml4ad-plot-frame")]
  .map((one) => one.dataset.drawn).join();
window.ml4adClick = (act) => new Promise((resolve, reject) => {
  const before = window.ml4adDrawn();
  const began = performance.now();
  const late = setTimeout(() => reject(new Error("nothing was drawn")), 60000);
  const look = () => {
    if (window.ml4adDrawn() === before) { requestAnimationFrame(look); return; }
    clearTimeout(late);
    requestAnimationFrame(() => resolve(performance.now() - began));
  };
  act();
  requestAnimationFrame(look);
});
"""


# -- the archive -----------------------------------------------------------------------------------


def stack(me: str, run_number: int, ls_numbers: np.ndarray, seed: int) -> HistogramStack:
    """Counts of a falling line, with dead bins where there is a fault."""
    rng = np.random.default_rng([seed, run_number, int(ls_numbers[0])])
    ripple = 1 + 0.2 * np.sin(seed % N_KINDS + np.arange(N_BINS))
    shape = np.exp(-3 * np.linspace(0, 1, N_BINS)) * ripple
    counts = rng.poisson(shape * 60, (len(ls_numbers), N_BINS)).astype("f4")
    if run_number == LONG_RUN and seed in FAULTS:
        first, last = FAULTS[seed]
        counts[(ls_numbers >= first) & (ls_numbers <= last), 20:40] = 0
    axis = Axis.regular(N_BINS, 0, 200, title="Charge (ke)")
    return HistogramStack.from_arrays(
        counts, axis, ls_numbers=ls_numbers, run_number=run_number, me=me
    )


def put(archive: ml4ad.Archive, dataset: str, run_number: int, ls_numbers: np.ndarray) -> int:
    """A file's worth of all elements, as ingest stores it; the number of histograms."""
    dataset_id = dimensions.dataset_id(archive.engine, dataset)
    path = f"{dataset}/{run_number}/{ls_numbers[0]}.root"
    with archive.engine.begin() as connection:
        file_id = connection.scalar(
            sa.insert(schema.file)
            .values(
                dataset_id=dataset_id, path=path, size=1, mtime=1, state="PROCESSED",
                finished_at=sa.func.now(),
            )
            .returning(schema.file.c.file_id)
        )  # fmt: skip
        key = {"dataset_id": dataset_id, "run_number": run_number, "file_id": file_id}
        connection.execute(sa.insert(schema.run), [key])
        connection.execute(
            sa.insert(schema.lumisection),
            [{**key, "ls_number": int(n), "n_mes": N_ELEMENTS} for n in ls_numbers],
        )
        packed = (
            block
            for i, me in enumerate(ELEMENTS)
            for block in blocks.pack(stack(me, run_number, ls_numbers, i))
        )
        blocks.store(archive.engine, connection, file_id, dataset_id, packed)
        scoring.notify(connection, what="file", file_id=file_id)
    return N_ELEMENTS * len(ls_numbers)


def put_scores(
    archive: ml4ad.Archive, model_id: int, run_number: int, ls_numbers: np.ndarray
) -> None:
    """Random p-values of all elements, and what alarms where the faults are."""
    dataset_id = dimensions.dataset_id(archive.engine, DATASET)
    me_ids = dimensions.me_ids(archive.engine, dict.fromkeys(ELEMENTS, "TH1F"))
    rows = []
    for i, me in enumerate(ELEMENTS):
        log_p = np.log(np.random.default_rng([run_number, i]).uniform(size=len(ls_numbers)))
        codes = np.zeros(len(ls_numbers), dtype=np.uint8)
        if run_number == LONG_RUN and i in FAULTS:
            first, last = FAULTS[i]
            log_p[(ls_numbers >= first) & (ls_numbers <= last)] = -60.0
        row = Row(ls_numbers, ls_numbers, -log_p, log_p, codes)
        key = {"model_id": model_id, "dataset_id": dataset_id, "run_number": run_number}
        rows.append({**key, "me_id": me_ids[me], **row.as_columns()})
    table = scoring.score
    with archive.engine.begin() as connection:
        of_run = (table.c.model_id == model_id) & (table.c.run_number == run_number)
        connection.execute(sa.delete(table).where(of_run, table.c.dataset_id == dataset_id))
        connection.execute(sa.insert(table), rows)
    alarms.refresh(archive, model_id, DATASET, run_number)


def of_alike(archive: ml4ad.Archive, model_id: int) -> None:
    """Give each element the detector that was fitted to one that looks alike."""
    me_ids = dimensions.me_ids(archive.engine, dict.fromkeys(ELEMENTS, "TH1F"))
    table = scoring.model_element
    with archive.engine.begin() as connection:
        query = sa.select(table).where(table.c.model_id == model_id)
        learned = {row["me_id"]: dict(row) for row in connection.execute(query).mappings()}
        rows = [
            learned[me_ids[ELEMENTS[i % N_KINDS]]] | {"me_id": me_ids[me]}
            for i, me in enumerate(ELEMENTS)
            if i >= N_KINDS
        ]
        connection.execute(sa.insert(table), rows)


def fill(archive: ml4ad.Archive, n_ls: int) -> int:
    """The whole archive; the number of its model."""
    began = time.perf_counter()
    made = sum(put(archive, DATASET, run, np.arange(1, 101)) for run in GOOD_RUNS)
    made += put(archive, DATASET, LONG_RUN, np.arange(1, n_ls + 1))
    left = max(1, 1_000_000 - made - N_ELEMENTS) // N_ELEMENTS if n_ls >= 2000 else 100
    made += put(archive, BESIDE, 1, np.arange(1, left + 2))
    print(f"{made:,d} histograms stored in {time.perf_counter() - began:.0f} s", flush=True)
    began = time.perf_counter()
    model_id = train(
        *(archive, ELEMENTS[:N_KINDS], DATASET),
        name="benchmark",
        run_number=list(GOOD_RUNS),
        detector=NearestReference(),
    )
    of_alike(archive, model_id)
    registry.activate(archive, model_id)
    put_scores(archive, model_id, LONG_RUN, np.arange(1, n_ls + 1))
    with archive.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))
    print(f"model learned and run scored in {time.perf_counter() - began:.0f} s", flush=True)
    return model_id


# -- the server ------------------------------------------------------------------------------------


@contextmanager
def served(url: str, pool: int) -> Iterator[tuple[str, psutil.Process]]:
    """`ml4ad dashboards`: its address, and its process."""
    command = [sys.executable, "-m", "ml4ad", "dashboards", "--port", "0", "--no-browser"]
    command += ["--token", "", "--pool", str(pool)]
    server = subprocess.Popen(  # noqa: S603  # our own program
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"ML4AD_DATABASE_URL": url},
        start_new_session=True,
    )
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split(": ", 1)[1].strip(), psutil.Process(server.pid)
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def kernels(server: psutil.Process) -> list[psutil.Process]:
    """Kernels that run: what the process that forks them has forked, or the server's own."""
    found = []
    for child in server.children():
        with suppress(psutil.NoSuchProcess):
            command = " ".join(child.cmdline())
            if "ipykernel" in command:
                found.append(child)
            elif "dashboards.forked" in command:
                found += child.children()
    return found


def settled(server: psutil.Process, n: int) -> None:
    """Wait until there are so many kernels, and none of them works: the pool is warm."""
    quiet = 0
    while quiet < 3:
        found = kernels(server)
        for one in found:
            one.cpu_percent()
        time.sleep(1)
        busy = any(one.is_running() and one.cpu_percent() > 15 for one in found)
        quiet = 0 if busy or len(found) < n else quiet + 1


def megabytes(process: psutil.Process) -> tuple[float, float, float]:
    """Memory of a process in MB: all it sees, its own, and its own with its part of the rest.

    Of the last the sum over all processes is what they take together.
    """
    full = process.memory_full_info()
    return full.rss / 1e6, full.uss / 1e6, full.pss / 1e6


def worked(processes: Iterable[psutil.Process]) -> float:
    """Seconds that these processes have had a core for; those that are gone count nothing."""
    total = 0.0
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            total += sum(one.cpu_times()[:2])
    return total


def browsers() -> list[psutil.Process]:
    """Processes of the browser."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "chrom" in one.name():
                found.append(one)
    return found


# -- what is measured ------------------------------------------------------------------------------


#: The first picture is painted: the sketch of the page to come, or the page's own.
SEEN = """() => document.querySelector(".ml4ad-plot-frame[data-sketched], .ml4ad-plot-frame[data-drawn]")
  && new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"""  # noqa: E501
#: The page itself stands there, and all its pictures.
ALIVE = "() => !document.querySelector('#ml4ad-starting, #ml4ad-poster')"


def opened(browser: Browser, address: str) -> tuple[Page, float, float]:
    """A page of one visitor; seconds to its first picture, and until its buttons answer."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.set_default_timeout(WAIT_MS)
    page.add_init_script(CLICK)
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_function(SEEN)
    seen = time.perf_counter() - began
    page.wait_for_function(ALIVE)
    page.wait_for_selector(".ml4ad-plot-frame[data-drawn]")
    return page, seen, time.perf_counter() - began


def click(page: Page, act: str) -> float:
    """Milliseconds from the event to the frame with the new picture."""
    return float(page.evaluate(f"window.ml4adClick(() => {{ {act} }})"))


def chosen(selector: str, value: str) -> str:
    """JavaScript that chooses in a list, as a person does."""
    return (
        f"const one = document.querySelector({selector!r}); {value};"
        "one.dispatchEvent(new Event('change', {bubbles: true}));"
    )


def shift_clicks(page: Page, n_ls: int) -> dict[str, list[float]]:
    """Choose incidents, and cells of the map."""
    n = page.evaluate("document.querySelector('.ml4ad-incidents select').options.length")
    incidents = [
        click(page, chosen(".ml4ad-incidents select", f"one.selectedIndex = {i % n}"))
        for i in [*range(1, n), 0]
    ]
    cells = [
        click(
            page,
            "document.querySelector('.ml4ad-plot').emit('plotly_click', "
            f"{{points: [{{x: {1 + 97 * i % n_ls}, y: {7 * i + 3}, curveNumber: 0}}]}})",
        )
        for i in range(20)
    ]
    return {"an incident": incidents, "a cell of the map": cells}


def explore_clicks(page: Page) -> dict[str, list[float]]:
    """Choose elements, looks, scales and lumisections."""
    out: dict[str, list[float]] = {}
    page.get_by_label("Search elements").fill("charge_1")
    n = page.locator("button[data-me]").count()
    out["an element"] = [
        click(page, f"document.querySelectorAll('button[data-me]')[{i % n}].click()")
        for i in range(1, 16)
    ]
    button = "[...document.querySelectorAll('button')].find((b) => {}).click()"
    looks = ("LS by bin", "trend", "histogram") * 3
    out["another look"] = [
        click(page, button.format(f"b.innerText.trim() === '{look}'")) for look in looks
    ]
    box = "[...document.querySelectorAll('.widget-checkbox')].find((b) => b.innerText.includes('log')).querySelector('input').click()"  # noqa: E501
    out["log"] = [click(page, box) for _ in range(6)]
    click(page, button.format("b.innerText.trim() === 'one by one'"))
    next_one = "window.ml4adSlider.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', keyCode: 39, which: 39, bubbles: true}))"  # noqa: E501
    page.evaluate(
        "() => { window.ml4adSlider = [...document.querySelectorAll('.noUi-handle')]"
        ".filter((one) => one.offsetParent).at(-1); }"
    )
    out["the next lumisection"] = [click(page, next_one) for _ in range(15)]
    return out


def told(name: str, times: list[float], unit: str = "ms") -> None:
    """One line of times."""
    median, late = statistics.median(times), float(np.quantile(times, 0.95))
    print(f"{name:34s} {len(times):4d} times: median {median:6.0f} {unit}, 95 % {late:6.0f} {unit}")


def zoomed(page: Page) -> list[float]:
    """Milliseconds of zooming in, moving and zooming out of the alarm map."""
    return list(
        page.evaluate(
            """async () => {
                const plot = document.querySelector(".ml4ad-plot");
                const out = [];
                const to = async (x, y) => {
                    const began = performance.now();
                    await Plotly.relayout(plot, {"xaxis.range": x, "yaxis.range": y});
                    await new Promise((done) => requestAnimationFrame(done));
                    out.push(performance.now() - began);
                };
                for (let i = 0; i < 10; i += 1) {
                    await to([200 + 40 * i, 500 + 40 * i], [40 + 5 * i, 5 * i]);
                }
                await to([0.5, 2000.5], [299.5, -0.5]);
                return out;
            }"""
        )
    )


def heap(page: Page) -> float:
    """MB of JavaScript objects after the rubbish was taken away."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    session.send("HeapProfiler.collectGarbage")
    metrics = session.send("Performance.getMetrics")["metrics"]
    session.detach()
    return next(float(one["value"]) for one in metrics if one["name"] == "JSHeapUsedSize") / 1e6


def updated(
    archive: ml4ad.Archive, model_id: int, page: Page, kernel: psutil.Process, n_updates: int
) -> None:
    """Lumisection after lumisection of a live run, each with its notifications."""
    put(archive, DATASET, LIVE_RUN, np.arange(1, 6))
    put_scores(archive, model_id, LIVE_RUN, np.arange(1, 6))
    page.wait_for_function("document.querySelector('.ml4ad-strip').innerText.includes('5 LS')")
    rows = [(0, heap(page), *megabytes(kernel)[:2])]
    for i in range(1, n_updates + 1):
        ls_numbers = np.arange(1, 6 + i)
        put(archive, DATASET, LIVE_RUN, ls_numbers[-1:])
        put_scores(archive, model_id, LIVE_RUN, ls_numbers)
        if i % 4 == 0:
            verdict.add(archive, LIVE_RUN, int(ls_numbers[-1]), "seen", dataset=DATASET, by="Ada")
        if i % max(1, n_updates // 4) == 0:
            page.wait_for_function(
                f"document.querySelector('.ml4ad-strip').innerText.includes('{len(ls_numbers)} LS')"
            )
            rows.append((i, heap(page), *megabytes(kernel)[:2]))
    for i, js, rss, uss in rows:
        print(
            f"after {i:4d} updates: browser heap {js:6.1f} MB, kernel {rss:6.1f} MB ({uss:.1f} own)"
        )


def many(browser: Browser, address: str, server: psutil.Process, n_pages: int) -> None:
    """So many pages at once, and what they cost."""
    before = {one.pid for one in kernels(server)}
    began, pages = time.perf_counter(), []
    for _ in range(n_pages):
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.set_default_timeout(10 * WAIT_MS)
        # Not goto, which waits for the answer: all ask at once.
        page.evaluate(f"setTimeout(() => location.assign({address!r}), 0)")
        pages.append(page)
    for what, condition in (("have their first picture", SEEN), ("answer", ALIVE)):
        times = []
        for page in pages:
            page.wait_for_function(condition)
            times.append(time.perf_counter() - began)
        print(
            f"{n_pages} pages at once: half {what} after {statistics.median(times):.1f} s, "
            f"all after {max(times):.1f} s"
        )
    costs = [megabytes(one) for one in kernels(server)]
    rss, uss, _ = (statistics.median(column) for column in zip(*costs, strict=True))
    shared = [child for child in server.children() if child.children()]
    others = sum(megabytes(one)[2] for one in [server, *shared])
    print(
        f"{len(costs)} kernels: {rss:.0f} MB each, of which {uss:.0f} MB are its own; together "
        f"they take {sum(part for *_, part in costs):.0f} MB, the server and what they are forked "
        f"from {others:.0f} MB"
    )
    began = time.perf_counter()
    for page in pages:
        page.goto("about:blank")
        page.context.close()
    limit = len(before) + 1
    while len(kernels(server)) > limit and time.perf_counter() - began < 200:
        time.sleep(0.5)
    print(
        f"{time.perf_counter() - began:.1f} s after they were closed {len(kernels(server))} "
        f"kernels run (the warm ones: {len(before)})"
    )


def main() -> None:
    """Make the archive, serve it, visit it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lumisections", type=int, default=2000, help="of the long run")
    parser.add_argument("--updates", type=int, default=160)
    parser.add_argument("--pages", type=int, default=20)
    asked = parser.parse_args()
    if asked.lumisections <= 260:
        parser.error(f"{asked.lumisections} lumisections, want more than 260: a fault lies there")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        print("no chromium on the PATH (apt-get install chromium): nothing was measured")
        return
    with postgres.temporary() as url, ml4ad.connect(url) as archive, sync_playwright() as driver:
        model_id = fill(archive, asked.lumisections)
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        with served(url, 1) as (address, server):
            n_warm = len(PAGES)
            measure(archive, model_id, browser, address, server, n_warm, asked)
        browser.close()


def measure(
    archive: ml4ad.Archive,
    model_id: int,
    browser: Browser,
    address: str,
    server: psutil.Process,
    n_warm: int,
    asked: Any,
) -> None:
    """All that is told of above."""
    shift = f"{address}voila/render/shift.ipynb"
    first: dict[str, list[float]] = {}
    work: list[tuple[float, float]] = []
    clicks: dict[str, list[float]] = {}
    for where in ("shift", "explore") * 3:
        settled(server, n_warm)
        before = worked(browsers()), worked([server, *kernels(server)])
        page, seen, alive = opened(browser, f"{address}voila/render/{where}.ipynb")
        after = worked(browsers()), worked([server, *kernels(server)])
        work.append((after[0] - before[0], after[1] - before[1]))
        first.setdefault(f"{where}: first picture", []).append(seen)
        first.setdefault(f"{where}: buttons answer", []).append(alive)
        if len(first[f"{where}: first picture"]) == 3:
            page.wait_for_timeout(1500)
            clicks |= (
                shift_clicks(page, asked.lumisections) if where == "shift" else explore_clicks(page)
            )
            if where == "shift":
                told("zoom or move the alarm map", zoomed(page))
        page.goto("about:blank")
        page.context.close()
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for what, seconds in first.items():
        told(what, [1000 * one for one in seconds])
    for who, times in zip(("browser", "server and kernels"), zip(*work, strict=True), strict=True):
        told(f"core time of {who} until then", [1000 * one for one in times])
    for name, times in clicks.items():
        told(name, times)
    told("any click", [one for times in clicks.values() for one in times])
    settled(server, n_warm)
    before = {one.pid for one in kernels(server)}
    page, *_ = opened(browser, shift)
    settled(server, n_warm + 1)
    # Of the kernels that were warm the one that is not in the pool any more has the page.
    own = max(
        (one for one in kernels(server) if one.pid in before),
        key=lambda one: one.cpu_times().user,
    )
    updated(archive, model_id, page, own, asked.updates)
    page.goto("about:blank")
    page.context.close()
    settled(server, n_warm)
    many(browser, shift, server, asked.pages)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
