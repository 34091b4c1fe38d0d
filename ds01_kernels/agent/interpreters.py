"""To which interpreter a command installs, and what that one has: told only where it is certain."""

from __future__ import annotations

import glob
import os
import re
import shutil
import sys
from typing import List, NamedTuple, Optional, Tuple

from . import files
from .changes import normalised
from .installs import OWN, Command

#: Bytes of a script that tell its interpreter: with a long path it stands in the second line.
HEAD = 4096

_PYTHON = re.compile(r"python(\d+(\.\d+)?)?\Z")
_TWO_LINES = re.compile(r"#!/bin/sh\n'''exec' (?:\"([^\"\n]+)\"|(\S+)) \"\$0\" \"\$@\"")


class Target(NamedTuple):
    """An interpreter other than this one: `python` as the user may call it, `prefix` where it belongs to."""

    python: str
    prefix: str

    def has(self, name: str) -> Optional[str]:
        """The version of that distribution in there, None when there is none."""
        for folder in self._folders():
            for entry in _listdir(folder):
                if entry.endswith((".dist-info", ".egg-info")):
                    found, _, version = entry.rpartition(".")[0].partition("-")
                    if normalised(found) == normalised(name):
                        return version
        return None

    def _folders(self) -> List[str]:
        name = os.path.basename(os.path.realpath(self.python))
        version = name if re.match(r"python\d\.\d+\Z", name) else "python3*"
        found = glob.glob(os.path.join(glob.escape(self.prefix), "lib*", version, "site-packages"))
        if not _is_virtual(self.prefix):
            found += glob.glob(os.path.expanduser("~/.local/lib/%s/site-packages" % version))
        if self.prefix == "/usr":
            # Debian's own: https://wiki.debian.org/Python#Deviations_from_upstream
            found += [
                *glob.glob("/usr/local/lib/%s/dist-packages" % version),
                "/usr/lib/python3/dist-packages",
            ]
        return found


def other_target(command: Command) -> Optional[Target]:
    """Where `command` installs to, if that is certain and is not this interpreter."""
    if not command.sure or command.magic or command.elsewhere:
        return None
    python = _python(command)
    if python is None or not _is_program(python):
        return None
    python = os.path.abspath(python)
    prefix = _prefix(python)
    if _same(python, prefix):
        return None
    return Target(python, prefix)


def _python(command: Command) -> Optional[str]:
    named = command.option("--python", "-p") if command.program != "conda" else ""
    if named:
        # A version, or a path; pip takes the folder of a virtual environment too.
        inside = os.path.join(named, "bin", "python")
        return inside if os.path.isdir(named) else named if os.path.isabs(named) else None
    if command.program == "pip":
        if command.called == OWN:
            return sys.executable
        path = shutil.which(command.called)
        return path if command.module or path is None else _of_script(path)
    if command.program == "uv":
        return _of_uv(command)
    return _of_conda(command)


def _of_uv(command: Command) -> Optional[str]:
    # https://docs.astral.sh/uv/pip/environments/#discovery-of-python-environments
    if any(name == "--system" for name, _ in command.options):
        return shutil.which("python3") or shutil.which("python")
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if os.environ.get(variable):
            return os.path.join(os.environ[variable], "bin", "python")
    return None


def _of_conda(command: Command) -> Optional[str]:
    # https://docs.conda.io/projects/conda/en/stable/commands/install.html
    prefix, name = command.option("--prefix", "-p"), command.option("--name", "-n")
    path = shutil.which(command.called)
    root = os.path.dirname(os.path.dirname(path)) if path else ""
    if not prefix and not name:
        prefix = os.environ.get("CONDA_PREFIX") or root
    elif name:
        prefix = root if name in ("base", "root") else os.path.join(root, "envs", name) if root else ""
    return os.path.join(prefix, "bin", "python") if os.path.isabs(prefix) else None


def _of_script(path: str) -> Optional[str]:
    """The interpreter that the first lines of a script name."""
    try:
        head = files.read(path, HEAD).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None
    match = _TWO_LINES.match(head)
    if match:
        return match[1] or match[2]
    first = head.partition("\n")[0]
    words = first[2:].split() if first.startswith("#!") else []
    if len(words) == 2 and os.path.basename(words[0]) == "env":
        return shutil.which(words[1])
    return words[0] if len(words) == 1 else None


def _is_program(path: str) -> bool:
    """Whether it is an interpreter itself: a script may lead to any."""
    if not _PYTHON.match(os.path.basename(path)):
        return False
    try:
        return os.access(path, os.X_OK) and files.read(path, 4) == b"\x7fELF"
    except (OSError, ValueError):
        return False


def _prefix(python: str) -> str:
    # https://docs.python.org/3/library/site.html: pyvenv.cfg beside the interpreter, or one folder up.
    above = os.path.dirname(os.path.dirname(os.path.abspath(python)))
    if _is_virtual(above):
        return above
    return os.path.dirname(os.path.dirname(os.path.realpath(python)))


def _is_virtual(prefix: str) -> bool:
    return os.path.exists(os.path.join(prefix, "pyvenv.cfg"))


def _same(python: str, prefix: str) -> bool:
    own: Tuple[str, str] = (os.path.realpath(sys.executable), os.path.realpath(_prefix(sys.executable)))
    return (os.path.realpath(python), os.path.realpath(prefix)) == own


def _listdir(folder: str) -> List[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
