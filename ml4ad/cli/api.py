"""``ml4ad api``: the archive for `cmsdials` and other programs."""

from __future__ import annotations

import click


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port."
)
def api(host: str, port: int) -> None:
    """Serve the archive over HTTP, as DIALS does, until interrupted.

    Every request needs a key: see `ml4ad token`.

    \b
    Example:
      ml4ad api --host 0.0.0.0 --port 8000
    """
    from ml4ad import api as served
    from ml4ad import store

    served.serve(store.engine(), host, port)
