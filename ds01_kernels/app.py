"""The command line: ``jupyter ds01 VERB ...``.

A failing command exits 1 with one sentence on stderr, wrong usage exits 2. With ``--json`` what is printed is
for programs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from traitlets.config import Config
from traitlets.config.loader import ConfigError, KVArgParseConfigLoader

from . import commands, creating, package_commands
from .engine import ENGINES
from .errors import Ds01Error
from .text import clean
from .workbench import Workbench


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            # Here, where it can be caught, and not when the interpreter ends.
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        # What reads our output has seen enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(argv: list[str]) -> int:
    words, settings = _split_settings(argv)
    arguments = _parser().parse_args(words)
    try:
        workbench = Workbench.open(_configuration(settings))
        if arguments.run is not commands.examine:
            workbench.check()
        return int(arguments.run(workbench, arguments) or 0)
    except Ds01Error as error:
        return _fail(error.sentence)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}." if error.filename else f"{error}.")
    except KeyboardInterrupt:
        return 130
    finally:
        if Workbench.initialized():
            Workbench.instance().close()


def _fail(sentence: str) -> int:
    # It may quote what a container or a program said, over several lines.
    print(" ".join(clean(sentence, colours=False).split()), file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jupyter ds01",
        description="Projects, their containers and their kernels.",
        epilog="Settings: --Workbench.NAME=VALUE anywhere, or jupyter_config.py and jupyter_ds01_config.py.",
    )
    parser.add_argument("--version", action="version", version=metadata.version("ds01-kernels"))
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    _verb(verbs, "list", commands.list_projects, "all projects and what their containers do")
    _verb(verbs, "status", commands.status, "one project in full").add_argument("project")
    _verb(
        verbs, "doctor", commands.examine, "what is wrong with a project, and what to do about it"
    ).add_argument("project")
    _verb(verbs, "nodes", commands.list_nodes, "the machines that containers run on, and what is free there")
    init = _verb(verbs, "init", commands.init, "make a new project")
    init.add_argument("project")
    init.add_argument(
        "--from",
        dest="source",
        metavar="DIR|TEMPLATE",
        default="debian",
        help=f"a folder whose Dockerfile is copied, or {' or '.join(creating.TEMPLATES)} (default: debian)",
    )
    base = _verb(
        verbs, "base-image", commands.base_image, "build the local Debian base image ds01/base:latest"
    )
    base.add_argument("--suite", help="Debian release (default: the host's)")
    base.add_argument(
        "--engine", choices=ENGINES, default="auto", help="which engine gets it (default: the usual one)"
    )
    update = _verb(
        verbs, "image-update", package_commands.image_update, "build the project's image from its Dockerfile"
    )
    update.add_argument("project")
    update.add_argument(
        "--add", nargs="+", action="extend", default=[], metavar="SPEC", help="write these packages into it"
    )
    update.add_argument("--no-cache", action="store_true", help="build every step again")
    update.add_argument(
        "--pull", action="store_true", help="look for a newer version of the image it starts from"
    )
    deploy = _verb(
        verbs, "container-deploy", commands.container_deploy, "have the project's container running"
    )
    deploy.add_argument("project")
    retire = _verb(
        verbs, "container-retire", package_commands.container_retire, "remove the project's container"
    )
    retire.add_argument("project")
    retire.add_argument("--force", action="store_true", help="even while kernels run in it")
    shell = _verb(verbs, "shell", commands.shell, "a shell in the project's container, or one command")
    shell.add_argument("project")
    shell.add_argument("command", nargs="*", help="after --: what to run instead of a shell")
    logs = _verb(verbs, "logs", commands.logs, "what the container's main process and the agent wrote")
    logs.add_argument("project")
    logs.add_argument("--tail", type=int, default=200, metavar="LINES")

    _package_verbs(verbs)
    kernelspec = verbs.add_parser(
        "kernelspec", help="static kernelspecs, for clients that run without the server"
    )
    actions = kernelspec.add_subparsers(metavar="ACTION", required=True)
    for name, run in (("install", commands.kernelspec_install), ("remove", commands.kernelspec_remove)):
        action = _verb(actions, name, run, f"{name} the kernelspec of a project, or of all")
        action.add_argument("project", nargs="?")
        action.add_argument(
            "--prefix", help="below this directory instead of the user's Jupyter data directory"
        )
        action.add_argument(
            "--sys-prefix",
            dest="prefix",
            action="store_const",
            const=sys.prefix,
            help="the same for this Python",
        )
    return parser


def _package_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    listing = _verb(
        verbs, "packages", package_commands.packages, "what is installed, and what the Dockerfile lacks"
    )
    listing.add_argument("project")
    install = _verb(
        verbs, "install", package_commands.install, "install packages in the project's running container"
    )
    install.add_argument("project")
    install.add_argument("spec", nargs="+", metavar="SPEC", help="a requirement: numpy, or numpy==2.1.0")
    restore = _verb(verbs, "restore", package_commands.restore, "install again what an earlier container had")
    restore.add_argument("project")
    save = _verb(verbs, "save", package_commands.save, "write what was installed into the Dockerfile")
    rebuild = _verb(
        verbs, "rebuild", package_commands.rebuild, "save, build, swap the container and restart its kernels"
    )
    for verb in (save, rebuild):
        verb.add_argument("project")
        verb.add_argument("spec", nargs="*", metavar="SPEC", help="these instead of all that was installed")
        verb.add_argument("--unpinned", action="store_true", help="as they were asked for, without a version")
    save.add_argument("--diff", action="store_true", help="only show what would be written")
    rebuild.add_argument("--nothing", action="store_true", help="write nothing, only build the Dockerfile")
    rollback = _verb(
        verbs, "rollback", package_commands.rollback, "back to the previous image and its Dockerfile"
    )
    rollback.add_argument("project")
    for verb in (rebuild, rollback):
        verb.add_argument("--yes", action="store_true", help="do not ask")
    prune = _verb(verbs, "prune", package_commands.prune, "remove what of ours is left over on the engine")
    prune.add_argument("--dry-run", action="store_true", help="only show what would be removed")


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, run: commands.Command, text: str
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=run)
    return verb


def _split_settings(argv: list[str]) -> tuple[list[str], list[str]]:
    """Take out ``--Class.trait=value``, which Jupyter's users expect to work anywhere before a ``--``."""
    end = argv.index("--") if "--" in argv else len(argv)
    settings = [word for word in argv[:end] if word.startswith("--") and word[2:3].isupper() and "." in word]
    return [word for word in argv[:end] if word not in settings] + argv[end:], settings


def _configuration(settings: list[str]) -> Config:
    try:
        return KVArgParseConfigLoader(settings, classes=[Workbench]).load_config()
    except ConfigError as error:
        print(f"jupyter ds01: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    sys.exit(main())
