"""Slots and scratch objects: what another request put in place of one's own is told from what all add to together."""

from __future__ import annotations

import io
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.context import RequestContext
from isolation_monitor.telemetry.detectors.object_walk import Node
from isolation_monitor.telemetry.detectors.raw_objects import Child, Layouts
from isolation_monitor.telemetry.detectors.residue import Place
from isolation_monitor.telemetry.detectors.slots import SCRATCH_LIMIT, Scratch, content_of, is_same, is_scratch

A1, A2, B1, B2 = "aaaa1111bbbb", "aaaa2222bbbb", "cccc1111dddd", "cccc2222dddd"


class Shared:
    """A scratch object in a dictionary, and two requests that take steps with it."""

    def __init__(self, monitor: IsolationMonitor, value: object) -> None:
        self.holder: dict[str, Any] = {"scratch": value}
        layouts = Layouts()
        node = Node(self.holder, layouts.of(self.holder), None, "shop:STATE", None, 0)
        self.slot = Scratch(Place("shop:STATE['scratch']", (), "dict", 0.0), node, Child("key", "scratch", value))
        self.ann, self.bob = (
            RequestContext(monitor.principals.named(name), {"type": "http", "path": "/", "method": "GET", "headers": []}, None, None)
            for name in ("ann", "bob")
        )

    @property
    def value(self) -> Any:
        return self.holder["scratch"]

    def step(self, by: RequestContext) -> None:
        self.slot.look(by)

    def crossing(self, text: str) -> Any:
        found = self.slot.crossing(self.ann, text)
        return None if found is None else (found[0] is self.bob, set(found[1]))


def emptied(buffer: io.StringIO) -> io.StringIO:
    buffer.seek(0)
    buffer.truncate()
    return buffer


def test_what_another_writes_into_a_buffer_that_one_has_emptied(monitor: IsolationMonitor) -> None:
    shared = Shared(monitor, io.StringIO("old9988content"))
    emptied(shared.value).write("id\n")
    shared.step(shared.ann)
    shared.value.write(f"{A1}\n")
    shared.step(shared.ann)
    shared.value.write(f"{B1}\n")
    shared.step(shared.bob)

    assert shared.crossing(shared.value.getvalue()) == (True, {B1})


def test_what_another_fills_a_list_with_in_place_of_ones_own(monitor: IsolationMonitor) -> None:
    shared = Shared(monitor, ["old9988content"])
    shared.value[:] = [A1]
    shared.step(shared.ann)
    shared.value[:] = [B1]
    shared.step(shared.bob)

    assert shared.crossing(f"[{B1}]") == (True, {B1})
    assert shared.crossing(f"[{A1}]") is None, "a copy was taken in time"


def test_who_writes_on_into_a_buffer_that_another_has_emptied(monitor: IsolationMonitor) -> None:
    """The second one comes before the first has written anything of its own, so nothing of the first is lost."""
    shared = Shared(monitor, io.StringIO("old9988content"))
    emptied(shared.value).write("id\n")
    shared.step(shared.ann)
    shared.value.write("a line of nobody's\n")
    shared.slot.look(None)
    emptied(shared.value).write("id\n")
    shared.step(shared.bob)
    shared.value.write(f"{B1}\n")
    shared.step(shared.bob)
    shared.value.write(f"{A1}\n")
    shared.step(shared.ann)

    assert shared.crossing(shared.value.getvalue()) == (True, {B1})


def test_a_buffer_that_was_given_back_before_another_took_it_is_silent(monitor: IsolationMonitor) -> None:
    shared = Shared(monitor, io.StringIO("old9988content"))
    emptied(shared.value).write(f"{A1} and the public {A2}\n")
    shared.step(shared.ann)
    answer = shared.value.getvalue()
    emptied(shared.value).write(f"{B1} and the public {A2}\n")
    shared.step(shared.bob)

    assert shared.crossing(answer) is None


def test_a_public_list_that_both_load_anew_and_one_adds_to_is_silent(monitor: IsolationMonitor) -> None:
    shared = Shared(monitor, ["old9988content"])
    shared.value[:] = ["".join((A1,))]
    shared.step(shared.ann)
    shared.value[:] = [str(bytes(one, "ascii"), "ascii") for one in (A1, B1)]
    shared.step(shared.bob)
    shared.value.append(A2)
    shared.step(shared.ann)

    assert shared.crossing(f"{A1} {B1} {A2}") is None


def test_a_list_that_all_add_to_is_silent(monitor: IsolationMonitor) -> None:
    shared = Shared(monitor, ["old9988content"])
    for who, what in ((shared.ann, A1), (shared.bob, B1), (shared.ann, A2), (shared.bob, B2)):
        shared.value.append(what)
        shared.step(who)

    assert shared.crossing(f"old9988content {A1} {B1} {A2} {B2}") is None


def test_a_public_list_that_both_load_anew_is_silent(monitor: IsolationMonitor) -> None:
    """One more entry came between the two loads."""
    shared = Shared(monitor, ["old9988content"])
    shared.holder["scratch"] = [A1, A2]
    shared.step(shared.ann)
    shared.holder["scratch"] = [A1, A2, B1]
    shared.step(shared.bob)

    assert shared.crossing(f"{A1} {A2} {B1}") is None


def test_the_same_list_loaded_anew_in_place_is_silent(monitor: IsolationMonitor) -> None:
    shared = Shared(monitor, ["old9988content"])
    shared.value[:] = ["".join((A1,)), "".join((A2,))]
    shared.step(shared.ann)
    shared.value[:] = [str(bytes(one, "ascii"), "ascii") for one in (A1, A2, B1)]
    shared.step(shared.bob)

    assert shared.crossing(f"{A1} {A2} {B1}") is None


def test_what_nobody_known_wrote_is_silent(monitor: IsolationMonitor) -> None:
    shared = Shared(monitor, io.StringIO("old9988content"))
    emptied(shared.value).write(f"{A1}\n")
    shared.step(shared.ann)
    shared.value.write(f"{B1}\n")
    shared.slot.look(None)

    assert shared.crossing(shared.value.getvalue()) is None


@pytest.mark.parametrize(
    "value", [io.StringIO("x" * (SCRATCH_LIMIT + 1)), io.BytesIO(b"x" * (SCRATCH_LIMIT + 1)), bytearray(SCRATCH_LIMIT + 1), 7, {"a": 1}]
)
def test_what_is_too_large_or_of_another_kind_has_no_content(value: object) -> None:
    assert content_of(value) is None


def test_a_closed_buffer_ends_the_watch_without_an_error(monitor: IsolationMonitor) -> None:
    shared = Shared(monitor, io.StringIO("old9988content"))
    shared.value.close()
    shared.step(shared.ann)
    shared.step(shared.bob)

    assert shared.crossing("anything") is None


def test_classes_of_the_host_are_left_alone() -> None:
    class Rows(list[str]):
        pass

    assert [is_scratch(one) for one in (io.BytesIO(), bytearray(), [], Rows(), (), "text")] == [True, True, True, False, False, False]


def test_lists_are_compared_by_identity() -> None:
    class Touchy:
        def __eq__(self, other: object) -> bool:
            raise AssertionError("the host's code ran")

        __hash__ = None  # type: ignore[assignment]

    one, other = Touchy(), Touchy()
    assert is_same((one,), (one,))
    assert not is_same((one,), (other,))
