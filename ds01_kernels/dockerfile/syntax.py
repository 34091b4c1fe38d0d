"""Text to instructions and stages, each with its place in the text."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

from e2b_dockerfile_utils import DockerfileInstruction, DockerfileSyntaxError, parse_dockerfile_ast
from e2b_dockerfile_utils.lexer import is_space

from ..errors import BadInputError
from ..text import shown

BOM = "\ufeff"
MOST_CHARACTERS = 1_000_000
# BuildKit reads no longer line.
MOST_CHARACTERS_OF_A_LINE = 65_533
# The parser looks for directives in the comments at the top, in time that grows with the square of a line.
LONG_TOP_COMMENT = re.compile(r"\ufeff?(?:[^\S\n]*#[^\n]{0,1000}\n)*+[^\S\n]*#[^\n]{1001}")


@dataclass(frozen=True)
class Instruction:
    """One instruction. Lines are 1-based and inclusive, heredocs included; ``start`` and ``end`` are
    character offsets into the text, from the first column of the first line to before the newline of the
    last."""

    name: str
    args: tuple[str, ...]
    flags: tuple[str, ...]
    json: bool
    heredocs: tuple[str, ...]
    start_line: int
    end_line: int
    start: int
    end: int


@dataclass(frozen=True)
class Stage:
    """One FROM and what belongs to it, up to the next FROM. ``parent`` is the index of the earlier stage that
    it is built from, if it is one; ``end_line`` is the last line before the next FROM."""

    index: int
    name: str | None
    image: str
    parent: int | None
    instructions: tuple[Instruction, ...]
    end_line: int


@dataclass(frozen=True)
class Dockerfile:
    """A Dockerfile that has at least one stage. ``newline`` is that of its first line."""

    text: str
    escape: str
    newline: str
    bom: bool
    instructions: tuple[Instruction, ...]
    stages: tuple[Stage, ...]

    def stage(self, target: str | None = None) -> Stage:
        """The stage of that name or index, without either the final one.

        Raises BadInputError when there is none."""
        if target is None:
            return self.stages[-1]
        # A name wins over an index, and of two equal names the later one, as in BuildKit.
        for stage in reversed(self.stages):
            if stage.name and stage.name.lower() == target.lower():
                return stage
        if re.fullmatch("[0-9]{1,4}", target) and int(target) < len(self.stages):
            return self.stages[int(target)]
        names = ", ".join(stage.name or str(stage.index) for stage in self.stages)
        raise BadInputError(f"The Dockerfile has no stage {shown(target)!r}.", remedy=f"It has {names}.")

    def history(self, stage: Stage, before: int | None = None) -> tuple[Instruction, ...]:
        """What has run when the offset ``before`` in the stage is reached (its end, if left out): the stages
        that it is built from, then its own instructions."""
        found = [one for one in stage.instructions if before is None or one.start < before]
        while stage.parent is not None:
            stage = self.stages[stage.parent]
            found[:0] = stage.instructions
        return tuple(found)

    def line(self, number: int) -> str:
        """That line, without its newline."""
        return self.text[self.line_starts[number - 1] : self.line_end(number)]

    def line_end(self, number: int) -> int:
        """The offset of the newline that ends the line."""
        line = self.text[self.line_starts[number - 1] : self.line_starts[number]]
        return self.line_starts[number - 1] + len(line.rstrip("\r\n"))

    def line_at(self, offset: int) -> int:
        return bisect_right(self.line_starts, offset)

    @cached_property
    def line_starts(self) -> tuple[int, ...]:
        """The offset of each line, and last the length of the text."""
        return starts_of_lines(self.text)

    @cached_property
    def continuation(self) -> re.Pattern[str]:
        """BuildKit's: an escape character at the end of a line, which is not itself escaped."""
        escape = re.escape(self.escape)
        return re.compile(f"(?<!{escape}){escape}[ \\t]*$")

    def joined(self, instruction: Instruction) -> tuple[str, tuple[int, ...]]:
        """The instruction as one line, without its heredocs, and the offset in the text of each character.

        Comments and empty lines inside it are left out, as BuildKit leaves them out."""
        pieces: list[str] = []
        offsets: list[int] = []
        number = instruction.start_line
        while True:
            line = self.line(number)
            content = self.continuation.sub("", line)
            if not pieces or not (is_blank(line) or is_comment(line)):
                pieces.append(content)
                offsets += range(self.line_starts[number - 1], self.line_starts[number - 1] + len(content))
                if content == line:
                    return "".join(pieces), tuple(offsets)
            number += 1

    def is_open(self, instruction: Instruction) -> bool:
        """Whether the instruction waits for a further line, as one that ends in a continuation does."""
        lines = map(self.line, range(instruction.start_line, instruction.end_line + 1))
        said = [line for line in lines if not is_blank(line) and not is_comment(line)]
        return not instruction.heredocs and bool(self.continuation.search(said[-1]))


def parse(text: str) -> Dockerfile:
    """Raises BadInputError, with the line, for what BuildKit would not build: no FROM, an unknown
    instruction, an unterminated heredoc, an instruction that the file's end cuts off."""
    check_lengths(text)
    try:
        ast = parse_dockerfile_ast(text)
    except DockerfileSyntaxError as error:
        raise BadInputError(f"{shown(str(error))}.", remedy="Correct that line.") from None
    # The parser calls itself for each bracket of a JSON form and each ${...} of a heredoc's name.
    except (RecursionError, ValueError):
        raise BadInputError("The Dockerfile holds an instruction that cannot be read.") from None
    starts = starts_of_lines(text)
    instructions = tuple(placed(found, text, starts) for found in ast.instructions)
    dockerfile = Dockerfile(
        text=text,
        escape=ast.escape_token,
        newline="\r\n" if re.match(r"[^\n]*\r\n", text) else "\n",
        bom=text.startswith(BOM),
        instructions=instructions,
        stages=stages_of(instructions, len(starts) - 1),
    )
    last = instructions[-1]
    if dockerfile.is_open(last):
        raise BadInputError(
            f"The Dockerfile ends inside the {last.name} of line {last.start_line}.",
            remedy=f"Take the {dockerfile.escape} away that ends its last line, or write what follows it.",
        )
    return dockerfile


def check_lengths(text: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise BadInputError(f"The Dockerfile is longer than {MOST_CHARACTERS} characters.")
    if max(map(len, text.split("\n"))) > MOST_CHARACTERS_OF_A_LINE:
        raise BadInputError(f"The Dockerfile has a line of more than {MOST_CHARACTERS_OF_A_LINE} characters.")
    # What a parser in C or Go makes of it differs from one to the next.
    if "\0" in text:
        raise BadInputError("The Dockerfile holds a NUL character.", remedy="Take it out: it is no text.")
    if LONG_TOP_COMMENT.match(text):
        raise BadInputError("A comment at the top of the Dockerfile is longer than 1000 characters.")


def placed(found: DockerfileInstruction, text: str, starts: tuple[int, ...]) -> Instruction:
    last_line = text[starts[found.end_line - 1] : starts[found.end_line]]
    return Instruction(
        name=found.name,
        args=tuple(found.args),
        flags=tuple(found.flags),
        json=found.json,
        heredocs=tuple(heredoc.content for heredoc in found.heredocs),
        start_line=found.start_line,
        end_line=found.end_line,
        start=starts[found.start_line - 1],
        end=starts[found.end_line - 1] + len(last_line.rstrip("\r\n")),
    )


def stages_of(instructions: tuple[Instruction, ...], lines: int) -> tuple[Stage, ...]:
    froms = [index for index, one in enumerate(instructions) if one.name == "FROM"]
    if not froms:
        raise BadInputError("The Dockerfile has no FROM.", remedy="Begin it with FROM and an image.")
    for early in instructions[: froms[0]]:
        if early.name != "ARG":
            raise BadInputError(
                f"The {early.name} of line {early.start_line} stands before the first FROM.",
                remedy="Move it below, or put a FROM above.",
            )
    stages: list[Stage] = []
    known: dict[str, int] = {}
    for start, end in zip(froms, [*froms[1:], None], strict=True):
        first = instructions[start]
        image, name = image_and_name(first)
        stages.append(
            Stage(
                index=len(stages),
                name=name,
                image=image,
                parent=known.get(image.lower()),
                instructions=instructions[start:end],
                end_line=lines if end is None else instructions[end].start_line - 1,
            )
        )
        if name:
            known[name.lower()] = len(stages) - 1
    return tuple(stages)


def image_and_name(instruction: Instruction) -> tuple[str, str | None]:
    match instruction.args:
        case [image]:
            return image, None
        case [image, word, name] if word.lower() == "as":
            return image, name
    raise BadInputError(
        f"The FROM of line {instruction.start_line} cannot be read.",
        remedy="It takes an image, and AS with a name if you like.",
    )


def starts_of_lines(text: str) -> tuple[int, ...]:
    first = len(BOM) if text.startswith(BOM) else 0
    found = [first, *(match.end() for match in re.finditer("\n", text))]
    return tuple(found) if found[-1] == len(text) and len(found) > 1 else (*found, len(text))


def is_comment(line: str) -> bool:
    return trimmed(line).startswith("#")


def is_blank(line: str) -> bool:
    return not trimmed(line)


def trimmed(line: str) -> str:
    """Without its leading blanks, by Go's notion of a blank, which is not quite Python's."""
    return line[next((index for index, one in enumerate(line) if not is_space(one)), len(line)) :]
