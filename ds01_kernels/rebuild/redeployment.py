"""The new container where a command makes a project's one container: the old one has to go before it.

So the new image is tried first, in a container beside the old one, and the old one stays until that has
worked. When no new one can be made then, the old image gets a container again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from .. import containers
from ..drifts import Drifts
from ..engine import ContainerInfo
from ..errors import ConflictError, Ds01Error
from ..launch import Launcher
from ..projects import Project
from .journal import Exchange

log = logging.getLogger("ds01_kernels")

#: Carries out an exchange, and awaits what is given as a part of it.
CarryOut = Callable[[Project, Exchange, Callable[[], Awaitable[None]]], Awaitable[ContainerInfo | None]]


async def check_consent(
    launcher: Launcher, old: ContainerInfo | None, kernels: frozenset[str] | None
) -> None:
    """Raise `ConflictError` if others than `kernels` (None: all may) would end with that container."""
    if old is None or not old.running:
        return
    async with launcher.visit(old) as agent:
        others = await agent.kernels() - kernels if kernels is not None else frozenset()
    if others:
        raise ConflictError(
            f"{len(others)} more kernel{'s' if len(others) > 1 else ''} would end, since the old "
            "container has to be stopped first.",
            remedy="Agree to the restart of all kernels, or shut those down.",
        )


class Redeployment:
    """Of one project's container."""

    def __init__(self, launcher: Launcher, drifts: Drifts, project: Project, exchange: Exchange) -> None:
        self._launcher = launcher
        self._drifts = drifts
        self._project = project
        self._exchange = replace(exchange, new_container=None, in_place=True)
        self._tried = exchange.new_container

    async def end_trial(self) -> None:
        """Remove the container in which the image was tried: it counts for the user's limit."""
        info = await self._launcher.engine.container(self._tried or "")
        if info is not None:
            await containers.retire(self._launcher.engine, info)

    async def carry_out(self, carry_out: CarryOut) -> None:
        """To be called under the project's lock. Raises `Ds01Error`: then all is as it was, as far as a
        container can be made."""
        project, exchange = self._project, self._exchange
        old = await containers.find(self._launcher.engine, project)
        await check_consent(self._launcher, old, exchange.kernels)
        try:
            await carry_out(project, exchange, lambda: self._renew(old))
        except Ds01Error as error:
            if old is not None and old.running:
                await self._old_again(old, error)
            raise

    async def _renew(self, old: ContainerInfo | None) -> None:
        launcher, project = self._launcher, self._project
        if old is not None:
            if old.running:
                with suppress(Ds01Error):
                    await self._drifts.look(project)
                await tell(launcher, old, self._exchange.kernels)
            await containers.retire(launcher.engine, old)
        try:
            await launcher.reach_held(project)
        except Ds01Error:
            # It is not to stay when its image does not.
            with suppress(Ds01Error):
                if (made := await containers.find(launcher.engine, project)) is not None:
                    await containers.retire(launcher.engine, made)
            raise

    async def _old_again(self, old: ContainerInfo, error: Ds01Error) -> None:
        try:
            if await self._launcher.engine.container(old.id) is None:
                await self._launcher.reach_held(self._project)
        except Ds01Error as problem:
            log.warning("The container %s is not made again: %s", old.name, problem)
            error.remedy = (
                "The old image is in its place again, but no container could be made of it either: "
                f"{problem} The next kernel tries it once more. {error.remedy}"
            ).strip()


async def tell(launcher: Launcher, old: ContainerInfo, kernels: frozenset[str] | None) -> None:
    """Have the kernels of a container that is about to go restarted by those who own them. Raises nothing."""
    try:
        async with launcher.visit(old) as agent:
            agent.replaced(kernels)
            await agent.kernels()
    except Ds01Error as error:
        log.info("Kernels of a container that is replaced were not told: %s", error)
