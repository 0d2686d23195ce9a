"""``ml4ad db``: the database, embedded or not."""

from __future__ import annotations

import click


@click.group()
def db() -> None:
    """The database: start, stop, status, url, upgrade.

    Without ML4AD_DATABASE_URL (or database_url in the settings) ml4ad runs a PostgreSQL of its own
    in your data folder. It starts when it is needed, and stops when nobody has used it for a while.

    \b
    Examples:
      ml4ad db status
      psql "$(ml4ad db url)"
    """


@db.command()
def start() -> None:
    """Start the embedded server now, and print its URL."""
    click.echo(_embedded_url())


@db.command()
def stop() -> None:
    """Stop the embedded server; work that is under way in it is rolled back."""
    from ml4ad import settings
    from ml4ad.store import server

    stopped = server.stop(settings.load().data_dir)
    click.echo("stopped" if stopped else "it was not running")


@db.command()
def status() -> None:
    """Show which database is used, and whether it can be."""
    import pandas as pd

    from ml4ad import settings
    from ml4ad.cli.show import table
    from ml4ad.store import server
    from ml4ad.store.connection import facts

    configured = settings.load()
    if configured.database_url is not None:
        described = facts(configured.database_url)
    else:
        embedded = server.status(configured.data_dir)
        described = {"folder": str(embedded.folder), "version": embedded.version or "none yet"}
        described["running"] = f"pid {embedded.pid}" if embedded.pid else "no"
        if embedded.url is not None:
            described |= facts(embedded.url)
    table(pd.DataFrame(list(described.items()), columns=["what", "value"]))


@db.command()
def url() -> None:
    """Print the database's URL, password and all; starts the embedded server."""
    from ml4ad import settings

    click.echo(settings.load().database_url or _embedded_url())


@db.command()
def upgrade() -> None:
    """Bring the schema to this version of ml4ad. Make a backup first (`pg_dump`)."""
    from ml4ad import store
    from ml4ad.store import migrations

    store.engine(upgrade=True).dispose()
    click.echo(f"schema {migrations.revisions()[-1]}")


def _embedded_url() -> str:
    from ml4ad import settings
    from ml4ad.store.connection import embedded_url

    configured = settings.load()
    if configured.database_url is not None:
        raise click.UsageError(
            "a database is configured (ML4AD_DATABASE_URL or database_url): start it yourself"
        )
    return embedded_url(configured)
