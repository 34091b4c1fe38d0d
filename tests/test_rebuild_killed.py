"""Whoever rebuilds is killed with -9, or told to end: after the next start all is old, or all is new.

Each phase is killed at first sight, as it shows in the job on disk, and at random instants in it. With
``DS01_KILL_ROUNDS=50`` that many rounds are walked, and a table is printed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from rebuilding import Rebuilt, a_project, await_phase, begin, wheel
from servers import House, Kernel, Server, a_house, free_port, wait_for

pytestmark = pytest.mark.engine

#: Seconds that a phase lasts here, about.
PHASES = {"edit": 0.1, "build": 1.5, "check": 2.0, "swap": 0.06, "restart": 0.5}
ROUNDS = int(os.environ.get("DS01_KILL_ROUNDS", "0"))
#: Seconds that kernels of a killed server live on, and in which they have been ended.
GRACE = 1.0


@dataclass(frozen=True)
class Round:
    """`who` is killed, `delay` seconds after the first sight of `phase`."""

    number: int
    who: str
    phase: str
    delay: float = 0.0

    def __str__(self) -> str:
        return f"{self.number}: {self.who}, {self.phase} + {self.delay:.3f} s"


def rounds() -> list[Round]:
    """At first sight of each phase, and, when more are asked for, at random instants."""
    few = [Round(number, "the command line", phase) for number, phase in enumerate(PHASES)]
    for phase in ("build", "swap", "restart"):
        few.append(Round(len(few), "the server", phase))
    few.append(Round(len(few), "the server, asked to end,", "check"))
    chance = random.Random(ROUNDS)
    more = []
    for number in range(len(few), ROUNDS):
        phase = list(PHASES)[number % len(PHASES)]
        who = chance.choice(("the command line", "the server"))
        more.append(Round(number, who, phase, chance.uniform(0, PHASES[phase])))
    return few + more


@pytest.fixture(scope="module")
def house(engine_available: None) -> Iterator[House]:
    with a_house() as house:
        house.configure("jupyter_ds01", f"c.Workbench.orphan_grace = {GRACE}")
        yield house


@pytest.fixture(scope="module")
def project(house: House) -> Rebuilt:
    return a_project(house, "killed")


class Servers:
    """One server at a time, always at the same address."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._port = free_port()
        self._stack = ExitStack()
        self._now: Server | None = None

    def running(self) -> Server:
        if self._now is None or self._now.process.poll() is not None:
            self.close()
            self._now = self._stack.enter_context(self._house.server(port=self._port))
        return self._now

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def servers(house: House) -> Iterator[Servers]:
    found = Servers(house)
    yield found
    found.close()


OUTCOMES: Counter[tuple[str, str, str]] = Counter()


@pytest.fixture(scope="module", autouse=True)
def _table() -> Iterator[None]:
    yield
    if ROUNDS:
        print()
        for (who, phase, state), count in sorted(OUTCOMES.items()):
            print(f"{who:18}{phase:10}{state:6}{count:4}")


@pytest.mark.parametrize("one", rounds(), ids=str)
def test_after_a_kill_all_is_old_or_all_is_new(project: Rebuilt, servers: Servers, one: Round) -> None:
    version = f"1.{one.number + 10}"
    wheel(project.folder.path / "wheels", "tiny", version)
    server = servers.running()
    kernel = server.start_session(f"{project.name}/a.ipynb", project.kernel)
    kernel.run("kept = 1")
    before = project.dockerfile.read_text()
    container = project.container()
    known = {state["id"] for state in project.jobs()}
    if one.who.startswith("the server"):
        begin(server, project, packages=[f"tiny=={version}"])
        kill(project, one, server.process, known)
        kernel = servers.running().start_session(f"{project.name}/b.ipynb", project.kernel)
        is_new = is_all_new(project, before, version, kernel)
        only_one_kernel(project)
    else:
        with command_line(project, f"tiny=={version}") as process:
            kill(project, one, process, known)
        project.cli("container-deploy")
        kernel_agrees(project, before, kernel, container)
        is_new = is_all_new(project, before, version, kernel)
    kernel.delete()
    OUTCOMES[one.who, one.phase, "new" if is_new else "old"] += 1


def kill(project: Rebuilt, one: Round, process: subprocess.Popen[bytes], known: Collection[str]) -> None:
    await_phase(project, one.phase, known)
    time.sleep(one.delay)
    process.send_signal(signal.SIGTERM if "asked" in one.who else signal.SIGKILL)
    process.wait()


@contextmanager
def command_line(project: Rebuilt, spec: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*project.house.command, "-m", "ds01_kernels.app", "rebuild", project.name, spec, "--yes"],
        env=dict(project.house.env),
        cwd=project.house.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def is_all_new(project: Rebuilt, before: str, version: str, kernel: Kernel) -> bool:
    """Else all is old."""
    project.agree()
    text = project.dockerfile.read_text()
    installed = kernel.run(
        "try:\n    import tiny; print(tiny.__version__)\nexcept ImportError:\n    print('none')"
    )
    is_new = f'"tiny=={version}"' in text
    assert is_new or text == before
    assert (installed == f"{version}\n") == is_new
    return is_new


def kernel_agrees(project: Rebuilt, before: str, kernel: Kernel, container: str) -> None:
    """A kernel of a server that lives has its variables in the old container, or was restarted in the new."""
    if is_new := project.dockerfile.read_text() != before:
        wait_for(lambda: list(project.containers()) == [""], lambda: str(project.containers()))
        wait_for(lambda: kernel.state() == "idle", "the kernel is not back")
        assert project.container() != container
    else:
        assert {end: one["Id"] for end, one in project.containers().items()} == {"": container}
    assert kernel.run("print('kept' in globals())") == f"{not is_new}\n"


def only_one_kernel(project: Rebuilt) -> None:
    """Those of the server that was killed have ended, and their container has gone with them."""
    wait_for(lambda: list(project.containers()) == [""], lambda: str(project.containers()))
    wait_for(
        lambda: "1 kernel of project" in project.refused("container-retire"),
        lambda: project.refused("container-retire"),
    )
