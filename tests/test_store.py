"""Which database, whose schema, and what is said when it does not fit."""

import concurrent.futures
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from ml4ad import store
from ml4ad.store import dimensions, idle, migrations, schema, server
from ml4ad.store.connection import open_unchecked

# -- schema --------------------------------------------------------------------------------------


def test_an_empty_database_gets_the_tables_that_the_code_describes(empty_database_url):
    engine = store.engine(empty_database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": migrations.VERSION_TABLE}
        )
        assert compare_metadata(context, schema.metadata) == []
        checks = connection.execute(
            sa.text("SELECT conname FROM pg_constraint WHERE contype = 'c' ORDER BY 1")
        )
        described = {c.name for t in schema.metadata.sorted_tables for c in t.constraints}
        assert {name for (name,) in checks} - {None} <= described | {
            "cardinal_number_domain_check",
            "yes_or_no_check",
        }
        storage = sa.text("SELECT attstorage FROM pg_attribute WHERE attname = 'packed'")
        assert {str(kind) for kind in connection.scalars(storage)} == {"e"}
    engine.dispose()


def test_the_list_of_revisions_is_alembics():
    config = Config()
    config.set_main_option("script_location", str(migrations.__path__[0]))
    script = ScriptDirectory.from_config(config)
    assert sorted(r.revision for r in script.walk_revisions()) == migrations.revisions()
    assert script.get_current_head() == migrations.revisions()[-1]


def test_an_older_schema_is_refused_until_it_is_upgraded(empty_database_url):
    engine = open_unchecked(empty_database_url)
    with engine.begin() as connection:
        migrations.upgrade(connection, migrations.revisions()[0])
    with pytest.raises(store.SchemaError, match=r"older .* `ml4ad db upgrade`"):
        store.engine(empty_database_url)
    store.engine(empty_database_url, upgrade=True).dispose()
    store.engine(empty_database_url).dispose()
    engine.dispose()


def test_a_newer_schema_is_refused(database_url):
    with psycopg.connect(database_url) as connection:
        connection.execute(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'")  # noqa: S608
    with pytest.raises(store.SchemaError, match=r"9999, newer .* update ml4ad"):
        store.engine(database_url)


def test_a_database_of_something_else_is_left_alone(empty_database_url):
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("CREATE TABLE file (name text)")
    with pytest.raises(store.SchemaError, match=r"something else \(file\)"):
        store.engine(empty_database_url)


def test_many_first_users_make_the_schema_once(empty_database_url):
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        engines = list(threads.map(lambda _: store.engine(empty_database_url), range(4)))
    for engine in engines:
        engine.dispose()


def test_many_workers_make_one_partition(database_url):
    engine = store.engine(database_url)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        numbers = list(threads.map(lambda _: dimensions.dataset_id(engine, "/A/B/C"), range(8)))
    assert len(set(numbers)) == 1
    with engine.connect() as connection:
        name = dimensions.partition(numbers[0])
        assert sa.inspect(connection).has_table(name)
    engine.dispose()


def test_names_keep_their_numbers(database_url):
    engine = store.engine(database_url)
    first = dimensions.me_ids(engine, {"A/b": "TH1F", "A/c": "TH2F"})
    again = dimensions.me_ids(engine, {"A/c": "TProfile2D", "A/d": "Int"})
    assert again["A/c"] == first["A/c"]
    with engine.connect() as connection:
        kinds = dict(map(tuple, connection.execute(sa.select(schema.me.c.me, schema.me.c.kind))))
    assert kinds == {"A/b": "TH1F", "A/c": "TProfile2D", "A/d": "Int"}
    engine.dispose()


@pytest.mark.parametrize("me", ["", "x" * 256, "nul\0", "half \ud800"])
def test_names_that_cannot_be_kept_are_refused(database_url, me):
    engine = store.engine(database_url)
    with pytest.raises(ValueError, match="want 1 to 255 characters"):
        dimensions.me_ids(engine, {me: "TH1F"})
    engine.dispose()


# -- what is wrong with a connection --------------------------------------------------------------


def changed(url, **parts):
    return sa.make_url(url).set(**parts).render_as_string(hide_password=False)


def test_an_absent_database_is_named(database_url):
    with pytest.raises(store.DatabaseError, match=r'"nowhere" does not exist .*createdb'):
        store.engine(changed(database_url, database="nowhere"))


def test_an_unknown_user_is_named(database_url):
    with pytest.raises(store.DatabaseError, match=r"nobody_here.* check .*user"):
        store.engine(changed(database_url, username="nobody_here"))


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:p@127.0.0.1:1/x", "postgresql://u@/x?host=/nonexistent/folder"],
)
def test_a_server_that_is_down_is_named(url):
    with pytest.raises(store.DatabaseError, match="is the server running"):
        store.engine(url)


@pytest.mark.parametrize(
    "url", ["mysql://u@h/x", "sqlite://", "nonsense", "postgresql+psycopg2://"]
)
def test_another_kind_of_database_is_refused(url):
    with pytest.raises(ValueError, match="want postgresql://"):
        store.engine(url)


def test_no_message_tells_the_password():
    with pytest.raises(store.DatabaseError) as raised:
        store.engine("postgresql://u:sesame@127.0.0.1:1/x")
    assert "sesame" not in str(raised.value)


def test_another_version_of_the_server_is_refused(database_url, monkeypatch):
    monkeypatch.setattr("ml4ad.store.connection.OLDEST_SERVER", 99)
    with pytest.raises(store.DatabaseError, match=r"is PostgreSQL \d+, want 99 to"):
        store.engine(database_url)


# -- the embedded server --------------------------------------------------------------------------

USE = """
    import sys, pathlib, psycopg
    from ml4ad.store import server
    url = server.start(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
    with psycopg.connect(url) as connection:
        print(connection.execute("SELECT pg_postmaster_start_time()::text").fetchone()[0])
"""


@pytest.fixture
def data_dir(data_dir):
    server.start(data_dir, durable=False)
    return data_dir


def in_another_process(data_dir, idle_s=0, pass_fds=()):
    command = [sys.executable, "-c", textwrap.dedent(USE), str(data_dir), str(idle_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=pass_fds)


def answer(process):
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output.strip()


def test_two_processes_that_start_at_once_share_one_server(data_dir):
    assert server.stop(data_dir)
    processes = [in_another_process(data_dir) for _ in range(3)]
    assert len({answer(process) for process in processes}) == 1


def test_a_killed_server_comes_back_with_its_data(data_dir):
    with psycopg.connect(server.start(data_dir)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(server.status(data_dir).pid, signal.SIGKILL)
    with psycopg.connect(server.start(data_dir)) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_a_stale_pid_of_another_process_does_not_matter(data_dir):
    assert server.stop(data_dir)
    stale = server.home(data_dir) / "data" / "postmaster.pid"
    stale.write_text(f"{os.getpid()}\n{data_dir}\n1\n5432\n{data_dir}\n\n1 1\nready\n")
    assert server.status(data_dir).pid is None
    server.start(data_dir)
    assert server.status(data_dir).url


def test_a_stopped_server_is_told(data_dir):
    assert server.stop(data_dir)
    assert not server.stop(data_dir)
    assert server.status(data_dir).url is None


def test_an_interrupted_first_start_is_begun_again(data_dir):
    server.stop(data_dir)
    folder = server.home(data_dir)
    (folder / "data").rename(folder / "data.new")
    with psycopg.connect(server.start(data_dir)) as connection:
        assert connection.info.dbname == server.DATABASE
    assert not (folder / "data.new").exists()


def test_an_unused_server_stops_by_itself(data_dir):
    assert server.stop(data_dir)
    os.close(server._held.pop(server.home(data_dir)))
    answer(in_another_process(data_dir, idle_s=1))
    deadline = time.monotonic() + 60
    while server.status(data_dir).pid is not None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    server._hold(server.home(data_dir))


def test_a_lock_that_the_caller_was_given_is_not_kept_for_the_server(data_dir, tmp_path):
    # As by "flock FILE ml4ad ingest" in a crontab: the next one would find it locked.
    assert server.stop(data_dir)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer(in_another_process(data_dir, idle_s=600, pass_fds=[lock.fileno()]))
    assert server.status(data_dir).pid is not None
    deadline = time.monotonic() + 30
    with (tmp_path / "lock").open("w") as again:
        while True:
            try:
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, "still locked"
                time.sleep(0.1)


def test_a_server_in_use_is_not_unused(data_dir):
    assert not idle.unused(server.home(data_dir))


def test_a_long_path_gets_a_short_socket(data_dir):
    deep = data_dir / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    for folder in (deep, deep.parent):
        folder.chmod(0o711)
    url = server.start(deep)
    try:
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        sockets = server._socket_folder(server.home(deep))
        assert sockets.is_dir()
    finally:
        server.stop(deep)
        os.close(server._held.pop(server.home(deep)))
    assert not sockets.exists()
