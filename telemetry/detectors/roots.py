"""Roots: the places that every request reaches, found from what served a request and from the application object.

From an endpoint, its route (with the tree of its dependencies) and the middleware stack, the search goes to functions,
classes and objects of the application, and from those to the modules that define them and the modules these use.
The objects of frameworks are only passed through. Of modules and classes of libraries, the variables that the application
itself assigns to are looked at (`sdk.api_key = ...`), and the process's environment is a place that all requests reach.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator
from itertools import islice
from types import ModuleType
from typing import Any, Final

from isolation_monitor.telemetry.detectors.additions import Additions
from isolation_monitor.telemetry.detectors.object_walk import NAMES_LIMIT, Root
from isolation_monitor.telemetry.detectors.places import STORE_ATTR, codes_of, stored_by
from isolation_monitor.telemetry.detectors.raw_objects import Layouts, children, module_of, qualname_of
from isolation_monitor.telemetry.detectors.territory import Territory, is_module, namespace_of

ROOTS_LIMIT: Final = 500
BORROWED_LIMIT: Final = 200
LOOKS_LIMIT: Final = 4_000
FEW_MODULES: Final = 32
SERVED_LOOKS: Final = 150
LOOKS_PER_STOP: Final = 16
DEPTH_LIMIT: Final = 12
_OPAQUE: Final = ("pydantic", "pydantic_core", "typing", "inspect", "re", "sqlalchemy", "logging", "threading", "asyncio", "weakref",
                  "contextvars", "_thread", "jinja2", "enum")  # fmt: skip
"""Packages whose objects are not passed through on the way to the application's functions."""


class Roots:
    """The roots found so far, modules first: what a variable holds is named after the variable."""

    def __init__(self, territory: Territory, layouts: Layouts, additions: Additions) -> None:
        """`additions` is told of the names that the application's code mentions and assigns to."""
        self._territory = territory
        self._layouts = layouts
        self._additions = additions
        self._modules: dict[str, Root] = {}
        self._others: dict[int, Root] = {}
        self._borrowed: dict[str, Root] = _environment()
        """What is not the application's and is written to by it."""
        self._read: set[str] = set()
        """Modules whose code was looked through for such writes."""
        self._takes_all = False
        """Nothing leads to the application's modules: all that are loaded are taken."""

    def __iter__(self) -> Any:
        return iter([*self._borrowed.values(), *self._modules.values(), *self._others.values()])

    def nearest(self) -> Any:
        """Iterate for a look that is short: what functions hold comes first, and in a large service it would not get beyond the modules."""
        others = list(self._others.values())
        if len(self._modules) > FEW_MODULES:
            return iter([*self._borrowed.values(), *others, *self._modules.values()])
        # No variable of a module has another name in a closure, as objects may have.
        held = [self._layouts.of(root.value).kind == "function" for root in others]
        first, last = ([root for root, is_function in zip(others, held, strict=True) if is_function is wanted] for wanted in (True, False))
        return iter([*self._borrowed.values(), *first, *self._modules.values(), *last])

    def __len__(self) -> int:
        return len(self._modules) + len(self._others)

    def modules_for(self, label: str) -> list[ModuleType]:
        """Return the application's modules, the one that a place is named after first."""
        home = label.partition(":")[0]
        known = sorted(self._modules.items(), key=lambda item: item[0] != home)
        return [module for _, root in known if is_module(module := root.value)]

    def clear(self) -> None:
        self._modules.clear()
        self._others.clear()
        self._borrowed = _environment()
        self._read.clear()

    def add(self, label: str, value: object) -> None:
        """Take one place as a root, whoever it belongs to."""
        if len(self) >= ROOTS_LIMIT:
            self._others = {key: root for key, root in self._others.items() if root.value is not None}
        if len(self) < ROOTS_LIMIT:
            self._others[id(value)] = Root(label, value)

    def serve(self, endpoint: object, route: object) -> None:
        """Learn from what served a request, at most a millisecond long: the application's package is the endpoint's, wherever installed."""
        function = self._unwrapped(endpoint)
        home = function.__globals__.get("__name__") if function is not None else None
        if type(home) is str:
            self._territory.adopt(home)
        for thing in (endpoint, route):
            for _ in self.search(thing, SERVED_LOOKS, goes_up=False):
                pass

    def search(self, thing: object, limit: int = LOOKS_LIMIT, *, goes_up: bool = True) -> Iterator[None]:
        """Search an endpoint, a route or an application for functions, classes and objects of the application; stops now and then.

        `goes_up` allows objects that hold routes: from a route, they lead to all the others.
        """
        seen: set[int] = set()
        # Each is held until the search ends: bound methods are made anew at each look, and their identities used again.
        kept: list[object] = []
        queue: deque[tuple[object, int]] = deque([(thing, 0)])
        while queue and len(kept) < limit:
            found, depth = queue.popleft()
            if id(found) in seen or depth > DEPTH_LIMIT:
                continue
            seen.add(id(found))
            kept.append(found)
            for value in self._passed_through(found, goes_up):
                queue.append((value, depth + 1))
            if len(kept) % LOOKS_PER_STOP == 0:
                yield

    def _passed_through(self, found: Any, goes_up: bool) -> list[object]:
        """Take what is the application's as roots; return what to search next."""
        layout = self._layouts.of(found)
        kind = layout.kind
        if kind == "class":
            self._learn_module(module_of(found))
            return []
        if kind == "function":
            self._learn_function(found)
        elif kind == "instance":
            if layout.module.partition(".")[0] in _OPAQUE:
                return []
            if not goes_up and "routes" in (layout.dictionary(found) or ()):
                return []
            if self._territory.family(layout.module) == "application":
                self._learn_module(layout.module)
                self.add(f"{layout.module}:{layout.name}()", found)
        elif kind not in ("dict", "list", "tuple", "deque", "method", "partial", "cached"):
            return []
        # The monitor's own middleware is passed through to what it wraps, and to nothing else.
        is_ours = layout.module.startswith("isolation_monitor.")
        is_root = kind == "function" or self._is_applications(found)
        # An object in the closure of a framework's function is met nowhere else: a view's, in what serves it.
        is_foreign = kind == "function" and self._territory.family(str(found.__globals__.get("__name__"))) != "application"
        return [
            child.value
            for child in children(found, layout)
            if self._layouts.of(child.value).kind not in ("leaf", "nothing", "module", "set")
            and (not is_ours or (child.step == "attribute" and child.key == "app"))
            and (not is_root or self._is_code(child.value) or (is_foreign and self._is_applications(child.value)))
        ]

    def _is_applications(self, value: object) -> bool:
        layout = self._layouts.of(value)
        return layout.kind == "instance" and self._territory.family(layout.module) == "application"

    def _is_code(self, value: object) -> bool:
        """Whether something leads to more code. The data below a root is walked from there, where the keys on the way are known:
        one user's object, taken as a root by itself, would look like everybody's."""
        layout = self._layouts.of(value)
        if layout.kind == "instance":
            return not self._is_applications(value)
        return layout.kind in ("function", "class", "method", "partial", "cached")

    def borrow(self) -> Iterator[None]:
        """Look through the application's code for what it assigns to in modules and classes of libraries; stops now and then."""
        for name in list(self._modules):
            module = self._modules[name].value if name in self._modules else None
            if name in self._read or not is_module(module):
                continue
            self._read.add(name)
            stored: set[str] = set()
            for code in codes_of(module):
                stored.update(stored_by(code, STORE_ATTR))
                self._additions.mentioned.update(code.co_names)
                yield
            self._additions.assigned |= stored
            for value in self._variables(module):
                self._borrow(value, frozenset(stored))

    def _borrow(self, value: object, stored: frozenset[str]) -> None:
        if is_module(value):
            label = namespace_of(value).get("__name__")
            home = label
        elif self._layouts.of(value).kind == "class":
            home = module_of(value)  # type: ignore[arg-type]  # a class
            label = f"{home}:{qualname_of(value)}"  # type: ignore[arg-type]  # a class
        else:
            return
        if type(label) is not str or type(home) is not str or self._territory.family(home) == "application":
            return
        known = self._borrowed.get(label)
        if stored and (known is not None or len(self._borrowed) < BORROWED_LIMIT):
            self._borrowed[label] = Root(label, value, only=stored | (known.only or frozenset() if known is not None else frozenset()))

    def fall_back(self) -> Iterator[None]:
        """Take all modules of the application where no search led to any: Django finds its views by the name of their module."""
        self._takes_all = self._takes_all or not self._modules
        if self._takes_all:
            for name in list(sys.modules):
                self._learn_module(name)
                yield

    def refresh(self) -> None:
        """Look again which modules the known ones use: some are imported late."""
        for root in list(self._modules.values()):
            module = root.value
            if is_module(module):
                for used in self._used_by(module):
                    self._learn_module(used)

    def _unwrapped(self, endpoint: object) -> Any:
        for _ in range(5):
            kind = self._layouts.of(endpoint).kind
            if kind == "function":
                return endpoint
            held = [child.value for child in children(endpoint, self._layouts.of(endpoint))] if kind in ("method", "partial") else []
            functions = [one for one in held if self._layouts.of(one).kind in ("function", "method", "partial")]
            if not functions:
                return None
            endpoint = functions[-1]
        return None

    def _learn_function(self, function: Any) -> None:
        space = function.__globals__
        home = space.get("__name__")
        if type(home) is not str or self._territory.family(home) != "application":
            return
        self._learn_module(home)
        # Functions of a module and of its classes are met on the way from the module.
        if function.__closure__ or "<locals>" in function.__qualname__:
            self.add(f"{home}:{function.__qualname__}", function)

    def _learn_module(self, name: str) -> None:
        waiting = [name]
        while waiting:
            one = waiting.pop()
            module = sys.modules.get(one)
            if one in self._modules or not is_module(module) or self._territory.family(one) != "application":
                continue
            if len(self) >= ROOTS_LIMIT:
                return
            self._modules[one] = Root(one, module)
            waiting += self._used_by(module)

    def _used_by(self, module: ModuleType) -> set[str]:
        """Return the names of the modules that a module's variables come from."""
        used: set[object] = set()
        for value in self._variables(module):
            layout = self._layouts.of(value)
            if is_module(value):
                used.add(namespace_of(value).get("__name__"))
            elif layout.kind == "class":
                used.add(module_of(value))  # type: ignore[arg-type]  # a class
            elif layout.kind == "function":
                used.add(value.__globals__.get("__name__"))  # type: ignore[attr-defined]  # a function
            else:
                used.add(layout.module)
        return {name for name in used if type(name) is str and name not in self._modules}

    def _variables(self, module: ModuleType) -> list[object]:
        try:
            return list(islice(namespace_of(module).values(), NAMES_LIMIT))
        except RuntimeError:
            # Changed by another thread in the middle of the copy: the next look may succeed.
            return []


def _environment() -> dict[str, Root]:
    # The table below `os.environ`, whose own methods decode each value anew.
    table = vars(os.environ).get("_data")
    return {"os.environ": Root("os.environ", table, is_namespace=True)} if type(table) is dict else {}
