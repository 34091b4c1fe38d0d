"""The few lines of a distribution's metadata that matter, read by hand: the email parser is far slower.

https://packaging.python.org/en/latest/specifications/core-metadata/
"""

from __future__ import annotations

import os
import re
from typing import Iterator, List, NamedTuple, Tuple

from . import files

#: Bytes that are read at first, and at most: descriptions, which we skip, come after the blank line or last.
FIRST = 32 * 1024
LIMIT = 1024 * 1024
#: Characters, and how many requirements.
NAME_LIMIT = 200
REQUIREMENT_LIMIT = 500
REQUIREMENTS_LIMIT = 200

_NAME = re.compile(r"([A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9])\Z", re.IGNORECASE | re.ASCII)
_BLANK = re.compile(rb"\r?\n\r?\n|\r\r")
_WANTED = {"name", "version", "requires-dist"}


class Metadata(NamedTuple):
    """`is_cut`: it requires more than that."""

    name: str
    version: str
    requires: List[str]
    is_cut: bool = False


class BrokenError(Exception):
    """There is no distribution in it; the text says why."""


def read_metadata(path: str, is_folder: bool) -> Metadata:
    """Of a ``.dist-info`` or ``.egg-info``. Raises `BrokenError`."""
    try:
        content = _content(path, is_folder)
        name, version = "", ""
        requires: List[str] = []
        is_cut = len(content) == LIMIT
        for header, value in _headers(content):
            if header == "name":
                name = name or value
            elif header == "version":
                version = version or value
            else:
                requires.append(value)
        if not requires and is_folder and path.endswith((".egg-info", "EGG-INFO")):
            requires, is_cut = _egg_requires(path)
    except OSError as error:
        raise BrokenError("it cannot be read: %s" % (error.strerror or error)) from error
    except ValueError as error:
        raise BrokenError(str(error)) from error
    kept = [one for one in requires if len(one) <= REQUIREMENT_LIMIT][:REQUIREMENTS_LIMIT]
    return Metadata(_checked(name), _checked_version(version), kept, is_cut or len(kept) < len(requires))


def _content(path: str, is_folder: bool) -> bytes:
    if not is_folder:
        return _read_headers(path)
    for name in ("METADATA", "PKG-INFO"):
        try:
            content = _read_headers(os.path.join(path, name))
        except FileNotFoundError:
            continue
        if content:
            return content
    raise BrokenError("it holds no metadata")


def _read_headers(path: str) -> bytes:
    content = files.read(path, FIRST)
    if len(content) == FIRST and not _BLANK.search(content):
        content = files.read(path, LIMIT)
    return _BLANK.split(content, maxsplit=1)[0]


def _headers(content: bytes) -> Iterator[Tuple[str, str]]:
    """The wanted ones; what is folded over several lines becomes one."""
    name, value = "", ""
    text = content.decode("utf-8", "replace")
    for line in re.split("\r\n|\r|\n", text) if "\r" in text else text.split("\n"):
        if line[:1] in (" ", "\t"):
            value = "%s %s" % (value.rstrip(), line.strip()) if name else ""
            continue
        if name:
            yield name, value.strip()
        header, colon, value = line.partition(":")
        if not colon:
            return  # as the email parser does: the text has begun
        name = header.lower()
        if name not in _WANTED:
            name = ""
    if name:
        yield name, value.strip()


def _checked(name: str) -> str:
    if not name:
        raise BrokenError("it has no name")
    if len(name) > NAME_LIMIT or not _NAME.match(name):
        raise BrokenError("its name is none")
    return name


def _checked_version(version: str) -> str:
    if not version:
        raise BrokenError("it has no version")
    if len(version) > NAME_LIMIT or not version.isprintable():
        raise BrokenError("its version is none")
    return version


def _egg_requires(folder: str) -> Tuple[List[str], bool]:
    """And whether there may be more."""
    # https://setuptools.pypa.io/en/latest/deprecated/python_eggs.html#requires-txt: sections are called
    # "extra:marker", either of which may be missing.
    try:
        content = files.read(os.path.join(folder, "requires.txt"), FIRST)
    except OSError:
        return [], False
    found: List[str] = []
    condition = ""
    for line in map(str.strip, content.decode("utf-8", "replace").splitlines()):
        if line.startswith("[") and line.endswith("]"):
            extra, _, marker = line[1:-1].partition(":")
            conditions = ["(%s)" % marker] if marker else []
            conditions += ['extra == "%s"' % extra] if extra else []
            condition = " and ".join(conditions)
        elif line and not line.startswith("#"):
            # The blank before the semicolon ends a URL.
            found.append("%s ; %s" % (line, condition) if condition else line)
    return found, len(content) == FIRST
