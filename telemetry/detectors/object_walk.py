"""The walk: from the places that every request reaches, breadth first, through what they hold.

A `Node` is one container or object on the way, with the steps that led to it. Bounded in depth, in nodes and in children;
a generator, so that whoever walks can stop at any node and go on later. Nothing of the host is kept after the walk.
Data comes before code: a service of two hundred modules has ten thousand functions and classes, and few of them hold anything.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

from isolation_monitor.telemetry.detectors.additions import Additions
from isolation_monitor.telemetry.detectors.raw_objects import (
    Child,
    Layout,
    Layouts,
    children,
    module_of,
    plain,
)
from isolation_monitor.telemetry.detectors.territory import Territory, is_module, namespace_of

DEPTH_LIMIT: Final = 7
NODES_LIMIT: Final = 5_000
WHOLE_LIMIT: Final = 60_000
"""Of a walk through all of a large service, taken now and then."""
CODE_SHARE: Final = 4
"""One object in so many is a function or a class while there is data left to look at."""
NAMES_LIMIT: Final = 600
"""Variables looked at of one module."""
LIBRARY_DEPTH: Final = 3
"""How many objects of libraries deep the walk goes below what the application holds itself."""
RECORD_LIMIT: Final = 32
"""A dictionary with more keys than this is a table."""

_PLAIN: Final = frozenset(map(id, (str, bytes, int, float, bool, type(None))))
_CONTAINER_KINDS: Final = (
    "dict", "list", "tuple", "set", "deque", "instance", "class", "function", "cached", "method", "partial", "variable",
)  # fmt: skip
_RUNNING: Final = (
    "logging", "threading", "_thread", "_threading_local", "asyncio", "queue", "multiprocessing", "concurrent", "contextvars", "weakref",
    "socket", "ssl", "selectors",
)  # fmt: skip
"""Modules whose classes, and the host's classes derived from them, keep books of running things."""


class Root:
    """One place that every request reaches: a module's variables, a function's closure and defaults, an object.

    Held weakly where it can be: the monitor keeps no application alive. `only` are the names of the variables or attributes
    that are looked at, None for all; `is_namespace` tells of a dictionary whose keys are names, as a module's are.
    """

    __slots__ = ("_held", "_weak", "is_namespace", "label", "only")

    def __init__(self, label: str, value: object, *, only: frozenset[str] | None = None, is_namespace: bool = False) -> None:
        self.label = label
        self.only = only
        self.is_namespace = is_namespace
        self._held: object = None
        self._weak: weakref.ref[object] | None = None
        try:
            self._weak = weakref.ref(value)
        except TypeError:
            self._held = value

    @property
    def value(self) -> object:
        return self._held if self._weak is None else self._weak()


class Node:
    """One object on the way. `holds` is what it holds, filled when the walk reaches it."""

    __slots__ = ("depth", "holds", "is_varying", "key", "layout", "library", "names", "only", "parent", "step", "value")

    def __init__(self, value: object, layout: Layout | None, parent: Node | None, step: str, key: object, depth: int) -> None:
        self.value = value
        self.layout = layout
        self.parent = parent
        self.step = step
        """How it reads in a path: `.history`, `['profile']`, `[*]`."""
        self.key = key
        """The dictionary's key that led here, the host's object; None where none did."""
        self.depth = depth
        self.library = 0
        self.only: frozenset[str] | None = None
        """Names of what is looked at in it; None for all."""
        self.holds: list[Child] = []
        self.is_varying = False
        """Whether this is one of many alike: an item of a list, an entry of a table, a link of a chain."""
        self.names: set[str] | None = None
        """For the judge: ids of the principals that this object names in a field of its own."""

    @property
    def varies(self) -> bool:
        """Whether this or anything on the way to it is one of many alike."""
        node: Node | None = self
        while node is not None:
            if node.is_varying:
                return True
            node = node.parent
        return False

    @property
    def label(self) -> str:
        parts = []
        node: Node | None = self
        while node is not None:
            parts.append(node.step)
            node = node.parent
        return "".join(reversed(parts))

    @property
    def is_table(self) -> bool:
        """Whether this is a dictionary with keys that come and go, rather than a record with named fields."""
        if self.layout is None or self.layout.kind not in ("dict", "cached"):
            return False
        values: set[int] = set()
        for child in self.holds:
            if child.step == "result" or (child.step == "key" and not _is_word(child.key)):
                return True
            values.add(id(type(child.value)))
        return len(self.holds) > RECORD_LIMIT or (len(self.holds) > 1 and len(values) == 1 and next(iter(values)) not in _PLAIN)


def _is_word(key: object) -> bool:
    # Names of headers and options are words too; a digit beside a dash makes an id of it.
    return type(key) is str and len(key) <= 32 and (key.isidentifier() or key.replace("-", "").replace(".", "").isalpha())


class Walk:
    """Walks with one memory of the classes met."""

    def __init__(self, territory: Territory) -> None:
        self.layouts = Layouts()
        self._territory = territory
        self.additions = Additions(self.layouts)
        self.was_cut = False
        """Whether the latest walk ended at its limit: there is more than it has seen."""
        self.met_again: Callable[[Node, Child], None] | None = None
        """Called with a holder and an object in it that another way has led to already, in the same walk."""

    def nodes(self, roots: Iterable[Root], limit: int = NODES_LIMIT) -> Iterator[Node]:
        """Yield each object once, by the shortest way from the first root that reaches it."""
        seen: set[int] = set()
        data: deque[Node] = deque()
        code: deque[Node] = deque()
        self.was_cut = False
        for root in roots:
            start = root.value
            if is_module(start):
                node = Node(namespace_of(start), None, None, root.label, None, 0)
            else:
                node = Node(start, None if root.is_namespace else self.layouts.of(start), None, root.label, None, 0)
            node.only = root.only
            if id(node.value) not in seen:
                seen.add(id(node.value))
                data.append(node)
        turn = 0
        while data or code:
            if limit <= 0:
                self.was_cut = True
                return
            turn += 1
            node = data.popleft() if data and (not code or turn % CODE_SHARE) else code.popleft()
            node.holds = self._holds(node)
            if node.layout is not None and node.layout.kind == "instance":
                # An object that holds another of its own class is a link of a chain or a node of a tree.
                cls = type(node.value)
                node.is_varying = node.is_varying or any(type(child.value) is cls for child in node.holds)
            limit -= 1 + len(node.holds) // 8
            yield node
            if node.depth < DEPTH_LIMIT:
                self._enqueue(node, seen, data, code)

    def _holds(self, node: Node) -> list[Child]:
        if node.layout is None:
            namespace: Any = node.value
            try:
                pairs: list[tuple[object, object]] = list(islice(dict.items(namespace), NAMES_LIMIT))
            except RuntimeError:
                # Changed by another thread in the middle of the copy: the next walk may succeed.
                return []
            # The names of the environment are bytes.
            named = [(plain(name), value) for name, value in pairs if type(name) is str or type(name) is bytes]
            held = [Child("name", name, value) for name, value in named if name[:2] != "__"]
            return held if node.only is None else [child for child in held if child.key in node.only]
        held = list(children(node.value, node.layout))
        if node.layout.kind in ("class", "instance", "function"):
            held = [child for child in held if child.step == "part" or (type(child.key) is str and not _is_private_to_python(child.key))]
        return held if node.only is None else [child for child in held if type(child.key) is str and child.key in node.only]

    def _enqueue(self, node: Node, seen: set[int], data: deque[Node], code: deque[Node]) -> None:
        is_table = node.is_table
        for child in node.holds:
            value = child.value
            layout = self.layouts.of(value)
            if layout.kind not in _CONTAINER_KINDS or (layout.kind == "function" and not _holds_something(value)):
                continue
            if id(value) in seen:
                if self.met_again is not None and child.step == "key":
                    self.met_again(node, child)
                continue
            library, only = self._library_depth(node, child, layout), None
            if library is None:
                only = self._additions_of(value, layout)
                if not only:
                    continue
                library = node.library
            seen.add(id(value))
            inner = Node(
                value, layout, node, step_of(child, is_table), child.key if child.step in ("key", "result") else None, node.depth + 1
            )
            inner.library, inner.only = library, only
            inner.is_varying = child.step in ("item", "result") or (child.step == "key" and is_table)
            (code if layout.kind in ("function", "class") else data).append(inner)

    def _library_depth(self, node: Node, child: Child, layout: Layout) -> int | None:
        """Return how deep in libraries the child is; None where the walk does not go."""
        kind = layout.kind
        value: Any = child.value
        if kind in ("function", "class"):
            # Those that a module imported are met in the module that defines them.
            home = value.__module__ if kind == "function" else module_of(value)
            if type(home) is not str or self._territory.family(home) != "application":
                return None
            if node.layout is None and home != node.step.partition(":")[0]:
                return None
            return 0
        if kind != "instance":
            return None if self._is_running(layout) else node.library
        family = self._territory.family(layout.module)
        is_bag = self.additions.is_bag(value, layout)
        if family == "infrastructure":
            return node.library if is_bag else None
        if self._is_running(layout):
            return None
        if family == "application":
            return 0
        if is_bag:
            return node.library
        return node.library + 1 if node.library < LIBRARY_DEPTH else None

    def _additions_of(self, value: object, layout: Layout) -> frozenset[str]:
        """Return the names of what the application put on a framework's object."""
        if layout.kind != "instance" or self._territory.family(layout.module) != "infrastructure" or self._is_running(layout):
            return frozenset()
        return self.additions.of(value, layout)

    def _is_running(self, layout: Layout) -> bool:
        return any(module.partition(".")[0] in _RUNNING for module in layout.base_modules)


def _holds_something(function: Any) -> bool:
    """Whether a function has more than its code: a closure, attributes, or defaults that are not plain values."""
    return bool(
        function.__closure__
        or function.__dict__
        or any(id(type(value)) not in _PLAIN for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()))
    )


def _is_private_to_python(name: str) -> bool:
    return (name[:2] == "__" and name not in ("__self__", "__func__", "__wrapped__")) or name in (
        "_abc_impl",
        "model_fields",
        "_sa_instance_state",
    )


def step_of(child: Child, is_table: bool) -> str:
    """Return how the way to a child reads in a path. Keys of tables stay unsaid: they may be somebody's."""
    if child.step == "name":
        return f":{child.key}"
    if child.step == "key":
        return "[*]" if is_table or not _is_word(child.key) else f"['{child.key}']"
    if child.step == "item":
        return "[*]"
    if child.step == "part":
        return ".*"
    if child.step == "result":
        return "()"
    return f".{child.key}"


def key_texts(key: object, layouts: Layouts, depth: int = 0) -> list[str]:
    """Return the texts in a dictionary's key: itself, the parts of a tuple, the fields of an object."""
    layout = layouts.of(key)
    if layout.kind == "leaf":
        return [plain(key)]
    if depth >= 2 or layout.kind not in ("tuple", "set", "list", "instance"):
        return []
    return [text for child in islice(children(key, layout), 16) for text in key_texts(child.value, layouts, depth + 1)]


def read_again(node: Node, child: Child) -> Any:
    """Return what stands now where the walk found `child` in `node`; None where nothing does."""
    layout = node.layout
    holder: Any = node.value
    if layout is None or (layout.kind == "dict" and child.step == "key"):
        # A module's dictionary, the environment's, or one that names its fields by words.
        if not issubclass(type(holder), dict) or type(child.key) is not str:
            return None
        found = dict.get(holder, child.key)
        return dict.get(holder, child.key.encode()) if found is None and layout is None else found
    if layout.kind == "instance":
        attributes = layout.dictionary(holder)
        if attributes is not None and type(child.key) is str and child.key in attributes:
            return attributes[child.key]
    for held in children(holder, layout):
        if held.step == child.step and held.key is child.key:
            return held.value
    return None
