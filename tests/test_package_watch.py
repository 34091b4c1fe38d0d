"""What is installed is noticed and listed by the real agent, here as a process, and in a container."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import ProjectFolder
from live import LIMIT, Site, a_kernel, a_site, docker, inspect
from packaging.markers import default_environment
from packaging.version import Version
from test_agent import Site as Place
from test_agent import run, wait_until
from test_listing import dist, report

from ds01_kernels.agent_client import Agent
from ds01_kernels.agent_requests import Identity, Limits
from ds01_kernels.engine import ContainerSpec
from ds01_kernels.engine.docker import DockerEngine
from ds01_kernels.workbench import Workbench

#: The interpreter that the agent's is a venv of.
BASE_PYTHON: str = os.environ.get("DS01_TEST_PYTHON") or sys._base_executable  # type: ignore[attr-defined]


class Listener:
    """A client of the agent that counts what it is told."""

    def __init__(self, agent: Callable[[Callable[[], None]], Agent]) -> None:
        self.told = self.heard = 0
        self.agent = agent(self._changed)

    def _changed(self) -> None:
        self.told += 1

    async def packages(self) -> dict[str, dict[str, Any]]:
        """By name."""
        listed = await self.agent.packages()
        return {package["name"]: package for package in listed["packages"]}

    async def until(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait to be told until that holds, then return the packages; nothing is asked without being told."""
        async with asyncio.timeout(LIMIT):
            while True:
                while self.told == self.heard:
                    await asyncio.sleep(0.02)
                self.heard = self.told
                if condition(found := await self.packages()):
                    return found


# The agent as a process of this machine


class PlaceWithNotes(Place):
    """It has a folder for pip's reports."""

    async def start(self) -> None:
        env = {"DS01_AGENT_FOLDER": str(self.agent_folder), "HOME": str(self.folder)}
        env["DS01_PIP_FOLDER"] = str(self.folder / "pip")
        await self.engine.create(ContainerSpec("c", "ds01/base:latest", ("sleep",), env=env))
        await self.engine.start("c")


@pytest.fixture
def place() -> Iterator[Place]:
    """Its home is empty, and its interpreter a new venv's."""
    with tempfile.TemporaryDirectory(prefix="ds01-") as root:
        made = PlaceWithNotes(Path(root))
        (made.folder / "pip").mkdir()
        subprocess.run([BASE_PYTHON, "-m", "venv", "--without-pip", str(made.folder / "venv")], check=True)
        try:
            yield made
        finally:
            made.end()


def site_packages(place: Place) -> Path:
    (folder,) = (place.folder / "venv" / "lib").glob("*/site-packages")
    return folder


@asynccontextmanager
async def listening(place: Place, name: str = "me") -> AsyncIterator[Listener]:
    python = str(place.folder / "venv" / "bin" / "python")

    def agent(on_change: Callable[[], None]) -> Agent:
        identity = Identity(name, "", 30.0)
        return Agent(place.engine, "c", identity, ("", ""), python, Limits(pause=0.05), on_change=on_change)

    listener = Listener(agent)
    await listener.agent.connect()
    # What comes from now on is a change.
    await listener.agent.packages()
    try:
        yield listener
    finally:
        await listener.agent.close()


def in_place(place: Place, work: Callable[[], Awaitable[None]]) -> None:
    run(place, work)


def test_installs_upgrades_and_uninstalls_are_told(place: Place) -> None:
    folder = site_packages(place)
    dist(folder, "image", "1")

    async def work() -> None:
        async with listening(place) as me, listening(place, "other") as other:
            assert (await me.packages())["image"]["version"] == "1"
            dist(folder, "new", "1", REQUESTED="")
            found = await me.until(lambda found: "new" in found)
            assert found["new"]["requested"] is True
            await other.until(lambda found: "new" in found)
            (folder / "new-1.dist-info" / "METADATA").unlink()
            (folder / "new-1.dist-info" / "REQUESTED").unlink()
            (folder / "new-1.dist-info").rmdir()
            dist(folder, "new", "2")
            await me.until(lambda found: found["new"]["version"] == "2")
            for file in (folder / "new-2.dist-info").iterdir():
                file.unlink()
            (folder / "new-2.dist-info").rmdir()
            await me.until(lambda found: "new" not in found)

    in_place(place, work)


def test_what_an_installer_writes_late_is_told(place: Place) -> None:
    async def work() -> None:
        async with listening(place) as me:
            info = dist(site_packages(place), "slow", "1")
            found = await me.until(lambda found: "slow" in found)
            assert not found["slow"]["requested"]
            url = {"url": "https://h/x", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
            (info / "direct_url.json").write_text(json.dumps(url))
            (info / "REQUESTED").touch()
            found = await me.until(lambda found: found["slow"]["requested"])
            assert found["slow"]["origin"]["commit"] == "abc"

    in_place(place, work)


def test_an_upgrade_that_takes_long_is_one_change(place: Place) -> None:
    async def work() -> None:
        async with listening(place) as me:
            folder = site_packages(place)
            # As pip does: the old one is renamed, and removed when the new one is there.
            dist(folder, "large", "1")
            await me.until(lambda found: "large" in found)
            (folder / "large-1.dist-info").rename(folder / "~arge-1.dist-info")
            told = me.told
            async with listening(place, "other") as other:
                while "large" in await other.packages():
                    await asyncio.sleep(0.02)
                await asyncio.sleep(2 * 0.5 + 0.4)  # looks that would tell it
                dist(folder, "large", "2")
                shutil.rmtree(folder / "~arge-1.dist-info")
                found = await me.until(lambda found: "large" in found)
            assert found["large"]["version"] == "2"
            assert me.told == told + 1

    in_place(place, work)


def test_who_asked_amid_a_reinstall_is_told_of_its_end(place: Place) -> None:
    async def work() -> None:
        folder = site_packages(place)
        info, aside = dist(folder, "again", "1"), folder / "~gain-1.dist-info"
        async with listening(place) as me:
            assert "again" in await me.packages()
            info.rename(aside)
            assert "again" not in await me.packages()
            aside.rename(info)
            await me.until(lambda found: "again" in found)

    in_place(place, work)


def test_a_folder_that_a_pth_file_adds_is_looked_at_too(place: Place) -> None:
    async def work() -> None:
        async with listening(place) as me:
            source = place.folder / "source"
            source.mkdir()
            (site_packages(place) / "mine.pth").write_text(str(source))
            (site_packages(place) / "more.txt").touch()
            dist(source, "there", "1")
            await me.until(lambda found: "there" in found)
            dist(source, "later", "1")
            await me.until(lambda found: "later" in found)
            (site_packages(place) / "mine.pth").unlink()
            await me.until(lambda found: not {"there", "later"} & found.keys())

    in_place(place, work)


def test_nothing_is_told_while_the_packages_are_the_same(place: Place) -> None:
    async def work() -> None:
        async with listening(place) as me:
            dist(site_packages(place), "one", "1")
            await me.until(lambda found: "one" in found)
            (site_packages(place) / "module.py").touch()
            (site_packages(place) / "__pycache__").mkdir()
            dist(site_packages(place), "two", "1")
            before = me.told
            await me.until(lambda found: "two" in found)
            assert me.told == before + 1

    in_place(place, work)


def test_what_was_installed_while_nobody_listened_is_told_to_who_comes(place: Place) -> None:
    async def work() -> None:
        async with listening(place):
            pid = place.agent_pid()
        dist(site_packages(place), "alone", "1")
        async with listening(place, "next") as me:
            assert place.agent_pid() == pid
            assert "alone" in await me.packages()
            await me.until(lambda found: "alone" in found)

    in_place(place, work)


def test_who_was_away_is_told_to_look(place: Place) -> None:
    async def work() -> None:
        async with listening(place) as me:
            me.agent.prepare([], first=False, env={})
            # Only with a kernel does a client come back.
            spawning = asyncio.create_task(me.agent.spawn(place.request()))
            await wait_until(lambda: len(place.relays()) == 1)
            for pid in place.relays():
                os.kill(pid, 9)
            await wait_until(lambda: me.told > 0)
            spawning.cancel()
            await asyncio.gather(spawning, return_exceptions=True)

    in_place(place, work)


def test_a_listener_that_fails_costs_nothing(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with listening(place) as me:
            me._changed = me.agent._on_change = lambda: 1 / 0  # type: ignore[assignment,method-assign]
            dist(site_packages(place), "one", "1")
            await wait_until(lambda: "was not taken in" in caplog.text)
            assert "one" in await me.packages()

    in_place(place, work)


def test_what_was_asked_for_is_told_with_the_packages(place: Place) -> None:
    async def work() -> None:
        async with listening(place) as me:
            me.agent.asked(["Some_Thing[b]>=1"])
            (place.folder / "pip" / "report.json").write_text(report("some-thing", "1.0", "a"))
            dist(site_packages(place), "some-thing", "1.0")
            found = (await me.until(lambda found: "some-thing" in found))["some-thing"]
            assert (found["extras"], found["spec"]) == (["a", "b"], "Some_Thing[b]>=1")
            assert not (place.folder / "pip" / "report.json").exists()
            with (place.folder / "pip" / "asked.jsonl").open("a") as file:
                file.write(json.dumps({"specs": ["some-thing~=1.0"]}) + "\n")
            await me.until(lambda found: found["some-thing"]["spec"] == "some-thing~=1.0")

    in_place(place, work)


def test_a_listing_longer_than_a_message_loses_its_tail(place: Place) -> None:
    folder = site_packages(place)
    for number in range(400):
        requires = "".join(f"Requires-Dist: {'☃' * 160}\n" for _ in range(200))
        dist(folder, f"n{number}", "1", metadata=f"Name: n{number}\nVersion: 1\n{requires}")

    async def work() -> None:
        async with listening(place) as me:
            listed = await me.agent.packages()
            assert 0 < len(listed["packages"]) < 400
            assert "too much" in listed["broken"][-1]["reason"]

    in_place(place, work)


def test_the_message_says_which_interpreter_it_is(place: Place) -> None:
    async def work() -> None:
        async with listening(place) as me:
            listed = await me.agent.packages()
            assert listed["python"] == str(place.folder / "venv" / "bin" / "python")
            mine = dict(default_environment())
            ask = [listed["python"], "-c", "import platform; print(platform.python_version())"]
            version = subprocess.check_output(ask, text=True).strip()
            assert listed["markers"].keys() == mine.keys()
            assert listed["markers"]["python_full_version"] == version
            if version == mine["python_full_version"]:
                assert listed["markers"] == mine

    in_place(place, work)


# In a container


@pytest.fixture(scope="module")
def site(engine_available: None) -> Iterator[Site]:
    with a_site() as made:
        yield made


def wheel(folder: Path, name: str, version: str, *lines: str) -> Path:
    """A wheel whose metadata has these lines too."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    texts = {
        f"{name}.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": "\n".join(
            ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, ""]
        ),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    texts[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*texts, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in texts.items():
            archive.writestr(file, text)
    return path


def shell(project: ProjectFolder, command: str, *, user: str = "") -> str:
    """What a command in the project's container prints on standard output, as with ``docker exec``."""
    with docker() as client:
        started = client.exec_create(project.container, ["/bin/sh", "-c", command], user=user)
        out, err = client.exec_start(started["Id"], demux=True)
        assert client.exec_inspect(started["Id"])["ExitCode"] == 0, (out, err)
    return (out or b"").decode()


PIP = "pip --disable-pip-version-check --quiet --no-cache-dir"
FROM_WHEELS = "--no-index --find-links /workspace/wheels"
TREES = {
    "legacy/setup.py": 'from setuptools import setup\nsetup(name="legacy", version="1.0", py_modules=[])\n',
    "modern/pyproject.toml": """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "modern"
version = "1.0"
[tool.setuptools]
py-modules = []
""",
}
SERVE = """\
python -m http.server --bind 127.0.0.1 --directory /workspace/wheels 8123 >/dev/null 2>&1 &
python - <<'END'
import socket, time
for _ in range(1000):
    try:
        socket.create_connection(("127.0.0.1", 8123))
        break
    except OSError:
        time.sleep(0.05)
END
"""


@pytest.mark.engine
def test_every_way_to_install_in_a_container(site: Site, ipykernel_image: str) -> None:
    project = site.project("packages", dockerfile=f"FROM {ipykernel_image}\n")
    wheels = project.path / "wheels"
    for name in ("magic", "bang", "terminal", "byurl", "byvcs", "root"):
        wheel(wheels, name, "1.0", "Provides-Extra: x", "Provides-Extra: y")
    wheel(wheels, "magic", "2.0", "Requires-Dist: needed (>=1)")
    wheel(wheels, "needed", "1.0")
    with a_kernel(f"ds01-{project.name}", cwd=str(project.path)) as kernel:

        async def work() -> None:
            async with listening_in(project) as me:
                await by_cells(kernel.run, me)
                await by_others(project, me)
                await editable(project, me)
                await agrees(project, me)
                await undone(project, me)
                await agrees(project, me)

        until_done(work)
    environment = dict(entry.split("=", 1) for entry in inspect(project)["Config"]["Env"])
    assert environment["PIP_REPORT"] == "/opt/ds01/pip/report.json"
    assert shell(project, "stat -c %a /opt/ds01/pip /opt/ds01/pip/report.json").split() == ["777", "666"]


async def by_cells(cell: Callable[[str], str], me: Listener) -> None:
    run_cell = asyncio.to_thread
    await run_cell(cell, f"%pip install --quiet {FROM_WHEELS} magic[x]==1.0")
    found = await me.until(lambda found: "magic" in found and found["magic"]["requested"])
    assert (found["magic"]["version"], found["magic"]["extras"]) == ("1.0", ["x"])
    assert (found["magic"]["installer"], found["magic"]["origin"]["kind"]) == ("pip", "index")
    await run_cell(cell, f"!{PIP} install {FROM_WHEELS} bang[y,x]")
    found = await me.until(lambda found: "bang" in found and found["bang"]["requested"])
    assert found["bang"]["extras"] == ["x", "y"]
    await run_cell(cell, f"%pip install --quiet {FROM_WHEELS} --upgrade magic")
    found = await me.until(lambda found: found["magic"]["version"] == "2.0" and "needed" in found)
    assert (found["magic"]["requested"], found["needed"]["requested"]) == (True, False)
    assert found["magic"]["requires"] == ["needed (>=1)"]
    assert found["magic"]["extras"] == ["x"], "they are still there"


async def by_others(project: ProjectFolder, me: Listener) -> None:
    def installs(arguments: str, user: str = "", before: str = "") -> Awaitable[str]:
        return asyncio.to_thread(shell, project, f"{before}{PIP} install {arguments}", user=user)

    await installs(f"{FROM_WHEELS} root", user="0")
    await me.until(lambda found: "root" in found and found["root"]["requested"])
    await installs(f"{FROM_WHEELS} terminal")
    await me.until(lambda found: "terminal" in found and found["terminal"]["requested"])
    await installs("http://127.0.0.1:8123/byurl-1.0-py3-none-any.whl", before=SERVE)
    found = await me.until(lambda found: "byurl" in found and found["byurl"]["requested"])
    assert found["byurl"]["origin"]["kind"] == "url"
    assert found["byurl"]["origin"]["url"] == "http://127.0.0.1:8123/byurl-1.0-py3-none-any.whl"
    await installs("/workspace/wheels/byvcs-1.0-py3-none-any.whl")
    found = await me.until(lambda found: "byvcs" in found and found["byvcs"]["requested"])
    assert found["byvcs"]["origin"]["kind"] == "local"
    # Debian's base has no git: what pip writes after it.
    url = json.dumps({"url": "https://h/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}})
    write = f"""cd {found["byvcs"]["location"]}/byvcs-1.0.dist-info
        echo '{url}' > new && mv new direct_url.json"""
    await asyncio.to_thread(shell, project, write)
    found = await me.until(lambda found: found["byvcs"]["origin"]["kind"] == "vcs")
    assert (found["byvcs"]["origin"]["url"], found["byvcs"]["origin"]["commit"]) == (
        "git+https://h/x.git",
        "abc",
    )


async def editable(project: ProjectFolder, me: Listener) -> None:
    for file, text in TREES.items():
        (project.path / file).parent.mkdir()
        (project.path / file).write_text(text)
    for name in ("legacy", "modern"):
        command = f"cd /workspace && {PIP} install --no-index --no-build-isolation -e ./{name} 2>&1"
        await asyncio.to_thread(shell, project, command)
        found = await me.until(lambda found, name=name: name in found)  # type: ignore[misc]
        origin = found[name]["origin"]
        assert (origin["kind"], origin["url"]) == ("editable", f"file:///workspace/{name}")


async def undone(project: ProjectFolder, me: Listener) -> None:
    for name in ("magic", "legacy", "modern"):
        await asyncio.to_thread(shell, project, f"{PIP} uninstall --yes {name} 2>&1")
        await me.until(lambda found, name=name: name not in found)  # type: ignore[misc]


async def agrees(project: ProjectFolder, me: Listener) -> None:
    pips = json.loads(await asyncio.to_thread(shell, project, "pip list --format=json"))
    ours = await me.packages()
    assert {name: str(Version(package["version"])) for name, package in ours.items()} == {
        one["name"]: one["version"] for one in pips
    }


@asynccontextmanager
async def listening_in(project: ProjectFolder) -> AsyncIterator[Listener]:
    engine = DockerEngine()
    info = await engine.container(project.container)
    assert info is not None

    def agent(on_change: Callable[[], None]) -> Agent:
        return Agent(
            engine, info.id, Identity("listener", "", 0.0), ("", ""), "/usr/bin/python", on_change=on_change
        )

    listener = Listener(agent)
    try:
        await listener.agent.connect()
        yield listener
    finally:
        await listener.agent.close()
        await engine.close()


def until_done(work: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(240):
            await work()

    asyncio.run(whole())


_APT = """\
FROM ds01/base:latest
RUN mkdir -p /usr/lib/python3/dist-packages/afolder-1.2.egg-info \\
 && printf 'Metadata-Version: 2.1\\nName: afolder\\nVersion: 1.2\\n' \\
    > /usr/lib/python3/dist-packages/afolder-1.2.egg-info/PKG-INFO \\
 && printf 'Metadata-Version: 1.1\\nName: a_file\\nVersion: 0.6.1\\n' \\
    > /usr/lib/python3/dist-packages/a_file-0.6.1.egg-info \\
 && mkdir -p /usr/local/lib/python3.11/dist-packages/wheel-9.0.dist-info /srv/more \\
 && printf 'Metadata-Version: 2.1\\nName: wheel\\nVersion: 9.0\\n' \\
    > /usr/local/lib/python3.11/dist-packages/wheel-9.0.dist-info/METADATA \\
 && cp -r /usr/lib/python3/dist-packages/afolder-1.2.egg-info /srv/more/added-1.2.egg-info \\
 && sed -i s/afolder/added/ /srv/more/added-1.2.egg-info/PKG-INFO \\
 && echo /srv/more > /usr/local/lib/python3.11/dist-packages/added.pth
ENV PYTHONPATH=/srv/inherited
RUN mkdir -p /srv/inherited && cp -r /srv/more/added-1.2.egg-info /srv/inherited/inherited-1.egg-info \\
 && sed -i s/added/inherited/ /srv/inherited/inherited-1.egg-info/PKG-INFO
"""


@pytest.mark.engine
def test_it_agrees_with_pip_on_what_debian_and_paths_bring(site: Site) -> None:
    project = site.project("debian", dockerfile=_APT)
    workbench = Workbench.open()
    workbench.call(workbench.launcher.deploy(workbench.projects().get(project.name)))
    wheel(project.path / "wheels", "mine", "1.0")

    async def work() -> None:
        async with listening_in(project) as me:
            await agrees(project, me)
            found = await me.packages()
            assert found["wheel"]["version"] == "9.0", "the first on the path wins"
            assert {"afolder", "a_file", "added", "inherited", "pip"} <= found.keys()
            await asyncio.to_thread(shell, project, f"{PIP} install --user {FROM_WHEELS} mine 2>&1")
            found = await me.until(lambda found: "mine" in found)
            assert "/.local/lib/" in found["mine"]["location"]
            await agrees(project, me)

    until_done(work)
