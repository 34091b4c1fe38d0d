"""The ``pip install`` lines that somebody wrote by hand: read, never changed."""

from __future__ import annotations

from dataclasses import dataclass

from ..requirement import Wanted
from .block import find_block
from .pip_command import name_of, parsed, pip_install
from .runs import commands
from .syntax import Dockerfile, Stage


@dataclass(frozen=True)
class OwnRequirement:
    """``text`` as it stands in the file, without its quotes; ``line`` is its own, in a command of several."""

    name: str
    text: str
    line: int

    def rules_out(self, wanted: Wanted) -> bool:
        """Whether to install that as well would contradict this line: it pins (``==``, an address, a version
        in a variable), or gives a range that the one version asked for lies outside of."""
        requirement = parsed(self.text)
        if requirement is None or requirement.url:
            return True
        if any(one.operator in {"==", "==="} and "*" not in one.version for one in requirement.specifier):
            return True
        return wanted.version is not None and not requirement.specifier.contains(
            wanted.version, prereleases=True
        )


@dataclass(frozen=True)
class OwnInstall:
    """One ``pip install`` that is not the block's: its line, what it names, the files it reads."""

    line: int
    requirements: tuple[OwnRequirement, ...]
    files: tuple[str, ...]


def own_installs(dockerfile: Dockerfile, stage: Stage) -> tuple[OwnInstall, ...]:
    """Those of the stage and of the stages that it is built from, in the order in which they run."""
    block = find_block(dockerfile, stage)
    return tuple(
        OwnInstall(
            line=run.start_line,
            requirements=tuple(
                OwnRequirement(name, word.value, dockerfile.line_at(word.start))
                for word in found.requirements
                if (name := name_of(word.value))
            ),
            files=found.files,
        )
        for run in dockerfile.history(stage)
        if run.name == "RUN" and not (block and run is block.run)
        for words in commands(dockerfile, run)
        if (found := pip_install(words))
    )
