"""A project's folder as the tar stream that a build gets, without what `.dockerignore` names.

Containers write to that folder while it is being read, so each file is opened below the folder's descriptor,
one path component at a time and never through a link: a link that appears in between leads nowhere.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from docker.utils.build import exclude_paths

from ds01_kernels.errors import BadInputError

DOCKERFILE = "Dockerfile"
_CHUNK = 256 * 1024
_BLOCK = 512


def context_tar(directory: Path, dockerfile: str) -> Iterator[bytes]:
    """The pieces of a tar archive of `directory`, in which the file `Dockerfile` holds the text `dockerfile`.

    It stands under its usual name, so that layers of `COPY . .` are cached just as for `docker build`.
    Raises `BadInputError` for what cannot be read.
    """
    try:
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BadInputError(f"The project's folder {directory} cannot be read: {error.strerror}.") from error
    try:
        text = dockerfile.encode("utf-8", "surrogateescape")
        yield from _file(_entry(DOCKERFILE, 0o644, len(text)), iter((text,)))
        for path in _included(directory, root):
            if path != DOCKERFILE:
                yield from _packed(root, path)
        yield b"\0" * _BLOCK * 2
    finally:
        os.close(root)


def _included(directory: Path, root: int) -> list[str]:
    patterns = _ignored(root)
    try:
        return sorted(exclude_paths(str(directory), patterns))
    except OSError as error:
        raise BadInputError(
            f"{error.filename} cannot be read: {error.strerror}.",
            remedy="Make it readable, or name it in .dockerignore.",
        ) from error


def _ignored(root: int) -> list[str]:
    """The patterns of `.dockerignore`: https://docs.docker.com/build/concepts/context/#dockerignore-files"""
    try:
        descriptor = _open_below(root, ".dockerignore")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadInputError(
            f".dockerignore cannot be read: {error.strerror}.",
            remedy="It must be a regular file, not a link.",
        ) from error
    with open(descriptor, encoding="utf-8-sig", errors="surrogateescape") as file:  # noqa: PTH123 - a descriptor
        lines = [line.strip() for line in file if not line.startswith("#")]
    return [line for line in lines if line]


def _packed(root: int, path: str) -> Iterator[bytes]:
    """The entry of one path; nothing when it has gone meanwhile, or is a socket, pipe or device."""
    try:
        parent = _open_parent(root, path)
        try:
            yield from _packed_below(parent, Path(path).name, path)
        finally:
            os.close(parent)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise BadInputError(
            f"{path} in the project's folder cannot be read: {error.strerror}.",
            remedy="Make it readable, or name it in .dockerignore.",
        ) from error


def _packed_below(parent: int, name: str, path: str) -> Iterator[bytes]:
    found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        entry = _entry(path, found.st_mode, 0, found.st_mtime, tarfile.SYMTYPE)
        entry.linkname = os.readlink(name, dir_fd=parent)
        yield _header(entry)
    elif stat.S_ISDIR(found.st_mode):
        yield _header(_entry(path, found.st_mode, 0, found.st_mtime, tarfile.DIRTYPE))
    elif stat.S_ISREG(found.st_mode):
        descriptor = _open_below(parent, name)
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
            found = os.fstat(descriptor)
            pieces = iter(lambda: file.read(_CHUNK), b"")
            yield from _file(_entry(path, found.st_mode, found.st_size, found.st_mtime), pieces)


def _file(entry: tarfile.TarInfo, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield _header(entry)
    left = entry.size
    for piece in pieces:
        # A file that grows while it is read ends at the size that its header says.
        yield piece[:left]
        left -= len(piece[:left])
        if not left:
            break
    if left:
        raise BadInputError(f"{entry.name} became shorter while it was being read.", remedy="Try again.")
    yield b"\0" * (-entry.size % _BLOCK)


def _entry(
    path: str, mode: int, size: int, modified: float = 0, kind: bytes = tarfile.REGTYPE
) -> tarfile.TarInfo:
    # Owner 0:0 as the docker command does it: who owns the project must not change what is cached.
    entry = tarfile.TarInfo(path)
    entry.type, entry.mode, entry.size, entry.mtime = kind, stat.S_IMODE(mode), size, int(modified)
    return entry


def _header(entry: tarfile.TarInfo) -> bytes:
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _open_parent(root: int, path: str) -> int:
    """A descriptor of the directory that holds `path`, reached without following a link."""
    here = os.dup(root)
    try:
        for part in Path(path).parent.parts:
            there = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            os.close(here)
            here = there
    except OSError:
        os.close(here)
        raise
    return here


def _open_below(parent: int, name: str) -> int:
    """A descriptor of a regular file. Raises OSError for anything else; never waits for a pipe."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", name)
    return descriptor
