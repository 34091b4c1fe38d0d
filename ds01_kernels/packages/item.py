"""One package of a drift, and the requirement that makes it permanent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from packaging.utils import canonicalize_name

from ..errors import BadInputError
from ..requirement import read_requirement
from .fields import fields, flag, line, name, rows
from .installed import Origin, extras, parsed_version, spec, version

VCS = re.compile(r"(?:git|hg|svn|bzr)\+", re.IGNORECASE)
# Of git and Mercurial hexadecimal, of Subversion a number.
COMMIT = re.compile("[0-9A-Fa-f]{1,64}")
# What pip reads in a fragment: https://pip.pypa.io/en/stable/topics/vcs-support/#url-fragments
HASH = re.compile("(?P<how>md5|sha1|sha224|sha256|sha384|sha512)[=:](?P<digest>[0-9A-Fa-f]+)")
# Those of RFC 3986 but for the ones that begin a fragment or quote a text.
ADDRESS = re.compile(r"[A-Za-z0-9._~:/?\[\]@!$&()*+,;=%-]+")


@dataclass(frozen=True)
class Dependency:
    """A package that came with another one; ``from_`` is its version in the image, empty for a new one."""

    name: str
    version: str
    from_: str = ""

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version} | ({"from": self.from_} if self.from_ else {})

    @classmethod
    def from_json(cls, value: object) -> Dependency:
        """Raises ValueError."""
        given = fields(value, "a dependency")
        named = name(given.get("name"), "the name of a dependency")
        return cls(named, version(given), line(given.get("from", ""), "from"))


@dataclass(frozen=True)
class Item:
    """A package that differs. ``version`` and ``origin`` are the container's, of a removed one the image's.

    ``from_`` is the image's version where it was changed, and equal to ``version`` where only its origin or
    its extras were. ``reason`` says why it cannot be made permanent: a sentence without its full stop."""

    name: str
    version: str
    requested: bool
    extras: tuple[str, ...]
    origin: Origin
    spec: str
    from_: str = ""
    dependencies: tuple[Dependency, ...] = ()
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "requested": self.requested,
            "extras": list(self.extras),
            "origin": self.origin.as_json(),
            "spec": self.spec,
            "dependencies": [one.as_json() for one in self.dependencies],
            **({"from": self.from_} if self.from_ else {}),
            **({"reason": self.reason} if self.reason else {}),
        }

    @classmethod
    def from_json(cls, value: object) -> Item:
        """Raises ValueError."""
        given = fields(value, "an item")
        named = name(given.get("name"), "the name of an item")
        return cls(
            named,
            version(given),
            flag(given.get("requested"), "requested"),
            extras(given.get("extras")),
            Origin.from_json(given.get("origin")),
            spec(given.get("spec"), named),
            line(given.get("from", ""), "from"),
            tuple(map(Dependency.from_json, rows(given.get("dependencies"), "dependencies"))),
            line(given.get("reason", ""), "a reason", REASON),
        )


#: Characters of a reason, which may name an address.
REASON = 4000


def requirement(item: Item, *, pin: bool) -> str:
    """What is written for the item: ``name[extras]==version``, ``name @ git+https://…@commit``.

    Without `pin` what the user typed, its marker included, as long as that still describes what is installed;
    else the name and the extras, or the address without commit and hash (never the name alone: on an index
    it could be somebody else's). A local version (``torch==2.1.0+cu121``) is pinned as it is, although only
    the index that it came from has it: a build that knows that index finds it, and one that does not fails
    rather than take another one.

    Raises BadInputError, with the reason, for what cannot be made permanent."""
    reason = item.reason or obstacle(item)
    if reason:
        raise BadInputError(f"{item.name} cannot be made permanent: {reason}.")
    return read_requirement(pinned(item) if pin else typed(item) or unpinned(item)).text


def unpinnable(item: Item) -> str:
    """Why no requirement can be written for the item; empty if one can."""
    if reason := obstacle(item):
        return reason
    try:
        requirement(item, pin=True)
        requirement(item, pin=False)
    except BadInputError as error:
        return str(error).removesuffix(".")
    return ""


def obstacle(item: Item) -> str:
    origin = item.origin
    if origin.kind == "editable":
        return f"it is installed in editable mode from {origin.url or 'a folder'}"
    if origin.kind == "local":
        return f"it was installed from {origin.url or 'a file'}, which a build cannot reach"
    if origin.private:
        return "it came from an address that needs credentials"
    if origin.kind == "index":
        known = parsed_version(item.version) is not None
        return "" if known else f"its version, {item.version}, is none that pip could ask for"
    if not ADDRESS.fullmatch(origin.url) or not origin.subdirectory.isascii():
        return "the address that it came from is not known, or holds characters that no address has"
    if origin.kind == "vcs" and not COMMIT.fullmatch(origin.commit):
        return "the commit that it was built from is not known"
    return ""


def pinned(item: Item) -> str:
    if item.origin.kind == "index":
        return f"{with_extras(item)}=={parsed_version(item.version)}"
    return f"{with_extras(item)} @ {address(item.origin, pin=True)}"


def unpinned(item: Item) -> str:
    if item.origin.kind == "index":
        return with_extras(item)
    return f"{with_extras(item)} @ {address(item.origin, pin=False)}"


def typed(item: Item) -> str:
    """The user's own words; empty where they do not describe what is installed, and others have to do."""
    if not item.spec:
        return ""
    try:
        wanted = read_requirement(item.spec)
    except BadInputError:
        return ""
    meant = wanted.parsed
    if wanted.name != item.name or (meant.url is None) != (item.origin.kind == "index"):
        return ""
    if meant.url is None and not meant.specifier.contains(item.version, prereleases=True):
        return ""
    if {canonicalize_name(one) for one in item.extras} <= {canonicalize_name(one) for one in meant.extras}:
        return item.spec
    # An extra of an earlier install, which was not named again.
    meant.extras |= set(item.extras)
    return str(meant)


def with_extras(item: Item) -> str:
    return f"{item.name}[{','.join(item.extras)}]" if item.extras else item.name


def address(origin: Origin, *, pin: bool) -> str:
    """With the fragment that pip reads: ``git+https://host/x@commit#subdirectory=y``."""
    url = origin.url
    fragment = []
    if origin.kind == "vcs":
        url = url if VCS.match(url) else f"git+{url}"
        url += f"@{origin.commit}" if pin else ""
    elif pin and (match := HASH.fullmatch(origin.hash)):
        fragment.append(f"{match['how']}={match['digest']}")
    if origin.subdirectory:
        fragment.append(f"subdirectory={quote(origin.subdirectory, safe='/._~+-')}")
    return url + (f"#{'&'.join(fragment)}" if fragment else "")
