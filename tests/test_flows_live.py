"""Two projects of one process, one on Docker and one on Podman."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import build_project
from live import Site, a_kernel, a_site
from podman_here import Podman, a_service

from ds01_kernels import package_jobs
from ds01_kernels.rebuild import Order
from ds01_kernels.status import all_statuses, details
from ds01_kernels.workbench import Workbench

pytestmark = [pytest.mark.engine, pytest.mark.apart]

SETTINGS = """
c.Workbench.engine = 'docker'
c.Workbench.engines_allowed = ['podman']
c.Workbench.network = 'none'
c.Workbench.orphan_grace = 2.0
"""
WHERE = "import os; print(os.environ['DS01_PROJECT'], os.path.exists('/run/.containerenv'))"


@pytest.fixture
def podman_of_its_own(podman: Podman, tmp_path: Path) -> Podman:
    """The same, through a service of this test's own."""
    address = f"unix:///tmp/ds01-test-{secrets.token_hex(6)}.sock"
    return Podman(address, {**podman.variables, "CONTAINER_HOST": address})


@pytest.fixture
def site(podman_of_its_own: Podman, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name, value in podman_of_its_own.variables.items():
        monkeypatch.setenv(name, value)
    with a_site(SETTINGS) as site:
        yield site


def test_one_on_docker_and_one_on_podman(site: Site, podman_of_its_own: Podman, tmp_path: Path) -> None:
    here = site.project("here")
    there = site.project("there", built=False)
    (there.path / "pyproject.toml").write_text("[tool.ds01]\nengine = 'podman'\n")
    name = "ds01-" + here.name, "ds01-" + there.name
    try:
        with a_service(podman_of_its_own, tmp_path / "log"):
            workbench = Workbench.open()
            project = workbench.projects().get(there.name)
            flows = workbench.call(workbench.flows(project))
            workbench.call(build_project(flows.engine, there))
            with a_kernel(name[0]) as first:
                assert first.run(WHERE) == f"{here.name} False\n"
                with a_kernel(name[1]) as second:
                    assert second.run(WHERE) == f"{there.name} True\n"
                    statuses = {one.name: one for one in asyncio.run(all_statuses(workbench))}
                    assert [statuses[one.name].state for one in (here, there)] == ["running", "running"]
                    for one, engine in ((here, "docker"), (there, "podman")):
                        found = asyncio.run(details(workbench, one.name))
                        assert (found.engine["name"], found.kernels) == (engine, 1)
                before = podman_of_its_own.run("inspect", "--format", "{{.Id}}", there.container)
                workbench.call(rebuilt(workbench, there.name), 120)
                after = podman_of_its_own.run("inspect", "--format", "{{.Id}}", there.container)
                assert after != before
                assert first.run("print(1)") == "1\n"
        # Its service has ended.
        with a_kernel(name[0]) as third:
            assert third.run(WHERE) == f"{here.name} False\n"
        statuses = {one.name: one for one in asyncio.run(all_statuses(workbench))}
        assert (statuses[here.name].state, statuses[here.name].error) == ("running", None)
        assert statuses[there.name].state == "unknown"
        assert "Podman" in (statuses[there.name].error or "")
        with a_kernel(name[1]) as fourth:
            assert "Podman" in fourth.explanation()
    finally:
        Path(podman_of_its_own.address.removeprefix("unix://")).unlink(missing_ok=True)


async def rebuilt(workbench: Workbench, name: str) -> None:
    project = workbench.projects().get(name)
    state = await package_jobs.rebuild(workbench, project, Order(packages=()))
    while not (state := workbench.jobs.get(project, state.id)).over:
        await asyncio.sleep(0.1)
    assert state.phase == "done", state
