"""Engines: which database, whether it can be used, and what its errors mean to a person."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa

from ml4ad.store import migrations, schema, server

if TYPE_CHECKING:
    from ml4ad.settings import Settings

OLDEST_SERVER, NEWEST_SERVER = 15, 18

# Held while the schema is looked at and made, so that two first users do not both make it.
_SCHEMA_LOCK = 0x6D6C3461


# A machine or network that is gone says no goodbye: without these a worker would wait for the
# server, and the server keep the worker's locks, for hours. On a Unix socket they mean nothing.
_FOUND_DEAD = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
_FOUND_DEAD_BY_SERVER = (
    "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3 "
    "-c tcp_user_timeout=60000"
)


class DatabaseError(ConnectionError):
    """The database cannot be reached or refuses; the message says which and what to do."""


class SchemaError(RuntimeError):
    """The database's tables and this code do not fit together."""


def engine(url: str | None = None, *, upgrade: bool = False) -> sa.Engine:
    """Engine on a database that has this code's schema.

    Without ``url`` the one of the settings, else the embedded server's, which is started. An empty
    database gets the schema. An older schema is brought up to date in the embedded server, or when
    ``upgrade`` is set. Raises DatabaseError, SchemaError or ValueError, saying what to do.
    """
    from ml4ad import settings

    configured = settings.load()
    embedded = url is None and configured.database_url is None
    address = url or configured.database_url or embedded_url(configured)
    made = open_unchecked(address)
    try:
        _prepare(made, upgrade=upgrade or embedded)
    except BaseException:
        made.dispose()
        raise
    return made


def embedded_url(configured: Settings) -> str:
    """URL of the user's embedded server, which is started if it does not run."""
    return server.start(configured.data_dir, configured.embedded_idle_s)


def open_unchecked(url: str) -> sa.Engine:
    """Engine on ``url``, whatever the database holds; nothing is connected yet."""
    try:
        address = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise ValueError(
            f"database URL {url!r}, want postgresql://user:password@host:port/name"
        ) from error
    if address.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ValueError(
            f"database URL of {address.drivername!r}, want postgresql://user:password@host/name"
        )
    address = address.set(drivername="postgresql+psycopg")
    sockets = address.query.get("host")
    if isinstance(sockets, str) and sockets.startswith("/"):
        server.hold(sockets)
    named = {"connect_timeout": 10, "application_name": "ml4ad"} | _FOUND_DEAD
    if "options" not in address.query:
        named["options"] = _FOUND_DEAD_BY_SERVER
    made = sa.create_engine(address, pool_pre_ping=True, connect_args=named)
    sa.event.listen(made, "handle_error", _translated, retval=True)
    return made


def schema_version(connection: sa.Connection) -> str | None:
    """Version of the schema in the database, or None where there is none."""
    if connection.scalar(sa.select(sa.func.to_regclass(migrations.VERSION_TABLE))) is None:
        return None
    table = sa.table(migrations.VERSION_TABLE, sa.column("version_num"))
    return connection.scalar(sa.select(table.c.version_num))


def facts(url: str) -> dict[str, str]:
    """What a person wants to know of a database: address, server, schema, bytes."""
    made = open_unchecked(url)
    try:
        with made.connect() as connection:
            size = connection.scalar(
                sa.select(sa.func.pg_database_size(sa.func.current_database()))
            )
            info = raw(connection).info
            return {
                "url": made.url.render_as_string(hide_password=True),
                "server": f"PostgreSQL {info.parameter_status('server_version')}",
                "schema": schema_version(connection) or "none yet",
                "wanted schema": migrations.revisions()[-1],
                "bytes": f"{size:,}",
            }
    finally:
        made.dispose()


def _prepare(made: sa.Engine, *, upgrade: bool) -> None:
    known = migrations.revisions()
    name = made.url.render_as_string(hide_password=True)
    with made.connect() as connection:
        major = raw(connection).info.server_version // 10000
        if not OLDEST_SERVER <= major <= NEWEST_SERVER:
            raise DatabaseError(
                f"{name} is PostgreSQL {major}, want {OLDEST_SERVER} to {NEWEST_SERVER}"
            )
        if schema_version(connection) == known[-1]:
            return
    with made.begin() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
        found = schema_version(connection)
        if found == known[-1]:
            return
        if found is None:
            _refuse_foreign_tables(connection, name)
        elif found not in known:
            raise SchemaError(
                f"{name} has schema {found}, newer than this ml4ad's {known[-1]}: update ml4ad"
            )
        elif not upgrade:
            raise SchemaError(
                f"{name} has schema {found}, older than this ml4ad's {known[-1]}: "
                "run `ml4ad db upgrade`"
            )
        migrations.upgrade(connection)


def _refuse_foreign_tables(connection: sa.Connection, name: str) -> None:
    ours = {table.name for table in schema.metadata.sorted_tables}
    taken = sorted(ours & set(sa.inspect(connection).get_table_names()))
    if taken:
        raise SchemaError(
            f"{name} holds tables of something else ({', '.join(taken)}): give an empty database"
        )


# -- errors --------------------------------------------------------------------------------------

_CONNECTING = (
    (r"password authentication failed|no password supplied", "check user and password in the URL"),
    (r'database ".*" does not exist', "create it (`createdb`), or check the name in the URL"),
    (r'role ".*" does not exist', "check the user in the URL"),
    (r"pg_hba.conf", "the server does not let this user in from here"),
    (r"resolve|translate host name|Name or service not known", "check the host in the URL"),
    (r"too many clients|remaining connection slots", "close other clients, or raise its limit"),
    (r"starting up|shutting down", "try again in a moment"),
    (r"refused|No such file|timeout|unreachable", "is the server running? (`ml4ad db status`)"),
)


def explained(error: psycopg.Error, where: str) -> Exception | None:
    """What a database's error means to the user, or None where its own words are best."""
    text = " ".join(str(error).split())
    if isinstance(error, psycopg.errors.QueryCanceled):
        return TimeoutError(f"{where}: the query took too long; narrow the pattern or the runs")
    if isinstance(error, psycopg.errors.DiskFull):
        return OSError(errno.ENOSPC, f"no space left for the database: {text}")
    if isinstance(error, psycopg.errors.InvalidRegularExpression):
        return ValueError(f"pattern: {text}")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return DatabaseError(f"{where}: {text}: this user needs the right to create and write")
    if isinstance(error, psycopg.OperationalError):
        advice = [tip for pattern, tip in _CONNECTING if re.search(pattern, text)]
        tip = advice[0] if advice else "the connection was lost; try again"
        return DatabaseError(f"database {where}: {text} -> {tip}")
    return None


def _translated(context: sa.engine.ExceptionContext) -> BaseException | None:
    original = context.original_exception
    if not isinstance(original, psycopg.Error):
        return None
    url = context.engine.url if context.engine else None
    return explained(original, url.render_as_string(hide_password=True) if url else "database")


@contextmanager
def translated(engine: sa.Engine) -> Iterator[None]:
    """Errors of the driver, used without SQLAlchemy, as SQLAlchemy's would be told."""
    try:
        yield
    except psycopg.Error as error:
        told = explained(error, engine.url.render_as_string(hide_password=True))
        if told is None:
            raise
        raise told from error


def raw(connection: sa.Connection) -> psycopg.Connection[Any]:
    """The driver's own connection, for COPY and binary cursors, in the same transaction."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)  # noqa: S101 (for the type checker)
    return driver
