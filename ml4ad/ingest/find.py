"""Where DQMIO files lie: paths, folders, globs and URLs, each file with its size and time."""

from __future__ import annotations

import datetime
import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIX = ".root"


@dataclass(frozen=True)
class Location:
    """A file as a listing shows it; ``mtime`` in Unix seconds, 0 where a server does not tell."""

    path: str
    size: int
    mtime: float


def locations(path: str | os.PathLike[str]) -> Iterator[Location]:
    """Files at ``path``: itself, all ``*.root`` below a folder, or those that match a glob.

    Paths are absolute, in sorted order. A URL (``root://...``, ``https://...``) is asked through
    fsspec. Raises FileNotFoundError if there is nothing, OSError as the file system does.
    """
    text = os.fspath(path)
    if "://" in text:
        yield from _remote(text)
        return
    if Path(text).is_dir():
        yield from _below(absolute(text))
        return
    if not os.path.lexists(text) and glob.has_magic(text):
        matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 (absolute patterns too)
        if not matches:
            raise FileNotFoundError(f"{text}: no file matches")
        for match in matches:
            yield from locations(match)
        return
    # A glob's characters may also be part of a name.
    found = Path(text).stat()
    yield Location(absolute(text), found.st_size, found.st_mtime)


def absolute(path: str | os.PathLike[str]) -> str:
    """The path from the root, links left as they are: two links to a file are two places."""
    text = os.fspath(path)
    if "://" in text:
        filesystem, name = _asked(text)
        return str(filesystem.unstrip_protocol(name))
    return os.path.abspath(text)  # noqa: PTH100 (resolve would follow links)


def exists(path: str) -> bool:
    """Whether a file is still where it was."""
    if "://" in path:
        filesystem, name = _asked(path)
        return bool(filesystem.exists(name))
    return Path(path).exists()


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a folder; False for one on a server that does not answer."""
    text = os.fspath(path)
    if "://" not in text:
        return Path(text).is_dir()
    if text.endswith(SUFFIX):
        return False
    filesystem, name = _asked(text)
    try:
        return not glob.has_magic(name) and bool(filesystem.isdir(name))
    except OSError:
        return False


def _below(folder: str) -> Iterator[Location]:
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            # A link to a folder may lead in a circle.
            if not entry.is_symlink():
                yield from _below(entry.path)
        elif entry.name.endswith(SUFFIX) and entry.is_file():
            found = entry.stat()
            yield Location(entry.path, found.st_size, found.st_mtime)


def _asked(url: str) -> tuple[Any, str]:
    """The file system that a URL means, and the name in it."""
    import fsspec

    # What a server listed a while ago is no answer to what is there now.
    filesystem, name = fsspec.core.url_to_fs(url)
    filesystem.invalidate_cache()
    return filesystem, name


def _remote(url: str) -> Iterator[Location]:
    filesystem, name = _asked(url)
    if glob.has_magic(name):
        names: Iterable[str] = sorted(filesystem.glob(name))
    elif filesystem.isdir(name):
        names = sorted(n for n in filesystem.find(name) if n.endswith(SUFFIX))
    else:
        names = [name]
    found = False
    for each in names:
        facts = filesystem.info(each)
        yield Location(filesystem.unstrip_protocol(each), int(facts["size"] or 0), _mtime(facts))
        found = True
    if not found:
        raise FileNotFoundError(f"{url}: no file matches")


def _mtime(facts: dict[str, Any]) -> float:
    for key in ("mtime", "modified", "LastModified", "last_modified", "created"):
        value = facts.get(key)
        if isinstance(value, datetime.datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0
