"""One kernelspec per project: found live in a server, or written to disk for clients that run without one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, cast

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

from .errors import ConflictError, Ds01Error, NotFoundError, SettingError
from .projects import KERNEL_PREFIX, Project, Projects, valid_name

PROVISIONER = "ds01-provisioner"
RESOURCES = Path(__file__).parent / "resources"

_MOST_BYTES = 1 << 20


def with_projects(
    parent_class: type[KernelSpecManager], find: Callable[[], Projects]
) -> type[KernelSpecManager]:
    """A subclass of the configured class that lists the projects' kernels beside those it finds itself.

    `find` looks at the workspaces, afresh for every question, so that a project which has just been made or
    deleted is seen. Raises `SettingError` for a class that answers with coroutines, such as the gateway's.
    """
    if any(iscoroutinefunction(getattr(parent_class, name)) for name in ("get_all_specs", "get_kernel_spec")):
        raise SettingError(
            f"{parent_class.__name__} finds kernels on another server, where the projects are not.",
            remedy="Run ds01_kernels on that server, or set another kernel_spec_manager_class.",
        )
    bases = (parent_class,) if issubclass(parent_class, LiveKernelSpecs) else (LiveKernelSpecs, parent_class)
    made = types.new_class(
        "ProjectKernelSpecs", bases, exec_body=lambda body: body.update(find=staticmethod(find))
    )
    return cast("type[KernelSpecManager]", made)


class LiveKernelSpecs(KernelSpecManager):
    """Puts one live spec per project over what the next class in the method resolution order finds.

    A live spec hides an installed one of the same name. Nothing is remembered between two calls.
    """

    find: Callable[[], Projects]

    def find_kernel_specs(self) -> dict[str, str]:
        found: dict[str, str] = super().find_kernel_specs()
        if not _listing.get():
            found |= dict.fromkeys(self._live(), str(RESOURCES))
        return found

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Raises `NoSuchKernel`, and logs why when a folder of that name was rejected."""
        if _listing.get() or not kernel_name.lower().startswith(KERNEL_PREFIX):
            return super().get_kernel_spec(kernel_name)
        projects = self._look()
        if (project := self._allowed(projects).get(kernel_name.lower())) is not None:
            return project_spec(project, self.kernel_spec_class)
        try:
            return super().get_kernel_spec(kernel_name)
        except NoSuchKernel:
            self._log_why(kernel_name, projects)
            raise

    def get_all_specs(self) -> dict[str, Any]:
        # While the parent lists its own, our two methods above leave it alone: it may call them once for
        # every kernel, and 300 projects would be looked for 300 times.
        with _only_the_parents():
            specs: dict[str, Any] = super().get_all_specs()
        # Not one object for each: to make 300 takes as long as all the rest.
        usual = self.kernel_spec_class().to_dict()
        for name, project in self._live().items():
            specs[name] = {"resource_dir": str(RESOURCES), "spec": {**usual, **spec_json(project)}}
        return specs

    def remove_kernel_spec(self, name: str) -> str:
        """Raises `ConflictError` for a live spec: its resource directory is part of this package."""
        if (project := self._live().get(name.lower())) is not None:
            raise ConflictError(
                f"The kernel {name} is not an installed one: the project '{project.path}' brings it.",
                remedy="It goes when the project's folder or its Dockerfile goes; an installed copy for other"
                f" clients is removed by: jupyter ds01 kernelspec remove {project.name}",
            )
        removed: str = super().remove_kernel_spec(name)
        return removed

    def _live(self) -> dict[str, Project]:
        return self._allowed(self._look())

    def _look(self) -> Projects:
        try:
            return self.find()
        except Ds01Error as error:  # a setting is wrong; the host's kernels must stay usable
            self.log.error("The projects cannot be found: %s", error.sentence)  # noqa: TRY400
            return Projects(())

    def _allowed(self, projects: Projects) -> dict[str, Project]:
        allowed = self.allowed_kernelspecs
        return {
            project.kernel_name: project
            for project in projects.projects
            if not allowed or project.kernel_name in allowed
        }

    def _log_why(self, kernel_name: str, projects: Projects) -> None:
        for rejected in projects.rejected:
            if KERNEL_PREFIX + rejected.name.lower() == kernel_name.lower():
                self.log.warning("%s", rejected.error.sentence)


_listing: ContextVar[bool] = ContextVar("_listing", default=False)


@contextmanager
def _only_the_parents() -> Iterator[None]:
    token = _listing.set(True)
    try:
        yield
    finally:
        _listing.reset(token)


def project_spec(project: Project, spec_class: type[KernelSpec] = KernelSpec) -> KernelSpec:
    return spec_class(name=project.kernel_name, resource_dir=str(RESOURCES), **spec_json(project))


def spec_json(project: Project) -> dict[str, Any]:
    """What stands in a ``kernel.json``."""
    return {
        # Our provisioner starts the kernel its own way; clients such as VS Code want one that never changes.
        "argv": ["/usr/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "env": {},
        "display_name": f"{project.name} (container)",
        "language": "python",
        "interrupt_mode": "signal",
        "metadata": {
            "debugger": True,
            "supported_encryption": ["curve"],
            "kernel_provisioner": {"provisioner_name": PROVISIONER, "config": {"project": project.name}},
            "ds01": {"project": project.name, "path": str(project.path)},
        },
    }


def install(project: Project, *, kernels_dir: Path) -> Path:
    """Write the project's spec to ``<kernels_dir>/ds01-<project>``, in place of an older one; returns it.

    It appears complete or not at all. Raises `OSError`, and `ConflictError` if what is not ours has the name.
    """
    place = kernels_dir / project.kernel_name
    kernels_dir.mkdir(parents=True, exist_ok=True)
    with _aside(kernels_dir) as aside:
        new = aside / "new"
        new.mkdir()
        for logo in sorted(RESOURCES.glob("logo-*")):
            (new / logo.name).write_bytes(logo.read_bytes())
        (new / "kernel.json").write_text(json.dumps(spec_json(project), indent=1) + "\n", encoding="utf-8")
        _put(new, place, aside)
    return place


def remove(name: str, *, kernels_dir: Path) -> Path:
    """Remove the spec that `install` wrote for the project `name`, which need not exist any more.

    Raises `NotFoundError` when there is none, `ConflictError` when it is not ours, `BadProjectNameError`,
    `OSError`.
    """
    valid_name(name)
    place = kernels_dir / (KERNEL_PREFIX + name.lower())
    if not os.path.lexists(place):
        raise NotFoundError(
            f"No kernelspec is installed for the project '{name}' in '{kernels_dir}'.",
            remedy="See what is installed with: jupyter kernelspec list",
        )
    if not _is_ours(place):
        raise _foreign(place)
    with _aside(kernels_dir) as aside:
        place.rename(aside / "old")
    return place


def installed(kernels_dir: Path) -> tuple[str, ...]:
    """The kernel names of the specs in `kernels_dir` that `install` wrote, sorted."""
    try:
        places = sorted(kernels_dir.glob(f"{KERNEL_PREFIX}*"))
    except OSError:
        return ()
    return tuple(place.name for place in places if _is_ours(place))


@contextmanager
def _aside(kernels_dir: Path) -> Iterator[Path]:
    """A private directory on the same file system, removed at the end with all that was moved into it.

    What is prepared stands one level below it, where Jupyter does not look for a ``kernel.json``.
    """
    aside = Path(tempfile.mkdtemp(prefix=".ds01-", dir=kernels_dir))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put(new: Path, place: Path, aside: Path) -> None:
    """Rename `new` to `place`, beside other processes that do the same; what stood there goes to `aside`."""
    for attempt in range(100):
        old = aside / f"old-{attempt}"
        if (before := _inode(place)) is not None:
            is_ours = _is_ours(place)
            if not is_ours and _inode(place) != before:
                continue  # another process has just moved it away
            if not is_ours:
                raise _foreign(place)
            with suppress(FileNotFoundError):
                place.rename(old)
        try:
            new.rename(place)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                continue
            with suppress(OSError):
                old.rename(place)
            raise
        return
    raise ConflictError(f"Other processes keep writing '{place}'.", remedy="Try again.")


def _inode(place: Path) -> int | None:
    try:
        return place.lstat().st_ino
    except FileNotFoundError:
        return None


def _foreign(place: Path) -> ConflictError:
    return ConflictError(
        f"'{place}' was not written by ds01-kernels, so it is left alone.",
        remedy="Look at it, and move it away if it is not needed.",
    )


def _is_ours(place: Path) -> bool:
    """Whether it is a directory with a ``kernel.json`` that names our provisioner; no link is followed."""
    try:
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        file = os.open("kernel.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        with os.fdopen(file, "rb") as stream:
            metadata = json.loads(stream.read(_MOST_BYTES))["metadata"]
        return bool(metadata["kernel_provisioner"]["provisioner_name"] == PROVISIONER)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    finally:
        os.close(directory)
