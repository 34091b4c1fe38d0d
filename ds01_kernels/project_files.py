"""Reads and writes files of a project, which anything in its container may have written or replaced."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from .errors import BadInputError, ConflictError
from .projects import Project

#: Bytes; what we read is configuration, and more of it is a mistake.
LIMIT = 1 << 20

#: As many links as Linux itself follows: https://man7.org/linux/man-pages/man7/path_resolution.7.html
MOST_LINKS = 40


def read_text(project: Project, name: str, most: int = LIMIT) -> str | None:
    """The text of the file `name` in the project's folder; None when there is none.

    A symlink may lead to another file of the project, not out of it. What is checked is what is read: one
    descriptor below the folder's own. Raises `BadInputError` when it is not such a text, or has more than
    `most` bytes.
    """
    path = project.path / name
    try:
        with opened_folder(project, name) as (folder, last):
            # Without O_NONBLOCK a named pipe would block us until somebody writes.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(last, flags, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInputError(
            f"{path} cannot be read: {error.strerror}.",
            remedy="Put a text file that you can read in its place.",
        ) from None
    # Before there is a file object: Python makes none of a directory.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadInputError(f"{path} is not a regular file.", remedy="Replace it by a text file.")
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        size = f"{most >> 20} MiB" if most >= 1 << 20 else f"{most >> 10} KiB"
        raise BadInputError(f"{path} is larger than {size}.", remedy="Is it really the right file?")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise BadInputError(f"{path} is not a text file.", remedy="It has to be text in UTF-8.")
    return text


def replace_text(project: Project, name: str, before: str, after: str) -> None:
    """Write the text of that file anew, whole or not at all; its mode and owner stay.

    `before` is what it must hold until then; empty: it may not be there. Raises `ConflictError` when it holds
    something else, and `BadInputError` when it cannot be written.
    """
    path = project.path / name

    def check(found: str | None) -> None:
        if (found or "") != before:
            raise ConflictError(
                f"{path} was changed meanwhile.", remedy="It was left as it is. Look at it, then try again."
            )

    found = read_text(project, name)
    if found == after:
        return
    check(found)
    try:
        with opened_folder(project, name) as (folder, last):
            _replace(folder, last, after.encode("utf-8"), lambda: check(read_text(project, name)))
    except OSError as error:
        raise BadInputError(
            f"{path} cannot be written: {error.strerror}.",
            remedy="Correct its permissions, or free some space; nothing was changed.",
        ) from None


def _replace(folder: int, name: str, content: bytes, check: Callable[[], None]) -> None:
    """Write a new file beside the old one, and give it that one's place unless `check` raises."""
    # https://man7.org/linux/man-pages/man3/open.3p.html: what was opened through O_PATH cannot be synced.
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    beside = f".{name}.{secrets.token_hex(6)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        was = _status(folder, name)
        # A mode without any leave to write is somebody's word, for root too.
        if was is not None and not (was.st_mode & 0o222 and os.access(name, os.W_OK, dir_fd=folder)):
            raise PermissionError(errno.EACCES, "it is read-only")
        descriptor = os.open(beside, flags, 0o600 if was else 0o666, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                if was is not None:
                    _give(descriptor, was)
                os.fsync(descriptor)
            # Once more: to write it may have taken a while.
            check()
            os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(beside, dir_fd=directory)
            raise
        os.fsync(directory)
    finally:
        os.close(directory)


def _status(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _give(descriptor: int, was: os.stat_result) -> None:
    now = os.fstat(descriptor)
    if (now.st_uid, now.st_gid) != (was.st_uid, was.st_gid):
        os.fchown(descriptor, was.st_uid, was.st_gid)
    # After that, since a change of the owner takes bits of the mode away.
    os.fchmod(descriptor, stat.S_IMODE(was.st_mode))


@contextmanager
def opened_folder(project: Project, name: str) -> Iterator[tuple[int, str]]:
    """A descriptor of the folder, in the project, in which `name` stands, and its own name there.

    Links are followed one by one, each within the folder that was reached: nothing that is renamed or put in
    their place meanwhile leads out of the project. The file itself need not be there; it is no link. Raises
    `OSError`, or `BadInputError` for what leads out.
    """
    way = [os.open(project.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)]
    parts = deque(PurePosixPath(name).parts)
    links = 0
    try:
        while True:
            part = parts.popleft()
            if part == "..":
                if len(way) == 1:
                    raise _leads_out(project, name)
                os.close(way.pop())
            elif (target := _link(part, way[-1])) is not None:
                links += 1
                if links > MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if target.is_absolute():
                    if not target.is_relative_to(project.path):
                        raise _leads_out(project, name)
                    target = target.relative_to(project.path)
                    while len(way) > 1:
                        os.close(way.pop())
                parts.extendleft(reversed(target.parts))
            elif parts:
                way.append(
                    os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=way[-1])
                )
            else:
                yield way[-1], part
                return
            if not parts:
                # It ends in a folder: "..", or a link to the project itself.
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    finally:
        for descriptor in way:
            os.close(descriptor)


def _link(name: str, folder: int) -> PurePosixPath | None:
    """What the link of that name says; None when there is no link."""
    try:
        return PurePosixPath(os.readlink(name, dir_fd=folder))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _leads_out(project: Project, name: str) -> BadInputError:
    return BadInputError(
        f"{project.path / name} is a link that leads out of the project.",
        remedy="Replace it by a copy of the file.",
    )
