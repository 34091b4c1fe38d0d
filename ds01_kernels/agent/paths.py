"""Where a kernel of this interpreter finds packages. The agent runs isolated, so its own path says less."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from contextlib import suppress
from functools import lru_cache
from typing import Dict, Iterator, List, Tuple

from . import files

#: Bytes of a .pth file that are read.
PTH_LIMIT = 256 * 1024


def kernel_path() -> List[str]:
    """The folders on a kernel's `sys.path`, in its order; some may not exist, or not yet."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    found = [entry for entry in inherited if os.path.isabs(entry)]
    found += sys.path[: _first_site()]
    found += _with_pth_files()
    return list(dict.fromkeys([*found, *_put_by_code()]))


def site_folders() -> List[str]:
    """The folders that packages are installed to, in `site`'s order: a venv's, the user's, the system's."""
    venv = site.getsitepackages([sys.prefix]) if _is_venv() else []
    user = [user_site()] if _heeds_user_site() else []
    return list(dict.fromkeys([*venv, *user, *site.getsitepackages()]))


def user_site() -> str:
    # Not site.getusersitepackages(): in isolated mode `site` leaves PYTHONUSERBASE aside.
    base = os.environ.get("PYTHONUSERBASE") or os.path.expanduser(os.path.join("~", ".local"))
    return sysconfig.get_path("purelib", "posix_user", vars={"userbase": base})


def prepare_user_site() -> None:
    """Make the user's site-packages exist, so that it stands on every kernel's path from the start.

    `site` adds it only when it is there at start-up (https://docs.python.org/3/library/site.html): a first
    ``pip install`` into a missing one would not be importable without a restart.
    """
    # A read-only home: pip will say so itself.
    with suppress(OSError):
        os.makedirs(user_site(), exist_ok=True)


def _with_pth_files() -> List[str]:
    """The site folders, each followed by what its .pth files add."""
    found: Dict[str, None] = {}
    for folder in site_folders():
        found[folder] = None
        found.update(dict.fromkeys(_added_by_pth_files(folder)))
    return list(found)


def _added_by_pth_files(folder: str) -> Iterator[str]:
    # https://docs.python.org/3/library/site.html; what their code (`import ...`) adds is not found so.
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if name.endswith(".pth") and not name.startswith("."):
                with suppress(OSError, ValueError):
                    for line in _lines(os.path.join(folder, name)):
                        added = os.path.abspath(os.path.join(folder, line))
                        if os.path.exists(added):
                            yield added


def _lines(path: str) -> Iterator[str]:
    for line in files.read(path, PTH_LIMIT).decode("utf-8-sig", "surrogateescape").splitlines():
        if line.strip() and not line.startswith(("#", "import ", "import\t")):
            yield line.rstrip()


@lru_cache(maxsize=None)
def _put_by_code() -> Tuple[str, ...]:
    """What code that ran at start, a sitecustomize or a .pth file, has put on the path.

    Remembered from the first call: a folder whose .pth file goes later does not belong to them.
    """
    known = set(_with_pth_files())
    return tuple(entry for entry in sys.path[_first_site() :] if entry and entry not in known)


def _first_site() -> int:
    folders = site_folders()
    return next((at for at, entry in enumerate(sys.path) if entry in folders), len(sys.path))


def _heeds_user_site() -> bool:
    if os.environ.get("PYTHONNOUSERSITE"):
        return False
    return not _is_venv() or _has_system_site()


def _is_venv() -> bool:
    return sys.prefix != sys.base_prefix


def _has_system_site() -> bool:
    # https://docs.python.org/3/library/venv.html: such an environment heeds the user's folder as well.
    with suppress(OSError, ValueError):
        text = files.read(os.path.join(sys.prefix, "pyvenv.cfg"), PTH_LIMIT).decode("utf-8", "replace")
        for line in text.splitlines():
            name, _, value = line.partition("=")
            if name.strip().lower() == "include-system-site-packages":
                return value.strip().lower() == "true"
    return False
