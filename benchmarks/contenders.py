"""Whose kernels are compared: ours, the local one, `docker exec`, and those of `peers`."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ds01_kernels import containers, ipykernel_store
from ds01_kernels.engine import ContainerSpec, Mount
from ds01_kernels.projects import Project
from ds01_kernels.workbench import Workbench

from .case import UnavailableError
from .stage import LABEL, Stage

#: Whether this version keeps spare kernels, and so is to be measured without them as well.
HAS_SPARES = "spare_kernels" in Workbench.class_trait_names()


async def nothing() -> None:
    return None


@dataclass(frozen=True)
class Contender:
    """One kind of kernel: its kernelspec, and what start_kernel is given.

    `project` is set for ours. `before` is awaited before anything of a measurement, `rest` when no more
    kernels are to be started for a while, `after` when a kernel has ended. `is_apart`: it occupies the loop
    of whoever uses it, so others are not to be measured in the same server. `is_peer`: see `case.Way`.
    """

    key: str
    title: str
    spec: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    project: Project | None = None
    before: Callable[[], Awaitable[None]] = nothing
    rest: Callable[[], Awaitable[None]] = nothing
    after: Callable[[], Awaitable[None]] = nothing
    is_apart: bool = False
    is_peer: bool = False


@asynccontextmanager
async def contenders(stage: Stage, *keys: str) -> AsyncIterator[list[Contender]]:
    """Those that can be had here; their containers are gone afterwards."""
    async with AsyncExitStack() as opened:
        found = []
        for key in keys:
            try:
                found.append(await _make(stage, key, opened))
            except UnavailableError as error:
                stage.leave_out(key, str(error))
        await stage.keep()
        yield found


async def _make(stage: Stage, key: str, opened: AsyncExitStack) -> Contender:
    from . import other_engines, peers

    if key in peers.PEERS:
        return await peers.make(stage, key)
    if key in other_engines.ENGINES:
        return await other_engines.make(stage, key, opened)
    if key == "local":
        return _local(stage)
    if key == "docker-exec":
        return await _docker_exec(stage, opened)
    if key == "ds01-no-spare" and not HAS_SPARES:
        raise UnavailableError("this version of ds01-kernels keeps no spare kernels")
    return await _ours(stage, key, opened)


async def _ours(stage: Stage, key: str, opened: AsyncExitStack) -> Contender:
    project = await stage.project(key)
    workbench = Workbench.open()
    if key == "ds01-streams":
        await workbench.run(_make_apart(project))
    launcher: Any = workbench.launcher
    usual = launcher.preparations.spare_kernels
    # The agent is told once, when the container is reached for the first time.
    launcher.preparations.spare_kernels = 0 if key == "ds01-no-spare" else usual
    await workbench.run(launcher.deploy(project))
    launcher.preparations.spare_kernels = usual
    opened.push_async_callback(retire, project)
    variants = {"ds01-no-spare": ", no spare kernel", "ds01-streams": ", by streams"}
    title = f"ds01-kernels{variants.get(key, '')}"
    return Contender(key, title, project.kernel_name, {"cwd": str(project.path)}, project)


async def _make_apart(project: Project) -> None:
    """The project's container, running, as it is made on an engine of another machine."""
    workbench = Workbench.open()
    engine = workbench.chosen_engine
    image = await engine.image(project.image_name(os.getuid()))
    assert image is not None, "the project was built"
    elsewhere = replace(await engine.info(), local=False)
    settings, store = workbench.settings(project), ipykernel_store.store_root()
    made = await containers.create(engine, project, image, settings, store, host=elsewhere)
    await engine.start(made.name)


async def retire(project: Project) -> None:
    """Remove the project's container."""
    workbench = Workbench.open()
    flows = await workbench.run(workbench.flows(project))
    await workbench.run(flows.launcher.retire(project, force=True))


def _local(stage: Stage) -> Contender:
    write_spec(stage, "local", [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    return Contender("local", "local ipykernel", "local", stage.popen)


async def _docker_exec(stage: Stage, opened: AsyncExitStack) -> Contender:
    if shutil.which("docker") is None:
        raise UnavailableError("there is no docker command on the PATH")
    spec = ContainerSpec(
        name=f"ds01-benchmark-{stage.run}",
        image=await stage.image(),
        entrypoint=("sleep", "infinity"),
        user=f"{os.getuid()}:{os.getgid()}",
        env={"HOME": "/tmp"} if os.getuid() else {},
        labels={LABEL: stage.run},
        # So that connection files and ports mean the same on both sides.
        mounts=(Mount(stage.root, PurePosixPath(stage.root)),),
        network="host",
    )
    container = (await stage.engine.create(spec)).id
    opened.push_async_callback(stage.engine.remove, container)
    await stage.engine.start(container)
    python = ["/usr/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    write_spec(stage, "docker-exec", ["docker", "exec", container, *python])
    return Contender("docker-exec", "docker exec, container running", "docker-exec", stage.popen)


def write_spec(stage: Stage, name: str, argv: Sequence[str], **more: Any) -> Path:
    """A kernelspec of this run."""
    folder = stage.specs / name
    folder.mkdir(exist_ok=True)
    spec = {"argv": list(argv), "display_name": name, "language": "python", **more}
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    return folder
