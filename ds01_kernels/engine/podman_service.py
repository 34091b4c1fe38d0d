"""Podman on this machine: its Docker-compatible socket, and a service of our own where nobody offers one.

Our service is ``podman system service`` on a socket in this user's private directory. All processes of the
user share it; it ends by itself when it is not used, is started again by whoever wants it next, and
containers do not end with it. What podman needs on a machine is passed as options: no file is written or
changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ds01_kernels.connection import place
from ds01_kernels.errors import EngineUnreachableError

PROGRAM = "podman"

#: Seconds without a connection after which our service ends.
IDLE = 300
#: Seconds in which it has to answer: the first one of a user sets up the storage.
START_LIMIT = 60.0

_ANSWER_LIMIT = 5.0
_SCHEME = "unix://"

# Podman puts the variables of its service into containers, the proxies for one:
# https://docs.podman.io/en/v4.3/markdown/options/http-proxy.html. It gets what it needs itself.
_PASSED = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR"),
    *("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CONFIG_DIRS", "DBUS_SESSION_BUS_ADDRESS"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG"),
    *("CONTAINERS_CONF", "CONTAINERS_CONF_OVERRIDE", "CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF"),
    *("STORAGE_DRIVER", "STORAGE_OPTS"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)

# Of these, what says whose images and containers they are.
_SETUP = ("HOME", "XDG_", "CONTAINERS_", "STORAGE_")

#: The services that this process has started: to be waited for when they end.
_started: list[subprocess.Popen[bytes]] = []


def has_program() -> bool:
    return shutil.which(PROGRAM) is not None


def offered() -> str | None:
    """The address of a service that somebody offers this user: CONTAINER_HOST, else podman's own socket."""
    if host := os.environ.get("CONTAINER_HOST"):
        return host
    usual = f"{_SCHEME}{_usual_socket()}"
    return usual if not refusal(usual) else None


def refusal(address: str) -> str:
    """Why nothing answers at that unix socket, in the operating system's words; empty: something does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_LIMIT)
        try:
            connection.connect(address.removeprefix(_SCHEME))
        except OSError as error:
            return error.strerror or str(error) or "it does not answer"
    return ""


def reached() -> str:
    """The address of a service that answers: the one that is offered, else ours, which may be started for it.

    Blocks. Raises `EngineUnreachableError`.
    """
    return offered() or own()


def own_socket() -> Path:
    """Where our service is: one for each way in which podman is set up.

    Raises `Ds01Error` or `OSError` when there can be no private directory.
    """
    setup = sorted((name, value) for name, value in variables().items() if name.startswith(_SETUP))
    return place("podman") / f"{hashlib.sha256(repr(setup).encode()).hexdigest()[:12]}.sock"


def command() -> list[str]:
    """Podman with the options that it needs on this machine and does not find out by itself."""
    return [PROGRAM, *_options(os.environ)]


def variables() -> dict[str, str]:
    """What a podman of ours gets of this process's variables."""
    return {name: value for name, value in os.environ.items() if name in _PASSED}


def _usual_socket() -> Path:
    # https://docs.podman.io/en/v4.3/markdown/podman-system-service.1.html
    if os.getuid() == 0:
        return Path("/run/podman/podman.sock")
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return Path(runtime) / "podman" / "podman.sock"


def own() -> str:
    """The address of our service, which is started when it does not answer. As `reached`."""
    path = own_socket()
    address = f"{_SCHEME}{path}"
    if refusal(address):
        with _alone(path.parent):
            # Another process may have been faster.
            if refusal(address):
                _start(path)
    return address


def _start(path: Path) -> None:
    _started[:] = [one for one in _started if one.poll() is None]
    if not has_program():
        raise EngineUnreachableError(
            "There is no podman on the PATH.",
            remedy="Install it (on Debian and Ubuntu: apt-get install podman).",
        )
    path.unlink(missing_ok=True)
    log_path = path.with_suffix(".log")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(log_path, flags, 0o600), "wb") as log:
        process = subprocess.Popen(
            [*command(), "system", "service", f"--time={IDLE}", f"{_SCHEME}{path}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=variables(),
            cwd="/",
            # It outlives this process, and is not ended with its terminal.
            start_new_session=True,
        )
    _started.append(process)
    deadline = time.monotonic() + START_LIMIT
    while reason := refusal(f"{_SCHEME}{path}"):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise EngineUnreachableError(
                f"Podman's service could not be started: {_last_words(log_path) or reason}.",
                remedy="`podman info` says more; rootless podman needs newuidmap (package uidmap) and lines "
                "for the user in /etc/subuid and /etc/subgid.",
            )
        time.sleep(0.02)


def _last_words(log: Path) -> str:
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace")[-4000:].strip().splitlines()
        return lines[-1].rstrip(".") if lines else ""
    return ""


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process of this user at a time; with a limit, since whoever holds it starts a service."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(folder / "lock", flags, 0o600)
    try:
        deadline = time.monotonic() + START_LIMIT
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise EngineUnreachableError(
                        "Another process has been starting podman's service for too long.",
                        remedy="Try again.",
                    ) from None
                time.sleep(0.02)
        yield
    finally:
        os.close(descriptor)


def _options(env: Mapping[str, str]) -> Iterator[str]:
    # crun, which podman prefers, wants the unified hierarchy of control groups:
    # https://docs.kernel.org/admin-guide/cgroup-v2.html#mounting
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists() and (runc := _runc()):
        yield f"--runtime={runc}"
    # Without a word from anybody rootless podman may take vfs, which copies an image for each container.
    if os.getuid() != 0 and not _is_storage_chosen(env):
        yield "--storage-driver=overlay"


def _runc() -> str | None:
    # An ordinary user's PATH may lack the system's folders.
    return shutil.which(
        "runc", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    )


def _is_storage_chosen(env: Mapping[str, str]) -> bool:
    """Whether somebody has said how this user's storage is to be, or it is of another kind already."""
    home = Path(env.get("HOME") or "/")
    data = Path(env.get("XDG_DATA_HOME") or home / ".local/share") / "containers/storage"
    config = Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "containers/storage.conf"
    if "STORAGE_DRIVER" in env or "CONTAINERS_STORAGE_CONF" in env:
        return True
    return any(path.exists() for path in (config, Path("/etc/containers/storage.conf"), data / "vfs-images"))
