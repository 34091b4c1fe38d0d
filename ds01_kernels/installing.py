"""Installs packages in a project's running container, as the user would with ``pip``."""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Callable, Sequence

from .agent_client import Agent
from .dockerfile import read_requirements
from .engine import ContainerInfo, Engine
from .errors import BadInputError, EngineError, InstallFailedError
from .launch import Launcher
from .packages import Drift, requirement
from .projects import Project
from .text import clean
from .variables import Variables

Say = Callable[[str], None]

#: The options make pip ask nothing and keep its advice on its own version to itself.
PIP = ("-m", "pip", "--no-input", "--disable-pip-version-check")

#: Of the variables before the `--`, which are paths, those are set that exist here and that the image does
#: not set.
#: The first line is the process group, to end it by; then comes all that the command prints.
_RUN = """\
while [ "$1" != -- ]; do
    eval "known=\\${${1%%=*}+yes}"
    [ "$known" ] || [ ! -e "${1#*=}" ] || export "$1"
    shift
done
shift
echo $$
exec "$@" 2>&1"""
_END = 'kill -TERM -- "-$1" 2>/dev/null'

#: Characters of pip's last words that an error quotes.
LAST_WORDS = 2000


async def install(
    launcher: Launcher, project: Project, specs: Sequence[str], variables: Variables, say: Say
) -> None:
    """Install requirements in the project's container, starting it if need be; `say` gets pip's output.

    Raises `BadInputError` for what is no requirement, `InstallFailedError` with pip's reason, or another
    `Ds01Error`.
    """
    if not specs:
        raise BadInputError("There is nothing to install.", remedy="Name at least one package.")
    wanted = [one.text for same in read_requirements(specs).values() for one in same]
    info, agent = await _reach(launcher, project)
    agent.asked(wanted)
    await _pip(launcher.engine, info, agent, ["install", *wanted], variables, say)


async def restore(launcher: Launcher, project: Project, lost: Drift, variables: Variables, say: Say) -> None:
    """Bring back in the project's container what was installed in one that is gone. Raises the same."""
    install_again = [requirement(item, pin=True) for item in (*lost.added, *lost.changed)]
    info, agent = await _reach(launcher, project)
    if install_again:
        agent.asked([item.spec for item in (*lost.added, *lost.changed) if item.spec])
        await _pip(launcher.engine, info, agent, ["install", *install_again], variables, say)
    if lost.removed:
        names = [item.name for item in lost.removed]
        await _pip(launcher.engine, info, agent, ["uninstall", "--yes", *names], variables, say)


async def _reach(launcher: Launcher, project: Project) -> tuple[ContainerInfo, Agent]:
    station = await launcher.reach(project)
    return station.running.info, station.agent


async def _pip(
    engine: Engine, info: ContainerInfo, agent: Agent, words: Sequence[str], variables: Variables, say: Say
) -> None:
    argv = [agent.survey["executable"], *PIP, *words]
    said = ""

    def listen(text: str) -> None:
        nonlocal said
        said = (said + text)[-LAST_WORDS:]
        say(text)

    code = await run(engine, info.id, argv, variables, listen)
    if code != 0:
        raise InstallFailedError(
            f"pip could not {words[0]} {', '.join(words[1:])}. {_reason(said)}".strip(),
            remedy="Nothing else was changed; the log has all that pip said.",
        )


async def run(
    engine: Engine, container: str, argv: Sequence[str], variables: Variables, say: Say
) -> int | None:
    """Run a command in the container and say what it prints; its exit code. Cancelling this ends it."""
    files = [f"{name}={path}" for name, path in variables.files.items()]
    command = ["/bin/sh", "-c", _RUN, "ds01", *files, "--", *argv]
    stream = await engine.exec(container, command, env=variables.plain)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    group, rest = "", b""
    try:
        while data := await stream.read():
            if not group:
                line, newline, data = (rest + data).partition(b"\n")
                if not newline:
                    rest = line
                    continue
                group = line.decode("ascii", "replace").strip()
            if text := decoder.decode(data):
                say(text)
        return await stream.exit_code()
    except asyncio.CancelledError:
        if group.isdigit():
            await asyncio.shield(_end(engine, container, group))
        raise
    finally:
        await stream.close()


async def _end(engine: Engine, container: str, group: str) -> None:
    try:
        stream = await engine.exec(container, ["/bin/sh", "-c", _END, "ds01", group])
        async with asyncio.timeout(10):
            while await stream.read():
                pass
        await stream.close()
    except (EngineError, TimeoutError):
        return


def _reason(said: str) -> str:
    """What pip gave as the reason: its last line that begins with ERROR."""
    lines = [line.strip() for line in clean(said, colours=False).splitlines()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return errors[-1] if errors else next((line for line in reversed(lines) if line), "")
