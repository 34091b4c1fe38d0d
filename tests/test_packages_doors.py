"""What must not get through: bad specs, bodies and metadata, who may only read, interrupted installs."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import ProjectFolder
from packaging.requirements import Requirement
from rest import Site, a_rest_site
from servers import LIMIT, check, host_processes, wait_for

from ds01_kernels.dockerfile import find_block, parse
from ds01_kernels.engine.docker_connection import connect
from ds01_kernels.text import clean

pytestmark = pytest.mark.engine

#: None of them is a requirement; should one be run, or written, the mark is found.
BAD_SPECS = [
    "--index-url http://evil.example",
    "-r /etc/passwd",
    "-e .",
    "a; touch /workspace/owned",
    "a\nRUN touch /workspace/owned",
    "$(touch /workspace/owned)",
    "`touch /workspace/owned`",
    'a" && touch /workspace/owned && "',
    "a==1.0 --hash=sha256:00",
    "a @ file:///etc/passwd",
    "a @ https://user:secret@host.example/a.zip",
    "\N{SNAKE}",
    "numpy\N{SNAKE}==1",
    "a\x1b[31m",
    "a" * 10_000,
    "a==" + "1." * 5000,
    "a; " + "(" * 400 + "os_name" + ")" * 400,
    "",
]


@pytest.fixture(scope="module")
def site(engine_available: None) -> Iterator[Site]:
    with a_rest_site() as site:
        yield site


@pytest.fixture(scope="module")
def thesis(site: Site) -> ProjectFolder:
    """Built, with a container that runs."""
    project = site.house.folder("thesis")
    assert site.house.ds01("image-update", project.name).returncode == 0
    assert site.house.ds01("container-deploy", project.name).returncode == 0
    return project


def inside(project: ProjectFolder, script: str) -> str:
    client = connect(60.0)
    try:
        started = client.exec_create(project.container, ["/bin/sh", "-ec", script])
        output = client.exec_start(started["Id"]).decode(errors="replace")
        assert client.exec_inspect(started["Id"])["ExitCode"] == 0, output
    finally:
        client.close()
    return str(output)


def state_of(project: ProjectFolder) -> Any:
    """What must not change: the files of the project, and what is installed."""
    files = {path.name: path.read_bytes() for path in project.path.iterdir()}
    return files, inside(project, "ls /usr/local/lib/python3*/dist-packages /opt/ds01/pip")


def is_harmless(text: str) -> bool:
    return text == clean(text, colours=False) and all(line.isprintable() for line in text.splitlines())


# Specs and bodies


@pytest.mark.parametrize("spec", BAD_SPECS, ids=range(len(BAD_SPECS)))
def test_what_is_no_requirement_goes_nowhere(site: Site, thesis: ProjectFolder, spec: str) -> None:
    before = state_of(thesis)
    sums = {"sha256": "0" * 64, "result_sha256": "0" * 64}
    for action, body in (
        ("packages", {"specs": ["six", spec]}),
        ("rebuild/preview", {"packages": ["six", spec]}),
        ("save", {"packages": ["six", spec], **sums}),
        ("rebuild", {"packages": ["six", spec], "kernels": [], **sums}),
    ):
        answer = site.post(f"projects/{thesis.name}/{action}", body)
        assert (answer.status_code, answer.json()["reason"]) == (400, "bad-input"), (action, answer.text)
        check("Error", answer.json())
        assert answer.json()["message"].isprintable()
        assert "secret" not in answer.text
        assert len(answer.json()["message"]) < 1000
    assert state_of(thesis) == before
    jobs = site.server.get(f"ds01/projects/{thesis.name}/jobs")
    assert [job["kind"] for job in jobs] == ["build"], "the fixture's"


@pytest.mark.parametrize(
    ("verb", "spec"),
    [
        ("install", "$(touch /workspace/owned)"),
        ("install", "a" * 10_000),
        ("save", "a\nRUN touch /workspace/owned"),
        ("image-update", "a\nRUN touch /workspace/owned"),
        ("image-update", "--index-url http://evil.example"),
    ],
)
def test_nor_by_the_command_line(site: Site, thesis: ProjectFolder, verb: str, spec: str) -> None:
    before = state_of(thesis)
    words = [verb, thesis.name, *([f"--add={spec}"] if verb == "image-update" else ["six", spec])]
    done = site.house.ds01(*words)
    assert (done.returncode, done.stdout) == (1, ""), done
    sentence = done.stderr.removesuffix("\n")
    assert sentence.isprintable()
    assert len(sentence) < 1000
    assert state_of(thesis) == before


def test_options_of_pip_are_wrong_usage(site: Site, thesis: ProjectFolder) -> None:
    before = state_of(thesis)
    for words in (
        ["install", thesis.name, "six", "--index-url", "http://evil.example"],
        ["install", thesis.name, "-r", "/etc/passwd"],
        ["install", thesis.name],
        ["save", thesis.name, "--pin"],
        ["packages"],
    ):
        done = site.house.ds01(*words)
        assert (done.returncode, done.stdout) == (2, ""), done
    done = site.house.ds01("install", thesis.name, "--", "-r", "/etc/passwd")
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not a requirement" in done.stderr
    assert state_of(thesis) == before


@pytest.mark.parametrize(
    ("action", "body", "said"),
    [
        ("packages", {}, "'specs' is missing"),
        ("packages", {"specs": []}, "There is nothing to install"),
        ("packages", {"specs": "six"}, "'specs' must be a list of texts"),
        ("packages", {"specs": [1]}, "'specs' must be a list of texts"),
        ("packages", {"specs": ["six"], "options": ["-U"]}, "'options' is not known"),
        ("rebuild/preview", {"packages": "six"}, "'packages' must be a list of texts"),
        ("rebuild/preview", {"packages": None}, "'packages' must be a list of texts"),
        ("rebuild/preview", {"pin": "no"}, "'pin' must be true or false"),
        ("rebuild/preview", {"sha256": ""}, "'sha256' is not known"),
        ("save", {}, "'sha256' is missing"),
        ("save", {"sha256": "0"}, "'result_sha256' is missing"),
        ("save", {"sha256": "0", "result_sha256": 1}, "'result_sha256' must be a text"),
        ("save", {"sha256": "0", "result_sha256": "0", "kernels": []}, "'kernels' is not known"),
        ("rebuild", {"sha256": "0", "result_sha256": "0"}, "'kernels' is missing"),
        ("rebuild", {"sha256": "0", "result_sha256": "0", "kernels": [1]}, "'kernels' must be a list of"),
        ("restore", {"specs": ["six"]}, "'specs' is not known"),
    ],
)
def test_a_bad_body_is_a_sentence(
    site: Site, thesis: ProjectFolder, action: str, body: Any, said: str
) -> None:
    before = state_of(thesis)
    answer = site.post(f"projects/{thesis.name}/{action}", body)
    assert (answer.status_code, answer.json()["reason"]) == (400, "bad-input"), answer.text
    check("Error", answer.json())
    assert said in answer.json()["message"]
    assert state_of(thesis) == before


def test_who_may_only_read_changes_nothing(site: Site, thesis: ProjectFolder) -> None:
    before = state_of(thesis)
    path = f"projects/{thesis.name}"
    with site.denying("ds01/execute"):
        check("Packages", site.server.get(f"ds01/{path}/packages"))
        for action in ("packages", "rebuild/preview", "save", "rebuild", "restore", "rollback"):
            answer = site.post(f"{path}/{action}", {"specs": ["six"]})
            assert answer.status_code == 403, answer.text
            check("Error", answer.json())
    with site.denying("ds01/read"):
        assert site.server.request("GET", f"ds01/{path}/packages").status_code == 403
    with requests.Session() as stranger:
        stranger.trust_env = False
        url = f"{site.server.url}ds01/{path}/packages"
        assert stranger.get(url, timeout=LIMIT).status_code == 403
        assert stranger.post(url, json={"specs": ["six"]}, timeout=LIMIT).status_code == 403
    assert state_of(thesis) == before


def test_a_project_that_is_not_there(site: Site) -> None:
    sums = {"sha256": "0", "result_sha256": "0"}
    specs = {"specs": ["six"]}
    for action, body in (("packages", specs), ("rebuild/preview", {}), ("save", sums), ("restore", {})):
        answer = site.post(f"projects/no-such/{action}", body)
        assert (answer.status_code, answer.json()["reason"]) == (404, "no-such-project")
    assert site.server.request("GET", "ds01/projects/no-such/packages").status_code == 404
    for words in (["packages", "no-such", "--json"], ["save", "no-such"], ["install", "no-such", "six"]):
        done = site.house.ds01(*words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("There is no project 'no-such'.")


def test_a_project_that_was_never_built(site: Site) -> None:
    project = site.house.folder("early")
    found = site.server.get(f"ds01/projects/{project.name}/packages")
    check("Packages", found)
    assert (found["python"], found["running"], found["packages"]) == (None, False, [])
    done = site.house.ds01("install", project.name, "six", "--json")
    assert done.returncode == 1
    assert done.stderr.startswith(f"The image of project {project.name} has not been built yet.")
    job = json.loads(done.stdout)
    assert (job["phase"], job["error"]["reason"]) == ("failed", "not-built")
    # Its base is known all the same: that one says that pip has to be told to install there.
    told = json.loads(site.house.ds01("save", project.name, "six==1.17.0", "--diff", "--json").stdout)
    assert "--break-system-packages" in told["diff"]


# Installs


def test_two_installs_at_once_both_arrive(site: Site, thesis: ProjectFolder) -> None:
    ids = [site.start(thesis, "packages", {"specs": [spec]}) for spec in ("six==1.17.0", "idna==3.7")]
    for id_, said in zip(ids, ("six-1.17.0", "idna-3.7"), strict=True):
        state = site.over(thesis, id_)
        assert (state["kind"], state["phase"], state["error"]) == ("install", "done", None)
        assert f"Successfully installed {said}" in site.text(thesis, id_)
    found = site.server.get(f"ds01/projects/{thesis.name}/packages")["drift"]["added"]
    assert {(item["name"], item["spec"]) for item in found} == {("six", "six==1.17.0"), ("idna", "idna==3.7")}
    inside(thesis, "pip uninstall -q -y six idna")


def test_what_pip_cannot_install_is_said_in_one_sentence(site: Site, thesis: ProjectFolder) -> None:
    spec = "six==99.1.2"
    done = site.house.ds01("install", thesis.name, spec)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"pip could not install {spec}. ")
    assert "No matching distribution found for six==99.1.2" in sentence
    assert "Could not find a version" in done.stdout
    told = site.house.ds01("install", thesis.name, spec, "--json")
    assert (told.returncode, told.stderr) == (1, done.stderr)
    job = json.loads(told.stdout)
    assert "Could not find a version" in job.pop("log")
    check("Job", job)
    assert (job["phase"], job["error"]["reason"]) == ("failed", "install-failed")
    state = site.run(thesis, "packages", {"specs": [spec]})
    assert (state["phase"], state["error"]["message"]) == ("failed", sentence)


#: Takes connections, and says nothing; what pip is told to fetch from there it waits for.
SILENT = """\
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
while True: server.accept()
"""


@contextmanager
def silent_server(project: ProjectFolder) -> Iterator[int]:
    """Its port, in the container."""
    command = ["docker", "exec", project.container, "/usr/bin/python", "-c", SILENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            for pid, arguments in host_processes(project.container).items():
                if "create_server" in arguments:
                    subprocess.run(["kill", str(pid)], check=False)
            process.kill()


def pips(project: ProjectFolder) -> list[str]:
    return [line for line in host_processes(project.container).values() if "-m pip" in line]


def test_an_interrupt_ends_pip_in_the_container(site: Site, thesis: ProjectFolder) -> None:
    env = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with silent_server(thesis) as port:
        command = [*site.house.command, "-m", "ds01_kernels.app", "install", thesis.name]
        with subprocess.Popen(
            [*command, f"a @ http://127.0.0.1:{port}/a-1.0-py3-none-any.whl"],
            env={**site.house.env, **env},
            cwd=site.house.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                wait_for(lambda: pips(thesis), "pip was not started")
                process.send_signal(signal.SIGINT)
                _, stderr = process.communicate(timeout=LIMIT)
            finally:
                process.kill()
        assert process.returncode == 130
        assert stderr == "Cancelled; what was installed by then is there.\n"
        assert pips(thesis) == []
    state = site.server.get(f"ds01/projects/{thesis.name}/jobs")[0]
    assert (state["kind"], state["phase"]) == ("install", "cancelled")


def test_an_install_is_cancelled_by_rest(site: Site, thesis: ProjectFolder) -> None:
    with silent_server(thesis) as port:
        id_ = site.start(
            thesis, "packages", {"specs": [f"a @ http://127.0.0.1:{port}/a-1.0-py3-none-any.whl"]}
        )
        wait_for(lambda: pips(thesis), "pip was not started")
        answer = site.server.request("DELETE", f"ds01/projects/{thesis.name}/jobs/{id_}")
        assert answer.status_code == 200
        assert site.over(thesis, id_)["phase"] == "cancelled"
        assert pips(thesis) == []


# Hostile packages


def test_hostile_packages_harm_nothing(site: Site) -> None:
    project = site.house.folder("hostile")
    assert site.house.ds01("image-update", project.name).returncode == 0
    assert site.house.ds01("container-deploy", project.name).returncode == 0
    script = project.path / "hostile.py"
    script.write_bytes((Path(__file__).parent / "hostile_packages.py").read_bytes())
    inside(project, "/usr/bin/python -X utf8 hostile.py")
    script.unlink()

    answer = site.server.request("GET", f"ds01/projects/{project.name}/packages")
    found = answer.json()
    check("Packages", found)
    assert is_harmless(json.dumps(found, ensure_ascii=False))
    assert len(answer.content) < 200_000
    assert "secret" not in answer.text
    names = {item["name"]: kind for kind, items in found["drift"].items() for item in items}
    assert {name for name, kind in names.items() if kind == "added"} == {"plain", "long", "many", "described"}
    assert {"bad-url", "cmd-url", "opt-url", "commit", "deep"} <= {
        name for name, kind in names.items() if kind == "unpinnable"
    }
    broken = {Path(one["path"]).name.partition("-")[0] for one in found["broken"]}
    assert {"colour", "quoted", "line", "ansi", "huge", "link", "pipe"} <= broken

    for pin in (True, False):
        shown = site.post(f"projects/{project.name}/rebuild/preview", {"pin": pin})
        check("Preview", shown.json())
        end = "==1.0" if pin else ""
        assert shown.json()["packages"] == [f"{name}{end}" for name in ("described", "long", "many", "plain")]
    for words in (["packages"], ["save", "--diff"], ["save", "--diff", "--unpinned"], ["status"], ["save"]):
        verb, *options = words
        done = site.house.ds01(verb, project.name, *options)
        assert done.returncode == 0, done
        assert is_harmless(done.stdout), ascii(done.stdout)
        assert is_harmless(done.stderr), ascii(done.stderr)
        assert len(done.stdout + done.stderr) < 100_000
        assert "secret" not in done.stdout + done.stderr
    text = (project.path / "Dockerfile").read_text()
    assert is_harmless(text)
    parsed = parse(text)
    assert [one.name for one in parsed.instructions] == ["FROM", "RUN"]
    block = find_block(parsed, parsed.stage())
    assert block is not None
    assert block.run is not None
    words = shlex.split(parsed.joined(block.run)[0])
    assert words[:5] == ["RUN", "pip", "install", "--no-cache-dir", "--break-system-packages"]
    assert {Requirement(word).name for word in words[5:]} == {"plain", "long", "many", "described"}
    assert not (project.path / "owned").exists()
    assert is_harmless(site.server.said()), "the server's log"
    assert "Traceback" not in site.server.said()
