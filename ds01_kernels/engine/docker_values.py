"""Docker's dictionaries turned into the engine's values, and a `ContainerSpec` into Docker's words: pure."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, get_args

from docker import APIClient
from docker.types import DeviceRequest, LogConfig
from docker.types import Mount as DockerMount

from ds01_kernels.engine import (
    ContainerInfo,
    ContainerSpec,
    ContainerState,
    EngineInfo,
    GpuRequest,
    ImageInfo,
)
from ds01_kernels.engine.docker_connection import is_podman

Answer = Mapping[str, Any]

NO_PODMAN_GPUS = "Podman ignores requests for GPUs that come through its Docker-compatible socket."

# Podman's states that Docker does not have.
_STATES: Mapping[str, ContainerState] = {
    **{state: state for state in get_args(ContainerState)},
    "configured": "created",
    "initialized": "created",
    "stopping": "running",
    "stopped": "exited",
}


def image_info(answer: Answer) -> ImageInfo:
    config = answer.get("Config") or {}
    return ImageInfo(
        id=_content_id(answer["Id"]),
        tags=tuple(answer.get("RepoTags") or ()),
        created=_moment(answer.get("Created")) or datetime.fromtimestamp(0, UTC),
        size=int(answer.get("Size") or 0),
        labels=dict(config.get("Labels") or {}),
        env=_variables(config.get("Env")),
        user=config.get("User") or "",
        architecture=answer.get("Architecture") or "",
    )


def container_info(answer: Answer) -> ContainerInfo:
    state = answer["State"]
    status = _STATES.get(str(state.get("Status", "")).lower(), "dead")
    host = answer.get("HostConfig") or {}
    return ContainerInfo(
        id=answer["Id"],
        name=answer["Name"].lstrip("/"),
        state=status,
        image_id=_content_id(answer["Image"]),
        labels=dict(answer["Config"].get("Labels") or {}),
        created=_moment(answer.get("Created")) or datetime.fromtimestamp(0, UTC),
        exit_code=state.get("ExitCode") if status in ("exited", "dead") else None,
        oom_killed=bool(state.get("OOMKilled")),
        started=_moment(state.get("StartedAt")),
        memory=int(host.get("Memory") or 0) or None,
        gpus=_gpus(host.get("DeviceRequests")),
        mounts={
            str(mount.get("Destination")): str(mount.get("Source"))
            for mount in answer.get("Mounts") or ()
            if mount.get("Type") == "bind"
        },
        cpus=_cpus(host),
    )


def _cpus(host: Answer) -> float | None:
    if nano := int(host.get("NanoCpus") or 0):
        return nano / 1e9
    quota, period = int(host.get("CpuQuota") or 0), int(host.get("CpuPeriod") or 0)
    return quota / period if quota > 0 and period > 0 else None


def _gpus(requests: list[Answer] | None) -> GpuRequest | None:
    for request in requests or ():
        if any("gpu" in together for together in request.get("Capabilities") or ()):
            return GpuRequest(int(request.get("Count") or 0), tuple(request.get("DeviceIDs") or ()))
    return None


def engine_info(
    info: Answer, version: Answer, unix_socket: bool, *, has_gpu_hook: bool = False
) -> EngineInfo:
    """`has_gpu_hook`: whether the program with which Docker gives GPUs is there; Docker does not say it."""
    name = "podman" if is_podman(version) else "docker"
    options = " ".join(info.get("SecurityOptions") or ())
    # Podman has a field of its own for it.
    rootless = "name=rootless" in options or info.get("Rootless") is True
    return EngineInfo(
        name=name,
        version=str(version.get("Version") or info.get("ServerVersion") or ""),
        # Docker Desktop, and every engine on a Mac, runs in a virtual machine that answers on a local socket.
        local=unix_socket and sys.platform == "linux" and info.get("OperatingSystem") != "Docker Desktop",
        rootless=rootless or "name=userns" in options,
        runtimes=tuple(sorted(info.get("Runtimes") or {})),
        cpus=int(info.get("NCPU") or 0),
        memory=int(info.get("MemTotal") or 0),
        cannot=_cannot(info, name, rootless, has_gpu_hook),
        data_root=str(info.get("DockerRootDir") or ""),
        machine=str(info.get("Name") or ""),
    )


def _cannot(info: Answer, name: str, rootless: bool, has_gpu_hook: bool) -> dict[str, str]:
    # Rootless on cgroup v1, an engine drops every limit without a word.
    powerless = rootless and str(info.get("CgroupVersion")) == "1"
    limits = {
        "memory": ("MemoryLimit", "limit the memory of containers"),
        "cpus": ("CpuCfsQuota", "limit the CPUs of containers"),
        "pids": ("PidsLimit", "limit the number of processes of containers"),
    }
    cannot = {}
    for key, (flag, what) in limits.items():
        if powerless or info.get(flag) is False:
            why = "it runs rootless on cgroup v1" if powerless else "the kernel has no such control group"
            cannot[key] = f"This engine cannot {what}: {why}."
    if name == "podman":
        cannot["gpus"] = NO_PODMAN_GPUS
    elif not has_gpu_hook and not _has_gpus(info):
        cannot["gpus"] = "This engine cannot give GPUs to containers: no NVIDIA runtime is set up."
    return cannot


def _has_gpus(info: Answer) -> bool:
    devices = " ".join(str(device.get("ID")) for device in info.get("DiscoveredDevices") or ())
    return "nvidia" in (info.get("Runtimes") or {}) or "nvidia.com/gpu" in devices


def creation(client: APIClient, spec: ContainerSpec, default_log_driver: str) -> dict[str, Any]:
    """The arguments of docker-py's `create_container` for `spec`."""
    return {
        "image": spec.image,
        "name": spec.name,
        "entrypoint": list(spec.entrypoint),
        # With an entrypoint of its own, an empty command keeps the image's CMD out.
        "command": [],
        "user": spec.user or None,
        "working_dir": spec.working_dir or None,
        "environment": dict(spec.env),
        "labels": dict(spec.labels),
        "hostname": spec.hostname or None,
        # An image's STOPSIGNAL is meant for its own main process, which is not the one that runs.
        "stop_signal": "SIGTERM",
        "host_config": client.create_host_config(**_host_settings(spec, default_log_driver)),
    }


def _host_settings(spec: ContainerSpec, default_log_driver: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "init": True,
        "security_opt": ["no-new-privileges"],
        # A mount, unlike a bind, is refused when its source is missing: a bind creates it as root.
        "mounts": [
            DockerMount(str(mount.target), str(mount.source), type="bind", read_only=mount.read_only)
            for mount in spec.mounts
        ],
        "network_mode": spec.network or None,
        "shm_size": spec.shm_size,
        "mem_limit": spec.memory,
        # The same as the memory: no swap on top.
        "memswap_limit": spec.memory,
        "nano_cpus": None if spec.cpus is None else round(spec.cpus * 1e9),
        "pids_limit": spec.pids_limit,
    }
    if default_log_driver == "json-file":
        # Docker's default keeps everything for ever.
        limits = {"max-size": "10m", "max-file": "2"}
        settings["log_config"] = LogConfig(type=LogConfig.types.JSON, config=limits)
    if spec.gpus:
        # Docker takes a count or names, never both.
        chosen = {"device_ids": list(spec.gpus.ids)} if spec.gpus.ids else {"count": spec.gpus.count}
        settings["device_requests"] = [DeviceRequest(capabilities=[["gpu"]], **chosen)]
    return {key: value for key, value in settings.items() if value is not None}


def _content_id(text: str) -> str:
    return text if text.startswith("sha256:") else f"sha256:{text}"


def _variables(pairs: list[str] | None) -> dict[str, str]:
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs or ())}


def _moment(text: str | None) -> datetime | None:
    """Docker writes the year 1 for "never"."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(text)
