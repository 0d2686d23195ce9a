"""The page that certifies, without a browser."""

import html
import json
from datetime import UTC, datetime

import numpy as np
import pytest
import scored_samples as samples
from test_dashboards import array

import ml4ad
from ml4ad import dashboards, verdict
from ml4ad.conditions import ranges


@pytest.fixture
def judged(database_url):
    log_p = np.full((2, 10), -0.5)
    log_p[1, 3:6] = -30.0
    log_p[0, 9] = np.nan
    archive = samples.judged(database_url, log_p, mes=["A/quiet", "B/loud"])
    yield archive
    archive.close()


def test_what_alarms_is_bad_and_what_has_no_score_is_not_good(judged):
    page = dashboards.Certify(judged)
    assert json.loads(page.content("good")) == {"7": [[1, 3], [7, 9]]}
    assert json.loads(page.content("bad")) == {"7": [[4, 6]]}
    assert "low statistics" in page.summary.value


def test_the_page_says_what_the_package_says(judged):
    verdict.add(judged, 7, (4, 6), "known", why="explained", by="Ada")
    page = dashboards.Certify(judged)
    expected = verdict.certification(judged, samples.DATASET, 7)
    assert page.content("report").decode() == expected.to_json()
    page.part.value = 0.5
    assert json.loads(page.content("good")) == {"7": [[1, 10]]}


def test_an_address_certifies_the_same(judged):
    page = dashboards.Certify(judged)
    page.part.value = 0.5
    other = dashboards.Certify(judged)
    other.frame._heard("hello", page.frame.view)
    assert other.view() == page.view()
    assert other.content("good") == page.content("good")


def test_an_address_of_a_run_that_is_not_here_is_answered_in_a_sentence(judged):
    page = dashboards.Certify(judged)
    page.frame._heard("hello", "run=99")
    assert "run 99 is not here" in page.banner.value


def test_an_empty_archive_says_what_to_do(database_url):
    with ml4ad.connect(database_url) as archive:
        page = dashboards.Certify(archive)
        assert "ml4ad ingest" in page.body.children[0].value


def test_the_state_of_each_lumisection_is_drawn(judged):
    page = dashboards.Certify(judged)
    drawn = array(page.map.figure["data"][0]["z"])
    names = page.map.figure["data"][0]["colorbar"]["ticktext"]
    expected = verdict.certification(judged, samples.DATASET, 7).states["state"].tolist()
    assert [names[int(code)] for code in drawn[0]] == expected


def handed_in(name, content):
    told = {"type": "application/json", "last_modified": datetime(2024, 6, 1, tzinfo=UTC)}
    return {"name": name, "size": len(content), "content": content} | told


def test_a_file_that_is_handed_in_is_compared_to_and_can_be_demanded(judged):
    page = dashboards.Certify(judged)
    page.given.value = [handed_in("own.json", b'{"7": [[2, 5]]}')]
    assert page.compare.value == "file:own.json"
    differs = page.certificate.difference({7: [(2, 5)]})
    assert ranges.dumps(differs["only_there"]) == '{"7": [[4, 5]]}'
    assert html.escape('{"7": [[4, 5]]}') in page.summary.value
    page.golden.value = "file:own.json"
    assert json.loads(page.content("good")) == {"7": [[2, 3]]}
    page.given.value = [handed_in("broken.json", b"{7: no")]
    assert "broken.json" in page.banner.value
