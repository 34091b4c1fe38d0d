"""A store on the host of ipykernel copies, for images that have none.

Each copy is one folder, made for one Python, libc and architecture; the store is mounted read-only into
every container and the folder that fits stands last on ``sys.path`` there, so that the project's own
packages win. Containers are not trusted: the store is written from the host only, and whatever a container
says of itself is checked by `Target`.

A copy is taken from the distributions that the server itself runs on when their wheels fit (no network),
and fetched by pip otherwise, pinned by the hashes of a lock file (``locks/``, made by
``scripts/lock-ipykernel``). It stands under its final name only when it is complete.

Copies for the server's own Python minor version carry ``.pyc`` files. The others cannot be compiled here:
each container, which cannot write to the store, compiles what it imports, once, in the zygote.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import stat
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from weakref import WeakValueDictionary

from packaging.version import InvalidVersion, Version

from ds01_kernels.errors import DiskFullError, Ds01Error, NoIpykernelError
from ds01_kernels.ipykernel_store import fetched, installed
from ds01_kernels.ipykernel_store.target import Target

__all__ = ["MINIMUM", "MINIMUM_CURVE", "Target", "is_sufficient", "provide", "store_root"]

# 6.0 runs the control channel in a thread of its own, so that interrupts, shutdowns and the debugger are
# answered while a cell runs (https://github.com/ipython/ipykernel/pull/585, /pull/597); 6.0.3 is the first
# that removes its ipc sockets at its end (https://github.com/ipython/ipykernel/issues/730).
MINIMUM = Version("6.0.3")

# The first that reads curve_publickey and curve_secretkey from its connection file
# (https://github.com/ipython/ipykernel/pull/1515).
MINIMUM_CURVE = Version("7.3.0")

# What MINIMUM_CURVE and later need: for older Pythons there is no ipykernel that encrypts.
_CURVE_PYTHON = (3, 10)

# A copy serves many containers for long, so what the server gives must be newer than what an image may bring.
_MINIMUM_OWN = Version("6.29")

_ELSEWHERE = "Remove it, or set XDG_DATA_HOME to a directory of your own."
_DRAFT = ".filling-"
_DRAFT_AGE = 24 * 3600.0

_log = logging.getLogger(__name__)
_filling: WeakValueDictionary[tuple[int, Path], asyncio.Lock] = WeakValueDictionary()


def is_sufficient(version: str, *, curve: bool) -> bool:
    """Whether an image's ipykernel of that version is good enough, with `curve` for encrypted channels too.

    Text that is no version (it comes from inside a container) is not good enough.
    """
    try:
        return len(version) <= 64 and Version(version) >= (MINIMUM_CURVE if curve else MINIMUM)
    except InvalidVersion:
        return False


def store_root() -> Path:
    """The user's own store, created when it is not there.

    Raises `Ds01Error` when it is not a directory that we alone can write to.
    """
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    # Relative paths there are to be ignored: https://specifications.freedesktop.org/basedir-spec/latest/
    return _safe(data if data.is_absolute() else Path.home() / ".local/share", "ds01-kernels/ipykernel")


async def provide(
    target: Target, *, curve: bool = False, root: Path | None = None, timeout: float = 300
) -> str:
    """Make sure that a complete copy for `target` is in the store; return its folder's name below the root.

    `curve` asks for a copy that can encrypt its channels; `timeout` is in seconds, for the whole fill.
    Returns at once when the copy is there. Two fills at once, in one process or in several, give one copy.

    Raises `NoIpykernelError` when there is no copy to be had, `Ds01Error` when the store cannot be written.
    """
    if curve and target.version < _CURVE_PYTHON:
        raise NoIpykernelError(
            f"Encrypted channels need ipykernel {MINIMUM_CURVE}: there is none for Python {target.python}.",
            remedy="Use a newer Python in the image, or turn transport_encryption off.",
        )
    root = store_root() if root is None else _safe(root)
    name = f"{target.tag}-{fetched.digest(target)}{'-curve' if curve else ''}"
    folder = root / name
    if _is_folder(folder):
        return name
    async with _filling.setdefault((id(asyncio.get_running_loop()), folder), asyncio.Lock()):
        if not _is_folder(folder):
            await _fill(target, folder, MINIMUM_CURVE if curve else _MINIMUM_OWN, timeout)
    return name


async def _fill(target: Target, folder: Path, minimum: Version, timeout: float) -> None:
    try:
        draft = await asyncio.to_thread(_new_draft, folder.parent)
        try:
            async with asyncio.timeout(timeout):
                copy = await _copy(target, draft, minimum)
                await asyncio.to_thread(_publish, copy, folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True)
    except TimeoutError as error:
        raise NoIpykernelError(
            f"The image has no usable ipykernel, and fetching one took longer than {timeout:g} seconds.",
            remedy=fetched.REMEDY,
        ) from error
    except OSError as error:
        kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else Ds01Error
        raise kind(
            f"The ipykernel store {folder.parent} cannot be filled: {error.strerror or error}.",
            remedy="Make room there, or make it writable.",
        ) from error


async def _copy(target: Target, draft: Path, minimum: Version) -> Path:
    """Put a copy somewhere below `draft` and return its folder."""
    try:
        distributions = await asyncio.to_thread(installed.fitting, target, minimum)
        copy = draft / "own"
        await asyncio.to_thread(installed.copy, distributions, copy)
    except installed.DoesNotFitError as error:
        _log.debug("The server's own ipykernel does not fit %s: %s", target.tag, error)
        copy = draft / "fetched"
        await fetched.fetch(target, copy)
    if target.version == sys.version_info[:2]:
        # -s: no path of the host in what containers read. Files that do not compile (templates) do not
        # matter.
        options = ["-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-s", str(copy)]
        await fetched.run([sys.executable, "-P", "-m", "compileall", *options, str(copy)], cwd=draft)
    return copy


def _publish(copy: Path, folder: Path) -> None:
    """Give a copy its final name, by one rename; when another process was faster, leave that one's."""
    for part in ("ipykernel/kernelapp.py", "debugpy/__init__.py", "zmq/__init__.py"):
        if not (copy / part).is_file():
            raise NoIpykernelError(
                f"The fetched ipykernel is not complete: {part} is missing.", remedy=fetched.REMEDY
            )
    for parent, _, files in os.walk(copy):
        # Whatever umask the server has: the container may run as another uid (rootless and remapped engines).
        Path(parent).chmod(0o755)
        for file in files:
            Path(parent, file).chmod(0o644)
    try:
        copy.rename(folder)
    except OSError:
        if not _is_folder(folder):
            raise


def _new_draft(root: Path) -> Path:
    """A private folder to work in; drafts that a crash left behind are removed."""
    for entry in root.glob(f"{_DRAFT}*"):
        with suppress(FileNotFoundError):
            if time.time() - entry.lstat().st_mtime > _DRAFT_AGE:
                shutil.rmtree(entry, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=_DRAFT, dir=root))


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _safe(path: Path, below: str = "") -> Path:
    """`path`/`below`, created when it is not there, checked to be a directory that we alone can write to."""
    root = path / below
    try:
        # Other files of ours stand beside the store, and are private.
        root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            root.mkdir(mode=0o755)
            root.chmod(0o755)
        status = root.lstat()
    except OSError as error:
        reason = error.strerror or error
        raise Ds01Error(
            f"The ipykernel store {root} cannot be created: {reason}.", remedy=_ELSEWHERE
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise Ds01Error(f"The ipykernel store {root} is not a directory.", remedy=_ELSEWHERE)
    if status.st_uid != os.geteuid():
        raise Ds01Error(f"The ipykernel store {root} belongs to another user.", remedy=_ELSEWHERE)
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        # What is in it by now cannot be trusted either.
        raise Ds01Error(
            f"Others can write to the ipykernel store {root}.", remedy="Remove it: it is filled anew."
        )
    return root
