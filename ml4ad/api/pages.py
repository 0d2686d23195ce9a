"""Pages of a list: tokens that need no memory of the server, and answers as JSON."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import orjson
import sqlalchemy as sa
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

DEFAULT_SIZE, LARGEST_SIZE = 10, 500
_LARGEST_KEY = 2**63 - 1
_JSON = "application/json"
# Smaller answers are not worth compressing; larger pieces are compressed as they come.
_WORTH = 1400
# Bytes that are handed to the network at a time.
_AT_ONCE = 2**20


class InvalidCursorError(KeyError):
    """A page's token that no page gave."""


def size(text: str | None) -> int:
    """Rows of a page: what was asked for, up to 500, or 10 where that is no positive number.

    >>> size("7"), size("9999"), size("-1"), size("x"), size(None)
    (7, 500, 10, 10, 10)
    """
    asked = int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0
    return min(asked, LARGEST_SIZE) or DEFAULT_SIZE


def token(key: Sequence[int]) -> str:
    """Text that stands for the place after a row.

    >>> cursor(token((3, 7)), 2)
    (3, 7)
    """
    return base64.urlsafe_b64encode(orjson.dumps(list(key))).decode().rstrip("=")


def cursor(text: str | None, length: int) -> tuple[int, ...] | None:
    """Key of the row that a token stands for; raises InvalidCursorError for any other text."""
    if not text:
        return None
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        key = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (UnicodeEncodeError, binascii.Error, orjson.JSONDecodeError) as error:
        raise InvalidCursorError("Invalid cursor") from error
    whole = isinstance(key, list) and len(key) == length
    if not whole or not all(type(n) is int and abs(n) <= _LARGEST_KEY for n in key):
        raise InvalidCursorError("Invalid cursor")
    return tuple(key)


def after(
    query: sa.Select[Any],
    columns: Sequence[sa.ColumnElement[int]],
    start: Sequence[int] | None,
    n_rows: int,
) -> sa.Select[Any]:
    """The query for a page: the rows after a key, one more than the page holds."""
    if start is not None:
        bound = [sa.literal(number, sa.BigInteger) for number in start]
        query = query.where(sa.tuple_(*columns) > sa.tuple_(*bound))
    return query.order_by(*columns).limit(n_rows + 1)


def next_url(request: Request, key: Sequence[int] | None) -> str | None:
    """Absolute address of the page after a key."""
    if key is None:
        return None
    return str(request.url.include_query_params(next_token=token(key)))


def page(
    request: Request, rows: Sequence[dict[str, Any]], key: Sequence[str], n_rows: int
) -> Response:
    """A page of the rows, of which one more than it holds may have been read."""
    shown = rows[:n_rows]
    more = [shown[-1][name] for name in key] if len(rows) > n_rows else None
    answer = {"next": next_url(request, more), "previous": None, "results": shown}
    return json(request, answer)


def json(request: Request, content: Any, status: int = 200) -> Response:
    """An answer in JSON, compressed where that is understood and worth it."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z)
    headers = {"Vary": "Accept-Encoding"}
    if len(body) >= _WORTH and _takes_gzip(request):
        headers["Content-Encoding"] = "gzip"
        body = b"".join(_squeezed([body]))
    return Response(body, status, headers=headers, media_type=_JSON)


def stream(request: Request, parts: Iterable[bytes], media_type: str = _JSON) -> Response:
    """An answer that is sent while it is made.

    The first part is made before anything is sent, so that what goes wrong there is still told by
    the status.
    """
    made = iter(parts)
    first = next(made, b"")

    def whole() -> Iterator[bytes]:
        yield first
        yield from made

    headers = {"Vary": "Accept-Encoding"}
    sent = whole()
    if _takes_gzip(request):
        headers["Content-Encoding"] = "gzip"
        sent = _squeezed(sent)
    return StreamingResponse(sent, headers=headers, media_type=media_type)


def sent(parts: Iterable[bytes], media_type: str) -> Response:
    """An answer that is sent while it is made, as it is; what goes wrong first is told."""
    made = (part for part in parts if part)
    first = next(made, b"")

    def whole() -> Iterator[Any]:
        for part in chain([first], made):
            # What was handed over is waited for before more is: a slow client has little of it.
            for start in range(0, len(part), _AT_ONCE):
                yield memoryview(part)[start : start + _AT_ONCE]

    return StreamingResponse(whole(), media_type=media_type)


def _takes_gzip(request: Request) -> bool:
    listed = request.headers.get("accept-encoding", "").lower().split(",")
    return any(
        one.split(";")[0].strip() == "gzip" and "q=0" not in one.replace(" ", "").split(";")
        for one in listed
    )


def _squeezed(parts: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    for part in parts:
        if done := packer.compress(part):
            yield done
    yield packer.flush()


def dumps(content: Any) -> bytes:
    """The content as JSON."""
    return orjson.dumps(content)
