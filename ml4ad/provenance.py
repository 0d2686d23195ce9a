"""Which code made a result, and for whom."""

from __future__ import annotations

import getpass
from pathlib import Path


def code_version() -> str:
    """Version of this package, with the commit where it runs from a git checkout."""
    from ml4ad import __version__

    commit = _commit(Path(__file__).parents[1] / ".git")
    return f"{__version__}+{commit[:12]}" if commit else __version__


def user() -> str:
    """Who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


def _commit(git: Path) -> str:
    # Read rather than asked of git, which may not be installed where a pipeline runs.
    head = git / "HEAD"
    if not head.is_file():
        return ""
    text = head.read_text().strip()
    if not text.startswith("ref: "):
        return text
    name = text.removeprefix("ref: ")
    if (git / name).is_file():
        return (git / name).read_text().strip()
    packed = git / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    found = [line.split()[0] for line in lines if line.endswith(f" {name}")]
    return found[0] if found else ""
