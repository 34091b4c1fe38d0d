"""What a copy of ipykernel is made for: one Python, one libc, one architecture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from packaging.tags import Tag, compatible_tags, cpython_tags

from ds01_kernels.errors import BadInputError

_ADD = "Add `ipykernel` to the project's Dockerfile."

_OLDEST, _NEWEST = (3, 8), (3, 14)
_MACHINES = ("x86_64", "aarch64")

# The first minor version of each libc for which there are wheels, by machine:
# https://packaging.python.org/en/latest/specifications/platform-compatibility-tags/
_FIRST_GLIBC = {"x86_64": 5, "aarch64": 17}
_FIRST_MUSL = 0
_LIBC_MAJOR = {"glibc": 2, "musl": 1}

# pip older than 20.3 knew these names only, and wheels of that time carry no other.
_LEGACY_GLIBC = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True)
class Target:
    """An interpreter inside a container, as it describes itself: nothing of it is trusted.

    `version` is Python's (major, minor); `libc` is "glibc" or "musl" and `libc_version` its (major, minor);
    `machine` is "x86_64" or "aarch64". Raises `BadInputError` for everything that there is no ipykernel
    copy for.
    """

    version: tuple[int, int]
    implementation: str
    libc: str
    libc_version: tuple[int, int]
    machine: str

    @classmethod
    def of(cls, survey: Mapping[str, Any]) -> Target:
        """From what the agent says of its interpreter (`agent.survey`)."""
        return cls(
            version=tuple(survey["version"][:2]),
            implementation=survey["implementation"],
            libc=survey["libc"],
            libc_version=tuple(survey["libc_version"]),
            machine=survey["machine"],
        )

    def __post_init__(self) -> None:
        if not (_is_pair(self.version) and _OLDEST <= self.version <= _NEWEST):
            too_old = _is_pair(self.version) and self.version < _OLDEST
            remedy = "Let the Dockerfile begin with an image that has a newer one." if too_old else _ADD
            shown = ".".join(map(str, self.version)) if _is_pair(self.version) else self.version
            raise _refusal("Python version", shown, "3.8 to 3.14", remedy)
        if self.implementation != "cpython":
            raise _refusal("Python implementation", self.implementation, "cpython")
        if not (isinstance(self.libc, str) and self.libc in _LIBC_MAJOR):
            raise _refusal("C library", self.libc, "glibc and musl")
        if not (isinstance(self.machine, str) and self.machine in _MACHINES):
            raise _refusal("architecture", self.machine, "x86_64 and aarch64")
        first = _FIRST_GLIBC[self.machine] if self.libc == "glibc" else _FIRST_MUSL
        major = _LIBC_MAJOR[self.libc]
        if not (_is_pair(self.libc_version) and (major, first) <= self.libc_version < (major, 100)):
            raise _refusal(f"{self.libc} version", self.libc_version, f"{major}.{first} and later")

    @property
    def python(self) -> str:
        return f"{self.version[0]}.{self.version[1]}"

    @property
    def abi(self) -> str:
        return f"cp{self.version[0]}{self.version[1]}"

    @property
    def tag(self) -> str:
        """A safe directory name, such as ``cp311-glibc2.36-x86_64``.

        It carries the libc's version, because wheels for a newer libc do not load on an older one.
        """
        return f"{self.abi}-{self.libc}{self.libc_version[0]}.{self.libc_version[1]}-{self.machine}"

    @property
    def platforms(self) -> list[str]:
        """The platform tags of the wheels that it can load, the newest first."""
        return list(self._platforms())

    @property
    def wheel_tags(self) -> frozenset[Tag]:
        """The tags of all wheels that it can load."""
        platforms = self.platforms
        return frozenset(
            chain(
                cpython_tags(self.version, [self.abi], platforms),
                compatible_tags(self.version, self.abi, platforms),
            )
        )

    def _platforms(self) -> Iterator[str]:
        family = "manylinux" if self.libc == "glibc" else "musllinux"
        first = _FIRST_GLIBC[self.machine] if self.libc == "glibc" else _FIRST_MUSL
        major, newest = self.libc_version
        for minor in range(newest, first - 1, -1):
            yield f"{family}_{major}_{minor}_{self.machine}"
            if self.libc == "glibc" and minor in _LEGACY_GLIBC:
                yield f"{_LEGACY_GLIBC[minor]}_{self.machine}"


def _is_pair(value: object) -> bool:
    # Exact types: what arrives may be a bool, or an object that compares as it likes.
    return type(value) is tuple and len(value) == 2 and all(type(number) is int for number in value)


def _refusal(what: str, value: object, known: str, remedy: str = _ADD) -> BadInputError:
    shown = ascii(value)
    shown = shown if len(shown) <= 60 else shown[:60] + "..."
    return BadInputError(
        f"There is no ipykernel copy for {what} {shown}: only for {known}.",
        remedy=remedy,
    )
