"""Connections that are led on to where somebody else listens, until they are cut."""

from __future__ import annotations

import socket
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from struct import pack


class Passage(ABC):
    """Each connection to `listening` is led on to another `far` one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self.open()

    @abstractmethod
    def listening(self) -> socket.socket: ...

    @abstractmethod
    def far(self) -> socket.socket: ...

    def refusal(self, data: bytes) -> bytes | None:
        """The answer to what is not to be led on, after which its connection ends."""
        return None

    def open(self) -> None:
        """As at first, and again after a cut."""
        listener = self.listening()
        self._add(listener)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """All connections break, and new ones are refused until it is opened again."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            with suppress(OSError):
                # What is under way is lost: https://man7.org/linux/man-pages/man7/socket.7.html, SO_LINGER
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _add(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._sockets.update(sockets)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near = listener.accept()[0]
                far = self.far()
            except OSError:
                return
            self._add(near, far)
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if answer := self.refusal(data):
                    source.sendall(answer)
                    source.shutdown(socket.SHUT_RDWR)
                    break
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
