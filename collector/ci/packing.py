"""All results of one run in few bytes: a line for each test, compressed.

Behind them, compressed by itself, stand as many lines of what each used. Whoever wants the results alone reads no further than they go:
so do versions that know nothing of resources.
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
_CHUNK: Final = 65_536
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
        used.append("" if test.used is None else _line(test.used))
    results = zlib.compress("\n".join(lines).encode(), _LEVEL)
    return results + zlib.compress("\n".join(used).encode(), _LEVEL) if any(used) else results


def unpacked(content: bytes) -> dict[str, tuple[str, float | None]]:
    """Return letter and duration in seconds by key, of what `packed` made."""
    return dict(_result(line) for line in _parts(content)[0].decode().splitlines())


def uses_in(content: bytes) -> dict[str, Use]:
    """Return what each test used that was measured, by key, of what `packed` made."""
    results, rest = _parts(content)
    lines = zlib.decompress(rest).decode().split("\n") if rest else ()
    return {told[:_KEY]: _use(line) for told, line in zip(results.decode().split("\n"), lines, strict=False) if line}


def result_in(content: bytes, key: str) -> PackedResult | None:
    """Return what one test did, of what `packed` made; None where the run did not have it."""
    results, rest = _parts(content)
    # Each line begins with its key, the first one too.
    start = (b"\n" + results).find(b"\n" + key.encode())
    if start < 0:
        return None
    line = results[start:].split(b"\n", 1)[0].decode()
    used = _line_in(rest, results.count(b"\n", 0, start)).decode() if rest else ""
    return PackedResult(*_result(line)[1], _use(used) if used else None)


def _parts(content: bytes) -> tuple[bytes, bytes]:
    """Return the results, and what stands behind them, still packed."""
    reader = zlib.decompressobj()
    return reader.decompress(content), reader.unused_data


def _line_in(content: bytes, number: int) -> bytes:
    """Return one line of what is packed, counted from zero. A page asks dozens of runs for one: no more is unpacked than up to its end."""
    reader = zlib.decompressobj()
    part, before, ending = reader.decompress(content, _CHUNK), 0, b""
    while part:
        ends = part.count(b"\n")
        if before + ends > number:
            # Of the lines in this part the wanted one is the first when its beginning stands in the part before.
            return (ending + part).split(b"\n", number - before + 1)[number - before]
        before, ending = before + ends, part[part.rfind(b"\n") + 1 :] if ends else ending + part
        part = reader.decompress(reader.unconsumed_tail, _CHUNK)
    return ending if before == number else b""


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
