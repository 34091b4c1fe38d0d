"""Which package a failed import lacks: named only when it is known, never guessed from the module's name."""

from __future__ import annotations

import dis
import os
from types import TracebackType
from typing import Collection, List, Mapping, NamedTuple, Optional

from .changes import normalised
from .import_names import PACKAGES

#: The project's own folder in the container.
WORKSPACE = "/workspace"


class Hint(NamedTuple):
    """`package` is what to install for `module`, a dotted name; `gone`: it was there and was uninstalled."""

    module: str
    package: str
    gone: bool = False

    @property
    def sentence(self) -> str:
        if self.gone:
            why = "%s was uninstalled" % self.module
        elif self.module.lower() == self.package.lower():
            why = "%s is not installed" % self.module
        else:
            why = "%s is in the package %s" % (self.module, self.package)
        return "%s: %%pip install %s" % (why, self.package)


def hint(error: ModuleNotFoundError, installed: Collection[str], gone: Mapping[str, str]) -> Optional[Hint]:
    """What would help against `error`, if that is known.

    `installed` are the normalised names of what is there: then an install is no remedy. `gone` are modules
    of packages that were uninstalled while this process ran.
    """
    missing = error.name
    if not missing or _is_local(missing.partition(".")[0]):
        return None
    if missing in gone:
        found = Hint(missing, gone[missing], gone=True)
    else:
        module = next((name for name in _wanted(error, missing) if name in PACKAGES), "")
        if not module:
            return None
        found = Hint(module, PACKAGES[module])
    return None if normalised(found.package) in installed else found


def _wanted(error: ModuleNotFoundError, missing: str) -> List[str]:
    """What was to be imported, in the order of the statement, and of each name all that `missing` begins.

    The error names only the first part that is not there: of ``import google.cloud.storage`` perhaps
    ``google``.
    """
    wanted: List[str] = []
    for name in _imported_at(error.__traceback__):
        if name == missing or name.startswith(missing + "."):
            parts = name.split(".")
            wanted += [".".join(parts[:end]) for end in range(len(parts), missing.count("."), -1)]
    return [*wanted, missing]


def _imported_at(traceback: Optional[TracebackType]) -> List[str]:
    """The dotted names that the import statement asked for at which the innermost frame stopped."""
    if traceback is None:
        return []
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    names: List[str] = []
    for instruction in dis.get_instructions(traceback.tb_frame.f_code):
        if instruction.offset == traceback.tb_lasti and instruction.opname == "IMPORT_NAME":
            names.append(str(instruction.argval))
        elif names and instruction.opname == "IMPORT_FROM":
            names.append("%s.%s" % (names[0], instruction.argval))
        elif names and not instruction.opname.startswith(("STORE_", "CACHE")):
            break
    return names


def _is_local(name: str) -> bool:
    """Whether a file of the user's has that name, which only lies where it is not looked for."""
    folder = os.getcwd()
    while True:
        for parent in (folder, os.path.join(folder, "src")):
            module = os.path.join(parent, name)
            if os.path.isfile(module + ".py") or os.path.isfile(os.path.join(module, "__init__.py")):
                return True
        if folder == WORKSPACE or not folder.startswith(WORKSPACE + "/"):
            return False
        folder = os.path.dirname(folder)
