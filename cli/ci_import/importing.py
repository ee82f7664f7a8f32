"""One way for every forge: take its finished runs from the oldest on, send each report, tell what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol
from urllib.parse import quote, urlencode

from isolation_monitor.cli.ci_environment import Place
from isolation_monitor.cli.ci_report import body_of, suite_of
from isolation_monitor.cli.ci_sending import send_report
from isolation_monitor.cli.collector_client import CollectorClient, NoAnswer, NotTaken, TooLargeToTake, UsageError
from isolation_monitor.cli.junit import Report

Json = dict[str, Any]  # Any: JSON
Result = Literal["stored", "known", "not sent"]

_LISTED: Final = 500
_NUMBERS: Final = ("tests", "passed", "failed", "errors", "skipped")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which runs: the newest `limit` of those that fit. `workflow` is a workflow of GitHub's, or a pipeline's name."""

    branch: str = ""
    workflow: str = ""
    since: datetime | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run as the forge lists it. `name` is the workflow's or the pipeline's, `began_at` as the forge writes it."""

    place: Place
    name: str
    began_at: str
    event: str = ""


@dataclass(frozen=True, slots=True)
class FoundReport:
    """A report that a run left. `source` is the artifact or the job it comes from; `ended_s` when it was made, since the epoch."""

    place: Place
    source: str
    report: Report
    ended_s: float


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What is not there any more, as a forge keeps it for a while only, or was not asked for by name and is too large."""

    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is there and cannot be read."""

    source: str
    text: str


class Forge(Protocol):
    """What GitHub and GitLab have in common."""

    @property
    def repository(self) -> str: ...

    @property
    def repeats_ids(self) -> bool:
        """Say whether a report mostly has the id here that it has when the job itself sends it."""

    def runs(self, wanted: Wanted) -> list[FinishedRun]:
        """Return finished runs, the newest first."""

    def reports(self, run: FinishedRun) -> Iterator[FoundReport | LeftOut | Trouble]:
        """Yield what a run left."""

    def is_same(self, stored: Json, body: Json) -> bool:
        """Say whether a run of the collector's is this report, sent by the job itself."""


@dataclass(frozen=True, slots=True)
class SentReport:
    """What became of one report. `told` is the report without its tests, which are many; `numbers` counts those by result."""

    source: str
    told: Json
    numbers: dict[str, int]
    result: Result
    url: str = ""

    @classmethod
    def of(cls, source: str, body: Json, result: Result, url: str = "") -> SentReport:
        results = [test["result"] for test in body["tests"]]
        counted = (len(results), *(results.count(one) for one in ("pass", "fail", "error", "skip")))
        told = {name: value for name, value in body.items() if name != "tests"}
        return cls(source, told, dict(zip(_NUMBERS, counted, strict=True)), result, url)


@dataclass(slots=True)
class ImportedRun:
    """What became of one run."""

    run: FinishedRun
    reports: list[SentReport] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)

    @property
    def unsent(self) -> list[LeftOut | Trouble]:
        return [*self.left_out, *self.troubles]

    @property
    def is_empty(self) -> bool:
        return not (self.reports or self.unsent)


@dataclass(slots=True)
class Import:
    """All of it. `stopped` says why it ended early; `notes` what one should know."""

    repository: str
    is_dry: bool
    runs: list[ImportedRun] = field(default_factory=list)
    stopped: str = ""
    notes: list[str] = field(default_factory=list)


class Importer:
    """Sends what a forge keeps to a collector, or to none (`collector` None) to see what would be sent.

    Args:
        suite: name of the suite, with `{artifact}`, `{job}` and `{workflow}` filled in; None: as `isomon ci report` names it.
        say: told what goes on.
    """

    def __init__(self, forge: Forge, collector: CollectorClient | None, suite: str | None, say: Callable[[str], None]) -> None:
        self._forge, self._collector = forge, collector
        self._suite, self._say = suite, say
        self._known: dict[str, list[Json]] = {}
        self._asks = collector is not None

    def run(self, wanted: Wanted) -> Import:
        """Import the runs. What is away in the midst of it ends it, and what was sent stays.

        Raises:
            UsageError: a token, a name or an option is wrong.
            NoAnswer: the forge did not even list its runs.
        """
        runs = self._forge.runs(wanted)
        done = Import(self._forge.repository, self._collector is None)
        # The oldest first: flaky tests and trends are judged in the order in which runs came to be.
        for number, run in enumerate(reversed(runs), start=1):
            imported = ImportedRun(run)
            done.runs.append(imported)
            try:
                self._import(imported, done)
            except NoAnswer as error:
                left = f"{len(runs) - number + 1} of {len(runs)} runs are left, the first of them {run.place.run_id}"
                done.stopped = f"{error}; {left}"
                return done
            self._say(f"{number}/{len(runs)} {_named(run)}: {_became(imported)}")
        return done

    def _import(self, imported: ImportedRun, done: Import) -> None:
        for found in self._forge.reports(imported.run):
            if isinstance(found, LeftOut):
                imported.left_out.append(found)
            elif isinstance(found, Trouble):
                imported.troubles.append(found)
            else:
                body = self._body(imported.run, found)
                try:
                    imported.reports.append(self._sent(found.source, body, done))
                except (TooLargeToTake, NotTaken) as error:
                    # Of one report: those after it must not wait for somebody to look.
                    imported.troubles.append(Trouble(found.source, f"the collector does not take it: {error}"))

    def _body(self, run: FinishedRun, found: FoundReport) -> Json:
        place = found.place
        given = self._suite
        if given is not None:
            for name, value in (("{artifact}", found.source), ("{job}", place.job), ("{workflow}", run.name)):
                given = given.replace(name, value)
        # What the report was made at stands for now: a file that tells no time began so much before.
        return body_of(found.report, place, suite_of(found.report, place, given), None, found.ended_s)

    def _sent(self, source: str, body: Json, done: Import) -> SentReport:
        if self._collector is None:
            return SentReport.of(source, body, "not sent")
        for one in self._runs_of(body["commit"], done):
            if one.get("id") == body["id"] or self._forge.is_same(one, body):
                return SentReport.of(source, body, "known", str(one.get("url") or ""))
        story = send_report(body, self._collector)
        return SentReport.of(source, body, "stored" if story.get("stored") else "known", str(story["run"].get("url", "")))

    def _runs_of(self, commit: str, done: Import) -> list[Json]:
        """Return what the collector has of a commit; nothing where the token may not read."""
        if not self._asks or self._collector is None or len(commit) < 4:
            return []
        if commit not in self._known:
            query = urlencode({"commit": commit, "limit": _LISTED}, quote_via=quote)
            try:
                answer = self._collector.request("GET", f"/v1/ci/runs?{query}")
            except UsageError:
                self._asks = False
                if not self._forge.repeats_ids:
                    done.notes.append("the collector's token may not read: a job that ran 'isomon ci report' itself is there twice now")
                return []
            items = answer.get("items")
            # A copy is not remembered: runs of one commit come one after another.
            self._known = {commit: [one for one in items if isinstance(one, dict)] if isinstance(items, list) else []}
        return self._known[commit]


def moment_of(text: object) -> datetime | None:
    """Return a moment as a forge writes it, in UTC; None where it is none."""
    try:
        moment = datetime.fromisoformat(str(text or ""))
        return moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _named(run: FinishedRun) -> str:
    return " ".join(part for part in (run.name, run.place.run_id, run.place.branch, run.place.commit[:10]) if part)


def _became(imported: ImportedRun) -> str:
    said = [f"{one.source}: {one.told['suite']}, {one.numbers['tests']} tests, {one.result}" for one in imported.reports]
    said += [f"{one.source}: {one.text}" for one in imported.unsent]
    return "; ".join(said) or "no JUnit report"
