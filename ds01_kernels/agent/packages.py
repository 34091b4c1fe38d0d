"""What is installed: the distributions that a kernel of this interpreter finds, as ``pip list`` has them.

Everything here may have been written by anybody. What cannot be understood is reported and skipped.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import PurePosixPath
from typing import Any, Container, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from . import files
from .direct_url import FILE_LIMIT, Origin, origin, read_origin, without_credentials
from .metadata import BrokenError, read_metadata

#: How many are listed, and of those that cannot be read; characters of a path, a reason, an installer's name.
MOST = 20000
MOST_BROKEN = 100
PATH_LIMIT = 2000
REASON_LIMIT = 200
INSTALLER_LIMIT = 100

#: pip leaves them out: old Pythons came with metadata for them, and there they cannot be installed.
#: https://github.com/pypa/pip/blob/main/src/pip/_internal/utils/compat.py
STANDARD_LIBRARY = {"python", "wsgiref", "argparse"}

_SUFFIXES = (".dist-info", ".egg-info")

Package = Dict[str, Any]


class Listing(NamedTuple):
    """`packages` are sorted by name; `folders` hold their metadata, and changed last at that time (ns).

    `aside` are folders that pip has renamed until what replaces them is there, and when it did that (ns).
    """

    packages: List[Package]
    broken: List[Dict[str, str]]
    folders: Dict[str, int]
    aside: Dict[str, int]


def list_packages(path: Sequence[str], sites: Container[str]) -> Listing:
    """Those found in the folders of `path`, of which those in `sites` are made to be installed into."""
    found: Dict[str, Package] = {}
    listing = Listing([], [], {}, {})
    for info in _infos(path):
        if len(found) >= MOST:
            _report(listing, info.path, "there are more than %d packages" % MOST)
            break
        try:
            name, package = _read(info, sites, listing)
        except BrokenError as error:
            _report(listing, info.path, str(error))
        else:
            if name not in STANDARD_LIBRARY:
                found.setdefault(name, package)
    listing.packages.extend(found[name] for name in sorted(found))
    return listing


def normalised(name: str) -> str:
    """https://packaging.python.org/en/latest/specifications/name-normalization/"""
    return re.sub(r"[-_.]+", "-", name).lower()


class _Info(NamedTuple):
    """A place of metadata; `link` is the folder that a ``.egg-link`` has led to, if one has."""

    path: str
    folder: str
    link: str = ""


def _infos(path: Sequence[str]) -> Iterator[_Info]:
    """In the order in which the first one of a name wins."""
    for folder in path:
        names = _listdir(folder)
        for name in names:
            if _is_info(name) or (name.lower() == "egg-info" and folder.endswith(".egg")):
                yield _Info(os.path.join(folder, name), folder)
        for name in names:
            inner = os.path.join(folder, name, "EGG-INFO")
            if name.endswith(".egg") and os.path.isdir(inner):
                yield _Info(inner, folder)
        for name in names:
            if name.endswith(".egg-link"):
                yield from _linked(folder, name)


def _linked(folder: str, name: str) -> Iterator[_Info]:
    # https://setuptools.pypa.io/en/latest/deprecated/python_eggs.html#egg-links
    try:
        text = files.read(os.path.join(folder, name), FILE_LIMIT).decode("utf-8", "surrogateescape")
    except (OSError, ValueError):
        return
    target = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if target:
        linked = os.path.abspath(os.path.join(folder, target))
        for inner in _listdir(linked):
            if _is_info(inner):
                yield _Info(os.path.join(linked, inner), folder, linked)


def _is_info(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _read(info: _Info, sites: Container[str], listing: Listing) -> Tuple[str, Package]:
    """Its normalised name, and itself. Raises `BrokenError`."""
    try:
        status = os.stat(info.path)
    except OSError as error:
        raise BrokenError("it cannot be read: %s" % (error.strerror or error)) from error
    is_folder = stat.S_ISDIR(status.st_mode)
    if is_folder:
        listing.folders[info.path] = status.st_mtime_ns
    if os.path.basename(info.path).startswith("~"):
        # https://github.com/pypa/pip/blob/main/src/pip/_internal/utils/temp_dir.py, AdjacentTempDirectory
        listing.aside[info.path] = status.st_ctime_ns
        raise BrokenError("it is left from an uninstall that was interrupted")
    metadata = read_metadata(info.path, is_folder)
    package = {
        "name": metadata.name,
        "version": metadata.version,
        "location": _shown(info.folder),
        "requested": is_folder and os.access(os.path.join(info.path, "REQUESTED"), os.F_OK),
        "installer": _installer(info.path) if is_folder else "",
        "origin": _origin(info, is_folder, sites),
        "requires": metadata.requires,
        "extras": [],
        "spec": "",
    }
    if metadata.is_cut:
        package["cut"] = True
    return normalised(metadata.name), package


def _installer(folder: str) -> str:
    try:
        text = files.read(os.path.join(folder, "INSTALLER"), INSTALLER_LIMIT)
    except (OSError, ValueError):
        return ""
    return text.decode("utf-8", "replace").strip().partition("\n")[0].strip()


def _origin(info: _Info, is_folder: bool, sites: Container[str]) -> Origin:
    if info.link:
        return origin("editable", _file_url(info.link))
    if is_folder:
        try:
            return read_origin(files.read(os.path.join(info.path, "direct_url.json"), FILE_LIMIT))
        except FileNotFoundError:
            pass
        except (OSError, ValueError):
            return origin("url")
    if info.folder not in sites and info.path.endswith(".egg-info"):
        # A source tree that is on the path: it was built there, not installed.
        return origin("local", _file_url(info.folder))
    return origin("index")


def _file_url(folder: str) -> str:
    return without_credentials(PurePosixPath(folder).as_uri())[0]


def _listdir(folder: str) -> List[str]:
    try:
        return os.listdir(folder)
    except (OSError, ValueError):
        return []


def _report(listing: Listing, path: str, reason: str) -> None:
    if len(listing.broken) < MOST_BROKEN:
        listing.broken.append({"path": _shown(path), "reason": reason[:REASON_LIMIT]})


def _shown(path: str) -> str:
    """File names are bytes, and JSON has no place for those that are no text."""
    return os.fsencode(path).decode("utf-8", "replace")[:PATH_LIMIT]
