"""How workers share the tests: what takes longest begins first, whatever it is called and however many tests it has."""

from __future__ import annotations

from pathlib import Path

from tests.together import PARTS, SECONDS, TOGETHER, LongestFirst, seconds_of

CHECKOUT = Path(__file__).parents[2]


def test_one_long_test_goes_before_many_short_ones():
    queue = LongestFirst()
    queue["short"] = {f"tests/docs/test_complete.py::test_{n}": False for n in range(50)}
    queue["long"] = {"tests/alerts/test_mutations.py::test_all": False}
    queue["shortest"] = {"tests/docs/test_complete.py::test_one": False}

    assert [queue.popitem(last=False)[0] for _ in range(3)] == ["long", "short", "shortest"]
    assert not queue


def test_a_test_of_a_file_that_is_not_listed_takes_a_moment():
    assert 0 < seconds_of("tests/anything.py::test_it") <= 1 < seconds_of("tests/system/test_stack.py::test_it")


def test_no_file_is_listed_that_is_gone():
    gone = [path for path in (*SECONDS, *PARTS, *TOGETHER) if not list(CHECKOUT.glob(path.removesuffix("/") + "*"))]

    assert not gone
