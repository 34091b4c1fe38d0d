"""What DS01 writes into a container that it is about to stop: one sentence of it under the next cell.

https://github.com/hertie-data-science-lab/ds01-infra/blob/main/scripts/lib/ds01_notify.sh
"""

from __future__ import annotations

import os
import re
import stat

FILE = "/workspace/.ds01-alerts"
#: Bytes of what is new that are read, and characters of it that are said.
LIMIT = 64 * 1024
MOST = 100

#: Each alert begins with its time; within it there is a line with its title, and one of when it will happen.
_BEGIN = re.compile(r"^--- Alert: ([0-9: -]{1,30}) ---$", re.MULTILINE)
_TITLE = re.compile(r"^\[WARNING\] (.+)$", re.MULTILINE)
_WHEN = re.compile(r"^\w+: (Will auto-stop .+)$", re.MULTILINE)


class Alerts:
    """Those that are written from now on."""

    def __init__(self, path: str = FILE) -> None:
        self._path = path
        self._read = self._size()

    def newest(self) -> str:
        """One sentence, of the last warning that is new; empty when there is none, as nearly always."""
        size = self._size()
        if size == self._read:
            return ""
        # It may have been emptied, or written anew.
        begin, self._read = (self._read if size > self._read else 0), size
        *_, last = _BEGIN.split(self._text(max(begin, size - LIMIT)))
        title, when = _TITLE.search(last), _WHEN.search(last)
        if title is None:
            return ""
        said = _shown(title[1]) + (": " + _shown(when[1]) if when else "")
        return "DS01 says of this container: %s. More is in %s." % (said.rstrip("."), self._path)

    def _size(self) -> int:
        try:
            return os.stat(self._path).st_size
        except OSError:
            return 0

    def _text(self, begin: int) -> str:
        try:
            # Whatever else is there is not waited for.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return ""
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return ""
            return os.pread(descriptor, LIMIT, begin).decode("utf-8", "replace")
        finally:
            os.close(descriptor)


def _shown(text: str) -> str:
    return "".join(character for character in text[:MOST] if character.isprintable()).strip()
