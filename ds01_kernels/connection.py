"""How the server reaches a kernel's five channels: unix sockets in private directories, and paths that never
change.

::

    /tmp/ds01-kernels-<uid>/            0700, ours, no link
        c/<random>/                     mounted into one container as /run/ds01
            <process>-1 … <process>-5   the sockets that a kernel process binds
            home-<random>               of ours, while the container starts: its agent comes there
        k/<pid>-<start>/<random>/       of one process of ours, mounted nowhere
            s-1 … s-5                   what Jupyter connects to: symlinks into the directory above
            b-1 … b-5                   or to sockets of ours, from which the channels go as byte streams
        locks/

Jupyter's paths stay the same for the life of a kernel. A restart points them at another process's sockets by
rename, and ZMQ reconnects. The container can write only its own ``c/<random>``, so it cannot turn Jupyter's
paths elsewhere.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from .errors import DiskFullError, Ds01Error

#: Where the mounted directory is found inside a container.
SOCKETS = PurePosixPath("/run/ds01")
#: Beside them: the program that starts the agent with its container.
AGENT = "agent"

#: Jupyter's five ports, which for ipc are only suffixes of paths.
PORTS = {"shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}

#: Those by which a kernel is asked for something that it then tells of on the others.
REQUESTS = frozenset({PORTS["shell_port"], PORTS["control_port"]})


@cache
def run_root() -> Path:
    """This user's private directory on a local file system, made when missing.

    In /tmp rather than in XDG_RUNTIME_DIR where possible: that one goes with the user's last login, and
    servers in tmux stay. Raises `Ds01Error`.
    """
    candidates = [Path(f"/tmp/ds01-kernels-{os.getuid()}")]  # noqa: S108 - checked by lstat, see `make_private`
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        candidates.append(Path(runtime) / "ds01-kernels")
    for candidate in candidates:
        try:
            with room_in(candidate):
                make_private(candidate)
        except DiskFullError:
            raise
        except (OSError, Ds01Error):
            continue
        _keep_from_cleaning(candidate)
        with room_in(candidate):
            for name in ("c", "k", "locks"):
                make_private(candidate / name)
        _sweep(candidate / "k")
        return candidate
    raise Ds01Error(
        f"There is no private directory for the kernels' sockets: {candidates[0]} belongs to somebody else.",
        remedy="Ask the administrator to remove it.",
    )


@contextmanager
def room_in(place: Path) -> Iterator[None]:
    """What is written inside goes below `place`. Raises `DiskFullError` when there is no room for it."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(
            f"The disk is full: there is no room in {place}.",
            remedy=f"Free some space there; `df {place}` and `df -i {place}` show how much is left.",
        ) from error


def place(name: str) -> Path:
    """That directory of `run_root`: ``c``, ``k`` or ``locks``. Raises `OSError` or `Ds01Error`.

    Each time: a cleaner of /tmp may have been here since, and after it somebody else.
    """
    root = run_root()
    was_there = os.path.lexists(root)
    make_private(root)
    if not was_there:
        _keep_from_cleaning(root)
    make_private(root / name)
    return root / name


def make_private(path: Path) -> None:
    """Make a directory that only this user can enter, or check that it is one. Raises `Ds01Error`."""
    path.mkdir(mode=0o700, exist_ok=True)
    check_private(path)


def check_private(path: Path) -> None:
    status = path.lstat()
    if (
        not stat.S_ISDIR(status.st_mode)
        or status.st_uid != os.getuid()
        or stat.S_IMODE(status.st_mode) & 0o077
    ):
        raise Ds01Error(f"{path} is not a private directory of yours.", remedy="Remove it, then try again.")


def _keep_from_cleaning(path: Path) -> None:
    # systemd-tmpfiles leaves alone what somebody holds a lock on:
    # https://www.freedesktop.org/software/systemd/man/latest/tmpfiles.d.html#Age
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_SH)


@dataclass(frozen=True)
class SocketDirectory:
    """The directory that one container and its host share, and nothing else of the host's."""

    path: Path

    @classmethod
    def new(cls) -> SocketDirectory:
        directory = cls(run_root() / "c" / secrets.token_hex(8))
        directory.renew()
        return directory

    @classmethod
    def recorded(cls, path: str) -> SocketDirectory | None:
        """The one that a container's label names, or None when that cannot be one of ours."""
        directory = cls(Path(path))
        return directory if path and directory.path.parent == run_root() / "c" else None

    def renew(self) -> None:
        """Make it afresh and empty: to be done before each start of its container."""
        shutil.rmtree(self.path, ignore_errors=True)
        with room_in(self.path.parent):
            place(self.path.parent.name)
            make_private(self.path)

    def is_usable(self) -> bool:
        try:
            check_private(self.path)
        except (OSError, Ds01Error):
            return False
        return True

    def write_nonce(self) -> tuple[str, str]:
        """A file by which the agent can show that it sees this very directory: its name and content."""
        name, content = f"nonce-{secrets.token_hex(4)}", secrets.token_hex(16)
        self._write(name, content.encode())
        return name, content

    def write_agent(self, program: bytes) -> None:
        """What is to be run beside the container's main process, at its next start. Raises `DiskFullError` or
        `OSError`."""
        self._write(AGENT, program)

    def remove_nonce(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def _write(self, name: str, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with room_in(run_root()), os.fdopen(os.open(self.path / name, flags, 0o600), "wb") as output:
            output.write(content)


class Channels:
    """The paths that Jupyter knows for one kernel, whatever process stands behind them."""

    def __init__(self) -> None:
        with room_in(run_root()):
            self._directory = _process_directory() / secrets.token_hex(4)
            self._directory.mkdir(mode=0o700)

    @property
    def ip(self) -> str:
        """What Jupyter calls ip: the paths are ``<ip>-<port>``."""
        return str(self._directory / "s")

    def own_prefix(self) -> str:
        """A fresh prefix for sockets of this process's own, beside the paths.

        Raises `OSError` or `Ds01Error`.
        """
        self._make_directory()
        return str(self._directory / f"e{secrets.token_hex(2)}")

    def point_at(self, prefix: str, ports: Iterable[int] = PORTS.values()) -> None:
        """Let the path of each port lead to the socket ``<prefix>-<port>``, each in one step.

        Raises `OSError` or `Ds01Error`.
        """
        self._make_directory()
        for port in ports:
            fresh = self._directory / f"n-{port}"
            fresh.unlink(missing_ok=True)
            with room_in(run_root()):
                fresh.symlink_to(f"{prefix}-{port}")
            fresh.rename(f"{self.ip}-{port}")

    def remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def _make_directory(self) -> None:
        with room_in(run_root()):
            _process_directory()
            self._directory.mkdir(mode=0o700, exist_ok=True)


class LocalSockets:
    """A private directory of this process's for five sockets at ``<prefix>-<port>``."""

    def __init__(self) -> None:
        """Raises `OSError` or `Ds01Error`."""
        with room_in(run_root()):
            self._directory = _process_directory() / secrets.token_hex(4)
            self._directory.mkdir(mode=0o700)

    @property
    def prefix(self) -> str:
        return str(self._directory / "b")

    def remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


def leave() -> None:
    """Remove the paths of this process: it ends."""
    if run_root.cache_info().currsize:
        shutil.rmtree(run_root() / "k" / _process_name(os.getpid()), ignore_errors=True)


def inside(process: str) -> str:
    """What the kernel process itself is given as ip."""
    return str(SOCKETS / process)


def _process_directory() -> Path:
    directory = place("k") / _process_name(os.getpid())
    make_private(directory)
    return directory


def _process_name(pid: int) -> str:
    """A name for a process that no other will ever have on this boot: its id and its start time in ticks.

    https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, field 22
    """
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        started = "0"
    return f"{pid}-{started}"


def _sweep(directory: Path) -> None:
    """Remove what processes that have ended left behind."""
    for entry in directory.iterdir():
        pid = entry.name.partition("-")[0]
        if pid.isdigit() and entry.name != _process_name(int(pid)):
            shutil.rmtree(entry, ignore_errors=True)
