"""An engine that is reached by ssh: each connection is one of the system's ssh client.

As the docker command does it, so ``~/.ssh/config``, agents, jump hosts and shared connections count. Nothing
is asked: what ssh would prompt for has to be settled before. docker-py's own way needs a library that reads
only a part of that, and its way by the client opens no streams.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import socket
import subprocess
import threading
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import urlsplit

import urllib3.connection
import urllib3.connectionpool
from docker import APIClient
from docker.transport import UnixHTTPAdapter

from ds01_kernels.errors import EngineUnreachableError

#: Seconds until the machine has to take the connection, and between signs of life; after three without an
#: answer the connection is lost.
_CONNECT_LIMIT, _ALIVE = 20, 5
#: Seconds for ssh to end once its connection is closed, and the bytes of what it said that are read.
_END_LIMIT, _MOST_SAID = 5.0, 4096


def ssh_command(address: str) -> list[str]:
    """What is run for one connection. Raises `EngineUnreachableError` for an address that names no machine.

    https://docs.docker.com/engine/security/protect-access/#use-ssh-to-protect-the-docker-daemon-socket
    """
    try:
        parts = urlsplit(address)
        # As it is written: the names in ssh's configuration have upper and lower case.
        place = parts.netloc.rpartition("@")[2]
        host = place[1:].partition("]")[0] if place.startswith("[") else place.partition(":")[0]
        port = parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if not host or parts.query or parts.fragment or parts.password:
        raise EngineUnreachableError(
            f"{address} is no address of an engine.",
            remedy="Write it as ssh://USER@HOST or ssh://USER@HOST:PORT.",
        )
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": _CONNECT_LIMIT,
        "ServerAliveInterval": _ALIVE,
        "ServerAliveCountMax": 3,
    }
    # The far shell takes the rest of the words apart again.
    socket_of = ["--host", shlex.quote(f"unix://{parts.path}")] if parts.path.strip("/") else []
    return [
        *("ssh", "-T"),
        *(f"-o{name}={value}" for name, value in options.items()),
        *(["-l", parts.username] if parts.username else []),
        *(["-p", str(port)] if port else []),
        *("--", host, "docker", *socket_of, "system", "dial-stdio"),
    ]


def mount(client: APIClient, address: str, timeout: float, pool_size: int) -> None:
    """Let `client`, which has not been used yet, talk through ssh. Raises `EngineUnreachableError`."""
    command = ssh_command(address)
    if shutil.which("ssh") is None:
        raise EngineUnreachableError(
            f"The engine at {address} cannot be reached: there is no ssh command here.",
            remedy="Install OpenSSH's client (on Debian and Ubuntu: apt-get install openssh-client).",
        )
    client.mount("http+docker://", _Adapter(command, timeout, pool_size))
    client.base_url = "http+docker://elsewhere"


class _Adapter(UnixHTTPAdapter):
    """docker-py's for unix sockets, which differs from this only in how a connection is made."""

    def __init__(self, command: list[str], timeout: float, pool_size: int) -> None:
        super().__init__("http+unix:///", max_pool_size=pool_size)
        self._pool = _Pool("localhost", timeout=timeout, maxsize=pool_size)
        self._pool.command = command

    def get_connection(self, url: Any, proxies: Any = None) -> Any:
        return self._pool

    def close(self) -> None:
        super().close()
        self._pool.close()


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    command: list[str]

    def _new_conn(self) -> Any:
        connection = _Connection("localhost", timeout=self.timeout.connect_timeout)
        connection.command = self.command
        return connection


class _Connection(urllib3.connection.HTTPConnection):
    command: list[str]
    _process: _Process | None = None

    def connect(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = _Process(self.command, theirs)
        ours.settimeout(self.timeout if isinstance(self.timeout, float | int) else None)
        self.sock = ours

    def getresponse(self) -> Any:
        """Raises `ConnectionError` with ssh's own words."""
        try:
            return super().getresponse()
        except ConnectionError as error:
            words = self._process.words() if self._process is not None else ""
            raise ConnectionError(error.errno or errno.EPIPE, words or str(error)) from None


class _Process:
    """One that runs ssh; a thread waits for its end, so that it leaves no zombie."""

    def __init__(self, command: list[str], connection: socket.socket) -> None:
        self._said = TemporaryFile()  # noqa: SIM115 - closed when the process has ended
        self._words = ""
        self._has_ended = threading.Event()
        self._process = subprocess.Popen(
            command,
            stdin=connection.fileno(),
            stdout=connection.fileno(),
            stderr=self._said,
            # Neither Ctrl-C nor a question is for it.
            start_new_session=True,
            env={**os.environ, "SSH_ASKPASS_REQUIRE": "never"},
        )
        threading.Thread(target=self._wait, name="ds01-ssh", daemon=True).start()

    def words(self) -> str:
        """The last line that it said, once its connection is closed; or nothing."""
        self._has_ended.wait(_END_LIMIT)
        return self._words

    def _wait(self) -> None:
        self._process.wait()
        with self._said as said:
            said.seek(0)
            lines = said.read(_MOST_SAID).decode("utf-8", "replace").strip().splitlines()
        self._words = f"ssh: {lines[-1].strip().rstrip('.')}" if lines else ""
        self._has_ended.set()
