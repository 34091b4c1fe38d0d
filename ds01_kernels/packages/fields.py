"""Reads the fields of JSON that somebody else wrote. Each raises ValueError, saying which field is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from packaging.utils import canonicalize_name

from ..text import clean, shown

#: Characters of a name, a version, a word.
SHORT = 200
#: Characters of a path or an address.
LONG = 2000

# https://packaging.python.org/en/latest/specifications/name-normalization/
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


def fields(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no object")  # noqa: TRY004 - bad data, not a bug
    return value


def rows(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what} is no list")  # noqa: TRY004
    return value


def flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{what} is neither true nor false")  # noqa: TRY004
    return value


def line(value: object, what: str, most: int = SHORT) -> str:
    """The text, on one line and at most that long, safe to show. Reading it again changes nothing."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is no text")  # noqa: TRY004
    text = value[: 2 * most]
    if not text.isprintable():
        text = shown(clean(text, colours=False), most) + "\N{REPLACEMENT CHARACTER}"
    # The agent cuts at the same length: what is that long may have been longer.
    return text if len(text) < most else text[: most - 1] + "…"


def is_name(text: str) -> bool:
    return len(text) < SHORT and bool(NAME.fullmatch(text))


def name(value: object, what: str) -> str:
    """The name of a package, normalised."""
    text = line(value, what)
    if not is_name(text):
        raise ValueError(f"{what} is no name of a package")
    return canonicalize_name(text)
