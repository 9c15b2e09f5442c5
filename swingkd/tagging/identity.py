"""The code behind a tagger, or behind surrogates: what an older version of it wrote is not taken for its own.

`datasets` keeps what it computed under a key of a function's arguments.  An object whose class can be imported goes
into that key by its name alone: its code may have been edited since.
"""

from __future__ import annotations

import ast
import inspect
import sys
import sysconfig
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, lru_cache, partial
from importlib.util import resolve_name
from itertools import islice
from pathlib import Path
from types import CellType, CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import xxhash

# Code that belongs to an installed version of Python or of a package.
_INSTALLED = tuple(
    str(Path(path).resolve())
    for name, path in sysconfig.get_paths().items()
    if name in ("stdlib", "platstdlib", "purelib", "platlib")
)
# Parts of a tagger that are looked at.
_MOST, _OURS = 20_000, ("swingkd.tagging", "swingkd.surrogates")


def code_fingerprint(*parts: object | None) -> str | None:
    """Hash the source files of classes, of what objects are made of, and of the user's modules that they import.

    Args:
        *parts: taggers, and what makes surrogates; `None`: there is none.

    Returns:
        A digest; `None` without any.
    """
    known = [part for part in parts if part is not None]
    if not known:
        return None
    digest, seen = xxhash.xxh3_128(), set[str]()
    for path in sorted({path for name in _modules(known) for path in _sources(name, seen)}):
        digest.update(path.encode() + b"\0" + Path(path).read_bytes())
    return digest.hexdigest()


def _modules(parts: list[object]) -> Iterator[str]:
    """Yield the names of the modules that the code of objects stands in, and that of their parts."""
    seen: set[int] = set()
    left = deque(parts)
    while left and len(seen) < _MOST:
        value = left.popleft()
        if id(value) in seen or isinstance(value, str | bytes | int | float | bool | None):
            continue
        seen.add(id(value))
        if isinstance(value, ModuleType):
            yield from [value.__name__] if _is_users(value.__name__) else []
            continue
        if not isinstance(value, FunctionType | MethodType | partial):
            yield from _of_code(value if isinstance(value, type) else type(value))
        elif isinstance(value, FunctionType):
            yield from _of_code(value)
        left.extend(islice(_parts(value), _MOST))


def _parts(value: Any) -> Iterator[Any]:
    """Yield what an object is made of, or its code reads."""
    if isinstance(value, FunctionType):
        yield from _of_function(value)
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, type):
        # Of a script or a notebook, what its methods read; of a module, the module's own source tells.
        methods = [getattr(part, "__func__", part) for part in vars(value).values()]
        yield from (part for part in methods if isinstance(part, FunctionType) and value.__module__ == "__main__")
    elif isinstance(value, Mapping):
        yield from (part for pair in value.items() for part in pair)
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from value
    # A library's object: its parts are the library's, unless it is a bag, or wraps a function.
    wrapped = inspect.getattr_static(value, "__wrapped__", None)
    if not isinstance(value, FunctionType | MethodType | type) and isinstance(wrapped, FunctionType):
        yield wrapped
    kind = type(value)
    if kind is SimpleNamespace or kind.__module__ == "__main__" or _is_users(kind.__module__):
        yield kind
        with suppress(AttributeError):
            yield from object.__getattribute__(value, "__dict__").values()
        yield from _slots(value)


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


def _slots(value: Any) -> Iterator[Any]:
    for kind in type(value).__mro__:
        names = kind.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            member = inspect.getattr_static(type(value), name, None)
            if isinstance(member, MemberDescriptorType):
                with suppress(AttributeError):
                    yield member.__get__(value)


def _sources(name: str, seen: set[str]) -> Iterator[str]:
    """Yield the file of a module, and those of the user's modules that it imports, whatever it takes from them."""
    if name in seen or not _is_users(name):
        return
    seen.add(name)
    path = Path(str(sys.modules[name].__file__))
    yield str(path)
    if path.suffix != ".py":
        return
    for other in _imported(path.read_bytes(), sys.modules[name].__package__ or ""):
        # Of this package, these two alone: which of its other parts were loaded by now is chance.
        if not other.startswith("swingkd.") or other.startswith(_OURS):
            yield from _sources(other, seen)


# A trainer asks several times, of dozens of files: reading them is quick, parsing them is not.
@lru_cache(maxsize=1024)
def _imported(source: bytes, package: str) -> tuple[str, ...]:
    """Return the names of all modules that a source imports; some of what it takes from a package are modules too."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ()  # Half edited: its bytes are hashed all the same.
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            start = resolve_name(start, package) if node.level and package else start
            names += [start, *(f"{start}.{alias.name}" for alias in node.names)]
    return tuple(dict.fromkeys(names))


def _is_users(name: str | None) -> bool:
    """Tell whether a module's file can be edited: it is the user's, or ours."""
    # What stands in a script or a notebook goes into the key whole.
    file = getattr(sys.modules.get(name or ""), "__file__", None) if name != "__main__" else None
    if file is None or not Path(file).is_file():
        return False
    return str(name).partition(".")[0] == "swingkd" or not _installed(file)


@cache
def _installed(file: str) -> bool:
    return str(Path(file).resolve()).startswith(_INSTALLED)
