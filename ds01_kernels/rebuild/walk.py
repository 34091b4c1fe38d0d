"""Walks a rebuild through its phases, or back to where it was.

What kernels do when their container was replaced is not decided here: the agent of the old one tells the
processes that own them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import replace

from .. import images
from ..drifts import Drifts
from ..engine import Engine, EngineInfo, ImageInfo
from ..errors import ConflictError, Ds01Error, EngineTimeoutError, NotBuiltError, NotFoundError
from ..launch import Launcher
from ..locks import AT_ONCE, of_rebuild
from ..machine import available_memory
from ..packages import Installed
from ..project_files import read_text, replace_text
from ..projects import Project
from ..settings import Settings
from . import saving
from .exchange import Exchanges
from .journal import Exchange, Journals
from .phases import Order, Report, Step, Walk
from .saving import DOCKERFILE, REQUIREMENTS, Plan
from .swap import Swaps, through

log = logging.getLogger("ds01_kernels")

#: Seconds that another rebuild of the project is waited for.
BUSY_LIMIT = 5.0


class Rebuilds:
    """Rebuilds of all projects. `build_limit` is in seconds; `exclusive_gpus`: no two containers can have
    one; `memory` says how many bytes this machine has left."""

    def __init__(
        self,
        launcher: Launcher,
        drifts: Drifts,
        journals: Journals,
        settings: Callable[[Project], Settings],
        *,
        build_limit: float,
        exclusive_gpus: bool = False,
        memory: Callable[[], int | None] = available_memory,
    ) -> None:
        self._launcher = launcher
        self._drifts = drifts
        self._journals = journals
        self._exchanges = exchanges = Exchanges(lambda: launcher.engine, journals)
        self._settings = settings
        self._build_limit = build_limit
        self._swaps = Swaps(
            launcher,
            drifts,
            exchanges,
            journals,
            settings,
            exclusive_gpus=exclusive_gpus,
            memory=memory,
        )
        self.stops_first = self._swaps.stops_first
        launcher.settle = self.settle

    @property
    def _engine(self) -> Engine:
        return self._launcher.engine

    async def preview(
        self, project: Project, packages: Sequence[str] | None = None, *, pin: bool = True
    ) -> Plan:
        """What a rebuild or a save would write, from what is installed now. Raises `Ds01Error`."""
        settings = await asyncio.to_thread(self._settings, project)
        file = REQUIREMENTS if settings.packages == "requirements" else DOCKERFILE
        text = await asyncio.to_thread(_read, project, file)
        if packages is not None and not packages:
            # Not parsed: the builder may know more of Dockerfiles than we do, and says best what is wrong.
            return Plan(file, text, text)
        look = await self._drifts.look(project)
        facts = look.installed or look.image
        below = None
        if look.drift.removed or (facts is None and file == DOCKERFILE):
            below = await self._base(project)
            facts = facts or below
        pip = saving.Pip(facts.pip, facts.externally_managed) if facts else saving.Pip()
        return await asyncio.to_thread(
            saving.plan,
            text,
            look.drift,
            packages=packages,
            pin=pin,
            pip=pip,
            file=file,
            below=below.by_name if below else (),
        )

    async def save(self, project: Project, order: Order) -> Plan:
        """Write the file, and build nothing. Raises `ConflictError` when the preview no longer holds."""
        async with self._alone(project):
            plan = await self._plan(project, order)
            if plan.changes:
                await self._journals.keep_text(project, plan.file, plan.before)
                await asyncio.to_thread(replace_text, project, plan.file, plan.before, plan.after)
            # It is in the file from now on: nothing is to be brought back by hand.
            await self._drifts.forget_lost(project, plan.names)
            return plan

    async def rebuild(self, project: Project, order: Order, report: Report) -> None:
        """Walk the whole way. Whatever it raises (`Ds01Error`, `CancelledError`), the project is as it was.

        A cancellation comes too late once the swap has begun.
        """
        report = Walk(report)
        async with (
            self._launcher.idling.busy(project),
            self._built(project, order, report) as (exchange, plan, host),
        ):
            await self._swaps.swap(project, exchange, plan.install, report, host)

    async def update(
        self, project: Project, order: Order, report: Report, *, limit: float = BUSY_LIMIT
    ) -> None:
        """Only build the image; the container stays until it is replaced. Raises as `rebuild` does.

        `limit` is in seconds, for the end of what others do to the project.
        """
        report = Walk(report)
        async with (
            self._built(project, order, report, limit) as (exchange, _, _),
            self._launcher.locks.hold(project.path),
        ):
            await through(self._swaps.carry_out(project, exchange))

    async def rollback(self, project: Project, report: Report, kernels: frozenset[str] | None = None) -> None:
        """Back to the previous image, and the text that it was built from. Raises as `rebuild` does."""
        report = Walk(report)
        async with self._launcher.idling.busy(project), self._alone(project):
            previous = await self._journals.previous(project)
            image, latest, text = await asyncio.gather(
                self._engine.image(previous.image),
                self._launcher.image_id(project),
                asyncio.to_thread(_read, project, previous.file),
            )
            if image is None:
                raise NotBuiltError(
                    f"The previous image of project {project.name} has been removed.",
                    remedy="Build it again from the Dockerfile of that time.",
                )
            if (image.id, previous.text) == (latest, text):
                raise NotFoundError(f"Project {project.name} is where a rollback would go back to.")
            exchange = Exchange(
                secrets.token_hex(4),
                previous.file,
                text,
                previous.text,
                new_image=image.id,
                kernels=kernels,
            )
            await self._journals.note(project, exchange)
            try:
                await self._swaps.swap(project, exchange, (), report)
            except BaseException:
                await through(self._abandon(project))
                raise

    async def settle(self, project: Project) -> None:
        """End what a rebuild of a process that is gone had begun. To be called under the project's lock."""
        exchange = await self._journals.pending(project)
        if exchange is None:
            return
        async with AsyncExitStack() as stack:
            # Whoever exchanges holds the project's lock, so that one is gone; another may be at it still.
            if exchange.direction in ("trying", "done"):
                try:
                    await stack.enter_async_context(
                        self._launcher.locks.hold(of_rebuild(project.path), limit=AT_ONCE)
                    )
                except ConflictError:
                    return
            await self._settle(project)

    async def settle_all(self, projects: Iterable[Project]) -> None:
        """The same for all of them, at the start of a server. Raises nothing."""
        for project in projects:
            try:
                if await self._journals.pending(project) is not None:
                    async with self._launcher.locks.hold(project.path):
                        await self.settle(project)
            except (Ds01Error, OSError) as error:
                log.warning("The rebuild of project %s is not settled yet: %s", project.name, error)

    async def _settle(self, project: Project, *, back: bool = False) -> None:
        """With `back` it is one of this process, which says what became of it."""
        if not back:
            log.info("A rebuild of project %s ended early: it is settled", project.name)
        done = await self._exchanges.settle(project, back=back)
        if done is not None:
            await self._swaps.tell(done)
            await self._journals.forget(project)

    # The phases

    async def _plan(self, project: Project, order: Order) -> Plan:
        plan = await self.preview(project, order.packages, pin=order.pin)
        if order.sums is not None:
            saving.check(plan, *order.sums)
        return plan

    async def _begun(self, project: Project, order: Order) -> tuple[Plan, EngineInfo]:
        """The plan, and the engine: one that is away is told here, where there is nothing to be taken
        back."""
        asking = asyncio.ensure_future(self._engine.info())
        try:
            return await self._plan(project, order), await asking
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    @asynccontextmanager
    async def _built(
        self, project: Project, order: Order, report: Report, limit: float = BUSY_LIMIT
    ) -> AsyncIterator[tuple[Exchange, Plan, EngineInfo]]:
        """A candidate image of what the order asks for; what is not exchanged in the end is removed."""
        async with self._alone(project, limit):
            report(Step("edit"))
            plan, host = await self._begun(project, order)
            identity = secrets.token_hex(4)
            candidate = images.beside(project.image_name(os.getuid()), f"candidate-{identity}")
            exchange = Exchange(
                identity, plan.file, plan.before, plan.after, candidate=candidate, kernels=order.kernels
            )
            await self._journals.note(project, exchange)
            try:
                report(Step("build"))
                image = await self._build(project, plan, candidate, order, report)
                yield replace(exchange, new_image=image.id), plan, host
            except BaseException:
                await through(self._abandon(project))
                raise

    async def _build(self, project: Project, plan: Plan, tag: str, order: Order, report: Report) -> ImageInfo:
        settings = await asyncio.to_thread(self._settings, project)
        in_dockerfile = plan.file == DOCKERFILE
        building = images.build(
            self._engine,
            project,
            text=plan.after if in_dockerfile else None,
            files={} if in_dockerfile else {plan.file: plan.after},
            tag=tag,
            arguments=settings.build_args,
            secrets=settings.build_secrets,
            no_cache=order.no_cache,
            pull=order.pull,
        )
        try:
            async with asyncio.timeout(self._build_limit), aclosing(building) as values:  # type: ignore[type-var]
                async for value in values:
                    report(Step("build", value.step, value.steps, value.name, value.log))
        except TimeoutError:
            raise EngineTimeoutError(
                f"The build was ended after {self._build_limit:.0f} s.",
                remedy="Look in the log for what it waits for, or raise Workbench.build_timeout.",
            ) from None
        image = await self._engine.image(tag)
        if image is None:
            raise NotBuiltError("The new image has been removed by somebody while it was to be checked.")
        return image

    async def _abandon(self, project: Project) -> None:
        try:
            async with self._launcher.locks.hold(project.path):
                await self._settle(project, back=True)
        except Ds01Error as error:
            log.warning("What a rebuild of project %s left is removed later: %s", project.name, error)

    async def _base(self, project: Project) -> Installed | None:
        """The packages of the image that the Dockerfile starts from, where that one is here."""
        with suppress(Ds01Error):
            text = await asyncio.to_thread(images.read_dockerfile, project)
            base = await self._engine.image(saving.base_of(text))
            return await self._drifts.image_set(project, base.id) if base else None
        return None

    @asynccontextmanager
    async def _alone(self, project: Project, limit: float = BUSY_LIMIT) -> AsyncIterator[None]:
        """Nobody else rebuilds this project, and nothing is left of one that did. Raises `ConflictError`."""
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(
                    self._launcher.locks.hold(of_rebuild(project.path), limit=limit)
                )
            except ConflictError:
                raise ConflictError(
                    f"Project {project.name} is being rebuilt, or its Dockerfile written, by somebody else.",
                    remedy="Wait for that to end, then try again.",
                ) from None
            if await self._journals.pending(project) is not None:
                async with self._launcher.locks.hold(project.path):
                    await self._settle(project)
            yield


def _read(project: Project, file: str) -> str:
    if file == DOCKERFILE:
        return images.read_dockerfile(project)
    return read_text(project, file) or ""
