"""The server: uvicorn around the application."""

from __future__ import annotations

import logging
from socket import socket

import sqlalchemy as sa
import uvicorn

from ml4ad.api.app import application

#: Connections at a time, at work or not: of requests fewer are let in, see `watch.Gate`.
MOST_CONNECTIONS = 1000
#: Seconds that answers under way get when the server is asked to stop.
GRACE_S = 10


class _Server(uvicorn.Server):
    """Tells those who listen to events that it ends, rather than wait for them."""

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self.config.app.state.events.close()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def server(engine: sa.Engine, host: str = "127.0.0.1", port: int = 8000) -> uvicorn.Server:
    """A server that is not running yet; port 0 takes a free one."""
    configuration = uvicorn.Config(
        application(engine),
        host=host,
        port=port,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_S,
        # One line per request is written by the application; these would hold keys of others.
        access_log=False,
        log_config=None,
        server_header=False,
        lifespan="on",
    )
    return _Server(configuration)


def serve(engine: sa.Engine, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Answer requests until the process is asked to stop."""
    # A request's line is JSON, and tells its time itself.
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    server(engine, host, port).run()
