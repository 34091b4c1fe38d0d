"""Why a container that has just been started does not run, or does not answer."""

from __future__ import annotations

import asyncio
import re

from .agent_stream import no_python
from .engine import ContainerInfo, Engine
from .errors import AgentError, ContainerExitedError, Ds01Error, EngineError, NoPythonError
from .exits import OUT_OF_MEMORY
from .text import clean

#: Looks at a container that does not answer, and seconds between them: the engine learns of a container's end
#: somewhat later than those who talk to it.
LOOKS, LOOK_PAUSE = 5, 0.2

#: What counts the kills of the OOM killer, as the container sees it: see `agent.memory`.
_COUNTERS = "/sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control"
_COUNTERS_LENGTH = 4096
_COUNTERS_LIMIT = 5.0


async def why_ended(engine: Engine, info: ContainerInfo) -> Ds01Error:
    """Why a container that has just been started does not run, which `info` shows. Raises `EngineError`."""
    if info.problem:
        return ContainerExitedError(
            f"The container {info.name} does not run. {clean(info.problem, colours=False)}",
            remedy="Restart the kernel: that starts it where it can run.",
        )
    said = clean(await engine.logs(info.id, 5), colours=False).strip()
    # Said by the shell that looks for the holder's interpreter.
    if info.exit_code == 127 and "no Python" in said:
        return no_python()
    if info.oom_killed:
        return _out_of_memory(info)
    code = f" (exit code {info.exit_code})" if info.exit_code else ""
    return ContainerExitedError(
        f"The container {info.name} ended as soon as it was started{code}. {said}".strip(),
        remedy="All that it runs is the image's Python, which is to wait. Correct what the Dockerfile does "
        "to that, then build the image again.",
    )


async def why_unreachable(engine: Engine, info: ContainerInfo, error: Ds01Error) -> Ds01Error:
    """Why there is no agent in a container that ran just now; `error` where nothing shows more than that.

    Raises `EngineError`.
    """
    if isinstance(error, NoPythonError):
        return error
    for _ in range(LOOKS):
        now = await engine.container(info.id)
        if now is None:
            return error
        if now.state in ("exited", "dead"):
            return await why_ended(engine, now)
        await asyncio.sleep(LOOK_PAUSE)
    if await _has_oom_kills(engine, info):
        return _out_of_memory(info)
    return error


def _out_of_memory(info: ContainerInfo) -> AgentError:
    message = f"The container {info.name} ran out of memory before a kernel could start in it."
    return AgentError(message, remedy=OUT_OF_MEMORY)


async def _has_oom_kills(engine: Engine, info: ContainerInfo) -> bool:
    """Whether the OOM killer has ended something in it. Without Python, which may not have enough memory."""
    counters = b""
    try:
        async with asyncio.timeout(_COUNTERS_LIMIT):
            stream = await engine.exec(info.id, ["/bin/sh", "-c", f"cat {_COUNTERS} 2>/dev/null"])
            try:
                while len(counters) < _COUNTERS_LENGTH and (more := await stream.read()):
                    counters += more
            finally:
                await stream.close()
    except (EngineError, OSError, TimeoutError):
        return False
    return re.search(rb"^oom_kill [1-9]", counters, re.MULTILINE) is not None
