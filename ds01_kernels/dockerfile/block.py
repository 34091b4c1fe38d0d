"""Finds the block that is ours, and the user and the shell that are in force where it stands."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import BadInputError
from ..text import shown
from .pip_command import PipInstall, parsed, pip_install
from .runs import is_shell, shell_form
from .syntax import Dockerfile, Instruction, Stage, is_blank, is_comment

HEADING = "# Custom additional packages"
# DS01 finds its heading by how the line begins; a hand-written one may differ in case and blanks.
HEADING_LINE = re.compile(rf"{HEADING}.*|[ \t]*#[ \t]*(?i:custom additional packages)[ \t]*:?[ \t]*")
VARIABLE = re.compile(r"\$\{?(\w+)")


@dataclass(frozen=True)
class Block:
    """The heading and the RUN below it, or, without a RUN, a heading alone, as DS01 leaves one.

    ``opened`` and ``closed`` are the USER lines around them. ``start`` and ``end`` are offsets that span all
    of it, whole lines without the last newline; words in ``pip`` carry offsets into the text as well."""

    heading_line: int
    start: int
    end: int
    run: Instruction | None = None
    pip: PipInstall | None = None
    opened: Instruction | None = None
    closed: Instruction | None = None

    @property
    def requirements(self) -> tuple[str, ...]:
        return tuple(word.value for word in self.pip.requirements) if self.pip else ()


def find_block(dockerfile: Dockerfile, stage: Stage) -> Block | None:
    """The first heading of the stage with packages below it, else the first heading, else None."""
    blocks = [
        block_at(dockerfile, stage, line, index)
        for index, line in loose_lines(dockerfile, stage)
        if HEADING_LINE.fullmatch(dockerfile.line(line))
    ]
    return next((block for block in blocks if block.run), next(iter(blocks), None))


def loose_lines(dockerfile: Dockerfile, stage: Stage) -> list[tuple[int, int]]:
    """The lines of a stage that belong to no instruction, each after the index of the instruction that it
    follows: comments and empty lines, for certain."""
    ends = [*(one.start_line for one in stage.instructions[1:]), stage.end_line + 1]
    return [
        (index, line)
        for index, (one, end) in enumerate(zip(stage.instructions, ends, strict=True))
        for line in range(one.end_line + 1, end)
    ]


def block_at(dockerfile: Dockerfile, stage: Stage, heading_line: int, before: int) -> Block:
    start, end = dockerfile.line_starts[heading_line - 1], dockerfile.line_end(heading_line)
    run = next(iter(stage.instructions[before + 1 : before + 2]), None)
    pip = None
    # Only comments may stand between: below an empty line something else begins.
    if run and all(is_comment(dockerfile.line(one)) for one in range(heading_line, run.start_line)):
        pip = plain_pip_install(dockerfile, run)
    if run is None or pip is None:
        return Block(heading_line, start, end)
    block = Block(heading_line, start, run.end, run, pip)
    return with_user_lines(dockerfile, stage, block, before)


def plain_pip_install(dockerfile: Dockerfile, run: Instruction) -> PipInstall | None:
    """The pip install of a RUN that is nothing but that, so that words can be added to its end."""
    if run.name != "RUN" or run.json or run.heredocs:
        return None
    script = shell_form(dockerfile, run)
    words = script.commands[0]
    # ``pandas>=2.0`` without quotes is a redirection to the shell, and a requirement to who wrote it.
    meant = all(parsed(word.value) for word in words if re.search("[<>]", word.bare))
    return pip_install(words) if script.plain and meant else None


def with_user_lines(dockerfile: Dockerfile, stage: Stage, block: Block, before: int) -> Block:
    """With the ``USER root`` directly above the heading and the line that gives the previous user back."""
    opened, *after = stage.instructions[before], *stage.instructions[before + 2 : before + 3]
    user = user_at(dockerfile, stage, opened.start)
    if user is None or not after or opened.name != "USER" or opened.end_line != block.heading_line - 1:
        return block
    closed = after[0]
    between = range(dockerfile.line_at(block.end) + 1, closed.start_line)
    if opened.args != ("root",) or (closed.name, closed.args) != ("USER", (user,)):
        return block
    if not all(is_blank(dockerfile.line(line)) for line in between):
        return block
    return Block(
        block.heading_line, opened.start, closed.end, block.run, block.pip, opened=opened, closed=closed
    )


def user_at(dockerfile: Dockerfile, stage: Stage, before: int | None = None) -> str | None:
    """The user in force at that offset, as its USER line writes it; None for root.

    What the image of the FROM sets is not in the file and counts as root."""
    users = [one.args[0] for one in dockerfile.history(stage, before) if one.name == "USER" and one.args]
    if not users or users[-1].strip("\"'").partition(":")[0] in {"root", "0"}:
        return None
    return users[-1]


def user_to_give_back(dockerfile: Dockerfile, stage: Stage, before: int | None) -> str | None:
    """The user in force, to be written again in a USER line, None for root.

    Raises BadInputError when that line would mean another user: its variable has been set anew since, or is
    an ARG of an earlier stage."""
    user = user_at(dockerfile, stage, before)
    if user is None:
        return None
    history = dockerfile.history(stage, before)
    index = max(number for number, one in enumerate(history) if one.name == "USER" and one.args)
    names = set(VARIABLE.findall(user))
    changed = {name for one in history[index:] for name in variables_set(one)}
    kept = {name for one in history[:index] if one.name == "ENV" for name in variables_set(one)}
    if names & changed or (history[index] not in stage.instructions and names - kept):
        raise BadInputError(
            f"The USER {shown(user)} of line {history[index].start_line} cannot be given back after the "
            "packages, as its variable means something else there.",
            remedy="Write the USER line again at the end of the stage, with a variable that is set there.",
        )
    return user


def variables_set(instruction: Instruction) -> tuple[str, ...]:
    if instruction.name == "ENV":
        return instruction.args[::3]
    return tuple(arg.partition("=")[0] for arg in instruction.args) if instruction.name == "ARG" else ()


def check_shell(dockerfile: Dockerfile, stage: Stage, before: int | None) -> None:
    """Raises BadInputError where a SHELL is in force that does not read words as a POSIX shell does."""
    shells = [one for one in dockerfile.history(stage, before) if one.name == "SHELL"]
    if shells and not (shells[-1].args and is_shell(shells[-1].args)):
        raise BadInputError(
            f"The SHELL of line {shells[-1].start_line} is not a POSIX shell, so no package can be written.",
            remedy='Switch back before the end of the stage, by SHELL ["/bin/sh", "-c"].',
        )
