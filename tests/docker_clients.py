"""The docker clients of this machine, for tests of builds that go through one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ds01_kernels.engine.docker_builders import BuilderName
from ds01_kernels.engine.docker_client import client_kind


def use_client(patch: pytest.MonkeyPatch, kind: BuilderName) -> None:
    """Put a client that builds that way first on the PATH; skips the test where there is none."""
    path = os.environ["PATH"]
    for folder in path.split(os.pathsep):
        if (Path(folder) / "docker").is_file():
            patch.setenv("PATH", f"{folder}{os.pathsep}{path}")
            if client_kind() == kind:
                return
    patch.setenv("PATH", path)
    pytest.skip(f"no docker client here builds as {kind!r}")
