"""Changes: which shared buffers and lists are worth a watch, told from those that only grow."""

from __future__ import annotations

import io
from typing import Any

import pytest

from isolation_monitor.telemetry.detectors.changes import SHORT, Changes
from isolation_monitor.telemetry.detectors.knowledge import Knowledge
from isolation_monitor.telemetry.detectors.object_walk import Node
from isolation_monitor.telemetry.detectors.raw_objects import Layouts, children
from isolation_monitor.telemetry.detectors.residue import Residue


class Walks:
    """Looks at one dictionary of a module as walks do, one after the other."""

    def __init__(self, value: object) -> None:
        self._layouts = Layouts()
        self._changes = Changes(Residue(Knowledge(), self._layouts))
        self._holder: dict[str, Any] = {"scratch": value}

    def look(self) -> bool:
        """Return whether the value was found to be worth a watch."""
        node = Node(self._holder, self._layouts.of(self._holder), None, "shop:STATE", None, 0)
        node.holds = list(children(self._holder, node.layout))  # type: ignore[arg-type]  # it has one
        return any(child.key == "scratch" for _, child in self._changes.objects(node, 0.0, has_baseline=False))


def test_a_short_buffer_that_has_changed_is_watched() -> None:
    """A service is young when its first users come: nobody may have seen it empty the buffer yet."""
    buffer = io.StringIO()
    walks = Walks(buffer)
    walks.look()
    buffer.write("id,reference\n")

    assert walks.look()
    assert not walks.look(), "nothing has changed since"


def test_a_long_buffer_that_only_grows_is_left_alone() -> None:
    log = io.StringIO()
    log.write("x" * SHORT)
    walks = Walks(log)
    walks.look()
    log.write("one more line\n")

    assert not walks.look()


def test_a_long_buffer_that_was_filled_anew_is_watched_though_it_is_longer_now() -> None:
    buffer = io.StringIO()
    buffer.write("x" * SHORT)
    walks = Walks(buffer)
    walks.look()
    buffer.seek(0)
    buffer.truncate()
    buffer.write("y" * 2 * SHORT)

    assert walks.look()


@pytest.mark.parametrize(("added", "is_watched"), [(["c"], False), (None, True)])
def test_a_list_is_watched_once_it_was_filled_anew(added: list[str] | None, is_watched: bool) -> None:
    rows: list[str] = ["a", "b"]
    walks = Walks(rows)
    walks.look()
    rows[len(rows) if added else 0 :] = added or ["d", "e", "f"]

    assert walks.look() is is_watched
