"""A project's folder as the tar stream that a build gets, without what `.dockerignore` names.

Containers write to that folder while it is being read, so each file is opened below the folder's descriptor,
one path component at a time and never through a link: a link that appears in between leads nowhere.
"""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from docker.utils.build import PatternMatcher

from ds01_kernels.errors import BadInputError

DOCKERFILE = "Dockerfile"
_CHUNK = 256 * 1024
_BLOCK = 512
# Bytes from which a folder without .dockerignore is worth a word.
_LARGE = 100_000_000


@dataclass(frozen=True)
class Context:
    """What of `directory` goes to a build: `paths` below it, sorted, and `files`, whose texts take the place
    of what lies there. Several builders may read it in turn. `is_needed` is false where the Dockerfile takes
    nothing from it.
    """

    directory: Path
    dockerfile: str
    paths: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    has_ignore_file: bool = False
    is_needed: bool = True

    @classmethod
    def of(
        cls,
        directory: Path,
        dockerfile: str,
        needed: Sequence[str] | None = None,
        *,
        files: Mapping[str, str] | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> Context:
        """Find what to send; with `needed`, only what lies at or below these paths.

        A link on the way to one of them may lead anywhere in the folder, so then it is all sent. What is
        ignored is not sent, though `files` name it. Raises `BadInputError` for what cannot be read.
        """
        texts = {_inner(path): text for path, text in (files or {}).items()}
        root = _opened(directory)
        try:
            if needed is not None and any(_leads_through_a_link(root, path) for path in needed):
                needed = None
            if needed == ():
                return cls(directory, dockerfile, (), is_needed=False)
            patterns = _ignored(root)
            matcher = PatternMatcher([*(patterns or ()), f"!{DOCKERFILE}"])
            found = []
            for path in _walk(root, matcher, needed):
                if is_cancelled():
                    break
                found.append(path)
            texts = {path: text for path, text in texts.items() if _is_sent(path, matcher, needed)}
            paths = tuple(sorted({*found, *texts}))
            return cls(directory, dockerfile, paths, texts, patterns is not None)
        finally:
            os.close(root)

    def notice(self) -> str:
        """A line about a large folder in which nothing is ignored; empty when there is nothing to say."""
        if self.has_ignore_file or not self.paths:
            return ""
        sizes: dict[str, int] = {}
        for path in self.paths:
            try:
                size = (self.directory / path).lstat().st_size
            except OSError:
                continue
            top = path.partition("/")[0]
            sizes[top] = sizes.get(top, 0) + size
        if sum(sizes.values()) < _LARGE:
            return ""
        largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
        named = ", ".join(f"{name} ({_megabytes(size)})" for name, size in largest if size >= 1e6)
        return (
            f"Notice: {_megabytes(sum(sizes.values()))} of the project's folder are sent to the build, "
            f"the largest are {named}. Name in .dockerignore what the image does not need.\n"
        )

    @property
    def text(self) -> bytes:
        """The Dockerfile alone."""
        return self.dockerfile.encode("utf-8", "surrogateescape")

    def tar(self) -> Iterator[bytes]:
        """The pieces of a tar archive, in which the file `Dockerfile` holds the given text.

        It stands under its usual name, so that layers of `COPY . .` are cached just as for `docker build`.
        Raises `BadInputError` for what cannot be read.
        """
        root = _opened(self.directory)
        try:
            text = self.text
            yield from _file(_entry(DOCKERFILE, 0o644, len(text)), iter((text,)))
            for path in self.paths:
                if path in self.files:
                    content = self.files[path].encode("utf-8", "surrogateescape")
                    yield from _file(_entry(path, 0o644, len(content)), iter((content,)))
                elif path != DOCKERFILE:
                    yield from _packed(root, path)
            yield b"\0" * _BLOCK * 2
        finally:
            os.close(root)


def _opened(directory: Path) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BadInputError(f"The project's folder {directory} cannot be read: {error.strerror}.") from error


def _inner(path: str) -> str:
    inner = PurePosixPath(path)
    if inner.is_absolute() or ".." in inner.parts or not inner.parts or str(inner) == DOCKERFILE:
        raise BadInputError(f"{path!r} cannot be a file of the build.")
    return str(inner)


def _is_sent(path: str, matcher: PatternMatcher, needed: Sequence[str] | None) -> bool:
    is_needed = needed is None or any(_touches(path, one) for one in needed)
    return is_needed and not matcher.matches(path)  # type: ignore[arg-type] # the stubs know path objects only


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _leads_through_a_link(root: int, path: str) -> bool:
    try:
        parent = _open_parent(root, path)
        try:
            return stat.S_ISLNK(os.stat(Path(path).name, dir_fd=parent, follow_symlinks=False).st_mode)
        finally:
            os.close(parent)
    except FileNotFoundError:
        return False
    except OSError:
        # A link on the way is ENOTDIR or ELOOP; whatever else it is, the builder shall see it.
        return True


def _walk(root: int, matcher: PatternMatcher, needed: Sequence[str] | None) -> Iterator[str]:
    """What is not ignored, and on the way to one of `needed`, at it or below it."""
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        for name, is_folder in _listed(root, folder):
            path = f"{folder}/{name}" if folder else name
            if needed is not None and not any(_touches(path, one) for one in needed):
                continue
            is_ignored = matcher.matches(path)  # type: ignore[arg-type]
            if not is_ignored:
                yield path
            if is_folder and not (is_ignored and not _excepts_below(matcher, path)):
                waiting.append(path)


def _listed(root: int, folder: str) -> list[tuple[str, bool]]:
    """The names in a folder, and which of them are folders; nothing when it has gone meanwhile."""
    try:
        descriptor = _open_parent(root, f"{folder}/x" if folder else "x")
        try:
            with os.scandir(descriptor) as entries:
                return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise BadInputError(
            f"{folder or 'The folder'} cannot be read: {error.strerror}.",
            remedy="Make it readable, or name it in .dockerignore.",
        ) from error


def _touches(path: str, needed: str) -> bool:
    return path == needed or path.startswith(f"{needed}/") or needed.startswith(f"{path}/")


def _excepts_below(matcher: PatternMatcher, folder: str) -> bool:
    """Whether an exception (``!folder/file``) may lie in an ignored folder."""
    return any(one.exclusion and one.cleaned_pattern.startswith(folder) for one in matcher.patterns)


def _ignored(root: int) -> list[str] | None:
    """The patterns of `.dockerignore`, None without one: https://docs.docker.com/build/concepts/context/#dockerignore-files"""
    try:
        descriptor = _open_below(root, ".dockerignore")
    except FileNotFoundError:
        return None
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
