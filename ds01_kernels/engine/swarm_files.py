"""Files for a container that has no task yet: kept as configs of the swarm, and written into each new task.

Configs are only where they are kept: what a service mounts of them could not be added to without another
task.
"""

from __future__ import annotations

import base64
import gzip
import io
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

import docker.errors
from docker import APIClient

from ds01_kernels.engine import ContainerFile
from ds01_kernels.engine.docker_files import FILE_LIMIT, packed
from ds01_kernels.engine.swarm_values import LABEL_KEY, LABEL_UID
from ds01_kernels.errors import EngineError

#: Bytes of one config: https://docs.docker.com/engine/swarm/configs/ names 500 kB as the most.
_PIECE = 400 * 1024
#: Bytes that are kept for one container at most, compressed and not.
_MOST, _MOST_UNPACKED = 4 << 20, 64 << 20
#: What is younger may belong to a service that is being made, or removed, at this moment.
_YOUNG = timedelta(minutes=10)


def keep(client: APIClient, key: str, uid: int, files: Sequence[ContainerFile]) -> None:
    """Keep them for the container with that key, of that user, after those before them.

    Raises `EngineError`.
    """
    data = gzip.compress(packed(files))
    if len(data) > _MOST:
        raise EngineError("The files are too large to be kept until the container is started.")
    first = len(_pieces(client, key))
    for number, start in enumerate(range(0, len(data), _PIECE)):
        # A letter tells where another archive begins.
        mark = "b" if start else "a"
        name = f"ds01-{key}-{first + number:04d}{mark}"
        labels = {LABEL_KEY: key, LABEL_UID: str(uid)}
        client.create_config(name, data[start : start + _PIECE], labels=labels)


def kept(client: APIClient, key: str) -> list[bytes]:
    """The tar archives that are kept for it, in their order."""
    archives: list[bytes] = []
    for config in _pieces(client, key):
        data = base64.b64decode(str(config["Spec"].get("Data") or ""))
        if config["Spec"]["Name"].endswith("a"):
            archives.append(data)
        elif archives:
            archives[-1] += data
    return [_unpacked(data) for data in archives]


def drop(client: APIClient, key: str) -> None:
    _remove(client, _pieces(client, key))


def drop_forgotten(
    client: APIClient, uid: int, keys: Callable[[APIClient], Collection[str]], now: datetime
) -> None:
    """Remove what is kept for containers of that user of which there is no service any more.

    Whoever removed that one was not us, or gone before its files were. `keys` lists those of all services
    of the user; `now` is by the manager's clock.
    """
    found = _listed(client, f"{LABEL_UID}={uid}", LABEL_KEY)
    old = [config for config in found if now - _created(config) > _YOUNG]
    used = keys(client) if old else ()
    # What cannot be removed, or is no business of ours, is in nobody's way.
    with suppress(docker.errors.APIError):
        _remove(client, [config for config in old if config["Spec"]["Labels"][LABEL_KEY] not in used])


def _remove(client: APIClient, configs: Sequence[dict[str, Any]]) -> None:
    for config in configs:
        with suppress(docker.errors.NotFound):
            client.remove_config(config["ID"])  # type: ignore[no-untyped-call]


def kept_file(archives: Sequence[bytes], path: PurePosixPath) -> bytes | None:
    """The content of a file that is kept; None when it is not. Raises `EngineError` as reading one does."""
    for archive in reversed(archives):
        for entry, content in _entries(archive):
            if PurePosixPath("/", entry.name) != path:
                continue
            if not entry.isreg():
                raise EngineError(f"{path} is not a regular file.")
            if entry.size > FILE_LIMIT:
                raise EngineError(f"{path} is larger than {FILE_LIMIT // 1024} KiB, and is not read.")
            return content
    return None


def _entries(archive: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for entry in tar:
            content = tar.extractfile(entry) if entry.isreg() else None
            yield entry, content.read() if content is not None else b""


def _pieces(client: APIClient, key: str) -> list[dict[str, Any]]:
    return sorted(_listed(client, f"{LABEL_KEY}={key}"), key=lambda config: str(config["Spec"]["Name"]))


def _listed(client: APIClient, *labels: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.configs(filters={"label": list(labels)})  # type: ignore[no-untyped-call]
    return found


def _created(config: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(str(config["CreatedAt"]))


def _unpacked(data: bytes) -> bytes:
    with gzip.open(io.BytesIO(data)) as file:
        archive = file.read(_MOST_UNPACKED + 1)
    if len(archive) > _MOST_UNPACKED:
        raise EngineError("The files that are kept for the container are too large.")
    return archive
