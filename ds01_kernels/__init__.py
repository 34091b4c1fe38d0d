"""Jupyter kernels inside each project's own container: the hooks that Jupyter looks for, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

__version__ = "0.1.0"


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    return [{"module": "ds01_kernels"}]


def _link_jupyter_server_extension(server: ServerApp) -> None:
    # Imported here, not above: the command line and the agent's protocol need no Jupyter server.
    from .extension import link

    link(server)


def _load_jupyter_server_extension(server: ServerApp) -> None:
    from .extension import load

    load(server)
