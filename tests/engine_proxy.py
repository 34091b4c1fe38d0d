"""A way to the engine that can be closed, opened again, or made to refuse."""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path


class EngineProxy:
    """A socket at `path` that leads to the engine that this process uses."""

    def __init__(self, path: Path) -> None:
        given = os.environ.get("DOCKER_HOST", "")
        self._path = path
        self._target = (
            given.removeprefix("unix://") if given.startswith("unix://") else "/var/run/docker.sock"
        )
        self._refused: dict[bytes, bytes] = {}
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.open()

    def open(self) -> None:
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._path))
        listener.listen(64)
        self._add(listener)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def refuse(self, path: str, status: int, message: str) -> None:
        """Answer every POST whose address holds `path` with that status and message from now on."""
        body = json.dumps({"message": message}).encode()
        head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._refused[path.encode()] = f"{head}Connection: close\r\n\r\n".encode() + body

    def refuse_nothing(self) -> None:
        self._refused.clear()

    def _add(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._sockets.update(sockets)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near = listener.accept()[0]
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._target)
            self._add(near, far)
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                # A client writes the beginning of each request at once.
                if answer := self._refusal(data.partition(b"\r\n")[0]):
                    source.sendall(answer)
                    source.shutdown(socket.SHUT_RDWR)
                    break
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _refusal(self, line: bytes) -> bytes | None:
        if not line.startswith(b"POST "):
            return None
        return next((answer for path, answer in self._refused.items() if path in line), None)
