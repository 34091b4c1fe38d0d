"""Arranges a zygote's memory so that its kernels go on sharing most of it.

A process that was forked shares each page until either side writes to it, and Python writes all the time: it
counts the references to whatever it touches. What a starting kernel touches lies scattered, a few objects on
each of thousands of pages. Here some of it is gathered, as equal copies that lie side by side, in a zygote
that has imported everything and has not yet frozen what it holds. Nothing is another than before but in its
address, and whatever cannot be done here is left as it is.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import contextmanager, suppress
from types import FunctionType
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence, TypeVar

Thing = TypeVar("Thing")

#: Bytes, and how often copies are made anew.
PAGE = 4096
TRIES = 4

#: Bytes of free memory that are looked for in pieces, from the largest to the smallest, and at most in all.
LARGEST, SMALLEST, STEP = 1 << 16, 32, 16
MOST = 8 << 20

#: What is held so that its place is not used again, which would write to the pages around it.
_former: List[Any] = []

#: What `sys.modules` had in the zygote: the files of its modules, and its last name.
_files: List[Any] = []
_last: List[str] = []


def arrange(called: Iterable[Sequence[str]]) -> None:
    """Do all that is known to help; `called` are functions, as `rehearsal.called` tells of them."""
    steps: List[Callable[[], None]] = [
        _fill_holes,
        lambda: _gather_code(called),
        _gather_names,
        _gather_files,
        _fill_holes,
        _forget_lookups,
    ]
    for step in steps:
        with suppress(Exception):
            step()


@contextmanager
def files_at_hand() -> Iterator[None]:
    """Let `ipykernel.ipkernel` find the files of all modules in one place, and not by looking at each.

    A kernel makes a list of them when it is made, for its debugger: that alone touches four objects of every
    module. https://github.com/ipython/ipykernel/blob/main/ipykernel/ipkernel.py (`_kernel_modules`)
    """
    ipkernel: Any = sys.modules.get("ipykernel.ipkernel")
    if not _files or getattr(ipkernel, "sys", None) is not sys:
        yield
        return
    ipkernel.sys = _System()
    try:
        yield
    finally:
        ipkernel.sys = sys


class _System:
    """The module `sys`, but for its modules."""

    def __init__(self) -> None:
        self.modules = _Modules()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


class _Modules:
    """`sys.modules`, of whose values there is no more than the file."""

    def copy(self) -> _Modules:
        return self

    def values(self) -> Iterator[Any]:
        for file in _files:
            yield _Module(file)
        later = []
        for name in reversed(sys.modules):
            if name == _last[0]:
                break
            later.append(sys.modules[name])
        yield from reversed(later)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.modules, name)

    def __getitem__(self, name: str) -> Any:
        return sys.modules[name]

    def __contains__(self, name: str) -> bool:
        return name in sys.modules

    def __iter__(self) -> Iterator[str]:
        return iter(sys.modules)

    def __len__(self) -> int:
        return len(sys.modules)


class _Module:
    __slots__ = ("__file__",)

    def __init__(self, file: Any) -> None:
        self.__file__ = file


def _gather_code(called: Iterable[Sequence[str]]) -> None:
    """Running a function counts references to its code, and writes into it what makes it faster."""
    functions = [found for module, name in called for found in _functions(module, name)]
    codes: List[Any] = [function.__code__ for function in functions]
    copies = _gathered(codes, lambda code: code.replace())
    for at, function in enumerate(functions):
        function.__code__ = copies[at]
    _former.append(codes)


def _functions(module: str, name: str) -> List[Any]:
    """Those of that qualified name which can be found without looking at more than lies on the way."""
    thing: Any = sys.modules.get(module)
    try:
        for part in name.split("."):
            thing = vars(thing).get(part)
        found = [thing, *_inside(thing)]
    except TypeError:  # of what has no attributes: it is something else, or made by a function
        return []
    return [one for one in found if type(one) is FunctionType and one.__code__.co_qualname == name]


def _inside(thing: Any) -> Sequence[Any]:
    """What may be the function, where it was decorated."""
    if isinstance(thing, (staticmethod, classmethod)):
        return [thing.__func__]
    if isinstance(thing, property):
        return [thing.fget, thing.fset]
    return [vars(thing).get("__wrapped__")]


def _gather_names() -> None:
    """Whoever looks through `sys.modules` touches its names: IPython does, and we after each cell."""
    names = list(sys.modules)
    modules = list(sys.modules.values())
    copies = _gathered(names, _copy)
    _former.append(names)
    if copies == names:
        # Nothing is imported between, and no thread but this one runs.
        sys.modules.clear()
        sys.modules.update((name, modules[at]) for at, name in enumerate(copies))


def _gather_files() -> None:
    files = []
    for module in list(sys.modules.values()):
        with suppress(Exception):
            if module.__file__:
                files.append(module.__file__)
    _files[:] = _gathered(files, _copy)
    _last[:] = list(sys.modules)[-1:]


def _copy(text: Any) -> Any:
    return ("\0" + text)[1:] if type(text) is str else text


def _forget_lookups() -> None:
    """The interpreter's cache of attributes of types holds names: to take the place of one is to write to it.

    From 3.12 on these names are not counted. https://peps.python.org/pep-0683/
    """
    if sys.version_info < (3, 12):
        sys._clear_type_cache()


def _gathered(things: Sequence[Thing], copy: Callable[[Thing], Thing]) -> List[Thing]:
    """Copies that lie close together: the first ones may go where there was room between others."""
    copies = [copy(thing) for thing in things]
    others = []
    for _ in range(TRIES):
        filled: Dict[int, int] = {}
        for thing in copies:
            filled[id(thing) // PAGE] = filled.get(id(thing) // PAGE, 0) + sys.getsizeof(thing)
        for at, thing in enumerate(copies):
            if filled[id(thing) // PAGE] < PAGE // 2:
                others.append(thing)
                copies[at] = copy(things[at])
    return copies


def _fill_holes() -> None:
    """Take the pieces that are free between others in the C library's heap, and never use them.

    What a kernel allocates so lies side by side above them, where otherwise it would fill these.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    library.malloc.restype = library.sbrk.restype = ctypes.c_void_p
    library.malloc.argtypes, library.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
    library.sbrk.argtypes, library.mallinfo.restype = [ctypes.c_ssize_t], _Allocated
    library.malloc_trim(0)
    top = (library.sbrk(0) or 0) - library.mallinfo().keepcost
    taken, size = 0, LARGEST
    while size >= SMALLEST and taken < MOST:
        piece = library.malloc(size - STEP // 2)
        if piece and piece < top:
            taken += size
            continue
        library.free(piece)
        size = size // 2 if size > PAGE else size - STEP


class _Allocated(ctypes.Structure):
    """What mallinfo(3) tells; `keepcost` are the bytes at the top of the heap."""

    _fields_ = [("others", ctypes.c_int * 9), ("keepcost", ctypes.c_int)]
