"""Which line of a Dockerfile a step of its build comes from. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ds01_kernels.dockerfile import Dockerfile, Instruction, Stage, parse
from ds01_kernels.engine.docker_needs import filled_in, global_arguments, wanted_stages
from ds01_kernels.errors import BadInputError

#: A stage's index, and the number of one of its steps.
Place = tuple[int, int]


def instructions(text: str) -> Iterator[tuple[int, str]]:
    """The (1-based first line, upper-case keyword) of each instruction, as the classic builder counts steps.

    Not a parser of Dockerfiles: heredocs, which that builder does not know, are read as instructions.
    https://docs.docker.com/reference/dockerfile/#format
    """
    lines = text.removeprefix("\ufeff").splitlines()
    continued = re.compile(re.escape(_escape(lines)) + r"[ \t]*$")
    inside = False
    for number, line in enumerate(lines, 1):
        words = line.split(None, 1)
        if not words or words[0].startswith("#"):
            continue
        if not inside:
            yield number, words[0].upper()
        inside = bool(continued.search(line))


def _escape(lines: list[str]) -> str:
    """The escape character: a directive counts only before everything else but other directives."""
    for line in lines:
        directive = re.match(r"#\s*([A-Za-z][\w-]*)\s*=\s*(\S+)\s*$", line.strip())
        if not directive:
            break
        if directive[1].lower() == "escape" and directive[2] == "`":
            return "`"
    return "\\"


@dataclass(frozen=True)
class StepName:
    """BuildKit's name of a step, taken apart: ``[build 2/3] RUN true``; `stage` is empty where there is one
    stage without a name."""

    stage: str
    number: int
    instruction: str

    @classmethod
    def of(cls, name: str) -> StepName | None:
        found = _STEP_NAME.fullmatch(name)
        if found is None:
            return None
        # A platform may stand before the stage; it has a slash, which no stage's name can have.
        words = [word for word in (found["before"] or "").split() if "/" not in word]
        return cls(words[-1] if words else "", int(found["number"]), found["instruction"])


_STEP_NAME = re.compile(
    r"\[(?:(?P<before>[^\]]*?)\s)?\s*(?P<number>[0-9]{1,6})/[0-9]{1,6}\] (?P<instruction>.*)", re.DOTALL
)
# The instructions that BuildKit shows as steps; FROM is one where it names an image.
_SHOWN = ("RUN", "COPY", "ADD", "WORKDIR")


class StepLines:
    """Where the steps that BuildKit reports stand in the Dockerfile `text`, built with `args`: nowhere, if it
    cannot be read."""

    def __init__(self, text: str, args: Mapping[str, str]) -> None:
        self._values: Mapping[str, str] = {}
        try:
            self._dockerfile: Dockerfile | None = parse(text)
            self._values = global_arguments(self._dockerfile, args)
        except BadInputError:
            self._dockerfile = None
        self._stages = self._dockerfile.stages if self._dockerfile else ()

    def of_step(self, step: StepName) -> int | None:
        """The 1-based line in which the step's instruction begins."""
        stage = self._stage_of(step)
        counted = self._counted(stage) if stage else []
        here = counted[step.number - 1] if 0 < step.number <= len(counted) else None
        # What a base image's ONBUILD adds is counted too, and stands nowhere: the text decides.
        for one in filter(None, (here, *counted)):
            if self._says(one, step.instruction):
                return one.start_line
        keyword = step.instruction.split(None, 1)[:1]
        return here.start_line if here and keyword == [here.name] and here.name != "RUN" else None

    def of_image(self, reference: str) -> int | None:
        """The first line that names that image, whose name BuildKit has completed."""
        wanted = _completed(reference)
        unsure = []
        for stage in self._stages:
            first = stage.instructions[0]
            if stage.parent is None and self._image(stage) == wanted:
                return first.start_line
            if stage.parent is None and filled_in(stage.image, self._values) is None:
                unsure.append(first.start_line)
            for one in stage.instructions:
                if any(_completed(flag.partition("from=")[2]) == wanted for flag in one.flags):
                    return one.start_line
        return unsure[0] if len(unsure) == 1 else None

    def place(self, step: StepName) -> Place:
        """What sorts steps in the order of the Dockerfile."""
        stage = self._stage_of(step)
        return (stage.index if stage else len(self._stages), step.number)

    def expected(self) -> list[Place]:
        """The places of the steps that a build of the last stage has, as far as the Dockerfile tells."""
        if self._dockerfile is None:
            return []
        found = [
            self.place(StepName(_label(self._stages, stage), number, self._name(stage, one)))
            for stage in wanted_stages(self._dockerfile)
            for number, one in enumerate(self._counted(stage), 1)
        ]
        return sorted(set(found))

    def _stage_of(self, step: StepName) -> Stage | None:
        """Stages that start from one image share that step, which then has the name of any of them."""
        stage = self._stage(step.stage)
        image = re.match(r"FROM (\S+)", step.instruction)
        if stage is None or image is None or self._dockerfile is None:
            return stage
        same = [
            one
            for one in wanted_stages(self._dockerfile)
            if one.parent is None and self._image(one) == _completed(image[1])
        ]
        return same[0] if same else stage

    def _name(self, stage: Stage, one: Instruction) -> str:
        return f"FROM {self._image(stage)}" if one.name == "FROM" else one.name

    def _image(self, stage: Stage) -> str:
        return _completed(filled_in(stage.image, self._values) or stage.image)

    def _stage(self, label: str) -> Stage | None:
        named = [stage for stage in self._stages if (stage.name or "").lower() == label.lower()]
        index = re.fullmatch(r"stage-([0-9]{1,4})", label)
        if not named and index and int(index[1]) < len(self._stages):
            return self._stages[int(index[1])]
        # Of two stages of one name the later one is meant.
        return named[-1] if named else None

    @staticmethod
    def _counted(stage: Stage) -> list[Instruction]:
        """The instructions of a stage that BuildKit numbers, in their order."""
        is_image = stage.parent is None and stage.image.lower() != "scratch"
        shown = [one for one in stage.instructions if one.name in _SHOWN]
        return [stage.instructions[0], *shown] if is_image else shown

    def _says(self, one: Instruction, name: str) -> bool:
        if self._dockerfile is None or one.name == "FROM":
            return False
        text = self._dockerfile.joined(one)[0].strip()
        # Variables are filled in and escapes may be gone in the name; up to the first of them it is the text.
        known = re.split(r"[$\\`]", text[len(one.name) :])[0]
        said = name[len(one.name) :]
        return name[: len(one.name)].upper() == one.name and _squeezed(said).startswith(_squeezed(known))


def _label(stages: tuple[Stage, ...], stage: Stage) -> str:
    """BuildKit's name of a stage."""
    return stage.name or (f"stage-{stage.index}" if len(stages) > 1 else "")


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _completed(reference: str) -> str:
    """The reference as BuildKit writes it: https://github.com/distribution/reference"""
    name, _, digest = reference.partition("@")
    host, slash, rest = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not ("." in host or ":" in host or host == "localhost"):
        name = f"docker.io/{name}"
    elif host == "docker.io" and "/" not in rest:
        name = f"docker.io/library/{rest}"
    if ":" not in name.rpartition("/")[2] and not digest:
        name += ":latest"
    return f"{name}@{digest}" if digest else name
