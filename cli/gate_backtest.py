"""`isomon gate backtest`: what the gate would have said, minute by minute, over a CSV or a range of Prometheus. Needs no collector."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from isolation_monitor.cli.collector_client import UsageError, seconds
from isolation_monitor.cli.console import stdout_console
from isolation_monitor.cli.prometheus_client import CA_FILE_ENV, CLIENT_CERT_FILE_ENV, PROMETHEUS_TOKEN_FILE_ENV, PrometheusAccess
from isolation_monitor.cli.verdicts import COLOURS, EXIT_CODES
from isolation_monitor.collector.gates.backtest import Look, PastStage, looks
from isolation_monitor.collector.gates.comparison import STATISTICAL, ComparisonPlan
from isolation_monitor.collector.gates.csv_minutes import CountedStage, CsvError, StageReader, read_csv
from isolation_monitor.collector.gates.prometheus import PrometheusSource
from isolation_monitor.collector.gates.ranges import SETTLE_S, MinuteBook

Json = dict[str, Any]  # Any: JSON

EXIT_USAGE: Final = 2
_LONG: Final = 120
"""Looks from which progress is shown."""

EPILOG: Final = """Exit codes, of the last look: 0 pass, 10 fail (it would have rolled back), 20 inconclusive, 30 error, 2 usage.

The CSV: minute,arm,requests,errors,slow,violations - a line for each minute and arm (on, off); minute is a time or a whole
number, slow counts requests above a duration of which 5 % may be. A seventh column, weight, names the percentage of users.

Examples:

  isomon gate backtest counts.csv

  isomon gate backtest counts.csv --percent 10 --json > looks.json

  isomon gate backtest --prometheus http://127.0.0.1:9090 --service chat --rollout checkout-v2 --last 2h
"""


def backtest(
    file: Annotated[Path | None, typer.Argument(help="CSV of counts per minute and arm.")] = None,
    prometheus: Annotated[str | None, typer.Option(envvar="ISOMON_PROMETHEUS_URL", help="Read a range of this Prometheus instead.")] = None,
    service: Annotated[str | None, typer.Option(help="With --prometheus: the service.")] = None,
    rollout: Annotated[str | None, typer.Option(help="With --prometheus: the rollout.")] = None,
    start: Annotated[str | None, typer.Option(help="With --prometheus: from this time on (2026-01-01T12:00Z).")] = None,
    end: Annotated[str | None, typer.Option(help="With --prometheus: until this time. Default: now.")] = None,
    last: Annotated[str | None, typer.Option(help="With --prometheus: so long before --end, instead of --start: 2h, 90m.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(envvar=PROMETHEUS_TOKEN_FILE_ENV, help="With --prometheus: file with a bearer token.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(envvar=CA_FILE_ENV, help="With --prometheus: certificates (PEM) that its own must be signed by.")
    ] = None,
    client_cert_file: Annotated[
        Path | None, typer.Option(envvar=CLIENT_CERT_FILE_ENV, help="With --prometheus: our certificate and key (PEM, one file).")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="With --prometheus: value of X-Scope-OrgID.")] = None,
    percent: Annotated[float | None, typer.Option(help="Share of users with the flag on. Default: as it was in the data.")] = None,
    stages: Annotated[int, typer.Option(min=1, max=20, help="Stages over which alpha is spent; at least those in the data.")] = 1,
    trigger: Annotated[list[str] | None, typer.Option(help="Only this one of error_rate, latency, delivery; may be repeated.")] = None,
    alpha: Annotated[float, typer.Option(min=0.0001, max=0.4, help="Chance of a false rollback per rollout.")] = 0.05,
    min_requests: Annotated[int, typer.Option(min=1, help="Exposed canary requests that a pass needs.")] = 300,
    as_json: Annotated[bool, typer.Option("--json", help="Print every look as JSON and nothing else.")] = False,
) -> None:
    """Say what the gate would have said at the end of each minute of FILE, or of a range of Prometheus."""
    try:
        plan = _Plan(percent, stages, _triggers(trigger), alpha)
        if (file is None) == (prometheus is None):
            raise UsageError("give a CSV or --prometheus, one of them")
        if file is not None:
            past = _from_csv(file, plan)
        else:
            access = PrometheusAccess.of(ca_file, client_cert_file, token_file)
            past = asyncio.run(_from_prometheus(str(prometheus), service, rollout, _range(start, end, last), access, tenant, plan))
    except (UsageError, CsvError) as error:
        print(f"isomon gate: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from None
    seen = _look(past, min_requests)
    if as_json:
        print(json.dumps(_answer(seen), allow_nan=False))
    else:
        _print_table(seen)
    raise typer.Exit(EXIT_CODES[seen[-1].judgement.verdict])


class _Plan:
    """What the options say about the comparison."""

    def __init__(self, percent: float | None, stages: int, triggers: tuple[str, ...], alpha: float) -> None:
        if percent is not None and not 0 < percent <= 100:
            raise UsageError(f"--percent {percent:g}: write a percentage above 0, at most 100")
        self._percent, self._stages, self._triggers, self._alpha = percent, stages, triggers, alpha

    def comparison(self, weight: float | None, share_on: float, position: int, stages: int) -> ComparisonPlan:
        percent = weight or self._percent or round(min(99.9, max(0.1, share_on * 100)), 3)
        return ComparisonPlan(percent, position=position, stages=max(self._stages, stages), triggers=self._triggers, alpha=self._alpha)

    def without(self, trigger: str) -> _Plan:
        left = tuple(name for name in self._triggers if name != trigger)
        return _Plan(self._percent, self._stages, left, self._alpha)


def _triggers(chosen: list[str] | None) -> tuple[str, ...]:
    unknown = [name for name in chosen or [] if name not in STATISTICAL]
    if unknown:
        raise UsageError(f"--trigger {unknown[0]}: write one of {', '.join(STATISTICAL)}")
    return tuple(name for name in STATISTICAL if chosen is None or name in chosen)


def _from_csv(file: Path, plan: _Plan) -> list[PastStage]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            stages = read_csv(lines, str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read ({type(error).__name__})") from None
    if not any(minute.on.slow or minute.off.slow for stage in stages for minute in stage.minutes.values()):
        # A file without slow requests is one that did not count them.
        plan = plan.without("latency")

    def past(position: int, stage: CountedStage) -> PastStage:
        return PastStage(
            plan.comparison(stage.weight, stage.share_on(), position, len(stages)), stage.first, stage.last, StageReader(stage).reading
        )

    return [past(position, stage) for position, stage in enumerate(stages)]


def _range(start: str | None, end: str | None, last: str | None) -> tuple[datetime, datetime]:
    until = datetime.now(UTC) - timedelta(seconds=SETTLE_S) if end is None else _time("--end", end)
    if (start is None) == (last is None):
        raise UsageError("with --prometheus give --start or --last, one of them")
    begun = _time("--start", start) if start is not None else until - timedelta(seconds=seconds(str(last)))
    if not timedelta(minutes=2) <= until - begun <= timedelta(days=2):
        raise UsageError(f"the range lasts {until - begun}: choose between two minutes and two days")
    return begun, until


def _time(option: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} {text!r}: write a time such as 2026-01-01T12:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


async def _from_prometheus(
    url: str,
    service: str | None,
    rollout: str | None,
    span: tuple[datetime, datetime],
    access: PrometheusAccess,
    tenant: str | None,
    plan: _Plan,
) -> list[PastStage]:
    if not service or not rollout:
        raise UsageError("with --prometheus give --service and --rollout")
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--prometheus {url!r} is not an http:// or https:// address")
    begun, until = span
    source = PrometheusSource(url, token=access.token, tenant=tenant, timeout_s=60.0, tls=access.tls)
    # The book leaves the first seconds of a stage alone, and those after a minute: here everything is long over.
    book = MinuteBook(service, rollout, begun - timedelta(seconds=SETTLE_S))
    try:
        with _progress("reading minutes", math.ceil((until - begun).total_seconds() / 60)) as told:
            reading = await book.read(source, ComparisonPlan(50.0), until + timedelta(seconds=SETTLE_S), told=told)
    finally:
        await source.close()
    if reading.problem is not None:
        raise UsageError(reading.problem)
    if not reading.minutes:
        raise UsageError(f"Prometheus has no request of rollout {rollout} of service {service} in this time")
    on = math.fsum(minute.on.requests for minute in reading.minutes)
    every = on + math.fsum(minute.off.requests for minute in reading.minutes)
    comparison = plan.comparison(None, on / every if every else 0.0, 0, 1)
    first = math.ceil(begun.timestamp() / 60)
    return [PastStage(comparison, first, book.last_minute, lambda minute: book.reading(comparison, minute))]


def _look(past: list[PastStage], min_requests: int) -> list[Look]:
    total = sum(stage.last - stage.first + 1 for stage in past)
    seen: list[Look] = []
    with _progress("judging minutes", total) as told:
        for look in looks(past, min_requests):
            seen.append(look)
            told(len(seen), total)
    return seen


class _progress:
    """Progress on standard error, where there is much to do: a bar on a terminal, a line for each tenth elsewhere."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._said = what, 0
        console = Console(stderr=True)
        self._bar = Progress(console=console, transient=True) if total >= _LONG and console.is_terminal else None
        self._task = None if self._bar is None else self._bar.add_task(what, total=total)

    def __enter__(self) -> Callable[[int, int], None]:
        if self._bar is not None:
            self._bar.start()
        return self._told

    def __exit__(self, *_error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _told(self, done: int, of: int) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)
        elif of >= _LONG and done * 10 // of > self._said:
            self._said = done * 10 // of
            print(f"{self._what}: {done} of {of}", file=sys.stderr, flush=True)


def _answer(seen: list[Look]) -> Json:
    """Return `gate-backtest/1`. What did not happen is left out, never null."""
    failed = next((look for look in seen if look.judgement.verdict == "fail"), None)
    passed = next((look for look in seen if look.judgement.verdict == "pass"), None)
    answer: Json = {
        "schema": "gate-backtest/1",
        "verdict": seen[-1].judgement.verdict,
        "rolled_back": failed is not None,
        "looks": [look.as_json() | {"at": _at(look.minute)} for look in seen],
    }
    if failed is not None:
        answer |= {"rolled_back_at": _at(failed.minute), "rolled_back_after_looks": seen.index(failed) + 1}
    if passed is not None:
        answer |= {"first_pass_at": _at(passed.minute), "first_pass_after_looks": seen.index(passed) + 1}
    return answer


def _at(minute: int) -> str:
    """Return the end of a minute: the moment of the look."""
    try:
        return datetime.fromtimestamp((minute + 1) * 60, UTC).strftime("%Y-%m-%dT%H:%MZ")
    except (OverflowError, ValueError, OSError):
        return str(minute + 1)


def _print_table(seen: list[Look]) -> None:
    """Print a line for each change of what the gate says, not one for each minute."""
    console = stdout_console(unfolded=True)
    table = Table("look", "at", "percent", "verdict", "why", box=None, pad_edge=False)
    before: object = None
    for number, look in enumerate(seen, 1):
        judged = look.judgement
        told = (look.percent, judged.verdict, [(reason.trigger, reason.code) for reason in judged.reasons], look.latched)
        if told == before:
            continue
        before = told
        why = "stays failed: a latch" if look.latched else "; ".join(f"{reason.trigger}: {reason.detail}" for reason in judged.reasons)
        table.add_row(str(number), _at(look.minute), f"{look.percent:g} %", Text(judged.verdict, style=COLOURS[judged.verdict]), Text(why))
    console.print(table)
    failed = next((number for number, look in enumerate(seen, 1) if look.judgement.verdict == "fail"), None)
    told_last = f"would have rolled back at look {failed} of {len(seen)}" if failed else f"no rollback in {len(seen)} looks"
    console.print(Text(f"{seen[-1].judgement.verdict}: {told_last}", style="bold"))
