"""How a kernel process ended: its exit code, what is known of the cause, and what its user is told of it.

Nothing is guessed: out of memory is only said where a counter of the control group, or the engine, shows it.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from .engine import ContainerInfo
from .errors import KernelEndedError
from .text import clean


class Cause(StrEnum):
    """Who or what ended a kernel process. The first three are what the agent may say."""

    #: Its exit code tells all that is known.
    PROCESS = ""
    #: The OOM killer, at the container's own limit.
    MEMORY = "memory"
    #: The OOM killer, for want of memory outside of the container.
    MACHINE_MEMORY = "machine-memory"
    AGENT = "agent"
    STOPPED = "container-stopped"
    RESTARTED = "container-restarted"
    REMOVED = "container-removed"
    LOST = "connection-lost"
    #: The machine that the container ran on is gone; `detail` is the engine's sentence.
    NODE = "node-lost"
    #: It may not run on that machine any more, which was drained perhaps; `detail` is the engine's sentence.
    EVICTED = "container-evicted"
    #: What enforces the rules of this machine has stopped the container; `detail` says after how long.
    IDLE = "container-idle"
    AGE = "container-age"


@dataclass(frozen=True)
class Exit:
    """How a kernel process ended.

    `code` is as `subprocess.Popen.returncode` has it; `detail` the last that it wrote beside its notebook, or
    the engine's word; `limit` the container's memory in bytes, 0 where unknown. `heard`: one of its cells has
    said what became of the process before it, if there was something to say.
    """

    code: int
    cause: Cause = Cause.PROCESS
    detail: str = ""
    limit: int = 0
    heard: bool = True

    @property
    def why(self) -> str:
        """In a few words, for a log: "killed by SIGKILL", "the container was stopped"."""
        if self.cause is not Cause.PROCESS:
            return _WHY[self.cause] + (f" (limit {_size(self.limit)})" if self.limit else self._closer)
        return f"killed by {_signal(-self.code)}" if self.code < 0 else f"exit code {self.code}"

    @property
    def _closer(self) -> str:
        if self.cause in (Cause.NODE, Cause.EVICTED) and self.detail:
            return f" ({self.detail[0].lower()}{self.detail[1:].rstrip('.')})"
        return f" (after {self.detail})" if self.cause in (Cause.IDLE, Cause.AGE) and self.detail else ""

    @property
    def in_full(self) -> str:
        """The same with the detail, where that says more."""
        is_said = self.cause is not Cause.PROCESS and not self.limit and bool(self._closer)
        return self.why if is_said or not self.detail else f"{self.why}: {self.detail}"

    @property
    def remedy(self) -> str:
        if self.cause is not Cause.PROCESS:
            return _REMEDIES[self.cause]
        return _SIGNAL_REMEDIES.get(-self.code, _KILLED) if self.code < 0 else _EXITED


def gone(info: ContainerInfo | None, started: datetime | None, container: str = "") -> Exit | None:
    """How the kernels of a container ended that was `started` then and looks so now; None when it runs on.

    `container` is its id of then, or its name, where one is known.
    """
    if info is not None and info.state in ("dead", "exited") and info.problem:
        cause = Cause.NODE if info.state == "dead" else Cause.EVICTED
        return Exit(-signal.SIGKILL, cause, clean(info.problem, colours=False).strip())
    # What is found by a former id is another one in its place.
    if info is None or container not in ("", info.id, info.name):
        return Exit(-signal.SIGKILL, Cause.REMOVED)
    if info.state in ("running", "paused", "restarting"):
        is_same = started is None or info.started is None or info.started == started
        return None if is_same else Exit(-signal.SIGKILL, Cause.RESTARTED)
    # Newer engines set the flag for any process of the container, which may have run on for long after.
    if info.oom_killed and info.exit_code == 128 + signal.SIGKILL:
        return Exit(-signal.SIGKILL, Cause.MEMORY)
    return Exit(-signal.SIGKILL, Cause.STOPPED, f"it is {info.state}")


def told(exit_: Exit) -> KernelEndedError:
    """What the user of the next kernel is told, once."""
    if exit_.cause is Cause.PROCESS and exit_.code >= 0:
        how = f"ended by itself, with {exit_.why}"
    elif exit_.cause is Cause.PROCESS and -exit_.code in _SIGNAL_REMEDIES:
        how = f"crashed (signal {_signal(-exit_.code)})"
    elif exit_.cause is Cause.PROCESS:
        how = f"was killed by signal {_signal(-exit_.code)}"
    else:
        how = f"was ended because {exit_.why}"
    return KernelEndedError(f"The previous kernel {how}. Its variables are gone.", remedy=exit_.remedy)


_WHY = {
    Cause.MEMORY: "the container ran out of memory",
    Cause.MACHINE_MEMORY: "the machine ran out of memory",
    Cause.AGENT: "the agent, the program in the container that runs its kernels, was ended",
    Cause.STOPPED: "the container was stopped",
    Cause.RESTARTED: "the container was stopped and started again",
    Cause.REMOVED: "the container was removed",
    Cause.LOST: "the connection to the container was lost",
    Cause.NODE: "its container's node was lost",
    Cause.EVICTED: "its container may not run on its node any more",
    Cause.IDLE: "DS01 stopped the container, in which it saw no work",
    Cause.AGE: "DS01 stopped the container, which had reached the longest time that one may run",
}

_ASK = "If that was not you, ask who did it; then run the cells again."

_ON_RECORD = (
    "What was installed there at run time is on record: `jupyter ds01 restore PROJECT` installs it, a "
    "rebuild puts it into the Dockerfile."
)

_RESTORE = f"This kernel runs in a new one, or in that one started again. {_ON_RECORD}"

OUT_OF_MEMORY = (
    "Use less memory at a time, shut down other kernels of the project, or raise `memory` in [tool.ds01] of "
    "its pyproject.toml as far as the administrator allows."
)

_REMEDIES = {
    Cause.MEMORY: OUT_OF_MEMORY,
    Cause.MACHINE_MEMORY: "Use less memory at a time, or try again when others use less.",
    Cause.AGENT: _ASK,
    Cause.STOPPED: _ASK,
    Cause.RESTARTED: _ASK,
    Cause.REMOVED: "What was installed in it at run time and is not in the Dockerfile is gone too. " + _ASK,
    Cause.LOST: "Was the engine restarted? Run the cells again.",
    Cause.NODE: "This kernel runs in a new container, on a node that answers. " + _ON_RECORD,
    Cause.EVICTED: "This kernel runs in a new container, on another node. " + _ON_RECORD,
    Cause.IDLE: _RESTORE,
    Cause.AGE: _RESTORE,
}

_KILLED = "Nothing shows who sent that signal. " + _ASK
_EXITED = "Does a cell call exit(), quit() or os._exit()? Run the cells again without it."
_CRASHED = "A compiled package failed: run one cell at a time to find it, and install another version of it."

#: Signals that a process gets for its own faults.
_SIGNAL_REMEDIES: dict[int, str] = {
    signal.SIGSEGV: _CRASHED,
    signal.SIGABRT: _CRASHED,
    signal.SIGFPE: _CRASHED,
    signal.SIGILL: "A compiled package wants another processor than this one: install another version of it.",
    signal.SIGBUS: "Often /dev/shm is full then: use fewer worker processes, or raise `shm_size` in "
    "[tool.ds01] of the project's pyproject.toml as far as the administrator allows.",
}


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"number {number}"


def _size(count: int) -> str:
    mebibytes = count / (1 << 20)
    return f"{mebibytes:.0f} MB" if mebibytes < 1024 else f"{mebibytes / 1024:.3g} GB"
