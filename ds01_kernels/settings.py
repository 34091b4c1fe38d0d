"""What a project's container is given: the admin's settings, and what a project may change of them.

A project's ``pyproject.toml`` may have a table ``[tool.ds01]``. It can be written from inside the container,
so it is checked like any input, and can only ever ask for less than the admin's ceiling.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from .engine import GpuRequest, Mount
from .errors import SettingError

#: Keys of ``[tool.ds01]`` that a project may set unless the admin says otherwise.
PROJECT_KEYS = ("memory", "cpus", "shm_size", "gpus", "python")

#: Keys that are there for other parts of the package.
OTHER_KEYS = ("packages", "engine", "node", "constraints")


@dataclass(frozen=True)
class Settings:
    """What applies to one container. Bytes for sizes; None: the engine's default."""

    memory: int | None = None
    cpus: float | None = None
    shm_size: int | None = None
    pids_limit: int | None = None
    gpus: GpuRequest | None = None
    network: str = ""
    python: str = ""
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    build_args: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ceiling:
    """The most that a project may ask for; None: as much as it likes."""

    memory: int | None = None
    cpus: float | None = None
    shm_size: int | None = None
    gpus: int | None = None
    keys: tuple[str, ...] = PROJECT_KEYS


def with_project(admin: Settings, ceiling: Ceiling, text: str, file: str) -> Settings:
    """`admin` with what ``[tool.ds01]`` in that text of a ``pyproject.toml`` changes.

    Raises `SettingError` naming the key and `file`.
    """
    table = _table(text, file)
    changed: dict[str, Any] = {}
    for key, value in table.items():
        where = f"[tool.ds01] {key} in {file}"
        if key in OTHER_KEYS:
            continue
        if key not in _READERS:
            raise SettingError(f"{where} is not a setting.", remedy=f"There are: {', '.join(_READERS)}.")
        if key not in ceiling.keys:
            raise SettingError(f"{where} may not be set by a project here.", remedy="Ask the administrator.")
        changed[key] = _READERS[key](where, value)
        _check_ceiling(where, key, changed[key], ceiling)
    return replace(admin, **changed)


def parse_size(where: str, value: object) -> int | None:
    """Bytes from a size as docker writes it ('512m', '1.5g') or a number; None for an empty text.

    Raises `SettingError`.
    """
    if value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = (
        re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?)\s*([kmgt]?)(?:i?b)?", value.strip().lower())
        if isinstance(value, str)
        else None
    )
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if not 0 < size < 1 << 62:
        raise SettingError(
            f"{where} is {value!r}, which is not a size.", remedy="Write it as in '512m' or '16g'."
        )
    return size


def parse_gpus(where: str, value: object) -> GpuRequest | None:
    """GPUs from ``"all"``, a count, or names separated by commas (index, UUID or MIG UUID). Raises
    `SettingError`."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise SettingError(
            f"{where} is {value!r}, which names no GPUs.", remedy="Write 'all', a count, or UUIDs."
        )
    text = str(value).strip()
    if text in ("", "0"):
        return None
    if text == "all":
        return GpuRequest(count=-1)
    if re.fullmatch(r"[1-9]\d{0,2}", text):
        return GpuRequest(count=int(text))
    names = tuple(name.strip() for name in text.split(","))
    # https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/docker-specialized.html#gpu-enumeration
    if not all(
        re.fullmatch(r"\d{1,3}|(?:GPU|MIG)-[0-9A-Fa-f/-]{1,80}|\d{1,3}:\d{1,3}", name) for name in names
    ):
        raise SettingError(
            f"{where} is {value!r}, which names no GPUs.", remedy="Write 'all', a count, or UUIDs."
        )
    return GpuRequest(ids=names)


def parse_cpus(where: str, value: object) -> float | None:
    """Raises `SettingError`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise SettingError(
            f"{where} is {value!r}, which is not a number of CPUs.", remedy="Write it as in 2 or 1.5."
        )
    return float(value) or None


def parse_python(where: str, value: object) -> str:
    """An absolute path inside the image, or nothing. Raises `SettingError`."""
    if value == "":
        return ""
    if not isinstance(value, str) or not re.fullmatch(r"/[\w./+-]{1,200}", value, re.ASCII) or ".." in value:
        raise SettingError(
            f"{where} is {value!r}, which is not a path.", remedy="Write it as in '/usr/bin/python3'."
        )
    return str(PurePosixPath(value))


def parse_mount(where: str, value: str) -> Mount:
    """A folder of the host in the container from ``SOURCE:TARGET`` or ``SOURCE:TARGET:ro``.

    Raises `SettingError`.
    """
    match = re.fullmatch(r"(/[^:]*|~[^:]*):(/[^:]+)(?::(ro|rw))?", value)
    if match is None:
        raise SettingError(
            f"{where} has {value!r}, which is not a mount.", remedy="Write it as in '/data:/data:ro'."
        )
    return Mount(Path(match[1]).expanduser(), PurePosixPath(match[2]), read_only=match[3] == "ro")


_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

_READERS: Mapping[str, Callable[[str, object], Any]] = {
    "memory": parse_size,
    "cpus": parse_cpus,
    "shm_size": parse_size,
    "gpus": parse_gpus,
    "python": parse_python,
}


def _table(text: str, file: str) -> dict[str, Any]:
    try:
        tool = tomllib.loads(text).get("tool", {})
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingError(f"{file} is not TOML: {error}.") from None
    table = tool.get("ds01", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise SettingError(f"[tool.ds01] in {file} is not a table.")
    return table


def _check_ceiling(where: str, key: str, value: Any, ceiling: Ceiling) -> None:
    most = getattr(ceiling, key, None)
    if most is None:
        return
    asked = value
    if isinstance(value, GpuRequest):
        asked = math.inf if value.count < 0 else max(value.count, len(value.ids))
    elif value is None:
        # Nothing asked for means as much as there is; of GPUs it means none.
        asked = 0 if key == "gpus" else math.inf
    if asked > most:
        raise SettingError(f"{where} is more than the {most:g} that the administrator allows.")
