"""An engine of this machine that is treated like one elsewhere: it shares no directory with containers."""

from __future__ import annotations

from dataclasses import replace

from ds01_kernels.engine import EngineInfo
from ds01_kernels.engine.docker import DockerEngine


class UnsharedEngine(DockerEngine):
    async def info(self) -> EngineInfo:
        return replace(await super().info(), local=False)
