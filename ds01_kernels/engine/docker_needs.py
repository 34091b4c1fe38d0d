"""What a Dockerfile takes from outside: which files of the folder, and which images. Pure.

Nothing here guesses: where a name holds something that only the builder can read, the answer is None, which
stands for "everything", or "not known".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from posixpath import normpath

from ds01_kernels.dockerfile import Dockerfile, Instruction, Stage, parse
from ds01_kernels.errors import BadInputError


@dataclass(frozen=True)
class Needs:
    """`paths`: files and folders that COPY, ADD and bind mounts name, relative to the project's folder; None:
    any. `bases`: the images that stages start from, `images`: further ones that files are taken from, both
    of the stages that the last one needs; None: not all of them are known."""

    paths: tuple[str, ...] | None = None
    bases: tuple[str, ...] | None = None
    images: tuple[str, ...] | None = None


def needs(text: str, args: Mapping[str, str]) -> Needs:
    """For the Dockerfile `text`, built with these build arguments."""
    try:
        dockerfile = parse(text)
    except BadInputError:
        return Needs()
    if _has_frontend(text, args):
        # Another grammar than the one that was just parsed, perhaps with instructions of its own.
        return Needs()
    stages = wanted_stages(dockerfile)
    values = global_arguments(dockerfile, args)
    bases, images = _bases(stages, values), _images(dockerfile, stages)
    return Needs(_paths(dockerfile), bases, images)


def _has_frontend(text: str, args: Mapping[str, str]) -> bool:
    return "BUILDKIT_SYNTAX" in args or bool(re.search(r"^\W*syntax\s*=", text, re.MULTILINE | re.IGNORECASE))


def _paths(dockerfile: Dockerfile) -> tuple[str, ...] | None:
    found: set[str] = set()
    for one in dockerfile.instructions:
        if one.name == "ONBUILD":
            return None
        sources = _sources(one)
        if sources is None:
            return None
        found |= sources
    return None if "." in found else tuple(sorted(found))


_COPY_FLAGS = ("--chown=", "--chmod=", "--link", "--checksum=", "--keep-git-dir", "--unpack")
# Wildcards, variables, quotes, escapes, addresses, and what Go cuts off the ends of words.
_PLAIN = re.compile(r"[\w./+@,=~%-]+")
_TAKES_NO_FILES = re.compile(r"type=(?:cache|tmpfs|secret|ssh)")


def _sources(one: Instruction) -> set[str] | None:
    """What the instruction takes from the project's folder; None: perhaps all of it."""
    if one.name == "RUN":
        mounts = [flag.removeprefix("--mount=") for flag in one.flags if flag.startswith("--mount")]
        return set() if all(map(_is_apart, mounts)) else None
    if one.name not in ("COPY", "ADD"):
        return set()
    others = [flag for flag in one.flags if not flag.startswith(_COPY_FLAGS)]
    if others:
        return set() if all(re.fullmatch(r"--from=[\w./:@-]+", flag) for flag in others) else None
    found = set()
    for source in one.args[:-1]:
        if one.name == "ADD" and re.match(r"https?://", source) and "$" not in source:
            continue
        if one.heredocs and source.startswith("<<"):
            continue
        if not _PLAIN.fullmatch(source) or source.startswith("git@"):
            return None
        found.add(normpath("/" + source).lstrip("/") or ".")
    return found


def _is_apart(mount: str) -> bool:
    """Whether a mount of RUN takes nothing from the project's folder."""
    options = mount.split(",")
    return any(
        re.fullmatch(r"from=[\w./:@-]+", option) or _TAKES_NO_FILES.fullmatch(option) for option in options
    )


def wanted_stages(dockerfile: Dockerfile) -> list[Stage]:
    """The stages that the last one is made from, itself included: BuildKit builds no others."""
    last = dockerfile.stages[-1]
    found, waiting = {last.index}, [last]
    while waiting:
        stage = waiting.pop()
        indexes = [] if stage.parent is None else [stage.parent]
        for name in _taken_from(stage):
            if "$" in name:
                return list(dockerfile.stages)
            earlier = _stage(dockerfile, stage, name)
            indexes += [] if earlier is None else [earlier.index]
        waiting += [dockerfile.stages[index] for index in indexes if index not in found]
        found |= set(indexes)
    return [stage for stage in dockerfile.stages if stage.index in found]


def _taken_from(stage: Stage) -> Iterator[str]:
    for one in stage.instructions:
        for flag in one.flags:
            if one.name == "RUN" and flag.startswith("--mount="):
                options = flag.removeprefix("--mount=").split(",")
                yield from (option[5:] for option in options if option.startswith("from="))
            elif flag.startswith("--from="):
                yield flag.removeprefix("--from=")


def _stage(dockerfile: Dockerfile, user: Stage, name: str) -> Stage | None:
    """The stage before `user` of that name or number."""
    earlier = dockerfile.stages[: user.index]
    for stage in reversed(earlier):
        if stage.name and stage.name.lower() == name.lower():
            return stage
    return earlier[int(name)] if re.fullmatch("[0-9]{1,4}", name) and int(name) < len(earlier) else None


def _bases(stages: list[Stage], values: Mapping[str, str]) -> tuple[str, ...] | None:
    found = []
    for stage in stages:
        if stage.parent is not None or stage.image.lower() == "scratch":
            continue
        name = filled_in(stage.image, values)
        # Of another platform than the engine's there may be an image of the same name.
        if name is None or not _is_name(name) or stage.instructions[0].flags:
            return None
        found.append(name)
    return tuple(dict.fromkeys(found))


def _images(dockerfile: Dockerfile, stages: list[Stage]) -> tuple[str, ...] | None:
    found = []
    for stage in stages:
        for name in _taken_from(stage):
            if not _is_name(name):
                return None
            if name != "scratch" and _stage(dockerfile, stage, name) is None:
                found.append(name)
    return tuple(dict.fromkeys(found))


def _is_name(image: str) -> bool:
    # Nothing else goes into a path of the engine's API.
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]*", image)) and ".." not in image


def global_arguments(dockerfile: Dockerfile, args: Mapping[str, str]) -> dict[str, str]:
    """The values of the ARGs before the first FROM, as far as they are plain."""
    values: dict[str, str] = {}
    for one in dockerfile.instructions:
        if one.name != "ARG":
            break
        for declared in one.args:
            name, _, default = declared.partition("=")
            filled = filled_in(default.strip("\"'"), values)
            if name in args:
                values[name] = args[name]
            elif filled is not None:
                values[name] = filled
    return values


def filled_in(text: str, values: Mapping[str, str]) -> str | None:
    """`text` with the variables in it; None when that is more than plain `$NAME` and `${NAME}`."""

    def value(match: re.Match[str]) -> str:
        return values.get(match[1] or match[2], "$")

    filled = re.sub(r"\$(?:(\w+)|\{(\w+)\})", value, text)
    return filled if filled and not set(filled) & set("$\"'\\`{} ") else None
