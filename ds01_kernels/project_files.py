"""Reads files of a project, which anything that runs in its container may have written or replaced."""

from __future__ import annotations

import errno
import os
import stat

from .errors import BadInputError
from .projects import Project

#: Bytes; what we read is configuration, and more of it is a mistake.
LIMIT = 1 << 20


def read_text(project: Project, name: str) -> str | None:
    """The text of the file `name` in the project's folder; None when there is none.

    A symlink may lead to another file of the project, not out of it. What is checked is what is read: one
    descriptor below the folder's own. Raises `BadInputError` when it is not such a text.
    """
    path = project.path / name
    try:
        descriptor = _open_within(project, name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}.") from None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BadInputError(f"{path} is not a regular file.", remedy="Replace it by a text file.")
        content = file.read(LIMIT + 1)
    if len(content) > LIMIT:
        raise BadInputError(f"{path} is larger than 1 MiB.", remedy="Is it really the right file?")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise BadInputError(f"{path} is not a text file.", remedy="It has to be text in UTF-8.")
    return text


def _open_within(project: Project, name: str) -> int:
    # Without O_NONBLOCK a named pipe would block us until somebody writes.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    folder = os.open(project.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            return os.open(name, flags, dir_fd=folder)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        target = os.path.realpath(project.path / name)
        if os.path.commonpath((target, project.path)) != str(project.path):
            raise BadInputError(
                f"{project.path / name} is a link that leads out of the project.",
                remedy="Replace it by a copy of the file.",
            )
        return os.open(os.path.relpath(target, project.path), flags, dir_fd=folder)
    finally:
        os.close(folder)
