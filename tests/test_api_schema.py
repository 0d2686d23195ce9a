"""Requests made from the server's own description: answers are as it says, and none is a 5xx."""

import os

import numpy as np
import pytest
import schemathesis
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CHECKS
from scored_samples import LINE, OTHER, judged

from ml4ad import api
from ml4ad.api import application
from ml4ad.api.watch import LISTENING

#: Requests of each kind; more for a longer look.
N_EXAMPLES = int(os.environ.get("ML4AD_SCHEMA_EXAMPLES", "8"))

UNTOLD = "positive_data_acceptance"

# The description needs no database.
DESCRIBED = application(sa.create_engine("postgresql+psycopg://")).openapi()
#: Who may would start a process with each request.
STARTING = {"/api/v2/index", "/api/v2/ingest", "/api/v2/score"}
OPERATIONS = [
    (method.upper(), path)
    for path, methods in DESCRIBED["paths"].items()
    for method in methods
    # schemathesis cannot read a stream of events: `test_api_events` does.
    if path != LISTENING
]


@pytest.fixture(scope="module")
def schema(shared_archive):
    """The description of an application that runs, with scores in its shared_archive."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ML4AD_API_REQUESTS_PER_S", "1000000")
        patch.setenv("ML4AD_API_WRONG_KEYS_PER_MINUTE", "1000000")
        log_p = np.array([[-1, -1, -1, -1, np.nan], [-1, -40, -30, -1, -1]], dtype=float)
        url = shared_archive.engine.url.render_as_string(hide_password=False)
        judged(url, log_p, mes=[LINE, OTHER]).close()
        keys = {
            scope: {"X-CLIENT-SECRET": api.create(shared_archive.engine, scope, scope=scope)}
            for scope in ("read", "admin")
        }
        found = schemathesis.openapi.from_asgi(
            "/api/openapi.json", application(shared_archive.engine)
        )
        yield found, keys


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_as_they_are_described(schema, method, path):
    found, keys = schema
    key = keys["read" if path in STARTING else "admin"]

    @given(case=found[path][method].as_strategy())
    @settings(
        max_examples=N_EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def asked(case):
        # A pattern that is none, say, is refused though no description can tell it apart.
        case.call_and_validate(headers=key, excluded_checks=[CHECKS.get_one(UNTOLD)])

    asked()
