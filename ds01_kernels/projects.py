"""Finds the projects, and the project that owns a path.

A project is a direct child of a workspace that is a real folder and holds a Dockerfile. Its name goes into
the names of an image, a container and a kernel, which know fewer characters than a file system and no capital
letters: a folder whose name does not fit, or would meet another one there, is reported, never merged.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from .errors import BadInputError, BadProjectNameError, NoSuchProjectError
from .names import USUAL, Names

KERNEL_PREFIX = "ds01-"
MAX_NAME = 100


@dataclass(frozen=True)
class Project:
    """A folder with a Dockerfile. `path` is its real path, a direct child of the real path `workspace`."""

    name: str
    path: Path
    workspace: Path
    names: Names = field(default=USUAL, repr=False)

    @property
    def kernel_name(self) -> str:
        return KERNEL_PREFIX + self.name.lower()

    @property
    def dockerfile(self) -> Path:
        return self.path / "Dockerfile"

    def image_name(self, uid: int) -> str:
        return self.names.of_image(self.name, uid)

    def container_name(self, uid: int) -> str:
        return self.names.of_container(self.name, uid)


@dataclass(frozen=True)
class RejectedProject:
    """A folder with a Dockerfile that cannot be used, and why.

    `name` is the folder's with unprintable characters escaped, so that it can be shown; `path` is the folder
    where it stands, not resolved. `error` is a `BadProjectNameError` where the name is the trouble.
    """

    name: str
    path: Path
    error: BadInputError


@dataclass(frozen=True)
class Projects:
    """What one look at the workspaces found: a value, it does not follow later changes.

    `projects` and `rejected` are sorted by name; `notices` are sentences about unreadable workspaces.
    """

    workspaces: tuple[Path, ...]
    projects: tuple[Project, ...] = ()
    rejected: tuple[RejectedProject, ...] = ()
    notices: tuple[str, ...] = ()

    def get(self, name: str) -> Project:
        """The project whose folder has exactly this name.

        Raises the `BadInputError` of a rejected project of that name, or `NoSuchProjectError`.
        """
        for project in self.projects:
            if project.name == name:
                return project
        for rejected in self.rejected:
            if rejected.name == _printable(name):
                raise rejected.error
        raise self._missing(name)

    def by_kernel_name(self, kernel_name: str) -> Project | None:
        """The project that a kernel name stands for; like Jupyter's look-up, blind to capital letters."""
        return self._by_kernel_name.get(kernel_name.lower())

    def owner(self, path: str | os.PathLike[str]) -> Project | None:
        """The project that contains `path`, which need not exist; None when no project does.

        Symlinks and ``..`` are resolved first: a link counts where it leads to, not where it stands.
        """
        return next((self._by_path[p] for p in _upwards(path) if p in self._by_path), None)

    def rejected_owner(self, path: str | os.PathLike[str]) -> RejectedProject | None:
        """The rejected folder that contains `path`: the reason why a notebook there has no `owner`."""
        return next((self._rejected_by_path[p] for p in _upwards(path) if p in self._rejected_by_path), None)

    @cached_property
    def _by_kernel_name(self) -> dict[str, Project]:
        return {project.kernel_name: project for project in self.projects}

    @cached_property
    def _by_path(self) -> dict[Path, Project]:
        return {project.path: project for project in self.projects}

    @cached_property
    def _rejected_by_path(self) -> dict[Path, RejectedProject]:
        return {rejected.path: rejected for rejected in self.rejected}

    def _missing(self, name: str) -> NoSuchProjectError:
        for workspace in self.workspaces if _name_problem(name) is None else ():
            folder = workspace / name
            try:
                (folder / "Dockerfile").lstat()
            except PermissionError:
                return NoSuchProjectError(
                    f"The folder {_quote(folder)} cannot be looked into: permission denied.",
                    remedy="Ask its owner to let you read it.",
                )
            except OSError:
                if folder.is_dir():
                    return NoSuchProjectError(
                        f"The folder {_quote(folder)} is not a project: it has no Dockerfile.",
                        remedy=f"To make it one, run: jupyter ds01 init {name}",
                    )
        return NoSuchProjectError(f"There is no project {_quote(name)}.", remedy=self._known(name))

    def _known(self, name: str, most: int = 12) -> str:
        if not self.projects:
            places = ", ".join(map(_quote, self.workspaces)) or "any workspace: none is configured"
            return f"There are no projects in {places}. To make one, run: jupyter ds01 init NAME"
        names = [project.name for project in self.projects]
        if len(names) <= most:
            return f"The projects are: {', '.join(names)}."
        shown = difflib.get_close_matches(name, names, n=most, cutoff=0.5) or names[:most]
        return f"Among the {len(names)} projects are: {', '.join(shown)}."


def discover(workspaces: Iterable[str | os.PathLike[str]], names: Names = USUAL) -> Projects:
    """Look through the workspaces: two or three system calls for each folder, and no engine.

    Never raises for what it finds: what cannot be used or read is in `rejected` and `notices`. A workspace
    that does not exist is empty. Hidden folders, and folders that may not be entered, are passed over.
    """
    # Not Path.expanduser: it raises where there is no home directory.
    roots = tuple(dict.fromkeys(os.path.realpath(os.path.expanduser(path)) for path in workspaces))  # noqa: PTH111
    projects: list[Project] = []
    rejected: list[RejectedProject] = []
    notices: list[str] = []
    for root in roots:
        try:
            for entry in _folders(root):
                problem = _folder_problem(entry, root, roots)
                if problem is None:
                    projects.append(Project(entry.name, Path(entry.path), Path(root), names))
                else:
                    rejected.append(RejectedProject(_printable(entry.name), Path(entry.path), problem))
        except FileNotFoundError:
            continue
        except OSError as error:
            notices.append(f"The workspace {_quote(root)} cannot be read: {error.strerror}.")
    apart, colliding = _part_collisions(projects)
    return Projects(
        workspaces=tuple(map(Path, roots)),
        projects=tuple(sorted(apart, key=lambda project: (project.name.lower(), project.path))),
        rejected=tuple(sorted(rejected + colliding, key=lambda found: (found.name.lower(), found.path))),
        notices=tuple(notices),
    )


def _folders(root: str) -> Iterator[os.DirEntry[str]]:
    """The entries of a workspace that are folders, or links to folders, with anything named Dockerfile."""
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir():
                    os.lstat(f"{entry.path}/Dockerfile")
                    yield entry
            except OSError:  # no Dockerfile, no permission to look for one, or gone meanwhile
                continue


def _folder_problem(entry: os.DirEntry[str], root: str, roots: tuple[str, ...]) -> BadInputError | None:
    shown = _quote(entry.path)
    if entry.is_symlink():
        target = Path(entry.path).resolve()
        if not target.is_relative_to(root):
            return BadInputError(
                f"{shown} is a link that leads out of its workspace, to {_quote(target)}.",
                remedy=f"Move the folder here, or add {_quote(target.parent)} to the workspaces.",
            )
        # A second name for one folder: its image and its container would depend on who asks.
        return BadInputError(
            f"{shown} is a link to {_quote(target)}, not a folder of its own.",
            remedy="Use the project that the link leads to, or move its folder here in place of the link.",
        )
    if entry.path in roots:
        return BadInputError(
            f"The folder {shown} is itself a workspace, so it cannot be a project as well.",
            remedy="Remove its Dockerfile, or take it off the list of workspaces.",
        )
    try:
        valid_name(entry.name)
    except BadProjectNameError as error:
        return BadProjectNameError(str(error), remedy=f"Rename the folder {shown}. {error.remedy}")
    return _dockerfile_problem(Path(entry.path))


def _dockerfile_problem(folder: Path) -> BadInputError | None:
    path = folder / "Dockerfile"
    problem = None
    try:
        if path.is_symlink() and not (target := path.resolve()).is_relative_to(folder):
            problem = f"is a link that leads out of the project, to {_quote(target)}"
        elif not stat.S_ISREG(mode := path.stat().st_mode):
            problem = "is a folder" if stat.S_ISDIR(mode) else "is not a regular file"
        elif not os.access(path, os.R_OK):
            problem = "cannot be read: permission denied"
    except FileNotFoundError:
        problem = "is a link that leads nowhere"
    except (OSError, RuntimeError):  # Path.resolve raises RuntimeError for a loop
        problem = "cannot be read"
    if problem is None:
        return None
    return BadInputError(
        f"{_quote(path)} {problem}.", remedy="Put a text file that you can read in its place."
    )


def _part_collisions(found: list[Project]) -> tuple[list[Project], list[RejectedProject]]:
    """Part the projects whose names are their own from those that would share an image and a kernel."""
    by_name: defaultdict[str, list[Project]] = defaultdict(list)
    for project in found:
        by_name[project.name.lower()].append(project)
    colliding = []
    for group in (group for group in by_name.values() if len(group) > 1):
        for project in group:
            others = " and ".join(_quote(other.path) for other in group if other is not project)
            error = BadProjectNameError(
                f"The project {_quote(project.path)} would share its image and its kernel with {others}:"
                " their names are equal, or differ in capital letters only.",
                remedy="Rename all of them but one.",
            )
            colliding.append(RejectedProject(project.name, project.path, error))
    return [group[0] for group in by_name.values() if len(group) == 1], colliding


def _upwards(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """The real path of `path` and every folder above it; nothing for what no file system takes as a path."""
    try:
        # Not Path.resolve: it raises for a loop of links.
        real = Path(os.path.realpath(path))
    except ValueError:  # a NUL character
        return ()
    return (real, *real.parents)


# The rules for names.

# A path component of an image's name, from Docker's reference grammar:
# https://github.com/distribution/reference/blob/main/regexp.go
# It is the narrowest of three rules: whatever it lets through also fits the name of a container,
# [a-zA-Z0-9][a-zA-Z0-9_.-]+, and of a kernel, ^[a-z0-9._\-]+$. It has no room for "._.", so that
# `<name>._.<uid>` reads back in one way only.
_IMAGE_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")


def valid_name(name: str) -> None:
    """Raise `BadProjectNameError` unless a folder of that name could be a project."""
    problem = _name_problem(name)
    if problem is None:
        return
    example = suggested_name(name)
    raise BadProjectNameError(
        f"{_quote(name[:MAX_NAME])} cannot be a project's name: {problem}.",
        remedy="A name is made of the letters a to z and digits, with '.', '_', '__' or any number of '-'"
        f" between them, at most {MAX_NAME} characters long"
        + (f"; for example {example!r}." if example else "."),
    )


def suggested_name(name: str) -> str:
    """A valid name that looks like `name`; empty when nothing of it can be kept."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-")[:MAX_NAME].rstrip("-")


def _name_problem(name: str) -> str | None:
    if not name:
        return "it is empty"
    if len(name) > MAX_NAME:
        return f"it has {len(name)} characters, {MAX_NAME} is the most"
    # Before lower(): some letters beyond ASCII, such as the Kelvin sign, turn into ASCII there.
    if not name.isascii():
        return "Docker takes no letters beyond a to z"
    if foreign := re.search(r"[^A-Za-z0-9._-]", name):
        return f"Docker does not take the character {foreign.group()!r}"
    if not name[0].isalnum() or not name[-1].isalnum():
        return "it does not begin and end with a letter or a digit"
    if not _IMAGE_COMPONENT.fullmatch(name.lower()):
        return "Docker does not take these '.', '_' and '-' in a row"
    return None


def _printable(name: str) -> str:
    """Names come from anybody: control and bidirectional characters must not reach a terminal or a page."""
    return name if name.isprintable() else repr(name)[1:-1]


def _quote(path: str | os.PathLike[str]) -> str:
    return f"'{_printable(os.fspath(path))}'"
