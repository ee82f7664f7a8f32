"""One violation as text for the engineer who has to change a line: both sides, what lay between them, and what to do first.

Written from the record (docs/records.md), so that a terminal far away from the service and a failing test say the same.
Where the service's files can be read here, below the working directory, the source line stands beside its place.
"""

from __future__ import annotations

import linecache
import re
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from isolation_monitor.telemetry import advice

Json = Mapping[str, Any]  # Any: JSON as a sender put it; fields may be missing, or of another shape

_PLACE: Final = re.compile(r"(?P<file>.+?):(?P<line>\d{1,7}) (?P<function>.+)")
_LIBRARY: Final = re.compile(r"(^|[/\\])(site-packages|dist-packages)[/\\]|^<")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_WIDTH: Final = 11
_SIDES: Final = {
    "victim": "whose data, state or turn it was",
    "offender": "whose request reached it",
}


def as_text(record: Json, *, runbooks: str = "") -> str:
    """Return the report of one violation, many lines without colours.

    Args:
        record: as the collector answers it, or `Violation.as_record()`.
        runbooks: the collector's address, to make the runbook a link.
    """
    return _CONTROL.sub("?", "\n".join(_lines(record, runbooks)))


def _lines(record: Json, runbooks: str) -> Iterator[str]:
    kind, grade = str(record.get("kind", "?")), str(record.get("grade", "?"))
    yield f"{kind} ({grade})  {record.get('id', '')}  {record.get('time', '')}" + ("  RETRACTED" if record.get("retracted") else "")
    yield from _field("", str(record.get("summary", "")))
    if meaning := advice.meaning(kind):
        yield from _field("means", meaning)
    for name, role in _SIDES.items():
        side = record.get(name)
        yield ""
        if isinstance(side, Mapping):
            yield from _side(name, role, side)
        else:
            yield f"{name:<{_WIDTH}}none: this kind has no {name}, or nobody is known"
        if name == "victim":
            yield ""
            yield from _resource(record.get("resource"))
    yield ""
    yield from _circumstances(record)
    yield from _field("first", advice.first_step(kind))
    book = advice.runbook(kind, grade)
    yield from _field("runbook", f"{runbooks.rstrip('/')}/runbooks/{book}" if runbooks else book)


def _side(name: str, role: str, side: Json) -> Iterator[str]:
    yield f"{name:<{_WIDTH}}{role}"
    yield from _field("who", f"principal {side.get('principal') or 'unknown'}")
    ids = [
        f"{label} {side[key]}"
        for label, key in (("request", "request_id"), ("run", "run_id"), ("connection", "connection_id"), ("trace", "trace_id"))
        if side.get(key)
    ]
    yield from _field("ids", ", ".join(ids))
    route = str(side.get("route") or "")
    endpoint = f", endpoint {side['endpoint']}" if side.get("endpoint") else ""
    yield from _field("request", f"{route}{endpoint}" if route or endpoint else "")
    yield from _field("task", str(side.get("task") or ""))
    yield from _field("when", str(side.get("time") or ""))
    stack = [line for line in _items(side.get("stack")) if isinstance(line, str)]
    for position, line in enumerate(stack):
        yield from _frame("at" if position == 0 else "", line)
    events = [event for event in _items(side.get("events")) if isinstance(event, Mapping)]
    for position, event in enumerate(events):
        clock = str(event.get("time") or "")[11:23]
        yield f"  {'events' if position == 0 else '':<{_WIDTH - 2}}{clock:<13} {event.get('what', '')}"


def _frame(label: str, line: str) -> Iterator[str]:
    own = _is_own(line)
    yield f"  {label:<{_WIDTH - 4}}{'>' if own else ' '} {line}"
    if own and (source := source_line(line)):
        yield f"  {'':<{_WIDTH - 2}}    {source}"


def _resource(resource: object) -> Iterator[str]:
    if not isinstance(resource, Mapping):
        yield f"{'between':<{_WIDTH}}nothing named"
        return
    yield f"{'between':<{_WIDTH}}{resource.get('type', '?')} {resource.get('name', '?')}"
    detail = resource.get("detail")
    for key, value in detail.items() if isinstance(detail, Mapping) else ():
        if key == "code":
            # Places in code, as in a stack.
            for position, line in enumerate(one for one in _items(value) if isinstance(one, str)):
                yield from _frame("code" if position == 0 else "", line)
        else:
            yield f"  {'':<{_WIDTH - 2}}{key}: {_short(value)}"


def _circumstances(record: Json) -> Iterator[str]:
    extra = record.get("extra")
    told: dict[str, Any] = {**(extra if isinstance(extra, Mapping) else {}), **record}
    if detail := told.get("detail"):
        yield from _field("detail", _short(detail))
    affected = told.get("affected")
    if isinstance(affected, Mapping):
        least = "at least " if affected.get("at_least") else ""
        active = f" of {affected['active']} active" if affected.get("active") else ""
        runs = f", {affected['runs']} runs" if affected.get("runs") else ""
        yield from _field("affected", f"{least}{affected.get('principals', '?')} users{active}{runs}")
    configuration = told.get("configuration")
    if isinstance(configuration, Mapping):
        detectors = ", ".join(str(one) for one in _items(configuration.get("detectors"))) or "as shipped"
        yield from _field(
            "process",
            f"pid {configuration.get('pid', '?')} on {told.get('instance', 'this host')}, Python {configuration.get('python', '?')}, "
            f"isolation-monitor {configuration.get('version', '?')}, mode {configuration.get('mode', '?')}, detectors {detectors}",
        )
    if told.get("revision"):
        yield from _field("revision", str(told["revision"]))
    for change in ("escalations", "retractions"):
        for one in _items(told.get(change)):
            if isinstance(one, Mapping):
                yield from _field(change[:-1], f"{one.get('time', '')} {one.get('reason', '')}")


def _field(label: str, text: str) -> Iterator[str]:
    if text:
        yield f"  {label:<{_WIDTH - 2}}{text}"


def _items(value: object) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 300 else f"{text[:300]}…"


def _is_own(line: str) -> bool:
    """Return whether a frame is the application's: neither an installed package's nor the standard library's."""
    return not _LIBRARY.search(line) and not line.startswith(sysconfig.get_path("stdlib"))


def source_line(place: str) -> str:
    """Return the text of a stack line's source, where that is a Python file that can be read here; else nothing.

    Only files below the working directory: the evidence of another host must not make this one show any file it names.
    """
    found = _PLACE.fullmatch(place)
    if found is None or not found["file"].endswith(".py"):
        return ""
    try:
        path = Path(found["file"]).resolve()
        if not path.is_relative_to(Path.cwd()):
            return ""
        return linecache.getline(str(path), int(found["line"])).strip()[:200]
    except (OSError, ValueError):
        return ""
