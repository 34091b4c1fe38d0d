"""The words of a POSIX shell command, and where they stand."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

# What the shell sees as one piece. ``2>&1`` is a piece of a word: its & ends no command.
PIECES = re.compile(
    r"""(?P<blank>[ \t]+)
    | (?P<comment>(?<![^ \t\n;&|()])\#[^\n]*)
    | (?P<operator>;;|&&|\|\||[;&|()\n])
    | '(?P<single>[^']*)'
    | "(?P<double>(?:\\.|[^"\\])*)"
    | \\(?P<escaped>.)
    | (?P<bare>(?:[<>]+&|[^ \t\n;&|()'"\\])+)
    | (?P<stray>.)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Word:
    """``value`` is the word without its quotes, ``bare`` what of it stands outside of quotes; ``start`` and
    ``end`` are offsets into the text that was split."""

    value: str
    bare: str
    start: int
    end: int


@dataclass(frozen=True)
class Script:
    """``plain`` is false when there is more than words: an operator, a comment, a quote that never ends."""

    commands: tuple[tuple[Word, ...], ...]
    plain: bool


def split(text: str) -> Script:
    """Variables and substitutions are left as they are written."""
    commands: list[list[Word]] = [[]]
    plain = True
    inside = False
    for match in PIECES.finditer(text):
        kind, piece = str(match.lastgroup), match[str(match.lastgroup)]
        if kind == "blank":
            inside = False
        elif kind == "operator":
            commands.append([])
            plain = inside = False
        elif kind == "comment":
            plain = False
        else:
            plain = plain and kind != "stray"
            part = Word(unescaped(piece, kind), piece if kind == "bare" else "", match.start(), match.end())
            if inside:
                part = joined(commands[-1].pop(), part)
            commands[-1].append(part)
            inside = True
    return Script(tuple(tuple(command) for command in commands if command), plain)


def unescaped(piece: str, kind: str) -> str:
    return re.sub(r'\\([$`"\\])', r"\1", piece) if kind == "double" else piece


def joined(left: Word, right: Word) -> Word:
    return Word(left.value + right.value, left.bare + right.bare, left.start, right.end)


def quoted(word: str) -> str:
    """The word in double quotes, as DS01 writes it; in single ones where those would change its meaning."""
    return shlex.quote(word) if re.search(r'["$`\\]', word) else f'"{word}"'
