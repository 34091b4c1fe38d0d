"""The sentence for a build that failed, whatever built it: pure."""

from __future__ import annotations

import re

from ds01_kernels.engine.docker_connection import disk_full
from ds01_kernels.errors import BuildFailedError

#: Lines of its output that a failure carries.
KEPT_LINES = 20

_SHOWN = 100
_KILLED = 137


def build_failed(
    text: str, *, instruction: str = "", line: int | None = None, log: str = ""
) -> BuildFailedError:
    """`text` is what the builder says; `instruction` failed, which begins in `line`, and printed `log`."""
    where = f"line {line} of the Dockerfile" if line else "a step of the build"
    short = instruction if len(instruction) <= _SHOWN else instruction[: _SHOWN - 1] + "…"
    reason = text.strip().rstrip(".")
    remedy = ""
    if "no space left on device" in text.lower():
        message, remedy = disk_full(f"build {where}")
    elif code := re.search(r"(?:non-zero code: |exit code: |while running runtime: exit status )(\d+)", text):
        message = f"The build failed at {where}: `{short}` ended with exit code {code[1]}."
        if int(code[1]) == _KILLED:
            remedy = "It was killed, as happens when the engine's machine has not enough memory."
    elif short:
        message = f"The build failed at {where}, `{short}`: {reason}."
    elif line:
        message = f"The build failed at {where}: {reason}."
    else:
        message = f"The build failed: {reason}."
    if instruction.upper().startswith("FROM") and not remedy:
        remedy = (
            "Is the name of the base image right? Where no image registry can be reached, "
            "`jupyter ds01 base-image` builds one here."
        )
    if "no active sessions" in text:
        # BuildKit asks the client of a build for its secrets, and for the user's word at an image registry.
        remedy = "That takes a docker client with the buildx plugin; ask the administrator for it."
    printed = "\n".join(log.splitlines()[-KEPT_LINES:])
    return BuildFailedError(
        message, remedy=remedy, line=line, log="\n".join(filter(None, (instruction, printed)))
    )


def unusable(text: str) -> BuildFailedError:
    """For a Dockerfile that was refused before its first step."""
    named = re.search(r"parse error (?:on )?line (\d+)", text, re.IGNORECASE)
    # What BuildKit's own parts say of each other stands before it.
    reason = re.split(r"failed to create LLB definition: ", text.strip())[-1].rstrip(".")
    return BuildFailedError(
        f"The Dockerfile cannot be built: {reason}.", line=int(named[1]) if named else None, log=text
    )


def is_unusable(text: str) -> bool:
    return bool(re.search(r"parse error|failed to create LLB definition|Dockerfile cannot be empty", text))
