"""What `pip check` would say of a list of packages, without pip.

https://github.com/pypa/pip/blob/main/src/pip/_internal/operations/check.py is what this follows, to the word.
Whether packages are built for this platform, at which newer pips look too, is not in the list: whatever
installs packages has seen to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from ..errors import ProtocolError
from .fields import LONG, fields, line, rows
from .installed import MOST_PACKAGES, fault_of, requires_text, variables
from .requires import VARIABLES

#: Not in the agent's list, but counted by `pip check` where they are (`agent.packages.STANDARD_LIBRARY`).
UNLISTED = {"python", "wsgiref", "argparse"}

#: Requirements that are read; the largest installations have some ten thousand.
MOST_REQUIREMENTS = 50_000


class UnclearError(Exception):
    """Only the pip that is there can tell, by its own rules for what is no proper metadata."""


@dataclass(frozen=True)
class _Declared:
    version: Version
    requires: tuple[Requirement, ...]


def breakages(message: Mapping[str, Any]) -> frozenset[str]:
    """The sentences of `pip check` on the agent's message ``listed``, each naming both packages.

    Raises `UnclearError`, and `ProtocolError` for what is no such message.
    """
    try:
        found = _declared(message)
        applies = _evaluation({name: variables(message).get(name, "") for name in VARIABLES})
    except ValueError as error:
        raise ProtocolError(f"The agent's list of packages cannot be used: {error}.") from None
    said = (
        _breakage(name, package.version, requirement, found)
        for name, package in found.items()
        for requirement in package.requires
        if applies(requirement)
    )
    return frozenset(line(sentence, "a breakage", LONG) for sentence in said if sentence)


def _breakage(name: str, version: Version, requirement: Requirement, found: Mapping[str, _Declared]) -> str:
    """What is wrong with that one; empty for nothing."""
    wanted = canonicalize_name(requirement.name)
    if wanted not in found:
        if wanted in UNLISTED:
            raise UnclearError(f"{wanted} may be there")
        return f"{name} {version} requires {wanted}, which is not installed."
    there = found[wanted].version
    if requirement.specifier.contains(there, prereleases=True):
        return ""
    return f"{name} {version} has requirement {requirement}, but you have {wanted} {there}."


def _declared(message: Mapping[str, Any]) -> dict[str, _Declared]:
    """Each package by its normalised name. Raises `UnclearError`, and ValueError."""
    if rows(message.get("broken", []), "broken"):
        raise UnclearError("there is metadata that cannot be read")
    rows_given = [fields(one, "a package") for one in rows(message.get("packages"), "packages")]
    count = sum(len(rows(given.get("requires", []), "requires")) for given in rows_given)
    if len(rows_given) > MOST_PACKAGES or count > MOST_REQUIREMENTS:
        raise UnclearError("there are too many")
    found: dict[str, _Declared] = {}
    for given in rows_given:
        texts = [requires_text(one) for one in given.get("requires", [])]
        if fault_of(given) or given.get("cut") or texts != given.get("requires", []):
            raise UnclearError("there is metadata that is not known, or not all of it")
        try:
            declared = _Declared(Version(given["version"]), tuple(map(Requirement, texts)))
        except (InvalidVersion, InvalidRequirement, TypeError, RecursionError) as error:
            raise UnclearError(f"{given['name']} has metadata of its own kind") from error
        # Older pips read what comes after the version as a part of it.
        if any(one.operator == "===" for need in declared.requires for one in need.specifier):
            raise UnclearError(f"{given['name']} asks for a version by its letters")
        # The first one on sys.path is the one that is imported.
        found.setdefault(canonicalize_name(given["name"]), declared)
    return found


def _evaluation(environment: Mapping[str, str]) -> Callable[[Requirement], bool]:
    """Whether a requirement applies there, when no extras were asked for."""
    known: dict[str, bool] = {}

    def applies(requirement: Requirement) -> bool:
        if requirement.marker is None:
            return True
        text = str(requirement.marker)
        if text not in known:
            try:
                known[text] = requirement.marker.evaluate({**environment, "extra": ""})
            # Variables that only lock files have, versions that are none, brackets in brackets.
            except (ValueError, KeyError, RecursionError) as error:
                raise UnclearError("there is a marker that cannot be evaluated") from error
        return known[text]

    return applies
