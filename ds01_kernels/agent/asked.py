"""What users asked for, which the installed packages do not tell: extras, and the words that were typed.

It is kept in files, for the agent of tomorrow:

``report.json``  pip's report of the last install (PIP_REPORT names it), emptied once read
``asked.jsonl``  one object a line: ``{"specs": [text]}``, as typed, from kernels and from clients; and what
                 mattered in a report, ``{"installed": [[name, extras, private]]}``
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from typing import Any, Dict, Iterator, NamedTuple, Sequence, Set, Tuple, Union

from . import files, logs
from .direct_url import without_credentials
from .packages import Package, normalised
from .pip_settings import guarded_hosts

#: Bytes of a report, and of the end of the other file, that are read.
REPORT_LIMIT = 16 * 1024 * 1024
TAIL = 1024 * 1024
#: Characters of a requirement and of an extra; how many of those.
SPEC_LIMIT = 500
EXTRA_LIMIT = 100
EXTRAS_LIMIT = 50

REPORT = "report.json"

_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_CLAUSE = r"(?:~=|===?|!=|<=?|>=?)\s*[A-Za-z0-9.*+!_-]+"
_CLAUSES = r"%s(?:\s*,\s*%s)*" % (_CLAUSE, _CLAUSE)
#: https://packaging.python.org/en/latest/specifications/dependency-specifiers/, as far as it is asked here.
_SPEC = re.compile(
    r"\s*(?P<name>%s)\s*(?:\[(?P<extras>[^\]]*)\])?\s*"
    r"(?:(?P<version>%s|\(\s*%s\s*\))|@\s*(?P<url>\S+))?\s*(?P<marker>;.*)?\Z" % (_WORD, _CLAUSES, _CLAUSES)
)


class Spec(NamedTuple):
    """One requirement as it was typed, without credentials; `private` when it held some."""

    name: str
    extras: Tuple[str, ...]
    text: str
    private: bool


def make_report(folder: str) -> None:
    """Have pip's report there, where pip was told to leave it: without, all that it is asked for fails.

    Whoever installs is to be able to write it: root too, who may have no privileges here
    (https://docs.kernel.org/userspace-api/no_new_privs.html). Only root can make the folder itself; for
    others it is there already.
    """
    path = os.path.join(folder, REPORT)
    if os.environ.get("PIP_REPORT") != path:
        return
    with suppress(OSError):
        os.makedirs(folder, exist_ok=True)
        os.chmod(folder, 0o777)  # noqa: S103 - as the server makes it for others
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        os.fchmod(descriptor, 0o666)
        os.close(descriptor)


class Asked:
    """The files in `folder`, or when there is no such folder in `otherwise`."""

    def __init__(self, folder: str, otherwise: str) -> None:
        self._folder = folder if os.access(folder, os.W_OK | os.X_OK) else otherwise
        self.report = os.path.join(folder, REPORT)
        self.typed = os.path.join(self._folder, "asked.jsonl")

    def add(self, specs: Sequence[str]) -> None:
        """Keep what a client is about to install."""
        kept = [spec for spec in specs if len(spec) <= SPEC_LIMIT]
        try:
            files.append(self.typed, json.dumps({"specs": kept}))
        except OSError as error:
            logs.say("what was asked for could not be kept: %s" % error)

    def take_report(self) -> bool:
        """Keep what matters of pip's report, and empty it; False when there is none, or not all of it."""
        try:
            report = json.loads(files.read(self.report, REPORT_LIMIT).decode("utf-8"), parse_int=str)
            line = json.dumps({"installed": list(_installed(report))})
        except (OSError, ValueError, RecursionError):
            return False
        with suppress(OSError):
            files.append(self.typed, line)
        self._empty_report()
        return True

    def _empty_report(self) -> None:
        # The file that every user may write stays: pip fails where it cannot write its report. One that it
        # had to make anew is the user's alone who ran it.
        try:
            files.truncate(self.report)
        except OSError:
            files.remove(self.report)

    def tell(self, packages: Sequence[Package]) -> None:
        """Add to each package what was asked for.

        Extras stay until the container goes: who upgrades ``a[x]`` by ``pip install -U a`` has what is in `x`
        still, and wants it.
        """
        extras: Dict[str, Set[str]] = {}
        specs: Dict[str, Spec] = {}
        private: Dict[str, bool] = {}
        for line in _lines(self.typed):
            for spec in _specs(line):
                specs[spec.name] = spec
                extras.setdefault(spec.name, set()).update(spec.extras)
            for name, wanted, is_private in _reported(line):
                private[name] = is_private
                extras.setdefault(name, set()).update(wanted)
        for package in packages:
            name, origin = normalised(package["name"]), package["origin"]
            package["extras"] = sorted({normalised(extra) for extra in extras.get(name, ())})[:EXTRAS_LIMIT]
            origin["private"] |= private.get(name, False)
            if name in specs:
                package["spec"] = specs[name].text
                origin["private"] |= specs[name].private and origin["kind"] in ("url", "vcs")


def _specs(line: Dict[str, Any]) -> Iterator[Spec]:
    specs = line.get("specs")
    for text in specs if isinstance(specs, list) else []:
        spec = parse(text) if isinstance(text, str) else None
        if spec is not None:
            yield spec


def _reported(line: Dict[str, Any]) -> Iterator[Tuple[str, Tuple[str, ...], bool]]:
    installed = line.get("installed")
    for entry in installed if isinstance(installed, list) else []:
        with suppress(TypeError, ValueError):
            name, extras, private = entry
            yield str(name), _extras(extras), private is True


def parse(text: str) -> Union[Spec, None]:
    """None when it is no requirement with a name."""
    match = _SPEC.match(text) if len(text) <= SPEC_LIMIT and text.isprintable() else None
    if match is None:
        return None
    extras = _extras((match["extras"] or "").split(","))
    private = False
    text = text.strip()
    if match["url"]:
        url, private = without_credentials(match["url"])
        text = "%s%s @ %s" % (match["name"], "[%s]" % ",".join(extras) if extras else "", url)
        text = "%s %s" % (text, match["marker"]) if match["marker"] else text
        if not url:
            return None
    return Spec(normalised(match["name"]), extras, text, private)


def _installed(report: Any) -> Iterator[Tuple[str, Sequence[str], bool]]:
    """https://pip.pypa.io/en/stable/reference/installation-report/"""
    guarded = guarded_hosts()
    entries = report.get("install") if isinstance(report, dict) else None
    for entry in entries if isinstance(entries, list) else []:
        metadata = entry.get("metadata") if isinstance(entry, dict) else None
        name = metadata.get("name") if isinstance(metadata, dict) else None
        if isinstance(name, str) and len(name) <= SPEC_LIMIT:
            source = entry.get("download_info")
            url = source.get("url") if isinstance(source, dict) else None
            private = isinstance(url, str) and _host(url) in guarded
            yield normalised(name), _extras(entry.get("requested_extras")), private


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2].lower()


def _extras(values: Any) -> Tuple[str, ...]:
    found = [value.strip() for value in values if isinstance(value, str)] if isinstance(values, list) else []
    return tuple(v for v in found if len(v) <= EXTRA_LIMIT and re.match(_WORD + r"\Z", v))[:EXTRAS_LIMIT]


def _lines(path: str) -> Iterator[Dict[str, Any]]:
    """The objects in the last lines of such a file, oldest first."""
    try:
        content = files.read(path, TAIL, end=True)
    except (OSError, ValueError):
        return
    for line in content.split(b"\n"):
        # The first may be half a line.
        with suppress(ValueError, RecursionError):
            told = json.loads(line.decode("utf-8"), parse_int=str)
            if isinstance(told, dict):
                yield told
