"""Where the container may run, of several nodes: whether there is one that can take it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ds01_kernels.doctor.facts import Facts
from ds01_kernels.doctor.finding import Finding, failed
from ds01_kernels.engine import ContainerInfo, EngineInfo, NodeInfo
from ds01_kernels.engine.placing import fulfils, on_node
from ds01_kernels.errors import Ds01Error
from ds01_kernels.settings import Settings

_LIST = "`jupyter ds01 nodes` lists them."
_CORRECT = (
    "Correct `node` and `constraints` in [tool.ds01], or have the administrator give a node that label, or "
    "correct Workbench.swarm_constraints."
)


def nodes(facts: Facts) -> Iterator[Finding]:
    wanted, host, found = facts.settings, facts.engine, facts.nodes
    if isinstance(found, Ds01Error):
        yield failed("nodes", found)
        return
    if not isinstance(wanted, Settings) or not isinstance(host, EngineInfo) or not found:
        return
    asked = [*([on_node(wanted.node)] if wanted.node else []), *wanted.swarm_constraints, *wanted.constraints]
    right = [node for node in found if all(fulfils(node, one) for one in asked)]
    if not right:
        yield _nowhere(wanted, asked, found)
    elif "nodes" in host.cannot and host.machine not in {node.name for node in right}:
        message = (
            f"{host.cannot['nodes']} That is {host.machine}, and the project is to run on {_and(right)}."
        )
        remedy = "Ask the administrator for a registry, or take `node` and `constraints` out of [tool.ds01]."
        yield Finding("nodes", "error", message, remedy)
    else:
        if "nodes" in host.cannot:
            right = [node for node in right if node.name == host.machine]
        yield from _able(facts, wanted, right)


def _nowhere(wanted: Settings, asked: Sequence[str], found: Sequence[NodeInfo]) -> Finding:
    if wanted.node and not any(fulfils(node, on_node(wanted.node)) for node in found):
        message = f"The project is to run on the node {wanted.node}, and the swarm has {_and(found)} only."
        return Finding("nodes", "error", message, f"Correct `node` in [tool.ds01]; {_LIST}")
    never = [one for one in asked if not any(fulfils(node, one) for node in found)]
    if never:
        message = f"No node of the swarm is as the settings want it: {', '.join(never)}."
    else:
        message = f"No node of the swarm is all that the settings want at once: {', '.join(asked)}."
    return Finding("nodes", "error", message, _CORRECT)


def _able(facts: Facts, wanted: Settings, right: Sequence[NodeInfo]) -> Iterator[Finding]:
    """Of the nodes on which it may run, whether one is large enough, and takes something now."""
    too_much = ""
    gpus = wanted.gpus.count if wanted.gpus else 0
    most_gpus, most_cpus = max(node.gpus or 0 for node in right), max(node.cpus for node in right)
    if gpus > most_gpus > 0:
        too_much = f"The settings ask for {gpus} GPUs, and {_each(right)} has {most_gpus} at most"
    elif wanted.cpus and wanted.cpus > most_cpus:
        too_much = f"{wanted.cpus:g} CPUs are set, and {_each(right)} has {most_cpus} at most"
    if too_much:
        remedy = "Ask for less, or correct `node` and `constraints` in [tool.ds01]."
        yield Finding("nodes", "error", f"{too_much}: it starts nowhere.", remedy)
        return
    able = [node for node in right if not node.problem]
    if able:
        yield Finding("nodes", "ok", f"The container may run on {_and(able)}.")
        return
    problems = " ".join(node.problem for node in right)
    message = f"Nothing new starts where the project may run. {problems}"
    runs = isinstance(facts.container, ContainerInfo) and facts.container.running
    remedy = f"Ask the administrator, or correct `node` and `constraints` in [tool.ds01]; {_LIST}"
    yield Finding("nodes", "warning" if runs else "error", message, remedy)


def _each(right: Sequence[NodeInfo]) -> str:
    return f"the node {right[0].name}" if len(right) == 1 else f"each of {_and(right)}"


def _and(found: Sequence[NodeInfo]) -> str:
    names = sorted(node.name for node in found)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
