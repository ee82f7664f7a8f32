"""`isomon probe FILE`: checks the endpoints of a file once, as the collector does at their intervals."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from isolation_monitor.alerts import thresholds
from isolation_monitor.cli.console import stdout_console
from isolation_monitor.collector.clock import rfc3339, utc_now
from isolation_monitor.collector.probes.domain import REASONS, Probe, State, after, word_of
from isolation_monitor.collector.probes.modules import ProbesFileError
from isolation_monitor.collector.probes.prober import Prober
from isolation_monitor.collector.probes.probes_file import read_probes
from isolation_monitor.collector.probes.routes import described
from isolation_monitor.collector.probes.service import ProbeNow

EXIT_FAILING: Final = 1
EXIT_USAGE: Final = 2
_AT_ONCE: Final = 10
_STYLES: Final = {"ok": "green", "failing": "red", "slow": "yellow"}

EPILOG = """Exit codes: 0 every endpoint is as it should be (slow ones too), 1 one is not, 2 usage or a mistake in the file.

Examples:

  isomon probe probes.yml

  isomon probe probes.yml --only shop --only login --json

  isomon probe probes.yml --check      only read the file, and say what is wrong with it

  isomon probe probes.yml --blackbox http://127.0.0.1:9115
"""


def probe(
    file: Annotated[Path, typer.Argument(help="YAML file of probes (docs/probes.md).")],
    only: Annotated[list[str] | None, typer.Option(help="Only the probe of this name; may be given again.")] = None,
    blackbox: Annotated[
        str | None, typer.Option(envvar="COLLECTOR_BLACKBOX_URL", help="Let the blackbox exporter at this address check.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Read the file and ask no endpoint.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON and nothing else.")] = False,
) -> None:
    """Check every endpoint once; a failing one makes the exit code 1."""
    try:
        asked = read_probes(file, blackbox)
        unknown = sorted(set(only or ()) - {one.name for one in asked.probes})
        if unknown:
            raise ProbesFileError(f"{file}: there is no probe {', '.join(map(repr, unknown))}")
    except ProbesFileError as error:
        print(f"isomon probe: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from None
    for note in asked.notes:
        print(f"isomon probe: {note}", file=sys.stderr)
    chosen = [one for one in asked.probes if not only or one.name in only]
    if check:
        print(f"{len(chosen)} probes in {file}: nothing is wrong with them")
        return
    found = asyncio.run(_checked(chosen, asked.blackbox_url))
    if as_json:
        items = [described(one) for one in found]
        print(json.dumps({"schema": "probes/1", "as_of": rfc3339(utc_now()), "items": items}, ensure_ascii=False, allow_nan=False))
    else:
        _print(found, stdout_console(highlight=False, unfolded=True))
    if any(one.word == "failing" for one in found):
        raise typer.Exit(EXIT_FAILING)


async def _checked(probes: Sequence[Probe], blackbox_url: str | None) -> list[ProbeNow]:
    prober, room = Prober(blackbox_url, utc_now), asyncio.Semaphore(_AT_ONCE)

    async def one(probe: Probe) -> ProbeNow:
        async with room:
            state, _is_change = after(None, probe, await prober.check(probe))
        return ProbeNow(probe, state, word_of(probe, state, state.last.at))

    try:
        return list(await asyncio.gather(*(one(probe) for probe in probes)))
    finally:
        await prober.close()


def _print(found: Sequence[ProbeNow], console: Console) -> None:
    table = Table("probe", "state", "took", "status", "certificate", "target", "why", box=None, pad_edge=False)
    soon = timedelta(days=thresholds.load().probes.certificate_days)
    for one in found:
        assert one.state is not None
        last = one.state.last
        why = "" if last.is_success else f"{last.reason}: {last.detail or REASONS[last.reason]}"
        cells: list[str | Text] = [
            one.probe.name,
            Text(one.word, style=_STYLES.get(one.word, "")),
            f"{1000 * last.duration_s:.0f} ms",
            str(last.status_code or "-"),
            _until(one.state, soon),
            one.probe.shown_target,
            why,
        ]
        # Text, not markup: what an endpoint answers must not style the terminal.
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))
    console.print(table)
    failing = sum(one.word == "failing" for one in found)
    console.print(Text(f"{failing} of {len(found)} endpoints failing" if failing else f"all {len(found)} endpoints answer as they should"))


def _until(state: State, soon: timedelta) -> str | Text:
    expires: datetime | None = state.certificate_expires_at
    if expires is None:
        return "-"
    left = expires - state.last.at
    return Text(f"{left.days} days left", style="yellow" if left < soon else "")
