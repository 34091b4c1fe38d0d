"""Where a distribution came from, by its direct_url.json.

https://packaging.python.org/en/latest/specifications/direct-url-data-structure/
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, Tuple
from urllib.parse import urlsplit, urlunsplit

#: Bytes of a direct_url.json, and characters of a URL, over which it is none.
FILE_LIMIT = 64 * 1024
URL_LIMIT = 2000

Origin = Dict[str, Any]

_VCS = ("git", "hg", "svn", "bzr")
_WORD = re.compile(r"[A-Za-z0-9._/+-]{1,200}\Z")
_HASH = re.compile(r"[a-z0-9_]{1,20}=[0-9a-f]{1,128}\Z")
_SECRET = re.compile(r"token|key|secret|sig|pass|auth|cred|session", re.IGNORECASE)


def origin(kind: str, url: str = "", *, private: bool = False) -> Origin:
    """`kind` is "index", "url", "vcs", "local" or "editable"; `private`: to fetch it takes credentials."""
    return {"kind": kind, "url": url, "commit": "", "hash": "", "subdirectory": "", "private": private}


def read_origin(text: bytes) -> Origin:
    """What a direct_url.json says, without credentials; its `url` is empty where it cannot be told."""
    try:
        # Reading a number takes time that grows with the square of its digits; there are none to be read.
        told = json.loads(text.decode("utf-8"), parse_int=str)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        return origin("url")
    url, private = without_credentials(_text(told, "url"))
    found = _origin(told, url, private)
    found["subdirectory"] = _word(told, "subdirectory")
    return found


def without_credentials(url: str) -> Tuple[str, bool]:
    """The URL with no user, password, signature or fragment, and whether that makes it another one.

    Nothing is left of what is no URL, nor of one with more than `URL_LIMIT` characters: cut, it would name
    something else.
    """
    if len(url) > URL_LIMIT or not url.isprintable() or " " in url:
        return "", False
    try:
        scheme, netloc, path, query, _ = urlsplit(url)
    except ValueError:
        return "", False
    if not url.lower().startswith(scheme + "://") or not scheme:
        return "", False
    user, at, host = netloc.rpartition("@")
    # Everybody's user name at the places that serve git over ssh; the key is the secret there.
    is_public_name = user == "git"
    private = (bool(at) and not is_public_name) or scheme.rpartition("+")[2] == "ssh"
    if _SECRET.search(query):
        query, private = "", True
    return urlunsplit((scheme, netloc if is_public_name else host, path, query, "")), private


def _origin(told: Dict[str, Any], url: str, private: bool) -> Origin:
    vcs, archive, folder = (told.get(name) for name in ("vcs_info", "archive_info", "dir_info"))
    is_here = url.startswith("file:")
    if isinstance(vcs, dict):
        name = _text(vcs, "vcs")
        if name not in _VCS:
            url = ""
        elif url and not url.startswith(name + "+"):
            url = "%s+%s" % (name, url)
        return {**origin("vcs", url, private=private), "commit": _word(vcs, "commit_id")}
    if isinstance(archive, dict):
        return {**origin("local" if is_here else "url", url, private=private), "hash": _hash(archive)}
    if isinstance(folder, dict) and folder.get("editable") is True:
        return origin("editable", url, private=private)
    return origin("local" if is_here else "url", url, private=private)


def _hash(archive: Dict[str, Any]) -> str:
    hashes = archive.get("hashes")
    sha256 = _text(hashes, "sha256") if isinstance(hashes, dict) else ""
    found = "sha256=" + sha256 if sha256 else _text(archive, "hash")
    return found if _HASH.match(found) else ""


def _word(told: Dict[str, Any], name: str) -> str:
    value = _text(told, name)
    return value if _WORD.match(value) else ""


def _text(told: Dict[str, Any], name: str) -> str:
    value = told.get(name)
    return value if isinstance(value, str) else ""
