"""``ml4ad token``: keys for the REST interface."""

from __future__ import annotations

from datetime import UTC, datetime

import click


@click.group()
def token() -> None:
    """Keys for the REST interface: create, list, revoke.

    \b
    Examples:
      ml4ad token create alice
      ml4ad token create shift --scope write --workspace tracker --expires 2027-01-01
    """


@token.command()
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(["read", "write", "admin"]),
    default="read",
    show_default=True,
    help="What it allows.",
)
@click.option("--workspace", multiple=True, help="Only this one; may be given again.")
@click.option("--expires", type=click.DateTime(), help="When it ends (UTC); without it never.")
def create(name: str, scope: str, workspace: tuple[str, ...], expires: datetime | None) -> None:
    """Make a key for NAME, and print it: it is shown this once, and cannot be shown again.

    \b
    Example:
      ml4ad token create alice --workspace tracker --expires 2027-01-01
    """
    from ml4ad import api, store

    until = expires.replace(tzinfo=UTC) if expires is not None else None
    key = api.create(store.engine(), name, scope=scope, workspace_names=workspace, expires_at=until)
    click.echo(key)


@token.command(name="list")
def list_() -> None:
    """List the keys, without what is secret in them.

    \b
    Example:
      ml4ad token list
    """
    from ml4ad import api, store
    from ml4ad.cli.show import table

    table(api.keys(store.engine()))


@token.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Let the key of NAME be of no use any more.

    \b
    Example:
      ml4ad token revoke alice
    """
    from ml4ad import api, store

    api.revoke(store.engine(), name)
    click.echo(f"{name}: revoked")
