"""How Docker is reached, and what its errors mean: each exception from below becomes one of ours."""

from __future__ import annotations

import http.client
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docker.errors
import requests
import urllib3.connection
import urllib3.exceptions
from docker import APIClient
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.context import ContextAPI
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env

from ds01_kernels.engine import docker_ssh
from ds01_kernels.errors import (
    ConflictError,
    ContainerExitedError,
    Ds01Error,
    EngineDeniedError,
    EngineError,
    EngineTimeoutError,
    EngineUnreachableError,
    NotFoundError,
)

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
# Calls that run at once, and streams while they are opened, each take one; above the limit urllib3 warns.
POOL_SIZE = 64

#: Seconds in which the loss of a remote engine shows, where nothing ends the connection.
LOSS_LIMIT = 15

# What docker-py and the layers below it raise.
RAISED = (
    docker.errors.DockerException,
    docker.errors.StreamParseError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    # An answer that is not what Docker answers.
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
)


def connect_to(where: str, timeout: float, certificates: Path | None = None) -> APIClient:
    """A client of the engine at that address, with ``unix://``, ``tcp://`` or ``ssh://``.

    `certificates` is a folder with ``ca.pem``, ``cert.pem`` and ``key.pem``, which ``tcp://`` wants. Raises
    as `connect`.
    """
    if where.startswith("ssh://"):
        return _by_ssh(where, timeout)
    tls: TLSConfig | bool = False
    if certificates is not None and where.startswith("tcp://"):
        pair = (str(certificates / "cert.pem"), str(certificates / "key.pem"))
        tls = TLSConfig(client_cert=pair, ca_cert=str(certificates / "ca.pem"), verify=True)
    return _noticing_loss(where, timeout, base_url=where, tls=tls)


def connect(timeout: float) -> APIClient:
    """A client of the engine that DOCKER_HOST, DOCKER_CONTEXT or the current docker context names.

    `timeout` is for each wait, in seconds. Raises what `RAISED` holds, and `EngineUnreachableError`.
    """
    address()
    named = kwargs_from_env()
    if "base_url" not in named:
        named = {**ContextAPI.kwargs_from_context(), **named}
    where = str(named.get("base_url"))
    if where.startswith("ssh://"):
        return _by_ssh(where, timeout)
    return _noticing_loss(where, timeout, **named)


def _noticing_loss(where: str, timeout: float, **named: Any) -> APIClient:
    # With a version, docker-py does not ask the engine before the loss of a connection can be noticed.
    client = _Client(
        version=DEFAULT_DOCKER_API_VERSION,
        # requests takes fractions of a second; the type stubs of docker-py know whole ones only.
        timeout=timeout,  # type: ignore[arg-type]
        max_pool_size=POOL_SIZE,
        **named,
    )
    if where.startswith(("tcp://", "http://", "https://")):
        client.mount(client.base_url, _Remote(pool_maxsize=POOL_SIZE))
    client._version = client._retrieve_server_version()  # type: ignore[attr-defined]
    return client


class _Remote(requests.adapters.HTTPAdapter):
    """Connections by TCP, on which a machine that does not answer, or no longer, is noticed within
    `LOSS_LIMIT`.
    """

    def send(self, *arguments: Any, **named: Any) -> requests.Response:
        # One number is for the connection and for each wait after that.
        if isinstance(limit := named.get("timeout"), int | float):
            named["timeout"] = (min(limit, LOSS_LIMIT), limit)
        return super().send(*arguments, **named)

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        options = {
            "TCP_KEEPIDLE": LOSS_LIMIT // 3,
            "TCP_KEEPINTVL": LOSS_LIMIT // 3,
            "TCP_KEEPCNT": 2,
            # https://man7.org/linux/man-pages/man7/tcp.7.html: for what was sent and is not acknowledged.
            "TCP_USER_TIMEOUT": LOSS_LIMIT * 1000,
        }
        named["socket_options"] = [
            *urllib3.connection.HTTPConnection.default_socket_options,
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            # Other systems have some of them.
            *(
                (socket.IPPROTO_TCP, getattr(socket, one), options[one])
                for one in options
                if hasattr(socket, one)
            ),
        ]
        super().init_poolmanager(*arguments, **named)


def _by_ssh(where: str, timeout: float) -> APIClient:
    # With a version, docker-py does not ask the engine before it can be reached.
    client = _Client(
        base_url="unix:///ssh",
        version=DEFAULT_DOCKER_API_VERSION,
        timeout=timeout,  # type: ignore[arg-type]
        max_pool_size=POOL_SIZE,
    )
    docker_ssh.mount(client, where, timeout, POOL_SIZE)
    client._version = client._retrieve_server_version()  # type: ignore[attr-defined]
    return client


class _Client(APIClient):
    """docker-py's client, which asks for less at first, and with the certificates that were chosen."""

    def _retrieve_server_version(self) -> str:
        # To say all of its version, an engine asks the programs that it needs for theirs.
        answer = self.get(f"{self.base_url}/_ping", timeout=self.timeout)
        said = answer.headers.get("Api-Version")
        return said or super()._retrieve_server_version()  # type: ignore[misc]

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """requests would take the certificates of REQUESTS_CA_BUNDLE instead:
        https://github.com/psf/requests/issues/3829"""
        chosen = self.verify if verify is None else verify
        return super().merge_environment_settings(url, proxies, stream, chosen, cert)


def address() -> str:
    """The address of the engine. Raises `EngineUnreachableError` when its docker context does not exist."""
    if host := os.environ.get("DOCKER_HOST"):
        return host
    name = os.environ.get("DOCKER_CONTEXT")
    try:
        context = ContextAPI.get_context(name)
    except Exception as error:  # a damaged context file raises no less
        raise EngineUnreachableError(
            f"The docker context cannot be read: {error}.",
            remedy="Repair it with `docker context`, or set DOCKER_HOST.",
        ) from error
    if context is None:
        # docker-py would quietly take the default engine instead: not the one that was meant.
        raise EngineUnreachableError(
            f"The docker context {name or 'that is current'} does not exist.",
            remedy="`docker context ls` lists those that do; `docker context use default` is this machine.",
        )
    return str(context.Host or DEFAULT_ADDRESS)


def is_podman(version: Mapping[str, Any]) -> bool:
    """Whether that answer to the question for its version is Podman's."""
    components = " ".join(str(one.get("Name")) for one in version.get("Components") or ())
    return "podman" in components.lower()


def translated(error: BaseException, doing: str) -> Ds01Error:
    """Our error for one of `RAISED`. `doing` completes "Docker could not ...", such as "start thesis"."""
    if isinstance(error, Ds01Error):
        return error
    if isinstance(error, docker.errors.APIError) and error.response is not None:
        return refused(error.response.status_code, str(error.explanation or error), doing)
    causes = list(_causes(error))
    if any(isinstance(cause, PermissionError) for cause in causes):
        return EngineDeniedError(
            f"You may not use Docker: permission denied at {_address_or_unknown()}.",
            remedy="Ask the administrator to add you to the `docker` group, then log in again.",
        )
    if any(_is_timeout(cause) for cause in causes) and not _names(causes, requests.ConnectTimeout):
        return timed_out(doing)
    if any(isinstance(cause, _LOST) for cause in causes):
        where = _address_or_unknown()
        by_ssh = "`docker version` with the same DOCKER_HOST or context, in a terminal, shows what is wrong: "
        return EngineUnreachableError(
            f"Docker is not running, or cannot be reached at {where}{_because(causes)}.",
            remedy=by_ssh + "ssh has to get there without asking anything."
            if where.startswith("ssh://")
            else "Start it (`sudo systemctl start docker`) or ask the administrator to; "
            "if it runs elsewhere, set DOCKER_HOST.",
        )
    if isinstance(error, (ValueError, TypeError, AttributeError, LookupError)):
        return EngineError(f"Docker could not {doing}: its answer cannot be understood ({error}).")
    return EngineError(f"Docker could not {doing}: {_sentence(str(error))}")


def timed_out(doing: str) -> EngineTimeoutError:
    return EngineTimeoutError(
        f"Docker took too long to {doing}.",
        remedy="Try again; if it stays so, the engine hangs: ask the administrator to look at it.",
    )


def is_lost(error: BaseException) -> bool:
    """Whether the connection broke, so that asking again on a new one may help."""
    causes = list(_causes(error))
    return any(isinstance(cause, _LOST) for cause in causes) and not any(
        isinstance(cause, PermissionError) or _is_timeout(cause) for cause in causes
    )


def _is_timeout(error: BaseException) -> bool:
    # urllib3 counts a connection that was refused among them.
    return isinstance(error, _TIMEOUTS) and not isinstance(error, urllib3.exceptions.NewConnectionError)


# requests' own exceptions are OSErrors too, so the builtin families are named one by one.
_TIMEOUTS = (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError)
_LOST = (
    ConnectionError,
    FileNotFoundError,
    requests.ConnectionError,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.ProtocolError,
    http.client.HTTPException,
)


def disk_full(doing: str) -> tuple[str, str]:
    """The sentence and the remedy for an engine without disk space."""
    return (
        f"Docker could not {doing}: the disk of the engine is full (no space left on device).",
        "`docker system df` shows what takes the space; `docker image prune` removes unused images.",
    )


def refused(status: int, text: str, doing: str) -> Ds01Error:
    said = text.lower()
    if "no space left on device" in said:
        message, remedy = disk_full(doing)
        return EngineError(message, remedy=remedy)
    if "could not select device driver" in said or "unresolvable cdi devices" in said:
        return EngineError(
            f"Docker could not {doing}: it cannot give GPUs to containers here; no GPU runtime is set up.",
            remedy="Ask the administrator to install the NVIDIA Container Toolkit "
            "(`nvidia-ctk runtime configure`), or ask for no GPUs.",
        )
    if "nvidia-container-cli" in said:
        return EngineError(
            f"Docker could not {doing}: it has a GPU runtime, but that has no such GPU: {_sentence(text)}",
            remedy="`nvidia-smi -L` on the machine lists the GPUs that work; ask for those, or for none.",
        )
    if "oom-killed" in said or "minimum memory limit" in said:
        return EngineError(
            f"Docker could not {doing}: the container's memory limit is too low to start anything.",
            remedy="Raise `memory` in [tool.ds01] of the project's pyproject.toml, or in the settings.",
        )
    if status in (401, 403):
        return EngineDeniedError(
            f"You may not use Docker for this: it refused to {doing}: {_sentence(text)}",
            remedy="A rule of this machine forbids it: ask the administrator.",
        )
    if missing := re.search(r"bind source path does not exist: (.+)", text):
        return EngineError(
            f"Docker could not {doing}: the directory {missing[1]} does not exist where the engine runs.",
            remedy="An engine on another machine, or in a virtual one, sees other directories than you do.",
        )
    if status == 404:
        return NotFoundError(f"Docker could not {doing}: {_sentence(text)}")
    if "is paused" in said:
        return EngineError(
            f"Docker could not {doing}: the container is paused.", remedy="`docker unpause` wakes it."
        )
    if "is not running" in said or "container state improper" in said:
        return ContainerExitedError(f"Docker could not {doing}: the container does not run.")
    if status == 409 or "already in use" in said:
        return ConflictError(f"Docker could not {doing}: {_sentence(text)}")
    return EngineError(f"Docker could not {doing}: {_sentence(text)}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and whatever it was raised from, or wraps in its arguments, as requests and urllib3 do."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


def _names(causes: list[BaseException], kind: type[BaseException]) -> bool:
    return any(isinstance(cause, kind) for cause in causes)


def _because(causes: list[BaseException]) -> str:
    """The operating system's word for it, such as " (Connection refused)"."""
    for cause in causes:
        if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException) and cause.strerror:
            return f" ({cause.strerror})"
    return ""


def _address_or_unknown() -> str:
    try:
        return address()
    except EngineUnreachableError:
        return "an unknown address"


def _sentence(text: str) -> str:
    return text.strip().rstrip(".") + "."
