"""Reads single values of settings, whoever wrote them: the admin, or a project in its ``pyproject.toml``.

Each function gets words for where the value stands, with which its `SettingError` begins, and the value as it
was found there, of any type.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from .connection import SOCKETS
from .engine import ENGINES, EngineName, GpuRequest, Mount
from .engine.swarm_options import is_address, is_kind, is_registry
from .errors import SettingError
from .variables import WORKSPACE

#: Docker's own least: https://docs.docker.com/engine/containers/resource_constraints/
LEAST_MEMORY = 6 << 20
LEAST_CPUS = 0.01
#: Far above any machine's, and what Docker's numbers can hold.
MOST_BYTES = 1 << 62
MOST_CPUS = 1 << 20
#: https://man7.org/linux/man-pages/man5/proc_sys_kernel.5.html, pid_max on 64-bit systems.
MOST_PIDS = 1 << 22
#: Ten years: what an operating system still takes as a time to wait.
MOST_SECONDS = 315_360_000.0

MOST_CONSTRAINTS = 20
#: What Docker Swarm would not understand, it takes for a constraint that no node fulfils.
#: https://docs.docker.com/reference/cli/docker/service/create/#constraint
_CONSTRAINT = re.compile(
    r"(node\.(id|hostname|role|ip|platform\.(os|arch)|labels\.[\w.-]+)|engine\.labels\.[\w.-]+)"
    r"(==|!=)[\w.:/-]+",
    re.ASCII,
)

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}

#: What is ours in a container, with all that lies below.
_TAKEN = (WORKSPACE, SOCKETS, PurePosixPath("/opt/ds01"))


def parse_size(where: str, value: object) -> int | None:
    """Bytes from a size as docker writes it ('512m', '1.5g') or a number; None for an empty text."""
    if value == "":
        return None
    size = 0
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and len(value) < 100:
        match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?)\s*([kmgt]?)(?:i?b)?", value.strip().lower(), re.ASCII)
        size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if not 0 < size < MOST_BYTES:
        raise _refused(where, value, "is not a size", "Write it as in '512m' or '16g'.")
    return size


def parse_memory(where: str, value: object) -> int | None:
    """The same, and not less than what Docker takes."""
    size = parse_size(where, value)
    if size is not None and size < LEAST_MEMORY:
        raise _refused(where, value, "is less than the 6 MiB that Docker wants", "Write it as in '16g'.")
    return size


def parse_cpus(where: str, value: object) -> float | None:
    """None for 0: all of them."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Below the least, Docker would round it to none, which means no limit.
    if not is_number or not (value == 0 or LEAST_CPUS <= value <= MOST_CPUS):  # type: ignore[operator]
        raise _refused(where, value, "is not a number of CPUs", "Write it as in 2 or 1.5.")
    return float(value) or None  # type: ignore[arg-type]


def parse_pids(where: str, value: object) -> int | None:
    """None for 0: no limit."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_PIDS:
        raise _refused(where, value, "is not a number of processes", f"Write one from 0 to {MOST_PIDS}.")
    return value or None


def parse_gpus(where: str, value: object) -> GpuRequest | None:
    """GPUs from ``"all"``, a count, or names separated by commas (index, UUID or MIG UUID); None: unsaid."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _no_gpus(where, value)
    if isinstance(value, int) and not 0 <= value <= 999:
        raise _no_gpus(where, value)
    text = str(value).strip()
    if text == "":
        return None
    if text == "0":
        return GpuRequest()
    if text == "all":
        return GpuRequest(count=-1)
    if re.fullmatch(r"[1-9]\d{0,2}", text, re.ASCII):
        return GpuRequest(count=int(text))
    names = tuple(name.strip() for name in text.split(","))
    # https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/docker-specialized.html#gpu-enumeration
    known = re.compile(r"\d{1,3}|(?:GPU|MIG|MIG-GPU)-[0-9A-Fa-f/-]{1,80}|\d{1,3}:\d{1,3}", re.ASCII)
    if len(names) > 999 or not all(known.fullmatch(name) for name in names):
        raise _no_gpus(where, value)
    return GpuRequest(ids=tuple(dict.fromkeys(names)))


def parse_python(where: str, value: object) -> str:
    """An absolute path inside the image, or nothing."""
    if value == "":
        return ""
    if not isinstance(value, str) or not re.fullmatch(r"/[\w./+-]{1,200}", value, re.ASCII) or ".." in value:
        raise _refused(where, value, "is not a path", "Write it as in '/usr/bin/python3'.")
    return str(PurePosixPath(value))


def parse_packages(where: str, value: object) -> str:
    """The file that packages are written into: the Dockerfile, or ``requirements.txt`` beside it."""
    if value not in ("dockerfile", "requirements"):
        raise _refused(where, value, "is not a place for packages", "Write 'dockerfile' or 'requirements'.")
    return str(value)


def parse_engine(where: str, value: object) -> EngineName:
    """What runs the containers."""
    for name in ENGINES:
        if value == name:
            return name
    raise SettingError(
        f"{where} is {shown(value)}, which is not an engine.", remedy=f"There are: {', '.join(ENGINES)}."
    )


def parse_engines(where: str, value: object) -> tuple[EngineName, ...]:
    """Several of them."""
    if not isinstance(value, list | tuple):
        raise _refused(where, value, "is not a list of engines", "Write it as in ['docker', 'podman'].")
    return tuple(dict.fromkeys(parse_engine(where, one) for one in value))


def parse_node(where: str, value: object) -> str:
    """The name of a node of Docker Swarm, or nothing."""
    return _name(where, value, 253, "is not the name of a node", "`jupyter ds01 nodes` lists them.")


def parse_constraints(where: str, value: object) -> tuple[str, ...]:
    """What has to be true of a node, in Docker Swarm's words."""
    remedy = "Write it as in ['node.labels.room==2', 'node.hostname!=n3']."
    if not isinstance(value, list | tuple) or len(value) > MOST_CONSTRAINTS:
        raise _refused(where, value, "is not a list of constraints", remedy)
    for one in value:
        if not isinstance(one, str) or len(one) > 300 or not _CONSTRAINT.fullmatch(one):
            raise SettingError(f"{where} has {shown(one)}, which is not a constraint.", remedy=remedy)
    return tuple(dict.fromkeys(value))


def parse_network(where: str, value: object) -> str:
    """The name of a Docker network, or nothing."""
    # Docker has a meaning for "container:NAME": somebody else's network.
    return _name(where, value, 128, "is not the name of a network", "`docker network ls` lists them.")


def parse_mounts(where: str, value: object) -> tuple[Mount, ...]:
    """Folders of the host from texts ``SOURCE:TARGET`` or ``SOURCE:TARGET:ro``."""
    if not isinstance(value, list | tuple):
        raise _refused(where, value, "is not a list of mounts", "Write it as in ['/data:/data:ro'].")
    mounts = tuple(parse_mount(where, one) for one in value)
    targets = [mount.target for mount in mounts]
    for target in targets:
        if targets.count(target) > 1:
            raise SettingError(f"{where} has two mounts at {target}.", remedy="Take one of them out.")
    return mounts


def parse_mount(where: str, value: object) -> Mount:
    match = re.fullmatch(r"(/[^:]*|~[^:]*):(/[^:]+)(?::(ro|rw))?", value) if isinstance(value, str) else None
    if match is None or not match[0].isprintable() or ".." in match[2].split("/"):
        raise SettingError(
            f"{where} has {shown(value)}, which is not a mount.", remedy="Write it as in '/data:/data:ro'."
        )
    # Not Path.expanduser: it raises where there is no such home. And to PurePosixPath "//" is another root.
    source = Path(os.path.expanduser(match[1]))  # noqa: PTH111
    target = PurePosixPath(f"/{match[2].lstrip('/')}")
    if not source.is_absolute():
        raise SettingError(
            f"{where} has {shown(value)}, and there is no such home.", remedy="Write the whole path."
        )
    if target == PurePosixPath("/") or any(target.is_relative_to(ours) for ours in _TAKEN):
        raise SettingError(
            f"{where} has a mount at {target}, where ds01-kernels has its own.",
            remedy="Choose another place.",
        )
    return Mount(source, target, read_only=match[3] == "ro")


def parse_variables(where: str, value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _refused(where, value, "is not a table of variables", "Write it as in {NAME = 'value'}.")
    for name, text in value.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_]\w{0,199}", name, re.ASCII):
            raise SettingError(
                f"{where} has {shown(name)}, which is not the name of a variable.",
                remedy="A name is made of letters, digits and '_'.",
            )
        if not isinstance(text, str) or "\0" in text:
            raise SettingError(
                f"{where} has a value for {name} that is no text.", remedy="Write it in quotes."
            )
    return dict(value)


def parse_secrets(where: str, value: object) -> dict[str, Path]:
    """Files by id. Raises `SettingError`."""
    if not isinstance(value, dict):
        raise _refused(where, value, "is not a table of files", "Write it as in {'pip': '/etc/pip.conf'}.")
    for name, path in value.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][\w.-]{0,199}", name, re.ASCII):
            raise SettingError(
                f"{where} has {shown(name)}, which is not the id of a secret.",
                remedy="An id is made of letters, digits, '_', '.' and '-'.",
            )
        if not isinstance(path, str) or not re.fullmatch(r"[/~][^\0,]*", path):
            raise SettingError(
                f"{where} has {shown(path)} for {name}, which is not the path of a file.",
                remedy="Write it as in '/etc/pip.conf'.",
            )
    # Not Path.expanduser: it raises where there is no such home.
    return {name: Path(os.path.expanduser(path)) for name, path in value.items()}  # noqa: PTH111


def parse_registry(where: str, value: object) -> str:
    """An image registry as HOST:PORT, with a path perhaps; or nothing."""
    if value == "":
        return ""
    if not isinstance(value, str) or not is_registry(value):
        raise _refused(where, value, "is not a registry", "Write it as in 'registry.lab:5000'.")
    return value


def parse_addresses(where: str, value: object) -> dict[str, str]:
    """Addresses of engines by the names of their nodes."""
    if not isinstance(value, dict):
        raise _refused(where, value, "is not a table of addresses", "Write it as in {'n2': 'ssh://n2'}.")
    for name, address in value.items():
        if not isinstance(name, str) or not isinstance(address, str) or not is_address(address, local=True):
            raise SettingError(
                f"{where} has {shown(address)} for {shown(name)}, which is not the address of an engine.",
                remedy="Write it as in 'tcp://n2:2376', 'ssh://me@n2' or 'unix:///run/docker.sock'.",
            )
    return dict(value)


def parse_resource(where: str, value: object) -> str:
    """The kind of a generic resource."""
    if not isinstance(value, str) or not is_kind(value):
        raise _refused(where, value, "is not a kind of resource", "Write it as in 'NVIDIA-GPU'.")
    return value


def parse_folder(where: str, value: object) -> Path | None:
    """An absolute path of this machine; None for an empty text."""
    if value == "":
        return None
    if not isinstance(value, str) or not re.fullmatch(r"[/~][^\0]*", value):
        raise _refused(where, value, "is not a folder", "Write the whole path.")
    # Not Path.expanduser: it raises where there is no such home.
    return Path(os.path.expanduser(value))  # noqa: PTH111


def shown(value: object, most: int = 60) -> str:
    """`value` for a sentence: short and on one line whatever it is."""
    if isinstance(value, str):
        # Of a long one only what is shown is worth the work.
        text = str(value)
        return repr(text) if len(text) <= most else f"{text[:most]!r}…"
    if isinstance(value, bool | float) or value is None:
        return repr(value)
    if isinstance(value, int):
        return repr(value) if abs(value) < 10**most else "a number of very many digits"
    if isinstance(value, list | tuple):
        return "a list"
    return "a table" if isinstance(value, dict) else f"a {type(value).__name__}"


def _name(where: str, value: object, most: int, which: str, remedy: str) -> str:
    """A name as Docker allows it, of at most that many characters; or nothing."""
    if value == "":
        return ""
    allowed = rf"[A-Za-z0-9][\w.-]{{0,{most - 1}}}"
    if not isinstance(value, str) or not re.fullmatch(allowed, value, re.ASCII):
        raise _refused(where, value, which, remedy)
    return value


def _no_gpus(where: str, value: object) -> SettingError:
    return _refused(where, value, "names no GPUs", "Write 'all', a count, or UUIDs.")


def _refused(where: str, value: object, which: str, remedy: str) -> SettingError:
    return SettingError(f"{where} is {shown(value)}, which {which}.", remedy=remedy)
