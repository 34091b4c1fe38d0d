"""The log of a job: written once, read from any offset by anybody while it grows, and bounded.

A log is a row of files ``log.<offset>``, named by the offset of their first byte in all that was ever
written. The first one keeps the beginning; of those that follow only the last are kept. So offsets stay what
they are when something in the middle goes, and whoever reads there is told how much is gone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

#: Bytes of the first file, of a later one, and how many of those are kept: 4 MiB in all.
HEAD = 3 << 20
PIECE = 512 << 10
KEPT = 2

#: Bytes that are written or read at once.
AT_ONCE = 256 << 10

_NAME = re.compile(r"log\.(\d{1,15})")


class LogWriter:
    """Appends to the log in `folder`; one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written = 0
        self._file = -1
        self._room = 0

    def write(self, text: str) -> None:
        """Raises `OSError` when it cannot be written, in whole or in part."""
        data = text.encode("utf-8", "replace")
        while data:
            part = data[:AT_ONCE]
            if len(part) < len(data):
                part = part[: len(part) - _unfinished(part)]
            self._append(part)
            data = data[len(part) :]

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, data: bytes) -> None:
        if self._file < 0 or len(data) > self._room:
            self._begin()
        while data:
            count = os.write(self._file, data)
            self._written += count
            self._room -= count
            data = data[count:]

    def _begin(self) -> None:
        """Go on in another file, and remove the one that is too many."""
        self.close()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self._folder / f"log.{self._written}", flags, 0o600)
        self._room = PIECE if self._written else HEAD
        for start in _starts(self._folder)[1:-KEPT]:
            (self._folder / f"log.{start}").unlink(missing_ok=True)


def read(folder: Path, offset: int, *, complete: bool) -> tuple[str, int, bool]:
    """The text from `offset` on, as much as is given at once; where to read on; and whether that is the end.

    An offset within a character counts as the next one, one beyond the end as the end. `complete`: nobody
    writes any more. A part that is gone is replaced by a line that says so.
    """
    starts = _starts(folder)
    text, at = "", max(offset, 0)
    for index, start in enumerate(starts):
        is_last = index + 1 == len(starts)
        if not is_last and starts[index + 1] <= at:
            continue
        try:
            data, size = _part(folder / f"log.{start}", max(at - start, 0))
        except FileNotFoundError:
            # Removed since the look above: the next file says how much is gone.
            continue
        if at < start:
            text += f"\n[{start - at} bytes of this log were not kept]\n"
            at = start
        elif is_last:
            at = min(at, start + size)
        # Before a later file there is nothing to wait for.
        rest = 0 if start + size == at + len(data) and (complete or not is_last) else _unfinished(data)
        data = data[: len(data) - rest]
        at += len(data)
        text += (data if text else data.lstrip(_CONTINUED)).decode("utf-8", "replace")
        if at < start + size:
            return text, at, False
    return text, at if starts else 0, complete


#: The bytes of a character beyond its first: https://www.rfc-editor.org/rfc/rfc3629#section-3
_CONTINUED = bytes(range(0x80, 0xC0))


def _part(path: Path, skip: int) -> tuple[bytes, int]:
    """Some bytes of the file, and how many it has."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(min(skip, size))
        return file.read(min(AT_ONCE, size - min(skip, size))), size


def _unfinished(data: bytes) -> int:
    """How many bytes at the end belong to a character that goes on behind it."""
    for count in range(1, min(4, len(data) + 1)):
        byte = data[-count]
        if byte < 0x80:
            return 0
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return count if length > count else 0
    return 0


def _starts(folder: Path) -> list[int]:
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))
