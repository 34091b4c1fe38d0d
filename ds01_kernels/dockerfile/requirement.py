"""What may be asked for: requirements, names of packages, and the pip command that installs them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from packaging.utils import canonicalize_name

from ..errors import BadInputError
from ..requirement import Wanted, parse_requirement, read_requirement
from ..text import shown
from . import pip_command
from .shell import split

PIP_WORDS = re.compile(r"[A-Za-z0-9._/+-]+(?: [A-Za-z0-9._/+-]+)*")


def read_requirements(specs: Iterable[str]) -> dict[str, tuple[Wanted, ...]]:
    """By normalised name, in the order given; a name may come twice only with a marker each time.

    Raises BadInputError, also for what `read_requirement` refuses."""
    found: dict[str, list[Wanted]] = {}
    for spec in specs:
        wanted = read_requirement(spec)
        same = found.setdefault(wanted.name, [])
        if wanted.parsed not in [one.parsed for one in same]:
            same.append(wanted)
    for name, same in found.items():
        if len(same) > 1 and not all(one.parsed.marker for one in same):
            texts = " and ".join(one.text for one in same)
            raise BadInputError(f"{name} is asked for twice: {texts}.", remedy="Give it once.")
    return {name: tuple(same) for name, same in found.items()}


def read_names(names: Iterable[str]) -> tuple[str, ...]:
    """Normalised, each once."""
    found: list[str] = []
    for name in names:
        if parse_requirement(name).name != name.strip():
            raise BadInputError(
                f"{shown(name)!r} is not the name of a package.", remedy="Give the name alone."
            )
        found.append(canonicalize_name(name.strip()))
    return tuple(dict.fromkeys(found))


def read_pip(command: str) -> str:
    """A command such as ``pip`` or ``/usr/bin/python -m pip``, and no other word in it."""
    words = split(command).commands if PIP_WORDS.fullmatch(command) else ()
    if not words or pip_command.length(words[0]) != len(words[0]):
        raise BadInputError(
            f"{shown(command)!r} is not a pip command.",
            remedy="Give one such as pip, pip3 or /usr/bin/python -m pip.",
        )
    return command
