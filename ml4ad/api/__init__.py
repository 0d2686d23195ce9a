"""REST: for `cmsdials`, unmodified, and for everyone else."""

from ml4ad.api.access import Caller, Grant, audit, create, keys, revoke
from ml4ad.api.app import application
from ml4ad.api.serve import serve
from ml4ad.api.whole import read

__all__ = ["Caller", "Grant", "application", "audit", "create", "keys", "read", "revoke", "serve"]
