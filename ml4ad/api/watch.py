"""What the server tells of itself, and how much it does for one caller."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
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
    """Requests of each caller: ``per_s`` in the long run, ``most`` or 4 seconds' worth at once."""

    def __init__(self, per_s: float, most: float | None = None) -> None:
        self._per_s, self._most = per_s, max(1.0, 4 * per_s if most is None else most)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, who: str, now: float | None = None, *, taken: int = 1) -> float:
        """0 if the caller may go on, else the seconds until that is so; ``taken`` 0 only looks.

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
            self._left[who] = (left - taken if allowed else left, at)
            if len(self._left) > _CALLERS:
                self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._per_s


class Wrong:
    """Wrong keys and tokens of each network: ``per_minute`` are looked at, and no more.

    Whoever was let in before is not kept waiting by others behind the same address.
    """

    def __init__(self, per_minute: float) -> None:
        self._rate = Rate(per_minute / 60, per_minute)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, network: str, key: str, now: float | None = None) -> float:
        """0 if a key is to be looked at, else the seconds until that is so.

        >>> wrong = Wrong(2)
        >>> wrong.right("mine")
        >>> wrong.wrong("10.0.0.1", now=7.0), wrong.wrong("10.0.0.1", now=7.0)
        (None, None)
        >>> [wrong.wait_s("10.0.0.1", key, now=7.0) for key in ("guess", "mine")]
        [30.0, 0.0]
        >>> wrong.wait_s("10.0.0.2", "guess", now=7.0), wrong.wait_s("10.0.0.1", "guess", now=37.0)
        (0.0, 0.0)
        """
        with self._lock:
            if _digest(key) in self._right:
                return 0.0
        return self._rate.wait_s(network, now, taken=0)

    def wrong(self, network: str, now: float | None = None) -> None:
        """A key that was looked at let nobody in."""
        self._rate.wait_s(network, now)

    def right(self, key: str) -> None:
        """A key let somebody in."""
        with self._lock:
            self._right[_digest(key)] = None
            self._right.move_to_end(_digest(key))
            if len(self._right) > _CALLERS:
                self._right.popitem(last=False)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def network(address: str) -> str:
    """What one host is given: its address, or of IPv6 the first half.

    >>> network("192.0.2.7"), network("2001:db8:1:2:3:4:5:6"), network("::ffff:192.0.2.7")
    ('192.0.2.7', '2001:db8:1:2::', '192.0.2.7')
    """
    try:
        own = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(own, ipaddress.IPv4Address):
        return str(own)
    if own.ipv4_mapped is not None:
        return str(own.ipv4_mapped)
    return str(ipaddress.IPv6Network((own, 64), strict=False).network_address)


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
