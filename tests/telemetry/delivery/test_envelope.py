"""The envelope as text: what gets one, where it goes, and what is left alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation_monitor.telemetry.delivery import envelope
from isolation_monitor.telemetry.delivery.envelope import RunNumbers, divided, is_asked, object_of, own_content, own_frame

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=10,
)


@given(
    st.dictionaries(st.text().filter(lambda key: key != "isolation"), JSON_VALUES, max_size=5),
    st.sampled_from(["", " ", "\n\t"]),
    st.booleans(),
)
def test_an_object_gets_one_more_member_and_nothing_else_changes(fields: dict[str, Any], around: str, ascii: bool) -> None:
    text = around + json.dumps(fields, ensure_ascii=ascii) + around

    found, start = object_of(text) or pytest.fail("this is an object")
    before, after, _ = divided(text, start, not found)
    framed = f'{before}"isolation":{{"conn":1}}{after}'

    assert json.loads(framed) == {"isolation": {"conn": 1}, **fields}
    assert next(iter(json.loads(framed))) == "isolation"
    assert framed.replace('"isolation":{"conn":1}' + ("," if fields else ""), "", 1) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "7", "hello", "[]", '[{"a": 1}]', '"{}"', "{", "{not json}", '{"a": 1} {"b": 2}', '{"a": 1}x'),
        *("[" * 100_000, '{"a":' * 100_000),
    ],
)
def test_every_other_frame_is_left_alone(text: str) -> None:
    assert object_of(text) is None


@given(
    JSON_VALUES.map(json.dumps)
    | st.dictionaries(st.text(), JSON_VALUES, max_size=5).map(json.dumps)
    | st.text(alphabet='{}[]":,0123 \\ud800aNIfinty-.eE\n')
    | st.sampled_from(['{"a": NaN}', '{"a": 1' + "0" * 400 + "}", '{"a": "\\ud800"}', '{"a": "\ud800"}', '{"a": 1, "a": 2}', "{}x", "{} "])
)
def test_the_native_parser_and_pythons_own_agree(text: str) -> None:
    """Which of them is installed must not decide whether a frame is counted."""
    with_native = object_of(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "_strict", None)
        without = object_of(text)

    assert (with_native and (list(with_native[0]), with_native[1])) == (without and (list(without[0]), without[1]))


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        *((b"isolation=1", True), (b"token=x&isolation=1", True), (b"isolation=1&a=b", True)),
        *((b"isolation=10", False), (b"xisolation=1", False), (b"isolation=0", False), (b"", False)),
    ],
)
def test_only_a_whole_parameter_asks(query: bytes, asked: bool) -> None:
    assert is_asked({"query_string": query}) is asked
    assert is_asked({}) is False


def test_only_a_frame_with_one_member_is_the_monitors_own() -> None:
    assert own_content(own_frame(ack=3)) == {"ack": 3}
    assert own_content('{"isolation": {"ack": 3}, "type": "message"}') is None, "the application's"
    assert own_content('{"isolation": 3}') is None
    assert own_content('{"type": "isolation"}') is None
    assert own_content('{"isolation": ') is None
    assert own_content(None) is None


def test_numbers_of_a_run_show_what_the_application_never_sent() -> None:
    """Two events are emitted, one is sent: the client sees number 2 and knows that 1 is the application's loss."""
    numbers = RunNumbers()
    numbers.emitted("agent_started")
    numbers.emitted("agent_completed")

    assert numbers.of_frame("agent_completed") == 2
    assert numbers.of_frame("agent_completed") is None, "a frame whose event was not emitted has no number"
