"""``python -m ds01_kernels.dockerfile FILE SPEC...``: prints the edited Dockerfile, byte for byte.

Conflicts and what cannot be removed go to stderr, with exit code 0; bad input is one sentence there, with
exit code 2. The file itself is not written."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..errors import BadInputError
from ..text import shown
from .editing import Conflict, edit


def main(argv: Sequence[str] | None = None) -> int:
    try:
        arguments = argument_parser().parse_intermixed_args(argv)
        # Bytes that are not UTF-8, in a comment for instance, go through unchanged.
        text = read(arguments.file).decode("utf-8", "surrogateescape")
        result = edit(
            text,
            install=arguments.specs,
            remove=arguments.remove,
            pip=arguments.pip,
            break_system_packages=arguments.break_system_packages,
            target=arguments.target,
        )
    except BadInputError as error:
        sys.stderr.write(f"{error.sentence}\n")
        return 2
    sys.stdout.buffer.write(result.text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()
    report("not written", result.conflicts)
    report("not removed", result.unpinnable)
    return 0


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInputError(f"{shown(str(path))} cannot be read: {error.strerror}.") from None


def report(what: str, conflicts: Sequence[Conflict]) -> None:
    for conflict in conflicts:
        sys.stderr.write(f"{conflict.name} is {what}: {conflict.sentence}.\n")


class OneSentenceParser(argparse.ArgumentParser):
    """Says what is wrong as the rest of this command does, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        raise BadInputError(f"{shown(message).capitalize()}.", remedy=f"See {self.prog} --help.")


def argument_parser() -> argparse.ArgumentParser:
    parser = OneSentenceParser(
        prog="python -m ds01_kernels.dockerfile",
        description="Print a Dockerfile with requirements added to its block of packages.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the Dockerfile, which is only read")
    parser.add_argument("specs", metavar="SPEC", nargs="*", help="a requirement, such as numpy==2.1.0")
    parser.add_argument("--remove", metavar="NAME", action="append", default=[], help="take this package out")
    parser.add_argument("--pip", metavar="CMD", default="pip", help="the pip command (default: pip)")
    parser.add_argument("--break-system-packages", action="store_true", help="for images that follow PEP 668")
    parser.add_argument("--target", metavar="STAGE", help="a stage by name or index (default: the final one)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
