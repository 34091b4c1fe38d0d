"""Every cause for which a kernel does not start, or ended: what the first cell of a real session says.

``docs/causes.md`` is made of what is seen here: ``DS01_WRITE_DOCS=1 pytest tests/test_causes.py`` writes it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from causes import ENDED, ON_SWARM, PAGE, page, row_of
from conftest import FROM_BASE, ProjectFolder, with_engine
from engine_proxy import EngineProxy
from servers import House, Kernel, Outcome, Server, a_house, started_again

from ds01_kernels.agent import memory
from ds01_kernels.connection import run_root
from ds01_kernels.engine.docker_connection import connect

pytestmark = pytest.mark.engine

#: By cause: what was said, and what to do about it, as the page has them.
SEEN: dict[str, tuple[str, str]] = {}

CELL = "print(6 * 7)"
MEMORY = "300m"


@dataclass(frozen=True)
class Place:
    """A server with its workspace, and the way by which it reaches the engine.

    `small` is a folder of the server's with little room; None where only root could make one.
    """

    house: House
    server: Server
    proxy: EngineProxy | None = None
    small: Path | None = None


@pytest.fixture(scope="module")
def place(engine_available: None) -> Iterator[Place]:
    with a_house() as house, house.server() as server:
        yield Place(house, server)


@pytest.fixture(scope="module")
def shaky(engine_available: None) -> Iterator[Place]:
    """A server whose engine, package index and disk fail when they are told to."""
    with a_house() as house, ExitStack() as stack:
        engine = house.root / "engine.sock"
        proxy = EngineProxy(engine)
        stack.callback(proxy.close)
        env = {
            "DOCKER_HOST": f"unix://{engine}",
            "XDG_DATA_HOME": str(house.root / "share"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
            "PIP_RETRIES": "1",
            "NO_PROXY": "127.0.0.1",
        }
        small, command = None, house.command
        if os.getuid() == 0:
            small = stack.enter_context(little_room(house.root / "small"))
            env |= {"XDG_DATA_HOME": str(small), "XDG_RUNTIME_DIR": str(small)}
            command = (*_ELSEWHERE, str(run_root()), *_MODES_COUNT, *command)
        house.configure("jupyter_ds01", "c.Workbench.orphan_grace = 1")
        own = House(house.root, {**house.env, **env}, command)
        with own.server() as server:
            yield Place(own, server, proxy, small)


@contextmanager
def little_room(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


#: In a mount namespace where the usual place for sockets is no private one, so that the next is taken.
_ELSEWHERE = (
    *("unshare", "--mount", "sh", "-c"),
    'mount -t tmpfs -o mode=755 none "$0" && exec "$@"',
)
#: Root without the right to pass over the modes of files.
_CAPABILITIES = "-dac_override,-dac_read_search"
_MODES_COUNT = ("setpriv", f"--bounding-set={_CAPABILITIES}", f"--inh-caps={_CAPABILITIES}")


# When it cannot start


@dataclass(frozen=True)
class Broken:
    """`prepare` makes a project for which no kernel can start; `says` and `do` are parts of what it says.

    `last`: what stands between both, of a build's output. `varies`: what the page has where not every machine
    says the same.
    """

    cause: str
    prepare: Callable[[Place], ProjectFolder]
    says: str
    do: str
    last: str = ""
    varies: str = ""


def unbuilt(text: str) -> Callable[[Place], ProjectFolder]:
    return lambda place: place.house.folder("thesis", FROM_BASE + text)


def with_settings(text: str) -> Callable[[Place], ProjectFolder]:
    def prepare(place: Place) -> ProjectFolder:
        project = place.house.folder("thesis")
        (project.path / "pyproject.toml").write_text(f"[tool.ds01]\n{text}\n")
        return project

    return prepare


def with_gpu(place: Place) -> ProjectFolder:
    if "gpus" not in with_engine(lambda engine: engine.info()).cannot:
        pytest.skip("this engine has GPUs")
    return with_settings("gpus = 1")(place)


def without_dockerfile(place: Place) -> ProjectFolder:
    project = place.house.folder("thesis")
    done = place.house.ds01("kernelspec", "install", project.name)
    assert done.returncode == 0, done
    (project.path / "Dockerfile").unlink()
    return project


#: An interpreter that says it is of another version.
_PRETENDS = (
    "RUN rm -f /etc/python3*/sitecustomize.py /usr/lib/python3*/sitecustomize.py &&"
    " printf 'import collections, sys\\n"
    'names = "major minor micro releaselevel serial"\\n'
    'sys.version_info = collections.namedtuple("version_info", names)({}, {}, 0, "final", 0)\\n\''
    " > /usr/lib/python3/dist-packages/sitecustomize.py\n"
)
_EXITS = "RUN cd /usr/bin && rm python && printf '#!/bin/sh\\nexit 3\\n' > python && chmod +x python\n"

BROKEN = (
    Broken("no Dockerfile", without_dockerfile, "it has no Dockerfile", "jupyter ds01 init"),
    Broken(
        "error in the Dockerfile", unbuilt("RUNN pip install x\n"), "`RUNN pip install x`", "Correct line 2"
    ),
    Broken(
        "the build fails",
        unbuilt("RUN echo the last words && exit 3\n"),
        "line 2 of the Dockerfile",
        "Correct line 2",
        last="the last words",
    ),
    Broken(
        "no Python in the image",
        unbuilt("RUN rm -f /usr/bin/python*\n"),
        "There is no Python",
        "apt-get install -y python3",
    ),
    Broken(
        "a Python that is too old", unbuilt(_PRETENDS.format(3, 7)), "Python version '3.7'", "a newer one"
    ),
    Broken(
        "the container exits at once",
        unbuilt(_EXITS),
        "ended as soon as it was started",
        "what the Dockerfile",
    ),
    Broken(
        "not enough memory to start",
        with_settings('memory = "12m"'),
        "memory",
        "`memory` in [tool.ds01]",
        varies="The container thesis._.1000 ran out of memory before a kernel could start in it.",
    ),
    Broken("no GPU for containers", with_gpu, "cannot give GPUs", "NVIDIA Container Toolkit"),
)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.cause)
def test_the_cell_says_why_no_kernel_starts(place: Place, broken: Broken) -> None:
    project = broken.prepare(place)
    explains(place, project, broken)


@pytest.mark.parametrize("broken", [BROKEN[2], BROKEN[-1]], ids=lambda broken: broken.cause)
def test_without_a_server_the_first_cell_says_it(place: Place, broken: Broken) -> None:
    project = broken.prepare(place)
    installed = place.house.ds01("kernelspec", "install", project.name)
    assert installed.returncode == 0, installed
    done = place.house.run("-c", HEADLESS, f"ds01-{project.name}", str(project.path))
    assert done.returncode == 1
    for part in (broken.says, broken.last, broken.do):
        assert part in done.stderr


HEADLESS = f"""
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell({CELL!r})])
resources = {{"metadata": {{"path": sys.argv[2]}}}}
NotebookClient(notebook, kernel_name=sys.argv[1], resources=resources, timeout=90).execute()
"""


def test_an_image_that_is_not_built_is_built_by_the_first_cell_and_not_before(place: Place) -> None:
    project = place.house.folder("thesis", FROM_BASE + "RUN echo a step of the build\n")

    def is_built() -> bool:
        return with_engine(lambda engine: engine.image(project.image)) is not None

    kernel = place.server.start_session(f"{project.name}/a.ipynb", "python3")
    with kernel.connected():
        # As a notebook does that is opened, and VS Code.
        kernel.outcome(kernel.send("execute_request", code="1", silent=True, store_history=False))
        assert not is_built()
        cell = kernel.execute(CELL)
    assert is_built()
    first, *rest = cell.text.splitlines()
    assert any("a step of the build" in line for line in rest)
    assert (cell.status, rest[-1]) == ("ok", "42")
    assert "Wait for it" in first
    says, _, do = first.partition(". ")
    SEEN["the image is not built yet"] = (plain(place, project, f"{says}."), do)
    kernel.delete()


def explains(place: Place, project: ProjectFolder, broken: Broken) -> None:
    kernel = place.server.start_session(f"{project.name}/a.ipynb", f"ds01-{project.name}")
    with kernel.connected():
        cell = kernel.execute(CELL)
        again = kernel.execute(CELL)
    kernel.delete()
    learn(place, project, broken, cell)
    assert again.traceback, "only the first cell is told"
    assert "Traceback" not in place.server.said()


def learn(place: Place, project: ProjectFolder, broken: Broken, cell: Outcome) -> None:
    assert cell.status == "error", cell
    assert len(cell.traceback) > 1, f"nothing is said to be done: {cell.traceback}"
    sentence, *between, remedy = cell.traceback
    assert broken.says in sentence
    assert broken.do in remedy
    assert broken.last in "\n".join(between)
    shown = " The last lines of its output follow." if broken.last else ""
    said = broken.varies or plain(place, project, sentence) + shown
    SEEN[broken.cause] = (said, plain(place, project, remedy))


# When the engine, the disk or the network is at fault


def test_the_engine_does_not_run(shaky: Place) -> None:
    assert shaky.proxy is not None
    shaky.proxy.close()
    try:
        broken = Broken(
            "the engine does not run", unbuilt(""), "Docker is not running", "systemctl start docker"
        )
        explains(shaky, broken.prepare(shaky), broken)
    finally:
        shaky.proxy.open()


def test_the_engine_may_not_be_used(shaky: Place) -> None:
    assert shaky.proxy is not None
    shaky.proxy.close()
    shaky.proxy.open()
    (shaky.house.root / "engine.sock").chmod(0)
    try:
        broken = Broken("no right to use the engine", unbuilt(""), "permission denied", "`docker` group")
        explains(shaky, broken.prepare(shaky), broken)
    finally:
        shaky.proxy.close()
        shaky.proxy.open()


def test_a_rule_forbids_the_container(shaky: Place, ipykernel_image: str) -> None:
    assert shaky.proxy is not None
    project = shaky.house.project("thesis", ipykernel_image)
    shaky.proxy.refuse("/containers/create", 403, "authorization denied by plugin")
    try:
        broken = Broken("a rule forbids it", unbuilt(""), "You may not use Docker for this", "administrator")
        explains(shaky, project, broken)
    finally:
        shaky.proxy.refuse_nothing()


def test_the_engines_disk_is_full(shaky: Place, ipykernel_image: str) -> None:
    assert shaky.proxy is not None
    project = shaky.house.project("thesis", ipykernel_image)
    shaky.proxy.refuse("/containers/create", 500, "mkdir /var/lib/docker/overlay2/x: no space left on device")
    try:
        broken = Broken(
            "the engine's disk is full", unbuilt(""), "no space left on device", "docker image prune"
        )
        explains(shaky, project, broken)
    finally:
        shaky.proxy.refuse_nothing()


def test_there_is_no_ipykernel_to_be_had(shaky: Place) -> None:
    # One that the server's own ipykernel does not fit.
    version = (3, 12) if sys.version_info[:2] != (3, 12) else (3, 13)
    broken = Broken(
        "ipykernel cannot be fetched",
        unbuilt(_PRETENDS.format(*version)),
        "the package index did not answer",
        "Add `ipykernel` to the project's Dockerfile",
    )
    explains(shaky, broken.prepare(shaky), broken)


def test_there_is_no_room_for_ipykernel(shaky: Place) -> None:
    if shaky.small is None:
        pytest.skip("only root may mount a small file system")
    broken = Broken("no room for ipykernel", unbuilt(""), "No space left on device", "Make room there")
    explains(shaky, broken.prepare(shaky), broken)


def test_there_is_no_room_for_sockets(shaky: Place, ipykernel_image: str) -> None:
    if shaky.small is None:
        pytest.skip("only root may mount a small file system")
    project = shaky.house.project("thesis", ipykernel_image)
    filled = shaky.small / "filled"
    with suppress(OSError), filled.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    try:
        broken = Broken("no room for sockets", unbuilt(""), "there is no room in", "Free some space")
        explains(shaky, project, broken)
    finally:
        filled.unlink()


# When it has ended


@dataclass(frozen=True)
class Death:
    """`end` lets a kernel end; `says` and `do` are parts of what the next one says."""

    cause: str
    end: Callable[[ProjectFolder, Kernel], None]
    says: str
    do: str


def by_cell(code: str) -> Callable[[ProjectFolder, Kernel], None]:
    def end(_: ProjectFolder, kernel: Kernel) -> None:
        kernel.send("execute_request", code=code, silent=False)

    return end


def by_engine(call: str, **arguments: object) -> Callable[[ProjectFolder, Kernel], None]:
    def end(project: ProjectFolder, _: Kernel) -> None:
        client = connect(60.0)
        try:
            getattr(client, call)(project.container, **arguments)
        finally:
            client.close()

    return end


_KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
_KILL_AGENT = """
import os, signal
for entry in os.listdir('/proc'):
    if entry.isdigit() and b'# ds01 agent' in open(f'/proc/{entry}/cmdline', 'rb').read():
        os.kill(int(entry), signal.SIGKILL)
"""

DEATHS = (
    Death(
        "out of memory",
        by_cell("much = bytearray(1 << 30)"),
        "the container ran out of memory (limit 300 MB)",
        "Use less memory",
    ),
    Death("killed by a signal", by_cell(_KILL), "was killed by signal SIGKILL", "Nothing shows who"),
    Death(
        "a crash",
        by_cell("import ctypes; ctypes.string_at(0)"),
        "crashed (signal SIGSEGV)",
        "compiled package",
    ),
    Death("ended by its own code", by_cell("import os; os._exit(7)"), "exit code 7", "os._exit()"),
    Death("`exit()` in a cell", by_cell("exit()"), "exit code 0", "exit()"),
    Death("the agent was killed", by_cell(_KILL_AGENT), "the agent", "ask who did it"),
    Death(
        "the container was stopped", by_engine("stop", timeout=0), "container was stopped.", "ask who did it"
    ),
    Death(
        "the container was restarted",
        by_engine("restart", timeout=0),
        "stopped and started again",
        "ask who did it",
    ),
    Death(
        "the container was removed",
        by_engine("remove_container", force=True),
        "the container was removed",
        "not in the Dockerfile",
    ),
)


@pytest.fixture(scope="module")
def mortal(place: Place, ipykernel_image: str) -> ProjectFolder:
    project = place.house.project("thesis", ipykernel_image)
    (project.path / "pyproject.toml").write_text(f"[tool.ds01]\nmemory = {MEMORY!r}\n")
    return project


@pytest.fixture
def kernel(place: Place, mortal: ProjectFolder) -> Iterator[Kernel]:
    kernel = place.server.start_session(f"{mortal.name}/a.ipynb", "python3")
    with kernel.connected():
        kernel.run("x = 1")
        yield kernel
    place.server.request("DELETE", kernel.path)


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: death.cause)
def test_the_next_kernel_says_what_became_of_the_last(
    place: Place, mortal: ProjectFolder, kernel: Kernel, death: Death
) -> None:
    death.end(mortal, kernel)
    started_again(kernel)
    first, second = kernel.execute("x"), kernel.execute(CELL)
    assert first.error == "NameError", f"it is the same kernel: {first}"
    assert (second.text, second.shown) == ("42\n", "")
    sentence, ended, remedy = first.shown.partition(ENDED)
    assert "\n" not in first.shown
    assert death.says in sentence
    assert death.do in remedy
    SEEN[death.cause] = (plain(place, mortal, sentence + ended), plain(place, mortal, remedy.strip()))


def test_a_restart_that_was_asked_for_says_nothing(kernel: Kernel) -> None:
    kernel.restart()
    assert kernel.execute(CELL).shown == ""
    kernel.send("execute_request", code="while True: pass", silent=False)
    kernel.restart()
    assert kernel.execute(CELL).shown == ""


def test_what_no_cell_has_said_is_said_after_one_more_restart(kernel: Kernel) -> None:
    by_cell(_KILL)(ProjectFolder("", Path(), "", ""), kernel)
    started_again(kernel)
    # What clients run for themselves is no cell.
    hidden = kernel.send("execute_request", code=CELL, silent=False, store_history=False)
    assert kernel.outcome(hidden).shown == ""
    kernel.restart()
    assert "SIGKILL" in kernel.execute(CELL).shown
    kernel.restart()
    assert kernel.execute(CELL).shown == ""


def test_where_no_kernel_starts_again_the_end_of_the_last_is_said_with_the_reason(
    place: Place, ipykernel_image: str
) -> None:
    project = place.house.project("thesis", ipykernel_image)
    kernel = place.server.start_session(f"{project.name}/a.ipynb", f"ds01-{project.name}")
    with kernel.connected():
        kernel.run("x = 1")
        (project.path / "Dockerfile").rename(project.path / "away")
        by_cell(_KILL)(project, kernel)
        started_again(kernel)
        first, second = kernel.execute("x"), kernel.execute("x")
        for cell in (first, second):
            assert "it has no Dockerfile" in cell.traceback[0]
        assert "was killed by signal SIGKILL" in first.shown
        assert second.shown == ""
        (project.path / "away").rename(project.path / "Dockerfile")
        kernel.restart()
        assert kernel.execute(CELL) == Outcome("ok", "42\n")
    kernel.delete()


def test_the_connection_is_lost_for_longer_than_the_grace_time(shaky: Place, ipykernel_image: str) -> None:
    assert shaky.proxy is not None
    project = shaky.house.project("thesis", ipykernel_image)
    # To whoever starts a container itself the agent comes past the engine.
    assert shaky.house.ds01("container-deploy", project.name).returncode == 0
    kernel = shaky.server.start_session(f"{project.name}/a.ipynb", f"ds01-{project.name}")
    with kernel.connected():
        kernel.run("x = 1")
        shaky.proxy.close()
        try:
            started_again(kernel)
            cell = kernel.execute(CELL)
        finally:
            shaky.proxy.open()
        assert "Docker is not running" in cell.traceback[0]
        sentence, ended, remedy = cell.shown.partition(ENDED)
        assert "the connection to the container was lost" in sentence
        SEEN["the connection was lost"] = (sentence + ended, remedy.strip())
        kernel.restart()
        assert kernel.execute(CELL) == Outcome("ok", "42\n")
    kernel.delete()


# What tells an OOM kill from others


def as_version_1(root: Path, kills: int, hits: int, limit: int) -> None:
    folder = root / "memory"
    folder.mkdir(exist_ok=True)
    (folder / "memory.oom_control").write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n")
    (folder / "memory.failcnt").write_text(f"{hits}\n")
    (folder / "memory.limit_in_bytes").write_text(f"{limit or 0x7FFFFFFFFFFFF000}\n")


def as_version_2(root: Path, kills: int, hits: int, limit: int) -> None:
    (root / "memory.events").write_text(f"low 0\nhigh 0\nmax {hits}\noom {hits}\noom_kill {kills}\n")
    (root / "memory.max").write_text(f"{limit or 'max'}\n")


every_version = pytest.mark.parametrize(
    ("write", "groups"),
    [
        (as_version_1, "9:cpu:/docker/x\n4:memory:/docker/x\n0::/docker/x\n"),
        (as_version_1, "4:cpu,memory:/\n"),
        (as_version_2, "0::/\n"),
        (as_version_2, "0::/../system.slice\n"),
    ],
)


@every_version
def test_memory_in_use_is_without_the_cache_of_files(
    tmp_path: Path, write: Callable[[Path, int, int, int], None], groups: str
) -> None:
    (tmp_path / "cgroup").write_text(groups)
    watch = memory.Watch(str(tmp_path), str(tmp_path / "cgroup"))
    assert watch.used() is None
    write(tmp_path, 0, 0, 0)
    if write is as_version_1:
        (tmp_path / "memory" / "memory.usage_in_bytes").write_text("5000\n")
        (tmp_path / "memory" / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 800\n")
    else:
        (tmp_path / "memory.current").write_text("5000\n")
        (tmp_path / "memory.stat").write_text("anon 4000\ninactive_file 800\n")
    assert watch.used() == 4200


@every_version
def test_one_kill_that_was_counted_explains_one_process(
    tmp_path: Path, write: Callable[[Path, int, int, int], None], groups: str
) -> None:
    (tmp_path / "cgroup").write_text(groups)
    write(tmp_path, 1, 5, 1 << 20)
    watch = memory.Watch(str(tmp_path), str(tmp_path / "cgroup"))
    assert watch.blame() == ("", 0)
    write(tmp_path, 3, 9, 1 << 20)
    # A large process ends long after it was killed.
    watch.look()
    assert [watch.blame() for _ in range(3)] == [(memory.LIMIT, 1 << 20)] * 2 + [("", 0)]
    watch.look()
    watch.look()
    write(tmp_path, 4, 9, 1 << 20)
    assert watch.blame() == (memory.ELSEWHERE, 0), "its own limit was not in the way"
    write(tmp_path, 5, 10, 0)
    assert watch.blame() == (memory.ELSEWHERE, 0), "it has no limit"
    watch.look()
    watch.look()
    if write is as_version_1:
        write(tmp_path, 6, 10, 1 << 20)
        (tmp_path / "memory" / "memory.max_usage_in_bytes").write_text(f"{1 << 20}\n")
        assert watch.blame() == (memory.LIMIT, 1 << 20), "all that is allowed was in use"
    write(tmp_path, 7, 11, 1 << 20)
    watch.look()
    watch.look()
    assert watch.blame() == ("", 0), "that was another process, long ago"


def test_without_counters_nothing_is_said_of_memory(tmp_path: Path) -> None:
    watch = memory.Watch(str(tmp_path), str(tmp_path / "cgroup"))
    watch.look()
    assert watch.blame() == ("", 0)


# The page


def plain(place: Place, project: ProjectFolder, text: str) -> str:
    """Without what is of this machine, and without the engine's and pip's own words."""
    house = place.house
    small = str(place.small or house.root / "share")
    for name, general in {
        project.name: "thesis",
        f"{house.root}/engine.sock": "/var/run/docker.sock",
        f"{small}/ds01-kernels/ipykernel": "~/.local/share/ds01-kernels/ipykernel",
        f"{small}/ds01-kernels": "/tmp/ds01-kernels-1000",
        str(house.workspace): "~/workspace",
    }.items():
        text = text.replace(name, general)
    text = re.sub(r"thesis\._\.[0-9]+", "thesis._.1000", text)
    text = re.sub(r"(cannot be built: ).*( Line [0-9]+ is)", r"\1….\2", text)
    return re.sub(r"(pip says: ).*", r"\1….", text)


def test_the_page_has_what_was_seen(shaky: Place) -> None:
    is_complete = len(SEEN) == len(BROKEN) + len(DEATHS) + 7 + (2 if shaky.small else 0)
    if os.environ.get("DS01_WRITE_DOCS"):
        assert is_complete, "only a run of the whole module can write it"
        assert shaky.small, "only root can write it"
        PAGE.write_text(page({**SEEN, **ON_SWARM}), encoding="utf-8")
    written = PAGE.read_text(encoding="utf-8")
    missing = {cause for cause, row in {**SEEN, **ON_SWARM}.items() if row_of(cause, *row) not in written}
    assert not missing, "DS01_WRITE_DOCS=1 pytest tests/test_causes.py brings the page up to date"
    if is_complete and shaky.small:
        assert written == page({**SEEN, **ON_SWARM})
