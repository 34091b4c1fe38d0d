"""Makes this package importable from memory, so that an image needs nothing but Python and no file is left in it.

The text of this module is the head of a program (`program`): it stands alone, and runs before the package exists.
"""

import importlib
import importlib.util
import sys

PACKAGE = "ds01_agent"


class Sources:
    """Import hook for one package whose modules' texts are in a dict; ``__init__`` is the package itself."""

    def __init__(self, texts):
        self.texts = texts

    def find_spec(self, name, path=None, target=None):
        if name == PACKAGE:
            return importlib.util.spec_from_loader(name, self, is_package=True)
        parent, _, module = name.rpartition(".")
        if parent == PACKAGE and module in self.texts:
            return importlib.util.spec_from_loader(name, self)
        return None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        text = self.get_source(module.__name__)
        exec(compile(text, "<%s>" % module.__name__, "exec"), module.__dict__)

    def get_source(self, name):
        return self.texts.get(name.rpartition(".")[2] if name != PACKAGE else "__init__", "")


def boot(texts, module, arguments):
    """Call ``main(*arguments)`` of one of the modules."""
    # What `-c` puts there is the folder this happens to run in.
    if sys.path and sys.path[0] == "":
        del sys.path[0]
    sources = Sources(texts)
    sys.meta_path.insert(0, sources)
    package = importlib.import_module(PACKAGE)
    package.loaded.update(texts)
    importlib.import_module(PACKAGE + "." + module).main(*arguments)


def program(texts, module, arguments):
    """The text of a Python program that calls ``main(*arguments)`` of `module`."""
    return "%s\n\nboot(%r, %r, %r)\n" % (texts["loader"], texts, module, arguments)
