"""Docker and a Docker Swarm with two GPUs in one process; who wants a third one waits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from causes import ON_SWARM
from conftest import BASE_IMAGE, build_project
from live import Site, a_kernel, a_site, containers_of, until
from pretended import WatchedManager
from swarm_here import REGISTRY, Swarm

from ds01_kernels.engine import ContainerSpec, GpuRequest
from ds01_kernels.status import all_statuses
from ds01_kernels.workbench import Workbench

pytestmark = [pytest.mark.engine, pytest.mark.apart]


@pytest.fixture
def site(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Docker is that of the swarm's manager."""
    monkeypatch.setenv("DOCKER_HOST", swarm.address)
    options = {
        "engine": "docker",
        "engines_allowed": ["swarm"],
        "swarm_registry": REGISTRY,
        "swarm_nodes": swarm.addresses,
    }
    with a_site("\n".join(f"c.Workbench.{name} = {value!r}" for name, value in options.items())) as site:
        try:
            yield site
        finally:
            workbench = Workbench.open()
            for project in workbench.projects().projects:
                flows = workbench.call(workbench.flows(project))
                workbench.call(flows.launcher.retire(project, force=True))
            # Nodes remove what ran there a moment later.
            until(lambda: not containers_of(site))


def test_a_third_kernel_waits_for_a_gpu_of_two(site: Site, run_id: str, ipykernel_image: str) -> None:
    dockerfile = f"FROM {ipykernel_image}\n"
    made = site.project("third", dockerfile=dockerfile, built=False)
    (made.path / "pyproject.toml").write_text("[tool.ds01]\nengine = 'swarm'\ngpus = 1\n")
    workbench = Workbench.open()
    swarm = workbench.call(workbench.flows(workbench.projects().get(made.name))).engine
    workbench.call(build_project(swarm, made))
    name = f"ds01-{made.name}"
    labels = {"ds01-kernels.test": run_id}
    try:
        for number in range(2):
            spec = ContainerSpec(f"ds01-test-{run_id}-{number}", BASE_IMAGE, ("sleep", "1000"), labels=labels)
            info = workbench.call(swarm.create(replace(spec, gpus=GpuRequest(1))))
            workbench.call(swarm.start(info.id))
        with a_kernel(name, manager=WatchedManager(kernel_name=name)) as kernel:
            request = kernel.client.execute("import os; print(os.environ['DS01_PROJECT'])")
            said = ""
            while "Interrupt" not in said:
                message = kernel.client.get_iopub_msg(timeout=60)
                said += message["content"].get("text", "") if message["msg_type"] == "stream" else ""
            told = tuple(said.replace(made.container, "thesis._.1000").splitlines())
            assert told == ON_SWARM["no room on the nodes"]
            workbench.call(swarm.remove(info.id))
            text, error = kernel.outcome(request)
            assert (text.endswith(f"{made.name}\n"), error) == (True, "")
            beside_docker(site, made.name, dockerfile)
    finally:
        for info in workbench.call(swarm.containers(labels)):
            workbench.call(swarm.remove(info.id))


def beside_docker(site: Site, on_swarm: str, dockerfile: str) -> None:
    """A project on Docker, of which the swarm's manager is one, sees nothing of those on the swarm."""
    workbench = Workbench.open()
    plain = site.project("plain", dockerfile=dockerfile)
    with a_kernel(f"ds01-{plain.name}") as kernel:
        assert kernel.run("import os; print(os.environ['DS01_PROJECT'])") == f"{plain.name}\n"
        found = {
            one.name: (one.state, one.node in ("n2", "n3")) for one in asyncio.run(all_statuses(workbench))
        }
        assert found == {on_swarm: ("running", True), plain.name: ("running", False)}
    (plain.path / "pyproject.toml").write_text("[tool.ds01]\nengine = 'swarm'\nnode = 'n1'\n")
    moved = workbench.projects().get(plain.name)
    info = workbench.call(workbench.call(workbench.flows(moved)).launcher.deploy(moved))
    assert info.node == "n1"
    # What it had there goes; its task, on the same machine, is none of Docker's.
    until(
        lambda: not workbench.call(workbench.chosen_engine.containers({"ds01-kernels.uid": str(os.getuid())}))
    )
