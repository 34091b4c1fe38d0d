"""The cases that need nothing but this package: its own, the local kernel, and `docker exec`."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import Sequence
from pathlib import PurePosixPath

from jupyter_client.manager import AsyncKernelManager

from ds01_kernels.engine import ContainerSpec, Mount
from ds01_kernels.workbench import Workbench

from .measure import Case, nothing
from .stage import LABEL, Stage

#: Case keys in the order of the table; `peers` adds its own.
OWN_KEYS = ("warm", "stopped", "restart", "local", "local-restart", "docker-exec")


class UnavailableError(Exception):
    """This case cannot be measured here; its text says why and what to do."""


async def make(stage: Stage, key: str) -> Case:
    """The case of that key, with all that it needs. Raises `UnavailableError`."""
    if key in ("local", "local-restart"):
        return _local(stage, key)
    if key == "docker-exec":
        return await _docker_exec(stage)
    return await _ours(stage, key)


async def _ours(stage: Stage, key: str) -> Case:
    project = await stage.project(key)
    workbench = Workbench.open()
    container = (await workbench.run(workbench.launcher.deploy(project))).id

    async def stop() -> None:
        await stage.engine.stop(container, grace=0)

    titles = {
        "warm": "ds01-kernels, container running",
        "stopped": "ds01-kernels, container stopped",
        "restart": "ds01-kernels, restart",
    }
    return Case(
        key=key,
        title=titles[key],
        manager=lambda: stage.manager(project.kernel_name),
        arguments={"cwd": str(project.path)},
        before=stop if key == "stopped" else nothing,
        what="restart" if key == "restart" else "start",
    )


def _local(stage: Stage, key: str) -> Case:
    write_spec(stage, "local", [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    return Case(
        key=key,
        title="local ipykernel" + (", restart" if key == "local-restart" else ""),
        manager=lambda: stage.manager("local"),
        arguments=stage.popen,
        what="restart" if key == "local-restart" else "start",
    )


async def _docker_exec(stage: Stage) -> Case:
    if shutil.which("docker") is None:
        raise UnavailableError("there is no docker command on the PATH")
    spec = ContainerSpec(
        name=f"ds01-benchmark-{stage.run}",
        image=stage.image,
        entrypoint=("sleep", "infinity"),
        user=f"{os.getuid()}:{os.getgid()}",
        env={"HOME": "/tmp"} if os.getuid() else {},
        labels={LABEL: stage.run},
        mounts=(Mount(stage.sockets, PurePosixPath(stage.sockets)),),
    )
    container = (await stage.engine.create(spec)).id
    await stage.engine.start(container)
    python = ["/usr/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    write_spec(stage, "docker-exec", ["docker", "exec", container, *python])

    def manager() -> AsyncKernelManager:
        # The mounted directory has the same path on both sides, and so has what lies in it.
        place = str(stage.sockets / secrets.token_hex(4))
        return stage.manager("docker-exec", transport="ipc", ip=place, connection_file=f"{place}.json")

    return Case("docker-exec", "docker exec in a running container", manager, stage.popen)


def write_spec(stage: Stage, name: str, argv: Sequence[str]) -> None:
    """A kernelspec of this run."""
    folder = stage.kernels / name
    folder.mkdir(exist_ok=True)
    spec = {"argv": list(argv), "display_name": name, "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
