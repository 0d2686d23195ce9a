"""Who a bearer token of the organisation's login server (OpenID Connect) speaks for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import httpx
import jwt

from ml4ad.api.access import Caller, Grant
from ml4ad.settings import Settings
from ml4ad.store.schema import MAX_NAME

#: Signatures that are accepted: each needs a key that the login server keeps to itself.
ALGORITHMS = {f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)}
ALGORITHMS |= {"EdDSA"}

# Seconds: how far clocks may differ, how long keys are believed and, while the login server is
# silent, kept; between two attempts to read them; and how long one attempt takes at most.
_LEEWAY_S, _FRESH_S, _KEPT_S, _PAUSE_S, _TIMEOUT_S = 30, 3600.0, 86_400.0, 30.0, 5.0
# Longer than any token: what is longer is not looked at.
_LONGEST = 16_384
_CLAIMS = ["exp", "iss", "aud", "sub"]
_LOG = logging.getLogger(__name__)


class Keys:
    """Public keys of the login server, by their name.

    They are read again when they are an hour old and when a token names one that is not known, but
    never twice within half a minute, whatever is sent.
    """

    def __init__(self, url: str) -> None:
        self._url, self._lock = url, threading.Lock()
        self._keys: dict[str, jwt.PyJWK] = {}
        self._read_at = self._tried_at = -_KEPT_S

    def get(self, name: str) -> jwt.PyJWK | None:
        """The key, or None if there is none; OSError if no key could be read at all."""
        # Whose key is known waits for nobody.
        if time.monotonic() - self._read_at < _FRESH_S and name in self._keys:
            return self._keys[name]
        with self._lock:
            now = time.monotonic()
            stale = now - self._read_at >= _FRESH_S
            if (stale or name not in self._keys) and now - self._tried_at >= _PAUSE_S:
                self._tried_at = now
                self._read(now)
            if now - self._read_at >= _KEPT_S:
                raise ConnectionError(f"no keys from {self._url}")
            return self._keys.get(name)

    def _read(self, now: float) -> None:
        try:
            answer = httpx.get(self._url, timeout=_TIMEOUT_S).raise_for_status().json()
            found = jwt.PyJWKSet.from_dict(answer)
        except (httpx.HTTPError, ValueError, AttributeError, jwt.PyJWTError) as error:
            # Those that are there serve on, until they are too old.
            _LOG.error("keys of %s: %s", self._url, error)
            return
        self._keys = {
            key.key_id: key
            for key in found
            if key.key_id
            and key.public_key_use in ("sig", None)
            and key.algorithm_name in ALGORITHMS
        }
        self._read_at = now


class Tokens:
    """Bearer tokens as the settings say: issuer, audience, keys, and what each e-group may."""

    def __init__(self, configured: Settings) -> None:
        self._issuer, self._audience = configured.api_oidc_issuer, configured.api_oidc_audience
        self._claim = configured.api_oidc_groups_claim
        self._groups = {
            name: Grant(group.scope, group.workspaces)
            for name, group in configured.api_oidc_groups.items()
        }
        url = configured.api_oidc_jwks_url
        self._keys = None if url is None else Keys(url)

    def caller(self, token: str) -> Caller | None:
        """Who the token speaks for, or None if it is not a valid one of somebody with a group.

        Signature, algorithm, issuer, audience and expiry are checked, and only keys that the
        settings' address gives are used. Raises OSError if these cannot be had.
        """
        if self._keys is None or len(token) > _LONGEST or token.count(".") != 2:
            return None
        try:
            key = self._keys.get(str(jwt.get_unverified_header(token).get("kid", "")))
            if key is None:
                return None
            claims = jwt.decode(
                token,
                key,
                # The key's own and no other: what the token says of itself proves nothing.
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                leeway=_LEEWAY_S,
                options={"require": _CLAIMS, "enforce_minimum_key_length": True},
            )
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            _LOG.debug("token refused: %s", error)
            return None
        name = claims["sub"]
        grants = tuple(
            self._groups[group] for group in _groups(claims, self._claim) if group in self._groups
        )
        if not grants or not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
            return None
        return Caller(name, grants) if name.isprintable() else None


def _groups(claims: Mapping[str, Any], name: str) -> list[str]:
    """Groups of a claim; one within others is named with dots between.

    >>> _groups({"resource_access": {"ml4ad": {"roles": ["shift"]}}}, "resource_access.ml4ad.roles")
    ['shift']
    >>> _groups({"cern_roles": "shift"}, "cern_roles")
    []
    """
    found: Any = claims.get(name)
    if found is None:
        found = claims
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []
