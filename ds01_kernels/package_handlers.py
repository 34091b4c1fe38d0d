"""REST for packages and rebuilds: parse, call, serialise. Documented in ``openapi.yaml``."""

from __future__ import annotations

import asyncio
from typing import Any

from . import package_jobs
from .handlers import PROJECT, Ds01Handler, permitted
from .job_handlers import accept
from .rebuild import Order, check
from .request_body import FLAG, TEXT, TEXTS, read_body
from .server_kernels import ServerKernels

CHOICE = {"packages": TEXTS, "pin": FLAG}
SUMS = {"sha256": TEXT, "result_sha256": TEXT}


class PackagesHandler(Ds01Handler):
    @permitted("read")
    async def get(self, name: str) -> None:
        project = await self.project(name)
        look = await self.workbench.run((await self.flows(project)).drifts.look(project))
        self.answer(await asyncio.to_thread(look.as_json))

    @permitted("execute")
    async def post(self, name: str) -> None:
        wanted = read_body(self.request.body, {"specs": TEXTS}, required=("specs",))
        project = await self.project(name)
        accept(self, await package_jobs.install(self.workbench, project, wanted["specs"]))


class _PlanHandler(Ds01Handler):
    async def plan(self, name: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """The preview's answer."""
        project = await self.project(name)
        rebuilds = (await self.flows(project)).rebuilds
        plan = await self.workbench.run(
            rebuilds.preview(project, wanted.get("packages"), pin=wanted.get("pin", True))
        )
        stops_first = await self.workbench.run(rebuilds.stops_first(project))
        kernels = await self.kernels.of(project)
        return {
            **plan.as_json(),
            "stops_first": stops_first,
            "kernels": [kernel.as_json() for kernel in kernels],
        }

    async def order(self, name: str, wanted: dict[str, Any]) -> Order:
        """What a request asks for. Raises `ConflictError` when the preview that it names no longer holds."""
        project = await self.project(name)
        packages, pin = wanted.get("packages"), wanted.get("pin", True)
        rebuilds = (await self.flows(project)).rebuilds
        plan = await self.workbench.run(rebuilds.preview(project, packages, pin=pin))
        check(plan, wanted["sha256"], wanted["result_sha256"])
        agreed = await self.kernels.processes(project, wanted["kernels"]) if "kernels" in wanted else None
        return Order(
            tuple(packages) if packages is not None else None,
            pin,
            (wanted["sha256"], wanted["result_sha256"]),
            agreed,
        )

    @property
    def kernels(self) -> ServerKernels:
        return ServerKernels(self.kernel_manager, self.session_manager)


class PreviewHandler(_PlanHandler):
    # It writes nothing; but it tells what a Dockerfile says, and asks for work, as only who may rebuild needs
    # it.
    @permitted("execute")
    async def post(self, name: str) -> None:
        self.answer(await self.plan(name, read_body(self.request.body, CHOICE)))


class SaveHandler(_PlanHandler):
    @permitted("execute")
    async def post(self, name: str) -> None:
        wanted = read_body(self.request.body, {**CHOICE, **SUMS}, required=tuple(SUMS))
        project = await self.project(name)
        order = await self.order(name, wanted)
        rebuilds = (await self.flows(project)).rebuilds
        plan = await self.workbench.run(rebuilds.save(project, order))
        self.answer(plan.as_json())


class RebuildHandler(_PlanHandler):
    @permitted("execute")
    async def post(self, name: str) -> None:
        fields = {**CHOICE, **SUMS, "kernels": TEXTS}
        wanted = read_body(self.request.body, fields, required=(*SUMS, "kernels"))
        project = await self.project(name)
        order = await self.order(name, wanted)
        accept(self, await package_jobs.rebuild(self.workbench, project, order))


class RollbackHandler(Ds01Handler):
    @permitted("execute")
    async def post(self, name: str) -> None:
        read_body(self.request.body)
        accept(self, await package_jobs.rollback(self.workbench, await self.project(name)))


class RestoreHandler(Ds01Handler):
    @permitted("execute")
    async def post(self, name: str) -> None:
        read_body(self.request.body)
        accept(self, await package_jobs.restore(self.workbench, await self.project(name)))


class PruneHandler(Ds01Handler):
    @permitted("execute")
    async def post(self) -> None:
        read_body(self.request.body)
        self.answer((await self.workbench.run(self.workbench.prune())).as_json())


TABLE: list[tuple[str, type[Ds01Handler]]] = [
    (f"{PROJECT}/packages", PackagesHandler),
    (f"{PROJECT}/rebuild/preview", PreviewHandler),
    (f"{PROJECT}/rebuild", RebuildHandler),
    (f"{PROJECT}/save", SaveHandler),
    (f"{PROJECT}/rollback", RollbackHandler),
    (f"{PROJECT}/restore", RestoreHandler),
    ("prune", PruneHandler),
]
