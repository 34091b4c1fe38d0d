"""Docker Swarm as an `Engine`: a container is a service with one task, on whichever node has room.

Images are built, and known, where the swarm is managed from; what runs in a task goes through the Docker of
the task's node. A task that has ended is gone with its files: `start` puts another service in its place.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import PurePosixPath
from typing import Any, TypeVar

from docker import APIClient

from ds01_kernels.engine import (
    ContainerFile,
    ContainerInfo,
    ContainerSpec,
    EngineInfo,
    NodeInfo,
    Stream,
)
from ds01_kernels.engine import swarm_files as files_of
from ds01_kernels.engine.docker_builders import BuilderName
from ds01_kernels.engine.docker_connection import connect
from ds01_kernels.engine.docker_files import packed
from ds01_kernels.engine.swarm_images import RegistryEngine
from ds01_kernels.engine.swarm_nodes import NodeEngine, NodeEngines
from ds01_kernels.engine.swarm_options import SwarmOptions
from ds01_kernels.engine.swarm_services import Services, forbids_privileges, no_swarm, own_node, version_of
from ds01_kernels.engine.swarm_spec import check_name, service_spec, successor, taken
from ds01_kernels.engine.swarm_starting import until_running, whole
from ds01_kernels.engine.swarm_stream import Watch
from ds01_kernels.engine.swarm_values import (
    LABEL_EXIT,
    LABEL_NAME,
    Found,
    container_info,
    engine_info,
)
from ds01_kernels.errors import (
    ContainerExitedError,
    Ds01Error,
    EngineError,
    NotFoundError,
)

log = logging.getLogger("ds01_kernels")

T = TypeVar("T")

#: Seconds for a node to end a task when its own Docker cannot be told to.
_END_LIMIT = 30.0
#: Seconds for the tasks of a service to go; those on a node that is lost stay.
_CLEAR_LIMIT = 10.0


class SwarmEngine(RegistryEngine):
    """The swarm whose manager `reach` leads to; `timeout` in seconds as for Docker."""

    def __init__(
        self,
        options: SwarmOptions | None = None,
        *,
        timeout: float = 60.0,
        builder: BuilderName | None = None,
        reach: Callable[[float], APIClient] = connect,
    ) -> None:
        self._options = options or SwarmOptions()
        super().__init__(self._options.registry, timeout=timeout, builder=builder, reach=reach)
        self._engines = NodeEngines(self._options, timeout, reach)
        self._services = Services(os.getuid())
        self._watch = Watch(lambda: self._ask("list the nodes", lambda client: client.nodes()))

    async def info(self) -> EngineInfo:
        """Raises `EngineError` when the Docker that was reached manages no swarm."""
        docker, nodes = await asyncio.gather(super().info(), self.nodes())
        forbids = await self._ask("say what it is", forbids_privileges)
        return engine_info(docker, nodes, self.has_registry, forbids)

    async def nodes(self) -> list[NodeInfo]:
        return await self._ask(
            "list the nodes", lambda client: self._services.node_infos(client, self._options.gpu)
        )

    # Containers

    async def containers(self, labels: Mapping[str, str]) -> list[ContainerInfo]:
        """Of all users, as Docker's; by name or id, only those of this one are found."""
        found = await self._ask("list services", lambda client: self._services.all(client, labels))
        return [container_info(one) for one in found]

    async def container(self, name: str) -> ContainerInfo | None:
        found = await self._find(name)
        if found is None:
            return None
        info = container_info(found)
        if info.state == "exited" and info.exit_code == 137:
            return replace(info, oom_killed=await self._was_oom_killed(found))
        return info

    async def create(self, spec: ContainerSpec) -> ContainerInfo:
        check_name(spec.name)
        image = await self.image(spec.image)
        if image is None:
            raise NotFoundError(f"There is no image {spec.image}.")
        if await self._find(spec.name) is not None:
            raise taken(spec.name)
        reference = await self._brought(image.id) if self.has_registry else image.id

        def ask(client: APIClient) -> ContainerInfo:
            about = client.info()
            now = datetime.fromisoformat(str(about["SystemTime"]))
            files_of.drop_forgotten(client, os.getuid(), self._services.keys, now)
            wanted = service_spec(
                spec,
                uid=os.getuid(),
                image_id=image.id,
                reference=reference,
                own_node="" if self.has_registry else own_node(about),
                gpu=self._options.gpu,
                api=version_of(client),
                log_driver=str(about.get("LoggingDriver")),
            )
            made = self._services.create(client, wanted)
            if self._services.has_rival(client, made):
                self._services.remove(client, made.id)
                raise taken(spec.name)
            return container_info(made)

        return await self._ask(f"create the container {spec.name}", ask, again=False)

    async def rename(self, container: str, name: str) -> None:
        check_name(name)
        found = await self._at(container)
        if found.labels.get(LABEL_NAME) == name:
            return
        if await self._find(name) is not None:
            raise taken(name)
        await self._relabel(found.id, f"rename {container}", {LABEL_NAME: name})

    async def start(self, container: str) -> None:
        found = await self._at(container)
        info = container_info(found)
        if info.running:
            return
        if info.state == "created":
            former = frozenset[str]() if found.replicas else await self._cleared(found.id)
            async with self._taking_back(partial(self._put_down, found.id)):
                await whole(self._scale(found.id, 1))
                await self._run(found.id, info, former)
            return
        made = await self._succeed(found, info)
        async with self._taking_back(partial(self._remove_service, made.id)):
            await self._run(made.id, info)
            await self._relabel(made.id, f"start {info.name}", {LABEL_NAME: info.name})
        await self._remove_service(found.id)

    async def _succeed(self, found: Found, info: ContainerInfo) -> Found:
        """The service that is to take that one's place, with a task on its way."""

        def ask(client: APIClient) -> Found:
            return self._services.succeed(client, found, successor(found))

        making = asyncio.ensure_future(self._ask(f"start {info.name}", ask, again=False))
        try:
            return await whole(making)
        except asyncio.CancelledError:
            with suppress(Ds01Error):
                await self._remove_service((await making).id)
            raise

    async def _put_down(self, service: str) -> None:
        await self._scale(service, 0)
        await self._cleared(service)

    async def _cleared(self, service: str) -> frozenset[str]:
        """Wait for the tasks to go of a service that is to have none: those that are left after some time.

        Until then, Swarm may take up one of them again.
        """
        deadline = asyncio.get_running_loop().time() + _CLEAR_LIMIT
        while True:
            tasks = await self._ask("list tasks", lambda client: self._services.tasks(client, service))
            if not tasks or asyncio.get_running_loop().time() > deadline:
                return tasks
            await asyncio.sleep(0.05)

    async def _run(self, service: str, info: ContainerInfo, former: Collection[str] = ()) -> None:
        """Have its task run, with the files that are kept for it."""

        async def look() -> Found:
            return await self._ask(
                f"start {info.name}", lambda client: self._services.seen(client, service, former)
            )

        found = await until_running(look, info, self._timeout)
        if found.task_state != "running":
            return
        archives = await self._kept(found)
        if archives:
            await self._in_task(found, lambda node: node.put(found.container_id, archives))

    @asynccontextmanager
    async def _taking_back(self, undo: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
        """Whatever ends a start early, no place is held for it afterwards."""
        try:
            yield
        except BaseException:
            with suppress(Ds01Error):
                await asyncio.shield(asyncio.ensure_future(undo()))
            raise

    async def _scale(self, service: str, replicas: int, labels: Mapping[str, str] | None = None) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["Mode"] = {"Replicated": {"Replicas": replicas}}
            spec["Labels"] = {**(spec.get("Labels") or {}), **(labels or {})}

        await self._ask("change a service", lambda client: self._services.update(client, service, change))

    async def _relabel(self, service: str, doing: str, labels: Mapping[str, str]) -> None:
        def change(spec: dict[str, Any]) -> None:
            spec["Labels"] = {**(spec.get("Labels") or {}), **labels}

        await self._ask(doing, lambda client: self._services.update(client, service, change))

    async def stop(self, container: str, grace: float) -> None:
        """The exit code is that of the main process, unless its node cannot be reached."""
        found = await self._at(container)
        info = container_info(found)
        if not found.replicas:
            return
        code = info.exit_code
        if info.running:
            code = await self._end_task(found, grace)
        await self._scale(found.id, 0, {LABEL_EXIT: "" if code is None else str(code)})
        if info.running and code is None:
            await self._until_gone(found, grace)

    async def remove(self, container: str) -> None:
        found = await self._find(container)
        if found is None:
            return
        if container_info(found).running:
            await self._end_task(found, 0)
        await self._remove_service(found.id)
        await self._ask(
            f"remove {container}", lambda client: self._services.remove_rest(client, found.key, files_of.drop)
        )

    async def _end_task(self, found: Found, grace: float) -> int | None:
        """Have its node end it at once; None when that cannot be reached, and Swarm has to."""
        try:
            await self._on_node(found, lambda node: node.stop(found.container_id, grace))
            info = await self._on_node(found, lambda node: node.container(found.container_id))
        except (EngineError, NotFoundError) as error:
            log.info("The task of %s is left to the swarm to end: %s", found.id, error)
            return None
        return info.exit_code if info else None

    async def _until_gone(self, found: Found, grace: float) -> Found | None:
        """Wait until the swarm knows that its task has ended, or cannot know; None when it takes too long."""
        deadline = asyncio.get_running_loop().time() + grace + _END_LIMIT
        while asyncio.get_running_loop().time() < deadline:
            seen = await self._ask("see a task end", lambda client: self._services.seen(client, found.id))
            if seen.is_lost or seen.task is None or seen.task_state != "running":
                return seen
            await asyncio.sleep(0.2)
        return None

    async def _remove_service(self, service: str) -> None:
        await self._ask("remove a service", lambda client: self._services.remove(client, service))

    # What is in them

    async def read_file(self, container: str, path: PurePosixPath) -> bytes | None:
        """Of one that does not run: as it will be in its next task."""
        found = await self._at(container)
        if container_info(found).running:
            return await self._in_task(found, lambda node: node.read_file(found.container_id, path))
        content = files_of.kept_file(await self._kept(found), path)
        if content is not None:
            return content
        # Never started, and on the node where the image is.
        look = ContainerSpec(
            f"ds01-look-{secrets.token_hex(8)}", container_info(found).image_id, ("true",), network="none"
        )
        made = await super().create(look)
        try:
            return await super().read_file(made.id, path)
        finally:
            await asyncio.shield(super().remove(made.id))

    async def write_files(self, container: str, files: Sequence[ContainerFile]) -> None:
        """For one that does not run they are kept, and written when it does: each time that it is started."""
        found = await self._at(container)
        if container_info(found).running:
            await self._in_task(found, lambda node: node.write_files(found.container_id, files))
            return
        packed(files)
        keep = partial(files_of.keep, key=found.key, uid=os.getuid(), files=files)
        await self._ask(f"keep files for {container}", keep, again=False)

    async def _kept(self, found: Found) -> list[bytes]:
        return await self._ask("read kept files", lambda client: files_of.kept(client, found.key))

    async def exec(
        self,
        container: str,
        argv: Sequence[str],
        *,
        user: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        terminal: bool = False,
    ) -> Stream:
        found = await self._at(container)
        info = container_info(found)
        if not info.running:
            raise ContainerExitedError(info.problem or f"The container {info.name} does not run.")
        stream = await self._in_task(
            found,
            lambda node: node.exec(found.container_id, argv, user=user, env=env, cwd=cwd, terminal=terminal),
        )
        return self._watch.over(stream, found.node_id)

    async def logs(self, container: str, tail: int = 200) -> str:
        """Nothing, where there is no task any more."""
        found = await self._at(container)
        if not found.container_id or found.is_lost:
            return ""
        try:
            return await self._on_node(found, lambda node: node.logs(found.container_id, tail))
        except NotFoundError:
            return ""

    async def close(self) -> None:
        await self._watch.close()
        await self._engines.close()
        await super().close()

    async def _is_used(self, image_id: str) -> bool:
        return await self._ask("list services", lambda client: self._services.uses(client, image_id))

    def _told(self, error: Ds01Error) -> Ds01Error:
        return no_swarm() if "not a swarm manager" in str(error) else error

    # Ways there

    async def _find(self, container: str) -> Found | None:
        return await self._ask(f"look up {container}", lambda client: self._services.find(client, container))

    async def _at(self, container: str) -> Found:
        found = await self._find(container)
        if found is None:
            raise NotFoundError(f"There is no container {container!r}.")
        return found

    async def _on_node(self, found: Found, ask: Callable[[NodeEngine], Coroutine[Any, Any, T]]) -> T:
        """What the Docker of its task's node gives.

        Raises `ContainerExitedError` as soon as that node is known to be lost.
        """
        own = await self._ask("say which node it is", lambda client: self._services.own_node(client))
        try:
            return await self._watch.during(ask(self._engines.of(found.node, own)), found.node_id)
        except Ds01Error as error:
            name = found.labels.get(LABEL_NAME, found.id)
            error.args = (str(error).replace(found.container_id or name, name),)
            raise

    async def _in_task(self, found: Found, ask: Callable[[NodeEngine], Coroutine[Any, Any, T]]) -> T:
        """The same of its task, which runs. Raises `ContainerExitedError` also when that is gone there."""
        try:
            return await self._on_node(found, ask)
        except NotFoundError as error:
            # The node has left the swarm perhaps. Whoever looks for the container after this is to see it.
            seen = await self._until_gone(found, 0)
            info = container_info(seen or found)
            raise ContainerExitedError(
                info.problem or f"The container {info.name} is not on its node any more."
            ) from error

    async def _was_oom_killed(self, found: Found) -> bool:
        with suppress(EngineError):
            info = await self._on_node(found, lambda node: node.container(found.container_id))
            return info is not None and info.oom_killed
        return False
