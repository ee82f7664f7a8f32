"""All results of one run in few bytes: a line for each test, compressed; behind them, compressed by itself, what each test used.

Whoever wants the results alone reads no further than they go: so do versions that know nothing of resources.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from isolation_monitor.collector.ci.domain import LETTERS, TestResult
from isolation_monitor.collector.ci.resources import AMOUNTS, Use

_KEY: Final = 16
_LEVEL: Final = 6
_LEFT: Final = "l"
_SHORT: Final = dict(zip(AMOUNTS, "wcpghtr", strict=True))
_LONG: Final = {short: name for name, short in _SHORT.items()}


@dataclass(frozen=True, slots=True)
class PackedResult:
    """What one test did in one run. `letter` is P, F, E or S."""

    letter: str
    duration_s: float | None
    used: Use | None


def packed(tests: Iterable[TestResult]) -> bytes:
    """Return all results of a run in few bytes; numbers keep four digits."""
    lines, used = [], []
    for test in tests:
        lines.append(f"{test.key}{LETTERS[test.result]}{'' if test.duration_s is None else format(test.duration_s, '.4g')}")
        if test.used is not None:
            used.append(test.key + _line(test.used))
    results = zlib.compress("\n".join(lines).encode(), _LEVEL)
    return results + zlib.compress("\n".join(used).encode(), _LEVEL) if used else results


def unpacked(content: bytes) -> dict[str, tuple[str, float | None]]:
    """Return letter and duration in seconds by key, of what `packed` made."""
    return dict(_result(line) for line in _parts(content)[0].decode().splitlines())


def uses_in(content: bytes) -> dict[str, Use]:
    """Return what each test used that was measured, by key, of what `packed` made."""
    rest = _parts(content)[1]
    lines = zlib.decompress(rest).decode().split("\n") if rest else ()
    return {line[:_KEY]: _use(line[_KEY:]) for line in lines}


def result_in(content: bytes, key: str) -> PackedResult | None:
    """Return what one test did, of what `packed` made; None where the run did not have it."""
    results, rest = _parts(content)
    line = _line_of(results, key)
    if line is None:
        return None
    used = _line_of(zlib.decompress(rest), key) if rest else None
    return PackedResult(*_result(line)[1], None if used is None else _use(used[_KEY:]))


def _parts(content: bytes) -> tuple[bytes, bytes]:
    """Return the results, and what stands behind them, still packed."""
    reader = zlib.decompressobj()
    return reader.decompress(content), reader.unused_data


def _line_of(text: bytes, key: str) -> str | None:
    start = 0 if text.startswith(key.encode()) else text.find(b"\n" + key.encode()) + 1
    if start == 0 and not text.startswith(key.encode()):
        return None
    return text[start:].split(b"\n", 1)[0].decode()


def _result(line: str) -> tuple[str, tuple[str, float | None]]:
    return line[:_KEY], (line[_KEY], float(line[_KEY + 1 :]) if len(line) > _KEY + 1 else None)


def _line(used: Use) -> str:
    told: dict[str, float | str] = {_SHORT[name]: float(format(value, ".4g")) for name, value in used.amounts.items()}
    if used.left_behind:
        told[_LEFT] = used.left_behind
    return json.dumps(told, separators=(",", ":"))


def _use(text: str) -> Use:
    told = json.loads(text)
    return Use({_LONG[short]: value for short, value in told.items() if short in _LONG}, told.get(_LEFT, ""))
