"""Projects on several engines in one process, all of them only played."""

from __future__ import annotations

import asyncio

import pytest
from live import a_kernel, until
from pretended import Pretence, Pretended

from ds01_kernels import flows, nodes, status
from ds01_kernels.doctor import examine
from ds01_kernels.engine import ContainerInfo
from ds01_kernels.errors import EngineError, EngineUnreachableError, SettingError
from ds01_kernels.status import ProjectStatus, all_statuses, details
from ds01_kernels.workbench import Workbench

ON_PODMAN = "engine = 'podman'"
GONE = EngineUnreachableError("Podman cannot be reached.", remedy="Start it.")


@pytest.fixture
def docker(here: Pretence) -> Pretended:
    return Pretended(here.root, "docker")


@pytest.fixture
def podman(here: Pretence, docker: Pretended) -> Pretended:
    podman = Pretended(here.root, "podman")
    here.open(docker, {"podman": podman}, engines_allowed=["podman"])
    return podman


def listed(here: Pretence) -> dict[str, ProjectStatus]:
    return {one.name: one for one in asyncio.run(all_statuses(here.workbench))}


def test_each_project_is_on_its_engine(here: Pretence, docker: Pretended, podman: Pretended) -> None:
    one, other = here.project("one", on=docker), here.project("other", ON_PODMAN, on=podman)
    with a_kernel(one.kernel_name) as first, a_kernel(other.kernel_name) as second:
        assert first.run("import os; print(os.environ['DS01_PROJECT'])") == "one\n"
        assert second.run("import os; print(os.environ['DS01_PROJECT'])") == "other\n"
        assert (docker.names(), podman.names()) == (["one._.0"], ["other._.0"])
        assert {name: status.state for name, status in listed(here).items()} == {
            "one": "running",
            "other": "running",
        }
        for project, engine in ((one, "docker"), (other, "podman")):
            found = asyncio.run(details(here.workbench, project.name))
            assert (found.engine["name"], found.kernels, found.error) == (engine, 1, None)
        found_nodes = here.call(here.workbench.on_each_engine(lambda flows: nodes.nodes(flows.engine)))
        assert [(one.name, one.containers) for some in found_nodes for one in some] == [
            ("docker-machine", 1),
            ("podman-machine", 1),
        ]


def test_one_that_is_down_does_not_take_the_others_along(
    here: Pretence, docker: Pretended, podman: Pretended
) -> None:
    one, other = here.project("one", on=docker), here.project("other", ON_PODMAN, on=podman)
    here.call(here.call(here.workbench.flows(one)).launcher.deploy(one))
    podman.fail_next("containers", GONE)
    found = listed(here)
    assert (found["one"].state, found["one"].error) == ("running", None)
    assert (found["other"].state, found["other"].error) == ("unknown", GONE.sentence)
    podman.fail_next("info", GONE)
    found_nodes = here.call(here.workbench.on_each_engine(lambda flows: nodes.nodes(flows.engine)))
    assert [one.name for some in found_nodes for one in some] == ["docker-machine"]
    podman.fail_next("info", GONE)
    findings = {one.check: one for one in asyncio.run(examine(here.workbench, "other"))}
    assert (findings["engine"].level, findings["engine"].message) == ("error", str(GONE))
    assert {one.check: one for one in asyncio.run(examine(here.workbench, "one"))}["engine"].level == "ok"
    podman.fail_next("containers", GONE)
    assert here.call(here.workbench.prune(dry=True)).containers == ()
    podman.fail_next("containers", GONE)
    docker.fail_next("containers", GONE)
    with pytest.raises(EngineError, match="cannot be reached"):
        here.call(here.workbench.prune(dry=True))
    # And it is there again when it is there again.
    here.call(here.call(here.workbench.flows(other)).launcher.deploy(other))
    assert listed(here)["other"].state == "running"


def test_one_that_does_not_answer_is_not_waited_for(
    here: Pretence, docker: Pretended, podman: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(labels: object) -> list[ContainerInfo]:
        await asyncio.sleep(3600)
        return []

    monkeypatch.setattr(status, "LIMIT_BESIDE_OTHERS", 0.1)
    monkeypatch.setattr(podman, "containers", hang)
    here.project("one")
    here.project("other", ON_PODMAN)
    found = listed(here)
    assert (found["one"].state, found["one"].error) == ("missing", None)
    assert (found["other"].state, found["other"].error) == (
        "unknown",
        "The engine did not answer within 0 s.",
    )


def test_an_engine_that_is_not_allowed_makes_nothing(here: Pretence, docker: Pretended) -> None:
    podman = Pretended(here.root, "podman")
    here.open(docker, {"podman": podman}, engines_allowed=["swarm"])
    project = here.project("p", ON_PODMAN, on=docker)
    with a_kernel(project.kernel_name) as kernel:
        said = kernel.explanation()
    assert "Project p wants podman, and its containers would be docker's." in said
    assert "Workbench.engines_allowed" in said
    assert docker.names() == podman.names() == []


def test_the_usual_engine_needs_no_mention(here: Pretence, docker: Pretended, podman: Pretended) -> None:
    """It is asked for by name where it was found by itself: two ways to it would get into each other's."""
    here.workbench.engines_allowed = ["docker", "podman"]
    for settings in ("engine = 'docker'", "engine = 'auto'", ""):
        project = here.project(f"p{len(settings)}", settings)
        assert here.call(here.workbench.flows(project)).engine is docker


def test_a_file_that_cannot_be_read_leaves_the_project_where_it_was(
    here: Pretence, docker: Pretended, podman: Pretended
) -> None:
    project = here.project("p", "engine = 'podman'\nmemory = 'much'", on=docker)
    assert here.call(here.workbench.flows(project)).engine is docker
    with pytest.raises(SettingError, match="memory"):
        here.call(here.call(here.workbench.flows(project)).launcher.deploy(project))


@pytest.mark.parametrize("settings", ["node = 'n2'", "constraints = ['node.labels.room==2']"])
def test_one_machine_takes_no_place(
    here: Pretence, docker: Pretended, podman: Pretended, settings: str
) -> None:
    project = here.project("p", settings, on=docker)
    with pytest.raises(EngineError, match="has one machine") as refusal:
        here.call(here.workbench.launcher.deploy(project))
    assert refusal.value.remedy
    assert docker.names() == []
    (found,) = (one for one in asyncio.run(examine(here.workbench, "p")) if one.check == "limits")
    assert (found.level, "one machine" in found.message) == ("error", True)


def test_where_it_is_to_run_is_passed_on(here: Pretence) -> None:
    swarm = Pretended(here.root, "swarm", nodes=("n1", "n2"))
    here.open(swarm, swarm_constraints=["node.labels.room==2"])
    project = here.project("p", "node = 'n2'", on=swarm)
    launcher = here.workbench.launcher

    def deployed() -> tuple[str, ContainerInfo]:
        info = here.call(launcher.deploy(project))
        return info.id, info

    first, info = deployed()
    assert info.node == "n2"
    assert swarm.spec("p._.0").constraints == ("node.labels.room==2",)
    assert deployed()[0] == first
    here.set(project, "node = 'n2'\nconstraints = ['node.hostname!=n1']")
    second, _ = deployed()
    assert second != first
    assert swarm.spec("p._.0").constraints == ("node.labels.room==2", "node.hostname!=n1")
    here.set(project, "node = 'n1'")
    third, info = deployed()
    assert (third != second, info.node) == (True, "n1")


# A project that changes its engine


def test_its_container_on_the_other_engine_goes(here: Pretence, docker: Pretended, podman: Pretended) -> None:
    project = here.project("p", on=docker)
    here.build(project, podman)
    with a_kernel(project.kernel_name):
        assert docker.names() == ["p._.0"]
    here.set(project, ON_PODMAN)
    with a_kernel(project.kernel_name) as kernel:
        assert kernel.run("print(1)") == "1\n"
        assert podman.names() == ["p._.0"]
        until(lambda: docker.names() == [])
    # And back again, where that engine does not answer at first.
    here.set(project, "")
    with a_kernel(project.kernel_name):
        assert docker.names() == ["p._.0"]
        until(lambda: podman.names() == [])


def test_it_is_kept_for_the_kernels_in_it(here: Pretence, docker: Pretended, podman: Pretended) -> None:
    project = here.project("p", on=docker)
    here.build(project, podman)
    with a_kernel(project.kernel_name) as old:
        old.run("x = 1")
        here.set(project, ON_PODMAN)
        with a_kernel(project.kernel_name) as new:
            until(lambda: docker.names() != ["p._.0"])
            (kept,) = docker.names()
            assert kept.startswith("p._.0.old-")
            assert (old.run("print(x)"), podman.names()) == ("1\n", ["p._.0"])
            assert listed(here)["p"].state == "running"
            assert new.run("print('x' in globals())") == "False\n"
        assert docker.names() == [kept]
    until(lambda: docker.names() == [])


def test_an_engine_that_is_away_is_asked_again(
    here: Pretence, docker: Pretended, podman: Pretended, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows, "ATTEMPTS", (0.0, 0.1, 0.1))
    project = here.project("p", on=docker)
    here.build(project, podman)
    here.call(here.workbench.launcher.deploy(project))
    until(lambda: here.call(idle(here.workbench)))
    asyncio.run(docker.stop("p._.0", 0))
    here.set(project, ON_PODMAN)
    for _ in range(2):
        docker.fail_next("container", GONE)
    here.call(here.call(here.workbench.flows(project)).launcher.deploy(project))
    until(lambda: docker.names() == [])


async def idle(workbench: Workbench) -> bool:
    return not workbench.all_flows._clearing
