"""An engine that passes its calls on to another one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path, PurePosixPath

from ds01_kernels.engine import (
    BuildProgress,
    BuildRequest,
    ContainerFile,
    ContainerInfo,
    ContainerSpec,
    Engine,
    EngineInfo,
    ImageInfo,
    NodeInfo,
    Stream,
)


class ForwardingEngine(ABC):
    """Every call goes to the engine that `_reached` gives; who inherits changes what is to be different."""

    @abstractmethod
    async def _reached(self) -> Engine:
        """The engine that does the work. Raises `EngineError` when there is none."""

    async def info(self) -> EngineInfo:
        return await (await self._reached()).info()

    async def nodes(self) -> list[NodeInfo]:
        return await (await self._reached()).nodes()

    async def image(self, reference: str) -> ImageInfo | None:
        return await (await self._reached()).image(reference)

    def build(self, request: BuildRequest) -> AsyncIterator[BuildProgress]:
        return self._built(request)

    async def _built(self, request: BuildRequest) -> AsyncGenerator[BuildProgress, None]:
        # Leaving this one early is to leave that of the engine, at once.
        async with aclosing((await self._reached()).build(request)) as values:  # type: ignore[type-var]
            async for progress in values:
                yield progress

    async def import_image(self, archive: Path, reference: str, changes: Sequence[str] = ()) -> ImageInfo:
        return await (await self._reached()).import_image(archive, reference, changes)

    async def tag(self, image_id: str, reference: str) -> None:
        await (await self._reached()).tag(image_id, reference)

    async def remove_image(self, reference: str) -> None:
        await (await self._reached()).remove_image(reference)

    async def images(self, labels: Mapping[str, str]) -> list[ImageInfo]:
        return await (await self._reached()).images(labels)

    async def containers(self, labels: Mapping[str, str]) -> list[ContainerInfo]:
        return await (await self._reached()).containers(labels)

    async def container(self, name: str) -> ContainerInfo | None:
        return await (await self._reached()).container(name)

    async def create(self, spec: ContainerSpec) -> ContainerInfo:
        return await (await self._reached()).create(spec)

    async def rename(self, container: str, name: str) -> None:
        await (await self._reached()).rename(container, name)

    async def start(self, container: str) -> None:
        await (await self._reached()).start(container)

    async def stop(self, container: str, grace: float) -> None:
        await (await self._reached()).stop(container, grace)

    async def remove(self, container: str) -> None:
        await (await self._reached()).remove(container)

    async def read_file(self, container: str, path: PurePosixPath) -> bytes | None:
        return await (await self._reached()).read_file(container, path)

    async def write_files(self, container: str, files: Sequence[ContainerFile]) -> None:
        await (await self._reached()).write_files(container, files)

    async def exec(
        self,
        container: str,
        argv: Sequence[str],
        *,
        user: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        terminal: bool = False,
    ) -> Stream:
        engine = await self._reached()
        return await engine.exec(container, argv, user=user, env=env, cwd=cwd, terminal=terminal)

    async def logs(self, container: str, tail: int = 200) -> str:
        return await (await self._reached()).logs(container, tail)

    async def close(self) -> None:
        await (await self._reached()).close()
