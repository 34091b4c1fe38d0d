"""Whom a container runs as, and the files that make that a real user there."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from .engine import ContainerFile, ContainerInfo, Engine, EngineInfo

#: What was asked to be installed: the agent reads it (`agent.asked`).
PIP_NOTES = PurePosixPath("/opt/ds01/pip")
PIP_REPORT = PIP_NOTES / "report.json"


@dataclass(frozen=True)
class Person:
    """Whom the container runs as."""

    name: str
    uid: int
    gid: int

    @property
    def home(self) -> PurePosixPath:
        return PurePosixPath("/root") if self.uid == 0 else PurePosixPath("/home") / self.name


def person_in(host: EngineInfo) -> Person:
    """Whom that engine's containers run as, for files in the project to be this user's."""
    # Where uid 0 of a container is not the host's, it is the user's: files in the project stay theirs only
    # that way.
    if host.rootless or os.getuid() == 0:
        return Person("root", 0, 0)
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = ""
    # https://www.man7.org/linux/man-pages/man8/useradd.8.html, "CAVEATS"
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", name):
        name = "user"
    return Person(name, os.getuid(), os.getgid())


async def account(engine: Engine, info: ContainerInfo, person: Person) -> list[ContainerFile]:
    """The files that make `person` a real user of the container: an entry, a group, a home."""

    async def read(path: str) -> str:
        return (await engine.read_file(info.id, PurePosixPath(path)) or b"").decode("utf-8", "replace")

    passwd, group = await read("/etc/passwd"), await read("/etc/group")
    entries = [line.split(":") for line in passwd.splitlines() if line.count(":") == 6]
    kept = [entry for entry in entries if entry[2] != str(person.uid) and entry[0] != person.name]
    shell = next((entry[6] for entry in entries if entry[2] == str(person.uid)), "/bin/sh")
    kept.append([person.name, "x", str(person.uid), str(person.gid), "", str(person.home), shell])
    groups = [line for line in group.splitlines() if line.count(":") == 3]
    if not any(line.split(":")[2] == str(person.gid) for line in groups):
        groups.append(f"{person.name}:x:{person.gid}:")
    return [
        ContainerFile(PurePosixPath("/etc/passwd"), _lines(":".join(entry) for entry in kept), 0, 0, 0o644),
        ContainerFile(PurePosixPath("/etc/group"), _lines(groups), 0, 0, 0o644),
        ContainerFile(person.home, None, person.uid, person.gid, 0o700),
        ContainerFile(PIP_NOTES, None, person.uid, person.gid, 0o777),
        ContainerFile(PIP_REPORT, b"", person.uid, person.gid, 0o666),
    ]


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
