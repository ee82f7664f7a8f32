"""`isomon export`: evidence as lines of JSON, from the oldest on, to be gone on with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import typer

from isolation_monitor.cli.collector_client import (
    DEFAULT_URL,
    TOKEN_FILE_ENV,
    URL_ENV,
    CollectorClient,
    NoAnswer,
    NotACollector,
    UsageError,
    ago,
    read_token,
)

Json = dict[str, Any]  # Any: JSON

KINDS: Final = ("violations", "runs")
FORMATS: Final = ("jsonl", "cloudevents")
EXIT_UNFINISHED: Final = 1
EXIT_USAGE: Final = 2
_PAGE: Final = 500

EPILOG = """Exit codes: 0 all of it was written, 1 the collector gave no answer half-way or the disk is full, 2 usage. Progress is on
standard error; its last line has the cursor from which --cursor goes on, also when it ended with 1.

Lines come in the order of their time. A record that arrives late, with an older time than the cursor's, is not seen by going on: let
ranges overlap (--since) and take each id once.

Examples:

  isomon export --since 24h > day.jsonl

  isomon export runs --since 2026-01-01T00:00:00Z --until 2026-02-01T00:00:00Z --format cloudevents

  isomon export --cursor MjAyNi0wMS0wMVQ... >> day.jsonl
"""


def export(
    what: Annotated[str, typer.Argument(help="violations or runs.")] = "violations",
    format: Annotated[str, typer.Option("--format", help="jsonl, or cloudevents: CloudEvents 1.0 in JSON, one a line.")] = "jsonl",
    service: Annotated[str | None, typer.Option(help="Only this service.")] = None,
    since: Annotated[str | None, typer.Option(help="From 90s, 15m, 24h ago or from 2026-01-01T00:00:00Z on.")] = None,
    until: Annotated[str | None, typer.Option(help="Before that time; written like --since.")] = None,
    cursor: Annotated[str | None, typer.Option(help="Go on after the last line of an export with the same options.")] = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Planted faults too: proofs that a detector works.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The progress on standard error as JSON, too.")] = False,
    collector: Annotated[str, typer.Option("--url", "--collector", envvar=URL_ENV, help="Address of the collector.")] = DEFAULT_URL,
    token: Annotated[str | None, typer.Option(help="A token that may read; seen by others in the list of processes.")] = None,
    token_file: Annotated[Path | None, typer.Option(envvar=TOKEN_FILE_ENV, help="File with a token that may read.")] = None,
) -> None:
    """Write violations or runs to standard output, one JSON object a line, oldest first."""
    lines, last = 0, cursor
    try:
        _check(what, format)
        asked = {"service": service, "since": _moment(since), "until": _moment(until), "cursor": cursor, "order": "oldest"}
        asked |= {"limit": str(_PAGE), "synthetic": "false" if what == "violations" and not synthetic else None}
        path = f"/v1/{what}?{urlencode({name: value for name, value in asked.items() if value is not None})}"
        with CollectorClient(collector, token or read_token(token_file)) as client:
            for items, end in _pages(client, path):
                _write(item if format == "jsonl" else cloud_event(what, item) for item in items)
                lines, last = lines + len(items), end or last
                if len(items) == _PAGE:
                    _tell(lines, last, as_json=as_json)
    except BrokenPipeError:
        # The reader has enough.
        _give_up_output()
    except (UsageError, NoAnswer) as error:
        _tell(lines, last, as_json=as_json)
        print(f"isomon export: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_UNFINISHED) from None
    _tell(lines, last, as_json=as_json)


def cloud_event(what: str, item: Json) -> Json:
    """Return an item as a CloudEvent 1.0: the same id for the same record, so that a consumer takes it once."""
    return {
        "specversion": "1.0",
        "id": item["id"],
        "source": f"/services/{quote(str(item['service']), safe='')}/{quote(str(item['instance']), safe='')}",
        "type": f"isolation_monitor.{what.removesuffix('s')}.v1",
        "subject": str(item.get("fingerprint") or item.get("run_id") or item["id"]),
        "time": item["time"],
        "datacontenttype": "application/json",
        "data": item,
    }


def _write(items: Iterable[Json]) -> None:
    try:
        for item in items:
            sys.stdout.write(json.dumps(item, ensure_ascii=False) + "\n")
        # What is told as written must be written, whatever stands behind the pipe.
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up_output()
        raise NoAnswer(f"standard output takes no more ({error.strerror}): go on from the cursor when it does") from None


def _give_up_output() -> None:
    """Standard output is gone, and closing it must not complain."""
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - it ends with the process


def _check(what: str, format: str) -> None:
    if what not in KINDS:
        raise UsageError(f"{what!r} cannot be exported: use {' or '.join(KINDS)}")
    if format not in FORMATS:
        raise UsageError(f"--format {format!r} is not known: use {' or '.join(FORMATS)}")


def _pages(client: CollectorClient, path: str | None) -> Iterator[tuple[list[Json], str | None]]:
    while path is not None:
        answer = client.request("GET", path)
        items, path = answer.get("items"), answer.get("next")
        if not isinstance(items, list):
            raise NotACollector
        yield items, answer.get("last_cursor")


def _moment(text: str | None) -> str | None:
    if text is None:
        return None
    if "T" not in text:
        return ago(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no time: write 2026-01-01T00:00:00Z, or 24h for the last day") from None
    if moment.tzinfo is None:
        raise UsageError(f"{text!r} has no time zone: end it with Z")
    return text


def _tell(lines: int, cursor: str | None, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"lines": lines, "cursor": cursor}), file=sys.stderr)
    else:
        print(f"{lines} lines{f', cursor {cursor}' if cursor else ''}", file=sys.stderr)
