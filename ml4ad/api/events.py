"""``/api/v2/events``: what happens in the archive, while it happens, as server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Annotated, Any

import orjson
import psycopg
import sqlalchemy as sa
from fastapi import APIRouter, Header, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse
from psycopg import sql
from starlette.concurrency import run_in_threadpool

from ml4ad import workspaces
from ml4ad.api.app import Seen
from ml4ad.api.watch import LISTENING
from ml4ad.store.scoring import CHANNEL, event
from ml4ad.workspaces import Workspace

router = APIRouter()

MEDIA = "text/event-stream"
#: Seconds of silence after which a sign of life is sent.
HEARTBEAT_S = 15.0
#: Seconds after which a stream ends, so that keys that were revoked do not listen for ever.
LIFE_S = 600.0
#: Who listens at a time, and events that wait for one of them before that one is let go.
MOST_LISTENERS, MOST_WAITING = 500, 1000

# Rows that are read at a time, and seconds between attempts to reach a database that is away.
_PAGE, _AGAIN_S = 1000, 1.0


class Listener:
    """Events that wait to be sent to one client; ``after`` is the last one before them."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.waiting: asyncio.Queue[Any] = asyncio.Queue(MOST_WAITING)
        self.over = False

    def tell(self, row: Any) -> None:
        """Let an event wait; a client that is too far behind is let go, and may resume."""
        try:
            self.waiting.put_nowait(row)
        except asyncio.QueueFull:
            self.over = True

    async def next(self, timeout_s: float) -> Any:
        """The next event, or None after so many seconds without."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self.waiting.get()
        return None


class Events:
    """Listens to PostgreSQL once, on one connection, for all clients of this process."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._listeners: set[Listener] = set()
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._last = 0

    @property
    def full(self) -> bool:
        """Whether nobody more may listen."""
        return len(self._listeners) >= MOST_LISTENERS

    async def join(self) -> Listener:
        """A client more, who is told of everything from now on."""
        if self._task is None:
            self._task = asyncio.create_task(self._hear())
        await self._ready.wait()
        listener = Listener(self._last)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """A client less; the last one ends the connection."""
        self._listeners.discard(listener)
        if not self._listeners:
            self._stop()

    def close(self) -> None:
        """Let all clients go."""
        for listener in self._listeners:
            listener.over = True
            with suppress(asyncio.QueueFull):
                listener.waiting.put_nowait(None)
        self._stop()

    def _stop(self) -> None:
        self._ready.clear()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def since(self, after: int, last: int | None = None) -> Sequence[Any]:
        """The next events after a number, up to another, in order."""
        return await run_in_threadpool(self._since, after, last)

    def _since(self, after: int, last: int | None) -> Sequence[Any]:
        query = sa.select(event).where(event.c.event_id > after)
        if last is not None:
            query = query.where(event.c.event_id <= last)
        with self._engine.connect() as connection:
            return connection.execute(query.order_by(event.c.event_id).limit(_PAGE)).all()

    def _newest(self) -> int:
        with self._engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.max(event.c.event_id))) or 0

    async def _hear(self) -> None:
        address = self._engine.url.set(drivername="postgresql")
        where = address.render_as_string(hide_password=False)
        while True:
            with suppress(psycopg.OperationalError, ConnectionError):
                made = await psycopg.AsyncConnection.connect(
                    where, autocommit=True, application_name="ml4ad events"
                )
                async with made:
                    await made.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
                    await self._told(made)
            # What happens while the database is away is read by its number afterwards.
            await asyncio.sleep(_AGAIN_S)

    async def _told(self, listening: psycopg.AsyncConnection[Any]) -> None:
        if not self._ready.is_set():
            self._last = await run_in_threadpool(self._newest)
            self._ready.set()
        while True:
            while new := await self.since(self._last):
                for row in new:
                    for listener in self._listeners:
                        listener.tell(row)
                self._last = new[-1].event_id
            async for _ in listening.notifies(timeout=HEARTBEAT_S, stop_after=1):
                pass


@router.get(
    LISTENING,
    tags=["v2"],
    response_class=Response,
    responses={
        200: {"description": "a stream", "content": {MEDIA: {"schema": {"type": "string"}}}}
    },
)
async def events(
    request: Request,
    seen: Seen,
    what: Annotated[
        list[str] | None, Query(max_length=10, description="file, incidents, verdict; else all")
    ] = None,
    last_event_id: Annotated[
        int | None, Header(ge=0, le=2**63 - 1, description="what comes after this one is sent")
    ] = None,
    seconds: Annotated[float, Query(gt=0, le=LIFE_S, description="end after so long")] = LIFE_S,
) -> Response:
    """New files, incidents and verdicts while they come; `id` is what to resume from.

    A stream ends after ten minutes: connect again, with `Last-Event-ID`, as clients do.
    """
    own: Events = request.app.state.events
    if own.full:
        raise HTTPException(503, "Too many listen; try again", headers={"Retry-After": "10"})
    sent = _sent(own, last_event_id, seen.workspace, set(what or ()), seconds)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(sent, media_type=MEDIA, headers=headers)


async def _sent(
    own: Events,
    resumed: int | None,
    workspace: Workspace | None,
    what: set[str],
    seconds: float,
) -> AsyncIterator[bytes]:
    """The stream: first what was missed, then what comes."""
    end = time.monotonic() + seconds
    listener = await own.join()
    try:
        yield b": listening\n\n"
        after = listener.after if resumed is None else resumed
        while missed := await own.since(after, listener.after):
            after = missed[-1].event_id
            for row in missed:
                if text := _text(row, workspace, what):
                    yield text
        while not (listener.over and listener.waiting.empty()):
            left = end - time.monotonic()
            if left <= 0:
                return
            row = await listener.next(min(left, HEARTBEAT_S))
            if row is None:
                yield b": still here\n\n"
            elif text := _text(row, workspace, what):
                yield text
    finally:
        own.leave(listener)


def _text(row: Any, workspace: Workspace | None, what: set[str]) -> bytes | None:
    """An event as it is sent, or None if it is not to be seen."""
    if what and row.what not in what:
        return None
    details = shown(row.what, row.details, workspace)
    if details is None:
        return None
    data = orjson.dumps({"at": row.at, **details}, option=orjson.OPT_UTC_Z)
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (row.event_id, row.what.encode(), data)


def shown(what: str, details: dict[str, Any], own: Workspace | None) -> dict[str, Any] | None:
    """What a workspace sees of an event, or None."""
    if own is None:
        return details
    dataset = details.get("dataset") or ""
    if dataset and not workspaces.fits(own.datasets, dataset):
        return None
    patterns = own.shown or own.elements
    if dataset:
        patterns = workspaces.elements_of(own, dataset, "shown")
    if what == "incidents":
        mes = [me for me in details["mes"] if workspaces.fits(patterns, me)]
        if details["mes"] and not mes:
            return None
        return details | {"mes": mes, "n_incidents": len(mes)}
    if what == "verdict":
        of_others = details["workspace"] not in ("", own.name)
        if of_others or (details["me"] and not workspaces.fits(patterns, details["me"])):
            return None
    return details
