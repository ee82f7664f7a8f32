"""The envelope: what is added to a frame so that its client can tell that it arrived, and the monitor's own frames.

A frame that is a JSON object gets one more member, `isolation`, spliced in as the first one: the frame is parsed once, to
be sure that it is an object, and nothing is dumped again. Everything else is left alone. The words on the wire are
those of docs/decisions/0009-delivery-is-negotiated.md.
"""

from __future__ import annotations

import base64
import contextlib
import json
import json.scanner
from array import array
from collections.abc import Callable, Mapping
from typing import Any, Final

# Native code where it is installed: half the time of Python's own parser, which reads what this one refuses (NaN, lone surrogates).
_strict: Callable[[str], Any] | None = None
with contextlib.suppress(ImportError):
    from orjson import loads as _strict

Frame = tuple[str, str, str]
"""A frame in parts: what stands before its envelope, what stands after, and further members of the envelope itself."""

MEMBER: Final = "isolation"
ASKED: Final = b"isolation=1"
LONGEST_OWN_FRAME: Final = 4_096
"""Characters: frames of the monitor itself are short, so nothing longer is parsed to find out."""
NUMBERS_WAITING: Final = 256
"""Emitted and not yet sent events of one name in one run whose numbers are remembered."""

# typeshed has the class that C code replaces.
_scan: Final[Any] = json.scanner.make_scanner(json.JSONDecoder())  # type: ignore[arg-type]
_WHITESPACE: Final = " \t\n\r"


def is_asked(scope: Mapping[str, Any]) -> bool:
    """Return whether the client asked for the envelope: `isolation=1` is a whole parameter of its address."""
    query = scope.get("query_string") or b""
    return ASKED in query and ASKED in query.split(b"&")


def object_of(text: str) -> tuple[dict[str, Any], int] | None:
    """Return the object that a frame is, and where it begins; None for every other frame."""
    start = 0
    if text[:1] == "{":
        if _strict is not None:
            try:
                return _strict(text), 0
            except ValueError:
                pass
    else:
        start = len(text) - len(text.lstrip(_WHITESPACE))
        if text[start : start + 1] != "{":
            return None
    try:
        found, end = _scan(text, start)
    except (ValueError, StopIteration, RecursionError):
        return None
    if end != len(text) and text[end:].strip(_WHITESPACE):
        return None
    return found, start


def divided(text: str, start: int, is_empty: bool, more: str = "") -> Frame:
    """Return an object as the parts between which its envelope goes, where `start` is its opening bracket.

    >>> divided('{"type": "hi"}', 0, False)
    ('{', ',"type": "hi"}', '')
    """
    after = text[start + 1 :]
    return text[: start + 1], after if is_empty else "," + after, more


class WrappedText(str):
    """A text frame that shall be counted though it is no JSON object; to everybody who did not ask it is that text."""

    __slots__ = ()


class WrappedBytes(bytes):
    """A binary frame that shall be counted; to everybody who did not ask it is those bytes."""


def wrapped(frame: str | bytes) -> tuple[str, str]:
    """Return a frame as a JSON object, and how its client gets it back out of the member `data`: `text` or `base64`."""
    if isinstance(frame, str):
        return json.dumps({"data": frame}, ensure_ascii=False, separators=(",", ":")), "text"
    return f'{{"data":"{base64.b64encode(frame).decode()}"}}', "base64"


def own_frame(**members: Any) -> str:
    """Return a frame of the monitor itself, which has `isolation` as its only member."""
    return json.dumps({MEMBER: members}, separators=(",", ":"))


def own_content(text: object) -> dict[str, Any] | None:
    """Return what a frame of the monitor's client says; None when the frame is the application's."""
    if not isinstance(text, str) or len(text) > LONGEST_OWN_FRAME or MEMBER not in text[:32]:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or len(content) != 1:
        return None
    said = content.get(MEMBER)
    return said if isinstance(said, dict) else None


def whole_number(value: object) -> int | None:
    """Return a count that a client sent; None for everything that is none: negative, fractional, a boolean, or absurd."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


class RunNumbers:
    """Numbers a run's events from 1, in the order in which they were emitted; a frame takes the oldest of its event's name.

    So a number that a client never sees is an event that the application emitted and did not send.
    """

    __slots__ = ("_last", "_waiting")

    def __init__(self) -> None:
        self._last = 0
        self._waiting: dict[str, array[int]] = {}

    def emitted(self, event: str) -> None:
        self._last += 1
        waiting = self._waiting.get(event)
        if waiting is None:
            # Thousands of runs are remembered: an empty deque takes ten times what an array of one number does.
            waiting = self._waiting[event] = array("Q")
        elif len(waiting) >= NUMBERS_WAITING:
            del waiting[0]
        waiting.append(self._last)

    def of_frame(self, event: str) -> int | None:
        """Return the number of the event that this frame carries; None for a frame whose event was not emitted."""
        waiting = self._waiting.get(event)
        return waiting.pop(0) if waiting else None
