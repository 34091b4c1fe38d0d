"""Projects that are rebuilt in the tests, packages for them, and what has to agree afterwards."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import FROM_BASE, ProjectFolder
from live import docker
from servers import LIMIT, House, Server, wait_for

from ds01_kernels.images import LABEL_DOCKERFILE, digest
from ds01_kernels.rebuild import PHASES

#: Packages come from the project's folder: nothing is asked for outside.
OFFLINE = FROM_BASE + "COPY wheels /wheels\nENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels\n"


def wheel(
    folder: Path, name: str, version: str, *, requires: Sequence[str] = (), files: Mapping[str, str] = {}
) -> None:
    """https://packaging.python.org/en/latest/specifications/binary-distribution-format/"""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    contents = {
        **(files or {f"{name}.py": f"__version__ = {version!r}\n"}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},{_hash(text)},{len(text.encode())}\n" for path, text in contents.items())
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in {**contents, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            # The same date in each: it is part of what the builder looks at for its cache.
            archive.writestr(zipfile.ZipInfo(path), text)


def _hash(text: str) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


@dataclass(frozen=True)
class Rebuilt:
    """A project of a house, with everything that a rebuild of it may change."""

    house: House
    folder: ProjectFolder

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def url(self) -> str:
        return f"ds01/projects/{self.name}"

    @property
    def dockerfile(self) -> Path:
        return self.folder.path / "Dockerfile"

    @property
    def kernel(self) -> str:
        return f"ds01-{self.name}"

    def image(self, tag: str = "latest") -> str | None:
        """The id of the image of that tag."""
        reference = self.folder.image.replace(":latest", f":{tag}")
        with docker() as client:
            found = client.images(filters={"reference": reference})
            return str(found[0]["Id"]) if found else None

    def containers(self) -> dict[str, dict[str, Any]]:
        """What is called like the project's container, or stands beside it, by the ends of their names."""
        with docker() as client:
            label = f"ds01-kernels.path={self.folder.path}"
            found = client.containers(all=True, filters={"label": label})
        names = {one["Names"][0].removeprefix("/").removeprefix(self.folder.container): one for one in found}
        return dict(sorted(names.items()))

    def container(self) -> str:
        return str(self.containers()[""]["Id"])

    def tags(self) -> list[str]:
        with docker() as client:
            found = client.images(name=self.folder.image.rpartition(":")[0])
        return sorted(tag.rpartition(":")[2] for one in found for tag in one["RepoTags"] or ())

    def dangling(self) -> list[str]:
        """Images of this project that have no name; those that containers use are not counted."""
        label = f"ds01-kernels.path={self.folder.path}"
        used = {one["ImageID"] for one in self.containers().values()}
        with docker() as client:
            found = client.images(filters={"label": label, "dangling": True})
        return [one["Id"] for one in found if one["Id"] not in used]

    @property
    def journal(self) -> list[Path]:
        return list((self.house.root / "data" / "ds01" / "projects").glob(f"{self.name}-*/rebuild-*.json"))

    def state(self) -> tuple[bytes, str | None, str | None, dict[str, str]]:
        """All that a rebuild which failed leaves as it was."""
        containers = {end: one["Id"] for end, one in self.containers().items()}
        return self.dockerfile.read_bytes(), self.image(), self.image("previous"), containers

    def nothing_is_left(self) -> None:
        """Of no rebuild, but for a container with kernels that did not agree."""
        assert not [end for end in self.containers() if end and ".old-" not in end], self.containers()
        assert not [tag for tag in self.tags() if tag.startswith("candidate")]
        assert self.journal == []
        assert self.dangling() == []

    def agree(self) -> None:
        """Dockerfile, image and container belong together, whichever they are."""
        with docker() as client:
            image = client.inspect_image(self.folder.image)
            container = client.inspect_container(self.folder.container)
        text = self.dockerfile.read_text()
        assert image["Config"]["Labels"][LABEL_DOCKERFILE] == digest(text), text
        assert container["Image"] == image["Id"]
        assert container["State"]["Status"] == "running"
        self.nothing_is_left()

    def jobs(self) -> list[dict[str, Any]]:
        """The states of all jobs, as they are on disk."""
        found = (self.house.root / "data" / "ds01" / "projects").glob(f"{self.name}-*/jobs/*/state.json")
        return [json.loads(path.read_text())["state"] for path in found]

    def cli(self, verb: str, *words: str, **more: Any) -> str:
        """What ``jupyter ds01`` prints; it has to succeed."""
        done = self.house.ds01(verb, self.name, *words, **more)
        assert done.returncode == 0, f"{verb}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def refused(self, verb: str, *words: str, **more: Any) -> str:
        """The sentence of a command that has to fail."""
        done = self.house.ds01(verb, self.name, *words, **more)
        assert done.returncode == 1, f"{verb}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr


def a_project(house: House, name: str = "p", dockerfile: str = OFFLINE, *, built: bool = True) -> Rebuilt:
    """It has the packages ``tiny`` 1.0 and 2.0, ``needy`` (of tiny below 2) and a useless ``ipykernel``."""
    made = Rebuilt(house, house.folder(name, dockerfile))
    wheels = made.folder.path / "wheels"
    wheel(wheels, "tiny", "1.0")
    wheel(wheels, "tiny", "2.0")
    wheel(wheels, "needy", "1.0", requires=["tiny<2"])
    wheel(wheels, "ipykernel", "99.0", files={"ipykernel/__init__.py": "raise ImportError('of no use')\n"})
    if built:
        made.cli("image-update")
    return made


def preview(server: Server, project: Rebuilt, **body: Any) -> dict[str, Any]:
    answer = server.request("POST", f"{project.url}/rebuild/preview", body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def order(server: Server, project: Rebuilt, *, kernels: Sequence[str] | None = None, **body: Any) -> Any:
    """Preview and ask for a rebuild; the answer. By default all kernels are restarted."""
    seen = preview(server, project, **body)
    sums = {name: seen[name] for name in ("sha256", "result_sha256")}
    agreed = [kernel["id"] for kernel in seen["kernels"]] if kernels is None else list(kernels)
    return server.request("POST", f"{project.url}/rebuild", {**body, **sums, "kernels": agreed})


def begin(server: Server, project: Rebuilt, **more: Any) -> str:
    """The id of the job."""
    answer = order(server, project, **more)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def job(server: Server, project: Rebuilt, id_: str) -> dict[str, Any]:
    found: dict[str, Any] = server.get(f"{project.url}/jobs/{id_}")
    return found


def ended(server: Server, project: Rebuilt, id_: str) -> dict[str, Any]:
    """The job once it is over."""

    def over() -> dict[str, Any] | None:
        found = job(server, project, id_)
        return found if found["ended"] else None

    return dict(wait_for(over, lambda: f"{job(server, project, id_)}\n{server.said()}"))


def rebuild(server: Server, project: Rebuilt, **more: Any) -> dict[str, Any]:
    return ended(server, project, begin(server, project, **more))


def log(server: Server, project: Rebuilt, id_: str) -> str:
    return str(server.get(f"{project.url}/jobs/{id_}/log")["text"])


def drift(server: Server, project: Rebuilt) -> dict[str, list[str]]:
    """The names of what is not in the image, by the kinds that there are."""
    answer = server.get(f"{project.url}/packages")["drift"]
    return {kind: [one["name"] for one in items] for kind, items in answer.items() if items}


def await_drift(server: Server, project: Rebuilt, expected: Mapping[str, Sequence[str]]) -> None:
    wait_for(lambda: drift(server, project) == expected, lambda: f"the drift is {drift(server, project)}")


def await_phase(project: Rebuilt, phase: str, known: Collection[str], limit: float = LIMIT) -> None:
    """Return at first sight of that phase, or of a later one, in a job that is not `known`."""
    order = list(PHASES)
    deadline = time.monotonic() + limit
    while True:
        for state in project.jobs():
            if state["id"] not in known and order.index(state["phase"]) >= order.index(phase):
                return
        assert time.monotonic() < deadline, f"there was no phase {phase}: {project.jobs()}"
        time.sleep(0.001)


def running(mark: str) -> list[int]:
    """The processes of this machine whose command line holds `mark`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if mark in command:
                found.append(int(entry.name))
    return found


@contextmanager
def a_kernel(server: Server, project: Rebuilt, notebook: str = "a.ipynb") -> Iterator[Any]:
    """A notebook's kernel in the project's container, shut down at the end."""
    kernel = server.start_session(f"{project.name}/{notebook}", project.kernel)
    try:
        yield kernel
    finally:
        server.request("DELETE", kernel.path)
