"""Edits a ``requirements.txt`` that the Dockerfile copies and installs: text in, text out.

Its block is the heading ``# Custom additional packages`` and the lines directly below it, up to the next
empty line or comment. In it, a line that is one requirement and no more is ours; every other line is the
user's and is never touched. pip resolves all lines together, so a line of the user's that pins a package
rules another version out, wherever it stands.

Lines are read as pip reads them (https://pip.pypa.io/en/stable/reference/requirements-file-format/): a
backslash continues a line, a blank and ``#`` begin a comment, the first word with a dash begins the options.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, takewhile

from ..errors import BadInputError
from ..requirement import Wanted
from ..text import shown
from .block import HEADING, HEADING_LINE
from .editing import Conflict, Edit, Patch, conflicts_of, lines_that_install, patched
from .installs import OwnInstall, OwnRequirement
from .pip_command import name_of, parsed
from .requirement import read_names, read_requirements
from .syntax import BOM, MOST_CHARACTERS

COMMENT = re.compile(r"(?:^|(?<=\s))#.*")
COMMENT_LINE = re.compile(r"\s*#")
OPTIONS = re.compile(r"(?:^|(?<= ))-")
EDITABLE = re.compile(r"(?:-e|--editable)\s*=?\s*(?P<what>\S.*)")
# With one of them pip installs nothing that has no hash, whichever line it stands in.
HASHES = re.compile(r"(?:^|\s)--(?:hash|require-hashes)(?:[\s=]|$)")
# pip would read an option, a comment or a variable in it, which no requirement means.
MISREAD = re.compile(r"\s[-#]|\$\{")
LINE_END = re.compile(r"(?:\r\n|\n|\r)?\Z")


@dataclass(frozen=True)
class Line:
    """What pip reads as one line, without its comment. ``number`` is that of its first line in the file,
    1-based; ``start`` and ``end`` are offsets up to before the line end, ``next`` is the one after it.
    ``whole`` says whether it is on one line of the file, where ``text`` then begins at ``at``."""

    number: int
    start: int
    end: int
    next: int
    text: str
    whole: bool
    at: int

    @property
    def requirement(self) -> str:
        """What stands before the options; of ``-e``, its address."""
        if match := EDITABLE.fullmatch(self.text):
            return match["what"].strip("\"'")
        return OPTIONS.split(self.text, maxsplit=1)[0].strip()

    @property
    def is_plain(self) -> bool:
        """Whether it is one requirement and no more."""
        return self.whole and self.requirement == self.text and parsed(self.text) is not None


@dataclass(frozen=True)
class ManagedBlock:
    """The heading and the lines below it."""

    heading: Line
    lines: tuple[Line, ...]

    @cached_property
    def ours(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.is_plain)


def edit_requirements(text: str, *, install: Sequence[str], remove: Sequence[str] = ()) -> Edit:
    """The file with the requirements in its block, at the end where there is none yet, and without the
    packages of these names. Nothing outside of the block changes, and editing twice is editing once.

    Raises BadInputError for anything that is not a requirement or a name, for one that pip would read
    otherwise in such a file, for a file that is no text, and for one that checks hashes, which a new line
    has not got. What ``-r`` and ``-c`` lead to is not looked at."""
    wanted = read_requirements(install)
    unwanted = read_names(remove)
    if both := sorted(wanted.keys() & set(unwanted)):
        raise BadInputError(f"{both[0]} is both to be installed and to be removed.", remedy="Ask for one.")
    check_text(text)
    lines = logical_lines(text)
    block = find_managed_block(text, lines)
    own = own_lines(lines, block)
    conflicts = conflicts_of(wanted, own)
    ruled_out = {conflict.name for conflict in conflicts}
    new = {name: same for name, same in wanted.items() if name not in ruled_out}
    if new:
        check_hashes(lines)
        check_wanted(new)
    return Edit(
        text=patched(text, patches(text, block, new, unwanted)),
        conflicts=conflicts,
        unpinnable=tuple(
            Conflict(name, line) for name in unwanted for line in lines_that_install(name, own)[-1:]
        ),
    )


def check_text(text: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise BadInputError(f"The requirements file is longer than {MOST_CHARACTERS} characters.")
    if "\0" in text:
        raise BadInputError(
            "The requirements file holds a NUL character.", remedy="Save it as text in UTF-8."
        )


def check_hashes(lines: Iterable[Line]) -> None:
    if found := next((line for line in lines if HASHES.search(line.text)), None):
        raise BadInputError(
            f"The requirements file checks hashes (line {found.number}): pip would refuse one without.",
            remedy="Add the package and its hashes there, by pip-compile --generate-hashes for instance.",
        )


def check_wanted(wanted: Mapping[str, tuple[Wanted, ...]]) -> None:
    for one in (one for same in wanted.values() for one in same):
        if MISREAD.search(one.text) or not one.text.isascii():
            raise BadInputError(
                f"{shown(one.text)!r} would mean something else in a requirements file.",
                remedy="Write it in ASCII, without ${…}, and with no blank before - and #.",
            )


def logical_lines(text: str) -> tuple[Line, ...]:
    """As pip joins them: a comment ends a line that goes on, and does not go on itself."""
    found: list[Line] = []
    pieces: list[str] = []
    first = start = 0
    place = len(BOM) if text.startswith(BOM) else 0
    physical = text[place:].splitlines(keepends=True)
    for number, line in enumerate(physical, 1):
        bare = line.splitlines()[0]
        if not pieces:
            first, start = number, place
        is_comment = bool(COMMENT_LINE.match(bare))
        is_open = bare.endswith("\\") and not is_comment
        # pip puts that blank there too, so that it stays a comment when it is joined to what goes before.
        pieces.append(bare.strip("\\") if is_open else f" {bare}" if is_comment else bare)
        end, place = place + len(bare), place + len(line)
        if is_open and number < len(physical):
            continue
        content = COMMENT.sub("", "".join(pieces)).strip()
        at = start + len(bare) - len(bare.lstrip())
        found.append(Line(first, start, end, place, content, len(pieces) == 1 and not is_open, at))
        pieces = []
    return tuple(found)


def find_managed_block(text: str, lines: Sequence[Line]) -> ManagedBlock | None:
    """The first heading with lines of ours below it, else the first heading, else None."""
    blocks = [
        ManagedBlock(line, tuple(takewhile(lambda one: one.text, lines[index + 1 :])))
        for index, line in enumerate(lines)
        if line.whole and HEADING_LINE.fullmatch(text[line.start : line.end])
    ]
    return next((block for block in blocks if block.ours), next(iter(blocks), None))


def own_lines(lines: Iterable[Line], block: ManagedBlock | None) -> tuple[OwnInstall, ...]:
    ours = set(block.ours) if block else set()
    return tuple(
        OwnInstall(line.number, (OwnRequirement(name, line.requirement, line.number),), ())
        for line in lines
        if line not in ours and (name := name_of(line.requirement))
    )


def patches(
    text: str,
    block: ManagedBlock | None,
    install: Mapping[str, tuple[Wanted, ...]],
    remove: Sequence[str],
) -> list[Patch]:
    newline = "\r\n" if re.match(r"[^\n]*\r\n", text) else "\n"
    left = {name: newline.join(one.text for one in same) for name, same in install.items()}
    if block is None:
        return appended(text, newline.join([HEADING, *left.values()]), newline) if left else []
    gone = {*install, *remove}
    touched = {line for line in block.ours if name_of(line.text) in gone}
    if touched and not install and len(touched) == len(block.lines):
        return [removed(text, block)]
    found = []
    for before, line in pairwise([block.heading, *block.lines]):
        if line not in touched:
            continue
        if new := left.pop(str(name_of(line.text)), None):
            found.append(Patch(line.at, line.at + len(line.text), new))
        else:
            found.append(Patch(before.end, line.end, ""))
    end = [block.heading, *block.ours][-1].end
    found.append(Patch(end, end, "".join(newline + words for words in left.values())))
    return found


def appended(text: str, lines: str, newline: str) -> list[Patch]:
    """A new block at the end of the file, which ends in a line end if it did before."""
    if text in {"", BOM}:
        return [Patch(len(text), len(text), lines + newline)]
    place = LINE_END.search(text).start()  # type: ignore[union-attr] # it matches any text
    return [Patch(place, place, newline * 2 + lines)]


def removed(text: str, block: ManagedBlock) -> Patch:
    """Takes out just what ``appended`` puts in."""
    above, last = text[: block.heading.start], block.lines[-1]
    for empty_line in ("\r\n\r\n", "\n\n"):
        if above.endswith(empty_line):
            return Patch(len(above) - len(empty_line), last.end, "")
    return Patch(len(above), last.next, "")
