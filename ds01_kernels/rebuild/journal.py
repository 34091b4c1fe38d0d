"""What is written down of an exchange on this side, so that it survives the process that carries it out."""

from __future__ import annotations

import asyncio
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import Ds01Error, NotFoundError
from ..projects import Project
from ..records import FORMAT, Records, checked, read, write_json

#: ``trying``: nothing of the project's was touched. ``forward``, ``back``: where it is going. ``done``: it is
#: exchanged, and kernels in the old container are still to be told.
Direction = Literal["trying", "forward", "back", "done"]


@dataclass(frozen=True)
class Exchange:
    """What is exchanged for what. `before` and `after` are the texts of `file`; images and containers are
    ids.

    None stands for what there was not. `candidate` is the tag of the new image while it is on trial.
    `kernels`: the processes that may be restarted; None: all. `in_place`: the old container is removed before
    there is a new one, which whoever uses the project next has made.
    """

    id: str
    file: str
    before: str
    after: str
    new_image: str | None = None
    new_container: str | None = None
    old_image: str | None = None
    old_container: str | None = None
    older_image: str | None = None
    candidate: str = ""
    kernels: frozenset[str] | None = None
    direction: Direction = "trying"
    in_place: bool = False

    def as_json(self) -> dict[str, Any]:
        kernels = None if self.kernels is None else sorted(self.kernels)
        return {**asdict(self), "kernels": kernels, "format": FORMAT}

    @classmethod
    def from_json(cls, value: Any) -> Exchange:
        """Raises `ValueError` for what `as_json` cannot have made."""
        given = checked(value)
        found = cls(
            id=_text(given, "id"),
            file=_text(given, "file"),
            before=_text(given, "before"),
            after=_text(given, "after"),
            new_image=_text_or_none(given, "new_image"),
            new_container=_text_or_none(given, "new_container"),
            old_image=_text_or_none(given, "old_image"),
            old_container=_text_or_none(given, "old_container"),
            older_image=_text_or_none(given, "older_image"),
            candidate=_text(given, "candidate"),
            kernels=_kernels(given.get("kernels")),
            direction=given.get("direction", ""),
            in_place=given.get("in_place") is True,
        )
        if not re.fullmatch(r"[0-9a-f]{8}", found.id) or found.direction not in get_args(Direction):
            raise ValueError("it is no journal of an exchange")
        if not found.new_image and found.direction != "trying":
            raise ValueError("it has no new image")
        return found


@dataclass(frozen=True)
class Previous:
    """What a rollback goes back to: an image's id, and the text of the file that it was built from."""

    image: str
    file: str
    text: str

    @classmethod
    def from_json(cls, value: Any) -> Previous:
        """Raises `ValueError`."""
        given = checked(value)
        return cls(*(_text(given, field.name) for field in fields(cls)))


class Journals:
    """The journals of all projects, and what rollbacks go back to."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def pending(self, project: Project) -> Exchange | None:
        """The exchange that runs, or that ended with its process.

        A journal that cannot be used was not written by this version, and to go on with it would be to guess.
        """
        return await asyncio.to_thread(read, self._path(project), Exchange.from_json)

    async def note(self, project: Project, exchange: Exchange) -> None:
        """Write the journal. Raises `Ds01Error` when that cannot be done."""
        await self._keep(project, self._path(project), exchange.as_json())

    async def forget(self, project: Project) -> None:
        """The exchange is over."""
        await asyncio.to_thread(self._path(project).unlink, missing_ok=True)

    async def previous(self, project: Project) -> Previous:
        """Raises `NotFoundError` when nothing was rebuilt yet."""
        path = self._records.of_host(project, "previous")
        found = await asyncio.to_thread(read, path, Previous.from_json)
        if found is None:
            raise NotFoundError(
                f"There is nothing to go back to: project {project.name} has not been rebuilt yet."
            )
        return found

    async def keep_previous(self, project: Project, previous: Previous) -> None:
        """Raises `Ds01Error`."""
        path = self._records.of_host(project, "previous")
        await self._keep(project, path, {**asdict(previous), "format": FORMAT})

    async def keep_text(self, project: Project, file: str, text: str) -> None:
        """Keep what a file held before it was written, for whoever misses it. Raises `Ds01Error`."""
        path = self._records.of_host(project, "saved")
        await self._keep(project, path, {"file": file, "text": text, "format": FORMAT})

    async def _keep(self, project: Project, path: Path, value: dict[str, Any]) -> None:
        await asyncio.to_thread(self._written, project, path, value)

    def _written(self, project: Project, path: Path, value: dict[str, Any]) -> None:
        self._records.folder(project)
        try:
            write_json(path, value)
        except OSError as error:
            raise Ds01Error(
                f"The rebuild cannot be recorded in {path.parent}: {error.strerror}.",
                remedy="Free some space there, then try again.",
            ) from None

    def _path(self, project: Project) -> Path:
        return self._records.of_host(project, "rebuild")


def _kernels(value: Any) -> frozenset[str] | None:
    if value is not None and not isinstance(value, list):
        raise ValueError("its kernels are no list")
    return None if value is None else frozenset(map(str, value))


def _text(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise ValueError(f"its {name} is no text")  # noqa: TRY004 - bad data
    return value


def _text_or_none(given: dict[str, Any], name: str) -> str | None:
    return None if given.get(name) is None else _text(given, name)
