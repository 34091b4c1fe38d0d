"""What a kernel's clients connect to, and what its process binds."""

from __future__ import annotations

from typing import Any

import zmq
from jupyter_client.connect import KernelConnectionInfo

from .connection import PORTS, inside


def for_clients(manager: Any, ip: str, encryption: str | None) -> KernelConnectionInfo:
    """Jupyter's own paths, beginning with `ip`, and key: the same for the life of the kernel of `manager`."""
    info: KernelConnectionInfo = {
        "transport": "ipc",
        "ip": ip,
        "key": manager.session.key,
        "signature_scheme": manager.session.signature_scheme,
        **PORTS,  # type: ignore[typeddict-item]
    }
    if _wants_encryption(manager, encryption):
        # As LocalProvisioner does it: made once, and kept over restarts as the session's key is.
        if manager.curve_publickey is None:
            manager.curve_publickey, manager.curve_secretkey = zmq.curve_keypair()
        info["curve_publickey"] = manager.curve_publickey.decode()
        info["curve_secretkey"] = manager.curve_secretkey.decode()
    return info


def for_process(clients: KernelConnectionInfo, process: str, kernel_name: str) -> dict[str, Any]:
    """The same as the kernel process of that id has it: in the directory that it shares with us."""
    info: dict[str, Any] = {**clients, "ip": inside(process), "kernel_name": kernel_name}
    info["key"] = info["key"].decode()
    return info


def _wants_encryption(manager: Any, given: str | None) -> bool:
    policy = given if given is not None else getattr(manager, "transport_encryption", "disabled")
    return policy == "required" or (policy == "auto" and manager._kernel_supports_curve_encryption())
