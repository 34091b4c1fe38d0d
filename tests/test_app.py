"""The command line, as users run it: in processes of its own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import secrets
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from conftest import FROM_BASE, ProjectFolder, with_engine
from servers import LIMIT, House, check, container_id, wait_for

from ds01_kernels import __version__

pytestmark = pytest.mark.engine

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def thesis(house: House, ipykernel_image: str) -> ProjectFolder:
    """A built project whose container runs."""
    project = house.project("thesis", ipykernel_image)
    assert_done(house.ds01("container-deploy", project.name))
    return project


def assert_done(done: subprocess.CompletedProcess[str]) -> str:
    """It succeeded and complained of nothing; returns what it printed."""
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def assert_refused(done: subprocess.CompletedProcess[str]) -> str:
    """Exit code 1 and nothing but one line, which is returned."""
    assert (done.returncode, done.stdout) == (1, ""), done
    sentence = done.stderr.removesuffix("\n")
    assert sentence
    assert sentence.isprintable(), done
    assert "Traceback" not in sentence
    return sentence


# Usage


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["no-such-verb"],
        ["status"],
        ["status", "a", "b"],
        ["logs", "a", "--tail", "many"],
        ["kernelspec"],
        ["kernelspec", "destroy"],
        ["list", "--no-such-option"],
    ],
)
def test_wrong_usage_exits_2(house: House, words: list[str]) -> None:
    done = house.ds01(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: jupyter ds01")
    assert "Traceback" not in done.stderr


def test_help_and_version(house: House) -> None:
    assert assert_done(house.ds01("--version")) == f"{__version__}\n"
    told = assert_done(house.ds01("--help"))
    verbs = "list status init base-image image-update container-deploy container-retire shell logs kernelspec"
    assert all(verb in told for verb in verbs.split())
    assert "--suite" in assert_done(house.ds01("base-image", "--help"))


def test_the_jupyter_command_finds_it(house: House, thesis: ProjectFolder) -> None:
    done = subprocess.run(
        [BIN / "jupyter", "ds01", "list"],
        env=dict(house.env),
        cwd=house.root,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert thesis.name in assert_done(done)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("--Workbench.cpus=x", "cpus"),
        ("--Workbench.orphan_grace=-1", "orphan_grace"),
        ("--Workbench.memory=much", "'much', which is not a size"),
    ],
)
def test_a_setting_that_cannot_be_used_is_a_sentence(
    house: House, thesis: ProjectFolder, setting: str, said: str
) -> None:
    assert said in assert_refused(house.ds01("container-deploy", thesis.name, setting))


def test_settings_stand_anywhere_before_the_dashes(house: House, thesis: ProjectFolder) -> None:
    for words in (["--Workbench.cpus=1.5", "status"], ["status", "--Workbench.cpus=1.5"]):
        told = json.loads(assert_done(house.ds01(*words, thesis.name, "--json")))
        assert told["limits"]["cpus"] == 1.5
    echoed = house.ds01("shell", thesis.name, "--", "echo", "--Workbench.cpus=x", "--json")
    assert assert_done(echoed) == "--Workbench.cpus=x --json\n"


def test_a_configuration_file_that_cannot_be_read_is_a_sentence(house: House) -> None:
    house.configure("jupyter_ds01", "c.Workbench.cpus = = 1")
    try:
        done = house.ds01("list")
    finally:
        (house.root / "config" / "jupyter_ds01_config.py").unlink()
    assert "jupyter_ds01_config.py" in assert_refused(done)


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["image-update"],
        ["container-deploy"],
        ["container-retire"],
        ["shell"],
        ["logs"],
        ["kernelspec", "install"],
    ],
)
def test_an_unknown_project_is_a_sentence(house: House, thesis: ProjectFolder, words: list[str]) -> None:
    sentence = assert_refused(house.ds01(*words, "no-such", "--json"))
    assert sentence.startswith("There is no project 'no-such'. The projects are: ")
    assert thesis.name in sentence


def test_output_that_nobody_reads_is_no_error(house: House, thesis: ProjectFolder) -> None:
    for words in (["list", "--json"], ["status", thesis.name], ["--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        try:
            done = subprocess.run(
                [*house.command, "-m", "ds01_kernels.app", *words],
                stdout=writing,
                stderr=subprocess.PIPE,
                text=True,
                env=dict(house.env),
                cwd=house.root,
                timeout=LIMIT,
            )
        finally:
            os.close(writing)
        assert done.stderr == ""
        assert done.returncode in (0, 141)


def test_a_place_that_cannot_be_written_is_a_sentence(house: House, thesis: ProjectFolder) -> None:
    done = house.ds01("kernelspec", "install", thesis.name, "--prefix", "/proc")
    assert "/proc" in assert_refused(done)
    done = house.ds01("init", "new", env={"DS01_WORKSPACE": "/proc/1"})
    assert "/proc/1/new" in assert_refused(done)


def test_an_engine_that_is_away_is_a_sentence(house: House, thesis: ProjectFolder) -> None:
    env = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}
    for words in (["container-deploy"], ["container-retire"], ["image-update"], ["logs"], ["shell"]):
        assert "/nonexistent/docker.sock" in assert_refused(house.ds01(*words, thesis.name, env=env))
    listed = house.ds01("list", env=env)
    assert listed.returncode == 0
    assert re.search(rf"^{thesis.name} .*unknown", listed.stdout, re.MULTILINE)
    assert listed.stderr.count("/nonexistent/docker.sock") == 1


# list, status, init


def test_list_and_status(house: House, thesis: ProjectFolder) -> None:
    listed = json.loads(assert_done(house.ds01("list", "--json")))
    for project in listed:
        check("Project", project)
    (found,) = [project for project in listed if project["name"] == thesis.name]
    assert (found["state"], found["container"]) == ("running", thesis.container)
    table = assert_done(house.ds01("list")).splitlines()
    assert table[0].split() == ["PROJECT", "CONTAINER", "STATE", "KERNEL", "PATH"]
    (row,) = [line.split() for line in table if line.startswith(thesis.name)]
    assert row == [thesis.name, thesis.container, "running", f"ds01-{thesis.name}", str(thesis.path)]

    told = json.loads(assert_done(house.ds01("status", thesis.name, "--json")))
    check("ProjectDetails", told)
    assert (told["built"], told["kernels"]) == (True, 0)
    assert re.search(
        r"^container: +" + re.escape(thesis.container), house.ds01("status", thesis.name).stdout, re.MULTILINE
    )


def test_an_empty_workspace_says_how_to_begin(house: House) -> None:
    env = {"DS01_WORKSPACE": str(house.root / "nowhere")}
    assert "jupyter ds01 init NAME" in assert_done(house.ds01("list", env=env))
    assert assert_done(house.ds01("list", "--json", env=env)) == "[]\n"


@pytest.mark.parametrize("template", ["debian", "python"])
def test_init_from_a_template(house: House, template: str) -> None:
    name = f"made-{secrets.token_hex(4)}"
    told = json.loads(assert_done(house.ds01("init", name, "--from", template, "--json")))
    folder = house.workspace / name
    assert told == {"name": name, "path": str(folder), "kernel_name": f"ds01-{name}"}
    assert re.search(r"^FROM \S+$", (folder / "Dockerfile").read_text(), re.MULTILINE)
    assert "already" in assert_refused(house.ds01("init", name))


def test_init_from_a_folder_copies_its_dockerfile(house: House, thesis: ProjectFolder) -> None:
    name = f"copy-{secrets.token_hex(4)}"
    done = house.ds01("init", name, "--from", str(thesis.path))
    assert f"jupyter ds01 image-update {name}" in assert_done(done)
    copied = house.workspace / name / "Dockerfile"
    assert copied.read_bytes() == (thesis.path / "Dockerfile").read_bytes()


def test_init_in_a_folder_that_has_files(house: House) -> None:
    folder = house.folder("old", dockerfile=None)
    (folder.path / "notebook.ipynb").write_text("{}")
    assert_done(house.ds01("init", folder.name))
    assert sorted(path.name for path in folder.path.iterdir()) == ["Dockerfile", "notebook.ipynb"]


@pytest.mark.parametrize("name", ["Über", "a b", "../out", "-x-", ".hidden", "a" * 101, "a/b", ""])
def test_init_refuses_bad_names(house: House, name: str) -> None:
    before = sorted(house.root.rglob("*"))
    words = ["init", "--", name]
    assert "cannot be a project's name" in assert_refused(house.ds01(*words))
    assert sorted(house.root.rglob("*")) == before


def test_init_refuses_bad_sources(house: House, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").symlink_to("/etc/hostname")
    for source, said in (
        ("no-such", "neither a folder nor a template"),
        (str(house.root / "config"), "Dockerfile"),
        (str(tmp_path), "leads out"),
    ):
        name = f"bad-{secrets.token_hex(4)}"
        assert said in assert_refused(house.ds01("init", name, "--from", source))
        assert not (house.workspace / name).exists()


def test_init_does_not_write_through_a_link(house: House, tmp_path: Path) -> None:
    name = f"linked-{secrets.token_hex(4)}"
    (house.workspace / name).symlink_to(tmp_path)
    try:
        assert_refused(house.ds01("init", name))
    finally:
        (house.workspace / name).unlink()
    assert list(tmp_path.iterdir()) == []


# Images


def test_image_update_shows_its_progress(house: House) -> None:
    mark = secrets.token_hex(6)
    project = house.folder("built", f"{FROM_BASE}RUN echo said-$((40+2))-{mark}\n")
    shown = assert_done(house.ds01("image-update", project.name))
    assert f"said-42-{mark}" in shown
    assert re.search(r"^\[2/\d+\] .*RUN echo", shown, re.MULTILINE)
    assert shown.endswith(
        f"Built {project.image}. New kernels use it as soon as none runs in the container.\n"
    )
    told = json.loads(assert_done(house.ds01("image-update", project.name, "--json")))
    assert f"Built {project.image}." in told.pop("log")
    check("Job", told)
    assert (told["kind"], told["phase"], told["error"]) == ("build", "done", None)
    image = with_engine(lambda engine: engine.image(project.image))
    assert image is not None
    assert image.labels["ds01-kernels.path"] == str(project.path)


def test_a_build_that_fails_names_the_line(house: House) -> None:
    project = house.folder("failing", f"{FROM_BASE}\n# a comment\nRUN echo oops >&2; exit 3\n")
    done = house.ds01("image-update", project.name)
    assert done.returncode == 1
    assert "oops" in done.stdout + done.stderr
    *_, sentence = done.stderr.splitlines()
    assert "line 4" in sentence
    assert with_engine(lambda engine: engine.image(project.image)) is None

    done = house.ds01("image-update", project.name, "--json")
    assert (done.returncode, done.stderr) == (1, f"{sentence}\n")
    told = json.loads(done.stdout)
    assert "oops" in told.pop("log")
    check("Job", told)
    error = {"reason": "build-failed", "line": 4, "message": sentence}
    assert (told["phase"], told["error"]) == ("failed", error)


def test_dockerfiles_that_are_none(house: House) -> None:
    secret = house.root / "secret"
    secret.write_text("FROM hidden-from-the-build\n")

    def write(content: bytes) -> ProjectFolder:
        project = house.folder("odd")
        (project.path / "Dockerfile").write_bytes(content)
        return project

    linked, folder = house.folder("odd", dockerfile=None), house.folder("odd", dockerfile=None)
    (linked.path / "Dockerfile").symlink_to(secret)
    (folder.path / "Dockerfile").mkdir()
    cases = [
        (write(b""), "empty"),
        (write(b"\x7fELF\0\0\xff"), "not a text file"),
        (write(FROM_BASE.encode() + b"#" * (2 << 20)), "larger than 1 MiB"),
        (linked, "leads out of the project"),
        (folder, "is a folder"),
    ]
    try:
        for project, said in cases:
            sentence = assert_refused(house.ds01("image-update", project.name))
            assert said in sentence
            assert "hidden" not in sentence
    finally:
        for project, _ in cases:
            shutil.rmtree(project.path)


def test_an_unknown_suite_is_a_sentence(house: House) -> None:
    assert "no-such-suite" in assert_refused(house.ds01("base-image", "--suite", "no-such-suite", "--json"))


# Containers


def test_deploy_logs_and_retire(house: House, ipykernel_image: str) -> None:
    project = house.project("come-and-go", ipykernel_image)
    assert "has no container" in assert_refused(house.ds01("logs", project.name))
    told = json.loads(assert_done(house.ds01("container-deploy", project.name, "--json")))
    assert told == {"container": project.container, "id": container_id(project.container), "state": "running"}
    assert assert_done(house.ds01("container-deploy", project.name)) == f"{project.container} is running.\n"
    assert container_id(project.container) == told["id"]

    logs = json.loads(assert_done(house.ds01("logs", project.name, "--tail", "5", "--json")))
    assert logs["container"] == project.container
    assert_done(house.ds01("logs", project.name))

    retired = json.loads(assert_done(house.ds01("container-retire", project.name, "--json")))
    assert retired == {"container": project.container, "removed": True}
    assert container_id(project.container) is None
    again = assert_done(house.ds01("container-retire", project.name))
    assert again == f"There was no container {project.container}.\n"


def test_deploy_before_the_image_is_built_says_how(house: House) -> None:
    project = house.folder("unbuilt")
    sentence = assert_refused(house.ds01("container-deploy", project.name))
    assert f"jupyter ds01 image-update {project.name}" in sentence


def test_retire_refuses_while_kernels_run(house: House, ipykernel_image: str) -> None:
    project = house.project("busy", ipykernel_image)
    assert_done(house.ds01("kernelspec", "install", project.name))
    with a_kernel(house, project):
        sentence = assert_refused(house.ds01("container-retire", project.name))
        assert sentence.startswith(f"1 kernel of project {project.name} still runs")
        assert container_id(project.container)
        assert_done(house.ds01("container-retire", project.name, "--force"))
        assert container_id(project.container) is None


@contextmanager
def a_kernel(house: House, project: ProjectFolder) -> Iterator[None]:
    """A kernel of a program that uses jupyter_client without a server."""
    program = (
        "import sys\n"
        "from jupyter_client.manager import start_new_kernel\n"
        f"manager, client = start_new_kernel(kernel_name='ds01-{project.name}')\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
        "manager.shutdown_kernel(now=True)\n"
    )
    process = subprocess.Popen(
        [*house.command, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(house.env),
        cwd=house.root,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n", process.communicate()
    try:
        yield
    finally:
        _, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, errors


# The shell


@pytest.mark.parametrize("code", [0, 3, 255])
def test_a_commands_exit_code_is_ours(house: House, thesis: ProjectFolder, code: int) -> None:
    program = f"import os, sys; print(os.getcwd()); print('bad', file=sys.stderr); sys.exit({code})"
    done = house.ds01("shell", thesis.name, "--", "python", "-c", program)
    assert (done.returncode, done.stdout, done.stderr) == (code, "/workspace\n", "bad\n")


def test_a_command_that_is_not_there(house: House, thesis: ProjectFolder) -> None:
    done = house.ds01("shell", thesis.name, "--", "no-such-command")
    assert done.returncode in (126, 127)
    assert "no-such-command" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_piped_in_arrives_whole_and_ends(house: House, thesis: ProjectFolder) -> None:
    assert assert_done(house.ds01("shell", thesis.name, "--", "python", "-", stdin="print(2)\n")) == "2\n"
    text = "".join(f"{number}\n" for number in range(200_000))
    assert assert_done(house.ds01("shell", thesis.name, "--", "cat", stdin=text)) == text
    assert assert_done(house.ds01("shell", thesis.name, stdin="echo $((6 * 7)); pwd\n")) == "42\n/workspace\n"


def test_input_from_a_file_from_nothing_and_from_no_descriptor(house: House, thesis: ProjectFolder) -> None:
    command = [*house.command, "-m", "ds01_kernels.app", "shell", thesis.name, "--", "wc", "-c"]
    text = house.root / "input"
    text.write_text("x" * 100_000)
    for redirection, counted in ((f"<{text}", "100000"), ("</dev/null", "0"), ("<&-", "0")):
        done = subprocess.run(
            ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *command],
            env=dict(house.env),
            cwd=house.root,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert assert_done(done) == f"{counted}\n"


def test_a_shell_in_a_terminal(house: House, thesis: ProjectFolder) -> None:
    with Terminal(house, "shell", thesis.name) as terminal:
        wait_for(lambda: "33 101\r\n" in terminal.answer("stty size\r"), "it does not get our size")
        terminal.type("echo $((40 + 2)); pwd\r")
        terminal.expect("42\r\n/workspace\r\n")
        terminal.type("sleep 1000\r")
        terminal.expect("sleep 1000\r\n")
        terminal.type("\x03")
        terminal.type("echo still-$((1 + 1))\r")
        terminal.expect("still-2\r\n")
        terminal.resize(40, 120)
        wait_for(lambda: "40 120\r\n" in terminal.answer("stty size\r"), "the new size does not arrive")
        terminal.type("exit 5\r")
        assert terminal.process.wait(LIMIT) == 5
        assert termios.tcgetattr(terminal.theirs) == terminal.before


class Terminal:
    """The command line with a pseudo-terminal of 101 columns and 33 rows."""

    def __init__(self, house: House, *words: str) -> None:
        self.ours, self.theirs = pty.openpty()
        self.before = termios.tcgetattr(self.theirs)
        self.resize(33, 101)
        self.shown = ""
        self.process = subprocess.Popen(
            [*house.command, "-m", "ds01_kernels.app", *words],
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            env={**house.env, "TERM": "dumb"},
            cwd=house.root,
            start_new_session=True,
        )

    def __enter__(self) -> Terminal:
        # What is typed before the terminal is raw would be shown twice.
        wait_for(
            lambda: not termios.tcgetattr(self.theirs)[3] & termios.ECHO, "the terminal was not made raw"
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(LIMIT)
        os.close(self.ours)
        os.close(self.theirs)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.ours, keys.encode())

    def expect(self, text: str) -> str:
        """Wait until that is shown, after what was expected before; returns what came before it."""

        def shown() -> bool:
            while select.select([self.ours], [], [], 0)[0]:
                self.shown += os.read(self.ours, 4096).decode()
            return text in self.shown

        wait_for(shown, lambda: f"{text!r} does not come: {self.shown}")
        before, _, self.shown = self.shown.partition(text)
        return before

    def answer(self, keys: str) -> str:
        """What a command shows, and what was shown before and not expected."""
        mark = secrets.token_hex(4)
        # Not as it is typed, since what is typed is shown too.
        self.type(f"{keys}echo {mark[:4]}''{mark[4:]}\r")
        return self.expect(mark)


# Kernelspecs, and clients that run without a server


def test_kernelspec_install_and_remove(house: House, thesis: ProjectFolder, tmp_path: Path) -> None:
    place = house.root / "data" / "kernels" / f"ds01-{thesis.name}"
    assert assert_done(house.ds01("kernelspec", "install", thesis.name)) == f"Installed {place}\n"
    spec = json.loads((place / "kernel.json").read_text())
    assert spec["metadata"]["kernel_provisioner"]["config"] == {"project": thesis.name}
    removed = json.loads(assert_done(house.ds01("kernelspec", "remove", thesis.name, "--json")))
    assert removed == [str(place)]
    assert not place.exists()
    assert "No kernelspec is installed" in assert_refused(house.ds01("kernelspec", "remove", thesis.name))

    below = tmp_path / "share" / "jupyter" / "kernels"
    installed = json.loads(
        assert_done(house.ds01("kernelspec", "install", "--prefix", str(tmp_path), "--json"))
    )
    assert str(below / f"ds01-{thesis.name}") in installed
    assert sorted(installed) == sorted(str(path) for path in below.iterdir())
    assert_done(house.ds01("kernelspec", "remove", "--prefix", str(tmp_path)))
    assert list(below.iterdir()) == []


@pytest.fixture(scope="module")
def notebook(house: House, thesis: ProjectFolder) -> Iterator[Path]:
    """A notebook that tells where it runs, and the installed kernelspec that it names."""
    assert_done(house.ds01("kernelspec", "install", thesis.name))
    content = nbformat.v4.new_notebook()
    content.metadata["kernelspec"] = {
        "name": f"ds01-{thesis.name}",
        "display_name": "x",
        "language": "python",
    }
    content.cells.append(nbformat.v4.new_code_cell("word = 'none'", metadata={"tags": ["parameters"]}))
    content.cells.append(
        nbformat.v4.new_code_cell(
            "import os, sys; print(sys.executable, os.environ['DS01_CONTAINER'], os.getcwd(), word)"
        )
    )
    folder = thesis.path / "headless"
    folder.mkdir()
    nbformat.write(content, folder / "in.ipynb")
    yield folder / "in.ipynb"
    assert_done(house.ds01("kernelspec", "remove", thesis.name))


NBCLIENT = """\
import sys, nbformat
from nbclient import NotebookClient
path, folder, kernel = sys.argv[1:]
notebook = nbformat.read(path, as_version=4)
NotebookClient(notebook, kernel_name=kernel, resources={"metadata": {"path": folder}}, timeout=90).execute()
nbformat.write(notebook, folder + "/out.ipynb")
"""


@pytest.mark.parametrize(
    ("way", "cwd", "word"),
    [
        (["execute", "--output=out", "{in}"], "/workspace/headless", "none"),
        (["-c", NBCLIENT, "{in}", "{folder}", "{kernel}"], "/workspace/headless", "none"),
        (
            [
                "-m",
                "papermill",
                "{in}",
                "{folder}/out.ipynb",
                "--cwd",
                "{folder}",
                "-p",
                "word",
                "w",
                "--no-progress-bar",
            ],
            "/workspace/headless",
            "w",
        ),
    ],
    ids=["jupyter-execute", "nbclient", "papermill"],
)
def test_a_notebook_runs_in_the_container_without_a_server(
    house: House, thesis: ProjectFolder, notebook: Path, way: list[str], cwd: str, word: str
) -> None:
    values = {"in": str(notebook), "folder": str(notebook.parent), "kernel": f"ds01-{thesis.name}"}
    words = [part if part is NBCLIENT else part.format(**values) for part in way]
    command = [str(BIN / "jupyter")] if way[0] == "execute" else list(house.command)
    done = subprocess.run(
        [*command, *words],
        env=dict(house.env),
        cwd=notebook.parent,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done
    out = notebook.parent / "out.ipynb"
    *_, last = nbformat.read(out, as_version=4).cells
    out.unlink()
    assert last.outputs[0].text == f"/usr/bin/python {thesis.container} {cwd} {word}\n"
    wait_for(
        lambda: json.loads(house.ds01("status", thesis.name, "--json").stdout)["kernels"] == 0,
        "the notebook's kernel is left",
    )


def test_a_notebook_that_fails_is_a_failure(house: House, thesis: ProjectFolder, notebook: Path) -> None:
    failing = notebook.with_name("failing.ipynb")
    content = nbformat.read(notebook, as_version=4)
    content.cells = [nbformat.v4.new_code_cell("raise ValueError('from the container')")]
    nbformat.write(content, failing)
    done = subprocess.run(
        [BIN / "jupyter", "execute", failing],
        env=dict(house.env),
        cwd=house.root,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode != 0
    assert "from the container" in done.stderr
