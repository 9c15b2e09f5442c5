"""What a tagger is: the code behind it, so that tags that an older version of it wrote are not taken for its own.

`datasets` keeps what it computed under a key of a function's arguments.  An object whose class can be imported goes
into that key by its name alone: its code may have been edited since.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from functools import partial
from importlib.util import resolve_name
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import xxhash

# Code that belongs to an installed version of Python or of a package.
_INSTALLED = tuple(
    str(Path(path).resolve())
    for name, path in sysconfig.get_paths().items()
    if name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_DEPTH, _OURS = 5, "swingkd.tagging"


def tagger_fingerprint(tagger: object | None) -> str | None:
    """Hash the source files of a tagger's class, of what it is made of, and of the user's modules that they import.

    Args:
        tagger: any; `None`: there is none.

    Returns:
        A digest; `None` without a tagger.
    """
    if tagger is None:
        return None
    digest = xxhash.xxh3_128()
    for path in sorted({path for name in _modules(tagger) for path in _sources(name, set())}):
        digest.update(path.encode() + b"\0" + Path(path).read_bytes())
    return digest.hexdigest()


def _modules(value: Any, depth: int = _DEPTH) -> Iterator[str]:
    """Yield the names of the modules that an object's code stands in, and that of its parts."""
    if depth == 0 or isinstance(value, str | bytes | int | float | bool | None):
        return
    if isinstance(value, ModuleType):
        yield from [value.__name__] if _is_users(value.__name__) else []
        return
    if isinstance(value, type):
        yield from _of_code(value)
        return
    if isinstance(value, FunctionType):
        yield from _of_code(value)
        parts = _of_function(value)
    elif isinstance(value, MethodType):
        parts = [value.__func__, value.__self__]
    elif isinstance(value, partial):
        parts = [value.func, *value.args, *value.keywords.values()]
    elif callable(value) and hasattr(value, "__wrapped__"):
        parts = [value.__wrapped__]  # lru_cache and its kin
    elif isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(value)
    else:
        yield from _of_code(type(value))
        if not _is_users(type(value).__module__):
            return  # A library's object: its parts are the library's.
        parts = [*getattr(value, "__dict__", {}).values(), *_slots(value)]
    for part in parts[:1000]:
        yield from _modules(part, depth - 1)


def _of_function(function: FunctionType) -> list[Any]:
    """Return what a function reads beside its arguments: globals by their names, what it closes over, its defaults."""
    names: set[str] = set()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    known = [function.__globals__[name] for name in sorted(names) if name in function.__globals__]
    closed = [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
    wrapped = [function.__wrapped__] if hasattr(function, "__wrapped__") else []
    return [*known, *closed, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *wrapped]


def _of_code(code: Any) -> Iterator[str]:
    for kind in code.__mro__ if isinstance(code, type) else (code,):
        if _is_users(kind.__module__):
            yield kind.__module__


def _slots(value: Any) -> list[Any]:
    names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return [getattr(value, name) for name in names if hasattr(value, name)]


def _sources(name: str, seen: set[str]) -> Iterator[str]:
    """Yield the file of a module, and those of the user's modules that it imports, whatever it takes from them."""
    if name in seen or not _is_users(name):
        return
    seen.add(name)
    path = Path(str(sys.modules[name].__file__))
    yield str(path)
    if path.suffix != ".py":
        return
    for other in _imported(ast.parse(path.read_bytes()), sys.modules[name].__package__ or ""):
        # Of this package, the taggers alone: which of its other parts were loaded by now is chance.
        if not other.startswith("swingkd.") or other.startswith(_OURS):
            yield from _sources(other, seen)


def _imported(source: ast.AST, package: str) -> Iterator[str]:
    """Yield the names of all modules that a source imports; some of what it takes from a package are modules too."""
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            start = resolve_name(start, package) if node.level and package else start
            yield start
            yield from (f"{start}.{alias.name}" for alias in node.names)


def _is_users(name: str | None) -> bool:
    """Tell whether a module's file can be edited: it is the user's, or ours."""
    # What stands in a script or a notebook goes into the key whole.
    file = getattr(sys.modules.get(name or ""), "__file__", None) if name != "__main__" else None
    if file is None or not Path(file).is_file():
        return False
    ours = str(name).partition(".")[0] == "swingkd"
    return ours or not str(Path(file).resolve()).startswith(_INSTALLED)
