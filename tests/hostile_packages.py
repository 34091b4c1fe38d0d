"""Run inside a container: packages and notes of installs as nobody but an enemy writes them."""

import json
import os
import sys
import sysconfig

EVIL = "\x1b]0;owned\x07\x1b[31m\x07\x9b2J\u202e"
TOUCH = "touch /workspace/owned"
SITE = sysconfig.get_path("purelib", "posix_local")
NOTES = "/opt/ds01/pip/asked.jsonl"


def package(folder, name, version, more="", origin=None):
    path = os.path.join(SITE, f"{folder}-1.0.dist-info")
    os.makedirs(path)
    write(path, "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}\n")
    write(path, "INSTALLER", "pip")
    write(path, "REQUESTED", "")
    if origin is not None:
        write(path, "direct_url.json", json.dumps(origin))


def write(folder, name, text):
    with open(os.path.join(folder, name), "w") as file:
        file.write(text)


def archive(path):
    return {"url": f"https://host.example/{path}", "archive_info": {}}


# These are packages, whatever else they are.
package("plain", "plain", "1.0")
package("long", "long", "1.0", "Summary: " + "x" * 5_000_000)
package("many", "many", "1.0", "".join(f"Requires-Dist: a{n}; {'(' * 200}\n" for n in range(20000)))
package("described", "described", "1.0", "\n" + EVIL * 300_000)
# Names and versions
package("colour", "colour" + EVIL, "1.0")
package("quoted", f'q" && {TOUCH} && "', "1.0")
package("line", f"line\rRUN {TOUCH}", "1.0")
package("ansi", "ansi", "1.0" + EVIL)
package("quotes", "quotes", f'1.0" ; {TOUCH} #')
package("shell", "shell", f"1.0$({TOUCH})")
package("huge", "huge", "1" * 5_000_000)
# Origins
package("bad-url", "bad-url", "1.0", origin=archive(EVIL))
package("cmd-url", "cmd-url", "1.0", origin=archive(f"$({TOUCH})`{TOUCH}`\"'\nRUN {TOUCH}"))
package("opt-url", "opt-url", "1.0", origin=archive("a --index-url=http://evil.example"))
git = {"vcs": "git", "commit_id": f"a b; {TOUCH}"}
package("commit", "commit", "1.0", origin={"url": "https://host.example/a", "vcs_info": git})
sys.setrecursionlimit(5000)
package("deep", "deep", "1.0", origin=json.loads("[" * 900 + "]" * 900))
# Metadata that is none
os.symlink("/etc", os.path.join(SITE, "link-1.0.dist-info"))
os.mkfifo(os.path.join(SITE, "pipe-1.0.dist-info"))
os.makedirs(os.path.join(SITE, f"{EVIL}-1.0.dist-info"))

lines = [
    {"specs": [f"plain; {TOUCH}", "plain --index-url http://evil", f"plain\nRUN {TOUCH}", "plain" + EVIL]},
    {"specs": [f'plain[a"; {TOUCH}]', "plain @ https://user:secret@evil.example/p.zip"]},
    {"specs": ['plain==1.0; os_name == "' + EVIL, "plain" + "[a]" * 100_000]},
    {"specs": [["plain"], 1, None, {}], "installed": [["plain", ['x" && id', EVIL], "yes"], 1]},
    ["specs"],
]
with open(NOTES, "wb") as file:
    file.write(b"\xff\xfe not json\n" + b"[" * 100_000 + b"\n")
    file.writelines(json.dumps(line).encode() + b"\n" for line in lines)
