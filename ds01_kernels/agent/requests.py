"""What a client's message asks for, checked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Dict

from . import processes, protocol
from .kernel import Request

if TYPE_CHECKING:
    from .agent import Agent
    from .client import Client


def request(agent: Agent, client: Client, message: protocol.Message) -> Request:
    """What a kernel process needs to know, complete."""
    kernel_id = text(message, "kernel")
    if kernel_id in agent.kernels or kernel_id in client.exits:
        raise ValueError("the kernel %.100s has been started before" % kernel_id)
    if not kernel_id.replace("-", "").isalnum() or len(kernel_id) > 100:
        raise ValueError("the kernel's id %.100r cannot be used" % kernel_id)
    arguments = message["arguments"]
    if not isinstance(arguments, list) or not all(isinstance(argument, str) for argument in arguments):
        raise ValueError("arguments that are no list of texts")
    env = {**os.environ, **variables(message, "env")}
    env[processes.KERNEL_VARIABLE] = kernel_id
    env[processes.AGENT_VARIABLE] = processes.identity()
    env["PATH"] = _with_first(os.path.dirname(agent.survey["executable"]), env.get("PATH", os.defpath))
    files = variables(message, "files")
    env.update(
        {name: path for name, path in files.items() if name not in os.environ and os.path.exists(path)}
    )
    if not text(message["connection"], "ip"):
        # No folder is shared with the client: it reaches the kernel through us.
        message["connection"]["ip"] = os.path.join(agent.sockets, kernel_id)
    return Request(
        kernel=kernel_id,
        cwd=text(message, "cwd"),
        env=env,
        arguments=arguments,
        connection_file=os.path.join(agent.folder, kernel_id + ".json"),
        log=os.path.join(agent.folder, kernel_id + ".log"),
        sockets=text(message["connection"], "ip"),
        notice=os.path.join(agent.folder, kernel_id + ".notice") if _has_notice(message) else "",
        after=text(message, "after") if "after" in message else "",
        encrypted="curve_secretkey" in message["connection"],
    )


def text(message: protocol.Message, name: str) -> str:
    value = message[name]
    if not isinstance(value, str):
        raise TypeError("%s is no text" % name)
    return value


def _has_notice(message: protocol.Message) -> bool:
    return bool(message.get("notice")) and bool(text(message, "notice"))


def variables(message: protocol.Message, name: str) -> Dict[str, str]:
    """Those that a process can have: neither the fork nor the ordinary start is to fail half-way on them."""
    variables = message[name]
    if not isinstance(variables, dict):
        raise TypeError("%s are no variables" % name)
    for key, value in variables.items():
        if not isinstance(value, str) or not key or "=" in key or "\0" in key + value:
            raise ValueError("no process can have the variable %.100r" % key)
        os.fsencode(key + value)
    return variables


def _with_first(folder: str, path: str) -> str:
    """`which python` and `pip` in a cell's `!` commands are the kernel's own."""
    return os.pathsep.join([folder] + [entry for entry in path.split(os.pathsep) if entry != folder])


def read_mark(path: str) -> str:
    """What the client's machine wrote into a file, to prove that both see the same folder; or nothing."""
    try:
        # Never waiting: it is a folder of the kernels' too, and they may put a pipe there.
        mark = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, ValueError):
        return ""
    try:
        return os.read(mark, 100).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(mark)
