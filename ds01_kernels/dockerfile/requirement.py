"""What may be asked for: requirements, names of packages, and the pip command that installs them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ..errors import BadInputError
from . import pip_command
from .shell import split
from .syntax import shown

MOST_CHARACTERS = 2000
REMOTE = re.compile(r"(?:(?:git|hg|svn|bzr)\+)?(?:https?|ssh|git|svn|ftp)", re.IGNORECASE)
SECRETS = re.compile(
    r"(?:.*[-_])?(?:token|password|passwd|secret|auth|apikey|key|sig|signature)", re.IGNORECASE
)
PIP_WORDS = re.compile(r"[A-Za-z0-9._/+-]+(?: [A-Za-z0-9._/+-]+)*")


@dataclass(frozen=True)
class Wanted:
    """A requirement to install: its normalised name, and its text as it was given."""

    name: str
    text: str
    parsed: Requirement

    @property
    def version(self) -> str | None:
        """The version, where exactly one is asked for."""
        match list(self.parsed.specifier):
            case [only] if only.operator == "==" and "*" not in only.version:
                return only.version
        return None


def read_requirements(specs: Iterable[str]) -> dict[str, tuple[Wanted, ...]]:
    """By normalised name, in the order given; a name may come twice only with a marker each time."""
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


def read_requirement(spec: str) -> Wanted:
    """Raises BadInputError for what is not a requirement, or not one that a build could use."""
    parsed = parse_requirement(spec)
    if parsed.url is not None:
        check_url(parsed.name, parsed.url)
    return Wanted(canonicalize_name(parsed.name), spec.strip(), parsed)


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


def parse_requirement(spec: str) -> Requirement:
    if len(spec) > MOST_CHARACTERS:
        raise BadInputError(f"A requirement is longer than {MOST_CHARACTERS} characters: {shown(spec[:40])}…")
    # packaging reads a line break as a blank; in a Dockerfile it would end the instruction.
    if not spec.isprintable() or "\\" in spec:
        raise BadInputError(
            f"{shown(spec)!r} holds a control character or a backslash.", remedy="Take it out."
        )
    try:
        return Requirement(spec)
    except InvalidRequirement:
        raise BadInputError(
            f"{shown(spec)!r} is not a requirement.",
            remedy="Give a name such as numpy, numpy==2.1.0 or name @ https://…; options are not taken.",
        ) from None


def check_url(name: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        scheme, password = parts.scheme, parts.password
    except ValueError:
        raise BadInputError(f"The address of {name} cannot be read.") from None
    if not REMOTE.fullmatch(scheme) or not parts.netloc:
        raise BadInputError(
            f"{name} comes from {shown(url)!r}, which a build cannot reach.",
            remedy="Give an address that begins with https:// or git+https://, or copy it in by a COPY line.",
        )
    # The user of an ssh address is an account, nothing secret: git@github.com.
    account = scheme.lower().endswith("ssh") and password is None
    keys = [key for key, _ in parse_qsl(parts.query, keep_blank_values=True)]
    if ("@" in parts.netloc and not account) or any(SECRETS.fullmatch(key) for key in keys):
        raise BadInputError(
            f"The address of {name} holds credentials, which would stay in the Dockerfile and the image.",
            remedy="Give it without them.",
        )
