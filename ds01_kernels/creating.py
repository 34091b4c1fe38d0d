"""Makes new projects: a folder in the workspace with a Dockerfile, of a template or of another project."""

from __future__ import annotations

from pathlib import Path

from . import images
from .errors import BadInputError, ConflictError, Ds01Error, NotFoundError
from .projects import Project, Projects, valid_name

TEMPLATES = {
    "debian": "# A local image: build it once with `jupyter ds01 base-image`.\nFROM ds01/base:latest\n",
    "python": "FROM python:3.12-slim\n",
}
TEMPLATE = "debian"


def create(projects: Projects, name: str, dockerfile: str) -> Path:
    """Make the project's folder in the first workspace, with that text in its Dockerfile; returns that file.

    A folder that is there already keeps its files. Raises `BadProjectNameError`, `ConflictError`, or
    `Ds01Error` when it cannot be written.
    """
    valid_name(name)
    if not projects.workspaces:
        raise NotFoundError("No workspace is configured.", remedy="Set Workbench.workspaces.")
    folder = projects.workspaces[0] / name
    _check_is_free(projects, name, folder)
    if folder.is_symlink():
        raise ConflictError(
            f"{folder} is a link, and a project is a folder of its own.", remedy="Choose another name."
        )
    path = folder / "Dockerfile"
    try:
        _write_new(path, dockerfile)
    except FileExistsError:
        # It may be the folder's name as well, for a file.
        problem = f"There is a Dockerfile in {folder} already" if folder.is_dir() else f"{folder} is a file"
        raise ConflictError(f"{problem}.", remedy="Choose another name.") from None
    except OSError as error:
        raise Ds01Error(f"{path} cannot be written: {error.strerror}.") from None
    return path


def template(name: str) -> str:
    """The text of that template. Raises `BadInputError`."""
    if name not in TEMPLATES:
        raise BadInputError(
            f"There is no template {name[:100]!r}.", remedy=f"Templates are: {', '.join(TEMPLATES)}."
        )
    return TEMPLATES[name]


def of_folder(source: str) -> str:
    """The text of the Dockerfile in any folder. Raises `BadInputError`."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise BadInputError(
            f"{source!r} is neither a folder nor a template.",
            remedy=f"Templates are: {', '.join(TEMPLATES)}.",
        )
    return images.read_dockerfile(Project(folder.name, folder.resolve(), folder.resolve().parent))


def of_project(projects: Projects, source: str) -> str:
    """The text of the Dockerfile of a project, by its name or its path. Raises `BadInputError`.

    For those who may ask for no other file of this machine.
    """
    known = {name: project for project in projects.projects for name in (project.name, str(project.path))}
    if source not in known:
        raise BadInputError(
            f"{source[:300]!r} is no project of the workspaces.",
            remedy="Give the name of one, or its path.",
        )
    return images.read_dockerfile(known[source])


def _write_new(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
        except OSError:
            # Half of it would be a project as well.
            path.unlink()
            raise


def _check_is_free(projects: Projects, name: str, folder: Path) -> None:
    """Two projects whose names differ in nothing but capital letters would both be lost."""
    known = [(other.name, other.path) for other in projects.projects]
    known += [(other.name, other.path) for other in projects.rejected]
    for other_name, path in known:
        if other_name.lower() == name.lower() and path != folder:
            raise ConflictError(
                f"The project would share its image and its kernel with {path}.",
                remedy="Choose another name.",
            )
