"""What the pages of CI show: all suites, one suite, one run, one test. Reads only, through the service of the feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from typing import Any, Final, Literal

from isolation_monitor.collector.ci.domain import Day, RecentRun, StoredRun, pass_ratio
from isolation_monitor.collector.ci.packing import PackedResult
from isolation_monitor.collector.ci.service import DAYS, CiService
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.paging import make_cursor, read_cursor
from isolation_monitor.collector.problems import Invalid
from isolation_monitor.collector.web.rendering import seconds, size

Values = dict[str, Any]  # Any: what a template shows
Params = Mapping[str, str]
Look = Literal["good", "bad", "live", "unseen"]

_RUNS: Final = 25
_KINDS: Final = 10
_DRAWN: Final = 50
"""Suites, the worst first, whose newest runs are drawn on the page of all; others draw them on their own page."""
_RESULTS: Final = 30
"""Runs of one test that a page lists and draws: the results of each are unpacked for it."""
RESULTS: Final[Mapping[str, str]] = {"P": "passed", "F": "failed", "E": "error", "S": "skipped"}
_LOOKS: Final[Mapping[str, Look]] = {"P": "good", "F": "bad", "E": "bad", "S": "unseen"}
_WIDTH: Final = 120.0
_HEIGHT: Final = 24.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One run, or one day, of a small chart: as high as it took, red where something failed, grey where nothing ran."""

    x: float
    y: float
    width: float
    height: float
    look: Look
    says: str

    @property
    def svg(self) -> str:
        """Return the bar as it is drawn, escaped. Thousands stand on a page of many suites: each number by itself took most of its time."""
        place = f'x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}"'
        return f'<rect class="fill {self.look}" {place}><title>{escape(self.says)}</title></rect>'


class CiPages:
    """Returns the values of each page of CI by the parameters of its address.

    Every method raises StoreUnavailable where the store is away, Invalid for parameters that cannot be used, and NotFound where the one
    thing that was asked for does not exist.
    """

    def __init__(self, service: CiService, clock: Clock) -> None:
        self._service = service
        self._clock = clock

    async def ci(self, params: Params) -> Values:
        """Every suite now, what fails and what is flaky, and the newest runs."""
        chosen = _chosen(params)
        suites = await self._service.suites()
        suites.sort(key=lambda one: (one.numbers.pass_ratio if one.numbers.pass_ratio is not None else 2.0, one.name))
        found = await self._service.runs(
            chosen["suite"] or None, chosen["branch"] or None, chosen["commit"] or None, read_cursor(chosen["cursor"]), _RUNS + 1
        )
        page = found[:_RUNS]
        return {
            "suites": [(suite, drawn(suite.recent) if place < _DRAWN else []) for place, suite in enumerate(suites)],
            "failures": await self._service.failures(chosen["suite"] or None, limit=_KINDS),
            "flaky": await self._service.flaky(chosen["suite"] or None, _KINDS),
            "runs": page,
            "chosen": chosen,
            "filters": {name: value for name, value in chosen.items() if value and name != "cursor"},
            "following": make_cursor(page[-1].started_at, page[-1].id) if len(found) > _RUNS else None,
            "now": self._clock(),
        }

    async def ci_suite(self, params: Params) -> Values:
        """One suite: its days, what fails, what is flaky, what is slow."""
        story = await self._service.suite(_given(params, "name"))
        return {"story": story, "days": days(story.days, self._clock().date()), "now": self._clock()}

    async def ci_run(self, params: Params) -> Values:
        """One run: what failed and why, and when that was seen before."""
        return {"story": await self._service.run(_given(params, "id"))}

    async def ci_test(self, params: Params) -> Values:
        """One test: what it did in its runs, why it failed, whether it is flaky, what it uses."""
        chosen = _chosen(params)
        story = await self._service.test(
            chosen["suite"] or None, _given(params, "key"), chosen["branch"] or None, chosen["commit"] or None,
            read_cursor(chosen["cursor"]), _RESULTS,
        )  # fmt: skip
        return {
            "story": story,
            "bars": of_test(story.results),
            "memory": memory_of_test(story.results),
            "words": RESULTS,
            "chosen": chosen,
            "filters": {name: value for name, value in (chosen | {"suite": story.test.suite}).items() if value and name != "cursor"},
            "following": make_cursor(*story.older) if story.older is not None else None,
        }


def _chosen(params: Params) -> dict[str, str]:
    chosen = {name: _given(params, name) for name in ("suite", "branch", "commit", "cursor")}
    if chosen["commit"] and len(chosen["commit"]) < 4:
        raise Invalid("commit is the beginning of a hash, of four characters at least")
    return chosen


def drawn(recent: Sequence[RecentRun]) -> list[Bar]:
    """Return a bar for each of these runs, oldest first."""
    longest = max((one.duration_s for one in recent), default=0.0) or 1.0
    step = _WIDTH / max(len(recent), 20)
    return [
        _bar(
            number * step, step * 0.8, one.duration_s / longest, "bad" if one.failed else "good",
            f"{one.at:%Y-%m-%d %H:%M}: {one.failed} failed of {one.passed + one.failed}, {one.duration_s:.0f} s, {one.commit[:10]}",
        )
        for number, one in enumerate(recent)
    ]  # fmt: skip


def days(found: Sequence[Day], today: date) -> list[Bar]:
    """Return a bar for each day that had runs, at its place in the last 30 days; as high as the share of tests that failed, if any."""
    by_day = {one.day: one for one in found}
    step, bars = _WIDTH / DAYS, []
    for number in range(DAYS):
        one = by_day.get(today - timedelta(days=DAYS - 1 - number))
        if one is not None:
            ratio = pass_ratio(one.passed, one.failed)
            share = "nothing ran" if ratio is None else f"{100 * ratio:.2f} % passed"
            says = f"{one.day}: {one.runs} runs, {one.green} of them green, {share}, {one.duration_s / one.runs:.0f} s on average"
            look: Look = "bad" if one.green < one.runs else "good"
            bars.append(_bar(number * step, step * 0.8, one.green / one.runs if one.runs else 0.0, look, says))
    return bars


def of_test(results: Sequence[tuple[StoredRun, PackedResult]]) -> list[Bar]:
    """Return a bar for each run of one test, of results with the newest first: as high as it took, the newest on the right."""
    longest = max((one.duration_s or 0.0 for _, one in results), default=0.0) or 1.0
    step = _WIDTH / max(len(results), 20)
    return [
        _bar(
            number * step, step * 0.8, (one.duration_s or 0.0) / longest, _LOOKS[one.letter],
            f"{run.started_at:%Y-%m-%d %H:%M}: {RESULTS[one.letter]}, {seconds(one.duration_s)}, {run.commit[:10]}",
        )
        for number, (run, one) in enumerate(reversed(results))
    ]  # fmt: skip


def memory_of_test(results: Sequence[tuple[StoredRun, PackedResult]]) -> list[Bar]:
    """Return a bar for each run that measured a test's memory, at its place in `of_test`; red where the test leaked."""
    used = [(number, run, one.used) for number, (run, one) in enumerate(reversed(results)) if one.used is not None]
    most = max((one.memory_bytes or 0.0 for _, _, one in used), default=0.0)
    step = _WIDTH / max(len(results), 20)
    return [
        _bar(
            number * step, step * 0.8, (one.memory_bytes or 0.0) / most, "bad" if one.has_leaked else "live",
            f"{run.started_at:%Y-%m-%d %H:%M}: {size(one.memory_bytes)}{', left something behind' if one.has_leaked else ''}",
        )
        for number, run, one in used
        if most
    ]  # fmt: skip


def _bar(x: float, width: float, share: float, look: Look, says: str) -> Bar:
    height = max(1.5, _HEIGHT * min(1.0, share))
    return Bar(round(x, 2), round(_HEIGHT - height, 2), round(width, 2), round(height, 2), look, says)


def _given(params: Params, name: str) -> str:
    value = params.get(name, "").strip()
    if len(value) > 300:
        raise Invalid(f"{name} has {len(value)} characters, at most 300 are taken")
    return value
