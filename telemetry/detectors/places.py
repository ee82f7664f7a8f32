"""Places: where an application keeps what belongs to the request at hand, and which code mentions them.

Found in modules, raw: module globals and class attributes that functions assign to, `threading.local` objects (those that
classes and objects of the application hold, too), context variables and their defaults; and in the closures of endpoints,
variables that functions assign to (`nonlocal`) and the same thread-locals.
Globals are looked for in the application's own modules; thread-locals and context variables in installed packages too.
Runs on the housekeeper's thread, when modules were imported since. Measured: 0.3 s for 4,800 modules, less when it is done again:
what a module's functions assign to is read from their bytecode once.
"""

from __future__ import annotations

import opcode
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, ContextVar
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any, Final
from weakref import WeakKeyDictionary

from isolation_monitor.telemetry.code_files import Owner, owner_of
from isolation_monitor.telemetry.context import CURRENT
from isolation_monitor.telemetry.detectors.naming import fields_of, is_telling
from isolation_monitor.telemetry.detectors.reach import arguments_of, dict_of_class, function_of, is_class

PLACES_LIMIT: Final = 5_000

_STORE_GLOBAL: Final = opcode.opmap["STORE_GLOBAL"]
STORE_ATTR: Final = opcode.opmap["STORE_ATTR"]
_STORE_DEREF: Final = opcode.opmap["STORE_DEREF"]
_CONSTRUCTORS: Final = ("__init__", "__post_init__", "__new__")
_get_local = threading.local.__getattribute__


class Place:
    """One place. `words` are the names under which code reaches it; `read` returns its value now, or None.

    `roots` are the module globals through which code comes to it, where there are any.
    """

    __slots__ = ("key", "kind", "name", "read", "roots", "words")

    def __init__(self, kind: str, name: str, key: object, words: frozenset[str], read: Callable[[], object], root: str = "") -> None:
        self.roots = frozenset((root,)) if root else frozenset()
        self.kind = kind
        self.name = name
        self.key = key
        self.words = words
        self.read = read


@dataclass(frozen=True, slots=True)
class _Stores:
    """What a module's functions assign to: attributes (those of constructors left out) and globals. `stamp` is of its variables then."""

    stamp: int
    attributes: frozenset[str]
    globals: frozenset[str]


class Places:
    """All places found so far. `shared` are read at every look; thread-locals are read in the thread that looks."""

    def __init__(self) -> None:
        self.shared: list[Place] = []
        self.locals: list[Place] = []
        self.words: dict[ContextVar[Any], frozenset[str]] = {}
        """Names of module globals by which code reaches a context variable."""
        self._seen = 0
        self._stores: WeakKeyDictionary[ModuleType, _Stores] = WeakKeyDictionary()

    def is_stale(self) -> bool:
        return len(sys.modules) != self._seen

    def scan(self) -> None:
        """Look through the modules that are loaded now."""
        self._seen = len(sys.modules)
        shared: list[Place] = []
        locals: list[Place] = []
        words: dict[ContextVar[Any], frozenset[str]] = {}
        own: list[ModuleType] = []
        for module in list(sys.modules.values()):
            owner = _owner(module)
            if owner not in ("application", "installed"):
                continue
            if owner == "application":
                own.append(module)
            _scan_objects(module, shared, locals, words)
            if owner == "application":
                locals.extend(place for place in _held_locals(module) if all(place.key != known.key for known in locals))
        stores = [self._stores_of(module) for module in own]
        assigned = frozenset().union(*(one.attributes for one in stores))
        objects: dict[int, Place] = {}
        for module, one in zip(own, stores, strict=True):
            shared.extend(_assigned_globals(module, assigned, one.globals, objects))
        self.shared, self.locals, self.words = shared[:PLACES_LIMIT], locals[:PLACES_LIMIT], words

    def _stores_of(self, module: ModuleType) -> _Stores:
        stamp = hash(tuple(map(id, list(module.__dict__.values()))))
        known = self._stores.get(module)
        if known is None or known.stamp != stamp:
            known = self._stores[module] = _stores_of(module, stamp)
        return known

    def words_of(self, variable: ContextVar[Any]) -> frozenset[str]:
        return self.words.get(variable, frozenset()) | {variable.name}


def local_place(name: str, local: threading.local, words: frozenset[str], root: str = "") -> Place:
    """Return the place of an exact `threading.local`: reading the dictionary of this thread runs nothing of the host."""
    return Place("thread_local", name, ("thread_local", id(local)), words, lambda: _get_local(local, "__dict__"), root)


def cell_places(function: object, name: str = "", depth: int = 0) -> Iterator[Place]:
    """Yield the places in a function's closure: variables that are assigned to, thread-locals and defaults of context variables."""
    function = function_of(function)
    if function is None or depth > 2:
        return
    code = function.__code__
    stored = set(_stored_freevars(code))
    for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            content = cell.cell_contents
        except ValueError:
            continue
        label = f"{code.co_qualname.rpartition('.')[0]}.{variable}"
        if variable in stored:
            yield Place("closure", label, ("closure", id(cell)), frozenset((variable,)), _reader_of_cell(cell))
        elif type(content) is threading.local:
            yield local_place(label, content, frozenset((variable,)))
        elif type(content) is ContextVar:
            yield from _default_place(content, label, frozenset((variable,)))
        elif type(content) is FunctionType:
            yield from cell_places(content, label, depth + 1)
        elif is_telling(content) and type(content) not in (dict, list, set):
            yield from _locals_in(fields_of(content), label)


# --- helpers ----------------------------------------------------------------------------------------------------------


def _owner(module: object) -> Owner:
    if type(module) is not ModuleType:
        return "nobody"
    file = module.__dict__.get("__file__")
    if type(file) is not str:
        return "application" if module.__dict__.get("__name__") == "__main__" else "nobody"
    return owner_of(file)


def _scan_objects(module: ModuleType, shared: list[Place], locals: list[Place], words: dict[ContextVar[Any], frozenset[str]]) -> None:
    title = str(module.__dict__.get("__name__", "?"))
    for name, value in list(module.__dict__.items()):
        kind = type(value)
        if kind is threading.local:
            if not any(place.key == ("thread_local", id(value)) for place in locals):
                locals.append(local_place(f"{title}.{name}", value, frozenset((name,)), name))
        elif kind is ContextVar and value is not CURRENT:
            if value not in words:
                shared.extend(_default_place(value, f"{title}.{name}", frozenset((name,))))
            words[value] = words.get(value, frozenset()) | {name}


def _held_locals(module: ModuleType) -> Iterator[Place]:
    """Yield the thread-locals that classes of a module and its objects hold: `_local` of a `Session` and the like."""
    title = str(module.__dict__.get("__name__", "?"))
    for name, value in list(module.__dict__.items()):
        if is_class(value):
            held = list(dict_of_class(value).items()) if dict_of_class(value).get("__module__") == title else []
        elif is_telling(value) and type(value) not in (dict, list, set, ContextVar, threading.local):
            held = list(fields_of(value))
        else:
            continue
        yield from _locals_in(held, f"{title}.{name}")


def _locals_in(held: Iterable[tuple[str, object]], name: str) -> Iterator[Place]:
    for field, content in held:
        if type(content) is threading.local:
            yield local_place(f"{name}.{field}", content, frozenset((field,)))


def _default_place(variable: ContextVar[Any], name: str, words: frozenset[str]) -> Iterator[Place]:
    try:
        default = Context().run(variable.get)
    except LookupError:
        return
    if is_telling(default):
        yield Place("context_variable", name, variable, words, lambda: default if variable.get(default) is default else None)


def _stores_of(module: ModuleType, stamp: int) -> _Stores:
    attributes: set[str] = set()
    variables: set[str] = set()
    for code in codes_of(module):
        variables.update(stored_by(code, _STORE_GLOBAL))
        if code.co_name not in _CONSTRUCTORS:
            attributes.update(stored_by(code, STORE_ATTR))
    return _Stores(stamp, frozenset(attributes), frozenset(variables))


def _assigned_globals(module: ModuleType, assigned: frozenset[str], stored: frozenset[str], objects: dict[int, Place]) -> Iterator[Place]:
    """`objects` are the places found so far that are objects with fields: modules import them from each other."""
    title = str(module.__dict__.get("__name__", "?"))
    space = module.__dict__
    for name, value in list(space.items()):
        if name.startswith("__") and name.endswith("__"):
            # The interpreter's. Two at the beginning alone are how some write "private".
            continue
        if name in stored or (name in assigned and (value is None or type(value) in (str, int))):
            yield Place("global", f"{title}.{name}", ("global", title, name), frozenset((name,)), _reader(space, name), name)
        elif is_class(value) and dict_of_class(value).get("__module__") == title:
            for field, default in list(dict_of_class(value).items()):
                if field in assigned and not field.startswith("__") and (default is None or type(default) in (str, int)):
                    key = ("class", title, name, field)
                    yield Place("global", f"{title}.{name}.{field}", key, frozenset((field,)), _reader_of_class(value, field), name)
        elif is_telling(value) and type(value) not in (dict, list, set, ContextVar, threading.local):
            known = objects.get(id(value))
            if known is not None:
                known.roots |= {name}
                continue
            fields = frozenset(field for field, _ in fields_of(value)) & assigned
            if fields:
                # One object for the whole module, whose fields functions assign to.
                place = Place("global", f"{title}.{name}", ("global", title, name), fields, _reader(space, name), name)
                objects[id(value)] = place
                yield place


def _reader(space: dict[str, Any], name: str) -> Callable[[], object]:
    return lambda: space.get(name)


def _reader_of_class(cls: type, field: str) -> Callable[[], object]:
    return lambda: dict_of_class(cls).get(field)


def _reader_of_cell(cell: CellType) -> Callable[[], object]:
    def read() -> object:
        try:
            return cell.cell_contents
        except ValueError:
            return None

    return read


def codes_of(module: ModuleType) -> Iterator[CodeType]:
    """Yield the code of all functions that a module defines, those within functions and classes too."""
    title = module.__dict__.get("__name__")
    waiting: list[CodeType] = []
    for value in list(module.__dict__.values()):
        if type(value) is FunctionType and value.__module__ == title:
            waiting.append(value.__code__)
        elif is_class(value) and dict_of_class(value).get("__module__") == title:
            for entry in list(dict_of_class(value).values()):
                function = function_of(entry)
                if function is not None:
                    waiting.append(function.__code__)
    seen = 0
    while waiting and seen < 20_000:
        code = waiting.pop()
        seen += 1
        yield code
        waiting.extend(inner for inner in code.co_consts if type(inner) is CodeType)


def stored_by(code: CodeType, operation: int) -> Iterator[str]:
    for argument in arguments_of(code, operation):
        if argument < len(code.co_names):
            yield code.co_names[argument]


def _stored_freevars(code: CodeType) -> Iterator[str]:
    # Since 3.11 the argument counts locals, then cells that are no locals, then free variables.
    own = (*code.co_varnames, *(name for name in code.co_cellvars if name not in code.co_varnames), *code.co_freevars)
    for argument in arguments_of(code, _STORE_DEREF):
        if argument < len(own) and own[argument] in code.co_freevars:
            yield own[argument]
