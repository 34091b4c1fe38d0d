"""A swarm of three nodes that the tests make: daemons in networks of their own, joined by a bridge.

Nothing of it is in the machine's own network. The nodes are called n1, n2 and n3; n1 is the manager. Each is
reached by its unix socket, and listens by TLS in its own network. What begins here ends with this process,
whatever becomes of that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import psutil
from private_daemon import LIMIT, PATH, PROGRAMS, PrivateDaemon, end
from remote import make_certificates, tls_options

NAMES = ("n1", "n2", "n3")
#: One on each of the last two.
GPU = "NVIDIA-GPU"

_NETWORK = "10.213.7"
REGISTRY = f"{_NETWORK}.254:5000"
#: Seconds between signs of life: after three without one a node counts as lost, which none may by chance.
_HEARTBEAT = 4

#: Bytes that have to be available for the nodes' files to be in memory: they take less than 3 GiB.
_MEMORY = 8 << 30

_REGISTRY_SETTINGS = """\
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {folder}}}
http: {{addr: "{address}"}}
"""


@dataclass(frozen=True)
class Node:
    name: str
    daemon: PrivateDaemon
    hub: Net

    def cut(self) -> None:
        """Its link goes down."""
        self.hub.run("ip", "link", "set", f"to-{self.name}", "down")

    def mend(self) -> None:
        self.hub.run("ip", "link", "set", f"to-{self.name}", "up")

    def containers(self) -> list[dict[str, Any]]:
        """All that are there, running or not."""
        client = self.client()
        try:
            found: list[dict[str, Any]] = client.containers(all=True)
            return found
        finally:
            client.close()

    def change(self, manager: Node, **spec: Any) -> None:
        """Give the swarm's entry for it these fields."""
        client = manager.client()
        try:
            # It changes by itself too, and then has another version.
            for left in reversed(range(10)):
                nodes = client.nodes()
                (found,) = [node for node in nodes if node["Description"]["Hostname"] == self.name]
                try:
                    client.update_node(found["ID"], found["Version"]["Index"], {**found["Spec"], **spec})
                    break
                except docker.errors.APIError:
                    if not left:
                        raise
        finally:
            client.close()

    def client(self) -> docker.APIClient:
        return docker.APIClient(self.daemon.address, timeout=int(LIMIT))


@dataclass(frozen=True)
class Swarm:
    """`certificates` is a folder as docker's own, good for each node."""

    nodes: Mapping[str, Node]
    certificates: Path

    @property
    def manager(self) -> Node:
        return self.nodes[NAMES[0]]

    @property
    def address(self) -> str:
        """What DOCKER_HOST has to be."""
        return self.manager.daemon.address

    @property
    def addresses(self) -> dict[str, str]:
        """What `Workbench.swarm_nodes` has to be."""
        return {name: node.daemon.address for name, node in self.nodes.items()}


def why_not() -> str:
    """Why there can be no swarm of a test's own; empty: there can."""
    if os.getuid() != 0:
        return "only root can make a swarm of its own"
    programs = (*PROGRAMS, "ip", "openssl", "docker-registry")
    if missing := [name for name in programs if shutil.which(name, path=PATH) is None]:
        return f"a swarm of its own needs {', '.join(missing)}"
    made = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True)
    return made.stderr.decode().strip() and "no namespaces can be made here"


@contextmanager
def a_swarm(images: Sequence[str]) -> Iterator[Swarm]:
    """Three nodes, of which the manager has these images, and a registry that all of them reach."""
    # Short, as sockets want it.
    folder = Path(tempfile.mkdtemp(prefix="ds01-swarm-")).resolve()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        make_certificates(folder)
        hub = stack.enter_context(_a_net())
        hub.run("ip", "link", "add", "hub", "type", "bridge")
        hub.run("ip", "address", "add", f"{_NETWORK}.254/24", "dev", "hub")
        hub.run("ip", "link", "set", "hub", "up")
        stack.enter_context(_a_registry(hub, folder))
        nodes: dict[str, Node] = {}
        stack.callback(_end_all, nodes)
        for number, name in enumerate(NAMES, 1):
            net = stack.enter_context(_a_net())
            _join_nets(hub, net, f"to-{name}", f"{_NETWORK}.{number}/24")
            nodes[name] = Node(name, _daemon(folder, name, net, has_gpu=number > 1), hub)
        for node in nodes.values():
            node.daemon.start()
        swarm = Swarm(nodes, folder)
        swarm.manager.daemon.load(*images)
        _join(swarm)
        # The nodes would otherwise start again what their daemons end.
        stack.callback(_remove_services, swarm)
        yield swarm


@dataclass(frozen=True)
class Net:
    """A network namespace, which is there as long as its process."""

    pid: int

    @property
    def enter(self) -> tuple[str, ...]:
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net", "--")

    def run(self, *command: str) -> None:
        subprocess.run([*self.enter, *command], check=True, capture_output=True, env={"PATH": PATH})


@contextmanager
def _a_net() -> Iterator[Net]:
    command = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--net", "--", "sleep", "infinity"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        here = Path("/proc/self/ns/net").readlink()
        deadline = time.monotonic() + LIMIT
        while not _is_apart(process.pid, here):
            assert process.poll() is None, "no network namespace can be made"
            assert time.monotonic() < deadline, "no network namespace was made"
            time.sleep(0.01)
        net = Net(process.pid)
        net.run("ip", "link", "set", "lo", "up")
        yield net
    finally:
        process.kill()
        process.wait()


def _is_apart(pid: int, here: Path) -> bool:
    with suppress(OSError):
        process = Path(f"/proc/{pid}")
        return (process / "ns/net").readlink() != here and (process / "comm").read_text() == "sleep\n"
    return False


def _join_nets(hub: Net, net: Net, name: str, address: str) -> None:
    """A link from one to the other, called `name` at its end in the hub."""
    hub.run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(net.pid))
    hub.run("ip", "link", "set", name, "master", "hub", "up")
    net.run("ip", "address", "add", address, "dev", "eth0")
    net.run("ip", "link", "set", "eth0", "up")
    net.run("ip", "route", "add", "default", "via", f"{_NETWORK}.254")


@contextmanager
def _a_registry(hub: Net, folder: Path) -> Iterator[None]:
    storage, settings = folder / "registry", folder / "registry.yml"
    settings.write_text(_REGISTRY_SETTINGS.format(folder=storage, address=REGISTRY))
    storage.mkdir()
    with (folder / "registry.log").open("ab") as log:
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "TERM", "--", *hub.enter),
                *("docker-registry", "serve", str(settings)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _daemon(folder: Path, name: str, net: Net, *, has_gpu: bool) -> PrivateDaemon:
    own = folder / name
    own.mkdir()
    # Daemons that share their key would have one id: https://github.com/moby/moby/issues/36610
    (own / "daemon.json").write_text(f'{{"deprecated-key-path": "{own / "key.json"}"}}')
    gpu = [f"--node-generic-resource={GPU}=1"] if has_gpu else []
    # A bridge of Docker's own, in that network: builds want it.
    options = ["--bridge=", f"--insecure-registry={REGISTRY}", *tls_options(folder), *gpu]
    # A node is called as its machine.
    steps = [f"echo {name} >/proc/sys/kernel/hostname"]
    if psutil.virtual_memory().available > _MEMORY:
        # Three times the images: in memory they are there, and gone, in no time.
        steps.append(f"mkdir {own / 'data'} && mount -t tmpfs ds01-swarm {own / 'data'}")
    first = ("sh", "-c", " && ".join([*steps, 'exec "$@"']), "sh")
    enter = (*net.enter, "unshare", "--uts", "--mount", "--propagation", "private", "--", *first)
    return PrivateDaemon(own, {**os.environ, "PATH": PATH}, options, enter)


def _join(swarm: Swarm) -> None:
    manager = swarm.manager.client()
    try:
        spec = manager.create_swarm_spec(dispatcher_heartbeat_period=_HEARTBEAT * 10**9)
        manager.init_swarm(f"{_NETWORK}.1", f"{_NETWORK}.1:2377", swarm_spec=spec)
        token = manager.inspect_swarm()["JoinTokens"]["Worker"]
        for number, name in enumerate(NAMES[1:], 2):
            client, address = swarm.nodes[name].client(), f"{_NETWORK}.{number}"
            try:
                client.join_swarm([f"{_NETWORK}.1:2377"], token, f"{address}:2377", address)
            finally:
                client.close()
        deadline = time.monotonic() + LIMIT
        while [node["Status"]["State"] for node in manager.nodes()] != ["ready"] * len(NAMES):
            assert time.monotonic() < deadline, f"not all nodes have joined:\n{swarm.manager.daemon.said()}"
            time.sleep(0.1)
    finally:
        manager.close()


def _end_all(nodes: Mapping[str, Node]) -> None:
    with ThreadPoolExecutor(len(NAMES)) as threads:
        # Each takes a while for it.
        list(threads.map(end, [node.daemon for node in nodes.values()]))


def _remove_services(swarm: Swarm) -> None:
    with suppress(docker.errors.DockerException, OSError):
        client = swarm.manager.client()
        for service in client.services():
            client.remove_service(service["ID"])
        client.close()
