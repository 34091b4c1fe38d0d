"""What of ours is left over on the engine: found by label, so that nothing of anybody else's is ever
touched."""

from __future__ import annotations

import logging
import os
import re
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from . import containers
from .containers import LABEL_NAME, LABEL_PATH, LABEL_UID
from .engine import ContainerInfo, ImageInfo
from .errors import ConflictError, Ds01Error
from .launch import Launcher
from .locks import AT_ONCE, of_rebuild

log = logging.getLogger("ds01_kernels")

#: What is younger may belong to something that is going on in another process.
YOUNG = timedelta(hours=1)
REPLACED = re.compile(r".+\.old-[0-9a-f]{8}")
CANDIDATE = re.compile(r".+:candidate-[0-9a-f]{8}")


@dataclass(frozen=True)
class Leftovers:
    """`containers` stand beside a project's and have no kernels; `images` have no tag, or one of a
    candidate."""

    containers: tuple[ContainerInfo, ...] = ()
    images: tuple[ImageInfo, ...] = ()

    @property
    def size(self) -> int:
        """Of the images, in bytes; layers that other images share count as well, though they are not
        freed."""
        return sum(image.size for image in self.images)

    @property
    def lines(self) -> list[str]:
        if not self.containers and not self.images:
            return ["There is nothing to remove."]
        return [
            *(f"container {info.name}" for info in self.containers),
            *(f"image {_name(image)}, up to {image.size / 1e6:.0f} MB" for image in self.images),
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "containers": [info.name for info in self.containers],
            "images": [_name(image) for image in self.images],
            "size": self.size,
        }


class Housekeeping:
    """For all projects of this user; what is `young` is left alone."""

    def __init__(self, launcher: Launcher, young: timedelta = YOUNG) -> None:
        self._launcher = launcher
        self._young = young

    async def look(self) -> Leftovers:
        """What `prune` would remove now. Raises `EngineError`."""
        engine = self._launcher.engine
        ours = {LABEL_UID: str(os.getuid())}
        everything = await engine.containers(ours)
        beside = [
            info
            for info in everything
            if {LABEL_NAME, LABEL_PATH} <= info.labels.keys() and not containers.is_current(info)
        ]
        idle = [info for info in beside if self._is_old(info.created) and await self._is_idle(info)]
        used = {info.image_id for info in everything} - {info.image_id for info in idle}
        images = [
            image
            for image in await engine.images(ours)
            if LABEL_PATH in image.labels
            and image.id not in used
            and self._is_old(image.created)
            and all(map(CANDIDATE.fullmatch, image.tags))
        ]
        return Leftovers(tuple(idle), tuple(images))

    async def prune(self) -> Leftovers:
        """Remove it; what was removed. Raises `EngineError`."""
        found = await self.look()
        gone = [info for info in found.containers if await self._retire(info)]
        images = [image for image in found.images if await self._remove(image)]
        return Leftovers(tuple(gone), tuple(images))

    async def retire_replaced(self) -> bool:
        """Remove containers that were replaced and have no kernels any more; whether some are left. Raises
        nothing."""
        try:
            everything = await self._launcher.engine.containers({LABEL_UID: str(os.getuid())})
            replaced = [info for info in everything if REPLACED.fullmatch(info.name)]
            gone = [await self._launcher.former.retire_if_idle(info.id) for info in replaced]
        except Ds01Error as error:
            log.info("Containers that were replaced are not looked for: %s", error)
            return True
        return not all(gone)

    async def _retire(self, info: ContainerInfo) -> bool:
        try:
            async with self._no_rebuild(info):
                return await self._launcher.former.retire_if_idle(info.id)
        except ConflictError:
            return False

    async def _remove(self, image: ImageInfo) -> bool:
        try:
            async with self._no_rebuild(image):
                for reference in image.tags or (image.id,):
                    await self._launcher.engine.remove_image(reference)
        except ConflictError:
            # It is being tried, or another image was built from it.
            return False
        return True

    def _no_rebuild(self, thing: ContainerInfo | ImageInfo) -> AbstractAsyncContextManager[None]:
        """No rebuild of its project runs. Raises `ConflictError`."""
        return self._launcher.locks.hold(of_rebuild(Path(thing.labels[LABEL_PATH])), AT_ONCE)

    def _is_old(self, created: datetime) -> bool:
        return datetime.now(UTC) - created > self._young

    async def _is_idle(self, info: ContainerInfo) -> bool:
        try:
            return not info.running or await self._launcher.count_kernels(info) == 0
        except Ds01Error as error:
            log.info("Whether %s is used is not known: %s", info.name, error)
            return False


def _name(image: ImageInfo) -> str:
    return ", ".join(image.tags) or image.id.removeprefix("sha256:")[:12]
