"""What can go wrong, as one tree.

::

    Ds01Error                      500
    ├── BadInputError              400   what the user gave cannot be used
    │   ├── BadProjectNameError    400
    │   └── SettingError           400   a setting of the admin's or of a project's
    ├── NotFoundError              404
    │   ├── NoSuchProjectError     404
    │   └── NotBuiltError          404   the project's image has not been built
    ├── ConflictError              409   somebody else is at it, or it changed meanwhile
    │   └── KernelsRunningError    409
    ├── EngineError                502   the engine answered, and said no
    │   ├── EngineUnreachableError 503
    │   ├── EngineDeniedError      403
    │   ├── EngineTimeoutError     504
    │   ├── BuildFailedError       422
    │   ├── NoRoomError            503   no node has room for a container now
    │   ├── DeployRefusedError     409   the command that makes the containers here did not do it
    │   └── ContainerExitedError   502
    ├── InstallFailedError         422   pip in the container said no
    ├── CheckFailedError           422   a new image was built, and kernels cannot live in it
    ├── AgentError                 502   the agent inside the container
    │   ├── NoPythonError          422
    │   ├── NoIpykernelError       422
    │   ├── AgentLostError         502
    │   └── ProtocolError          502   bytes that are not the agent's protocol
    ├── DiskFullError              507   no space is left where we write
    ├── KernelFailedError          502   the kernel process ended before it answered
    └── KernelEndedError           502   the kernel process ended by itself, or by others

Every error has a sentence for the user (``str(error)``), what to do about it (``remedy``, may be empty), a
word that programs can rely on (``reason``), and the HTTP status that fits, as a hint for whoever speaks HTTP.
"""

from __future__ import annotations


class Ds01Error(Exception):
    """The root: whatever this package raises on purpose."""

    status = 500
    reason = "error"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    @property
    def sentence(self) -> str:
        """What is wrong and what to do, in one line of text."""
        return f"{self} {self.remedy}".strip()


class BadInputError(Ds01Error):
    status = 400
    reason = "bad-input"


class BadProjectNameError(BadInputError):
    reason = "bad-project-name"


class SettingError(BadInputError):
    reason = "bad-setting"


class NotFoundError(Ds01Error):
    status = 404
    reason = "not-found"


class NoSuchProjectError(NotFoundError):
    reason = "no-such-project"


class NotBuiltError(NotFoundError):
    reason = "not-built"


class ConflictError(Ds01Error):
    status = 409
    reason = "conflict"


class KernelsRunningError(ConflictError):
    reason = "kernels-running"


class EngineError(Ds01Error):
    status = 502
    reason = "engine"


class EngineUnreachableError(EngineError):
    status = 503
    reason = "engine-unreachable"


class EngineDeniedError(EngineError):
    status = 403
    reason = "engine-denied"


class EngineTimeoutError(EngineError):
    status = 504
    reason = "engine-timeout"


class NoRoomError(EngineError):
    status = 503
    reason = "no-room"


class BuildFailedError(EngineError):
    """``line`` is the 1-based line of the Dockerfile that failed, if known; ``log`` its last output."""

    status = 422
    reason = "build-failed"

    def __init__(self, message: str, *, remedy: str = "", line: int | None = None, log: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.line = line
        self.log = log


class DeployRefusedError(EngineError):
    status = 409
    reason = "deploy-refused"


class ContainerExitedError(EngineError):
    reason = "container-exited"


class CheckFailedError(Ds01Error):
    status = 422
    reason = "check-failed"


class InstallFailedError(Ds01Error):
    status = 422
    reason = "install-failed"


class AgentError(Ds01Error):
    status = 502
    reason = "agent"


class NoPythonError(AgentError):
    status = 422
    reason = "no-python"


class NoIpykernelError(AgentError):
    status = 422
    reason = "no-ipykernel"


class AgentLostError(AgentError):
    reason = "agent-lost"


class ProtocolError(AgentError):
    reason = "protocol"


class DiskFullError(Ds01Error):
    status = 507
    reason = "disk-full"


class KernelFailedError(Ds01Error):
    status = 502
    reason = "kernel-failed"


class KernelEndedError(Ds01Error):
    status = 502
    reason = "kernel-ended"
