"""What a kernel process does: in the zygote's child after the fork, or in an interpreter of its own."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Dict, List, NamedTuple, Sequence

from . import previous, processes, sharing

#: Variables that the interpreter or the loader read once, when the process starts: a fork cannot apply them.
START_BOUND = ("PYTHON", "LD_", "LC_", "MALLOC_", "GLIBC_")
START_BOUND_NAMES = ("LANG", "LANGUAGE")

#: On the line, a socket to the agent: a process reports its pid, gets the length and then the JSON of its
#: request, and says `READY` when it can be reached, `CLOSED` when it cannot any more. `holding` has what
#: one is told that comes after another.
PID = struct.Struct(">I")
LENGTH = struct.Struct(">I")
READY = b"R"
CLOSED = b"C"

#: Seconds.
ADOPTION_LIMIT = 5.0
REQUEST_LIMIT = 60.0


class Preparation(NamedTuple):
    """Where ipykernel is, and the variables that a zygote is to have beside the agent's own."""

    path: List[str]
    first: bool
    env: Dict[str, str]

    def encode(self) -> str:
        return json.dumps(self._asdict())


@dataclass(frozen=True)
class Setup:
    """Where ipykernel is: folders for `sys.path`, before everything else when `first`. `agent` is its pid."""

    agent: int
    path: List[str]
    first: bool

    def put_on_path(self) -> None:
        at = 0 if self.first else len(sys.path)
        sys.path[at:at] = self.path


@dataclass(frozen=True)
class Request:
    """One kernel: `env` holds all its variables; its sockets are ``<sockets>-1`` to ``-5``.

    `notice` is a file with what is to be said in its first cell, or nothing; `after` another kernel, which is
    to be over before this one serves anybody, or nothing.
    """

    kernel: str
    cwd: str
    env: Dict[str, str]
    arguments: List[str]
    connection_file: str
    log: str
    sockets: str
    notice: str = ""
    after: str = ""
    encrypted: bool = False

    def encode(self) -> bytes:
        content = json.dumps(asdict(self)).encode("ascii")
        return LENGTH.pack(len(content)) + content


def is_start_bound(name: str) -> bool:
    """Whether a change of that variable needs a new interpreter."""
    return name.startswith(START_BOUND) or name in START_BOUND_NAMES


def main(setup: Dict[str, Any], line: int) -> None:
    """The ordinary start: this interpreter was made for one kernel."""
    own = Setup(**setup)
    own.put_on_path()
    attend(socket.socket(fileno=line), own.agent)


def attend(line: socket.socket, agent: int) -> None:
    """Report to the agent, take a request from it, and be that kernel until it ends.

    When the agent has given up waiting it has closed the line, and nothing runs.
    """
    line.set_inheritable(False)
    line.settimeout(REQUEST_LIMIT)
    _become_child_of(agent)
    try:
        line.sendall(PID.pack(os.getpid()))
        told = read(line)
    except OSError:
        sys.exit("the agent no longer wants this kernel")
    if "spare" in told:
        from . import spare

        spare.attend(line, spare.Spare(**told["spare"]))
    else:
        _run(Request(**told), line)


def _run(request: Request, line: socket.socket) -> None:
    redirect(request.log)
    settle_signals()
    settle_place(request)
    sys.argv = ["ipykernel_launcher", *own_arguments(request.connection_file), *request.arguments]
    tell_when_closed(line)
    app = application()
    initialize(app, request.connection_file, request.arguments)
    serve(app, request, line)


def tell_when_closed(line: socket.socket) -> None:
    """To be called before anything registers what is to be done at the end, so that this comes after it.

    An interpreter then takes as long again to tear its modules down.
    """
    own = os.getpid()

    def tell() -> None:
        # A fork of the user's ends, too.
        if os.getpid() == own:
            with suppress(OSError):
                line.send(CLOSED, socket.MSG_DONTWAIT)

    atexit.register(tell)


def application() -> Any:
    """The one `IPKernelApp` of this process, not initialised."""
    from ipykernel.kernelapp import IPKernelApp

    return IPKernelApp.instance()


def initialize(app: Any, connection_file: str, more: Sequence[str] = ()) -> None:
    """Let it make the kernel and bind its sockets, with our own arguments and these."""
    if not more:
        app.parse_command_line = partial(_take, app, connection_file)
    app.init_kernel = partial(_make_kernel, app)
    app.initialize([*own_arguments(connection_file), *more])


def _take(app: Any, connection_file: str, argv: Sequence[str]) -> None:
    """What its parser makes of our own arguments.

    For that it looks at every trait of every class, which takes a quarter of the initialisation.
    """
    from traitlets.config import Config

    del app.parse_command_line
    app.argv = list(argv)
    app.cli_config = Config({"IPKernelApp": {"connection_file": connection_file, "parent_handle": 1}})
    app.update_config(app.cli_config)


def _make_kernel(app: Any) -> None:
    del app.init_kernel
    with sharing.files_at_hand():
        app.init_kernel()


def own_arguments(connection_file: str) -> List[str]:
    # Process 1 as the parent to watch means none: the agent watches, and no note on stopping by hand is
    # printed.
    return ["-f", connection_file, "--IPKernelApp.parent_handle=1"]


def serve(app: Any, request: Request, line: socket.socket, *, is_told: bool = False) -> None:
    """Say that the kernel can be reached, unless the agent `is_told`, and be it to its end."""
    from . import holding, notices

    if request.notice:
        previous.announce(app.shell, request.notice)
    if not is_told:
        line.sendall(READY)
    notices.attach(app.shell)
    _say_idle_once_started(app.kernel)
    _end_in_order(app)
    if request.after:
        holding.hold(app.kernel, line)
    app.start()


def _say_idle_once_started(kernel: Any) -> None:
    """After it has said that it is starting: ipykernel leaves that to the first request.

    A page that was there all along, when a rebuild or another page restarts the kernel, sends none of
    those that it looks at, and would show a kernel that starts for ever.
    https://github.com/jupyterlab/jupyterlab/blob/v4.4.0/packages/services/src/kernel/default.ts (`status`)
    """
    start = kernel.start

    def started() -> Any:
        outcome = start()
        with suppress(AttributeError):
            idle = {"execution_state": "idle"}
            kernel.session.send(kernel.iopub_socket, "status", idle, ident=kernel._topic("status"))
        return outcome

    kernel.start = started


def _end_in_order(app: Any) -> None:
    """First the thread of control requests: ipykernel ends the one that sends output before it.

    After the request that ends the kernel it may still wait for that, for ten seconds, and whoever asked
    kills the kernel before. https://github.com/posit-dev/positron/issues/7142
    """
    control = getattr(app, "control_thread", None)
    if control is None:
        return

    def end() -> None:
        if control.is_alive():
            control.stop()
            control.join()

    # Comes before what ipykernel has registered.
    atexit.register(end)


def _become_child_of(agent: int) -> None:
    """Die when the agent dies: nobody could reach this process any more.

    After the zygote's double fork the agent becomes the parent only when the process between is gone.
    """
    deadline = time.monotonic() + ADOPTION_LIMIT
    while os.getppid() != agent and time.monotonic() < deadline:
        time.sleep(0.0002)
    processes.die_with_parent()
    if os.getppid() != agent:
        sys.exit("the agent is gone")


def read(line: socket.socket) -> Dict[str, Any]:
    """The next thing that the agent says on the line. Raises `OSError`."""
    (length,) = LENGTH.unpack(_read(line, LENGTH.size))
    told: Dict[str, Any] = json.loads(_read(line, length).decode("ascii"))
    return told


def _read(line: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = line.recv(size - len(data))
        if not more:
            raise ConnectionError("the agent closed the line")
        data += more
    return data


def redirect(log: str) -> None:
    # The agent shortens the file when it grows, so every write has to go to its end.
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)


def settle_signals() -> None:
    """As a program started by a shell has them."""
    for signum in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def settle_place(request: Request) -> None:
    """Its folder and its variables."""
    _enter(request.cwd)
    os.environ.clear()
    os.environ.update(request.env)
    time.tzset()
    processes.mark(os.path.dirname(request.connection_file), request.env)


def _enter(folder: str) -> None:
    """Make it the working directory, or the nearest one above it that can be entered."""
    folder = os.path.join("/", folder)
    while True:
        try:
            os.chdir(folder)
        except OSError:
            if folder == "/":
                raise
            folder = os.path.dirname(folder)
        else:
            return
