"""Bad input through every door that a user has: the list, the status, the doctor, a kernel, and REST.

One server on one workspace, in which hardly a folder is as it should be.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import FROM_BASE
from servers import House, Kernel, Server, a_house, check, wait_for

from ds01_kernels.errors import BadInputError
from ds01_kernels.project_files import LIMIT, read_text
from ds01_kernels.projects import Project

SECRET = "-----BEGIN OPENSSH PRIVATE KEY----- nobody may read this"

#: What a terminal would act on: a title, the clipboard, the cursor, C1, a bell, a direction override.
EVIL = "\x1b]0;owned\x07\x1b]52;c;ZXZpbA==\x07\x1b[2J\x1b[1;1H\x9b31m\x07\u202egnol"
PRINTS_EVIL = "printf '\\033]0;owned\\007\\033[2J\\033[1;1H\\033[31mred\\033[0m\\a\\n'"


def harmless(text: str) -> bool:
    """Whether there is nothing in it that a terminal acts on, but colours and new lines."""
    plain = text.replace("\x1b[31m", "").replace("\x1b[0m", "").replace("\n", "").replace("\t", "")
    return plain.isprintable()


# Folders


@dataclass(frozen=True)
class Bad:
    """`make` gets the folder, which is there. Every door tells `says`, with `later` those that build."""

    name: str
    make: Callable[[Path], object]
    says: str
    later: bool = False

    @property
    def shown(self) -> str:
        return self.name if self.name.isprintable() else repr(self.name)[1:-1]


def write(content: bytes | str) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / "Dockerfile").write_bytes(data)


def link(target: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "Dockerfile").symlink_to(target)


def with_settings(text: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        write(FROM_BASE)(folder)
        (folder / "pyproject.toml").write_text(text)

    return make


def linked_settings(folder: Path) -> None:
    write(FROM_BASE)(folder)
    (folder / "pyproject.toml").symlink_to(Path("~/.ssh/id_rsa").expanduser())


good = write(FROM_BASE)

DOCKERFILES = (
    Bad("empty", write(" \n\t\n"), "is empty", later=True),
    Bad("binary", write(b"\x7fELF\0\0\xff" * 100), "is not a text file", later=True),
    Bad("latin", write("FROM é\n".encode("latin-1")), "is not a text file", later=True),
    Bad("large", write(b"#" * (10 << 20)), "is larger than 1 MiB", later=True),
    Bad("folder", lambda folder: (folder / "Dockerfile").mkdir(), "is a folder"),
    Bad("pipe", lambda folder: os.mkfifo(folder / "Dockerfile"), "is not a regular file"),
    Bad("dangling", link("nowhere"), "is a link that leads nowhere"),
    Bad("loop", link("Dockerfile"), "cannot be read"),
    Bad("secret", link("../../home/.ssh/id_rsa"), "leads out of the project"),
    Bad("device", link("/dev/zero"), "leads out of the project"),
)

NAMES = (
    Bad("a b", good, "Docker does not take the character ' '"),
    Bad("Ünï", good, "no letters beyond a to z"),
    Bad("-x", good, "does not begin and end with a letter or a digit"),
    Bad("n" * 200, good, "it has 200 characters"),
    Bad("A", good, "would share its image and its kernel with"),
    Bad("a", good, "would share its image and its kernel with"),
    Bad(f"x{EVIL}", good, "cannot be a project's name"),
)

SETTINGS = (
    Bad("unknown-key", with_settings("[tool.ds01]\nprivileged = true\n"), "privileged in"),
    Bad("forbidden-key", with_settings('[tool.ds01]\nmounts = ["/:/host"]\n'), "may not be set by a project"),
    Bad("no-number", with_settings("[tool.ds01]\ncpus = nan\n"), "cpus in"),
    Bad("tiny", with_settings("[tool.ds01]\ncpus = 1e-10\n"), "is not a number of CPUs"),
    Bad("no-table", with_settings("tool.ds01 = [1]\n"), "is not a table"),
    Bad("no-toml", with_settings("= = =\n"), "is not TOML"),
    Bad("deep", with_settings("x = " + "[" * 100_000), "is not TOML"),
    Bad("dotted", with_settings("x" + ".x" * 100_000 + " = 1\n"), "has more than 250 dots"),
    Bad("heavy", with_settings("#" * (10 << 20)), "is larger than 256 KiB"),
    Bad("evil", with_settings(f'[tool.ds01]\n"{json.dumps(EVIL)[1:-1]}" = 1\n'), "is not a setting"),
    Bad("evil-value", with_settings(f'[tool.ds01]\ngpus = "{json.dumps(EVIL)[1:-1]}"\n'), "names no GPUs"),
    Bad("no-file", lambda folder: good(folder) and (folder / "pyproject.toml").mkdir(), "is not a regular"),
    Bad("linked", linked_settings, "leads out of the project"),
)

ALL = (*DOCKERFILES, *NAMES, *SETTINGS)
every_bad = pytest.mark.parametrize("bad", ALL, ids=lambda bad: bad.shown[:30])


@pytest.fixture(scope="module")
def house(engine_available: None) -> Iterator[House]:
    with a_house() as house:
        home = house.root / "home"
        (home / ".ssh").mkdir(parents=True)
        (home / ".ssh" / "id_rsa").write_text(SECRET)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", str(home))
            for bad in ALL:
                (house.workspace / bad.name).mkdir()
                bad.make(house.workspace / bad.name)
        yield house


@pytest.fixture(scope="module")
def server(house: House) -> Iterator[Server]:
    with house.server() as server:
        yield server
        assert SECRET not in server.said()


@pytest.mark.engine
def test_the_list_shows_every_folder_and_what_is_wrong(house: House, server: Server) -> None:
    listed = server.get("ds01/projects")
    for project in listed:
        check("Project", project)
    errors = {project["name"]: project["error"] for project in listed}
    assert set(errors) == {bad.shown for bad in ALL}
    for bad in (*DOCKERFILES, *NAMES):
        assert bad.later or bad.says in errors[bad.shown]
    # A path is what it is; what is made of it for people is not.
    shown = [{**project, "path": "", "contents_path": ""} for project in listed]
    assert harmless(json.dumps(shown, ensure_ascii=False))
    assert SECRET not in json.dumps(listed)

    done = house.ds01("list")
    assert done.returncode == 0
    assert harmless(done.stdout)
    assert harmless(done.stderr)
    assert SECRET not in done.stdout + done.stderr
    assert all(bad.shown in done.stdout for bad in ALL)


@pytest.mark.engine
@every_bad
def test_status_and_doctor_over_rest(server: Server, bad: Bad) -> None:
    path = f"ds01/projects/{quote(bad.name, safe='')}"
    answer = server.request("GET", path)
    if bad in DOCKERFILES and bad.later:
        # It is a project all the same: one that cannot be built.
        check("ProjectDetails", answer.json())
        assert answer.json()["built"] is False
    else:
        check("Error", answer.json())
        assert (answer.status_code, bad.says in answer.json()["message"]) == (400, True), answer.json()

    findings = server.get(f"{path}/doctor")
    for finding in findings:
        check("Finding", finding)
    assert findings[0]["level"] == "error"
    assert bad.says in findings[0]["message"]
    assert findings[0]["remedy"]
    for text in (answer.text, json.dumps(findings)):
        assert SECRET not in text
        assert harmless(json.dumps(json.loads(text), ensure_ascii=False))


@pytest.mark.engine
@every_bad
def test_a_notebook_there_says_it_in_its_first_cell(server: Server, bad: Bad) -> None:
    kernel = server.start_session(f"{bad.name}/a.ipynb", "python3")
    said = explanation(kernel)
    assert bad.says in said
    assert harmless(said)
    assert SECRET not in said
    # The error comes before the state does.
    wait_for(lambda: kernel.state() == "idle", "the kernel is not idle")
    kernel.delete()


def explanation(kernel: Kernel) -> str:
    """What a cell shows: its output and its error."""
    with kernel.connected():
        request = kernel.send("execute_request", code="1 + 1", silent=False)
        shown = []

        def is_error(message: dict[str, Any]) -> bool:
            if message["parent_header"].get("msg_id") == request and message["msg_type"] == "stream":
                shown.append(message["content"]["text"])
            return message["parent_header"].get("msg_id") == request and message["msg_type"] == "error"

        error = kernel.receive_until(is_error)["content"]
        return "".join([*shown, *error["traceback"], error["evalue"]])


@pytest.mark.engine
def test_the_command_line_says_it_too(house: House) -> None:
    for bad, words in (
        (ALL[0], ("image-update", "empty")),
        (NAMES[2], ("status", "--", "-x")),
        (NAMES[4], ("doctor", "A")),
        (NAMES[-1], ("status", NAMES[-1].name)),
        (SETTINGS[9], ("status", "evil")),
    ):
        done = house.ds01(*words)
        assert done.returncode == 1, done
        assert bad.says in done.stdout + done.stderr
        assert harmless(done.stdout + done.stderr)
        assert "Traceback" not in done.stderr
    # As an option it is a wrong use, and no project either.
    assert house.ds01("status", "-x").returncode == 2
    outside = house.ds01("status", "..")
    assert (outside.returncode, outside.stderr[:27]) == (1, "There is no project '..'. A")


@pytest.mark.engine
def test_a_kernelspec_of_a_project_that_was_deleted(house: House, server: Server) -> None:
    project = house.folder("deleted")
    done = house.ds01("kernelspec", "install", project.name)
    assert done.returncode == 0, done
    shutil.rmtree(project.path)
    assert project.name not in {one["name"] for one in server.get("ds01/projects")}
    kernel = server.start_kernel(f"ds01-{project.name}")
    said = explanation(kernel)
    assert f"There is no project '{project.name}'" in said
    # It comes back, and so does its kernel: nothing was built, so nothing is run.
    project.path.mkdir()
    (project.path / "Dockerfile").write_text("\n")
    kernel.restart()
    assert "is empty" in explanation(kernel)
    kernel.delete()


# The administrator's settings


@pytest.mark.engine
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("c.Workbench.memory = 16", "Workbench.memory in {file} is 16, which is not a text."),
        ("c.Workbench.container_name = 'mine'", "Workbench.container_name in {file} is 'mine', which lacks"),
    ],
)
def test_a_server_with_a_bad_setting_says_so_everywhere(settings: str, says: str) -> None:
    with a_house() as house:
        file = house.root / "config" / "jupyter_ds01_config.py"
        house.configure("jupyter_ds01", settings)
        project = house.folder("fine")
        says = says.format(file=file)
        with house.server() as server:
            kernel = server.start_session(f"{project.name}/a.ipynb", "python3")
            assert says in explanation(kernel)
            kernel.delete()
            assert f"ds01-{project.name}" in server.get("api/kernelspecs")["kernelspecs"]
            (listed,) = server.get("ds01/projects")
            assert says in listed["error"]
            answer = server.request("GET", f"ds01/projects/{project.name}")
            assert (answer.status_code, answer.json()["reason"]) == (400, "bad-setting")
            first = server.get(f"ds01/projects/{project.name}/doctor")[0]
            assert (first["check"], first["level"]) == ("settings", "error")
            assert says in first["message"]
            # It concerns projects, and none else.
            assert server.start_kernel("python3").execute("6 * 7").value == "42"
            assert says in server.said()
            assert "Traceback" not in server.said()
        done = house.ds01("list")
        assert (done.returncode, says in done.stderr, done.stdout) == (1, True, "")


@pytest.mark.engine
def test_a_server_that_cannot_read_its_settings_lets_no_kernel_run_unlimited() -> None:
    with a_house() as house:
        house.configure("jupyter_ds01", "c.Workbench.memory = = '16g'")
        project = house.folder("fine")
        with house.server() as server:
            for path in (f"{project.name}/a.ipynb", "elsewhere.ipynb"):
                kernel = server.start_session(path, "python3")
                assert "A configuration file cannot be read" in explanation(kernel)
                kernel.delete()
            answer = server.request("GET", "ds01/projects")
            assert (answer.status_code, answer.json()["reason"]) == (400, "bad-setting")
            assert "jupyter_ds01_config.py" in answer.json()["message"]


# Text


@pytest.mark.engine
def test_control_characters_in_a_build_stay_there(house: House, server: Server) -> None:
    name = "noisy"
    project = house.folder(name, f"{FROM_BASE}RUN {PRINTS_EVIL} && {PRINTS_EVIL} >&2 && exit 3\n")
    kernel = server.start_session(f"{project.name}/a.ipynb", "python3")
    said = explanation(kernel)
    assert "red" in said
    assert harmless(said), ascii(said)
    kernel.delete()
    done = house.ds01("image-update", project.name)
    assert done.returncode == 1
    assert "red" in done.stdout
    assert harmless(done.stdout), ascii(done.stdout)
    assert harmless(done.stderr), ascii(done.stderr)


@pytest.mark.engine
def test_control_characters_of_a_container_stay_there(house: House, server: Server) -> None:
    program = f"#!/bin/sh\n{PRINTS_EVIL}\n{PRINTS_EVIL} >&2\nexit 3\n"
    octal = "".join(f"\\{ord(character):03o}" for character in program)
    replace = f"rm /usr/bin/python && printf '{octal}' > /usr/bin/python && chmod +x /usr/bin/python"
    project = house.folder("loud", f"{FROM_BASE}RUN {replace}\n")
    assert house.ds01("image-update", project.name).returncode == 0
    kernel = server.start_session(f"{project.name}/a.ipynb", "python3")
    said = explanation(kernel)
    assert "ended as soon as it was started" in said
    assert harmless(said), ascii(said)
    kernel.delete()
    for verb in ("logs", "status", "doctor", "container-deploy"):
        done = house.ds01(verb, project.name)
        assert harmless(done.stdout), ascii(done.stdout)
        assert harmless(done.stderr), ascii(done.stderr)
        assert "owned" not in done.stdout + done.stderr
    assert "red" in house.ds01("logs", project.name).stdout
    for path in ("", "/doctor"):
        assert harmless(json.dumps(server.get(f"ds01/projects/{project.name}{path}"), ensure_ascii=False))


# Files that are read while somebody changes them


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path.resolve()
    (root / "workspace" / "p" / "docker" / "deep").mkdir(parents=True)
    (root / "outside").mkdir()
    (root / "outside" / "Dockerfile").write_text(SECRET)
    return Project("p", root / "workspace" / "p", root / "workspace")


@pytest.mark.parametrize(
    "target",
    [
        "docker/Dockerfile",
        "./docker/./Dockerfile",
        "docker/deep/../Dockerfile",
        "{p}/docker/Dockerfile",
        "other",
        "through/Dockerfile",
        "through/deep/up/Dockerfile",
    ],
)
def test_a_link_may_lead_through_the_project(project: Project, target: str) -> None:
    (project.path / "docker" / "Dockerfile").write_text("FROM here")
    (project.path / "other").symlink_to("docker/Dockerfile")
    (project.path / "through").symlink_to("docker")
    (project.path / "docker" / "deep" / "up").symlink_to("..")
    (project.path / "Dockerfile").symlink_to(target.format(p=project.path))
    assert read_text(project, "Dockerfile") == "FROM here"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("../../outside/Dockerfile", "leads out of the project"),
        ("docker/../../../outside/Dockerfile", "leads out of the project"),
        ("{p}/../../outside/Dockerfile", "leads out of the project"),
        ("/etc/passwd", "leads out of the project"),
        ("out/Dockerfile", "leads out of the project"),
        ("docker/up/up/Dockerfile", "leads out of the project"),
        ("..", "leads out of the project"),
        ("docker", "is not a regular file"),
        (".", "cannot be read"),
        ("docker/..", "cannot be read"),
        ("Dockerfile", "cannot be read: Too many levels of symbolic links"),
        ("docker/loop", "cannot be read: Too many levels of symbolic links"),
        ("file/Dockerfile", "cannot be read: Not a directory"),
    ],
)
def test_a_link_that_leads_elsewhere_is_refused(project: Project, target: str, says: str) -> None:
    (project.path / "out").symlink_to("../../outside")
    (project.path / "docker" / "up").symlink_to("..")
    (project.path / "up").symlink_to("../../outside")
    (project.path / "docker" / "loop").symlink_to("../Dockerfile")
    (project.path / "file").write_text("x")
    (project.path / "Dockerfile").symlink_to(target.format(p=project.path))
    with pytest.raises(BadInputError) as refused:
        read_text(project, "Dockerfile")
    assert says in str(refused.value)
    assert refused.value.remedy


def test_what_is_not_there_is_not_there(project: Project) -> None:
    assert read_text(project, "Dockerfile") is None
    (project.path / "Dockerfile").symlink_to("nowhere/deep")
    assert read_text(project, "Dockerfile") is None


def test_the_limit_of_size_is_exact(project: Project) -> None:
    (project.path / "Dockerfile").write_bytes(b"x" * LIMIT)
    assert read_text(project, "Dockerfile") == "x" * LIMIT
    with pytest.raises(BadInputError, match="larger than 1023 KiB"):
        read_text(project, "Dockerfile", most=LIMIT - 1)


def test_a_folder_that_is_swapped_for_a_link_leads_nowhere(project: Project) -> None:
    """Whoever can write into the project exchanges a folder on the way for a link, again and again."""
    inside, aside, way = project.path / "docker", project.path / "aside", project.path / "way"
    (inside / "Dockerfile").write_text("FROM here")
    way.mkdir()
    (way / "Dockerfile").write_text("FROM here")
    aside.symlink_to("../../outside")
    (project.path / "Dockerfile").symlink_to("way/Dockerfile")
    over, seen, reads = threading.Event(), set(), 0
    # Both are to be met: the folder, and the link in its place.
    wanted = {"FROM here", "is a link that leads out of the project."}

    def swap() -> None:
        spare = project.path / "spare"
        while not over.is_set():
            way.rename(spare)
            aside.rename(way)
            way.rename(aside)
            spare.rename(way)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        while (reads < 3000 or not wanted <= seen) and reads < 300_000:
            reads += 1
            try:
                seen.add(read_text(project, "Dockerfile"))
            except BadInputError as error:
                seen.add(str(error).partition(" ")[2])
    finally:
        over.set()
        swapping.join()
    assert SECRET not in seen
    assert wanted <= seen
