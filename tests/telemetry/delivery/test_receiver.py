"""What the client makes of frames: numbers, ids, and the frames themselves as the application sent them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from isolation_monitor.client.receiver import Receiver
from isolation_monitor.telemetry.delivery.envelope import divided, object_of, wrapped


def framed(conn: int, id: str | None = None, text: str = '{"n": 1}', **more: Any) -> str:
    found, start = object_of(text) or ({}, 0)
    before, after, _ = divided(text, start, not found)
    envelope = json.dumps({"epoch": "e", "owner": "o", "conn": conn, "id": id or f"s-{conn}", **more})
    return f'{before}"isolation":{envelope}{after}'


def heard(receiver: Receiver, *conns: int) -> list[int | None]:
    events = [receiver.heard(framed(conn))[0] for conn in conns]
    return [event.conn for event in events if event is not None]


def said(frame: str | None) -> Any:
    return None if frame is None else json.loads(frame)["isolation"]


def welcome(receiver: Receiver, stream: str) -> Any:
    event, answer = receiver.heard(json.dumps({"isolation": {"welcome": {"stream": stream, "epoch": "e", "ack_ms": 100}}}))
    assert event is None
    return said(answer)


def resumed(receiver: Receiver, replayed: int, lost: int | None) -> Any:
    event, answer = receiver.heard(json.dumps({"isolation": {"resumed": {"replayed": replayed, "lost": lost}}}))
    assert event is None
    return said(answer)


def test_acknowledgements_are_cumulative_and_only_of_what_is_whole() -> None:
    receiver = Receiver()
    welcome(receiver, "one")
    assert receiver.acknowledgement() is None

    assert heard(receiver, 1, 2, 5, 4) == [1, 2, 5, 4]

    # 3 and 4 were missing when 5 came; 4 came late; 3 is still missing.
    assert said(receiver.acknowledgement()) == {"ack": 2, "gaps": 2, "duplicates": 0, "disorder": 1}
    assert receiver.acknowledgement() is None, "no news"
    assert heard(receiver, 3, 5) == [3], "5 was handed on before"
    assert said(receiver.acknowledgement()) == {"ack": 5, "gaps": 2, "duplicates": 1, "disorder": 2}
    assert (receiver.report.events, receiver.report.duplicates) == (5, 1)


def test_a_hello_is_repeated_until_it_was_answered() -> None:
    """The connection breaks between hello and answer: the old stream is still the one to name."""
    receiver = Receiver()
    assert welcome(receiver, "one") is None
    heard(receiver, 1, 2)
    receiver.disconnected()

    assert welcome(receiver, "two") == {"hello": {"stream": "one", "conn": 2}}
    receiver.heard(framed(1, "new"))
    receiver.disconnected()
    assert welcome(receiver, "three") == {"hello": {"stream": "one", "conn": 2}}
    # Then the connection that broke is asked for: the service may have begun a stream there without knowing of the first.
    assert resumed(receiver, 2, 1) == {"hello": {"stream": "two", "conn": 1}}
    assert not receiver.is_current
    assert resumed(receiver, 0, 0) is None
    assert receiver.is_current
    receiver.heard(framed(1, "new"))
    receiver.heard(framed(2, "newer"))
    receiver.disconnected()
    assert welcome(receiver, "four") == {"hello": {"stream": "three", "conn": 2}}
    resumed(receiver, 0, None)

    report = receiver.report
    assert (report.events, report.duplicates, report.replayed, report.lost, report.unknown_resumes) == (4, 1, 2, 1, 1)


@given(
    st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.text()), max_size=4), st.sampled_from(["", " ", "\n"])
)
def test_the_application_gets_its_frame_back_to_the_letter(fields: dict[str, Any], around: str) -> None:
    fields.pop("isolation", None)
    text = around + json.dumps(fields, ensure_ascii=False, indent=1) + around

    event, _ = Receiver().heard(framed(1, text=text))

    assert event is not None
    assert event.data == text


@given(st.text() | st.binary())
def test_wrapped_frames_come_back_as_they_were(frame: str | bytes) -> None:
    text, form = wrapped(frame)

    event, _ = Receiver().heard(framed(1, text=text, **{"as": form}))

    assert event is not None
    assert event.data == frame


def test_frames_without_an_envelope_are_handed_on() -> None:
    receiver = Receiver()
    for frame in ("plain", b"\x00", "[1]", '{"type": "a"}', '{"isolation": 3}', '{"isolation": {"mine": 1}, "a": 1}', '{"isolation"'):
        event, answer = receiver.heard(frame)
        assert event is not None
        assert (event.data, event.id, answer) == (frame, None, None)
    assert receiver.report.bare == 7


def test_the_client_loads_nothing_of_the_servers_side() -> None:
    code = (
        "import sys, isolation_monitor.client; print([m for m in sys.modules if m.startswith('isolation_monitor.') and 'client' not in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert done.stdout.strip() == "[]"
