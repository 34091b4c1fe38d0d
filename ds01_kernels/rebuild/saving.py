"""What would be written to make packages permanent, shown before it is written: the plan of a save.

Pure: the texts come in, the plan goes out. `Plan.before` and `Plan.after` are whole texts; what differs is
the block of packages (see `dockerfile`).
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ..dockerfile import Edit, edit, edit_requirements, name_of, parse
from ..errors import ConflictError
from ..packages import Drift, requirement
from ..text import clean

DOCKERFILE = "Dockerfile"
REQUIREMENTS = "requirements.txt"


@dataclass(frozen=True)
class Pip:
    """How packages are installed in the image: the command, and whether PEP 668 stands in its way."""

    command: str = "pip"
    externally_managed: bool = False


@dataclass(frozen=True)
class Left:
    """A package that the plan leaves as it is, and why: a sentence without its full stop."""

    name: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """`file` is the one to be written. `install` holds requirements, `remove` names, `left` the rest."""

    file: str
    before: str
    after: str
    install: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    left: tuple[Left, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the packages that it installs and removes, normalised."""
        return (*(str(name_of(spec)) for spec in self.install), *self.remove)

    @property
    def changes(self) -> bool:
        return self.before != self.after

    @property
    def sha256(self) -> str:
        """Of the file as it is now; in hexadecimal digits."""
        return digest(self.before)

    @property
    def result_sha256(self) -> str:
        """Of the file as it would be."""
        return digest(self.after)

    @property
    def diff(self) -> str:
        """In the unified format; empty when nothing changes."""
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True),
            self.after.splitlines(keepends=True),
            f"a/{self.file}",
            f"b/{self.file}",
        )
        return "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "sha256": self.sha256,
            "result_sha256": self.result_sha256,
            "diff": clean(self.diff, colours=False),
            "packages": list(self.install),
            "removed": list(self.remove),
            "unpinnable": [{"name": left.name, "reason": left.reason} for left in self.left],
        }


def plan(
    text: str,
    drift: Drift,
    *,
    packages: Sequence[str] | None = None,
    pin: bool = True,
    pip: Pip = Pip(),
    file: str = DOCKERFILE,
    below: Collection[str] = (),
) -> Plan:
    """What a save writes into that text of a Dockerfile, or of a ``requirements.txt``.

    `packages` are requirements to write in place of the whole drift; with `pin` false the drift's own are
    written as the user typed them. `below` are the packages of the image that the Dockerfile starts from, as
    far as they are known. Raises `BadInputError`.
    """
    if packages is None:
        install = [requirement(item, pin=pin) for item in (*drift.added, *drift.changed)]
        remove = [item.name for item in drift.removed]
        left = [Left(item.name, item.reason) for item in drift.unpinnable]
    else:
        install, remove, left = list(packages), [], []
    change = _editor(file, pip)
    result = change(text, install, remove)
    refused = {conflict.name for conflict in result.conflicts}
    stays = {conflict.name for conflict in result.unpinnable}
    left += [Left(one.name, one.sentence) for one in (*result.conflicts, *result.unpinnable)]
    found = {name for name in remove if name not in stays and change(text, [], [name]).text != text}
    # Perhaps it was taken out already, and the image is older; perhaps a line installs it by another name.
    unnamed = f"{file} does not name it"
    left += [
        Left(name, "it comes with the image below" if name in below else unnamed)
        for name in remove
        if name not in stays | found
    ]
    return Plan(
        file,
        text,
        result.text,
        tuple(spec for spec in install if name_of(spec) not in refused),
        tuple(name for name in remove if name in found),
        tuple(left),
    )


def check(plan: Plan, sha256: str, result_sha256: str) -> None:
    """Raises `ConflictError` unless the plan is still the one that these sums were shown for."""
    if plan.sha256 != sha256:
        raise ConflictError(
            f"{plan.file} was changed since the preview.",
            remedy="Look at the preview again, then confirm it.",
        )
    if plan.result_sha256 != result_sha256:
        raise ConflictError(
            "What is installed in the container was changed since the preview.",
            remedy="Look at the preview again, then confirm it.",
        )


def digest(text: str) -> str:
    """The sha256 of the text, in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def base_of(dockerfile: str) -> str:
    """The image that the final stage starts from. Raises `BadInputError` for what is no Dockerfile."""
    parsed = parse(dockerfile)
    stage = parsed.stage()
    while stage.parent is not None:
        stage = parsed.stages[stage.parent]
    return stage.image


def _editor(file: str, pip: Pip) -> Callable[[str, Sequence[str], Sequence[str]], Edit]:
    if file == REQUIREMENTS:
        return lambda text, install, remove: edit_requirements(text, install=install, remove=remove)
    return lambda text, install, remove: edit(
        text,
        install=install,
        remove=remove,
        pip=pip.command,
        break_system_packages=pip.externally_managed,
    )
