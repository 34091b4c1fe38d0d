"""A kernel process that is initialised before anybody wants it, up to what depends on the notebook.

It stops right after the kernel object was made, with its sockets bound at paths of its own. What a notebook
brings (folder, variables, arguments, key, session in the history) comes in then, and only after that runs
what is the user's: extensions and startup files. Where configuration files exist there are no spares, since
these may look at anything.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Callable, Dict, Optional

from . import kernel, zygote

#: On the line, after `kernel.PID`: a spare waits, followed by the stamps of the files that it has loaded
#: beyond the zygote's, as length and JSON; it is that kernel from now on; or it cannot be, and ends.
WAITS = b"W"
TAKEN = b"T"
DECLINED = b"N"

#: Higher than any other: who needs the memory has it from a process that nobody uses.
#: https://man7.org/linux/man-pages/man5/proc_pid_oom_score_adj.5.html
SCORE = "1000"
_SCORE_FILE = "/proc/self/oom_score_adj"

#: Names of variables that are read while a kernel initialises: where one differs, a spare is none.
INIT_BOUND = ("IPYTHON", "IPYKERNEL", "JUPYTER", "DEBUGPY", "PYDEVD", "TRAITLETS", "XDG_", "CONDA_")
INIT_BOUND_NAMES = ("HOME", "VIRTUAL_ENV", "NO_COLOR", "COLORTERM", "PATHEXT")

#: A variable: a file that runs at the start of a shell.
STARTUP = "PYTHONSTARTUP"

#: The argument that notebook runners give, the one that can be followed afterwards.
HISTORY_FILE = "--HistoryManager.hist_file="


@dataclass(frozen=True)
class Spare:
    """One to be: its sockets are ``<sockets>-1`` to ``-5``."""

    connection_file: str
    log: str
    sockets: str

    def encode(self) -> bytes:
        content = json.dumps({"spare": asdict(self)}).encode("ascii")
        return kernel.LENGTH.pack(len(content)) + content


class UnfitError(Exception):
    """This process cannot become that kernel; the text says why."""


def connection(sockets: str) -> Dict[str, Any]:
    """What its connection file says at first: a key that nobody knows."""
    ports = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
    numbered: Dict[str, Any] = {name: number for number, name in enumerate(ports, 1)}
    return {
        **numbered,
        "transport": "ipc",
        "ip": sockets,
        "key": os.urandom(32).hex(),
        "signature_scheme": "hmac-sha256",
    }


def is_init_bound(name: str) -> bool:
    """Whether a change of that variable comes too late for a spare."""
    return name.startswith(INIT_BOUND) or name in INIT_BOUND_NAMES


def can_follow(request: kernel.Request) -> bool:
    """Whether its arguments and its sockets can be had by a spare."""
    return not request.encrypted and all(word.startswith(HISTORY_FILE) for word in request.arguments)


def attend(line: socket.socket, own: Spare) -> None:
    """Be a spare, and then the kernel that is asked for on the line; end when that is closed."""
    score = raise_score()
    kernel.redirect(own.log)
    kernel.settle_signals()
    known, began = set(sys.modules), time.time_ns()
    kernel.tell_when_closed(line)
    app = kernel.application()
    taken: Dict[str, kernel.Request] = {}
    is_told = False

    def wait() -> None:
        nonlocal is_told
        del app.init_path
        files = zygote.stamps(began, set(sys.modules) - known)
        content = json.dumps(files).encode("ascii")
        try:
            line.sendall(WAITS + kernel.LENGTH.pack(len(content)) + content)
            line.settimeout(None)
            taken["request"] = request = kernel.Request(**kernel.read(line))
        except OSError:
            # Nobody wants it any more, and there is nothing that would have to be left in order.
            os._exit(0)
        try:
            _become(app, own, request)
            _restore_score(score)
        except Exception as error:
            with suppress(OSError):
                line.sendall(DECLINED)
            # What it has begun must not be ended in an orderly way: that would leave traces in the history.
            print("this spare cannot be that kernel: %r" % error, file=sys.__stderr__, flush=True)
            os._exit(0)
        # Nobody waits for the rest, unless something of the user's is in it that could end this process.
        is_told = not _has_startup(app)
        line.sendall(TAKEN + kernel.READY if is_told else TAKEN)
        _begin(app, request)
        app.init_path()

    app.load_config_file = _without_files(app)
    app.init_path = wait
    kernel.initialize(app, own.connection_file)
    kernel.serve(app, taken["request"], line, is_told=is_told)


def _without_files(app: Any) -> Callable[[], None]:
    def load_config_file() -> None:
        del app.load_config_file
        refuse_configuration(app)
        # The session in the history begins when the notebook does.
        app.config.HistoryManager.enabled = False

    return load_config_file


def refuse_configuration(app: Any) -> None:
    """Raise `SystemExit` where there are files that may change anything in a kernel."""
    names = {"ipython_config", os.path.splitext(app.config_file_name)[0]}
    for folder in app.config_file_paths:
        for name in names:
            for end in (".py", ".json"):
                if os.path.lexists(os.path.join(folder, name + end)):
                    sys.exit("there are configuration files: no spare kernels")


def _become(app: Any, own: Spare, request: kernel.Request) -> None:
    """Take on all that a kernel gets from its request. Raises anything when that cannot be done."""
    _refuse_new_configuration(app)
    kernel.settle_place(request)
    sys.argv = ["ipykernel_launcher", *kernel.own_arguments(request.connection_file), *request.arguments]
    app.argv = sys.argv[1:]
    os.rename(own.log, request.log)
    app.connection_file = request.connection_file
    app.load_connection_file()
    _check_connection(app, request)
    for port in range(1, 6):
        os.rename("%s-%d" % (own.sockets, port), "%s-%d" % (request.sockets, port))


def _begin(app: Any, request: kernel.Request) -> None:
    """Begin what a shell begins with, in the notebook's place."""
    shell = app.kernel.shell
    shell.init_environment()
    shell.starting_dir = os.getcwd()
    begin_history(app, shell, request)
    shell.init_user_ns()
    name = os.environ.get("JPY_SESSION_NAME")
    if name:
        shell.user_ns["__session__"] = name


def _refuse_new_configuration(app: Any) -> None:
    try:
        refuse_configuration(app)
    except SystemExit as error:
        raise UnfitError(str(error)) from None


def _check_connection(app: Any, request: kernel.Request) -> None:
    with open(request.connection_file, encoding="utf-8") as file:
        wanted = json.load(file)
    if app.session.key != wanted["key"].encode() or app.ip != wanted["ip"]:
        raise UnfitError("this ipykernel does not take up another connection")


def _has_startup(app: Any) -> bool:
    """Whether the user has files that run when a shell starts."""
    folders = (os.path.join(folder, "startup") for folder in app.config_file_paths)
    files = (name for folder in folders if os.path.isdir(folder) for name in os.listdir(folder))
    return STARTUP in os.environ or any(name.endswith((".py", ".ipy")) for name in files)


def begin_history(app: Any, shell: Any, request: kernel.Request) -> None:
    """A session of the notebook's; none where this IPython cannot change to one."""
    for config in (app.config, app.kernel.config, shell.config):
        config.IPKernelApp.connection_file = request.connection_file
        config.pop("HistoryManager", None)
        for word in request.arguments:
            config.HistoryManager.hist_file = word[len(HISTORY_FILE) :]
    former = shell.history_manager
    try:
        shell.init_history()
        at = shell.configurables.index(former)
        shell.configurables[at] = shell.configurables.pop()
    except Exception as error:
        shell.history_manager = former
        print("this kernel keeps no history: %r" % error, file=sys.__stderr__, flush=True)


def raise_score() -> Optional[str]:
    """Be the first that the OOM killer takes; what it was before, or None where it cannot be said."""
    try:
        with open(_SCORE_FILE) as file:
            former = file.read().strip()
        with open(_SCORE_FILE, "w") as file:
            file.write(SCORE)
    except OSError:
        return None
    return former


def _restore_score(former: Optional[str]) -> None:
    if former is not None:
        with open(_SCORE_FILE, "w") as file:
            file.write(former)
