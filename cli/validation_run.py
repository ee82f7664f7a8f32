"""A validation under way: the load runs, the gate is asked, planted faults are counted, drills come and go; all of it into the journal."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

import httpx2

from isolation_monitor.cli.collector_client import CollectorClient, NoAnswer
from isolation_monitor.cli.prometheus_client import PrometheusAccess
from isolation_monitor.cli.validation_journal import Journal
from isolation_monitor.cli.verdicts import gravest_reason, judged
from isolation_monitor.collector.clock import parse_time, utc_now
from isolation_monitor.demo import janitor

LONGEST_TICKS: Final = 2
"""One look may add this many intervals to the time that counts: more means that nobody looked in between."""
_POLL_S: Final = 0.2
_TIMEOUT_S: Final = 10.0
_GRACE_S: Final = 10.0
_REAP_S: Final = 5.0
_LOAD_RESTART_S: Final = 5.0
"""So long after its end the load is started again."""

Json = dict[str, Any]  # Any: JSON


class Validation:
    """One run of a validation, from its journal's end to the time that was asked for or to the first failure."""

    def __init__(self, journal: Journal, client: CollectorClient, prometheus: str, drill: Sequence[str], on_look: Callable[[], None]):
        """`drill`: the command of a drill, for a plan that has drills. `on_look` is called after each look."""
        self._journal = journal
        self._plan = journal.plan
        self._client = client
        self._prometheus = PrometheusAccess.from_env().client(_TIMEOUT_S, prometheus.rstrip("/"))
        self._drill_command = drill
        self._on_look = on_look
        self._load: subprocess.Popen[bytes] | None = None
        self._load_due = 0.0
        self._drill: subprocess.Popen[str] | None = None
        self._looked_at: float | None = None

    def run(self) -> None:
        """Go on until the time is over or the gate has failed."""
        journal, plan = self._journal, self._plan
        drill_every_s = math.inf if plan.drill_every_s is None else plan.drill_every_s
        look_due, drill_due = 0.0, self._first_drill(drill_every_s)
        try:
            while journal.observed_s < plan.for_s or self._drill is not None:
                now = time.monotonic()
                self._keep_load(now)
                if now >= look_due:
                    look_due = now + plan.look_every_s
                    if self._look() == "fail":
                        return
                    self._on_look()
                if self._drill is None and now >= drill_due and journal.observed_s < plan.for_s:
                    drill_due = now + drill_every_s
                    self._begin_drill()
                self._end_drill()
                time.sleep(_POLL_S)
        finally:
            _end(self._drill)
            _end(self._load)
            self._prometheus.close()

    # --- the gate -----------------------------------------------------------------------------------------------------

    def _look(self) -> str:
        """Ask the gate once and write down what it said; return its verdict."""
        plan, now = self._plan, time.monotonic()
        try:
            answer = self._gate()
            verdict, why = str(answer["verdict"]), gravest_reason(answer)
            told = {"decision_id": answer.get("decision_id"), "metrics": answer.get("metrics", {})}
        except NoAnswer as error:
            verdict, why, told = "error", str(error), {}
        since = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        counted = 0.0 if verdict == "error" else min(since, LONGEST_TICKS * plan.look_every_s)
        self._journal.add("gate", verdict=verdict, why=why, counted_s=round(counted, 3), **told)
        if (faults := self._faults()) is not None:
            self._journal.add("faults", faults=faults)
        return verdict

    def _gate(self) -> Json:
        path = f"/v1/gates/{quote(self._journal.run, safe='')}"
        plan = self._plan
        # Also after a restart, or when the first attempt was lost: asking again with the same plan changes nothing.
        self._client.request(
            "POST",
            "/v1/rollouts",
            {
                "name": self._journal.run,
                "service": plan.service,
                "arm": None,
                "min_exposed_requests": plan.min_exposed_requests,
                "min_owed_events": plan.min_owed_events,
            },
        )
        return judged(self._client.request("GET", path))

    def _faults(self) -> Json | None:
        """Return how many planted faults each detector saw and missed since the beginning; None where nobody can say now."""
        window_s = max(60, round(_seconds_since(self._journal.started_at)))
        matchers = f"service={json.dumps(self._plan.service)}"
        query = f"sum by (detector, result) (increase(isolation_planted_faults_total{{{matchers}}}[{window_s}s]))"
        try:
            answer = self._prometheus.get("/api/v1/query", params={"query": query}).raise_for_status().json()
            found: dict[str, dict[str, int]] = defaultdict(dict)
            for series in answer["data"]["result"]:
                labels = series["metric"]
                # `increase` extrapolates to fractions: any growth is at least one.
                growth = float(series["value"][1])
                found[labels["detector"]][labels["result"]] = 0 if growth <= 0 else max(1, round(growth))
            return {detector: counts for detector, counts in found.items() if any(counts.values())}
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError):
            return None

    # --- drills -------------------------------------------------------------------------------------------------------

    def _first_drill(self, every_s: float) -> float:
        """Return when the first drill is due, by `time.monotonic()`: at once, unless a restart interrupted the pause between two."""
        if every_s == math.inf:
            return every_s
        drills = [entry for entry in self._journal.entries if entry["kind"] == "drill"]
        if not drills:
            return time.monotonic()
        return time.monotonic() + min(every_s, max(0.0, every_s - _seconds_since(drills[-1]["at"])))

    def _begin_drill(self) -> None:
        self._drill = subprocess.Popen(
            self._drill_command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def _end_drill(self) -> None:
        drill = self._drill
        if drill is None or drill.poll() is None:
            return
        self._drill = None
        out, err = drill.communicate()
        try:
            report = json.loads(out)
            missed = [row["alert"] for row in report["alerts"] if not row["ok"]]
            self._journal.add("drill", arrived=len(report["alerts"]) - len(missed), missed=missed, why="")
        except (ValueError, KeyError, TypeError):
            self._journal.add("drill", arrived=None, missed=[], why=(err.strip() or f"it ended with {drill.returncode}")[-500:])

    # --- load ---------------------------------------------------------------------------------------------------------

    def _keep_load(self, now: float) -> None:
        command = self._plan.load
        if command is None:
            return
        if self._load is not None and (code := self._load.poll()) is not None:
            self._journal.add("load", exit_code=code)
            _end(self._load)
            self._load, self._load_due = None, now + _LOAD_RESTART_S
        if self._load is None and now >= self._load_due:
            self._load = subprocess.Popen(
                shlex.split(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )


def _seconds_since(moment: str) -> float:
    return (utc_now() - parse_time(moment)).total_seconds()


def _end(process: subprocess.Popen[Any] | None) -> None:  # Any: text or bytes
    """End a process and all that it started, also when it is gone itself."""
    if process is None:
        return
    janitor.end_groups([process.pid], _GRACE_S)
    # Killed at the latest: only a process that hangs in the kernel is not gone now.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_REAP_S)
