"""Who asks something of an agent, for what kernel, and how long it is waited for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .agent_stream import CONNECT_LIMIT
from .connection import inside


@dataclass(frozen=True)
class Limits:
    """Seconds: to reach the agent, for its answer to a call, for a kernel process to bind its sockets, for
    our last words to get through; between attempts to reach the agent again, and between looks at the
    container during one.
    """

    connect: float = CONNECT_LIMIT
    call: float = 90.0
    ready: float = 60.0
    goodbye: float = 2.0
    pause: float = 0.5
    look: float = 2.0


USUAL = Limits()


@dataclass(frozen=True)
class Identity:
    """Who a process is to the agents it talks to.

    `owner` outlives the process (the server on that host and port): its next holder ends this one's kernels.
    Empty: nobody succeeds it. `grace` is in seconds.
    """

    id: str
    owner: str
    grace: float


@dataclass(frozen=True)
class KernelRequest:
    """A kernel process to be started. `cwd` is a path in the container; `arguments` go to ipykernel.

    `notice` is one line that its first cell is to say. It serves nobody before the kernel process `after`,
    of the same container, is over.
    """

    process: str
    cwd: str
    env: Mapping[str, str]
    files: Mapping[str, str]
    connection: Mapping[str, Any]
    arguments: Sequence[str] = ()
    notice: str = ""
    after: str = ""

    def anew(self) -> KernelRequest:
        """The same of another process."""
        process = new_process()
        return replace(self, process=process, connection={**self.connection, "ip": inside(process)})


def new_process() -> str:
    """A name that no kernel process of this machine has."""
    return f"{os.getpid():x}-{os.urandom(6).hex()}"
