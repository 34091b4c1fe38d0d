"""One requirement: what may be written into a file that a build reads, and what an address may hold.

Requirements come from users, from requests and from containers. ``packaging`` decides what is one; on top of
that, nothing gets through that a line or a shell word could not hold, and no credentials.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from .errors import BadInputError
from .text import shown

MOST_CHARACTERS = 2000
REMOTE = re.compile(r"(?:(?:git|hg|svn|bzr)\+)?(?:https?|ssh|git|svn|ftp)", re.IGNORECASE)
SECRETS = re.compile(
    r"(?:.*[-_])?(?:token|password|passwd|secret|auth|apikey|key|sig|signature)", re.IGNORECASE
)


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


def read_requirement(spec: str) -> Wanted:
    """Raises BadInputError for what is not a requirement, or not one that a build could use."""
    parsed = parse_requirement(spec)
    if parsed.url is not None:
        check_url(parsed.name, parsed.url)
    return Wanted(canonicalize_name(parsed.name), spec.strip(), parsed)


def parse_requirement(spec: str) -> Requirement:
    """Raises BadInputError."""
    if len(spec) > MOST_CHARACTERS:
        raise BadInputError(f"A requirement is longer than {MOST_CHARACTERS} characters: {shown(spec[:40])}…")
    # packaging reads a line break as a blank; in a Dockerfile it would end the instruction.
    if not spec.isprintable() or "\\" in spec:
        raise BadInputError(
            f"{shown(spec)!r} holds a control character or a backslash.", remedy="Take it out."
        )
    try:
        return Requirement(spec)
    # The parser calls itself for each bracket of a marker.
    except (InvalidRequirement, RecursionError):
        raise BadInputError(
            f"{shown(spec)!r} is not a requirement.",
            remedy="Give a name such as numpy, numpy==2.1.0 or name @ https://…; options are not taken.",
        ) from None


def check_url(name: str, url: str) -> None:
    """Raises BadInputError for an address that a build cannot reach, or that holds credentials."""
    try:
        parts = urlsplit(url)
        secret = holds_credentials(parts)
    except ValueError:
        raise BadInputError(f"The address of {name} cannot be read.") from None
    if not REMOTE.fullmatch(parts.scheme) or not parts.netloc:
        raise BadInputError(
            f"{name} comes from {shown(url)!r}, which a build cannot reach.",
            remedy="Give an address that begins with https:// or git+https://, or copy it in by a COPY line.",
        )
    if secret:
        raise BadInputError(
            f"The address of {name} holds credentials, which would stay in the Dockerfile and the image.",
            remedy="Give it without them.",
        )


def holds_credentials(parts: SplitResult) -> bool:
    """Raises ValueError for an address that cannot be read."""
    # The user of an ssh address is an account, nothing secret: git@github.com.
    account = parts.scheme.lower().endswith("ssh") and parts.password is None
    keys = [key for key, _ in parse_qsl(parts.query, keep_blank_values=True)]
    return ("@" in parts.netloc and not account) or any(SECRETS.fullmatch(key) for key in keys)


def without_credentials(url: str) -> tuple[str, bool]:
    """The address without its fragment and without credentials, and whether it held any.

    One that cannot be taken apart is given up whole: nobody knows what it holds."""
    url = url.strip().partition("#")[0]
    try:
        parts = urlsplit(url)
        secret = holds_credentials(parts)
    except ValueError:
        return "", False
    # ``user:word@host/path``, which has no // to tell where the host begins.
    if not parts.netloc and not parts.scheme.endswith("file") and re.search(r":[^@]*@", url):
        return "", True
    if not secret:
        return url, False
    host = parts.netloc.rpartition("@")[2]
    query = "&".join(
        pair
        for pair in parts.query.split("&")
        if not any(SECRETS.fullmatch(key) for key, _ in parse_qsl(pair, keep_blank_values=True))
    )
    url = url.replace(f"//{parts.netloc}", f"//{host}", 1)
    return url.replace(f"?{parts.query}", f"?{query}" if query else "", 1), True
