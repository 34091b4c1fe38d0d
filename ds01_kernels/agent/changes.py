"""What became of the packages that this process can import, as the folders that hold them tell.

Looking costs a stat of each folder; only what has changed since is read. Everything read may have been
written by anybody.
"""

from __future__ import annotations

import csv
import importlib
import os
import re
import site
import sys
import time
from contextlib import suppress
from types import ModuleType
from typing import Collection, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Set

from . import files

#: Bytes of a RECORD and of a top_level.txt that are read.
RECORD_LIMIT = 16 * 1024 * 1024

_METADATA = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._]{0,200})-([A-Za-z0-9][A-Za-z0-9.!+_]{0,99})(?:-py[\d.]+)?\.(?:dist|egg)-info\Z"
)
_MODULE = re.compile(r"([A-Za-z_][\w/]*?)(?:/__init__)?(?:\.py|(?:\.[\w-]+)?\.so)\Z")


class Distribution(NamedTuple):
    """`folder` is on `sys.path`, `entry` is its metadata in there."""

    name: str
    version: str
    folder: str
    entry: str

    @property
    def path(self) -> str:
        return os.path.join(self.folder, self.entry)

    def modules(self) -> Set[str]:
        """The dotted names of its modules, by its RECORD; without one, those at the top."""
        with suppress(OSError, ValueError, csv.Error):
            text = files.read(os.path.join(self.path, "RECORD"), RECORD_LIMIT).decode("utf-8", "replace")
            return set(_in_record(text))
        with suppress(OSError, ValueError):
            text = files.read(os.path.join(self.path, "top_level.txt"), RECORD_LIMIT).decode(
                "utf-8", "replace"
            )
            return set(text.split())
        return set()


class Change(NamedTuple):
    """One distribution before and after; the version may be the same, its files are not."""

    before: Distribution
    after: Distribution


class _Listing(NamedTuple):
    distributions: Dict[str, Distribution]
    path_files: FrozenSet[str]


class Installed:
    """What can be imported here, by normalised name, as of the last `look`."""

    def __init__(self) -> None:
        self._sites = _sites()
        self._watched = [*_packages_folders(), *(folder for folder in self._sites if folder not in sys.path)]
        self._stamps = self._look_at_folders()
        self._listings = {folder: _list(folder) for folder in self._watched}
        self._looked = time.time_ns()
        self.distributions = self._effective()

    def look(self) -> Optional[List[Change]]:
        """None while nothing has come or gone, else what was replaced.

        What has come can be imported then.
        """
        stamps = self._look_at_folders()
        if stamps == self._stamps:
            return None
        # https://docs.python.org/3/library/importlib.html#importlib.invalidate_caches
        importlib.invalidate_caches()
        changed = [folder for folder in self._watched if stamps[folder] != self._stamps[folder]]
        former, looked = self.distributions, self._looked
        self._stamps, self._looked = stamps, time.time_ns()
        for folder in changed:
            self._take_up(folder)
        self.distributions = self._effective()
        return [
            Change(before, after)
            for name, after in self.distributions.items()
            for before in [former.get(name)]
            if before is not None and _differ(before, after, after.folder in changed, looked)
        ]

    def _look_at_folders(self) -> Dict[str, int]:
        return {folder: _changed_at(folder) for folder in self._watched}

    def _effective(self) -> Dict[str, Distribution]:
        found: Dict[str, Distribution] = {}
        for folder in filter(self._listings.__contains__, sys.path):
            for name, distribution in self._listings[folder].distributions.items():
                found.setdefault(name, distribution)
        return found

    def _take_up(self, folder: str) -> None:
        known = self._listings[folder].path_files
        self._listings[folder] = _list(folder)
        if folder not in self._sites or not os.path.isdir(folder):
            return
        at = self._place(folder)
        if folder not in sys.path:
            sys.path.insert(at, folder)
            at += 1
        # Where editable installs are told to be, as `site` does it at start.
        end = len(sys.path)
        for name in sorted(self._listings[folder].path_files - known):
            site.addpackage(folder, name, None)
        added = sys.path[end:]
        if added:
            del sys.path[end:]
            sys.path[at:at] = added

    def _place(self, folder: str) -> int:
        """Where `site` would have put what belongs to `folder`: after that, or before the next."""
        if folder in sys.path:
            return sys.path.index(folder) + 1
        rank = self._sites.index(folder)
        later = [sys.path.index(other) for other in self._sites[rank + 1 :] if other in sys.path]
        if later:
            return min(later)
        # A copy of ipykernel that stands in must come last.
        known = {
            *self._sites,
            *(entry for entry in sys.path if entry.startswith((sys.prefix, sys.base_prefix))),
        }
        return max((at for at, entry in enumerate(sys.path, 1) if entry in known), default=len(sys.path))


def replaced(change: Change, before: Collection[str]) -> bool:
    """Whether this process has imported what was replaced.

    `before` are the modules that it had before the cell. What came during the cell may have come after the
    change: then only its own version tells.
    """
    loaded = [
        name for name in change.after.modules() if _is_from(sys.modules.get(name), change.before.folder)
    ]
    versions = {_version(name) for name in loaded if "." not in name}
    if change.after.version in versions and change.after.version != change.before.version:
        return False
    return any(name in before for name in loaded) or (
        change.before.version in versions and change.after.version != change.before.version
    )


def normalised(name: str) -> str:
    """https://packaging.python.org/en/latest/specifications/name-normalization/"""
    return re.sub(r"[-_.]+", "-", name).lower()


def _sites() -> List[str]:
    """The folders that `site` adds when they are there, in its order."""
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [*user, *site.getsitepackages()]


def _packages_folders() -> List[str]:
    return [entry for entry in dict.fromkeys(sys.path) if entry.endswith("-packages")]


def _changed_at(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


def _list(folder: str) -> _Listing:
    try:
        names = os.listdir(folder)
    except OSError:
        names = []
    found: Dict[str, Distribution] = {}
    for entry in names:
        if entry.endswith("-info"):
            match = _METADATA.match(entry)
            if match:
                name, version = match.groups()
                found.setdefault(normalised(name), Distribution(name, version, folder, entry))
    return _Listing(
        found, frozenset(name for name in names if name.endswith(".pth") and not name.startswith("."))
    )


def _differ(before: Distribution, after: Distribution, is_recent: bool, looked: int) -> bool:
    if before.version != after.version:
        return True
    # The same version again, from a repository or a folder perhaps.
    return is_recent and before.path == after.path and _changed_at(after.path) > looked


def _in_record(text: str) -> Iterator[str]:
    # https://packaging.python.org/en/latest/specifications/recording-installed-packages/#the-record-file
    for row in csv.reader(text.splitlines()):
        match = _MODULE.match(row[0]) if row else None
        if match:
            yield match[1].replace("/", ".")


def _is_from(module: object, folder: str) -> bool:
    # Not `getattr`: a module that loads itself lazily would.
    path = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    return isinstance(path, str) and path.startswith(folder + os.sep)


def _version(name: str) -> Optional[str]:
    version = vars(sys.modules[name]).get("__version__")
    return version if isinstance(version, str) else None
