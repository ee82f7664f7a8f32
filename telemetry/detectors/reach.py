"""Reach: what the code of a function, and of the functions it calls by name, mentions, reads and sets.

Code objects only: nothing is run. Used where a suspicion is to be confirmed or dropped, never on the request path.
Calls through objects are followed by the method's name, to any class of the caller's module, to the class of an object that the
code names and to a module of the application that it names; dynamic calls are not seen.
"""

from __future__ import annotations

import dis
import functools
import opcode
import sys
from collections.abc import Callable, Iterator
from inspect import CO_COROUTINE
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final, TypeGuard

from isolation_monitor.telemetry.code_files import owner_of

CODES_LIMIT: Final = 300
"""Functions followed from one; what is beyond is taken as not mentioned."""
STEPS: Final = 4

_EXTENDED: Final = opcode.opmap["EXTENDED_ARG"]
_SEND: Final = opcode.opmap["SEND"]
_CACHE: Final = opcode.opmap["CACHE"]
_STORE_ATTR: Final = opcode.opmap["STORE_ATTR"]
_LOAD_GLOBAL: Final = opcode.opmap["LOAD_GLOBAL"]
# 3.11 has a third state, of instructions that were seen by the interpreter but not specialised.
_NOT_RUN: Final = frozenset((_LOAD_GLOBAL, getattr(dis, "_all_opmap", {}).get("LOAD_GLOBAL_ADAPTIVE", _LOAD_GLOBAL)))
# The lowest bit of some arguments is a flag: of LOAD_GLOBAL since 3.11, of LOAD_ATTR since 3.12.
_LOADS: Final = ((opcode.opmap["LOAD_GLOBAL"], 1), (opcode.opmap["LOAD_ATTR"], 1 if sys.version_info >= (3, 12) else 0))
_LOAD_NAME: Final = {**dict(_LOADS), opcode.opmap.get("LOAD_METHOD", -1): 0}
_LOAD_CELL: Final = (opcode.opmap["LOAD_DEREF"], opcode.opmap.get("LOAD_CLASSDEREF", opcode.opmap["LOAD_DEREF"]))
_ENDS: Final = frozenset((*opcode.hasjrel, *opcode.hasjabs, opcode.opmap["RETURN_VALUE"]))
_SEEN_ONLY: Final = frozenset(at for name, at in getattr(dis, "_all_opmap", {}).items() if name.endswith("_ADAPTIVE"))
"""3.11: general instructions in code that runs often, whether they were reached or not."""
_FRESH: Final = getattr(compile("a.b", "", "eval"), "_co_code_adaptive", b"")
_FRESH_COUNT: Final = next((_FRESH[at + 2 : at + 4] for at in range(0, len(_FRESH) - 3, 2) if _FRESH[at] == opcode.opmap["LOAD_ATTR"]), b"")
"""The count beside an instruction that was never run."""
_EVERYDAY: Final = frozenset(dir(dict) + dir(list) + dir(str) + dir(set) + ["set", "put", "put_nowait", "send", "close", "run"])
"""Method names that say nothing of whose method they are."""


dict_of_class = type.__dict__["__dict__"].__get__
mro_of_class = type.__dict__["__mro__"].__get__


def mentions(function: object, words: frozenset[str], test: Callable[[CodeType], bool] | None = None) -> bool:
    """Return whether a function, or one it calls by name, mentions one of `words` (and passes `test`); followed a few steps.

    Methods are followed by their name, to any class of the caller's module and to the classes of the application's objects
    that the code names: this finds too much rather than too little.
    """
    return any(mentions_in(code, words) and (test is None or test(code)) for code in reach_of(function))


def mentions_in(code: CodeType, words: frozenset[str]) -> bool:
    return not words.isdisjoint((*code.co_names, *code.co_freevars))


def loads(code: CodeType, words: frozenset[str]) -> bool:
    """Return whether code reads a global, attribute or closure variable of one of these names."""
    if not words.isdisjoint(code.co_freevars):
        return True
    wanted = {at for at, name in enumerate(code.co_names) if name in words}
    return any(argument >> shift in wanted for operation, shift in _LOADS for argument in arguments_of(code, operation))


def has_read(code: CodeType, name: str) -> bool:
    """Return whether code that loads the global `name`, other than to assign to one of its attributes, was really run.

    The interpreter replaces an instruction that runs repeatedly by a specialised one: what is still the general one is in
    a branch that was not taken, or was run a few times only.
    """
    wanted = {at for at, one in enumerate(code.co_names) if one == name}
    raw, adapted, extended = code.co_code, getattr(code, "_co_code_adaptive", b""), 0
    found = False
    for at in range(0, min(len(raw), len(adapted)) - 1, 2):
        operation, argument = raw[at], raw[at + 1] | extended
        if found and operation != _CACHE:
            if operation != _STORE_ATTR:
                return True
            found = False
        extended = argument << 8 if operation == _EXTENDED else 0
        if operation == _LOAD_GLOBAL and argument >> 1 in wanted:
            found = adapted[at] not in _NOT_RUN
    return False


def may_have_read(code: CodeType, words: frozenset[str]) -> bool:
    """Return whether code may have read what it reaches by one of `words`: False when every place that does was never run.

    Instructions keep counts of their runs beside them: the first one with a count, at a load or right after it, tells.
    Where none does, the load counts as run. A load to assign to an attribute is no read.
    """
    raw, adapted = code.co_code, getattr(code, "_co_code_adaptive", b"")
    cells = _cells_of(code)
    extended = 0
    for at in range(0, len(raw) - 1, 2):
        operation, argument = raw[at], raw[at + 1] | extended
        extended = argument << 8 if operation == _EXTENDED else 0
        if operation in _LOAD_CELL:
            is_meant = argument < len(cells) and cells[argument] in words
        elif operation in _LOAD_NAME:
            at_name = argument >> _LOAD_NAME[operation]
            is_meant = at_name < len(code.co_names) and code.co_names[at_name] in words
        else:
            continue
        if is_meant and _next(raw, at) != _STORE_ATTR and _may_have_run(raw, adapted, at):
            return True
    return False


def never_waits(function: object) -> bool:
    """Return whether a function is a coroutine function without any `await`: nothing else runs while it does.

    Of a class or an object none of the functions may wait.
    """
    codes = [plain.__code__ for plain in functions_of(function)]
    return any(code.co_flags & CO_COROUTINE for code in codes) and not any(True for code in codes for _ in arguments_of(code, _SEND))


def is_locked(code: CodeType) -> bool:
    return any("lock" in name.lower() or "semaphore" in name.lower() for name in (*code.co_names, *code.co_freevars))


def reach_of(function: object) -> Iterator[CodeType]:
    """Yield the code of a function, or of the functions of a class or an object (`functions_of`), and of those that they call."""
    for plain in functions_of(function):
        yield from reach(plain.__code__, plain.__globals__, plain.__closure__)


def reach(code: CodeType, globals: dict[str, Any], closure: tuple[CellType, ...] | None = None) -> Iterator[CodeType]:
    """Yield a code object and those of the functions that it calls by name, a few steps far."""
    seen: set[int] = set()
    waiting: list[tuple[CodeType, dict[str, Any], tuple[CellType, ...] | None, int]] = [(code, globals, closure, 0)]
    while waiting and len(seen) < CODES_LIMIT:
        code, globals, closure, depth = waiting.pop()
        if id(code) in seen:
            continue
        seen.add(id(code))
        yield code
        waiting.extend((inner, globals, None, depth) for inner in code.co_consts if type(inner) is CodeType)
        if depth >= STEPS:
            continue
        holders = [globals[name] for name in code.co_names if name in globals]
        for cell in closure or ():
            try:
                content = cell.cell_contents
            except ValueError:
                continue
            holders.append(content)
            if type(content) is FunctionType:
                waiting.append((content.__code__, content.__globals__, content.__closure__, depth + 1))
        found = [function for name in code.co_names for function in _functions_named(name, globals)]
        for holder in holders:
            found.extend(_methods_named(code.co_names, holder))
        waiting.extend((function.__code__, function.__globals__, function.__closure__, depth + 1) for function in found)


def sets_context(words: frozenset[str]) -> Callable[[CodeType], bool]:
    """Return a test of code: does it set the variable of these names, or run something in a context of its own choice?"""

    def test(code: CodeType) -> bool:
        names = code.co_names
        if "copy_context" in names or "run_in_context" in names:
            return True
        if any(type(const) is tuple and "context" in const for const in code.co_consts):
            return True
        if "run" in names and any("context" in name.lower() or name.lower() == "ctx" for name in (*names, *code.co_varnames)):
            return True
        return "set" in names and not words.isdisjoint((*names, *code.co_freevars))

    return test


# --- helpers ----------------------------------------------------------------------------------------------------------


def arguments_of(code: CodeType, operation: int) -> Iterator[int]:
    """Yield the arguments of an instruction, in order. Searched for as bytes: a large application has millions of instructions."""
    raw = code.co_code
    operations = raw[::2]
    at = operations.find(operation)
    while at >= 0:
        argument, before = raw[2 * at + 1], at - 1
        while before >= 0 and operations[before] == _EXTENDED:
            argument |= raw[2 * before + 1] << 8 * (at - before)
            before -= 1
        yield argument
        at = operations.find(operation, at + 1)


def _cells_of(code: CodeType) -> tuple[str, ...]:
    # Since 3.11 the argument counts locals, then cells that are no locals, then free variables.
    return (*code.co_varnames, *(name for name in code.co_cellvars if name not in code.co_varnames), *code.co_freevars)


def _next(raw: bytes, at: int) -> int:
    """Return the operation that follows the one at `at`; -1 at the end."""
    for later in range(at + 2, len(raw) - 1, 2):
        if raw[later] not in (_CACHE, _EXTENDED):
            return raw[later]
    return -1


def _may_have_run(raw: bytes, adapted: bytes, at: int) -> bool:
    """Return whether the instruction at `at` may have run, by the first count from there on that is reached together with it."""
    for later in range(at, min(len(raw), len(adapted)) - 3, 2):
        operation = raw[later]
        if operation == _CACHE:
            continue
        if operation in _ENDS:
            return True
        if raw[later + 2] == _CACHE:
            is_general = adapted[later] == operation or adapted[later] in _SEEN_ONLY
            return not is_general or adapted[later + 2 : later + 4] != _FRESH_COUNT
    return True


def function_of(value: object) -> FunctionType | None:
    """Return the plain function behind a function, method, static or class method, or partial; None for anything else."""
    for _ in range(4):
        kind = type(value)
        if kind is FunctionType:
            return value  # type: ignore[return-value]  # exactly one
        if kind in (MethodType, staticmethod, classmethod):
            value = value.__func__  # type: ignore[attr-defined]
        elif kind is functools.partial:
            value = value.func  # type: ignore[attr-defined]
        elif kind is property:
            value = value.fget  # type: ignore[attr-defined]
        else:
            return None
    return None


def functions_of(value: object) -> list[FunctionType]:
    """Return the plain functions that may run when `value` serves: itself, the application's methods of a class, an object's call.

    Frameworks make an object of a class for each request or connection, and call its methods by names of their own.
    """
    plain = function_of(value)
    if plain is not None:
        return [plain]
    if is_class(value):
        return list(_own_methods(value).values())
    call = _own_methods(type(value)).get("__call__")
    return [] if call is None else [call]


def handler_of(endpoint: object, method: str) -> object:
    """Return what serves requests of an HTTP method: of a class its method of that name, where it has one; else the endpoint itself."""
    if not is_class(endpoint) or not method:
        return endpoint
    methods = _own_methods(endpoint)
    return methods.get(method.lower()) or (methods.get("get") if method == "HEAD" else None) or endpoint


def is_class(value: object) -> TypeGuard[type]:
    # `isinstance` would ask the object for its class, and a proxy answers with code of its own.
    return type in mro_of_class(type(value))


def _functions_named(name: str, globals: dict[str, Any]) -> Iterator[FunctionType]:
    found = function_of(globals.get(name))
    if found is not None:
        yield found
    elif name not in _EVERYDAY:
        title = globals.get("__name__")
        for value in list(globals.values()):
            if is_class(value) and dict_of_class(value).get("__module__") == title:
                method = function_of(dict_of_class(value).get(name))
                if method is not None:
                    yield method


def _own_methods(cls: type) -> dict[str, FunctionType]:
    """Return the methods of a class that the application defines, by name."""
    found: dict[str, FunctionType] = {}
    for space in _own_spaces(cls):
        for name, entry in list(space.items()):
            method = function_of(entry)
            if method is not None:
                found.setdefault(name, method)
    return found


def _own_spaces(cls: type) -> Iterator[Any]:  # Any: the read-only dictionaries of classes
    """Yield what a class and its bases define, of those that the application wrote."""
    for base in mro_of_class(cls):
        space = dict_of_class(base)
        module = sys.modules.get(space["__module__"]) if type(space.get("__module__")) is str else None
        if type(module) is ModuleType and _is_own(module.__dict__):
            yield space


def _methods_named(names: tuple[str, ...], holder: object) -> Iterator[FunctionType]:
    """Yield what these names mean on an object, class or module of the application."""
    if type(holder) is ModuleType:
        if _is_own(holder.__dict__):
            yield from filter(None, (function_of(holder.__dict__.get(name)) for name in names))
        return
    if type(holder) is FunctionType:
        return
    for space in _own_spaces(holder if is_class(holder) else type(holder)):
        yield from filter(None, (function_of(space.get(name)) for name in names))


def _is_own(space: dict[str, Any]) -> bool:
    file = space.get("__file__")
    return type(file) is str and owner_of(file) == "application"
