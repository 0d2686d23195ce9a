"""Who may ask for a change, and then what is asked for: nobody else's body is looked at."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from ml4ad.api import access
from ml4ad.api.app import Seen, seen
from ml4ad.api.view import RefusedError, View

M = TypeVar("M", bound=BaseModel)

#: A dependency: what any caller sees.
SEEN = Depends(seen)


def may(scope: str, action: str, *, everywhere: bool = False) -> Any:
    """A dependency: what a caller sees who has the scope; who has not is noted and refused."""

    def able(seen: Seen) -> View:
        try:
            seen.need(scope, everywhere=everywhere)
        except RefusedError:
            access.note(seen.engine, seen.caller.name, action, {}, 403)
            raise
        return seen

    return Depends(able)


def content(able: Any) -> Any:
    """A dependency: the bytes of the body, once the caller is let in."""

    async def read(request: Request, _: View = able) -> bytes:
        return await request.body()

    return Depends(read)


def of(model: type[M], able: Any) -> Any:
    """A dependency: the body as a model, once the caller is let in.

    FastAPI's own way reads the body first, and tells a stranger what is wrong with it.
    """
    whole = content(able)

    def parsed(body: bytes = whole) -> M:
        try:
            return model.model_validate_json(body)
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            told = [{**one, "loc": ("body", *one["loc"])} for one in found]
            raise RequestValidationError(told) from error

    return Depends(parsed)


def described(model: type[BaseModel]) -> dict[str, Any]:
    """The body of an operation that takes a model, for the description."""
    shape = {"schema": model.model_json_schema()}
    return {"requestBody": {"required": True, "content": {"application/json": shape}}}
