"""An engine whose containers are made, changed and removed by DS01's commands.

Everything that only looks, or works inside a container, goes to the engine itself. So does the build of
images, as DS01's ``docker`` passes it on unchanged.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ds01_kernels.containers import (
    LABEL_DS01_USER,
    LABEL_NAME,
    LABEL_PATH,
    LABEL_PROJECT,
    LABEL_UID,
    PIP_VARIABLES,
)
from ds01_kernels.ds01_host import docker_words
from ds01_kernels.ds01_host.commands import Commands, quoted, refused, run, shown
from ds01_kernels.ds01_host.deployed import LABEL_DEPLOYED, dressed, suffix, user
from ds01_kernels.engine import (
    ContainerInfo,
    ContainerSpec,
    Engine,
    EngineInfo,
    GpuRequest,
    Stream,
)
from ds01_kernels.engine.forwarding import ForwardingEngine
from ds01_kernels.engine.placing import refuse_place
from ds01_kernels.errors import (
    ConflictError,
    ContainerExitedError,
    DeployRefusedError,
    Ds01Error,
    EngineError,
    NotFoundError,
    SettingError,
)
from ds01_kernels.variables import WORKSPACE

log = logging.getLogger("ds01_kernels")

#: Looks at a container that is being removed, and seconds between them.
LOOKS, PAUSE = 50, 0.2

#: What a look-up that is to find what DS01 has made may ask for.
_OURS = frozenset({LABEL_UID, LABEL_PATH, LABEL_PROJECT})


class Ds01Engine(ForwardingEngine):
    """`engine` with DS01's commands in the place of what makes, changes and removes containers.

    `limit` is in seconds, for a container to be made or removed. `variables` are set for whatever runs in a
    container that DS01 has made.
    """

    def __init__(
        self,
        engine: Engine,
        commands: Commands,
        *,
        limit: float = 600.0,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._engine = engine
        self._commands = commands
        self._limit = limit
        self._variables = dict(variables or {})
        #: What DS01 has made, by id, as it was seen last.
        self._deployed: dict[str, ContainerInfo] = {}

    async def _reached(self) -> Engine:
        return self._engine

    # What makes, changes and removes containers

    async def create(self, spec: ContainerSpec) -> ContainerInfo:
        """A project's one container by DS01's own command, which starts it too; any other by its `docker`.

        Raises `DeployRefusedError` in the command's words, or `ConflictError` when the name is taken.
        """
        refuse_place(spec, "DS01")
        if await self._engine.container(spec.name) is not None:
            raise ConflictError(f"The container name {spec.name} is already in use.")
        if await self._engine.image(spec.image) is None:
            raise NotFoundError(f"There is no image {spec.image}.")
        if spec.labels.get(LABEL_NAME) == spec.name:
            return await self._deploy(spec)
        return await self._create_by_docker(spec)

    async def remove(self, container: str) -> None:
        info = await self.container(container)
        if info is None:
            return
        if LABEL_DEPLOYED in info.labels:
            argv = [self._commands.retire, info.name.removesuffix(suffix()), "--force"]
            outcome = await run(argv, self._limit)
        else:
            argv = [self._docker, "rm", "--force", "--volumes", info.name]
            outcome = await run(argv, self._limit)
        # That it is gone counts: DS01 itself may have removed it meanwhile.
        if await self._engine.container(info.id) is not None:
            raise refused(argv, outcome)
        self._deployed.pop(info.id, None)

    async def start(self, container: str) -> None:
        name = await self._there(container)
        try:
            await self._change("start", name)
        except DeployRefusedError:
            if await self._is_going(container):
                raise ContainerExitedError(
                    f"The container {name} was removed when it was to be started."
                ) from None
            raise

    async def _is_going(self, container: str) -> bool:
        """Whether it is gone, or is being removed: DS01 removes what it has stopped. Waits for that."""
        for _ in range(LOOKS):
            info = await self._engine.container(container)
            if info is None:
                return True
            if info.state not in ("removing", "dead"):
                return False
            await asyncio.sleep(PAUSE)
        return False

    async def stop(self, container: str, grace: float) -> None:
        await self._change("stop", "-t", str(math.ceil(grace)), await self._there(container))

    async def rename(self, container: str, name: str) -> None:
        former = await self._there(container)
        if former != name:
            if await self._engine.container(name) is not None:
                raise ConflictError(f"The container name {name} is already in use.")
            await self._change("rename", former, name)

    async def _deploy(self, spec: ContainerSpec) -> ContainerInfo:
        argv = self._deploy_words(spec)
        log.info("DS01 makes the container %s: %s", spec.name, shown(argv))
        outcome = await run(argv, self._limit)
        made = await self.container(spec.name)
        folder = spec.labels.get(LABEL_PATH, "")
        is_right = made is not None and made.labels.get(LABEL_PATH) == folder
        if outcome.code == 0 and made is not None and is_right:
            return made
        error = refused(argv, outcome)
        if outcome.code == 0:
            error = _not_as_asked(argv, spec.name, folder, made, quoted(outcome.text, last=True))
        if made is not None and LABEL_DEPLOYED in made.labels:
            # It was not there before: it is what is left of this, and may hold a GPU.
            try:
                await self.remove(made.id)
            except Ds01Error as problem:
                log.warning("What is left of %s is not removed: %s", spec.name, problem)
        log.warning("%s", error)
        raise error

    def _deploy_words(self, spec: ContainerSpec) -> list[str]:
        name = spec.name.removesuffix(suffix())
        if name == spec.name or name.startswith("-"):
            raise SettingError(
                f"The container is to be called {spec.name}, and DS01 names containers PROJECT{suffix()}.",
                remedy="Leave Workbench.container_name as it is on this machine.",
            )
        words = [self._commands.deploy, name, "--background", *gpu_words(spec.gpus)]
        folder = next((mount.source for mount in spec.mounts if mount.target == WORKSPACE), None)
        if folder is not None and os.path.realpath(_usual_folder(name)) != str(folder):
            words.append(f"--workspace={folder}")
        return words

    async def _create_by_docker(self, spec: ContainerSpec) -> ContainerInfo:
        with docker_words.variables_file(spec) as path:
            argv = [self._docker, "create", *docker_words.of(spec, path)]
            outcome = await run(argv, self._limit)
        made = await self._engine.container(spec.name)
        if made is None or outcome.code != 0:
            raise refused([self._docker, "create", "--name", spec.name, spec.image], outcome)
        return made

    async def _change(self, *words: str) -> None:
        argv = [self._docker, *words]
        outcome = await run(argv, self._limit)
        if outcome.code != 0:
            raise refused(argv, outcome)

    async def _there(self, container: str) -> str:
        """Its name, which is what the commands say of it."""
        info = await self._engine.container(container)
        if info is None:
            raise NotFoundError(f"There is no container {container}.")
        return info.name

    @property
    def _docker(self) -> str:
        if not self._commands.docker:
            raise EngineError(
                "There is no docker on the PATH, and nothing else may change containers where DS01 is.",
                remedy="Start the server with the PATH that you have in a terminal.",
            )
        return self._commands.docker

    # What looks at them

    async def info(self) -> EngineInfo:
        return replace(await super().info(), deployer=self._commands.deploy)

    async def container(self, name: str) -> ContainerInfo | None:
        info = await self._engine.container(name)
        return None if info is None else (await self._known([info]))[0]

    async def containers(self, labels: Mapping[str, str]) -> list[ContainerInfo]:
        """What DS01 has made for us is found as if it carried our labels."""
        found = {info.id: info for info in await self._known(await self._engine.containers(labels))}
        if labels and labels.keys() <= _OURS:
            # One of an image of ours has that one's labels, and is among those already.
            theirs = await self._known(await self._engine.containers({LABEL_DS01_USER: user()}))
            found |= {info.id: info for info in theirs if LABEL_DEPLOYED in info.labels}
        return [info for info in found.values() if labels.items() <= info.labels.items()]

    async def _known(self, found: list[ContainerInfo]) -> list[ContainerInfo]:
        found = await asyncio.to_thread(lambda: [dressed(info) for info in found])
        self._deployed |= {info.id: info for info in found if LABEL_DEPLOYED in info.labels}
        return found

    # What works inside them

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
        own = self._own_variables(container)
        return await self._engine.exec(
            container, argv, user=user, env={**own, **(env or {})}, cwd=cwd, terminal=terminal
        )

    def _own_variables(self, container: str) -> dict[str, str]:
        """What a container of ours is made with, for one that others have made."""
        known = self._deployed.values()
        info = next((one for one in known if container in (one.id, one.name)), None)
        if info is None:
            return {}
        project = {"DS01_PROJECT": info.labels[LABEL_PROJECT], "DS01_CONTAINER": info.name}
        return {**PIP_VARIABLES, **self._variables, **project}


def gpu_words(request: GpuRequest | None) -> list[str]:
    """How DS01 is asked for GPUs, of which it takes a number only.

    It has to be told one, or it asks; where the settings say nothing, it is the one that it gives by itself.
    """
    if request is None:
        return ["--num-gpus=1"]
    count = len(request.ids) or request.count
    if count < 0:
        raise SettingError(
            "The settings ask for all GPUs, and DS01 gives a number of them.",
            remedy="Set `gpus` to a number.",
        )
    return [f"--num-gpus={count}"] if count else ["--cpu-only"]


def _usual_folder(name: str) -> Path:
    """What DS01 mounts at ``/workspace`` unless it is told another folder."""
    return Path(os.path.expanduser("~")) / "workspace" / name  # noqa: PTH111 - it raises where there is no home


def _not_as_asked(
    argv: Sequence[str], name: str, folder: str, made: ContainerInfo | None, said: str
) -> DeployRefusedError:
    if made is None:
        return DeployRefusedError(
            f"`{shown(argv)}` says that all is well, and there is no container {name}. {said}".strip(),
            remedy="Run it in a terminal to see all that it says.",
        )
    found = made.mounts.get(str(WORKSPACE), "nothing")
    return DeployRefusedError(
        f"`{shown(argv)}` made {name} for somebody else, or with {found} at {WORKSPACE}, not {folder}.",
        remedy="Ask the administrator whether that command is DS01's.",
    )
