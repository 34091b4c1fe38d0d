"""Puts a new Dockerfile, image and container in the place of a project's old ones: all three, or none.

No engine can do that in one step. So what is to be exchanged is written down first (`journal`), and every
step can be done again: whoever finds the journal of a process that is gone (`settle`) ends what that one had
begun, forwards or backwards. The Dockerfile comes first, as the one thing that somebody else may have
changed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from .. import containers, images
from ..engine import Engine
from ..errors import BadInputError, ConflictError, Ds01Error, EngineError, NotFoundError
from ..project_files import read_text, replace_text
from ..projects import Project
from .journal import Exchange, Journals, Previous

log = logging.getLogger("ds01_kernels")


class Exchanges:
    """The exchanges of all projects; to be called under the project's lock."""

    def __init__(self, engine: Callable[[], Engine], journals: Journals) -> None:
        self._engine = engine
        self._journals = journals

    async def carry_out(
        self, project: Project, exchange: Exchange, then: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Exchange them, or leave all as it was. Raises `ConflictError` when the file was changed, or
        `Ds01Error`.

        `then` is awaited when the file and the images are exchanged, as a part of it: of one that is
        `in_place` it replaces the container. Where there is an old container the journal stays, until its
        kernels have been told.
        """
        exchange = replace(exchange, direction="forward")
        await self._journals.note(project, exchange)
        try:
            await asyncio.to_thread(replace_text, project, exchange.file, exchange.before, exchange.after)
            await self._forward(project, exchange)
            if then is not None:
                await then()
        except Exception as error:
            await self._undo(project, replace(exchange, direction="back"), error)
            raise
        await self._finish(project, exchange)

    async def abandon(self, project: Project, exchange: Exchange) -> None:
        """Remove what was made to be tried. Nothing of the project's was touched."""
        engine = self._engine()
        # By its name too: it may have been made after the journal was last written.
        for beside in (exchange.new_container, _next(project, exchange)):
            info = await engine.container(beside) if beside else None
            if info is not None and not containers.is_current(info):
                await containers.retire(engine, info)
        if exchange.candidate:
            with suppress(ConflictError):
                await engine.remove_image(exchange.candidate)
        await self._journals.forget(project)

    async def settle(self, project: Project, *, back: bool = False) -> Exchange | None:
        """End the exchange of a process that is gone, with `back` in the old state unless it is done.

        What it returns is done but for the old container's kernels. Raises `Ds01Error`, and can be tried
        again then.
        """
        exchange = await self._journals.pending(project)
        if exchange is None:
            return None
        if exchange.direction == "done":
            await self._remove_older(exchange)
            return exchange
        if exchange.direction == "forward" and not back and await self._can_go_on(project, exchange):
            await self._forward(project, exchange)
            return await self._finish(project, exchange)
        if exchange.direction != "trying":
            await self._back(project, exchange)
        await self.abandon(project, exchange)
        return None

    async def _can_go_on(self, project: Project, exchange: Exchange) -> bool:
        engine = self._engine()
        if exchange.new_container is not None and await engine.container(exchange.new_container) is None:
            return False
        if await engine.image(exchange.new_image or "") is None:
            return False
        with suppress(BadInputError):
            return await self._write(project, exchange.file, exchange.before, exchange.after)
        return False

    async def _undo(self, project: Project, exchange: Exchange, why: Exception) -> None:
        try:
            # A full disk keeps nobody from going back: that takes no more space.
            with suppress(Ds01Error):
                await self._journals.note(project, exchange)
            await self._back(project, exchange)
            await self.abandon(project, exchange)
        except Ds01Error as error:
            # The journal is there, and this is done as soon as the engine answers.
            log.warning(
                "The swap of project %s failed (%s), and is taken back later: %s", project.name, why, error
            )

    # Each step can be done again, whatever was done of it before.

    async def _forward(self, project: Project, exchange: Exchange) -> None:
        engine, uid = self._engine(), os.getuid()
        latest, name = project.image_name(uid), project.container_name(uid)
        old_image = exchange.old_image if exchange.old_image != exchange.new_image else None
        if old_image is not None:
            with suppress(NotFoundError):
                await engine.tag(old_image, images.beside(latest, "previous"))
        if exchange.new_image is not None:
            await engine.tag(exchange.new_image, latest)
        if exchange.candidate:
            await engine.remove_image(exchange.candidate)
        if exchange.old_container is not None and not exchange.in_place:
            await self._rename(exchange.old_container, f"{name}.old-{exchange.id}")
        if exchange.new_container is not None:
            await engine.rename(exchange.new_container, name)
        if old_image is not None:
            await self._journals.keep_previous(project, Previous(old_image, exchange.file, exchange.before))

    async def _finish(self, project: Project, exchange: Exchange) -> Exchange | None:
        if exchange.old_container is not None:
            exchange = replace(exchange, direction="done")
            try:
                await self._journals.note(project, exchange)
            except Ds01Error as error:
                log.warning("%s", error)
            else:
                await self._remove_older(exchange)
                return exchange
        await self._remove_older(exchange)
        await self._journals.forget(project)
        return None

    async def _remove_older(self, exchange: Exchange) -> None:
        """Remove the image that nobody can go back to any more, unless it has a name or is in use."""
        image_id = exchange.older_image
        if image_id is None or image_id in (exchange.old_image, exchange.new_image):
            return
        with suppress(ConflictError, EngineError):
            image = await self._engine().image(image_id)
            if image is not None and not image.tags and containers.LABEL_PATH in image.labels:
                await self._engine().remove_image(image_id)

    async def _back(self, project: Project, exchange: Exchange) -> None:
        if not await self._write(project, exchange.file, exchange.after, exchange.before):
            log.warning("%s of project %s was changed meanwhile, and stays", exchange.file, project.name)
        engine, uid = self._engine(), os.getuid()
        latest, name = project.image_name(uid), project.container_name(uid)
        if exchange.new_container is not None:
            await self._rename(exchange.new_container, _next(project, exchange))
        if exchange.old_container is not None and not exchange.in_place:
            await self._rename(exchange.old_container, name)
        if exchange.candidate and exchange.new_image is not None:
            # Or the last tag would go, and the image of a running container with it.
            with suppress(NotFoundError):
                await engine.tag(exchange.new_image, exchange.candidate)
        for image, tag in (
            (exchange.old_image, latest),
            (exchange.older_image, images.beside(latest, "previous")),
        ):
            if image is None:
                await engine.remove_image(tag)
            else:
                with suppress(NotFoundError):
                    await engine.tag(image, tag)

    async def _rename(self, container: str, name: str) -> None:
        with suppress(NotFoundError):
            await self._engine().rename(container, name)

    async def _write(self, project: Project, file: str, before: str, after: str) -> bool:
        """Turn one text into the other. False: it is neither, so it is somebody's, and stays.

        Raises `BadInputError` when it is the one and cannot be written.
        """
        try:
            await asyncio.to_thread(replace_text, project, file, before, after)
        except ConflictError:
            return False
        except BadInputError:
            if await asyncio.to_thread(_holds, project, file, before):
                raise
            return False
        return True


def _holds(project: Project, file: str, text: str) -> bool:
    try:
        return read_text(project, file) == text
    except BadInputError:
        return False


def _next(project: Project, exchange: Exchange) -> str:
    """The new container's name while it is on trial."""
    return f"{project.container_name(os.getuid())}.next-{exchange.id}"
