"""Events that leave by a streaming answer: Server-Sent Events, or one JSON object a line.

An event of a run counts as sent when the part of the answer that ends its message was handed to the server while the client
was still there: servers swallow what is sent after a disconnect without a word. Which event a message carries is told by the
same fields as in a WebSocket's frame, or by its `event:` line; it belongs to the run whose id it names, or else to the run of
this request that emitted an event of that name and has not sent it yet. Where no message can be read so, handing over is all
there is, and an event counts as sent when it is emitted.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from isolation_monitor.telemetry.delivery.run import Run, Runs

EVENT_STREAM: Final = b"text/event-stream"
MESSAGE_LIMIT: Final = 65_536
"""Bytes of one message; a longer one is not read."""
PENDING_LIMIT: Final = 1_000
"""Emitted and not yet sent events of one answer that are remembered."""
_BLANK_LINE: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE: Final = re.compile(rb"\n")
_EVENT_LINE: Final = re.compile(r"^event:[ ]?(\S+)", re.MULTILINE)

Sent = list[tuple["Run", str]]


class Streamed:
    """One such answer. Everything on the event loop's thread."""

    __slots__ = ("_names_in", "_pending", "_rest", "_runs", "_separator", "is_gone", "is_over", "is_read")

    def __init__(self, runs: Runs, names_in: Callable[[str], tuple[str, str]], content_type: bytes) -> None:
        """`names_in` tells the run id and the event that a text names."""
        self._runs = runs
        self._names_in = names_in
        self._separator = _BLANK_LINE if content_type.startswith(EVENT_STREAM) else _LINE
        self._rest = b""
        self._pending: deque[tuple[Run, str]] = deque(maxlen=PENDING_LIMIT)
        """Events that were emitted and have not left yet, in their order."""
        self.is_read = False
        """Some message told which event it carries: then all of them are expected to."""
        self.is_gone = False
        """The client has left: nothing reaches it any more."""
        self.is_over = False

    def emitted(self, run: Run, event: str) -> None:
        """Note an event that the application is about to send by this answer."""
        run.stream = self
        self._pending.append((run, event))

    def look(self, body: bytes) -> Sent:
        """Return the events whose messages end in this part of the answer."""
        if not body:
            return []
        text = self._rest + body
        messages = self._separator.split(text)
        rest = messages.pop()
        self._rest = rest if len(rest) <= MESSAGE_LIMIT else b""
        found: Sent = []
        for message in messages:
            if message and len(message) <= MESSAGE_LIMIT and (event := self._event_of(message.decode("utf-8", "replace"))) is not None:
                self.is_read = True
                found.append(event)
        return found

    def sent(self, events: Sent, *, is_last: bool) -> None:
        """Note that the server took a part of the answer, with these events in it."""
        if not self.is_gone:
            for run, event in events:
                self._runs.sent(run, event)
        if is_last:
            self.is_over = True
            if not self.is_read:
                self._hand_over(None)

    def run_ended(self, run: Run) -> None:
        """A run of this answer is over: if no message says what it carries, its events were sent when they were emitted."""
        if not self.is_read:
            self._hand_over(run)

    def _hand_over(self, of: Run | None) -> None:
        kept: deque[tuple[Run, str]] = deque(maxlen=PENDING_LIMIT)
        for run, event in self._pending:
            if of is not None and run is not of:
                kept.append((run, event))
            elif not self.is_gone:
                self._runs.sent(run, event)
        self._pending = kept

    def _event_of(self, text: str) -> tuple[Run, str] | None:
        run_id, event = self._names_in(text)
        if event not in self._runs.events.all and (line := _EVENT_LINE.search(text)) is not None:
            event = line[1]
        named = self._runs.known.get(run_id) if run_id else None
        for at, (run, waiting) in enumerate(self._pending):
            if waiting == event and (named is None or run is named):
                del self._pending[at]
                return run, event
        return None
