"""A way to the engine that can be closed, opened again, or made to refuse."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from passage import Passage


class EngineProxy(Passage):
    """A socket at `path` that leads to the engine that this process uses."""

    def __init__(self, path: Path) -> None:
        given = os.environ.get("DOCKER_HOST", "")
        self._path = path
        self._target = (
            given.removeprefix("unix://") if given.startswith("unix://") else "/var/run/docker.sock"
        )
        self._refused: dict[bytes, bytes] = {}
        super().__init__()

    def listening(self) -> socket.socket:
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self._path))
        listener.listen(64)
        return listener

    def far(self) -> socket.socket:
        far = socket.socket(socket.AF_UNIX)
        far.connect(self._target)
        return far

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        self.cut()

    def refuse(self, path: str, status: int, message: str) -> None:
        """Answer every POST whose address holds `path` with that status and message from now on."""
        body = json.dumps({"message": message}).encode()
        head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._refused[path.encode()] = f"{head}Connection: close\r\n\r\n".encode() + body

    def refuse_nothing(self) -> None:
        self._refused.clear()

    def refusal(self, data: bytes) -> bytes | None:
        # A client writes the beginning of each request at once.
        line = data.partition(b"\r\n")[0]
        if not line.startswith(b"POST "):
            return None
        return next((answer for path, answer in self._refused.items() if path in line), None)
