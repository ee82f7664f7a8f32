"""Run ids: made in one place, sorted by time, and readable back to their thread.

    run_<time:10><sequence:4><random:12><check:4>_<thread>

Time is Unix milliseconds; the sequence rises within a process, so that its ids sort in the order in which they were made, also
within one millisecond and when the clock is set back. The random part (60 bits, from the operating system for each id) keeps threads,
processes and forked workers apart. The four characters of check (20 bits of BLAKE2b over all the rest, the thread included) tell an id that
was cut, retyped or put together from one that was made here; they are no signature: whoever knows this page can make an id,
so an id proves nothing about who may see its thread.

Digits are those of Crockford's base 32 in lower case, whose order is that of ASCII. The whole is 35 characters longer than the
thread's id, which has 1 to 64 characters of `A-Z a-z 0-9 . _ ~ -` (RFC 3986, unreserved): at most 99 characters, safe in addresses,
headers, file names and JSON.
"""

from __future__ import annotations

import os
import re
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from isolation_monitor.telemetry.errors import InvalidIdError

PREFIX: Final = "run_"
THREAD_LIMIT: Final = 64
LONGEST: Final = len(PREFIX) + 30 + 1 + THREAD_LIMIT
"""Characters of the longest run id: the width of a column that holds them."""

_DIGITS: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME, _SEQUENCE, _RANDOM, _CHECK = 10, 4, 12, 4
_THREAD: Final = re.compile(rf"[A-Za-z0-9._~-]{{1,{THREAD_LIMIT}}}")
_SHAPE: Final = re.compile(rf"run_([{_DIGITS}]{{30}})_(.*)", re.DOTALL)
_VALUES: Final = {digit: value for value, digit in enumerate(_DIGITS)}


@dataclass(frozen=True, slots=True)
class RunId:
    """A run id taken apart. `time` is Unix seconds, `sequence` rises within the process that made it."""

    text: str
    thread_id: str
    time: float
    sequence: int


class RunIds:
    """Makes run ids. One for a process is enough; several do no harm. Safe under threads and after a fork.

    Args:
        clock: Unix time in seconds.
        entropy: `entropy(n)` returns n random bytes.
    """

    def __init__(self, clock: Callable[[], float] = time.time, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._clock = clock
        self._entropy = entropy
        self._latest_ms = 0
        self._sequence = 0
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            reference = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _renew_lock(reference))

    def new(self, thread_id: str) -> str:
        """Return a new id for a run of this thread.

        Raises:
            InvalidIdError: the thread's id is no text of 1 to 64 characters of `A-Z a-z 0-9 . _ ~ -`.
        """
        if type(thread_id) is not str or _THREAD.fullmatch(thread_id) is None:
            raise InvalidIdError(
                f"thread id {_shown(thread_id)} cannot be carried in a run id: use 1 to {THREAD_LIMIT} characters of A-Z a-z 0-9 . _ ~ -"
            )
        now_ms = int(self._clock() * 1000)
        with self._lock:
            if now_ms > self._latest_ms:
                self._latest_ms, self._sequence = now_ms, 0
            elif self._sequence < 32**_SEQUENCE - 1:
                self._sequence += 1
            else:
                self._latest_ms, self._sequence = self._latest_ms + 1, 0
            milliseconds, sequence = self._latest_ms, self._sequence
        random = int.from_bytes(self._entropy(8)) >> 4
        body = _text(milliseconds, _TIME) + _text(sequence, _SEQUENCE) + _text(random, _RANDOM)
        return f"{PREFIX}{body}{_check(body, thread_id)}_{thread_id}"


def parse_run_id(text: str) -> RunId:
    """Take an id apart that `RunIds.new` made.

    Raises:
        InvalidIdError: it is no run id of this form, or is damaged; the text says which.
    """
    if not looks_like_run_id(text):
        raise InvalidIdError(f"{_shown(text)} is no run id: one looks like run_<30 characters of base 32>_<thread id>")
    body, thread_id = text[len(PREFIX) : len(PREFIX) + 30], text[len(PREFIX) + 31 :]
    if _THREAD.fullmatch(thread_id) is None:
        raise InvalidIdError(f"{_shown(text)} names no thread: its end must be 1 to {THREAD_LIMIT} characters of A-Z a-z 0-9 . _ ~ -")
    made, check = body[:-_CHECK], body[-_CHECK:]
    if _check(made, thread_id) != check:
        raise InvalidIdError(f"{_shown(text)} is damaged: its check does not fit, so a character is wrong, missing or too many")
    return RunId(text, thread_id, _number(made[:_TIME]) / 1000, _number(made[_TIME : _TIME + _SEQUENCE]))


def looks_like_run_id(text: object) -> bool:
    """Return whether a text has the form of our ids, be it damaged or not."""
    return type(text) is str and _SHAPE.fullmatch(text) is not None


def _check(body: str, thread_id: str) -> str:
    digest = blake2b(f"{body}_{thread_id}".encode(), digest_size=4, person=b"isomon-run-id").digest()
    return _text(int.from_bytes(digest) >> 12, _CHECK)


def _text(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, rest = divmod(number, 32)
        digits.append(_DIGITS[rest])
    return "".join(reversed(digits))


def _number(text: str) -> int:
    number = 0
    for digit in text:
        number = number * 32 + _VALUES[digit]
    return number


def _shown(value: object) -> str:
    """Return what a message may show of a value that may be anything and of any length."""
    if type(value) is not str:
        return f"of type {type(value).__name__}"
    return repr(value if len(value) <= 120 else f"{value[:100]}… ({len(value)} characters)")


def _renew_lock(reference: weakref.ref[RunIds]) -> None:
    # Another thread of the parent may have held the lock at the fork: in the child nobody would ever give it back.
    made = reference()
    if made is not None:
        made._lock = threading.Lock()
