"""The live status of `make demo`: what a person wants to see at a glance, in a terminal or as plain lines."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import httpx2
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from isolation_monitor.demo import measures
from isolation_monitor.demo.collector_api import DEAD_MANS_SWITCH
from isolation_monitor.demo.errors import DemoError
from isolation_monitor.demo.parts import Parts
from isolation_monitor.demo.stack import Stack
from isolation_monitor.demo.users import Population

REFRESH_S = 1.0
PLAIN_EVERY_S = 10.0
LAST_PAGES = 5


@dataclass(slots=True)
class Numbers:
    """One look at the running stack. `score` is 0-100, None while not measurable; `coverage` is 0-1, of the last minute."""

    score: float | None = None
    state: str = "unknown"
    coverage: float | None = None
    exposed: int = 0
    requests: int = 0
    requests_per_s: float = 0.0
    violations: int = 0
    users: int | None = None
    active_faults: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    """What the receiver got since the start, newest first, the dead man's switch left out."""

    def as_json(self) -> dict[str, object]:
        return {
            "schema": "demo-status/1",
            "score": self.score,
            "state": self.state,
            "coverage": self.coverage,
            "exposed": self.exposed,
            "requests": self.requests,
            "violations": self.violations,
            "active_faults": self.active_faults,
            "pages": self.pages,
        }


class Watch:
    """Looks at a stack again and again; rates are from one look to the next."""

    def __init__(self, stack: Stack, users: Population) -> None:
        self._stack = stack
        self._users = users
        self._started = time.time()
        self._last: tuple[float, measures.Totals] | None = None

    async def look(self) -> Numbers:
        """Return the numbers of now."""
        numbers = await look(self._stack.parts, since=self._started)
        totals = await measures.totals(self._stack.parts.prometheus)
        now = time.monotonic()
        if self._last is not None:
            before_at, before = self._last
            numbers.requests_per_s = (totals.requests - before.requests) / (now - before_at)
        self._last = (now, totals)
        numbers.users = len(self._users.users)
        return numbers


async def look(parts: Parts, *, since: float) -> Numbers:
    """Return the numbers that need no memory: also for a second terminal. `since` is the Unix time from which pages count."""
    metrics = parts.prometheus
    totals = await measures.totals(metrics)
    notifications = [n for n in await parts.collector.notifications(since=since) if n.alertname != DEAD_MANS_SWITCH]
    return Numbers(
        score=await measures.score(metrics),
        state=await measures.score_state(metrics),
        coverage=await measures.recent_coverage(metrics),
        exposed=totals.exposed,
        requests=totals.requests,
        violations=totals.violations,
        active_faults=(await parts.chat.faults())[1],
        pages=[f"{time.strftime('%H:%M:%S', time.localtime(n.received_at))} {n.text} {n.status}" for n in notifications],
    )


async def show(stack: Stack, users: Population, console: Console) -> None:
    """Show the status until cancelled; look at the processes, and end with their error when one ends."""
    watch = Watch(stack, users)
    if not console.is_terminal:
        await _show_lines(stack, users, watch, console)
        return
    with Live(_panel(Numbers(), stack), console=console, auto_refresh=False) as live:
        while True:
            stack.check()
            users.check()
            numbers = await _look_patiently(watch)
            if numbers is not None:
                live.update(_panel(numbers, stack), refresh=True)
            await asyncio.sleep(REFRESH_S)


async def _show_lines(stack: Stack, users: Population, watch: Watch, console: Console) -> None:
    console.print(_links(stack))
    while True:
        stack.check()
        users.check()
        numbers = await _look_patiently(watch)
        if numbers is not None:
            console.print(line(numbers), highlight=False, soft_wrap=True)
        await asyncio.sleep(PLAIN_EVERY_S)


async def _look_patiently(watch: Watch) -> Numbers | None:
    # A busy machine answers late now and then; a process that ended is told by `Stack.check`.
    try:
        return await watch.look()
    except (httpx2.HTTPError, DemoError):
        return None


def line(numbers: Numbers) -> str:
    """Return the numbers as one line of text."""
    return (
        f"score {_score(numbers)}  coverage {_percent(numbers.coverage)}  exposed {numbers.exposed}  requests {numbers.requests}"
        f" ({numbers.requests_per_s:.0f}/s)  violations {numbers.violations}  pages {len(numbers.pages)}"
        f"  fault {', '.join(numbers.active_faults) or 'none'}"
    )


def _panel(numbers: Numbers, stack: Stack) -> RenderableType:
    figures = Table.grid(padding=(0, 3))
    good = numbers.score == 100.0
    colour = "dim" if numbers.score is None else "green" if good else "bold red"
    figures.add_row("isolation score", Text(_score(numbers), style=colour), "users", str(numbers.users or "-"))
    figures.add_row("coverage", _percent(numbers.coverage), "requests", f"{numbers.requests} ({numbers.requests_per_s:.0f}/s)")
    figures.add_row("exposed requests", str(numbers.exposed), "violations", str(numbers.violations))
    fault = ", ".join(numbers.active_faults)
    figures.add_row("active fault", Text(fault or "none", style="bold red" if fault else ""), "notifications", str(len(numbers.pages)))
    pages = Text("\n".join(numbers.pages[:LAST_PAGES]) or "nothing has been paged", style="" if numbers.pages else "dim")
    hint = Text("second terminal:  .venv/bin/isomon demo inject shared-agent  |  isomon demo heal      Ctrl-C ends everything", style="dim")
    return Panel(Group(figures, Text(), pages, Text(), _links(stack), Text(), hint), title="isolation-monitor", expand=False)


def _links(stack: Stack) -> RenderableType:
    links = Table.grid(padding=(0, 2))
    urls = stack.urls
    links.add_row("chat", urls.chat)
    links.add_row("Prometheus", f"{urls.prometheus}/alerts")
    links.add_row("Alertmanager", urls.alertmanager)
    links.add_row("pages", f"{urls.collector}/   (sign in with the token in {stack.layout.read_token})")
    return links


def _score(numbers: Numbers) -> str:
    # Rounded down: 99.996 is not 100.
    return numbers.state.replace("_", " ") if numbers.score is None else f"{int(numbers.score * 100) / 100:g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{int(share * 1000) / 10:g} %"
