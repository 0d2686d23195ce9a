"""The application: what every request passes, and where its errors go."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs

import orjson
import sqlalchemy as sa
from anyio.to_thread import current_default_thread_limiter
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import ml4ad
from ml4ad import settings
from ml4ad.api import access, oidc, pages, rows
from ml4ad.api.view import RefusedError, View, view
from ml4ad.api.watch import WORKING, Gate, Metrics, Rate, Wrong, network

#: Bytes of a request's body that are taken at most.
MOST_BODY = 1 << 20
# Seconds after which it is worth asking again for what needs a service that is away.
_AGAIN_S = 5

_LOG = logging.getLogger("ml4ad.api")
_PAGE = Path(__file__).with_name("page.html")


def application(engine: sa.Engine) -> FastAPI:
    """The REST interface to the archive of this engine, as an ASGI application."""
    from ml4ad.api import events, judged, listed, more, outside, standing, started

    app = FastAPI(
        title="ml4ad",
        version=ml4ad.__version__,
        description="Histograms of CMS data quality, their scores and verdicts.",
        # The pages that come with the library load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=_working,
    )
    app.state.engine = engine
    configured = settings.load()
    app.state.tokens = oidc.Tokens(configured)
    app.state.rate = Rate(configured.api_requests_per_s)
    app.state.wrong = Wrong(configured.api_wrong_keys_per_minute)
    app.state.metrics = Metrics()
    app.state.events = events.Events(engine)
    for module in (listed, judged, outside, more, standing, started, events):
        app.include_router(module.router, responses=rows.PROBLEMS)
    app.add_api_route("/health", _health, include_in_schema=False)
    app.add_api_route("/metrics", _metrics, include_in_schema=False)
    app.add_api_route("/", _to_page, include_in_schema=False)
    app.add_api_route("/api/", _page, include_in_schema=False)
    app.add_api_route(
        "/auth/realms/{realm}/api-access/token",
        _token,
        methods=["POST"],
        include_in_schema=False,
    )
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(Gate)
    app.add_middleware(_Door)
    return app


@asynccontextmanager
async def _working(_app: FastAPI) -> AsyncIterator[None]:
    """As many requests work at a time as there are connections, with some to spare."""
    current_default_thread_limiter().total_tokens = WORKING
    yield


# -- who -----------------------------------------------------------------------------------------


_SECRET = APIKeyHeader(name="X-CLIENT-SECRET", auto_error=False, description="an API key")
_BEARER = HTTPBearer(auto_error=False, description="an API key, or a token of the login server")


def caller(
    request: Request,
    secret: Annotated[str | None, Security(_SECRET)] = None,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)] = None,
) -> access.Caller:
    """Who asks, by an API key in either header or a token; RefusedError for anybody else."""
    key, token = secret, None
    if key is None and bearer is not None:
        key = token = bearer.credentials.strip()
    found = _known(request, key, token) if key else None
    if found is None:
        raise RefusedError("no valid key or token")
    request.state.who = found.name
    _paced(request.app.state.rate.wait_s(found.name))
    return found


def _known(request: Request, key: str, token: str | None = None) -> access.Caller | None:
    """Who a key or a token speaks for; HTTPException where too many wrong ones came from."""
    state = request.app.state
    origin = network(request.client.host if request.client else "")
    request.state.refused = "too many wrong keys"
    _paced(state.wrong.wait_s(origin, key))
    request.state.refused = ""
    found = access.caller(state.engine, key)
    if found is None and token is not None:
        found = state.tokens.caller(token)
    if found is None:
        state.wrong.wrong(origin)
    else:
        state.wrong.right(key)
    return found


def _paced(wait_s: float) -> None:
    if wait_s:
        headers = {"Retry-After": str(math.ceil(wait_s))}
        raise HTTPException(429, "Too many requests", headers=headers)


Who = Annotated[access.Caller, Depends(caller)]


def seen(
    request: Request,
    who: Who,
    workspace: Annotated[str | None, Header(description="workspace to look into")] = None,
) -> View:
    """What the caller sees."""
    return view(request.app.state.engine, who, workspace)


Seen = Annotated[View, Depends(seen)]


async def _token(request: Request) -> Response:
    """An access token for a client's secret, as Keycloak's ``api-access`` answers.

    The secret is an API key, and is the token: it can be revoked, and no other exists.
    """
    form = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=20)
    key = form.get("client_secret", [""])[-1]
    if form.get("grant_type", [""])[-1] != "client_credentials":
        return pages.json(request, {"error": "unsupported_grant_type"}, 400)
    from starlette.concurrency import run_in_threadpool

    if await run_in_threadpool(_known, request, key) is None:
        request.state.refused = "no valid secret"
        # Not 403: a token endpoint answers so, and clients expect it (RFC 6749, 5.2).
        return pages.json(request, {"error": "invalid_client"}, 401)
    return pages.json(
        request, {"access_token": key, "expires_in": 3600, "token_type": "Bearer", "scope": ""}
    )


def _health(request: Request) -> Response:
    """Whether the database answers."""
    with request.app.state.engine.connect() as connection:
        connection.execute(sa.select(1))
    return pages.json(request, {"status": "ok", "version": ml4ad.__version__})


def _metrics(request: Request, who: Who) -> Response:
    """Counts for Prometheus, which can send a key as bearer token."""
    del who
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4")


def _to_page() -> Response:
    return RedirectResponse("/api/")


def _page() -> Response:
    """A page to try requests on; it loads nothing from elsewhere."""
    headers = {
        "Content-Security-Policy": "default-src 'none'; connect-src 'self'; "
        "script-src 'unsafe-inline'; style-src 'unsafe-inline'; frame-ancestors 'none'"
    }
    return FileResponse(_PAGE, headers=headers, media_type="text/html")


# -- errors --------------------------------------------------------------------------------------


def _answer(status: int, code: str) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handler(request: Request, error: Exception) -> Response:
        told = error.args[0] if error.args else error
        return pages.json(request, {"detail": str(told), "code": code}, status)

    return handler


async def _refused(request: Request, error: Exception) -> Response:
    # The same words for every reason: who tries keys learns nothing.
    request.state.refused = str(error)
    return pages.json(request, {"detail": "Not allowed", "code": "not_allowed"}, 403)


async def _too_long(request: Request, error: Exception) -> Response:
    _LOG.warning("too long: %s", error)
    detail = "The query took too long; narrow the pattern or the runs"
    return pages.json(request, {"detail": detail, "code": "too_long"}, 400)


async def _unavailable(request: Request, error: Exception) -> Response:
    _LOG.error("unavailable: %s", error)
    detail = "A service that is needed does not answer; try again"
    answer = pages.json(request, {"detail": detail, "code": "unavailable"}, 503)
    answer.headers["Retry-After"] = str(_AGAIN_S)
    return answer


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 (for the type checker)
    # What was sent is not sent back: it may hold what JSON cannot, or a secret.
    told = [{"loc": one["loc"], "msg": one["msg"], "type": one["type"]} for one in error.errors()]
    return pages.json(request, {"detail": told}, 422)


_HANDLERS: dict[type[Exception], Any] = {
    RefusedError: _refused,
    RequestValidationError: _invalid,
    KeyError: _answer(404, "not_found"),
    ValueError: _answer(400, "invalid"),
    TimeoutError: _too_long,
    OSError: _unavailable,
    sa.exc.TimeoutError: _unavailable,
}


# -- the door ------------------------------------------------------------------------------------


class _Door:
    """Drops empty parameters, refuses large bodies and NUL, and logs one line per request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Clients send an empty list as an empty text: no filter.
        kept = [p for p in scope["query_string"].split(b"&") if p.partition(b"=")[2]]
        scope["query_string"] = b"&".join(kept)
        began, status, nbytes = time.perf_counter(), 0, 0

        async def counted(message: Message) -> None:
            nonlocal status, nbytes
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                nbytes += len(message.get("body", b""))
            await send(message)

        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MOST_BODY:
                raise HTTPException(413, "Too large")
            return message

        try:
            if b"%00" in scope["query_string"] or "\0" in scope["path"]:
                await _plain(400, "NUL in the address")(scope, receive, counted)
            elif int(dict(scope["headers"]).get(b"content-length", b"0")) > MOST_BODY:
                await _plain(413, "Too large")(scope, receive, counted)
            else:
                await self.app(scope, limited, counted)
        finally:
            state = scope.get("state", {})
            seconds = time.perf_counter() - began
            # Its pattern, not the address: there are few of them.
            route = getattr(scope.get("route"), "path", "none")
            metrics: Metrics = scope["app"].state.metrics
            metrics.note(scope["method"], route, status, seconds, nbytes)
            line = orjson.dumps(
                {
                    "at": datetime.now(UTC),
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "bytes": nbytes,
                    "ms": round(1000 * seconds, 1),
                    "who": state.get("who", ""),
                    "refused": state.get("refused", ""),
                }
            )
            _LOG.info("%s", line.decode())


def _plain(status: int, detail: str) -> Response:
    return JSONResponse({"detail": detail}, status)
