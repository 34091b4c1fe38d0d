"""The commands that a RUN executes, in each of its forms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from .shell import Script, Word, split
from .syntax import Dockerfile, Instruction

SHELL = re.compile(r"(?:.*/)?(?:ba|da|a|z|k)?sh")
HEREDOC = re.compile(r"[0-9]*<<-?")


def commands(dockerfile: Dockerfile, run: Instruction) -> tuple[tuple[Word, ...], ...]:
    """Each command, with words that know their place in the Dockerfile's text."""
    if run.json:
        return json_commands(run)
    written = shell_form(dockerfile, run).commands
    if run.heredocs and all(starts_a_shell(word) for words in written for word in words):
        return heredoc_commands(dockerfile, run)
    return written


def shell_form(dockerfile: Dockerfile, run: Instruction) -> Script:
    """What follows the word RUN and its flags."""
    text, offsets = dockerfile.joined(run)
    script = split(text)
    first, *others = (
        tuple(replace(word, start=offsets[word.start], end=offsets[word.end - 1] + 1) for word in words)
        for words in script.commands
    )
    return Script((first[1 + len(run.flags) :], *others), script.plain)


def heredoc_commands(dockerfile: Dockerfile, run: Instruction) -> tuple[tuple[Word, ...], ...]:
    """Those of the first heredoc, which is the script; further ones are input for it."""
    first_line = run.end_line + 1 - sum(body.count("\n") + 1 for body in run.heredocs)
    start = dockerfile.line_starts[first_line - 1]
    # Of the same length, so that what is found stands at the same place in both.
    script = run.heredocs[0].replace("\\\r\n", "   ").replace("\r\n", " \n").replace("\\\n", "  ")
    return tuple(
        tuple(replace(word, start=start + word.start, end=start + word.end) for word in words)
        for words in split(script).commands
    )


def json_commands(run: Instruction) -> tuple[tuple[Word, ...], ...]:
    """Words of a JSON form stand nowhere in particular: at the RUN."""
    words = [Word(arg, "", run.start, run.start) for arg in run.args]
    if len(run.args) > 1 and is_shell(run.args[:-1]):
        script = split(run.args[-1]).commands
        return tuple(tuple(replace(word, start=run.start, end=run.start) for word in one) for one in script)
    return (tuple(words),)


def is_shell(words: Sequence[str]) -> bool:
    """Whether those words, as in SHELL, start a POSIX shell on the text that follows: ``/bin/bash -ec``."""
    *before, option = words
    return bool(re.fullmatch("-[a-z]*c", option)) and any(SHELL.fullmatch(word) for word in before)


def starts_a_shell(word: Word) -> bool:
    return bool(HEREDOC.match(word.value) or SHELL.fullmatch(word.value) or word.value.startswith("-"))
