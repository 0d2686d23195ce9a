"""The commands that make, list and revoke keys."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from served import Service

import ml4ad
from ml4ad import api
from ml4ad.cli.tokens import token


@pytest.fixture
def service(database_url):
    with ml4ad.connect(database_url) as archive, Service(archive) as running:
        yield running


def ran(*arguments):
    result = CliRunner().invoke(token, arguments)
    return result.exit_code, result.output


def test_a_key_is_shown_once_listed_without_it_and_revoked(service):
    later = (datetime.now(UTC) + timedelta(days=2)).strftime("%Y-%m-%d")
    code, output = ran("create", "alice", "--scope", "write", "--expires", later)
    key = output.strip()
    assert (code, bool(re.fullmatch(r"ml4ad_[\w-]{43}", key))) == (0, True)
    assert service.get("api/v1/run/", key).status_code == 200
    code, output = ran("list")
    (line,) = [line for line in output.splitlines() if "alice" in line]
    assert code == 0
    assert {"write", "valid"} <= set(line.split())
    assert key not in output
    assert ran("revoke", "alice") == (0, "alice: revoked\n")
    assert service.get("api/v1/run/", key).status_code == 403
    assert "revoked" in ran("list")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "x", "--scope", "root"], "'read', 'write', 'admin'"),
        (["create", "x", "--expires", "2001-01-01"], "has passed"),
        (["create", "x", "--workspace", "none"], "no workspace 'none'"),
        (["create", "test"], "is there already"),
        (["revoke", "nobody"], "no key 'nobody'"),
    ],
)
def test_a_key_that_cannot_be_is_told(database_url, arguments, words):
    with ml4ad.connect(database_url) as archive:
        api.create(archive.engine, "test")
    result = CliRunner().invoke(token, arguments)
    assert result.exit_code != 0
    assert words in result.output + str(result.exception)
