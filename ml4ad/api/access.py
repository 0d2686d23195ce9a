"""Who may come in: keys, of which only a digest is kept, and what each allows."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import sqlalchemy as sa
from fastapi import HTTPException
from sqlalchemy.dialects.postgresql import insert

from ml4ad import workspaces
from ml4ad.provenance import user
from ml4ad.store.access import SCOPES, api_audit, api_key
from ml4ad.store.schema import MAX_NAME

_PREFIX = "ml4ad_"
# Longer than any key: what is longer is not hashed.
_LONGEST = 200
# How often it is noted that a key is in use.
_NOTED = timedelta(minutes=1)


@dataclass(frozen=True)
class Grant:
    """A scope in some workspaces; none named, in all of them and outside them."""

    scope: str
    workspaces: tuple[str, ...] = ()


@dataclass(frozen=True)
class Caller:
    """Somebody who was let in, and what was granted: at least one thing."""

    name: str
    grants: tuple[Grant, ...]

    @property
    def workspaces(self) -> tuple[str, ...]:
        """The workspaces that are open, those of the first grant first; empty is all."""
        if not all(grant.workspaces for grant in self.grants):
            return ()
        return tuple(dict.fromkeys(name for grant in self.grants for name in grant.workspaces))

    def may(self, scope: str) -> bool:
        """Whether one of the grants includes this scope."""
        return any(SCOPES.index(own.scope) >= SCOPES.index(scope) for own in self.grants)

    def within(self, workspace: str | None) -> Caller | None:
        """The caller with what is granted in a workspace, or outside all; None if nothing is.

        >>> caller = Caller("a", (Grant("read"), Grant("write", ("tracker",))))
        >>> [caller.within(one).may("write") for one in ("tracker", "ecal", None)]
        [True, False, False]
        """
        kept = tuple(
            grant for grant in self.grants if not grant.workspaces or workspace in grant.workspaces
        )
        return Caller(self.name, kept) if kept else None


def create(
    engine: sa.Engine,
    name: str,
    *,
    scope: str = "read",
    workspace_names: Sequence[str] = (),
    expires_at: datetime | None = None,
) -> str:
    """A new key: told this once, and kept only as its digest.

    Raises ValueError for an unknown scope, a name that is taken or no name, or an end in the past;
    KeyError for an unknown workspace.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope {scope!r}, want one of {', '.join(SCOPES)}")
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise ValueError(f"name {name[:300]!r}, want 1 to {MAX_NAME} printable characters")
    if expires_at is not None and expires_at.tzinfo is None:
        raise ValueError(f"expires {expires_at}, want a time with its zone")
    workspaces.get(engine, *workspace_names)
    key = _PREFIX + secrets.token_urlsafe(32)
    row = insert(api_key).values(
        name=name,
        digest=_digest(key),
        scope=scope,
        workspaces=list(dict.fromkeys(workspace_names)),
        created_by=user(),
        expires_at=expires_at,
    )
    with engine.begin() as connection:
        if (
            expires_at is not None
            and connection.execute(sa.select(sa.literal(expires_at) <= sa.func.now())).scalar_one()
        ):
            raise ValueError(f"expires {expires_at.isoformat()}, which has passed")
        kept = row.on_conflict_do_nothing().returning(api_key.c.key_id)
        if connection.execute(kept).scalar_one_or_none() is None:
            raise ValueError(f"key {name!r} is there already: names are not used again")
    return key


def keys(engine: sa.Engine) -> pd.DataFrame:
    """All keys: name, scope, workspaces, state, when they were made, used, and end."""
    state = sa.case(
        (api_key.c.revoked_at.is_not(None), "revoked"),
        (api_key.c.expires_at <= sa.func.now(), "expired"),
        else_="valid",
    )
    shown = ("created_by", "created_at", "used_at", "expires_at", "revoked_at")
    query = sa.select(
        api_key.c.name,
        api_key.c.scope,
        sa.func.array_to_string(api_key.c.workspaces, ", ").label("workspaces"),
        state.label("state"),
        *(api_key.c[column] for column in shown),
    ).order_by(api_key.c.key_id)
    with engine.connect() as connection:
        result = connection.execute(query)
        return pd.DataFrame(result.all(), columns=list(result.keys()))


def revoke(engine: sa.Engine, name: str) -> None:
    """The key is of no use from now on; raises KeyError if there is none of that name."""
    gone = (
        sa.update(api_key)
        .where(api_key.c.name == name)
        .values(revoked_at=sa.func.coalesce(api_key.c.revoked_at, sa.func.now()))
    )
    with engine.begin() as connection:
        if not connection.execute(gone).rowcount:
            raise KeyError(f"no key {name!r}; see `ml4ad token list`")


def caller(engine: sa.Engine, key: str) -> Caller | None:
    """Who the key was made for, or None if it is unknown, revoked or has expired."""
    if not key.startswith(_PREFIX) or len(key) > _LONGEST:
        return None
    now = sa.func.now()
    query = sa.select(
        api_key.c.key_id,
        api_key.c.name,
        api_key.c.scope,
        api_key.c.workspaces,
        (sa.func.coalesce(api_key.c.used_at < now - _NOTED, sa.true())).label("stale"),
    ).where(
        api_key.c.digest == _digest(key),
        api_key.c.revoked_at.is_(None),
        sa.or_(api_key.c.expires_at.is_(None), api_key.c.expires_at > now),
    )
    with engine.connect() as connection:
        row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if row.stale:
            used = sa.update(api_key).where(api_key.c.key_id == row.key_id).values(used_at=now)
            connection.execute(used)
            connection.commit()
    return Caller(row.name, (Grant(row.scope, tuple(row.workspaces)),))


def note(engine: sa.Engine, who: str, action: str, details: Mapping[str, Any], status: int) -> None:
    """Keep that somebody asked for a change, and what came of it."""
    row = {"who": who, "action": action, "details": dict(details), "status": status}
    with engine.begin() as connection:
        connection.execute(sa.insert(api_audit).values(row))


@contextmanager
def noted(
    engine: sa.Engine, who: str, action: str, details: Mapping[str, Any], *, done: int
) -> Iterator[None]:
    """Keep what is asked for in this block, with the status that it ends in; ``done`` if well."""
    status = 500
    try:
        yield
        status = done
    except PermissionError:
        status = 403
        raise
    except KeyError:
        status = 404
        raise
    except ValueError:
        status = 400
        raise
    except HTTPException as error:
        status = error.status_code
        raise
    finally:
        note(engine, who, action, details, status)


def audit(engine: sa.Engine, limit: int = 1000) -> pd.DataFrame:
    """The latest changes asked for: at, who, action, details, status."""
    names = ("at", "who", "action", "details", "status")
    query = sa.select(*(api_audit.c[name] for name in names))
    with engine.connect() as connection:
        rows = connection.execute(query.order_by(api_audit.c.audit_id.desc()).limit(limit)).all()
    return pd.DataFrame(rows, columns=list(names))


def _digest(key: str) -> bytes:
    # 256 random bits need no slow hash: there is nothing to guess.
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
