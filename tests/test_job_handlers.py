"""Jobs, containers and terminals through the REST of a real server, and the events that tell of them."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator

import pytest
import requests
from conftest import FROM_BASE, ProjectFolder
from rest import Site, a_rest_site, connected, listening, received
from servers import LIMIT, OPENAPI, TOKEN, check, container_id, free_port, wait_for

from ds01_kernels import handlers, job_handlers, package_handlers
from ds01_kernels.engine.docker_connection import connect
from ds01_kernels.locks import hold_briefly

pytestmark = pytest.mark.engine

NO_JOB = "0" * 16
#: What the parts of our routes are called in the documentation.
NAMES = {"name": "{project}", "job": "{job}"}


@pytest.fixture(scope="module")
def site(engine_available: None) -> Iterator[Site]:
    with a_rest_site() as site:
        yield site


@pytest.fixture(scope="module")
def thesis(site: Site, ipykernel_image: str) -> ProjectFolder:
    return site.house.project("thesis", ipykernel_image)


def started_at(container: str) -> str:
    client = connect(60.0)
    try:
        return str(client.inspect_container(container)["State"]["StartedAt"])
    finally:
        client.close()


# What is documented


def test_what_is_routed_is_documented() -> None:
    methods = ("get", "post", "put", "delete", "patch")
    documented = {
        (path, method) for path, item in OPENAPI["paths"].items() for method in item if method in methods
    }
    routed = {
        (re.sub(r"\(\?P<(\w+)>[^)]*\)", lambda found: NAMES[found[1]], f"/{path}"), method)
        for path, handler in [*handlers.TABLE, *job_handlers.TABLE, *package_handlers.TABLE]
        for method in methods
        if method in vars(handler)
    }
    assert ("/projects/{project}/jobs/{job}", "delete") in routed
    assert routed <= documented


def test_kinds_and_phases_are_documented() -> None:
    from typing import get_args

    from ds01_kernels.jobs import Kind, Phase

    properties = OPENAPI["components"]["schemas"]["Job"]["properties"]
    assert properties["kind"]["enum"] == list(get_args(Kind))
    assert properties["phase"]["enum"] == list(get_args(Phase))


# Containers


def test_deploy_restart_and_retire(site: Site, thesis: ProjectFolder) -> None:
    with listening(site.server) as ears:
        deployed = site.run(thesis, "deploy")
        assert (deployed["phase"], deployed["kind"], deployed["error"]) == ("done", "deploy", None)
        first = container_id(thesis.container)
        assert first is not None
        assert site.text(thesis, deployed["id"]) == f"{thesis.container} is running.\n"
        ears.hear_until(project=thesis.name, container=thesis.container, state="running")
        ears.hear_until(project=thesis.name, id=deployed["id"], kind="deploy", phase="done")
        assert ears.phases(deployed["id"]) == ["waiting", "swap", "done"]

        kernel = site.server.start_session(f"{thesis.name}/a.ipynb", "python3")
        with kernel.connected():
            kernel.run("x = 1; open('/tmp/kept', 'w').close()")
        refused = site.run(thesis, "retire")
        assert (refused["phase"], refused["error"]["reason"]) == ("failed", "kernels-running")
        assert "1 kernel of project" in refused["error"]["message"]
        assert refused["error"]["message"] in site.text(thesis, refused["id"])
        assert container_id(thesis.container) == first

        before = started_at(thesis.container)
        assert site.run(thesis, "restart")["phase"] == "done"
        assert started_at(thesis.container) > before
        assert container_id(thesis.container) == first
        ears.hear_until(container=thesis.container, state="stopped")
        # Jupyter starts the kernel again, without what it knew; the container's files are as they were.
        wait_for(lambda: kernel.state() in ("idle", "starting"), "the kernel did not come back")
        assert kernel.run("import os; print('x' in globals(), os.path.exists('/tmp/kept'))") == "False True\n"

        assert site.run(thesis, "retire", {"force": True})["phase"] == "done"
        ears.hear_until(container=thesis.container, state="removed")
        assert container_id(thesis.container) != first
        kernel.delete()

    listed = site.server.get(f"ds01/projects/{thesis.name}/jobs")
    for state in listed:
        check("Job", state)
    assert [state["kind"] for state in listed] == ["retire", "restart", "retire", "deploy"]
    assert "Traceback" not in site.server.said()


def test_what_is_not_there(site: Site) -> None:
    unbuilt = site.house.folder("unbuilt")
    assert site.server.get(f"ds01/projects/{unbuilt.name}/jobs") == []
    failed = site.run(unbuilt, "deploy")
    assert (failed["phase"], failed["error"]["reason"]) == ("failed", "not-built")
    nothing = site.run(unbuilt, "retire")
    assert nothing["phase"] == "done"
    assert site.text(unbuilt, nothing["id"]) == "There was no container.\n"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "projects/no-such/jobs"),
        ("GET", f"projects/no-such/jobs/{NO_JOB}"),
        ("GET", f"projects/{{p}}/jobs/{NO_JOB}"),
        ("GET", f"projects/{{p}}/jobs/{NO_JOB}/log"),
        ("GET", "projects/{p}/jobs/..%2f..%2fx"),
        ("GET", "projects/{p}/jobs/%00/log"),
        ("DELETE", f"projects/{{p}}/jobs/{NO_JOB}"),
        ("DELETE", "projects/{p}/jobs/x"),
        *(("POST", f"projects/no-such/{action}") for action in ("deploy", "retire", "restart", "terminal")),
    ],
)
def test_the_unknown_is_a_404_with_a_sentence(
    site: Site, thesis: ProjectFolder, method: str, path: str
) -> None:
    answer = site.server.request(method, f"ds01/{path.format(p=thesis.name)}")
    assert answer.status_code == 404
    check("Error", answer.json())
    assert answer.json()["reason"] in ("not-found", "no-such-project")


# Jobs


def test_a_job_is_followed_and_cancelled(site: Site) -> None:
    project = site.house.folder("slow")
    with listening(site.server) as ears, hold_briefly(project.path):
        id_ = site.start(project, "deploy")
        wait_for(lambda: site.job(project, id_)["phase"] == "swap", "it does not begin")
        running = site.job(project, id_)
        assert running["progress"] == {"step": 0, "steps": 0, "name": "Starting the container"}
        assert site.log(project, id_) == {"text": "", "offset": 0, "done": False}
        # A page that is opened now finds it.
        assert id_ in [one["id"] for one in site.server.get("ds01/jobs")]
        # A second click joins the first.
        assert site.start(project, "deploy") == id_
        path = f"ds01/projects/{project.name}/jobs/{id_}"
        with site.denying("ds01/execute"):
            assert site.server.request("DELETE", path).status_code == 403
        assert site.job(project, id_)["cancelling"] is False
        for _ in range(2):
            answer = site.server.request("DELETE", path)
            assert answer.status_code == 200
            check("Job", answer.json())
        cancelled = site.over(project, id_)
        assert (cancelled["phase"], cancelled["error"]) == ("cancelled", None)
        ears.hear_until(id=id_, phase="cancelled")
        assert site.server.request("DELETE", path).json() == cancelled


def test_a_log_is_read_from_any_offset(site: Site) -> None:
    project = site.house.folder("reading")
    failed = site.run(project, "deploy")
    text = site.text(project, failed["id"])
    assert text.endswith(".\n")
    size = len(text.encode())
    for offset in (0, 1, size - 1, size, size + 100):
        assert site.log(project, failed["id"], offset) == {
            "text": text[offset:],
            "offset": size,
            "done": True,
        }
    for offset in ("-1", "x", "1.5", "", "9" * 5000, "٣"):
        path = f"ds01/projects/{project.name}/jobs/{failed['id']}/log"
        answer = site.server.http.get(site.server.url + path, params={"offset": offset}, timeout=LIMIT)
        assert (answer.status_code, answer.json()["reason"]) == (400, "bad-input"), offset


def test_jobs_outlive_their_server(site: Site) -> None:
    """A killed server's job has failed for its successor; a server without terminals says so."""
    project = site.house.folder("killed")
    port = free_port()
    with hold_briefly(project.path):
        with site.house.server(port=port) as server:
            doomed = Site(site.house, server)
            id_ = doomed.start(project, "deploy")
            wait_for(lambda: doomed.job(project, id_)["phase"] == "swap", "it does not begin")
            # Seen by another server while it runs.
            wait_for(lambda: site.job(project, id_)["phase"] == "swap", "the other server sees nothing")
            refused = doomed.post(f"projects/{project.name}/terminal")
            assert (refused.status_code, refused.json()["reason"]) == (404, "not-found")
            assert "no terminals" in refused.json()["message"]
            server.kill()
        state = site.job(project, id_)
        assert (state["phase"], state["error"]["reason"]) == ("failed", "abandoned")
        assert site.log(project, id_)["done"] is True


# Terminals


def test_a_terminal_is_inside_the_container(site: Site, thesis: ProjectFolder) -> None:
    answer = site.post(f"projects/{thesis.name}/terminal")
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["name"]
    name = answer.json()["name"]
    assert name in [terminal["name"] for terminal in site.server.get("api/terminals")]
    with connected(site.server, f"terminals/websocket/{name}") as socket:
        # Quoted apart, so that what is typed is not what is looked for; typed before the shell is there.
        socket.send(json.dumps(["stdin", "echo a'b'c:$DS01_PROJECT:$PWD:\r"]))
        said = ""
        for kind, *rest in received(socket):
            said += rest[0] if kind == "stdout" else ""
            if f"abc:{thesis.name}:/workspace:" in said:
                break
        else:
            pytest.fail(f"the terminal says {said!r}")
    assert site.server.request("DELETE", f"api/terminals/{name}").status_code == 204


def test_a_terminal_of_a_project_that_is_not_built_says_so(site: Site) -> None:
    project = site.house.folder("nothing-yet")
    answer = site.post(f"projects/{project.name}/terminal")
    assert (answer.status_code, answer.json()["reason"]) == (404, "not-built")


# New projects


def test_a_project_is_made(site: Site, thesis: ProjectFolder) -> None:
    def make(**body: str) -> str:
        name = f"made-{secrets.token_hex(4)}"
        answer = site.post("projects", {"name": name, **body})
        assert answer.status_code == 201, answer.text
        check("Project", answer.json())
        made = answer.json()
        assert (made["name"], made["state"], made["error"]) == (name, "missing", None)
        return (site.house.workspace / name / "Dockerfile").read_text()

    assert make().endswith(FROM_BASE)
    assert make(template="python").startswith("FROM python:")
    original = (thesis.path / "Dockerfile").read_text()
    assert make(**{"from": thesis.name}) == original
    assert make(**{"from": str(thesis.path)}) == original


def test_a_project_is_made_from_nothing_outside_the_workspaces(site: Site, thesis: ProjectFolder) -> None:
    outside = site.house.root / "outside"
    outside.mkdir()
    (outside / "Dockerfile").write_text("FROM secret\n")
    for source in (
        str(outside),
        "../outside",
        f"{site.house.workspace}/../outside",
        str(site.house.workspace),
        "",
        "~",
    ):
        name = f"bad-{secrets.token_hex(4)}"
        answer = site.post("projects", {"name": name, "from": source})
        assert (answer.status_code, answer.json()["reason"]) == (400, "bad-input"), source
        assert not (site.house.workspace / name).exists()


def test_a_project_is_not_made_in_the_way_of_another(site: Site, thesis: ProjectFolder) -> None:
    before = (thesis.path / "Dockerfile").read_bytes()
    for name in (thesis.name, thesis.name.upper()):
        answer = site.post("projects", {"name": name})
        assert (answer.status_code, answer.json()["reason"]) == (409, "conflict")
    assert (thesis.path / "Dockerfile").read_bytes() == before
    assert not (site.house.workspace / thesis.name.upper()).exists()
    for name in ("../x", "a b", "", ".", "x" * 101):
        answer = site.post("projects", {"name": name})
        assert (answer.status_code, answer.json()["reason"]) == (400, "bad-project-name")
    link = site.house.workspace / f"link-{secrets.token_hex(4)}"
    link.symlink_to(site.house.root)
    assert site.post("projects", {"name": link.name}).status_code == 409
    link.unlink()
    assert not (site.house.root / "Dockerfile").exists()


# Bodies and permissions


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("projects", b"", "'name' is missing"),
        ("projects", b"{", "not JSON"),
        ("projects", b"\xff", "not JSON"),
        ("projects", b"[" * 100_000, "not JSON"),
        ("projects", b'["name"]', "must be a JSON object"),
        ("projects", b"null", "must be a JSON object"),
        ("projects", b'{"name": 1}', "'name' must be a text"),
        ("projects", b'{"name": "x", "nome": "y"}', "'nome' is not known"),
        ("projects", b'{"name": "x", "template": "no-such"}', "no template 'no-such'"),
        ("projects", b'{"name": "x", "template": "debian", "from": "y"}', "not both"),
        ("projects", b" " * (1 << 20) + b"{}", "larger than 1 MiB"),
        ("projects/{p}/retire", b'{"force": 1}', "'force' must be true or false"),
        ("projects/{p}/retire", b'{"force": "true"}', "'force' must be true or false"),
        ("projects/{p}/deploy", b'{"force": true}', "'force' is not known"),
        ("projects/{p}/restart", b"[]", "must be a JSON object"),
        ("projects/{p}/terminal", b'{"shell_command": ["sh"]}', "'shell_command' is not known"),
    ],
)
def test_a_bad_body_is_a_sentence(
    site: Site, thesis: ProjectFolder, path: str, body: bytes, said: str
) -> None:
    url = f"{site.server.url}ds01/{path.format(p=thesis.name)}"
    answer = site.server.http.post(url, data=body, timeout=LIMIT)
    assert (answer.status_code, answer.json()["reason"]) == (400, "bad-input")
    assert said in answer.json()["message"]
    assert not (site.house.workspace / "x").exists()


POSTS = ("projects", *(f"projects/{{p}}/{action}" for action in ("deploy", "retire", "restart", "terminal")))


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        *(("POST", path, "execute") for path in POSTS),
        ("DELETE", f"projects/{{p}}/jobs/{NO_JOB}", "execute"),
        ("GET", "projects/{p}/jobs", "read"),
        ("GET", f"projects/{{p}}/jobs/{NO_JOB}", "read"),
        ("GET", f"projects/{{p}}/jobs/{NO_JOB}/log", "read"),
    ],
)
def test_only_who_is_authorized_may(
    site: Site, thesis: ProjectFolder, method: str, path: str, action: str
) -> None:
    before = container_id(thesis.container)
    path = f"ds01/{path.format(p=thesis.name)}"
    with site.denying(f"ds01/{action}"):
        denied = site.server.request(method, path, {"name": "denied"} if method == "POST" else None)
        assert denied.status_code == 403
        check("Error", denied.json())
    with requests.Session() as stranger:
        stranger.trust_env = False
        answer = stranger.request(method, site.server.url + path, json={"name": "denied"}, timeout=LIMIT)
        assert answer.status_code == 403
    assert not (site.house.workspace / "denied").exists()
    assert container_id(thesis.container) == before


def test_a_page_of_somebody_else_cannot_post(site: Site, thesis: ProjectFolder) -> None:
    """A browser that is logged in sends its cookie wherever a page tells it to, but no XSRF token."""
    with requests.Session() as browser:
        browser.trust_env = False
        browser.get(f"{site.server.url}api/status", params={"token": TOKEN}, timeout=LIMIT)
        assert any(cookie.name.startswith("username-") for cookie in browser.cookies)
        url = f"{site.server.url}ds01/projects/{thesis.name}"
        assert browser.get(f"{url}/jobs", timeout=LIMIT).status_code == 200
        before = browser.get(f"{url}/jobs", timeout=LIMIT).json()
        assert browser.post(f"{url}/retire", data='{"force": true}', timeout=LIMIT).status_code == 403
        assert browser.get(f"{url}/jobs", timeout=LIMIT).json() == before
