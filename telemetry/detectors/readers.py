"""Readers: which names the application's own code reads, so that a field that is only ever written harms nobody.

Asked of the byte code of all the application's modules, as their files hold it (functions under decorators and inside others
included), once somebody's value was found in a field. The answer is "nobody" only where it is certain: the code that writes the
field was found, nothing of the application reads a name like it, or any object's fields by names that are not written down, and
no package that is loaded has that name anywhere, as one that is handed the object might.
"""

from __future__ import annotations

import dis
import importlib.util
import marshal
import os
import re
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry.detectors.places import stored_by
from isolation_monitor.telemetry.detectors.reach import arguments_of, dict_of_class, mro_of_class
from isolation_monitor.telemetry.detectors.territory import Territory, is_module, namespace_of
from isolation_monitor.telemetry.detectors.walk_pace import PAUSE_S, SLICE_S

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detectors.object_walk import Node
    from isolation_monitor.telemetry.detectors.raw_objects import Child

WAITING_LIMIT: Final = 100
SOURCE_LIMIT: Final = 16_384
"""Bytes of a source file that is compiled where its byte code was not kept: some milliseconds during which nothing else runs."""
CODE_LIMIT: Final = 2_000_000
NAMES_LIMIT: Final = 100_000
ASKED_LIMIT: Final = 1_000
_PYC_HEADER: Final = 16
_WORDS: Final = re.compile(r"[A-Za-z_]\w*")
_PUTS_TOGETHER: Final = tuple(
    dis.opmap[name] for name in ("FORMAT_VALUE", "FORMAT_SIMPLE", "BUILD_STRING", "BINARY_OP") if name in dis.opmap
)
_RECORDS: Final = frozenset({"__dataclass_fields__", "__attrs_attrs__", "__struct_fields__"})

_READ_BY_NAME: Final = tuple(
    (dis.opmap[name], shift)
    for name, shift in (
        ("LOAD_NAME", 0),
        ("IMPORT_FROM", 0),
        ("LOAD_METHOD", 0),
        # The lowest bit of some arguments is a flag: of LOAD_GLOBAL since 3.11, of LOAD_ATTR since 3.12.
        ("LOAD_GLOBAL", 1),
        ("LOAD_ATTR", 1 if sys.version_info >= (3, 12) else 0),
        ("LOAD_SUPER_ATTR", 2),
        ("LOAD_FROM_DICT_OR_GLOBALS", 0),
    )
    if name in dis.opmap
)
_WRITTEN_BY_NAME: Final = tuple(dis.opmap[name] for name in ("STORE_ATTR", "STORE_GLOBAL"))
_READS_ALL: Final = frozenset(
    """__dict__ vars asdict astuple attrgetter globals locals eval exec getmembers __getstate__ jsonable_encoder
    TemplateResponse get_template from_string render_template render""".split()  # noqa: SIM905
)
"""What reads fields whose names stand nowhere in the code: by dictionaries of objects, by computed names, in templates."""


class Readers:
    """The names that the application reads and writes, as far as its modules were looked through."""

    def __init__(self, territory: Territory) -> None:
        self._territory = territory
        self._known: set[str] = set()
        """Modules looked through."""
        self._read: set[str] = set()
        self._written: set[str] = set()
        self._known_by_packages: dict[str, bool] = {}
        self._is_blind = False
        """Something is read in a way that names cannot tell, or could not be looked through."""

    def look_through(self) -> Iterator[None]:
        """Look through the application's modules that are new since the last time; stops after each of them."""
        for name, module in list(sys.modules.items()):
            if self._is_blind:
                return
            if name in self._known or not is_module(module) or self._territory.family(name) != "application":
                continue
            self._known.add(name)
            file = namespace_of(module).get("__file__")
            if type(file) is str and file.endswith(".py"):
                yield from self._learn(file)
                yield
            elif type(file) is str:
                # Compiled by another tool: what it reads cannot be told.
                self._is_blind = True

    def look_elsewhere(self, names: set[str]) -> Iterator[None]:
        """Look in the files of all other modules for these names; stops after each file."""
        left = {name: bytes((len(name),)) + name.encode() for name in names if _is_plain(name) and name not in self._known_by_packages}
        if len(self._known_by_packages) > ASKED_LIMIT:
            self._known_by_packages.clear()
        self._known_by_packages.update(dict.fromkeys(left, False))
        for name, module in list(sys.modules.items()):
            if not left:
                return
            if name in self._known or not is_module(module):
                continue
            file = namespace_of(module).get("__file__")
            if type(file) is str and file.endswith(".py"):
                kept = _kept(file)
                content = _read(kept or Path(file))
                for one, written in list(left.items()):
                    # A name in byte code stands behind its length.
                    if content is None or (written if kept is not None else one.encode()) in content:
                        self._known_by_packages[one] = True
                        del left[one]
                yield

    def is_never_read(self, name: str) -> bool:
        """Return whether the code that writes fields of a name is known, and none that reads one.

        To be asked after `look_through` and `look_elsewhere`.
        """
        return self._seems_unread(name) and self._known_by_packages.get(name) is False

    def unread_of(self, names: Iterable[str]) -> set[str]:
        """Return the names that no code of the application reads; to be asked after `look_through`."""
        return {name for name in names if self._seems_unread(name)}

    def _seems_unread(self, name: str) -> bool:
        return not self._is_blind and name in self._written and name not in self._read

    def _learn(self, file: str) -> Iterator[None]:
        code = _code_of(file)
        if code is None:
            self._is_blind = True
            return
        waiting = [code]
        while waiting:
            yield
            one = waiting.pop()
            waiting.extend(inner for inner in one.co_consts if type(inner) is CodeType)
            texts = set(_texts_in(one.co_consts))
            self._read.update(one.co_freevars)
            # The body of a class names what it annotates: fields of its own, or of another object that it is filled from.
            self._read |= texts if one.co_flags & CO_OPTIMIZED else texts - _written_in(one)
            names = one.co_names
            for operation, shift in _READ_BY_NAME:
                self._read.update(names[at >> shift] for at in arguments_of(one, operation) if at >> shift < len(names))
            self._written |= _stored_in(one)
            if not _READS_ALL.isdisjoint(names) or ("getattr" in names and _computes_texts(one)):
                self._is_blind = True
        self._is_blind = self._is_blind or len(self._read) + len(self._written) > NAMES_LIMIT


def _is_plain(name: str) -> bool:
    # The length of a longer or other name is written otherwise.
    return name.isascii() and len(name) < 256


def _texts_in(constants: Iterable[object]) -> Iterator[str]:
    """Yield the names that stand as texts in code: by themselves, in tuples (`match` by attributes), in formats (`{0.owner}`)."""
    for one in constants:
        if type(one) is tuple:
            yield from (text for text in one if type(text) is str and text.isidentifier())
        elif type(one) is str:
            if "{" in one or "%(" in one:
                yield from _WORDS.findall(one)
            elif one.isidentifier():
                yield one


def _computes_texts(code: CodeType) -> bool:
    """Return whether code that uses `getattr` may compute the name: it puts texts together, or has none at all."""
    has_formats = any(True for operation in _PUTS_TOGETHER for _ in arguments_of(code, operation))
    return has_formats or not any(True for _ in _texts_in(code.co_consts))


def _stored_in(code: CodeType) -> set[str]:
    return {name for operation in _WRITTEN_BY_NAME for name in stored_by(code, operation)}


def _written_in(body: CodeType) -> set[str]:
    """Return the names of the fields that the functions in the body of a class or module write."""
    return {name for inner in body.co_consts if type(inner) is CodeType for name in _stored_in(inner)}


def _kept(file: str) -> Path | None:
    """Return where the interpreter keeps a source file's byte code, if it is there and no older."""
    try:
        kept = Path(importlib.util.cache_from_source(file))
        return kept if kept.stat().st_mtime >= Path(file).stat().st_mtime else None
    except (OSError, ValueError, NotImplementedError):
        return None


def _read(file: Path) -> bytes | None:
    """Return what a file holds; None where it is too large or cannot be read."""
    try:
        return file.read_bytes() if file.stat().st_size <= CODE_LIMIT else None
    except OSError:
        return None


def _code_of(file: str) -> CodeType | None:
    """Return the code of a module's file: as the interpreter keeps it, else compiled; None where neither is to be had."""
    kept = _kept(file)
    content = _read(kept or Path(file))
    if content is None or (kept is None and len(content) > SOURCE_LIMIT):
        return None
    try:
        code = compile(content, file, "exec", dont_inherit=True) if kept is None else marshal.loads(content[_PYC_HEADER:])
    except (ValueError, EOFError, TypeError, SyntaxError):
        return None
    return code if type(code) is CodeType else None


class Confirmation:
    """Decides on the housekeeper's thread whether a field that holds somebody's value is read at all, before anybody is told of it."""

    def __init__(self, territory: Territory, after: Callable[[float, Callable[[], None]], None]) -> None:
        self._readers = Readers(territory)
        self._territory = territory
        self._after = after
        self._waiting: deque[tuple[str, Callable[[], None]]] = deque()
        self._search: Iterator[None] | None = None
        self._turn = threading.Lock()
        """Held for a slice of a search: who wants all answers at once goes on with it."""
        if hasattr(os, "register_at_fork"):
            reset = weakref.WeakMethod(self._forked)
            os.register_at_fork(after_in_child=lambda: call() if (call := reset()) is not None else None)

    def name_of(self, node: Node, child: Child) -> str | None:
        """Return the name that code has to use for a field; None where others than the application's code may read it.

        Those are the fields of libraries' objects, the values of dictionaries, and what generated code prints or copies whole.
        """
        if type(child.key) is not str or not child.key.isidentifier():
            return None
        if _is_bag(node):
            return child.key
        if child.step == "name" and is_module(node.value):
            home = namespace_of(node.value).get("__name__")
            return child.key if type(home) is str and self._territory.family(home) == "application" else None
        layout = node.layout
        if child.step != "attribute" or layout is None or layout.kind != "instance":
            return None
        if any(self._territory.family(module) != "application" for module in layout.base_modules):
            return None
        return None if is_record(type(node.value)) else child.key

    def ask(self, name: str, then: Callable[[], None]) -> None:
        """Call `then` soon, on the housekeeper's thread, unless nothing reads a field of this name."""
        if len(self._waiting) < WAITING_LIMIT:
            self._waiting.append((name, then))
            if len(self._waiting) == 1:
                self._after(0.0, self._slice)

    def answer_now(self) -> None:
        """Answer everything that waits at once, on the calling thread."""
        with self._turn:
            for _ in self._search or ():
                pass
            self._search = None
            for _ in self._looks():
                pass

    def _forked(self) -> None:
        """In a new worker: the lock may have been held, and what waited is the parent's to answer."""
        self._turn = threading.Lock()
        self._search = None
        self._waiting.clear()

    def _slice(self) -> None:
        until = time.perf_counter() + SLICE_S
        with self._turn:
            is_over = True
            try:
                self._search = self._search or self._looks()
                for _ in self._search:
                    if time.perf_counter() > until:
                        is_over = False
                        break
            finally:
                # Also after an error: what it was about is off the list, and the others wait.
                if is_over:
                    self._search = None
                if self._waiting:
                    self._after(PAUSE_S, self._slice)

    def _looks(self) -> Iterator[None]:
        yield from self._readers.look_through()
        asked = list(self._waiting)
        yield from self._readers.look_elsewhere(self._readers.unread_of(name for name, _ in asked))
        for name, then in asked:
            self._waiting.popleft()
            if not self._readers.is_never_read(name):
                then()


def is_record(cls: type) -> bool:
    """Return whether a class has methods made for it that read all of its fields, as those of dataclasses do."""
    return any(not _RECORDS.isdisjoint(dict_of_class(base)) for base in mro_of_class(cls))


def _is_bag(node: Node) -> bool:
    """Whether fields are those of an application's `state`, which stand in a dictionary of its own."""
    return node.step == "app.state" and node.parent is None
