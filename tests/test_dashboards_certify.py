"""The page that certifies, without a browser."""

import json

import numpy as np
import pytest
import scored_samples as samples

import ml4ad
from ml4ad import dashboards, verdict


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
