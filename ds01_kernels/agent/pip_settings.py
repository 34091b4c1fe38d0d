"""The hosts that pip goes to with credentials: it leaves them out of its report and of direct_url.json."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from typing import Iterator, Set

from . import files

LIMIT = 64 * 1024

_IN_URL = re.compile(r"https?://[^\s/@\"']+@([^\s/\"',]+)", re.IGNORECASE)
_IN_NETRC = re.compile(r"\bmachine\s+(\S+)")


def guarded_hosts() -> Set[str]:
    """With their ports, where those are given."""
    netrc = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    return {host.lower() for text in _settings() for host in _IN_URL.findall(text)} | {
        host.lower() for host in _IN_NETRC.findall(_read(netrc))
    }


def _settings() -> Iterator[str]:
    # https://pip.pypa.io/en/stable/topics/configuration/
    for name, value in os.environ.items():
        if name.startswith("PIP_"):
            yield value
    folders = os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep)
    own = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    paths = [os.path.join(folder, "pip", "pip.conf") for folder in [*folders, own]]
    paths += ["/etc/pip.conf", os.path.expanduser("~/.pip/pip.conf"), os.path.join(sys.prefix, "pip.conf")]
    if "PIP_CONFIG_FILE" in os.environ:
        paths.append(os.environ["PIP_CONFIG_FILE"])
    for path in paths:
        yield _read(path)


def _read(path: str) -> str:
    with suppress(OSError, ValueError):
        return files.read(path, LIMIT).decode("utf-8", "replace")
    return ""
