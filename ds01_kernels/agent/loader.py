"""Makes this package importable from memory: an image needs nothing but Python, and no file is left in it.

The text of this module is the head of a program (`program`): it stands alone, and runs before the package is.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence

if TYPE_CHECKING:
    from importlib.abc import Loader
else:
    # Which nobody asks for, and whose import takes 20 ms.
    Loader = object

PACKAGE = "ds01_agent"


class Sources(Loader):
    """Import hook for one package whose modules' texts are in a dict; ``__init__`` is the package itself."""

    def __init__(self, texts: Dict[str, str]) -> None:
        self.texts = texts

    def find_spec(self, name: str, path: object = None, target: object = None) -> Optional[ModuleSpec]:
        if name == PACKAGE:
            return ModuleSpec(name, self, is_package=True)
        parent, _, module = name.rpartition(".")
        return ModuleSpec(name, self) if parent == PACKAGE and module in self.texts else None

    def create_module(self, spec: ModuleSpec) -> None:
        """The ordinary module object will do."""

    def exec_module(self, module: ModuleType) -> None:
        text = self.get_source(module.__name__)
        code = compile(text, "<%s>" % module.__name__, "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102 - this is what a loader does

    def get_source(self, name: str) -> str:
        """For tracebacks, which so show our lines."""
        return self.texts["__init__" if name == PACKAGE else name.rpartition(".")[2]]


def boot(texts: Dict[str, str], module: str, arguments: Sequence[Any]) -> None:
    """Call ``main(*arguments)`` of one of the modules."""
    # What `-c` puts there is the folder this happens to run in.
    if sys.path and sys.path[0] == "":
        del sys.path[0]
    sys.meta_path.insert(0, Sources(texts))
    importlib.import_module(PACKAGE).loaded.update(texts)
    importlib.import_module(PACKAGE + "." + module).main(*arguments)


def program(texts: Dict[str, str], module: str, arguments: Sequence[Any]) -> str:
    """The text of a Python program that calls ``main(*arguments)`` of `module`."""
    return "%s\n\nboot(%r, %r, %r)\n" % (texts["loader"], texts, module, list(arguments))
