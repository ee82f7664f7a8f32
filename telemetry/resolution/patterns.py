"""Patterns: which thread an id spells out, for ids of our own and of others.

An algorithm gives candidates, never an answer. A candidate becomes the answer only when it is the only one and something vouches for it:

- our own check (`own`): an id of `RunIds` whose check fits. One that has the form and not the check is damaged: no other algorithm may try.
- a label: the id itself says that the part is a thread, as in `thread_<x>_run_<y>`.
- the application: the part has the shape that it declared for thread ids (`thread_shape`); it then vouches for every candidate, and
  candidates of another shape are none.

Everything else is `unconfirmed`, two candidates are `ambiguous`, and neither is an answer: a wrong thread is worse than none.

| algorithm | form | example, and the thread in it |
| --- | --- | --- |
| `own` | `run_<30 digits of base 32>_<thread>` | what `RunIds` makes |
| `declared` | the application's own regular expression with a group `thread` | - |
| `embedded` | `thread_<x>_run_<y>`, `thread-<x>-run-<y>` | `thread_8f2_run_1`: `thread_8f2` |
| `numbered` | `run_<thread>_<n>`, n of digits | `run_thread_8f2_3`: `thread_8f2` |
| `separated` | `<thread>:<run>`, `<thread>/<run>` | `thread_8f2:run_1`: `thread_8f2` |
| `uuid` | `<uuid>_run_<y>`, `run_<uuid>_<uuid>`, `<uuid>_<uuid>` | the first UUID; never one that stands alone: it is the run's own |
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from isolation_monitor.telemetry.errors import InvalidIdError, SettingsError
from isolation_monitor.telemetry.resolution.run_ids import looks_like_run_id, parse_run_id

OWN, DECLARED, EMBEDDED, NUMBERED, SEPARATED, UUID = "own", "declared", "embedded", "numbered", "separated", "uuid"
UNCONFIRMED, AMBIGUOUS, DAMAGED, NONE = "unconfirmed", "ambiguous", "damaged", "none"

_PART: Final = r"[A-Za-z0-9.~-]+"
_UUID: Final = r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"
_LABELLED: Final = re.compile(r"thread[_-][A-Za-z0-9.~-]+")

_EMBEDDED: Final = (
    re.compile(rf"(?P<thread>thread_(?P<bare>{_PART}))_run_{_PART}"),
    re.compile(r"(?P<thread>thread-(?P<bare>[A-Za-z0-9.~]+))-run-[A-Za-z0-9.~]+"),
)
_NUMBERED: Final = re.compile(r"run_(?P<thread>[A-Za-z0-9._~-]+)_[0-9]{1,18}")
_SEPARATED: Final = re.compile(r"(?P<thread>[A-Za-z0-9._~-]+)[:/][A-Za-z0-9._~-]+")
_UUIDS: Final = (
    re.compile(rf"(?P<thread>{_UUID})_run_{_PART}"),
    re.compile(rf"(?:run_)?(?P<thread>{_UUID})_{_UUID}"),
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What an id spells out. `algorithm` is the one that read it, else why there is none: `unconfirmed`, `ambiguous`, `damaged`, `none`."""

    thread_id: str | None
    algorithm: str


class Patterns:
    """Reads threads out of ids.

    Args:
        thread_shape: regular expression that every thread id of the application matches whole, such as `t_[0-9a-f]{16}`.
        declared: regular expressions of the application, each with a group `thread`; a whole match is taken at its word.

    Raises:
        SettingsError: an expression is wrong, or lacks the group.
    """

    def __init__(self, thread_shape: str | None = None, declared: tuple[str, ...] = ()) -> None:
        self._shape = None if thread_shape is None else _compiled(thread_shape)
        self._declared = tuple(_compiled(expression) for expression in declared)
        for expression in self._declared:
            if "thread" not in expression.groupindex:
                raise SettingsError(f"pattern {expression.pattern!r} has no group (?P<thread>…): name the part that is the thread's id")

    def read(self, run_id: str) -> Reading:
        """Return the one thread that an id spells out, or why there is none. Raises nothing for any text."""
        if looks_like_run_id(run_id):
            try:
                return Reading(parse_run_id(run_id).thread_id, OWN)
            except InvalidIdError:
                return Reading(None, DAMAGED)
        found: dict[str, str] = {}
        is_unconfirmed = False
        for algorithm, candidates in _ALGORITHMS:
            for candidate in candidates(run_id):
                if self._is_thread(candidate):
                    found.setdefault(candidate, algorithm)
                elif self._shape is None:
                    is_unconfirmed = True
        for expression in self._declared:
            match = expression.fullmatch(run_id)
            if match is not None and match["thread"] and (self._shape is None or self._shape.fullmatch(match["thread"])):
                # Over what another algorithm read of the same: the application's word counts under its own name.
                found[match["thread"]] = DECLARED
        if len(found) == 1:
            [(thread_id, algorithm)] = found.items()
            return Reading(thread_id, algorithm)
        if found:
            return Reading(None, AMBIGUOUS)
        return Reading(None, UNCONFIRMED if is_unconfirmed else NONE)

    def _is_thread(self, candidate: str) -> bool:
        if self._shape is not None:
            return self._shape.fullmatch(candidate) is not None
        return _LABELLED.fullmatch(candidate) is not None


def _embedded(run_id: str) -> list[str]:
    found = []
    for expression in _EMBEDDED:
        if match := expression.fullmatch(run_id):
            found += [match["thread"], match["bare"]]
    return found


def _of(*expressions: re.Pattern[str]) -> Callable[[str], list[str]]:
    return lambda run_id: [match["thread"] for expression in expressions if (match := expression.fullmatch(run_id))]


_ALGORITHMS: Final[tuple[tuple[str, Callable[[str], list[str]]], ...]] = (
    (EMBEDDED, _embedded),
    (NUMBERED, _of(_NUMBERED)),
    (SEPARATED, _of(_SEPARATED)),
    (UUID, _of(*_UUIDS)),
)


def _compiled(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        raise SettingsError(f"pattern {expression!r} is no regular expression ({error}): correct it") from None
