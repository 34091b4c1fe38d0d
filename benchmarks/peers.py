"""Other ways to have a kernel in a container, where installed, each set up as its documentation says."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

from .cases import UnavailableError, write_spec
from .measure import Case
from .stage import Stage, installed

PEER_KEYS = ("gateway_provisioners", "dockernel", "envkernel")


async def make(stage: Stage, key: str) -> Case:
    """The case of that key, with its image. Raises `UnavailableError`."""
    if not installed(key):
        raise UnavailableError(f"it is not installed here: pip install {key}")
    arguments = stage.popen
    if key == "gateway_provisioners":
        # It refuses to start kernels for the user root, and runs them as uid 1000 in any case.
        arguments["env"] = {**os.environ, "KERNEL_USERNAME": "user"}
    prepare = {
        "gateway_provisioners": _gateway_provisioners,
        "dockernel": _dockernel,
        "envkernel": _envkernel,
    }
    await prepare[key](stage)
    return Case(
        key=key,
        title=f"{key} {installed(key)}",
        manager=lambda: stage.manager(key),
        arguments=arguments,
        after=stage.remove_strays,
        peer=True,
    )


async def _gateway_provisioners(stage: Stage) -> None:
    """https://gateway-provisioners.readthedocs.io: one command in the image, one for the kernelspec."""
    bootstrap = "/usr/local/bin/bootstrap-kernel.sh"
    image = await stage.build(
        "gateway-provisioners",
        stage.image,
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
    shutil.copytree(made, stage.kernels / "gateway_provisioners")


async def _dockernel(stage: Stage) -> None:
    """https://github.com/MrMino/dockernel: the kernel is the image's command.

    The kernelspec is as `dockernel install` writes it; that one goes to the home directory.
    """
    image = await stage.build(
        "dockernel", stage.image, "CMD python -m ipykernel_launcher -f $DOCKERNEL_CONNECTION_FILE"
    )
    write_spec(stage, "dockernel", [sys.executable, "-m", "dockernel", "start", image, "{connection_file}"])


async def _envkernel(stage: Stage) -> None:
    """https://github.com/NordicHPC/envkernel.

    The kernelspec is as `envkernel docker` writes it, but for the display name, which jupyter_client refuses.
    """
    program = Path(sys.executable).with_name("envkernel")
    kernel = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    connection = ["--connection-file", "{connection_file}"]
    write_spec(stage, "envkernel", [str(program), "docker", "run", *connection, stage.image, "--", *kernel])


#: As in the image with ipykernel: Debian's pip wants to be told (https://peps.python.org/pep-0668/).
PIP_INSTALL = "pip install --no-cache-dir --break-system-packages --quiet --root-user-action=ignore"


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    _, errors = await process.communicate()
    if process.returncode:
        raise UnavailableError(f"{' '.join(command)} failed: {errors.decode(errors='replace')[-500:]}")
