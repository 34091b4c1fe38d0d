"""What this interpreter is, for the side that cannot look for itself."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import sysconfig
from contextlib import suppress
from importlib import metadata
from typing import Any, Dict, List, Optional, Tuple


def survey() -> Dict[str, Any]:
    """A dict: executable, version, implementation, libc, libc_version, machine, ipykernel, pip, user, home.

    ``ipykernel`` is the version that a kernel here would import, or None; ``pip`` the interpreter that
    ``pip`` on the PATH belongs to, or None.
    """
    libc, libc_version = _libc()
    return {
        "executable": sys.executable,
        "version": list(sys.version_info[:3]),
        "implementation": _implementation(),
        "libc": libc,
        "libc_version": libc_version,
        "machine": platform.machine(),
        "ipykernel": _version("ipykernel"),
        "pip": _pip(),
        "user": os.getuid(),
        "home": os.path.expanduser("~"),
    }


def prepare_user_site() -> None:
    """Make the user's site-packages exist, so that it stands on every kernel's path from the start.

    `site` adds it only when it is there at start-up (https://docs.python.org/3/library/site.html): a first
    ``pip install`` into a missing one would not be importable without a restart.
    """
    # A read-only home: pip will say so itself.
    with suppress(OSError):
        os.makedirs(_user_site(), exist_ok=True)


def kernel_path() -> List[str]:
    """The folders in which a kernel of this interpreter finds packages; the agent itself runs isolated."""
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return inherited + [entry for entry in sys.path if entry] + [_user_site()]


def _implementation() -> str:
    # Free-threaded builds load none of the ordinary extension modules.
    threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    return sys.implementation.name + ("-freethreaded" if threaded else "")


def _user_site() -> str:
    # Not site.getusersitepackages(): in isolated mode `site` leaves PYTHONUSERBASE aside.
    base = os.environ.get("PYTHONUSERBASE") or os.path.expanduser(os.path.join("~", ".local"))
    return sysconfig.get_path("purelib", "posix_user", vars={"userbase": base})


def _version(name: str) -> Optional[str]:
    for distribution in metadata.distributions(name=name, path=kernel_path()):
        version = distribution.version
        if isinstance(version, str):
            return version
    return None


def _pip() -> Optional[str]:
    path = shutil.which("pip")
    if path is None:
        return None
    try:
        with open(path, "rb") as script:
            first = script.readline(500)
    except OSError:
        return None
    words = first[2:].decode("utf-8", "replace").split() if first.startswith(b"#!") else []
    return words[-1] if words else None


def _libc() -> Tuple[str, List[int]]:
    name, version = platform.libc_ver()
    if name == "glibc":
        numbers = re.findall(r"\d+", version)
        return "glibc", [int(number) for number in numbers[:2]]
    if any(entry.startswith("ld-musl-") for entry in _listdir("/lib")):
        return "musl", [1, 2]
    return name or "unknown", [0, 0]


def _listdir(path: str) -> List[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
