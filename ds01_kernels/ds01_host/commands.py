"""DS01's commands on this machine: which there are, and how one is run."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from ds01_kernels.errors import DeployRefusedError, EngineError, EngineTimeoutError, SettingError
from ds01_kernels.setting_values import shown as named
from ds01_kernels.text import clean

log = logging.getLogger("ds01_kernels")

DEPLOY, RETIRE = "container-deploy", "container-retire"

#: Of the variables of this process the commands get all but these: what DS01 sets on the host for programs
#: that run on it, and what would have its `docker` take a container for one that DS01 accounts for elsewhere.
KEPT_BACK = (
    *("CUDA_VISIBLE_DEVICES", "LD_PRELOAD"),
    *("DS01_CONTEXT", "DS01_INTERFACE", "DS01_ORCHESTRATOR", "DS01_CONTAINER_NAME_FILE"),
)

#: Bytes of what a command prints that are kept, and characters of that which stand in an error.
OUTPUT_LIMIT = 256 << 10
QUOTED = 400
#: Seconds that a command which takes too long has for its end.
END_LIMIT = 5.0
#: Seconds for the last of its output to arrive.
DRAIN_LIMIT = 1.0


@dataclass(frozen=True)
class Commands:
    """Paths of the programs; `docker` is empty where there is none on the PATH."""

    deploy: str
    retire: str
    docker: str


def find_commands(
    deploy: str, retire: str, where: Callable[[str], str] = "Workbench.{}".format
) -> Commands | None:
    """DS01's commands, from what the settings call them; None where this machine has none.

    Empty names are for those who do not want them. Raises `SettingError` for names that somebody has set and
    that are no programs; `where` says where a setting stands.
    """
    if not deploy or not retire:
        return None
    found = (_program(deploy), _program(retire))
    if all(found):
        return Commands(*found, shutil.which("docker") or "")
    if (deploy, retire) == (DEPLOY, RETIRE):
        return None
    settings = [("deploy_command", deploy, DEPLOY), ("retire_command", retire, RETIRE)]
    missing = [one for one, program in zip(settings, found, strict=True) if not program]
    # One that somebody has written first.
    setting, name, _ = min(missing, key=lambda one: one[1] == one[2])
    raise SettingError(
        f"{where(setting)} is {named(name)}, which is no program here.",
        remedy="Write the whole path of DS01's command, or leave both commands empty.",
    )


def _program(name: str) -> str:
    if "\0" in name:
        return ""
    return shutil.which(os.path.expanduser(name)) or ""  # noqa: PTH111


@dataclass(frozen=True)
class Outcome:
    """What a command printed, cleaned, on both of its outputs."""

    code: int
    text: str


async def run(argv: Sequence[str], limit: float) -> Outcome:
    """Run a command that can ask nobody: it has no terminal, and its input is empty.

    `limit` is in seconds. Raises `EngineError` when it cannot be started, `EngineTimeoutError` when it takes
    longer: it is ended then, with all that it has started.
    """
    # A pipe of our own: asyncio's would have us wait for whatever the command leaves running.
    ours, theirs = os.pipe()
    try:
        process = await _started(argv, theirs)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    printed = bytearray()
    reading = asyncio.create_task(_read(ours, printed))
    try:
        async with asyncio.timeout(limit):
            code = await process.wait()
        # What it has left running may hold its output open.
        await asyncio.wait([reading], timeout=DRAIN_LIMIT)
    except TimeoutError:
        await _end(process)
        said = quoted(_text(printed), last=True)
        raise EngineTimeoutError(
            f"`{shown(argv)}` was ended after {limit:.0f} s. {said}".strip(),
            remedy="Run it in a terminal: it may ask something there.",
        ) from None
    except BaseException:
        await asyncio.shield(_end(process))
        raise
    finally:
        reading.cancel()
    outcome = Outcome(code, _text(printed))
    log.debug("`%s` ended with %d: %s", shown(argv), code, outcome.text)
    return outcome


async def _started(argv: Sequence[str], output: int) -> asyncio.subprocess.Process:
    variables = {name: value for name, value in os.environ.items() if name not in KEPT_BACK}
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**variables, "TERM": "dumb"},
            cwd="/",
            # A session of its own has no terminal: what reads from /dev/tty fails, instead of reading ours.
            start_new_session=True,
        )
    except OSError as error:
        raise EngineError(
            f"{argv[0]} cannot be started: {error.strerror}.",
            remedy="Ask the administrator about the installation of DS01.",
        ) from error


async def _read(output: int, printed: bytearray) -> None:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(output, "rb", 0)
    )
    try:
        while data := await reader.read(1 << 16):
            printed += data
            # Its end is what tells how it went.
            del printed[: max(0, len(printed) - OUTPUT_LIMIT)]
    finally:
        transport.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(END_LIMIT):
                await process.wait()


def _text(printed: bytearray) -> str:
    return clean(printed.decode("utf-8", "replace"), colours=False)


def shown(argv: Sequence[str]) -> str:
    """The command as somebody would type it."""
    return shlex.join([os.path.basename(argv[0]), *argv[1:]])  # noqa: PTH119


def refused(argv: Sequence[str], outcome: Outcome) -> DeployRefusedError:
    """Why that command did not do what it was to do, in its own words."""
    said = quoted(outcome.text)
    if _ASKED.search(outcome.text):
        return DeployRefusedError(
            f"`{shown(argv)}` wants an answer on the terminal, and has none here. {said}".strip(),
            remedy="Run it in a terminal and answer there; then try again.",
        )
    code = "" if said else f" It ended with exit code {outcome.code} and without a word."
    return DeployRefusedError(
        f"`{shown(argv)}` did not succeed.{code} {said}".strip(),
        remedy=f"Run it in a terminal to see all that it says; {_REMEDY}",
    )


#: What a shell says when it is to read from the terminal of a session that has none.
_ASKED = re.compile(r"/dev/tty\b")

_REMEDY = "`container-list` shows your containers."

#: What frames and underlines text on a terminal, and the bullets of lists.
_DECORATION = re.compile(r"[\u2500-\u257f\u2580-\u259f\u25a0-\u25ff\u2022]+|^\W*$")
#: Where what went wrong begins to be told.
_WRONG = re.compile(
    r"\u2717|\bERROR\b|\b(?:error|limit|quota|exceed|cannot|could not|denied|refused|failed|not found|"
    r"already|invalid|unknown|required|no gpus?|not available|unavailable)",
    re.IGNORECASE,
)


def quoted(text: str, *, last: bool = False) -> str:
    """What matters of a command's output, on one line: from where it tells that something is wrong; with
    `last`, its end."""
    lines = [" ".join(_DECORATION.sub(" ", line).split()) for line in text.splitlines()]
    lines = [line for line in lines if line and not _ASKED.search(line)]
    starts = [number for number, line in enumerate(lines) if _WRONG.search(line)]
    kept = lines[starts[0] :] if starts and not last else lines[-3:]
    words = ""
    for line in kept:
        words = f"{words}{' ' if words[-1:] in '.:!?' else '. '}{line}" if words else line
    if len(words) > QUOTED:
        words = f"{words[:QUOTED].rstrip()}\N{HORIZONTAL ELLIPSIS}"
    return f"It said: {words}" if words else ""
