"""What the code of a function mentions, and what of it was really run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from isolation_monitor.telemetry.detectors.reach import may_have_read, mentions

local = threading.local()
WORDS = frozenset(("local", "kept", "_held"))


class Store:
    def __init__(self) -> None:
        self._held = threading.local()

    def write(self, value: str) -> None:
        self._held.value = value

    def read(self) -> Any:
        return self._held.value


def by_global(taken: bool) -> Any:
    return local.user if taken else None


def by_getattr(taken: bool) -> Any:
    return getattr(local, "user", None) if taken else None


def in_closure() -> Callable[[bool], Any]:
    kept = local

    def read(taken: bool) -> Any:
        return kept.user if taken else None

    return read


def of_an_object(taken: bool) -> Any:
    store.write("x")
    return store.read() if taken else None


store = Store()


@pytest.mark.parametrize("function", [by_global, by_getattr, in_closure()])
def test_a_branch_counts_as_read_once_it_was_taken(function) -> None:
    """A branch that is there and never taken reads nothing, and nobody is harmed by what it might have read."""
    local.user = "somebody"
    for _ in range(30):
        function(False)
    assert not may_have_read(function.__code__, WORDS)

    for _ in range(30):
        function(True)
    assert may_have_read(function.__code__, WORDS)


def test_writing_to_an_attribute_is_no_read() -> None:
    for _ in range(30):
        store.write("x")
        store.read()

    assert not may_have_read(Store.write.__code__, WORDS)
    assert may_have_read(Store.read.__code__, WORDS)


def test_code_that_reads_something_else_has_not_read_it() -> None:
    for _ in range(30):
        store.read()

    assert not may_have_read(Store.read.__code__, frozenset(("elsewhere",)))


def test_methods_of_an_object_that_the_code_names_are_followed_from_other_modules_too() -> None:
    """The object is imported far more often than its class."""
    space: dict[str, Any] = {"store": store, "__name__": "elsewhere"}
    exec("def endpoint():\n    return store.read()", space)

    assert mentions(space["endpoint"], frozenset(("_held",)))
