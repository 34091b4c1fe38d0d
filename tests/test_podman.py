"""Podman where kernels run: Jupyter's own suite, root's podman and rootless."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
import test_kernel_suite
from live import Site, a_site
from podman_here import Podman, a_podman

pytestmark = pytest.mark.engine

PLAIN = f"plain-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def podman(engine_available: None) -> Iterator[Podman]:
    with a_podman() as podman:
        yield podman


@pytest.fixture(scope="module")
def site(podman: Podman) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in podman.variables.items():
            patch.setenv(name, value)
        # So that what the tests themselves ask is asked there too.
        patch.setenv("DOCKER_HOST", podman.address)
        with a_site("c.Workbench.network = 'none'") as site:
            site.project(PLAIN, unique=False)
            yield site


@pytest.mark.usefixtures("site")
class TestKernels(test_kernel_suite.TestWithTheStoresIpykernel):
    kernel_name = f"ds01-{PLAIN}"
