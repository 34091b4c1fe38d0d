"""Commands in a container, by the engine."""

from __future__ import annotations

from collections.abc import Sequence

from ds01_kernels.engine import Engine

from .case import WrongAnswerError


async def output(engine: Engine, container: str, argv: Sequence[str]) -> bytes:
    """What that command prints. Raises `WrongAnswerError` when it fails."""
    stream = await engine.exec(container, argv)
    try:
        found = b""
        while data := await stream.read():
            found += data
        if await stream.exit_code() != 0:
            raise WrongAnswerError(f"{argv[0]} failed in the container: {stream.errors}")
        return found
    finally:
        await stream.close()
