"""A real PostgreSQL for all tests: one server per session, a fresh database per test."""

import functools
import os
import shutil
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import settings
from psycopg import sql

import ml4ad
from ml4ad import store
from ml4ad.ingest import take
from ml4ad.store import server

TEMPLATE = "ml4ad_test_template"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


# The same examples each time; others with `pytest --hypothesis-profile default`.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")

#: With this, a copy costs two thirds of what it costs through the log; PostgreSQL 15 and later.
COPY = "CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"


def _administer(url, text, **names):
    identifiers = {key: sql.Identifier(name) for key, name in names.items()}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL(text).format(**identifiers))


def _database(url, name):
    address = sa.make_url(url).set(database=name)
    return address.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def server_url():
    """A throwaway server, or ML4AD_TEST_DATABASE_URL, whose user may create databases."""
    given = os.environ.get("ML4AD_TEST_DATABASE_URL")
    if given:
        yield given
        return
    with server.temporary() as url:
        yield url


@pytest.fixture
def data_dir():
    """A folder for a server of the test's own: it may be stopped, killed and started again."""
    with server.temporary_folder() as folder:
        yield folder


@contextmanager
def _copy(server_url, of):
    """The URL of a copy of the database ``of``, which is gone afterwards."""
    name = f"ml4ad_test_{uuid.uuid4().hex[:8]}"
    _administer(server_url, COPY, name=name, template=of)
    yield _database(server_url, name)
    _administer(server_url, "DROP DATABASE {name} WITH (FORCE)", name=name)


@pytest.fixture(scope="session")
def template(server_url):
    name = f"{TEMPLATE}_{uuid.uuid4().hex[:8]}"
    _administer(server_url, "CREATE DATABASE {name}", name=name)
    store.engine(_database(server_url, name)).dispose()
    yield name
    _administer(server_url, "DROP DATABASE {name} WITH (FORCE)", name=name)


@pytest.fixture
def empty_database_url(server_url):
    """A database with nothing in it."""
    name = f"ml4ad_test_{uuid.uuid4().hex[:8]}"
    _administer(server_url, "CREATE DATABASE {name} TEMPLATE template0", name=name)
    yield _database(server_url, name)
    _administer(server_url, "DROP DATABASE {name} WITH (FORCE)", name=name)


@pytest.fixture
def database_url(server_url, template, monkeypatch):
    """A database with the schema and no rows; also what `ml4ad.connect()` finds in this test."""
    with _copy(server_url, template) as url:
        monkeypatch.setenv("ML4AD_DATABASE_URL", url)
        yield url


@pytest.fixture(scope="module")
def shared_archive(server_url, template):
    """An archive without rows that the tests of one file share: filled once, then read."""
    with _copy(server_url, template) as url, ml4ad.connect(url) as archive:
        yield archive


@pytest.fixture(scope="module")
def copied(server_url, template, tmp_path_factory):
    """What makes copies of a database that is filled once for a file: ``copied(fill)`` is a URL.

    ``fill`` takes the URL of a database with the schema and a folder; the first call has it filled.
    """
    filled = {}
    with ExitStack() as stack:

        def copy(fill):
            if fill not in filled:
                filled[fill] = stack.enter_context(_copy(server_url, template))
                fill(filled[fill], tmp_path_factory.mktemp("filling"))
            return stack.enter_context(_copy(server_url, sa.make_url(filled[fill]).database))

        yield copy


@pytest.fixture
def opened(copied, monkeypatch):
    """What opens such a copy for one test: ``opened(fill)`` is what commands find, too."""
    with ExitStack() as stack:

        def of_a_copy(fill):
            url = copied(fill)
            monkeypatch.setenv("ML4AD_DATABASE_URL", url)
            return stack.enter_context(ml4ad.connect(url))

        yield of_a_copy
    take.close_engines()


@pytest.fixture(scope="session")
def campaign_files(tmp_path_factory):
    """Folder of the files of `campaign_samples`."""
    import campaign_samples

    folder = tmp_path_factory.mktemp("campaign")
    campaign_samples.generate(folder)
    return folder


@pytest.fixture(scope="session")
def campaign_copy(server_url, template, campaign_files):
    """What makes copies of a database with these runs, a model at work, and its scores."""
    import campaign_samples

    with _copy(server_url, template) as filled:
        campaign_samples.fill(filled, campaign_files)
        yield functools.partial(_copy, server_url, sa.make_url(filled).database)


@pytest.fixture
def campaign_url(campaign_copy):
    """A copy of that database for one test."""
    with campaign_copy() as url:
        yield url


def _need(found, what):
    if found:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{what}: the pages must be tested in a browser here")
    pytest.skip(f"{what}: the pages were NOT tested in a browser")


@pytest.fixture(scope="module")
def browser():
    """Chromium for the tests of one file: no other may have an event loop beside it."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    _need(path, "no chromium on the PATH (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        # Chromium's sandbox does not start as root, as in a container.
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def small14():
    """A DQMIO file of all 14 types, written by ROOT."""
    return Path(__file__).parent / "data" / "small14.root"
