"""The one rule by which a container that DS01 has made is known for a project's."""

from __future__ import annotations

import os
import pwd
from dataclasses import replace
from pathlib import Path

from ds01_kernels.containers import LABEL_DS01_USER, LABEL_NAME, LABEL_PATH, LABEL_PROJECT, LABEL_UID
from ds01_kernels.engine import ContainerInfo
from ds01_kernels.variables import WORKSPACE

#: On what `dressed` returns: DS01 has made it.
LABEL_DEPLOYED = "ds01-kernels.deployed"


def user() -> str:
    """Who we are to DS01, which asks `whoami`."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def dressed(info: ContainerInfo) -> ContainerInfo:
    """The same; where DS01 has made it for this user, with the labels that one of ours would have.

    DS01 gives it none of them, though it has the labels of its image, which may be ours. It is known by its
    name, which ends as DS01's names do, by DS01's own label of its user, and by the folder that it has at
    ``/workspace``: that is the project's. Reads links of the file system.
    """
    folder = info.mounts.get(str(WORKSPACE), "")
    is_deployed = (
        # What we make has this one, and no image has.
        LABEL_NAME not in info.labels
        and info.labels.get(LABEL_DS01_USER) == user()
        and info.name.endswith(suffix())
        and folder.startswith("/")
    )
    if not is_deployed:
        return info
    path = Path(os.path.realpath(folder))
    ours = {
        LABEL_PROJECT: path.name,
        LABEL_UID: str(os.getuid()),
        LABEL_PATH: str(path),
        LABEL_NAME: info.name,
        LABEL_DEPLOYED: "true",
    }
    return replace(info, labels={**info.labels, **ours})


def suffix() -> str:
    """What DS01 puts behind a project's name to name its container."""
    return f"._.{os.getuid()}"
