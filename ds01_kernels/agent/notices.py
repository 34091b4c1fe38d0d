"""What a kernel does about packages when a cell has run, and the few lines that it says under it: of them,
and of what threatens its container.

A cell must never fail or wait because of this: every hook is guarded, and a cell that has nothing to do with
packages costs a few stats. What only other cells need is imported then.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import sys
import traceback
from contextlib import suppress
from typing import Any, Callable, Dict, List, Tuple

from .alerts import Alerts
from .changes import Change, Installed, normalised, replaced

#: Where the agent reads what was typed; there is no such folder in containers that others have made.
NOTES = os.environ.get("DS01_PIP_FOLDER") or "/opt/ds01/pip"
#: The form of a hint for programs: {module, package, project}.
MISSING = "application/vnd.ds01-kernels.missing+json"
#: How many packages one line names.
MOST_NAMED = 5

_PIPS_OWN = "IPython.core.magics.packaging"


def attach(shell: Any) -> None:
    """Have IPython's `shell` (or None) say what there is to say. Raises nothing."""
    try:
        if shell is not None:
            notices = Notices(shell)
            shell.events.register("pre_run_cell", notices.before)
            shell.events.register("post_run_cell", notices.after)
            notices.take_over_pip()
    except Exception:
        traceback.print_exc(file=sys.__stderr__)


def _guarded(hook: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    @functools.wraps(hook)
    def call(self: Any, argument: Any) -> None:
        try:
            hook(self, argument)
        except Exception:
            # The kernel's log; `sys.stderr` would be the cell.
            traceback.print_exc(file=sys.__stderr__)

    return call


class Notices:
    """The hooks of one kernel."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._alerts = Alerts()
        self._installed = Installed()
        self._has_pip = False
        self._replaced: Dict[str, Tuple[str, str, str]] = {}
        #: What is loaded, by normalised name, where that is no longer what is there.
        self._loaded: Dict[str, str] = {}
        self._gone: Dict[str, str] = {}
        self._modules: Tuple[str, ...] = ()
        self._has_changed = False
        self._elsewhere: List[Tuple[Any, Any]] = []

    @_guarded
    def before(self, info: Any) -> None:
        self._modules = tuple(sys.modules)
        self._elsewhere = []
        cell = info.raw_cell or ""
        if "install" in cell:
            self._read(info, cell)
        self._has_changed = False

    @_guarded
    def after(self, result: Any) -> None:
        self._look()
        self._say_replaced()
        if self._elsewhere:
            self._say_elsewhere()
        if alert := self._alerts.newest():
            self._say(alert)
        error = getattr(result, "error_in_exec", None)
        if isinstance(error, ModuleNotFoundError):
            self._say_missing(error)

    def take_over_pip(self) -> None:
        """Put ours in the place of IPython's %pip, which always ends with a note to restart the kernel."""
        former = self._shell.magics_manager.magics["line"].get("pip")
        # One that IPython has not loaded yet has a `spec`, which begins so too.
        if former is None or getattr(former, "spec", former.__module__).startswith(_PIPS_OWN):
            self._shell.register_magic_function(self.pip, "line", "pip")
            self._has_pip = True

    def pip(self, line: str) -> None:
        """Run pip for this kernel's interpreter.

        Usage:
          %pip install [pkgs]
        """
        self._keep_asked(line)
        try:
            self._shell.system(" ".join([shlex.quote(sys.executable), "-m", "pip", line]))
        finally:
            # The rest of the cell may import it.
            self._look_quietly(None)

    # Before a cell

    def _read(self, info: Any, cell: str) -> None:
        from . import installs, interpreters

        if len(cell) > installs.CELL_LIMIT:
            return
        self._look()
        transform = self._shell.transform_cell
        source = getattr(info, "transformed_cell", None) or transform(cell)
        commands = installs.in_cell(source, transform)
        self._remember_modules([command for command in commands if command.action == "uninstall"])
        asked = [command for command in commands if command.action == "install"]
        _keep([spec for command in asked if _is_kept(command, self._has_pip) for spec in command.specs])
        targets = [(command, interpreters.other_target(command)) for command in asked]
        self._elsewhere = [(command, target) for command, target in targets if target is not None]

    def _keep_asked(self, line: str) -> None:
        # With what IPython has put in: a cell may hold `%pip install {name}`.
        with suppress(Exception):
            from . import installs

            commands = installs.in_pip_line(line) if "install" in line else []
            _keep([spec for command in commands if command.action == "install" for spec in command.specs])

    def _remember_modules(self, uninstalls: List[Any]) -> None:
        for name in {normalised(word) for command in uninstalls for word in command.words}:
            distribution = self._installed.distributions.get(name)
            if distribution is not None:
                found = distribution.modules()
                self._gone.update({module: distribution.name for module in found if "." not in module})

    # After a cell

    @_guarded
    def _look_quietly(self, _: None) -> None:
        self._look()

    def _look(self) -> None:
        changes = self._installed.look()
        if changes is None:
            return
        self._has_changed = True
        modules = frozenset(self._modules)
        for change in changes:
            if replaced(change, modules):
                self._note(change)

    def _note(self, change: Change) -> None:
        name = normalised(change.after.name)
        loaded = self._loaded.setdefault(name, change.before.version)
        if loaded == change.after.version and loaded != change.before.version:
            # What is loaded is back.
            del self._loaded[name]
            self._replaced.pop(name, None)
        else:
            self._replaced[name] = (change.after.name, loaded, change.after.version)

    def _say_replaced(self) -> None:
        several, self._replaced = sorted(self._replaced.values()), {}
        if not several:
            return
        if len(several) == 1:
            name, loaded, now = several[0]
            how = "was installed again" if loaded == now else "was changed from %s to %s" % (loaded, now)
            self._say("%s %s after it was imported: restart the kernel to use the new one." % (name, how))
            return
        named = ["%s (%s to %s)" % each if each[1] != each[2] else each[0] for each in several]
        self._say(
            "%s were changed after they were imported: restart the kernel to use the new ones." % _and(named)
        )

    def _say_elsewhere(self) -> None:
        if self._has_changed:
            return
        for command, target in self._elsewhere:
            specs = []
            for spec in command.specs:
                name = _name(spec)
                version = target.has(name) if name else None
                own = self._installed.distributions.get(normalised(name))
                if version is not None and (own is None or own.version != version):
                    specs.append((name, name if command.program == "conda" else shlex.quote(spec)))
            if specs:
                self._say(
                    "%s %s installed for %s, not for this kernel's %s: use %%pip install %s."
                    % (
                        _and([name for name, _ in specs]),
                        "was" if len(specs) == 1 else "were",
                        target.python,
                        sys.executable,
                        " ".join(spec for _, spec in specs),
                    )
                )

    def _say_missing(self, error: ModuleNotFoundError) -> None:
        from . import missing

        found = missing.hint(error, self._installed.distributions, self._gone)
        if found is not None:
            project = os.environ.get("DS01_PROJECT", "")
            about = {"module": found.module, "package": found.package, "project": project}
            self._say(found.sentence, {MISSING: about})

    def _say(self, sentence: str, more: Any = None) -> None:
        # Not printed: what a cell prints is its own.
        self._shell.display_pub.publish(data={"text/plain": sentence, **(more or {})}, metadata={})


def _is_kept(command: Any, has_pip: bool) -> bool:
    """Whether it is ours to keep now: %pip does so itself, and conda's words are no requirements."""
    return command.program != "conda" and not (has_pip and command.program == "pip" and command.magic)


def _keep(specs: List[str]) -> None:
    from . import files

    if specs:
        # Most often: no such folder.
        with suppress(OSError):
            files.append(os.path.join(NOTES, "asked.jsonl"), json.dumps({"specs": specs}))


def _name(spec: str) -> str:
    """The name in a requirement, or in one of conda's; "" for a path or an address."""
    name = spec.rpartition("::")[2]
    for at, character in enumerate(name):
        if not (character.isascii() and character.isalnum()) and character not in "._-":
            return name[:at] if at and character in "[<>=!~;@ (" else ""
    return "" if name.endswith((".whl", ".zip", ".gz")) else name


def _and(names: List[str]) -> str:
    if len(names) > MOST_NAMED:
        names = [*names[:MOST_NAMED], "%d others" % (len(names) - MOST_NAMED)]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
