"""What we keep of a project on our side: in the user's data directory, where no container can write.

::

    <jupyter data dir>/ds01/projects/<name>-<hash of its path>/
        images/<hash of an image's id>.json   what that image has installed, the few last used
        drift-<host>.json                     the drift seen last, and what was lost with other containers

A home may be shared by several hosts, each with containers of its own: hence the host in the drift's name.
Files are 0600 and written in one piece. One that cannot be read counts as absent, and the log says so.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

from jupyter_core.paths import jupyter_data_dir

from .connection import check_private
from .errors import Ds01Error
from .locks import hold_briefly
from .packages import Drift, Installed, Item
from .projects import Project

log = logging.getLogger("ds01_kernels")

MOST_IMAGE_SETS = 8
#: Items of each list of what was lost; there is no end to what containers can claim to have had.
MOST_LOST = 1000
#: Bytes of a file that is read; twenty thousand packages make a third of that.
MOST_BYTES = 64 << 20
#: Seconds after which a temporary file is one that a crash has left.
LEFTOVER = 3600.0

FORMAT = 1

T = TypeVar("T")


@dataclass(frozen=True)
class RecordedDrift:
    """``container`` and ``image`` are ids, ``when`` seconds since 1970. ``lost`` is what was in containers
    that are gone and was not restored, saved or dismissed since."""

    container: str
    image: str
    when: float
    drift: Drift
    lost: Drift

    def as_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "container": self.container,
            "image": self.image,
            "when": self.when,
            "drift": self.drift.as_json(),
            "lost": self.lost.as_json(),
        }

    @classmethod
    def from_json(cls, value: Any) -> RecordedDrift:
        """Raises ValueError."""
        given = checked(value)
        container, image, when = (given.get(key) for key in ("container", "image", "when"))
        if not isinstance(container, str) or not isinstance(image, str) or not isinstance(when, int | float):
            raise ValueError("it does not say which container it is about")  # noqa: TRY004 - bad data
        drift, lost = Drift.from_json(given.get("drift")), Drift.from_json(given.get("lost"))
        return cls(container, image, float(when), drift, lost)


class Records:
    """All records, below `root`; without one below Jupyter's data directory. Safe for several processes."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root if root is not None else Path(jupyter_data_dir()) / "ds01"

    def folder(self, project: Project) -> Path:
        """The project's private directory, made when missing. Raises `Ds01Error`."""
        path = self._folder(project)
        with said(path):
            self._root.parent.mkdir(parents=True, exist_ok=True)
            for one in (self._root, path.parent, path):
                make_private(one)
        return path

    def image_set(self, project: Project, image_id: str) -> Installed | None:
        """What was kept of that image; None when nothing was."""
        path = self._image_file(project, image_id)

        def installed(value: Any) -> Installed:
            given = checked(value)
            if given.get("image") != image_id:
                raise ValueError("it is another image's")
            return Installed.from_json(given.get("installed"))

        found = read(path, installed)
        if found is not None:
            # Those that are used stay, when others make room.
            with suppress(OSError):
                os.utime(path, follow_symlinks=False)
        return found

    def keep_image_set(self, project: Project, image_id: str, installed: Installed) -> None:
        """Raises `Ds01Error`."""
        self.folder(project)
        path = self._image_file(project, image_id)
        with said(path):
            make_private(path.parent)
            write_json(path, {"format": FORMAT, "image": image_id, "installed": installed.as_json()})
            for old in by_age(path.parent.glob("*.json"))[MOST_IMAGE_SETS:]:
                old.unlink(missing_ok=True)

    def drift(self, project: Project) -> RecordedDrift | None:
        return read(self._drift_file(project), RecordedDrift.from_json)

    def keep_drift(self, project: Project, container_id: str, image_id: str, drift: Drift) -> None:
        """Record what is seen now. What another container had is lost with it, as far as this drift, or the
        image, does not have it again. Raises `Ds01Error`."""
        self.folder(project)
        image = self.image_set(project, image_id)
        path = self._drift_file(project)
        with alone(path):
            before = read(path, RecordedDrift.from_json)
            lost = before.lost if before else Drift()
            if before and before.container != container_id:
                lost = newest(lost, before.drift)
            lost = lost.without({item.name for item in drift.items})
            lost = lost.not_in(image) if image else lost
            write_json(path, RecordedDrift(container_id, image_id, time.time(), drift, lost).as_json())

    def forget_lost(self, project: Project, names: Collection[str] | None = None) -> None:
        """Those names (normalised; None: all) were restored, saved or dismissed. Raises `Ds01Error`."""
        path = self._drift_file(project)
        with alone(path):
            before = read(path, RecordedDrift.from_json)
            if before is not None and before.lost:
                lost = Drift() if names is None else before.lost.without(names)
                write_json(path, replace(before, lost=lost).as_json())

    def _folder(self, project: Project) -> Path:
        digest = hashlib.sha256(os.fsencode(project.path)).hexdigest()[:16]
        return self._root / "projects" / f"{project.name}-{digest}"

    def _image_file(self, project: Project, image_id: str) -> Path:
        return self._folder(project) / "images" / f"{hashlib.sha256(image_id.encode()).hexdigest()[:32]}.json"

    def of_host(self, project: Project, name: str) -> Path:
        """The file of that name for this host, whose containers are its own even where the home is shared."""
        host = re.sub(r"[^A-Za-z0-9.-]", "_", socket.gethostname())[:64]
        return self._folder(project) / f"{name}-{host}.json"

    def _drift_file(self, project: Project) -> Path:
        return self.of_host(project, "drift")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 so that whoever reads it, even after a crash, finds the old or the new one.

    A link at `path` is replaced, not followed. Raises OSError."""
    remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Not every file system can do that for a folder, and the file is there by now.
        with suppress(OSError):
            os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(path: Path) -> None:
    """Temporary files of this one that a crash has left; a young one may be being written."""
    for leftover in path.parent.glob(f".{escape(path.name)}.*.tmp"):
        with suppress(OSError):
            if time.time() - leftover.lstat().st_mtime > LEFTOVER:
                leftover.unlink()


def read(path: Path, parse: Callable[[Any], T]) -> T | None:
    """What `parse` makes of the JSON in the file; None when there is none, or none that can be used."""
    try:
        return parse(json.loads(content_of(path)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        log.warning("The record %s cannot be used: %s", path, error)
        return None


def content_of(path: Path) -> bytes:
    """Raises OSError, or ValueError for what is no file of ours."""
    folder = path.parent.lstat()
    if not stat.S_ISDIR(folder.st_mode) or folder.st_uid != os.getuid():
        raise ValueError("it is not in a folder of yours")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            raise ValueError("it is not a file of yours")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")
    return content


def write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def checked(value: Any) -> dict[str, Any]:
    """Raises ValueError for what is no record of ours."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ValueError("it is no record, or one of another version")
    return value


def make_private(path: Path) -> None:
    """Make a directory that only this user can enter, or see to it that it is one. Raises `Ds01Error`."""
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) & 0o077:
        path.chmod(0o700)
    check_private(path)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Holds off all other processes, from reading a file to writing it. Raises `Ds01Error`."""
    with said(path), hold_briefly(path):
        yield


@contextmanager
def said(path: Path) -> Iterator[None]:
    """Turns what the file system says into a sentence."""
    try:
        yield
    except OSError as error:
        raise Ds01Error(
            f"Nothing can be kept in {path.parent}: {error.strerror or error}.",
            remedy="See that you may write there and that the disk is not full.",
        ) from None


def newest(lost: Drift, drift: Drift) -> Drift:
    """Both, and where that is too much, what was lost last."""
    both = lost.merged(drift)
    late = {item.name for item in drift.items}

    def some(items: tuple[Item, ...]) -> tuple[Item, ...]:
        kept = sorted(items, key=lambda item: item.name not in late)[:MOST_LOST]
        return tuple(sorted(kept, key=lambda item: item.name))

    return Drift(some(both.added), some(both.changed), some(both.removed), some(both.unpinnable))


def by_age(paths: Iterator[Path]) -> list[Path]:
    """The youngest first."""
    found = []
    for path in paths:
        with suppress(OSError):
            found.append((path.lstat().st_mtime_ns, path))
    return [path for _, path in sorted(found, reverse=True)]
