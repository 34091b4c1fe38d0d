"""A copy from the distributions that the server itself runs on: no network needed."""

from __future__ import annotations

import json
import platform
import shutil
import site
import sys
import sysconfig
from collections.abc import Sequence
from email.parser import HeaderParser
from importlib.metadata import Distribution
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, parse_tag
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from ds01_kernels.ipykernel_store.target import Target

# The debugger is a dependency of ipykernel's on most platforms only.
_ROOTS = ("ipykernel", "debugpy")


class DoesNotFitError(Exception):
    """The server's own distributions cannot serve; the message says why."""


def fitting(target: Target, minimum: Version, path: Sequence[str] | None = None) -> list[Distribution]:
    """ipykernel, at least `minimum`, with all it needs, as installed here. Raises `DoesNotFitError`.

    `path` is where distributions are looked for; by default, this interpreter's site-packages directories.
    """
    # Environment markers are evaluated for this interpreter, so the target must give the same answers.
    if (sys.implementation.name, sys.platform) != (target.implementation, "linux"):
        raise DoesNotFitError("the server's Python is of another kind")
    if sys.version_info[:2] != target.version or platform.machine() != target.machine:
        raise DoesNotFitError("the server's Python has another version or architecture")
    found = _closure(_site_packages() if path is None else path)
    if not _satisfies(found["ipykernel"], Requirement(f"ipykernel>={minimum}")):
        raise DoesNotFitError(f"the server's ipykernel is older than {minimum}")
    tags = target.wheel_tags
    for distribution in found.values():
        _check(distribution, tags)
    return list(found.values())


def copy(distributions: Sequence[Distribution], folder: Path) -> None:
    """Copy what lies in site-packages, without scripts, data files and compiled files.

    Raises `DoesNotFitError` when a file is missing.
    """
    folder.mkdir()
    for distribution in distributions:
        for file in distribution.files or ():
            relative = PurePosixPath(file)
            if not _is_wanted(relative):
                continue
            source = Path(str(distribution.locate_file(relative)))
            if not source.is_file():
                raise DoesNotFitError(f"{relative} of {distribution.name} is missing")
            destination = folder / relative
            destination.parent.mkdir(parents=True, exist_ok=True)
            # Content, not the link: some installers link files into their cache.
            shutil.copyfile(source, destination)


def _closure(path: Sequence[str]) -> dict[str, Distribution]:
    found: dict[str, Distribution] = {}
    pending = [Requirement(name) for name in _ROOTS]
    while pending:
        wanted = pending.pop()
        name = canonicalize_name(wanted.name)
        if name not in found:
            distribution = next(iter(Distribution.discover(name=name, path=list(path))), None)
            if distribution is None:
                raise DoesNotFitError(f"{name} is not installed for the server")
            found[name] = distribution
            pending += _requirements(distribution)
        if not _satisfies(found[name], wanted):
            raise DoesNotFitError(f"the server's {name} is not {wanted.specifier}")
    return found


def _requirements(distribution: Distribution) -> list[Requirement]:
    try:
        requirements = [Requirement(line) for line in distribution.requires or ()]
    except InvalidRequirement as error:
        raise DoesNotFitError(f"the metadata of {distribution.name} cannot be read") from error
    return [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": ""})]


def _satisfies(distribution: Distribution, requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(distribution.version, prereleases=True)
    except InvalidVersion:
        return False


def _check(distribution: Distribution, tags: frozenset[Tag]) -> None:
    """Only a wheel that says what it runs on, and lists its files, can be copied."""
    name = distribution.name
    # Distribution packages of an operating system have no RECORD, on purpose:
    # https://peps.python.org/pep-0627/
    if distribution.read_text("RECORD") is None:
        raise DoesNotFitError(f"{name} has no RECORD")
    if _is_editable(distribution.read_text("direct_url.json")):
        raise DoesNotFitError(f"{name} is an editable installation")
    lines = HeaderParser().parsestr(distribution.read_text("WHEEL") or "").get_all("Tag", [])
    # A locally built wheel says linux_x86_64, which does not tell the libc that it needs: it never fits.
    if not any(tag in tags for line in lines for tag in parse_tag(line)):
        raise DoesNotFitError(f"{name} was built for {', '.join(lines) or 'something unknown'}")


def _is_editable(direct_url: str | None) -> bool:
    if direct_url is None:
        return False
    try:
        return bool(json.loads(direct_url).get("dir_info", {}).get("editable"))
    except (ValueError, AttributeError):
        return True


def _is_wanted(path: PurePosixPath) -> bool:
    if path.is_absolute() or ".." in path.parts or "__pycache__" in path.parts:
        return False
    return path.suffix not in (".pth", ".pyc")


def _site_packages() -> list[str]:
    """The site-packages directories on sys.path, in its order.

    Not all of sys.path: it may begin with the directory that the server was started in, where containers
    can write.
    """
    directories = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    if site.ENABLE_USER_SITE:
        directories.add(site.getusersitepackages())
    return [entry for entry in sys.path if entry in directories]
