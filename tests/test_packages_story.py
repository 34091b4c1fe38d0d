"""From an install to a Dockerfile, through the doors of users: notebook, command line, REST, events."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import FROM_BASE, ProjectFolder
from packaging.utils import canonicalize_name
from rest import OWN, Site, a_rest_site, listening
from servers import Kernel, check, wait_for
from wheels import make_wheel

from ds01_kernels.dockerfile import find_block, parse
from ds01_kernels.engine.docker_connection import connect

pytestmark = pytest.mark.engine

HEADING = "# Custom additional packages"
PIP = ["/usr/bin/python", "-m", "pip", "--disable-pip-version-check"]
QUIET = f"{' '.join(PIP)} install -q --root-user-action=ignore --no-index --no-deps"


@pytest.fixture(scope="module")
def site(engine_available: None) -> Iterator[Site]:
    with a_rest_site() as site:
        yield site


@pytest.fixture(scope="module")
def thesis(site: Site) -> ProjectFolder:
    """A built project; the tests that use it are one story, told in their order."""
    return built(site, "thesis")


@pytest.fixture(scope="module")
def notebook(site: Site, thesis: ProjectFolder) -> Iterator[Kernel]:
    kernel = site.server.start_session(f"{thesis.name}/a.ipynb", f"ds01-{thesis.name}")
    with kernel.connected():
        yield kernel


def built(site: Site, name: str, dockerfile: str = FROM_BASE) -> ProjectFolder:
    project = site.house.folder(name, dockerfile)
    said(site, "image-update", project.name)
    return project


def deployed(site: Site, name: str, dockerfile: str = FROM_BASE) -> ProjectFolder:
    project = built(site, name, dockerfile)
    said(site, "container-deploy", project.name)
    return project


def said(site: Site, *words: str) -> str:
    """What a command prints that succeeds and complains of nothing."""
    done = site.house.ds01(*words)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a command that fails and prints nothing."""
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.removesuffix("\n").isprintable(), done
    return done.stderr


def inside(project: ProjectFolder, *argv: str) -> str:
    """What a command prints in the container, as ``docker exec`` runs it."""
    client = connect(60.0)
    try:
        started = client.exec_create(project.container, list(argv))
        output = client.exec_start(started["Id"]).decode()
        assert client.exec_inspect(started["Id"])["ExitCode"] == 0, output
    finally:
        client.close()
    return str(output)


def listed(site: Site, project: ProjectFolder) -> Any:
    found = site.server.get(f"ds01/projects/{project.name}/packages")
    check("Packages", found)
    return found


def drift(site: Site, project: ProjectFolder) -> dict[str, dict[str, Any]]:
    """The items by list and name."""
    return {
        kind: {item["name"]: item for item in items} for kind, items in listed(site, project)["drift"].items()
    }


def preview(site: Site, project: ProjectFolder, body: Any = None) -> Any:
    answer = site.post(f"projects/{project.name}/rebuild/preview", body or {})
    assert answer.status_code == 200, answer.text
    check("Preview", answer.json())
    return answer.json()


def save(site: Site, project: ProjectFolder, shown: Any, **more: Any) -> Any:
    """The answer to a save of what a preview has shown."""
    body = {"sha256": shown["sha256"], "result_sha256": shown["result_sha256"], **more}
    return site.post(f"projects/{project.name}/save", body)


def dockerfile(project: ProjectFolder) -> str:
    return (project.path / "Dockerfile").read_text()


def requirements(text: str) -> list[str]:
    """What the block of that Dockerfile installs, as a shell sees it."""
    parsed = parse(text)
    block = find_block(parsed, parsed.stage())
    assert block is not None
    assert block.run is not None
    assert text.count(HEADING) == 1
    words = shlex.split(parsed.joined(block.run)[0])
    assert words[:3] == ["RUN", "pip", "install"]
    return [word for word in words[3:] if not word.startswith("-")]


def gone(project: ProjectFolder) -> None:
    """Its container was recycled, by somebody who did not ask us."""
    client = connect(60.0)
    try:
        client.remove_container(project.container, force=True)
    finally:
        client.close()


# The story of one project


def test_an_install_is_seen_whoever_it_was(site: Site, thesis: ProjectFolder, notebook: Kernel) -> None:
    name = thesis.name
    schema = f"{OWN}/drift/v1"
    with listening(site.server) as ears:

        def seen(added: int) -> None:
            # Nothing is asked of the server meanwhile.
            ears.hear_until(schema_id=schema, project=name, added=added, changed=0, removed=0)

        notebook.run("%pip install -q six")
        seen(1)
        notebook.run("!pip install -q 'attrs>=20'")
        seen(2)
        said(site, "install", name, "packaging")
        seen(3)
        said(site, "shell", name, "--", "pip", "install", "-q", "idna")
        seen(4)
        inside(thesis, *PIP, "install", "-q", "iniconfig")
        seen(5)
    found = drift(site, thesis)
    assert found["changed"] == found["removed"] == found["unpinnable"] == {}
    assert list(found["added"]) == ["attrs", "idna", "iniconfig", "packaging", "six"]
    assert all(item["requested"] for item in found["added"].values())
    assert {item["origin"]["kind"] for item in found["added"].values()} == {"index"}
    assert {one: item["spec"] for one, item in found["added"].items() if item["spec"]} == {
        "six": "six",
        "attrs": "attrs>=20",
        "packaging": "packaging",
    }


def test_the_list_is_pips(site: Site, thesis: ProjectFolder) -> None:
    answer = listed(site, thesis)
    pips = json.loads(inside(thesis, *PIP, "list", "--format=json"))
    assert {(one["name"], one["version"]) for one in answer["packages"]} == {
        (canonicalize_name(one["name"]), one["version"]) for one in pips
    }
    assert (answer["python"], answer["running"], answer["broken"]) == ("/usr/bin/python", True, [])
    assert json.loads(said(site, "packages", thesis.name, "--json")) == answer
    shown = said(site, "packages", thesis.name)
    assert re.search(r"^six +\S+ +yes +index$", shown, re.MULTILINE)
    assert re.search(r"^Not in the image: attrs \S+, idna ", shown, re.MULTILINE)
    assert "Lost" not in shown


def test_what_would_be_written_is_one_block(site: Site, thesis: ProjectFolder) -> None:
    before = {path.name: path.read_bytes() for path in thesis.path.iterdir()}
    diff = said(site, "save", thesis.name, "--diff")
    shown = preview(site, thesis)
    assert diff == shown["diff"]
    told = json.loads(said(site, "save", thesis.name, "--diff", "--json"))
    check("Preview", told)
    assert told == {**shown, "kernels": []}
    assert [kernel["path"] for kernel in shown["kernels"]] == [f"{thesis.name}/a.ipynb"]
    assert {path.name: path.read_bytes() for path in thesis.path.iterdir()} == before
    changed = [line for line in diff.splitlines() if line[:1] in "+-"][2:]
    assert diff.count("@@ ") == 1
    assert changed[:3] == ["+", f"+{HEADING}", "+RUN pip install --no-cache-dir --break-system-packages \\"]
    assert all(re.fullmatch(r'\+    "[a-z]+==[0-9.]+"( \\)?', line) for line in changed[3:])
    assert len(changed) == 8
    assert shown["packages"] == [line.strip('+" \\') for line in changed[3:]]


def test_unpinned_and_chosen_ones(site: Site, thesis: ProjectFolder) -> None:
    typed = preview(site, thesis, {"pin": False})["packages"]
    assert typed == ["attrs>=20", "idna", "iniconfig", "packaging", "six"]
    told = json.loads(said(site, "save", thesis.name, "--unpinned", "--diff", "--json"))
    assert told["packages"] == typed
    assert preview(site, thesis, {"packages": []})["diff"] == ""
    chosen = json.loads(said(site, "save", thesis.name, "rich[jupyter]~=13.0", "six", "--diff", "--json"))
    assert chosen["packages"] == ["rich[jupyter]~=13.0", "six"]
    assert '"rich[jupyter]~=13.0"' in chosen["diff"]


def test_what_has_changed_since_the_preview_is_a_conflict(
    site: Site, thesis: ProjectFolder, notebook: Kernel
) -> None:
    text = dockerfile(thesis)
    old = preview(site, thesis)
    notebook.run("!pip uninstall -q -y iniconfig")
    answer = save(site, thesis, old)
    assert (answer.status_code, answer.json()["reason"]) == (409, "conflict")
    check("Error", answer.json())
    assert answer.json()["message"].startswith("What is installed in the container was changed since the pre")
    new = preview(site, thesis)
    (thesis.path / "Dockerfile").write_text(f"{text}# mine\n")
    answer = save(site, thesis, new)
    assert (answer.status_code, answer.json()["reason"]) == (409, "conflict")
    assert answer.json()["message"].startswith("Dockerfile was changed since the preview")
    assert dockerfile(thesis) == f"{text}# mine\n"
    (thesis.path / "Dockerfile").write_text(text)


def test_saved_and_built_there_is_no_drift(site: Site, thesis: ProjectFolder, notebook: Kernel) -> None:
    text = dockerfile(thesis)
    (thesis.path / "Dockerfile").chmod(0o640)
    shown = preview(site, thesis)
    answer = save(site, thesis, shown)
    assert answer.status_code == 200, answer.text
    check("Plan", answer.json())
    assert answer.json() == {key: shown[key] for key in answer.json()}
    assert requirements(dockerfile(thesis)) == shown["packages"]
    assert dockerfile(thesis).startswith(text)
    assert (thesis.path / "Dockerfile").stat().st_mode & 0o777 == 0o640
    assert kept(site, thesis) == [text]
    again = said(site, "save", thesis.name)
    assert again == "There is nothing to save: Dockerfile has it all.\n"
    assert json.loads(said(site, "save", thesis.name, "--json"))["diff"] == ""

    said(site, "image-update", thesis.name)
    site.run(thesis, "retire", {"force": True})
    # Of a container that is gone only that is lost which the image lacks.
    for answer in (listed(site, thesis), json.loads(said(site, "packages", thesis.name, "--json"))):
        assert not any(answer["lost"].values()), answer["lost"]
        assert not any(answer["drift"].values()), answer["drift"]
    wait_for(lambda: notebook.execute("import attrs, six, packaging").status == "ok", "no new container")
    answer = listed(site, thesis)
    assert not any(answer["drift"].values()), answer["drift"]
    assert not any(answer["lost"].values()), answer["lost"]
    status = json.loads(said(site, "status", thesis.name, "--json"))
    check("ProjectDetails", status)
    assert (status["drift"], status["lost"]) == ({"added": 0, "changed": 0, "removed": 0}, None)


def kept(site: Site, project: ProjectFolder) -> list[str]:
    """The texts that were written over last."""
    files = (site.house.root / "data" / "ds01" / "projects").glob(f"{project.name}-*/saved-*.json")
    return [json.loads(file.read_text())["text"] for file in files]


def test_what_was_uninstalled_leaves_the_block(site: Site, thesis: ProjectFolder, notebook: Kernel) -> None:
    notebook.run("!pip uninstall -q -y idna")
    wait_for(lambda: "idna" in drift(site, thesis)["removed"], "idna is still there")
    assert "In the image, but uninstalled: idna " in said(site, "packages", thesis.name)
    before = requirements(dockerfile(thesis))
    told = said(site, "save", thesis.name)
    assert told.startswith(f"Wrote {thesis.path}/Dockerfile: without idna.\n")
    assert requirements(dockerfile(thesis)) == [one for one in before if not one.startswith("idna==")]


# Where packages come from, and what a Dockerfile says already

ODD = f"""\
FROM {{below}}
RUN pip install --break-system-packages idna==3.4 iniconfig==2.0.0

{HEADING}
RUN pip install --no-cache-dir --break-system-packages \\
    "six==1.16.0" \\
    "toml==0.10.2"
"""

#: Where a package of that name came from, as pip would have written it.
ORIGINS = {
    "from_git": {
        "url": "https://git.example/u/from_git.git",
        "vcs_info": {"vcs": "git", "commit_id": "a" * 40},
    },
    "from_url": {
        "url": "https://host.example/from_url-1.0.zip",
        "archive_info": {"hashes": {"sha256": "b" * 64}},
    },
    "from_private": {"url": "https://user:secret@host.example/p-1.0.zip", "archive_info": {}},
}


@pytest.fixture(scope="module")
def odd(site: Site) -> ProjectFolder:
    below = built(site, "below", f"{FROM_BASE}RUN pip install -q --break-system-packages pluggy==1.5.0\n")
    project = deployed(site, "odd", ODD.format(below=below.image))
    wheels = project.path / "wheels"
    wheels.mkdir()
    make_wheel(wheels, "helper")
    make_wheel(wheels, "many", requires=['helper; extra == "fast"', 'nothing-of-the-kind; extra == "slow"'])
    make_wheel(wheels, "local")
    source = project.path / "source"
    source.mkdir()
    (source / "setup.py").write_text("from setuptools import setup; setup(name='mine', py_modules=[])")
    script = [
        f"{' '.join(PIP)} install -q --no-index --find-links wheels 'many[fast]>=1'",
        f"{QUIET} wheels/local-1.0-py3-none-any.whl",
        f"{QUIET} --no-build-isolation -e source",
        f"{' '.join(PIP)} install -q idna==3.7 six==1.17.0",
        f"{' '.join(PIP)} uninstall -q -y pluggy toml iniconfig",
    ]
    for name, origin in ORIGINS.items():
        make_wheel(wheels, name)
        script.append(f"{QUIET} wheels/{name}-1.0-py3-none-any.whl")
        place = f"$(echo /usr/local/lib/python3*/dist-packages)/{name}-1.0.dist-info"
        script.append(f"echo {shlex.quote(json.dumps(origin))} > {place}/direct_url.json")
    inside(project, "/bin/sh", "-exc", "\n".join(script))
    return project


def test_each_origin_is_told(site: Site, odd: ProjectFolder) -> None:
    found = drift(site, odd)
    origins = {name: item["origin"]["kind"] for items in found.values() for name, item in items.items()}
    assert origins == {
        "many": "index",
        "from-git": "vcs",
        "from-url": "url",
        "idna": "index",
        "six": "index",
        "toml": "index",
        "pluggy": "index",
        "iniconfig": "index",
        "from-private": "url",
        "local": "local",
        "mine": "editable",
    }
    assert {name: item["from"] for name, item in found["changed"].items()} == {"idna": "3.4", "six": "1.16.0"}
    assert list(found["removed"]) == ["iniconfig", "pluggy", "toml"]
    assert found["added"]["many"]["extras"] == ["fast"]
    assert found["added"]["many"]["dependencies"] == [{"name": "helper", "version": "1.0"}]
    assert {name: item["reason"] for name, item in found["unpinnable"].items()} == {
        "from-private": "it came from an address that needs credentials",
        "local": "it was installed from file:///workspace/wheels/local-1.0-py3-none-any.whl, "
        "which a build cannot reach",
        "mine": "it is installed in editable mode from file:///workspace/source",
    }
    assert "secret" not in site.server.request("GET", f"ds01/projects/{odd.name}/packages").text


def test_each_is_written_or_left_with_the_reason(site: Site, odd: ProjectFolder) -> None:
    text = dockerfile(odd)
    done = site.house.ds01("save", odd.name, "--diff")
    assert done.returncode == 0
    left = dict(line.split(" is left as it is: ") for line in done.stderr.splitlines())
    assert set(left) == {"from-private", "local", "mine", "idna", "iniconfig", "pluggy"}
    assert "line 2" in left["idna"]
    assert "line 2" in left["iniconfig"]
    assert left["pluggy"] == "it comes with the image below."
    assert "editable mode" in left["mine"]
    shown = preview(site, odd)
    assert {one["name"]: f"{one['reason']}." for one in shown["unpinnable"]} == left
    assert (shown["packages"], shown["removed"]) == (
        [
            f"from-git @ git+https://git.example/u/from_git.git@{'a' * 40}",
            f"from-url @ https://host.example/from_url-1.0.zip#sha256={'b' * 64}",
            "many[fast]==1.0",
            "six==1.17.0",
        ],
        ["toml"],
    )
    done = site.house.ds01("save", odd.name)
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 6)
    above = text.partition("RUN pip install --no-cache-dir")[0]
    assert dockerfile(odd).startswith(above)
    assert requirements(dockerfile(odd)) == ["six==1.17.0", *shown["packages"][:3]]
    assert "secret" not in dockerfile(odd)
    done = site.house.ds01("save", odd.name)
    assert done.stdout == "There is nothing to save: Dockerfile has it all.\n"
    assert "toml is left as it is: Dockerfile does not name it.\n" in done.stderr


# Containers that somebody else removes


def test_what_was_in_a_container_that_is_gone_comes_back(site: Site) -> None:
    project = built(site, "recycled")
    wheels = project.path / "wheels"
    wheels.mkdir()
    make_wheel(wheels, "handmade")
    # By the command line alone: no server has reached this container.
    said(site, "install", project.name, "six==1.16.0")
    said(site, "shell", project.name, "--", *QUIET.split(), "wheels/handmade-1.0-py3-none-any.whl")
    gone(project)

    def offered() -> set[str]:
        names = {item["name"] for items in listed(site, project)["lost"].values() for item in items}
        status = site.server.get(f"ds01/projects/{project.name}")
        check("ProjectDetails", status)
        (row,) = [one for one in site.server.get("ds01/projects") if one["name"] == project.name]
        counts = {"added": 1, "changed": 0, "removed": 0} if names else None
        assert status["lost"] == row["lost"] == counts, (status, row)
        return names

    assert offered() == {"six", "handmade"}
    shown = said(site, "packages", project.name)
    lost = r"^Lost with an earlier container: six 1.16.0, handmade 1.0 \(it was"
    assert re.search(lost, shown, re.MULTILINE)
    assert f"`jupyter ds01 restore {project.name}`" in shown
    for words in (["status", project.name], ["list"]):
        assert f"`jupyter ds01 restore {project.name}`" in site.house.ds01(*words).stderr
    # Another server knows too, and a new container changes nothing.
    said(site, "container-deploy", project.name)
    with site.house.server() as other:
        assert [one["name"] for one in other.get(f"ds01/projects/{project.name}/packages")["lost"]["added"]]
    assert offered() == {"six", "handmade"}
    restored = said(site, "restore", project.name)
    assert "Successfully installed six-1.16.0" in restored
    assert "handmade is not installed again: it was installed from file:///workspace/wheels/" in restored
    assert offered() == set()
    assert drift(site, project)["added"]["six"]["version"] == "1.16.0"
    assert said(site, "restore", project.name).endswith("Nothing was lost.\n")

    # Once more, and this time it is made permanent.
    gone(project)
    assert offered() == {"six"}
    (lost,) = listed(site, project)["lost"]["added"]
    said(site, "save", project.name, f"{lost['name']}=={lost['version']}")
    assert offered() == set()
    said(site, "image-update", project.name)
    said(site, "container-deploy", project.name)
    answer = listed(site, project)
    assert not any([*answer["drift"].values(), *answer["lost"].values()]), answer
    assert "six" in {one["name"] for one in answer["packages"]}


def test_a_kernel_that_comes_back_in_a_new_container_says_what_is_lost(
    site: Site, thesis: ProjectFolder, notebook: Kernel
) -> None:
    notebook.run("%pip install -q toml")
    wait_for(lambda: "toml" in drift(site, thesis)["added"], "toml was not seen")
    with listening(site.server) as ears:
        gone(thesis)
        ears.hear_until(schema_id=f"{OWN}/drift/v1", project=thesis.name, added=0)
    wait_for(lambda: notebook.execute("import six").status == "ok", "no new container")
    answer = listed(site, thesis)
    assert [item["name"] for item in answer["lost"]["added"]] == ["toml"]
    state = site.run(thesis, "restore")
    assert state["phase"] == "done", state
    assert notebook.run("import toml; print(toml.__name__)") == "toml\n"
    assert not any(listed(site, thesis)["lost"].values())


# requirements.txt


def test_a_project_may_prefer_its_requirements_file(site: Site) -> None:
    text = (
        f"{FROM_BASE}COPY requirements.txt /tmp/\n"
        "RUN pip install --no-cache-dir --break-system-packages -r /tmp/requirements.txt\n"
    )
    project = site.house.folder("listed", text)
    (project.path / "pyproject.toml").write_text('[tool.ds01]\npackages = "requirements"\n')
    file = project.path / "requirements.txt"
    file.write_text("# what we need\nidna==3.4\n")
    said(site, "image-update", project.name)
    said(site, "install", project.name, "six==1.16.0")
    shown = preview(site, project)
    assert shown["file"] == "requirements.txt"
    assert "--- a/requirements.txt" in shown["diff"]
    file.write_text("# what we need\nidna==3.7\n")
    answer = save(site, project, shown)
    assert (answer.status_code, answer.json()["reason"]) == (409, "conflict")
    assert answer.json()["message"].startswith("requirements.txt was changed since the preview")
    state = site.run(project, "rebuild", {**sums(preview(site, project)), "kernels": []})
    assert state["phase"] == "done", state
    assert dockerfile(project) == text
    assert file.read_text() == f"# what we need\nidna==3.7\n\n{HEADING}\nsix==1.16.0\n"
    answer = listed(site, project)
    versions = {one["name"]: one["version"] for one in answer["packages"]}
    assert (versions["six"], versions["idna"]) == ("1.16.0", "3.7")
    assert not any([*answer["drift"].values(), *answer["lost"].values()]), answer
    assert kept(site, project) == []
    said(site, "shell", project.name, "--", "pip", "uninstall", "-q", "-y", "six")
    assert said(site, "save", project.name).startswith(f"Wrote {file}: without six.\n")
    assert file.read_text() == "# what we need\nidna==3.7\n"
    assert len(kept(site, project)) == 1


def sums(shown: Any) -> dict[str, str]:
    return {"sha256": shown["sha256"], "result_sha256": shown["result_sha256"]}


# The editor alone


def test_the_editor_can_be_used_alone(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(FROM_BASE)
    done = site.house.run("-m", "ds01_kernels.dockerfile", str(file), "six==1.17.0")
    assert (done.returncode, done.stderr) == (0, "")
    assert requirements(done.stdout) == ["six==1.17.0"]
    assert file.read_text() == FROM_BASE
    done = site.house.run("-m", "ds01_kernels.dockerfile", str(file), "six; rm -rf /")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
