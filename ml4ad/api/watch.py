"""What the server tells of itself, and how much it does for one caller."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Requests that are answered or wait at a time; more are told to come again.
MOST_REQUESTS = 400
#: Requests that work at a time, each with one connection or none; an engine has 15.
WORKING = 12
#: Where the answer is a stream of events, which goes on.
LISTENING = "/api/v2/events"
#: Seconds in which a client that takes nothing of its answer is let go.
STALL_S = 60.0

# Callers that are remembered: who is forgotten starts with a full bucket again.
_CALLERS = 10_000
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Rate:
    """Requests of each caller: ``per_s`` in the long run, four seconds' worth at once."""

    def __init__(self, per_s: float) -> None:
        self._per_s, self._most = per_s, max(1.0, 4 * per_s)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, who: str, now: float | None = None) -> float:
        """0 if the caller may go on, else the seconds until that is so.

        >>> rate = Rate(1)
        >>> [rate.wait_s("a", now=7.0) for _ in range(5)]
        [0.0, 0.0, 0.0, 0.0, 1.0]
        >>> rate.wait_s("a", now=8.0), rate.wait_s("b", now=8.0)
        (0.0, 0.0)
        """
        at = time.monotonic() if now is None else now
        with self._lock:
            left, before = self._left.pop(who, (self._most, at))
            left = min(self._most, left + (at - before) * self._per_s)
            allowed = left >= 1
            self._left[who] = (left - 1 if allowed else left, at)
            if len(self._left) > _CALLERS:
                self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._per_s


class Metrics:
    """Counts of requests, for Prometheus."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self._requests = Counter(
            "ml4ad_requests", "Requests that were answered", labels, registry=self._registry
        )
        self._seconds = Histogram(
            "ml4ad_request_seconds",
            "Until the last byte was handed over",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._bytes = Counter("ml4ad_sent_bytes", "Bytes of answers", registry=self._registry)

    def note(self, method: str, route: str, status: int, seconds: float, nbytes: int) -> None:
        """Count a request; ``route`` is its pattern, so that there are few."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        self._bytes.inc(nbytes)

    def text(self) -> bytes:
        """All counts, as Prometheus reads them."""
        return generate_latest(self._registry)


class Gate:
    """Lets so many requests in at a time; more are told to come again, and who stalls is let go.

    What is let in waits its turn for a thread, first come, first served: as many requests work at
    a time as the database has connections for.
    """

    def __init__(self, app: ASGIApp, most: int = MOST_REQUESTS, stall_s: float = STALL_S) -> None:
        self.app, self.most, self.stall_s = app, most, stall_s
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it; see ASGI."""
        if scope["type"] != "http" or scope["path"] == "/health":
            await self.app(scope, receive, send)
            return
        # Who listens has a limit of its own, and waits for what others do.
        counts = scope["path"] != LISTENING
        if counts and self.inside >= self.most:
            told = {"detail": "Too many requests at a time; try again", "code": "unavailable"}
            answer = JSONResponse(told, 503, headers={"Retry-After": "1"})
            await answer(scope, receive, send)
            return
        stalled = False

        async def patient(message: Message) -> None:
            nonlocal stalled
            try:
                async with asyncio.timeout(self.stall_s):
                    await send(message)
            except TimeoutError:
                stalled = True
                raise

        self.inside += counts
        try:
            await self.app(scope, receive, patient)
        except Exception:
            # Whatever became of it on the way here; the server closes what is not complete.
            if not stalled:
                raise
        finally:
            self.inside -= counts
