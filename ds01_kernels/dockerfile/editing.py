"""Adds requirements to the block and takes them from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

from ..errors import BadInputError
from ..requirement import Wanted
from .block import HEADING, Block, check_shell, find_block, user_to_give_back
from .installs import OwnInstall, own_installs
from .pip_command import PipInstall, name_of
from .requirement import read_names, read_pip, read_requirements
from .shell import quoted
from .syntax import Dockerfile, Instruction, Stage, is_comment, parse

BREAK_SYSTEM_PACKAGES = "--break-system-packages"
# What DS01 writes below the heading of a new Dockerfile.
DS01_HINT = re.compile(r"\r*\n# Add packages here")
LAST = {"CMD", "ENTRYPOINT"}
LINE_ENDS = re.compile(r"(?:\r?\n){1,2}\Z")


@dataclass(frozen=True)
class Conflict:
    """A package that a line which is not ours installs: ``line`` is 1-based, ``sentence`` says so."""

    name: str
    line: int

    @property
    def sentence(self) -> str:
        return f"installed by line {self.line}"


@dataclass(frozen=True)
class Edit:
    """The new text; the packages that were not written, because an own line rules them out; and those that
    stay although they were to be removed, because an own line installs them."""

    text: str
    conflicts: tuple[Conflict, ...] = ()
    unpinnable: tuple[Conflict, ...] = ()


@dataclass(frozen=True)
class Patch:
    """``new`` takes the place of what stands between two offsets."""

    start: int
    end: int
    new: str


@dataclass(frozen=True)
class Change:
    """What is to be done, checked and without conflicts."""

    install: Mapping[str, tuple[Wanted, ...]]
    remove: tuple[str, ...]
    pip: str
    break_system_packages: bool


def edit(
    text: str,
    *,
    install: Sequence[str],
    remove: Sequence[str] = (),
    pip: str = "pip",
    break_system_packages: bool = False,
    target: str | None = None,
) -> Edit:
    """The Dockerfile with the requirements in the block of its final stage (or of ``target``, a name or an
    index), and without the packages of these names. Nothing outside of the block changes.

    ``pip`` is the command that a new block uses; one that is there keeps its own unless this is another than
    plain ``pip``. Raises BadInputError, with what to do, for anything that is not a requirement, a name or a
    pip command, and for a Dockerfile that cannot be read or not be written to safely."""
    wanted = read_requirements(install)
    unwanted = read_names(remove)
    if both := sorted(wanted.keys() & set(unwanted)):
        raise BadInputError(f"{both[0]} is both to be installed and to be removed.", remedy="Ask for one.")
    command = read_pip(pip)
    dockerfile = parse(text)
    stage = dockerfile.stage(target)
    own = own_installs(dockerfile, stage)
    conflicts = conflicts_of(wanted, own)
    ruled_out = {conflict.name for conflict in conflicts}
    change = Change(
        install={name: same for name, same in wanted.items() if name not in ruled_out},
        remove=unwanted,
        pip=command,
        break_system_packages=break_system_packages,
    )
    return Edit(
        text=patched(text, patches(dockerfile, stage, change)),
        conflicts=conflicts,
        unpinnable=tuple(
            Conflict(name, line) for name in unwanted for line in lines_that_install(name, own)[-1:]
        ),
    )


def conflicts_of(wanted: Mapping[str, tuple[Wanted, ...]], own: Iterable[OwnInstall]) -> tuple[Conflict, ...]:
    """Of several own lines the last counts, as it is the one that the build ends with."""
    against = {
        theirs.name: theirs.line
        for line in own
        for theirs in line.requirements
        if any(theirs.rules_out(one) for one in wanted.get(theirs.name, ()))
    }
    return tuple(Conflict(name, against[name]) for name in wanted if name in against)


def lines_that_install(name: str, own: Iterable[OwnInstall]) -> list[int]:
    return [one.line for install in own for one in install.requirements if one.name == name]


def patches(dockerfile: Dockerfile, stage: Stage, change: Change) -> list[Patch]:
    block = find_block(dockerfile, stage)
    if block and block.pip and block.run:
        touched = [word for word in block.pip.requirements if name_of(word.value) in change.remove]
        if not touched and not change.install:
            return []
        check_shell(dockerfile, stage, block.run.start)
        if not change.install and not block.pip.brings and len(touched) == len(block.pip.requirements):
            return removed(dockerfile, stage, block, block.run)
        return updated(dockerfile, stage, block, block.pip, change)
    if not change.install:
        return []
    place = block.start if block else None
    check_shell(dockerfile, stage, place)
    return under_heading(dockerfile, stage, block, change) if block else appended(dockerfile, stage, change)


def updated(
    dockerfile: Dockerfile, stage: Stage, block: Block, pip: PipInstall, change: Change
) -> list[Patch]:
    """The block with each word that changes replaced, taken out or appended where it stands."""
    found = word_patches(dockerfile, pip, change)
    if not change.install:
        return found
    command = dockerfile.text[pip.command[0].start : pip.command[-1].end]
    if change.pip not in {"pip", command}:
        found.insert(0, Patch(pip.command[0].start, pip.command[-1].end, change.pip))
    if change.break_system_packages and BREAK_SYSTEM_PACKAGES not in pip.options:
        found.insert(0, Patch(pip.install.end, pip.install.end, f" {BREAK_SYSTEM_PACKAGES}"))
    if block.opened is None and (user := user_to_give_back(dockerfile, stage, block.start)):
        newline = dockerfile.newline
        found.append(Patch(block.start, block.start, f"USER root{newline}"))
        found.append(Patch(block.end, block.end, f"{newline}{newline}USER {user}"))
    return found


def word_patches(dockerfile: Dockerfile, pip: PipInstall, change: Change) -> list[Patch]:
    between = continuation(dockerfile)
    left = {name: between.join(quoted(one.text) for one in same) for name, same in change.install.items()}
    gone = {*change.install, *change.remove}
    found = []
    for before, word in pairwise(pip.words):
        if word not in pip.requirements:
            continue
        name = name_of(word.value)
        if name in left:
            found.append(Patch(word.start, word.end, left.pop(name)))
        elif name in gone:
            found.append(Patch(before.end, word.end, ""))
        elif re.search("[<>]", word.bare):
            found.append(Patch(word.start, word.end, quoted(word.value)))
    end = pip.words[-1].end
    found.append(Patch(end, end, "".join(between + words for words in left.values())))
    return found


def under_heading(dockerfile: Dockerfile, stage: Stage, block: Block, change: Change) -> list[Patch]:
    """A RUN below a heading that has none."""
    opening, run, closing = new_lines(dockerfile, stage, block.start, change)
    newline = dockerfile.newline
    tail = "" if keeps_its_heading(dockerfile, stage, block) else newline * 2
    return [
        Patch(block.start, block.start, newline.join([*opening, ""])),
        Patch(block.end, block.end, newline + newline.join([*run, *closing]) + tail),
    ]


def appended(dockerfile: Dockerfile, stage: Stage, change: Change) -> list[Patch]:
    """A new block at the end of the stage."""
    newline = dockerfile.newline
    below = first_below(dockerfile, stage)
    opening, run, closing = new_lines(dockerfile, stage, below.start if below else None, change)
    lines = newline.join([*opening, HEADING, *run, *closing])
    if below is None:
        place = len(without_last_newline(dockerfile.text))
        return [Patch(place, place, newline * 2 + lines)]
    place = dockerfile.line_starts[first_line_with_comments(dockerfile, below) - 1]
    return [Patch(place, place, lines + newline * 2)]


def removed(dockerfile: Dockerfile, stage: Stage, block: Block, run: Instruction) -> list[Patch]:
    """Takes out just what ``under_heading`` or ``appended`` puts in."""
    newline = dockerfile.newline
    above, rest = dockerfile.text[: block.start], dockerfile.text[block.end :]
    keeps = keeps_its_heading(dockerfile, stage, block)
    # Two blank lines: below a heading at the end of the stage, only under_heading leaves them.
    tail = "" if keeps else newline * 2
    if keeps or re.match(rf"{tail}\r*(?:\n|\Z)", rest):
        heading = dockerfile.line_starts[block.heading_line - 1]
        return [
            Patch(block.start, heading, ""),
            Patch(dockerfile.line_end(run.start_line - 1), block.end + len(tail), ""),
        ]
    if not without_last_newline(rest):
        bare = above.removesuffix(newline * 2) if above.endswith(newline * 2) else LINE_ENDS.sub("", above)
        return [Patch(len(bare), block.end, "")]
    below = len(rest) - len(re.sub(r"\A(?:\r*\n){1,2}", "", rest))
    return [Patch(block.start, block.end + below, "")]


def without_last_newline(text: str) -> str:
    return text.removesuffix("\n").rstrip("\r")


def keeps_its_heading(dockerfile: Dockerfile, stage: Stage, block: Block) -> bool:
    """Whether the heading was there before its packages, as far as its place tells."""
    after = [one for one in stage.instructions if one.start >= block.end]
    return any(one.name not in LAST for one in after) or bool(DS01_HINT.match(dockerfile.text, block.end))


def first_below(dockerfile: Dockerfile, stage: Stage) -> Instruction | None:
    """What a new block stands before: the CMD and ENTRYPOINT that end the stage, else the next FROM."""
    ending = list(takewhile(lambda one: one.name in LAST, reversed(stage.instructions)))
    following = dockerfile.stages[stage.index + 1 : stage.index + 2]
    return ending[-1] if ending else next((one.instructions[0] for one in following), None)


def first_line_with_comments(dockerfile: Dockerfile, instruction: Instruction) -> int:
    """The line at which the comments directly above the instruction begin, or its own."""
    above = dockerfile.instructions[dockerfile.instructions.index(instruction) - 1]
    line = instruction.start_line
    while line - 1 > above.end_line and is_comment(dockerfile.line(line - 1)):
        line -= 1
    return line


def new_lines(
    dockerfile: Dockerfile, stage: Stage, before: int | None, change: Change
) -> tuple[list[str], list[str], list[str]]:
    """The lines above a heading, the RUN below it, and what follows that."""
    options = ["--no-cache-dir", *([BREAK_SYSTEM_PACKAGES] if change.break_system_packages else [])]
    words = [quoted(one.text) for same in change.install.values() for one in same]
    head = " ".join(["RUN", change.pip, "install", *options])
    run = continuation(dockerfile).join([head, *words])
    user = user_to_give_back(dockerfile, stage, before)
    # The heading and its RUN stay together, and a blank line follows: DS01's image-update wants it so.
    return (["USER root"], [run], ["", f"USER {user}"]) if user else ([], [run], [])


def continuation(dockerfile: Dockerfile) -> str:
    return f" {dockerfile.escape}{dockerfile.newline}    "


def patched(text: str, found: Iterable[Patch]) -> str:
    pieces, done = [], 0
    for patch in sorted(found, key=lambda one: (one.start, one.end)):
        pieces += [text[done : patch.start], patch.new]
        done = patch.end
    return "".join([*pieces, text[done:]])
