"""Tells a ``pip install`` from other commands, and its requirements from its options."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from .shell import Word

PIP = re.compile(r"(?:.*/)?pip[0-9.]*")
PYTHON = re.compile(r"(?:.*/)?(?:python|pypy)[0-9.]*")
UV = re.compile(r"(?:.*/)?uv")
# What may stand before a command in a shell script.
BEFORE = re.compile(
    r"[A-Za-z_]\w*=.*|if|then|else|elif|while|until|do|!|\{|time|exec|command|env|sudo", re.DOTALL
)
SUDO_OPTION = re.compile(r"-[A-Za-z-]+")
SHORT_OPTION = re.compile(r"-[UIqv]*(?P<letter>[A-Za-z])(?P<value>.*)", re.DOTALL)
REDIRECTION = re.compile(r"[0-9]*(?:<|>>?)")

REQUIREMENT_FILE = {"-r", "--requirement", "--requirements"}
# The options of pip (and uv pip) that take the next word as their value.
# https://pip.pypa.io/en/stable/cli/pip_install/
TAKE_A_VALUE = REQUIREMENT_FILE | {
    *("-c", "--constraint", "--build-constraint", "-e", "--editable", "-t", "--target", "--platform"),
    *("--python-version", "--implementation", "--abi", "--root", "--prefix", "--src", "--upgrade-strategy"),
    *("-C", "--config-settings", "--config-setting", "--global-option", "--install-option", "--build-option"),
    *("--no-binary", "--only-binary", "--progress-bar", "--root-user-action", "--report", "--group", "-i"),
    *("--index-url", "--pypi-url", "--extra-index-url", "-f", "--find-links", "--python", "-p", "--log"),
    *("--log-file", "--keyring-provider", "--proxy", "--retries", "--timeout", "--exists-action", "--cert"),
    *("--trusted-host", "--client-cert", "--cache-dir", "--use-feature", "--use-deprecated", "-d", "-b"),
    *("--index", "--default-index", "--index-strategy", "--link-mode", "--resolution", "--prerelease"),
    *("--override", "--exclude-newer", "--torch-backend"),
}
BRINGS_PACKAGES = REQUIREMENT_FILE | {"-e", "--editable", "--group"}

NAME = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*+(?:\[[^\]]*+\])?+\s*+(?:[=<>!~;@].*)?",
    re.DOTALL,
)
NAME_AT = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*+)\s*+(?:\[[^\]]*+\])?+\s*+@")
EGG = re.compile(r"[#&]egg=(?P<name>[A-Za-z0-9._-]+)")
WHEEL = re.compile(r"(?:.*/)?(?P<name>[A-Za-z0-9._]+)-[^/]*\.whl(?:[?#].*)?", re.DOTALL)


@dataclass(frozen=True)
class PipInstall:
    """One ``pip install``: all its ``words``; of those, ``command`` up to ``pip``, the word ``install``, and
    ``requirements``, what is no option. ``files`` are the requirement files; ``brings`` says whether an
    option installs something."""

    words: tuple[Word, ...]
    command: tuple[Word, ...]
    install: Word
    requirements: tuple[Word, ...]
    files: tuple[str, ...]
    options: tuple[str, ...]
    brings: bool


def pip_install(words: Sequence[Word]) -> PipInstall | None:
    """None for any other command."""
    rest = words[prefix(words) :]
    pip = length(rest)
    index = next((one for one, word in arguments(rest, pip) if not word.value.startswith("-")), None)
    if not pip or index is None or rest[index].value != "install":
        return None
    options, requirements, files = [], [], []
    brings = False
    for position, word in arguments(rest, index + 1):
        if not word.value.startswith("-"):
            requirements.append(word)
            continue
        option, value = option_and_value(word.value)
        options.append(option)
        brings = brings or option in BRINGS_PACKAGES
        if option in REQUIREMENT_FILE:
            files.extend([value] if value else [one.value for one in rest[position + 1 : position + 2]])
    return PipInstall(
        words=tuple(words),
        command=tuple(rest[:pip]),
        install=rest[index],
        requirements=tuple(word for word in requirements if not REDIRECTION.match(word.bare)),
        files=tuple(files),
        options=tuple(options),
        brings=brings,
    )


def prefix(words: Sequence[Word]) -> int:
    """How many words stand before the command itself: assignments, ``sudo -E``, ``if``."""
    count = 0
    while count < len(words) and BEFORE.fullmatch(words[count].value):
        count += 1
        while count < len(words) and SUDO_OPTION.fullmatch(words[count].value):
            count += 1
    return count


def length(words: Sequence[Word]) -> int:
    """How many words at the beginning mean pip (``pip3``, ``python -m pip``, ``uv pip``); 0 for none."""
    values = [word.value for word in words]
    if values and PIP.fullmatch(values[0]):
        return 1
    if len(values) > 1 and UV.fullmatch(values[0]) and values[1] == "pip":
        return 2
    if values and PYTHON.fullmatch(values[0]):
        options = next((count for count, one in enumerate(values[1:]) if not one.startswith("-")), 0)
        if values[options : options + 2] == ["-m", "pip"]:
            return options + 2
    return 0


def arguments(words: Sequence[Word], start: int) -> Iterator[tuple[int, Word]]:
    """The words from there on, without the values of options and the files of redirections."""
    takes = False
    for index in range(start, len(words)):
        if not takes:
            yield index, words[index]
        option, value = option_and_value(words[index].value)
        takes = not takes and not value and (option in TAKE_A_VALUE or is_redirection(words[index]))


def is_redirection(word: Word) -> bool:
    """Whether the next word is the file that it redirects to."""
    return bool(REDIRECTION.fullmatch(word.bare)) and word.bare == word.value


def option_and_value(word: str) -> tuple[str, str]:
    """``--report=x`` and ``-rx`` hold their value; in ``-Ur x`` the last letter is the option."""
    if word.startswith("--"):
        option, _, value = word.partition("=")
        return option, value
    if match := SHORT_OPTION.fullmatch(word):
        return f"-{match['letter']}", match["value"]
    return word, ""


def name_of(requirement: str) -> str | None:
    """The normalised name that a word of a pip command installs, as far as the word tells: a version may be a
    variable, an address may carry ``#egg=``, a wheel is named after its package."""
    for pattern in (NAME_AT.match, EGG.search, WHEEL.fullmatch, NAME.fullmatch):
        if match := pattern(requirement):
            return canonicalize_name(match["name"])
    return None


def parsed(requirement: str) -> Requirement | None:
    try:
        return Requirement(requirement)
    # The parser calls itself for each bracket of a marker.
    except (InvalidRequirement, RecursionError):
        return None
