"""Which line of a Dockerfile a step of its build comes from. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator


def instructions(text: str) -> Iterator[tuple[int, str]]:
    """The (1-based first line, upper-case keyword) of each instruction, as the classic builder counts steps.

    Not a parser of Dockerfiles: heredocs, which that builder does not know, are read as instructions.
    https://docs.docker.com/reference/dockerfile/#format
    """
    lines = text.removeprefix("\ufeff").splitlines()
    continued = re.compile(re.escape(_escape(lines)) + r"[ \t]*$")
    inside = False
    for number, line in enumerate(lines, 1):
        words = line.split(None, 1)
        if not words or words[0].startswith("#"):
            continue
        if not inside:
            yield number, words[0].upper()
        inside = bool(continued.search(line))


def _escape(lines: list[str]) -> str:
    """The escape character: a directive counts only before everything else but other directives."""
    for line in lines:
        directive = re.match(r"#\s*([A-Za-z][\w-]*)\s*=\s*(\S+)\s*$", line.strip())
        if not directive:
            break
        if directive[1].lower() == "escape" and directive[2] == "`":
            return "`"
    return "\\"
