"""Which of the server's variables a kernel gets: those that are listed, and no other."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from urllib.parse import urlsplit, urlunsplit

WORKSPACE = PurePosixPath("/workspace")

#: Taken over from the server; shell patterns. Proxies are given as they are: without its credentials one is
#: of no use.
PASSED = ("LANG", "LC_*", "TZ", "TERM", "JPY_*", "*_PROXY", "*_proxy", "PIP_INDEX_URL")

#: Paths of certificates: of use only where the same path exists in the container, which the agent looks at.
CERTIFICATES = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "NODE_EXTRA_CA_CERTS",
)

#: Never taken over, whatever a list says: they describe the host, or its processes.
NEVER = (
    "CUDA_VISIBLE_DEVICES",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "PATH",
    "HOME",
    "JPY_PARENT_PID",
    "JPY_INTERRUPT_EVENT",
)

#: Never taken over by the default list; whoever names one means it. JupyterHub once kept its token in
#: JPY_API_TOKEN.
SECRET = ("JPY_*TOKEN*", "JPY_*COOKIE*", "JPY_*KEY*", "JPY_*SECRET*", "JPY_*PASSWORD*")


@dataclass(frozen=True)
class Variables:
    """`plain` are set.

    Of `files` (name: path) the agent sets those whose path exists and that the image does not set.
    """

    plain: Mapping[str, str]
    files: Mapping[str, str]


def select(
    offered: Mapping[str, str],
    *,
    named: Collection[str] = (),
    project: os.PathLike[str] | None = None,
) -> Variables:
    """Choose from `offered`; `named` are further patterns (of the settings, and the names in the kernelspec's
    ``env``).

    Paths of the host below `project` that tell the notebook's name are turned into paths of the container.
    """
    plain = {
        name: value
        for name, value in offered.items()
        if name not in NEVER
        and (_matches(name, named) or (_matches(name, PASSED) and not _matches(name, SECRET)))
    }
    files = {name: offered[name] for name in CERTIFICATES if name in offered and name not in plain}
    if "PIP_INDEX_URL" in plain:
        plain["PIP_INDEX_URL"] = without_credentials(plain["PIP_INDEX_URL"])
    if "JPY_SESSION_NAME" in plain and project is not None:
        plain["JPY_SESSION_NAME"] = _inside(plain["JPY_SESSION_NAME"], project)
    return Variables(plain, files)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def without_credentials(url: str) -> str:
    """The URL without user name and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _inside(path: str, project: os.PathLike[str]) -> str:
    relative = os.path.relpath(path, project)
    return path if relative.startswith("..") else str(WORKSPACE / relative)
