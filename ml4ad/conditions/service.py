"""One of CERN's JSON services over HTTP: token, time-out, retries, and errors that say what to do.

The only place that knows httpx.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from ml4ad.settings import Settings

#: Answers that may be better a moment later.
_PASSING = {429, 500, 502, 503, 504}
#: Answers that say who is asking is not known, or may not.
_REFUSING = {401, 403}


class UnavailableError(ConnectionError):
    """The service is not configured, or does not answer now."""


@dataclass(frozen=True)
class Access:
    """Where a service is and how one gets in; without ``client_id`` no token is asked for."""

    name: str
    url: str
    audience: str = ""
    token_url: str = ""
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    timeout_s: float = 30
    retries: int = 3
    backoff_s: float = 1


def access(settings: Settings, name: str, url: str, audience: str) -> Access:
    """Way to a service with the credentials of the settings."""
    secret = settings.oidc_client_secret
    return Access(
        name=name,
        url=url,
        audience=audience,
        token_url=settings.oidc_token_url,
        client_id=settings.oidc_client_id,
        client_secret=secret.get_secret_value() if secret else None,
        timeout_s=settings.service_timeout_s,
    )


class Service:
    """A service that answers in JSON; close it, or use it in a ``with`` statement."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._http = httpx.Client(timeout=access.timeout_s, follow_redirects=True)
        self._token: str | None = None

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def get(self, path: str, params: Mapping[str, str | int]) -> Any:
        """Decoded JSON of a GET; raises as ``post``."""
        return self._json("GET", path, params=params)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Decoded JSON that a POST of ``body`` gives.

        Raises UnavailableError if no answer comes, or only errors of the server, after the
        retries; PermissionError if the credentials are not accepted; ValueError if the question is
        refused, or the answer is no JSON.
        """
        return self._json("POST", path, json=body)

    def _json(self, method: str, path: str, **what: Any) -> Any:
        url = f"{self.access.url.rstrip('/')}/{path.lstrip('/')}"
        answer = self._send(method, url, headers=self._headers(), **what)
        if answer.status_code == httpx.codes.UNAUTHORIZED and self._token is not None:
            # Tokens live for minutes; a long fetch outlives them.
            self._token = None
            answer = self._send(method, url, headers=self._headers(), **what)
        return self._checked(answer)

    def _checked(self, answer: httpx.Response) -> Any:
        said = f"{self.access.name} ({answer.request.url.copy_with(query=None)})"
        if answer.status_code in _REFUSING:
            raise PermissionError(
                f"{said}: {answer.status_code}: want oidc_client_id and oidc_client_secret of an "
                f"application that may use {self.access.audience or 'it'}"
            )
        if answer.is_error:
            raise ValueError(f"{said}: {answer.status_code}: {answer.text!r:.300}")
        try:
            return answer.json()
        except ValueError as error:
            raise ValueError(f"{said}: want JSON, got {answer.text!r:.120}") from error

    def _headers(self) -> dict[str, str]:
        if self.access.client_id is None:
            return {}
        if self._token is None:
            asked = {
                "grant_type": "client_credentials",
                "client_id": self.access.client_id,
                "client_secret": self.access.client_secret or "",
                "audience": self.access.audience,
            }
            granted = self._checked(self._send("POST", self.access.token_url, data=asked))
            token = granted.get("access_token") if isinstance(granted, dict) else None
            if not isinstance(token, str):
                raise ValueError(f"{self.access.token_url}: want an access_token in the answer")
            self._token = token
        return {"Authorization": f"Bearer {self._token}"}

    def _send(self, method: str, url: str, **what: Any) -> httpx.Response:
        failure = ""
        for attempt in range(self.access.retries + 1):
            if attempt:
                time.sleep(self.access.backoff_s * 2 ** (attempt - 1))
            try:
                answer = self._http.request(method, url, **what)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise ValueError(f"{self.access.name}: {url!r}: {error}") from error
            except httpx.TransportError as error:
                failure = f"{type(error).__name__}: {error}"
                continue
            if answer.status_code not in _PASSING:
                return answer
            failure = f"{answer.status_code} {answer.reason_phrase}"
        raise UnavailableError(
            f"{self.access.name} does not answer at {url} ({failure}; "
            f"asked {self.access.retries + 1} times)"
        )
