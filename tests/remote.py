"""A private daemon as one on another machine: reached by TLS, on a way that can be cut, or by ssh."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from passage import Passage
from private_daemon import LIMIT, PrivateDaemon

#: Where the daemon listens, in a network of its own.
PORT = 2376

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


class Way(Passage):
    """A port of this machine that leads to the daemon's, until it is cut."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port: int = found.getsockname()[1]
        super().__init__()

    def listening(self) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", self.port), reuse_port=True)
        # What it accepts inherits that.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener

    def far(self) -> socket.socket:
        far = self._connect()
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return far


def connected_in(process: int, port: int) -> socket.socket:
    """A connection to that port of the network in which that process lives."""
    made: list[socket.socket | OSError] = []

    def connect() -> None:
        try:
            with Path(f"/proc/{process}/ns/net").open("rb") as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            connection = socket.socket()
            fcntl.ioctl(connection, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
            connection.connect(("127.0.0.1", port))
            made.append(connection)
        except OSError as error:
            made.append(error)

    # Of a thread that ends, since all that it does from then on would be done there.
    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    (found,) = made
    if isinstance(found, OSError):
        raise found
    return found


# TLS


def make_certificates(folder: Path) -> None:
    """``ca.pem``, ``cert.pem`` and ``key.pem`` for both sides, as docker names them."""
    if shutil.which("openssl") is None:
        pytest.skip("certificates are made by openssl")
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    authority = ["-x509", "-days", "2", "-subj", "/CN=authority", "-out", "ca.pem", "-keyout", "ca-key.pem"]
    for arguments in (
        ["req", *curve, *authority],
        ["req", *curve, "-subj", "/CN=127.0.0.1", "-out", "request", "-keyout", "key.pem"],
        [
            *("x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial"),
            *("-days", "2", "-extfile", "extensions", "-out", "cert.pem"),
        ],
    ):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def tls_options(folder: Path) -> list[str]:
    """What makes dockerd listen."""
    files = {"tlscacert": "ca.pem", "tlscert": "cert.pem", "tlskey": "key.pem"}
    named = [f"--{option}={folder / file}" for option, file in files.items()]
    return [f"--host=tcp://127.0.0.1:{PORT}", "--tlsverify", *named]


@contextmanager
def by_tls(daemon: PrivateDaemon, folder: Path) -> Iterator[Way]:
    """This process's engine is that daemon, by TLS; the certificates are in `folder`."""
    way = Way(lambda: connected_in(daemon.pid, PORT))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{way.port}")
            patch.setenv("DOCKER_TLS_VERIFY", "1")
            patch.setenv("DOCKER_CERT_PATH", str(folder))
            yield way
    finally:
        way.cut()


# ssh


class SshServer:
    """An sshd of the test's own, on a port of this machine."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None or shutil.which("ssh-keygen") is None or shutil.which("ssh") is None:
            pytest.skip("there is no sshd here")
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port: int = found.getsockname()[1]
        for name in ("host", "user", "other"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / name)]
            subprocess.run(key, check=True)
        shutil.copy(folder / "user.pub", folder / "authorized")
        self.know("host")
        settings = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": folder / "host",
            "AuthorizedKeysFile": folder / "authorized",
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "PermitRootLogin": "prohibit-password",
        }
        (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        # The client's own settings are at the home of its user, whatever HOME says.
        for_client = {
            "IdentityFile": folder / "user",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": folder / "known",
        }
        (folder / "config").write_text("".join(f"{name} {value}\n" for name, value in for_client.items()))
        client = folder / "bin" / "ssh"
        client.parent.mkdir()
        client.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder / "config"} "$@"\n')
        client.chmod(0o755)
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (folder / "sshd.log").open("wb") as log:
            command = [program, "-D", "-e", "-f", str(folder / "sshd_config")]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._await()

    def know(self, name: str) -> None:
        """That key is the one that the client expects of it."""
        key = (self.folder / f"{name}.pub").read_text()
        (self.folder / "known").write_text(f"[127.0.0.1]:{self.port} {key}")

    def address(self, daemon: PrivateDaemon) -> str:
        """What DOCKER_HOST has to be."""
        return f"ssh://{psutil.Process().username()}@127.0.0.1:{self.port}{daemon.socket}"

    def sessions(self) -> list[psutil.Process]:
        return psutil.Process(self._process.pid).children(recursive=True)

    def cut(self) -> None:
        """All connections break; new ones are taken."""
        for process in self.sessions():
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        self.cut()
        self._process.terminate()
        self._process.wait(LIMIT)

    def _await(self) -> None:
        deadline = time.monotonic() + LIMIT
        while True:
            assert self._process.poll() is None, (self.folder / "sshd.log").read_text()
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert time.monotonic() < deadline, "sshd does not listen"
            time.sleep(0.05)


@contextmanager
def by_ssh(daemon: PrivateDaemon, folder: Path) -> Iterator[SshServer]:
    """This process's engine is that daemon, by ssh."""
    server = SshServer(folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
            patch.setenv("DOCKER_HOST", server.address(daemon))
            for name in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
                patch.delenv(name, raising=False)
            yield server
    finally:
        server.close()
