"""The packages of one interpreter, as its container lists them and as we keep them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import PurePosixPath
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from ..errors import BadInputError, ProtocolError
from ..requirement import MOST_CHARACTERS, read_requirement, without_credentials
from .fields import LONG, fields, flag, is_name, line, name, rows
from .requires import applying

KINDS = ("index", "url", "vcs", "local", "editable")
#: These write a file ``REQUESTED`` for what was asked for: https://peps.python.org/pep-0376/#requested
MARK_REQUESTED = ("pip", "uv")

MOST_PACKAGES = 20_000
MOST_BROKEN = 1000
MOST_REQUIRES = 200
MOST_EXTRAS = 100
#: Characters of one Requires-Dist.
REQUIRES_LENGTH = 500


@dataclass(frozen=True)
class Origin:
    """Where a package came from, by its ``direct_url.json``: ``kind`` is one of `KINDS`, ``hash`` reads
    ``sha256=…``, ``private`` says that the address held credentials, which it does no more.

    https://packaging.python.org/en/latest/specifications/direct-url/"""

    kind: str
    url: str = ""
    commit: str = ""
    hash: str = ""
    subdirectory: str = ""
    private: bool = False

    def is_same_as(self, other: Origin) -> bool:
        """Whether the same would be installed from there. Of an index nothing is known afterwards."""
        if self.kind != other.kind or self.kind == "index":
            return self.kind == other.kind
        # Older pips write no hash.
        hashes = {self.hash.replace(":", "="), other.hash.replace(":", "=")} - {""}
        mine, theirs = ((one.url, one.commit, one.subdirectory) for one in (self, other))
        return mine == theirs and len(hashes) < 2

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "url": self.url,
            "commit": self.commit,
            "hash": self.hash,
            "subdirectory": self.subdirectory,
            "private": self.private,
        }

    @classmethod
    def from_json(cls, value: object) -> Origin:
        """Raises ValueError."""
        given = fields(value, "an origin")
        kind = given.get("kind")
        if kind not in KINDS:
            raise ValueError("the kind of an origin is not known")
        url, private = line(given.get("url", ""), "an address", LONG), False
        if "://" in url or kind in ("url", "vcs"):
            # Where an address was cut off, nobody can tell a password from a host.
            url, private = without_credentials("" if url.endswith("…") else url)
        return cls(
            kind,
            url,
            line(given.get("commit", ""), "a commit"),
            line(given.get("hash", ""), "a hash"),
            line(given.get("subdirectory", ""), "a subdirectory", LONG),
            private or flag(given.get("private", False), "private"),
        )


@dataclass(frozen=True)
class Package:
    """An installed distribution. ``name`` is normalised, ``version`` as in its metadata; ``requires`` are the
    normalised names that apply in its interpreter. ``extras`` and ``spec`` are what the user asked for, as
    far as that is known: of a container it may be, of an image hardly ever."""

    name: str
    version: str
    location: str
    requested: bool
    installer: str
    origin: Origin
    requires: tuple[str, ...]
    extras: tuple[str, ...] = ()
    spec: str = ""

    def is_same_as(self, other: Package) -> bool:
        return same_version(self.version, other.version) and self.origin.is_same_as(other.origin)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "requested": self.requested,
            "location": self.location,
            "installer": self.installer,
            "origin": self.origin.as_json(),
            "extras": list(self.extras),
        }

    @classmethod
    def from_json(cls, value: object) -> Package:
        """What ``as_json`` gives, with ``requires`` (names) and ``spec``. Raises ValueError."""
        given = fields(value, "a package")
        named = name(given.get("name"), "the name of a package")
        return cls(
            named,
            version(given),
            line(given.get("location", ""), "a location", LONG),
            flag(given.get("requested", False), "requested"),
            line(given.get("installer", ""), "an installer"),
            Origin.from_json(given.get("origin", {"kind": "index"})),
            tuple(name(one, "a name in requires") for one in rows(given.get("requires", []), "requires")),
            extras(given.get("extras", [])),
            spec(given.get("spec", ""), named),
        )


@dataclass(frozen=True)
class Broken:
    """A distribution whose metadata cannot be used: where it lies, and why."""

    path: str
    reason: str

    @property
    def name(self) -> str:
        """The normalised name by the folder's: ``ruamel_yaml-0.18.dist-info`` is ruamel-yaml's."""
        stem = PurePosixPath(self.path).name.removesuffix(".dist-info").removesuffix(".egg-info")
        return canonicalize_name(stem.split("-")[0])


@dataclass(frozen=True)
class Installed:
    """All packages of an interpreter, whose path is ``python``; each name is there once.

    ``pip`` is the command that installs for it; ``externally_managed``: PEP 668 stands in its way."""

    python: str
    packages: tuple[Package, ...] = ()
    broken: tuple[Broken, ...] = ()
    pip: str = "pip"
    externally_managed: bool = False

    @cached_property
    def by_name(self) -> Mapping[str, Package]:
        return {package.name: package for package in self.packages}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Installed:
        """The agent's message ``listed``. Raises ProtocolError."""
        try:
            return listed(message)
        except ValueError as error:
            raise ProtocolError(f"The agent's list of packages cannot be used: {error}.") from None

    def as_json(self) -> dict[str, Any]:
        """All of it, to be kept on disk."""
        return {
            "python": self.python,
            "packages": [
                {**one.as_json(), "requires": list(one.requires), "spec": one.spec} for one in self.packages
            ],
            "broken": [{"path": one.path, "reason": one.reason} for one in self.broken],
            "pip": self.pip,
            "externally_managed": self.externally_managed,
        }

    @classmethod
    def from_json(cls, value: object) -> Installed:
        """Raises ValueError."""
        given = fields(value, "the list of packages")
        return cls(
            line(given.get("python"), "python", LONG),
            tuple(map(Package.from_json, rows(given.get("packages"), "packages"))),
            tuple(map(broken, rows(given.get("broken"), "broken"))),
            pip(given),
            flag(given.get("externally_managed", False), "externally_managed"),
        )


def listed(message: Mapping[str, Any]) -> Installed:
    """Raises ValueError."""
    rows_given = rows(message.get("packages"), "packages")
    if len(rows_given) > MOST_PACKAGES:
        raise ValueError(f"it has more than {MOST_PACKAGES} packages")
    faults = [broken(one) for one in rows(message.get("broken", []), "broken")[:MOST_BROKEN]]
    found: dict[str, Package] = {}
    texts: dict[str, list[str]] = {}
    for given in (fields(one, "a package") for one in rows_given):
        if fault := fault_of(given):
            faults.append(fault)
            continue
        raw = [requires_text(one) for one in rows(given.get("requires", []), "requires")[:MOST_REQUIRES]]
        package = Package.from_json({**given, "requires": []})
        # The first one on sys.path is the one that is imported.
        if package.name not in found:
            found[package.name], texts[package.name] = package, raw
    required = applying(texts, {one.name: one.extras for one in found.values()}, variables(message))
    needed = {one for names in required.values() for one in names}
    return Installed(
        line(message.get("python"), "python", LONG),
        tuple(
            replace(one, requires=required[one.name], requested=is_requested(one, needed))
            for one in found.values()
        ),
        tuple(faults[:MOST_BROKEN]),
        pip(message),
        flag(message.get("externally_managed", False), "externally_managed"),
    )


def pip(given: Mapping[str, Any]) -> str:
    return line(given.get("pip", "pip"), "pip", LONG)


def fault_of(given: Mapping[str, Any]) -> Broken | None:
    """Why a package cannot be told of, if so."""
    named, path = line(given.get("name"), "a name"), line(given.get("location", ""), "a location", LONG)
    if not is_name(named):
        return Broken(path, f"its name, {named}, is no name of a package")
    if not line(given.get("version"), "a version"):
        return Broken(path, f"{named} has no version")
    return None


def is_requested(package: Package, needed: set[str]) -> bool:
    if package.installer in MARK_REQUESTED:
        # Who asks for what is there already as a dependency has asked for it all the same.
        return package.requested or bool(package.spec)
    return package.name not in needed or bool(package.spec)


def variables(message: Mapping[str, Any]) -> dict[str, str]:
    given = fields(message.get("markers", {}), "markers")
    return {key: line(value, "a marker's variable") for key, value in given.items()}


def requires_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a text in requires is none")  # noqa: TRY004
    return value[:REQUIRES_LENGTH]


def broken(value: object) -> Broken:
    given = fields(value, "a broken package")
    return Broken(line(given.get("path"), "a path", LONG), line(given.get("reason"), "a reason", LONG))


def version(given: Mapping[str, Any]) -> str:
    text = line(given.get("version"), "a version")
    if not text:
        raise ValueError("a version is empty")
    return text


def extras(value: object) -> tuple[str, ...]:
    """As they were typed, since an older pip compares them so; those that are no names are left out."""
    texts = [line(one, "an extra") for one in rows(value, "extras")[:MOST_EXTRAS]]
    return tuple(sorted({one for one in texts if is_name(one)}))


def spec(value: object, named: str) -> str:
    """What the user typed, if it can be written again: a requirement for that package, without secrets."""
    text = line(value, "a spec", MOST_CHARACTERS)
    try:
        return text if text and text == value and read_requirement(text).name == named else ""
    except BadInputError:
        return ""


def same_version(one: str, other: str) -> bool:
    """By PEP 440, where both are versions of its: 1.0 is 1.0.0."""
    if one == other:
        return True
    mine, theirs = parsed_version(one), parsed_version(other)
    return mine is not None and mine == theirs


@lru_cache(1 << 12)
def parsed_version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
