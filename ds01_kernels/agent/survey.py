"""What this interpreter is, for the side that cannot look for itself."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from functools import lru_cache
from importlib import metadata
from typing import Any, Dict, List, Optional, Tuple

from .paths import kernel_path

#: Seconds for another interpreter to say where it is.
PREFIX_LIMIT = 10.0


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


def markers() -> Dict[str, str]:
    """https://packaging.python.org/en/latest/specifications/dependency-specifiers/#environment-markers"""
    system = os.uname()
    number = sys.implementation.version
    kind = "" if number.releaselevel == "final" else "%s%d" % (number.releaselevel[0], number.serial)
    return {
        "implementation_name": sys.implementation.name,
        "implementation_version": "%d.%d.%d%s" % (*number[:3], kind),
        "os_name": os.name,
        "platform_machine": system.machine,
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": system.release,
        "platform_system": system.sysname,
        "platform_version": system.version,
        "python_full_version": platform.python_version(),
        "python_version": "%d.%d" % sys.version_info[:2],
        "sys_platform": sys.platform,
    }


@lru_cache(maxsize=1)
def installing() -> Dict[str, Any]:
    """A dict: pip, the command that installs for this interpreter; externally_managed: PEP 668 forbids it.

    It may run the interpreter that ``pip`` on the PATH belongs to.
    """
    own = _pip()
    here = "%s %s" % (sys.prefix, sys.version_info[:2])
    is_ours = own is not None and (own == sys.executable or _prefix(own) == here)
    # https://packaging.python.org/en/latest/specifications/externally-managed-environments/
    mark = os.path.join(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")
    return {
        "pip": "pip" if is_ours else "%s -m pip" % sys.executable,
        "externally_managed": os.path.exists(mark) and sys.prefix == sys.base_prefix,
    }


def _implementation() -> str:
    # Free-threaded builds load none of the ordinary extension modules.
    threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    return sys.implementation.name + ("-freethreaded" if threaded else "")


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


def _prefix(python: str) -> Optional[str]:
    """Where that interpreter's packages belong; None when it cannot be run."""
    code = "import sys; print(sys.prefix, sys.version_info[:2])"
    try:
        done = subprocess.run(
            [python, "-I", "-c", code], stdout=subprocess.PIPE, timeout=PREFIX_LIMIT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout[:4096].decode("utf-8", "replace").strip()


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
