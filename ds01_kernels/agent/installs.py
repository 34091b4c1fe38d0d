"""Which installs a cell asks for: the words of pip, uv and conda in it, as its shell would have them.

Nothing is run or expanded. What depends on more than the words (a variable, an activated environment) is
marked as not `sure`.
"""

from __future__ import annotations

import ast
import re
import shlex
from contextlib import suppress
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Sequence, Tuple

#: What stands for the kernel's own interpreter in a line that IPython expands, or for a magic of it.
OWN = "{sys.executable}"
_OWN_TOO = (OWN, "$sys.executable")

#: Characters of a cell and of a requirement; requirements of one command; cells within cells (%%capture).
CELL_LIMIT = 200 * 1000
SPEC_LIMIT = 500
SPECS_LIMIT = 200
DEPTH_LIMIT = 3

#: Options that take a value. https://pip.pypa.io/en/stable/cli/pip_install/
_PIP_VALUED = """
-r -c -e -t -b -C -i -f --requirement --requirements-from-script --constraint --build-constraint --editable
--target --build --platform --python-version --implementation --abi --root --prefix --src --source
--source-dir --source-directory --upgrade-strategy --config-settings --config-setting --global-option
--build-option --install-option --no-binary --only-binary --progress-bar --root-user-action --report
--index-url --pypi-url --extra-index-url --find-links --group --all-releases --only-final
--uploaded-prior-to --python --log --log-file --local-log --proxy --retries --timeout --default-timeout
--resume-retries --exists-action --trusted-host --cert --client-cert --cache-dir --keyring-provider
--use-feature --use-deprecated --hash
"""
#: https://docs.astral.sh/uv/reference/cli/#uv-pip-install
_UV_VALUED = """
-r -c -b -e -t -p -i -f -C -P --requirement --requirements --constraint --constraints --override --overrides
--exclude --excludes --build-constraint --build-constraints --editable --no-editable-package --extra --group
--target --prefix --python --index --default-index --index-url --extra-index-url --find-links
--index-strategy --keyring-provider --resolution --prerelease --prerelease-package --fork-strategy
--exclude-newer --exclude-newer-package --link-mode --config-setting --config-settings
--config-settings-package --no-build-isolation-package --no-build-package --no-binary-package
--reinstall-package --upgrade-package --upgrade-group --refresh-package --cache-dir --python-version
--python-platform --torch-backend --color --cert --output-format --directory --project --config-file
--allow-insecure-host --trusted-host --no-binary --only-binary --no-sources-package --python-fetch
--preview-features
"""
#: https://docs.conda.io/projects/conda/en/stable/commands/install.html
_CONDA_VALUED = """
-n -p -c --name --prefix --channel --file --solver --experimental-solver --platform --subdir --repodata-fn
--root-prefix -r -f
"""
_VALUED: Dict[str, FrozenSet[str]] = {
    "pip": frozenset(_PIP_VALUED.split()),
    "uv": frozenset(_UV_VALUED.split()),
    "conda": frozenset(_CONDA_VALUED.split()),
}
#: With these it lands in a folder of its own, or nowhere.
_ELSEWHERE = frozenset(("--target", "-t", "--prefix", "--root", "--dry-run", "--no-install"))

_PIP = re.compile(r"pip(\d+(\.\d+)?)?\Z")
_PYTHON = re.compile(r"python(\d+(\.\d+)?)?\Z")
_CONDA = ("conda", "mamba", "micromamba")
_SHELLS = ("bash", "sh", "zsh", "dash", "script", "system", "sx", "!")
#: Magics that run the rest of their line, or the lines below, as code.
_WRAPPING = ("capture", "time", "timeit", "prun")
_BEFORE_A_COMMAND = (
    "sudo",
    "env",
    "time",
    "nohup",
    "nice",
    "exec",
    "command",
    "if",
    "then",
    "else",
    "do",
    "!",
    "{",
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_REDIRECTION = re.compile(r"\d*(<|>{1,2})")
_COMMENT = re.compile(r"(^|\s)#.*")
#: After one of these a name may mean another program than the one on this process's PATH.
_UNSURE = re.compile(
    r"\b(activate|alias|source|eval|sudo|PATH=|VIRTUAL_ENV|CONDA_\w+|UV_\w+|PIP_\w+)|^\s*\.\s", re.M
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


class Command(NamedTuple):
    """One call of a program that installs or uninstalls.

    `program` is pip, uv or conda; `called` the word by which it is reached: that program itself, or with
    `module` the interpreter that runs it as a module. `options` are those with a value, and the flags.
    """

    program: str
    action: str
    called: str
    module: bool
    options: Tuple[Tuple[str, str], ...]
    words: Tuple[str, ...]
    sure: bool
    magic: bool = False

    @property
    def specs(self) -> List[str]:
        """The requirements as typed, credentials blotted out; without those that are still to be expanded."""
        blotted = [_CREDENTIALS.sub("***@", word) for word in self.words]
        kept = [word for word in blotted if len(word) <= SPEC_LIMIT and not set("{}$`") & set(word)]
        return kept[:SPECS_LIMIT]

    @property
    def elsewhere(self) -> bool:
        names = {name for name, _ in self.options}
        # To conda a prefix is what it installs into.
        return bool(names & (_ELSEWHERE - {"--prefix"} if self.program == "conda" else _ELSEWHERE))

    def option(self, *names: str) -> str:
        """The value of the last of these options, "" when it was not given."""
        return next((value for name, value in reversed(self.options) if name in names), "")


def in_cell(source: str, transform: Callable[[str], str], depth: int = 0) -> List[Command]:
    """The commands in a cell that IPython's `transform_cell` has made Python of.

    That knows magics and ``!`` from text that only looks so. `transform` is it, for cells within magics.
    """
    found: List[Command] = []
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        for node in ast.walk(ast.parse(source)):
            for name, line, body in _shell_calls(node):
                found += _in_call(name, line, body, transform, depth)
    return found


def in_shell(text: str) -> List[Command]:
    """The commands in the text of a shell script."""
    sure = not _UNSURE.search(text)
    found: List[Command] = []
    for line in text.replace("\\\n", " ").splitlines():
        if "install" in line:
            for words in _simple_commands(line):
                found += _read(words, sure)
    return found


def in_pip_line(line: str) -> List[Command]:
    """What ``%pip`` is asked to do by `line`."""
    return [command._replace(called=OWN, module=True, magic=True) for command in in_shell("pip " + line)]


def _shell_calls(node: ast.AST) -> Iterator[Tuple[str, str, str]]:
    """Name, line and body of a magic; ``!`` as one without a body."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    # Python 3.7 and older had `ast.Str`.
    words: List[Any] = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    if not all(isinstance(word, str) for word in words) or len(words) != len(node.args):
        return
    method = node.func.attr
    if method in ("system", "getoutput") and len(words) == 1:
        yield "!", words[0], ""
    elif method == "run_line_magic" and len(words) == 2:
        yield words[0], words[1], ""
    elif method == "run_cell_magic" and len(words) == 3:
        yield words[0], words[1], words[2]


def _in_call(name: str, line: str, body: str, transform: Callable[[str], str], depth: int) -> List[Command]:
    if name == "pip":
        return in_pip_line(line)
    if name == "uv":
        # Run as a module of the kernel's interpreter; what it installs into is uv's affair.
        return [command._replace(sure=False, magic=True) for command in in_shell("uv " + line)]
    if name in _SHELLS:
        return in_shell("%s\n%s" % (line, body) if name in ("!", "sx", "system") else body)
    if name in _WRAPPING and depth < DEPTH_LIMIT:
        return in_cell(transform(body or line), transform, depth + 1)
    return []


def _simple_commands(line: str) -> Iterator[List[str]]:
    """The words of each command in one line of a shell; none when its quotes do not match."""
    words: List[str] = []
    skip = False
    for token in _tokens(line):
        if not set(token) - set(";&|()"):
            yield words
            words = []
        elif skip or _REDIRECTION.match(token):
            skip = not skip and token.endswith((">", "<"))
        else:
            words.append(token)
    yield words


def _tokens(line: str) -> List[str]:
    for text in (line, _COMMENT.sub("", line)):
        lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|()")
        lexer.whitespace_split = True
        # A "#" within a word, as in a URL, begins no comment, which this class does not know.
        lexer.commenters = ""
        try:
            tokens = list(lexer)
        except ValueError:
            continue
        comment = next((at for at, token in enumerate(tokens) if token.startswith("#")), len(tokens))
        return tokens[:comment]
    return []


def _read(words: Sequence[str], sure: bool) -> Iterator[Command]:
    words = list(words)
    while words and (words[0] in _BEFORE_A_COMMAND or _ASSIGNMENT.match(words[0])):
        del words[0]
    if not words:
        return
    called, rest = words[0], words[1:]
    name = called.rpartition("/")[2]
    module = bool(_PYTHON.match(name)) or called in _OWN_TOO
    if module:
        name, rest = _module(rest)
        called = OWN if called in _OWN_TOO else called
    program = "pip" if _PIP.match(name) else "conda" if name in _CONDA else name
    if program not in _VALUED or (module and program == "conda"):
        return
    options, positional = _options(rest, _VALUED[program])
    if program == "uv":
        if positional[:1] != ["pip"]:
            return
        del positional[0]
    if positional and positional[0] in ("install", "uninstall"):
        yield Command(program, positional[0], called, module, tuple(options), tuple(positional[1:]), sure)


def _module(words: Sequence[str]) -> Tuple[str, List[str]]:
    """The module that ``python`` runs with these arguments, "" for none, and the arguments of that."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        word = words[at]
        if re.match(r"-[A-Za-z]*m\Z", word):
            return (words[at + 1], list(words[at + 2 :])) if at + 1 < len(words) else ("", [])
        if "c" in word:
            break
        at += 2 if word in ("-W", "-X") else 1
    return "", []


def _options(words: Sequence[str], valued: FrozenSet[str]) -> Tuple[List[Tuple[str, str]], List[str]]:
    """What of a command line are options, with their values, and what is not; as `optparse` reads it."""
    options: List[Tuple[str, str]] = []
    positional: List[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            positional += words[at:]
            break
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            if not equals and _takes_value(name, valued):
                value, at = (words[at] if at < len(words) else ""), at + 1
            options.append((name, value))
        elif word.startswith("-") and len(word) > 1:
            for position, letter in enumerate(word[1:], 2):
                value = ""
                if "-" + letter in valued:
                    value = word[position:]
                    if not value:
                        value, at = (words[at] if at < len(words) else ""), at + 1
                    options.append(("-" + letter, value.lstrip("=")))
                    break
                options.append(("-" + letter, ""))
        else:
            positional.append(word)
    return options, positional


def _takes_value(name: str, valued: FrozenSet[str]) -> bool:
    # Long options may be cut short, as long as it is clear which is meant: https://docs.python.org/3/library/optparse.html
    return name in valued or (len(name) > 5 and any(option.startswith(name) for option in valued))
