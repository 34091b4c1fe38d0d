"""A network for one program, in which no interface ever comes or goes; its way out is a SOCKS proxy.

Chromium gives up the requests that it has just begun whenever an address of the machine changes, and each
container that starts or ends brings or takes one: https://issues.chromium.org/issues/41465264.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PORT = 1080

# https://man7.org/linux/man-pages/man2/unshare.2.html, https://man7.org/linux/man-pages/man7/netdevice.7.html
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


@dataclass(frozen=True)
class StillNetwork:
    """`path` is the namespace, for ``nsenter --net``."""

    path: Path

    @property
    def proxy(self) -> str:
        return f"socks5://127.0.0.1:{PORT}"


@contextmanager
def a_still_network() -> Iterator[StillNetwork | None]:
    """None where this process may not make one."""
    made: list[tuple[int, socket.socket]] = []
    is_made, is_over = threading.Event(), threading.Event()

    def live() -> None:
        # Only the thread that asks for it is in the new network: what it opens is there, wherever it is used.
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) == 0:
                with socket.socket() as any_socket:
                    fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
                made.append((threading.get_native_id(), socket.create_server(("127.0.0.1", PORT))))
        finally:
            is_made.set()
        is_over.wait()

    threading.Thread(target=live, daemon=True).start()
    is_made.wait()
    try:
        if made:
            thread, listener = made[0]
            threading.Thread(target=_serve, args=[listener], daemon=True).start()
            yield StillNetwork(Path(f"/proc/{os.getpid()}/task/{thread}/ns/net"))
        else:
            yield None
    finally:
        is_over.set()
        for _, listener in made:
            # Whoever waits for it learns that it is over; to close it alone would tell nobody.
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_connect, args=[client], daemon=True).start()


def _connect(client: socket.socket) -> None:
    """https://www.rfc-editor.org/rfc/rfc1928, for addresses of this machine alone."""
    with client, suppress(OSError, EOFError):
        _, methods = _read(client, 2)
        _read(client, methods)
        client.sendall(b"\x05\x00")
        _, _, _, kind = _read(client, 4)
        # An address, or a name with its length before it.
        is_address = kind == 1
        given = _read(client, 4 if is_address else _read(client, 1)[0])
        address = socket.inet_ntoa(given) if is_address else given.decode()
        port = int.from_bytes(_read(client, 2))
        if address != "127.0.0.1":
            client.sendall(b"\x05\x02\x00\x01" + bytes(6))
            return
        with socket.create_connection((address, port)) as server:
            client.sendall(b"\x05\x00\x00\x01" + bytes(6))
            back = threading.Thread(target=_pass_on, args=[server, client], daemon=True)
            back.start()
            _pass_on(client, server)
            back.join()


def _read(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = client.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
