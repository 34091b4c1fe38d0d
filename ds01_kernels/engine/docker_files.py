"""Files in and out of a container, as the tar archives that Docker wants and gives."""

from __future__ import annotations

import io
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import docker.errors
import requests
from docker import APIClient
from docker.utils import decode_json_header

from ds01_kernels.engine import ContainerFile
from ds01_kernels.errors import BadInputError, EngineError

FILE_LIMIT = 1024 * 1024
_STAT = "X-Docker-Container-Path-Stat"
# Podman writes base64 as for addresses:
# https://github.com/containers/podman/blob/v4.3.1/libpod/define/fileinfo.go
_URL_SAFE = str.maketrans("-_", "+/")


def file_content(client: APIClient, container: str, path: PurePosixPath) -> bytes | None:
    """The content of a regular file; None when it is not there. Raises `EngineError` for anything else."""
    try:
        with _archive(client, container, str(path)) as response:
            # Docker has followed all links, from the container's root.
            link = decode_json_header(response.headers[_STAT].translate(_URL_SAFE)).get("linkTarget")
            if not link:
                return _content(response, container, path)
        with _archive(client, container, link) as response:
            return _content(response, container, path)
    except docker.errors.NotFound as error:
        if "no such container" in str(error.explanation).lower():
            raise
        return None


def _archive(client: APIClient, container: str, path: str) -> requests.Response:
    """To be closed: while an archive is half read, Docker keeps the container locked.

    docker-py's `get_archive` gives away only a generator, whose end does not close the response.
    """
    url = client._url("/containers/{0}/archive", container)  # type: ignore[attr-defined]
    response = client.get(url, params={"path": path}, stream=True, timeout=client.timeout)
    client._raise_for_status(response)  # type: ignore[attr-defined]
    return response


def _content(response: requests.Response, container: str, path: PurePosixPath) -> bytes:
    # The archive's own headers and padding come on top of the file.
    received = response.raw.read(FILE_LIMIT + 16 * 1024)
    with tarfile.open(fileobj=io.BytesIO(received)) as tar:
        entry = tar.next()
        content = tar.extractfile(entry) if entry is not None and entry.isreg() else None
        if entry is None or content is None:
            raise EngineError(f"{path} in {container} is not a regular file.")
        if entry.size > FILE_LIMIT:
            raise EngineError(f"{path} is larger than {FILE_LIMIT // 1024} KiB, and is not read.")
        return content.read()


def packed(files: Sequence[ContainerFile]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in files:
            if not file.path.is_absolute() or ".." in file.path.parts:
                raise BadInputError(f"{file.path} is not an absolute path in a container.")
            entry = tarfile.TarInfo(str(file.path).lstrip("/"))
            entry.uid, entry.gid, entry.mode, entry.mtime = file.uid, file.gid, file.mode, int(time.time())
            if file.content is None:
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            else:
                entry.size = len(file.content)
                tar.addfile(entry, io.BytesIO(file.content))
    return archive.getvalue()


def pieces(archive: Path, cancelled: threading.Event) -> Iterator[bytes]:
    """The archive's bytes, until the import is cancelled. Raises `BadInputError` when it cannot be read."""
    try:
        with archive.open("rb") as file:
            while piece := file.read(256 * 1024):
                if cancelled.is_set():
                    raise EngineError("The import was cancelled.")
                yield piece
    except OSError as error:
        raise BadInputError(f"{archive} cannot be read: {error.strerror}.") from error
