"""Other ways to have a kernel in a container, where installed, each set up as its documentation says."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from .case import UnavailableError
from .contenders import Contender, write_spec
from .stage import PIP_INSTALL, Stage, installed

PEERS = ("gateway_provisioners", "dockernel", "envkernel")


async def make(stage: Stage, key: str) -> Contender:
    """That peer, with its image, which is built once a run. Raises `UnavailableError`."""
    if not installed(key):
        raise UnavailableError(f"it is not installed here: pip install {key}")
    arguments = stage.popen
    if key == "gateway_provisioners":
        # It refuses to start kernels for the user root, and runs them as uid 1000 in any case.
        arguments["env"] = {**os.environ, "KERNEL_USERNAME": "user"}
    if key not in stage.prepared:
        await _PREPARE[key](stage)
        stage.prepared.add(key)
    title = f"{key} {installed(key)}"
    made = Contender(key, title, key, arguments, after=stage.remove_strays, is_peer=True)
    return replace(made, before=_listen, rest=_rest, is_apart=True) if key == "gateway_provisioners" else made


async def _listen() -> None:
    """Have ready what gateway_provisioners makes once in each process: a key, and where kernels answer."""
    _listener().instance()


async def _rest() -> None:
    """Let it listen no more, until it is its turn again.

    From its first kernel on it waits for others by a blocking `accept` in the event loop, 10 ms each time
    (GP_SOCKET_TIMEOUT), and all that happens in the same process would be measured with that.
    https://github.com/jupyter-server/gateway_provisioners/blob/v0.5.0/gateway_provisioners/response_manager.py
    """
    listener = _listener()
    if listener.initialized():
        listener.instance().stop_response_manager()
        listener.clear_instance()


def _listener() -> Any:
    return import_module("gateway_provisioners.response_manager").ResponseManager


async def _gateway_provisioners(stage: Stage) -> None:
    """https://gateway-provisioners.readthedocs.io: one command in the image, one for the kernelspec."""
    bootstrap = "/usr/local/bin/bootstrap-kernel.sh"
    image = await stage.build(
        "gateway-provisioners",
        await stage.image(),
        f"RUN {PIP_INSTALL} gateway_provisioners=={installed('gateway_provisioners')}",
        f"RUN jupyter image-bootstrap install --languages=Python && chmod 0755 {bootstrap}",
        f"CMD {bootstrap}",
    )
    prefix = stage.root / "gateway_provisioners"
    await _run(
        *(sys.executable, "-m", "gateway_provisioners.cli.docker_specapp", "install"),
        *("--kernel-name=gateway_provisioners", f"--image-name={image}", f"--prefix={prefix}"),
    )
    made = prefix / "share/jupyter/kernels/gateway_provisioners"
    shutil.copytree(made, stage.specs / "gateway_provisioners")


async def _dockernel(stage: Stage) -> None:
    """https://github.com/MrMino/dockernel: the kernel is the image's command.

    The kernelspec is as `dockernel install` writes it; that one goes to the home directory.
    """
    image = await stage.build(
        "dockernel", await stage.image(), "CMD python -m ipykernel_launcher -f $DOCKERNEL_CONNECTION_FILE"
    )
    write_spec(stage, "dockernel", [sys.executable, "-m", "dockernel", "start", image, "{connection_file}"])


async def _envkernel(stage: Stage) -> None:
    """https://github.com/NordicHPC/envkernel.

    The kernelspec is as `envkernel docker` writes it, but for the display name, which jupyter_client refuses.
    """
    program = Path(sys.executable).with_name("envkernel")
    kernel = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    connection = ["--connection-file", "{connection_file}"]
    image = await stage.image()
    write_spec(stage, "envkernel", [str(program), "docker", "run", *connection, image, "--", *kernel])


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    _, errors = await process.communicate()
    if process.returncode:
        raise UnavailableError(f"{' '.join(command)} failed: {errors.decode(errors='replace')[-500:]}")


_PREPARE = dict(zip(PEERS, (_gateway_provisioners, _dockernel, _envkernel), strict=True))
