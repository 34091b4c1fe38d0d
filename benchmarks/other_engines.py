"""Kernels of ours on another engine than the usual one, which their project chooses."""

from __future__ import annotations

import asyncio
import os
import shutil
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack, suppress

from ds01_kernels import images, kernelspecs
from ds01_kernels.engine import Engine, podman_service
from ds01_kernels.errors import Ds01Error
from ds01_kernels.projects import Project
from ds01_kernels.workbench import Workbench

from .case import UnavailableError
from .contenders import Contender, retire
from .stage import Stage

#: What a project calls each of them, by the contenders' keys.
ENGINES = {"ds01-podman": "podman", "ds01-swarm": "swarm"}


async def make(stage: Stage, key: str, opened: AsyncExitStack) -> Contender:
    """Its container runs until `opened` ends. Raises `UnavailableError`."""
    name = ENGINES[key]
    image = await stage.image()
    if name == "podman":
        await _copy_to_podman(image)
    folder = await stage.folder(key)
    (folder / "pyproject.toml").write_text(f'[tool.ds01]\nengine = "{name}"\n', encoding="utf-8")
    workbench = Workbench.open()
    project = workbench.projects().get(folder.name)
    try:
        flows = await workbench.run(workbench.flows(project))
        if flows.name != name:
            raise UnavailableError(f"{name} is the usual engine here, or not allowed")
        await workbench.run(flows.engine.info())
        opened.push_async_callback(_remove, project, flows.engine, image if name == "podman" else "")
        await workbench.run(_build(flows.engine, project))
        await workbench.run(flows.launcher.deploy(project))
    except Ds01Error as error:
        raise UnavailableError(error.sentence) from error
    kernelspecs.install(project, kernels_dir=stage.specs)
    return Contender(key, f"ds01-kernels, {name}", project.kernel_name, {"cwd": str(folder)}, project)


async def _build(engine: Engine, project: Project) -> None:
    async for _ in images.build(engine, project):
        pass


async def _copy_to_podman(image: str) -> None:
    if not podman_service.has_program() or shutil.which("docker") is None:
        raise UnavailableError("there is no podman, or no docker command to copy the image with")
    variables = podman_service.variables()
    reading, writing = os.pipe()
    try:
        saving = await asyncio.create_subprocess_exec("docker", "save", image, stdout=writing)
        loading = await asyncio.create_subprocess_exec(
            *podman_service.command(), "load", stdin=reading, stdout=PIPE, stderr=PIPE, env=variables
        )
    finally:
        os.close(reading)
        os.close(writing)
    _, said = await loading.communicate()
    if await saving.wait() or loading.returncode:
        raise UnavailableError(f"the image could not be copied to podman: {said.decode()[-300:].strip()}")


async def _remove(project: Project, engine: Engine, copied: str) -> None:
    """What the stage, which knows the machine's Docker alone, would leave there."""
    await retire(project)
    workbench = Workbench.open()
    for reference in (project.image_name(os.getuid()), copied):
        with suppress(Ds01Error):
            if reference:
                await workbench.run(engine.remove_image(reference))
