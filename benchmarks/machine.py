"""The machine that a run takes place on, for people."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from .stage import installed

#: Whose versions the figures depend on.
DISTRIBUTIONS = ("ds01-kernels", "jupyter_client", "jupyter_server", "ipykernel", "pyzmq", "tornado")


def description(engine: str) -> dict[str, str]:
    """`engine` is its name and version."""
    versions = ", ".join(f"{name} {installed(name)}" for name in DISTRIBUTIONS)
    return {
        "CPU": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{_distribution()}, {platform.system()} {platform.release()}",
        "engine": engine,
        "host": f"Python {platform.python_version()}, {versions}",
    }


def load() -> str:
    """The averages of 1, 5 and 15 minutes."""
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "an unknown distribution"
