"""The page to try requests on, in a real browser: what it lists, asks for and answers."""

from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from scored_samples import DATASET, LINE, judged
from served import Service

WAIT_MS = 20_000


@pytest.fixture(scope="module")
def service(shared_archive):
    url = shared_archive.engine.url.render_as_string(hide_password=False)
    judged(url, np.array([[-1, -40]], dtype=float), mes=[LINE]).close()
    with Service(shared_archive) as running:
        yield running


@pytest.fixture
def page(browser, service):
    """The page once it is loaded, with the addresses it asked for and what the browser told."""
    with browser.new_context() as context:
        opened = context.new_page()
        opened.set_default_timeout(WAIT_MS)
        told = []
        opened.asked, opened.told = [], told
        opened.on("request", lambda request: opened.asked.append(request.url))
        opened.on("pageerror", lambda error: told.append(("error", str(error))))
        opened.on("console", lambda line: told.append((line.type, line.text)))
        opened.goto(service.url)
        opened.wait_for_selector("details")
        yield opened


def test_it_lists_every_operation_and_loads_nothing_from_elsewhere(page, service):
    described = requests.get(service.url + "api/openapi.json", timeout=30).json()
    wanted = {
        f"{method.upper()} {path}"
        for path, methods in described["paths"].items()
        for method in methods
    }
    assert {"GET /api/v2/events", "POST /api/v2/conditions"} <= wanted
    assert set(page.locator("summary").all_inner_texts()) == wanted
    here = urlsplit(service.url).netloc
    assert {urlsplit(url).netloc for url in page.asked} == {here}
    assert len(page.asked) >= 2
    assert [text for kind, text in page.told if kind in ("error", "warning")] == []


def opened(page, operation):
    """The entry of an operation, unfolded."""
    entry = page.locator("details").filter(has=page.get_by_text(operation, exact=True))
    entry.locator("summary").click()
    return entry


def shown(entry, text):
    """Wait until the answer below an operation holds a text."""
    entry.locator("pre").filter(has_text=text).wait_for()


def test_a_request_is_sent_with_the_key_and_its_answer_shown(page, service):
    entry = opened(page, "GET /api/v2/states")
    entry.get_by_label("dataset", exact=False).fill(DATASET)
    entry.get_by_label("run_number", exact=False).fill("7")
    entry.get_by_role("button", name="Send").click()
    shown(entry, "Not allowed")
    page.get_by_label("Key").fill(service.key)
    entry.get_by_role("button", name="Send").click()
    shown(entry, '"ls_number":2')
    assert "\n200\n" in entry.locator("pre").inner_text()
    assert service.key not in page.inner_text("body")


def test_events_are_shown_while_they_come(page, service):
    page.get_by_label("Key").fill(service.key)
    entry = opened(page, "GET /api/v2/events")
    entry.get_by_label("seconds").fill("30")
    entry.get_by_role("button", name="Send").click()
    shown(entry, ": listening")
    said = {"run_number": 7, "lumisections": [[2, 2]], "verdict": "known", "why": "a test pulse"}
    headers = {"X-CLIENT-SECRET": service.key}
    requests.post(service.url + "api/v2/verdicts", json=said, headers=headers, timeout=30)
    shown(entry, "event: verdict")
