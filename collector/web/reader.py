"""What each page shows, put together from the features' services. Reads only; nothing here evaluates a gate or changes a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from isolation_monitor.collector.alerts.domain import ReceivedNotification
from isolation_monitor.collector.alerts.service import AlertService
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.containers.domain import KINDS as CONTAINER_KINDS
from isolation_monitor.collector.containers.repository import EventQuery
from isolation_monitor.collector.containers.service import ContainerService
from isolation_monitor.collector.evidence.domain import RunQuery, ViolationQuery
from isolation_monitor.collector.evidence.service import EvidenceService
from isolation_monitor.collector.gates.prometheus import SourceUnavailable
from isolation_monitor.collector.gates.service import GateService
from isolation_monitor.collector.incidents.service import IncidentService
from isolation_monitor.collector.paging import make_cursor, read_cursor
from isolation_monitor.collector.probes.service import ProbeService
from isolation_monitor.collector.problems import Invalid
from isolation_monitor.collector.queues.service import QueueService
from isolation_monitor.collector.rollouts.domain import Rollout
from isolation_monitor.collector.rollouts.service import RolloutService
from isolation_monitor.collector.web import charts
from isolation_monitor.collector.web.numbers import HISTORY_DAYS, PageNumbers
from isolation_monitor.collector.web.one_violation import arranged
from isolation_monitor.collector.web.verdict import ORDER, Reading, Recorded, ServiceVerdict, verdict_of
from isolation_monitor.telemetry import names

Values = dict[str, Any]  # Any: what a template shows
Params = Mapping[str, str]

NO_PROMETHEUS: Final = "No Prometheus is set, so the score is not known here: set COLLECTOR_PROMETHEUS_URL."
DEAD_MAN: Final = "DeadMansSwitch"
_DAY: Final = timedelta(days=1)
_ALERTS_SINCE: Final = timedelta(days=7)
_PAGE_SIZE: Final = 50
_DEFECTS: Final = 8
_HISTORY: Final = 100
_DECISIONS: Final = 20
_TROUBLED: Final = 10
_CHANGES: Final = 10
_TOUCHED: Final = 100
"""Users and runs of one incident that are named; the rest are counted."""
_SPANS: Final[Mapping[str, timedelta | None]] = {
    "1h": timedelta(hours=1),
    "24h": _DAY,
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "": None,
}
"""Choices of the filter on time; empty for all that is kept."""
_SEVERITIES: Final = {"critical": 0, "error": 1, "warning": 2}
_PLANTED: Final = {"": False, "also": None, "only": True}
_LONGEST: Final = 200
_CONTAINERS: Final = 300


@dataclass(frozen=True, slots=True)
class Features:
    """What the pages read from."""

    evidence: EvidenceService
    alerts: AlertService
    queues: QueueService
    incidents: IncidentService
    containers: ContainerService
    rollouts: RolloutService
    gates: GateService
    numbers: PageNumbers | None
    clock: Clock
    stale_after_s: float
    probes: ProbeService


class PageReader:
    """Returns the values of each page by the parameters of its address.

    Every method raises StoreUnavailable where the store is away, Invalid for parameters that cannot be used, and NotFound
    where the one thing that was asked for does not exist.
    """

    def __init__(self, features: Features) -> None:
        self._features = features

    async def overview(self, _params: Params) -> Values:
        """The verdict of each service now, what is wrong, and what changes."""
        from_ = self._features
        now = from_.clock()
        readings, trouble = await self._readings(now)
        sums = {one.service: Recorded(one.by_grade, one.last_crossing) for one in await from_.evidence.sums(now - _DAY)}
        rollouts = [one for one in await from_.rollouts.all() if not _is_drill(one.plan.service)]
        services = sorted(one for one in {*readings, *sums, *(one.plan.service for one in rollouts)} if not _is_drill(one))
        verdicts = [
            verdict_of(
                service, readings.get(service), sums.get(service, Recorded()), now,
                stale_after_s=from_.stale_after_s, trouble=trouble or f"Prometheus does not know {service}: is it scraped?",
            )
            for service in services
        ]  # fmt: skip
        verdicts.sort(key=lambda one: (ORDER.index(one.word), one.service))
        told = await from_.alerts.open(now - _ALERTS_SINCE, 200)
        real = [one for one in told if one.notification.alertname != DEAD_MAN and one.notification.labels.get("synthetic") != "true"]
        heartbeats = [one.last_received_at for one in told if one.notification.alertname == DEAD_MAN]
        defects = await from_.evidence.groups(ViolationQuery(since=now - _DAY, synthetic=False, limit=_DEFECTS))
        return {
            "verdicts": verdicts,
            "headline": _headline(verdicts),
            "trouble": trouble,
            "alerts": sorted(
                (_alert(one) for one in real), key=lambda one: (_SEVERITIES.get(one["severity"], 9), -one["starts_at"].timestamp())
            ),
            "drills": sum(one.notification.labels.get("synthetic") == "true" for one in told),
            "heartbeat": max(heartbeats, default=None),
            "defects": defects,
            "rollouts": [one for one in rollouts if _is_live(one, now)],
            "now": now,
        }

    async def probes(self, _params: Params) -> Values:
        """How each endpoint of the operator's file is, and what became of those that are not well."""
        probes = await self._features.probes.now()
        troubled = [one.probe.name for one in probes if one.word != "ok"][:_TROUBLED]
        changes = {name: await self._features.probes.changes(name, _CHANGES) for name in troubled}
        return {"probes": probes, "changes": changes, "now": self._features.clock(), "problem": self._features.probes.problem}

    async def incidents(self, params: Params) -> Values:
        """What was wrong, newest first, narrowed by the filters of its form."""
        chosen = {name: _given(params, name) for name in ("service", "state")}
        if chosen["state"] not in ("", "open", "ended"):
            raise Invalid("state is one of open and ended, or empty")
        is_open = None if not chosen["state"] else chosen["state"] == "open"
        found = await self._features.incidents.find(None, chosen["service"] or None, is_open=is_open, limit=_PAGE_SIZE + 1)
        return {"chosen": chosen, "incidents": found[:_PAGE_SIZE], "has_more": len(found) > _PAGE_SIZE, "page_size": _PAGE_SIZE}

    async def incident(self, params: Params) -> Values:
        """One incident in the order of time, with the users and runs that it touched."""
        told = await self._features.incidents.tell(_required(params, "id"))
        return {"told": told, "users": sorted(told.affected.principals)[:_TOUCHED], "runs": sorted(told.affected.runs)[:_TOUCHED]}

    async def violations(self, params: Params) -> Values:
        """The list of violations, narrowed by the filters of its form, page by page."""
        now = self._features.clock()
        chosen = {name: _given(params, name) for name in ("service", "kind", "grade", "last", "planted", "cursor")}
        if chosen["grade"] not in ("", *names.GRADES):
            raise Invalid(f"grade is one of {', '.join(names.GRADES)}, or empty")
        if chosen["last"] not in _SPANS or chosen["planted"] not in _PLANTED:
            raise Invalid(f"last is one of {', '.join(filter(None, _SPANS))}, planted one of also and only; or empty")
        span = _SPANS[chosen["last"]]
        query = ViolationQuery(
            chosen["service"] or None, chosen["kind"] or None, chosen["grade"] or None, None if span is None else now - span, None,
            _PLANTED[chosen["planted"]], _PAGE_SIZE + 1, read_cursor(chosen["cursor"]),
        )  # fmt: skip
        found = await self._features.evidence.find(query)
        page = found[:_PAGE_SIZE]
        following = make_cursor(page[-1].record.time, page[-1].record.id) if len(found) > _PAGE_SIZE else None
        filters = {name: value for name, value in chosen.items() if value and name != "cursor"}
        return {
            "chosen": chosen,
            "filters": filters,
            "violations": page,
            "following": following,
            "kinds": names.DETECTORS,
            "grades": names.GRADES,
        }

    async def violation(self, params: Params) -> Values:
        """One violation with the evidence of both sides."""
        found, amendments = await self._features.evidence.violation(_required(params, "id"))
        return {"violation": found, "seen": arranged(found), "amendments": amendments}

    async def runs(self, params: Params) -> Values:
        """Runs that stand still or went wrong, and whose queues are the deepest."""
        from_, now = self._features, self._features.clock()
        chosen = {name: _given(params, name) for name in ("service", "outcome", "cursor")}
        after = read_cursor(chosen["cursor"])
        found = await from_.evidence.runs(RunQuery(chosen["service"] or None, chosen["outcome"] or None, limit=_PAGE_SIZE + 1, after=after))
        page = found[:_PAGE_SIZE]
        stuck = await from_.evidence.find(
            ViolationQuery(chosen["service"] or None, names.STUCK_RUN, since=now - _DAY, synthetic=False, limit=_DEFECTS)
        )
        users, services = await from_.queues.deepest(chosen["service"] or None, 20)
        return {
            "chosen": chosen,
            "filters": {name: value for name, value in chosen.items() if value and name != "cursor"},
            "runs": page,
            "following": make_cursor(page[-1].record.time, page[-1].record.id) if len(found) > _PAGE_SIZE else None,
            "stuck": stuck,
            "queues": users,
            "queue_services": services,
            "outcomes": names.RUN_OUTCOMES,
        }

    async def containers(self, params: Params) -> Values:
        """What there is on the engines that are followed, and what happened, page by page."""
        from_, now = self._features.containers, self._features.clock()
        chosen = {name: _given(params, name) for name in ("container", "kind", "cursor")}
        # Where several engines are followed, metrics and alerts name a container with its engine; no container's name has a slash.
        engine, _, name = chosen["container"].rpartition("/")
        if chosen["kind"] not in ("", *CONTAINER_KINDS):
            raise Invalid(f"kind is one of {', '.join(CONTAINER_KINDS)}, or empty")
        asked = EventQuery(
            container=name or None, engine=engine or None, kind=chosen["kind"] or None,
            limit=_PAGE_SIZE + 1, after=read_cursor(chosen["cursor"]),
        )  # fmt: skip
        found, engines = await from_.events(asked), await from_.engines()
        page = found[:_PAGE_SIZE]
        there = [one for one in await from_.containers(engine or None) if name in ("", one[1].name)]
        # What runs badly or not at all first.
        there.sort(key=lambda one: (one[1].is_open and one[1].shown_health != "unhealthy", one[1].name))
        return {
            "chosen": chosen,
            "filters": {name: value for name, value in chosen.items() if value and name != "cursor"},
            "kinds": CONTAINER_KINDS,
            "engines": engines,
            "has_many_engines": len(engines) > 1,
            "containers": there[:_CONTAINERS],
            "hidden": len(there) - _CONTAINERS if len(there) > _CONTAINERS else 0,
            "container_events": page,
            "following": make_cursor(page[-1].happening.time, page[-1].happening.id) if len(found) > _PAGE_SIZE else None,
            "rules": from_.rules,
            "now": now,
        }

    async def rollouts(self, _params: Params) -> Values:
        """All rollouts with their stage and last verdict, and the flags that they make."""
        from_, now = self._features, self._features.clock()
        rollouts = [one for one in await from_.rollouts.all() if not _is_drill(one.plan.service)]
        newest = await from_.gates.newest()
        rollouts.sort(key=lambda one: (not _is_live(one, now), one.plan.name))
        revision, rules = await from_.rollouts.rules()
        return {
            "rows": [(rollout, newest.get(rollout.plan.name)) for rollout in rollouts],
            "revision": revision,
            "rules": [rule | {"internal_says": _internal(rule["internal"])} for rule in rules if not _is_drill(rule["service"])],
            "now": now,
        }

    async def rollout(self, params: Params) -> Values:
        """One rollout: its stages, evidence against limits, decisions and history."""
        from_, name = self._features, _required(params, "name")
        rollout = await from_.rollouts.get(name)
        decisions = await from_.gates.latest(name, _DECISIONS)
        answer = decisions[0].answer if decisions else None
        comparison = (decisions[0].config.get("comparison") or {}) if decisions else {}
        progress, intervals = charts.evidence_bars(answer, comparison) if answer else ([], [])
        return {
            "rollout": rollout,
            "answer": answer,
            "progress": progress,
            "intervals": intervals,
            "decisions": decisions,
            "changes": await from_.rollouts.history(name, _HISTORY),
            "internal_says": "" if rollout.staged is None else _internal(rollout.staged.state.internal_users),
            "now": from_.clock(),
        }

    async def detectors(self, _params: Params) -> Values:
        """How well each detector sees the faults that are planted for it."""
        numbers, trouble = self._features.numbers, NO_PROMETHEUS
        if numbers is not None:
            try:
                return {"detectors": await numbers.detectors(self._features.clock()), "trouble": ""}
            except SourceUnavailable as error:
                trouble = f"{error}. Nobody can say now which detectors are proven."
        return {"detectors": [], "trouble": trouble}

    async def history(self, _params: Params) -> Values:
        """The last 30 days: from Prometheus, or, saying so, what records know."""
        from_, now = self._features, self._features.clock()
        trouble = NO_PROMETHEUS
        if from_.numbers is not None:
            try:
                found = await from_.numbers.history(now)
                drawn = [charts.history(service, slots) for service, slots in found.items()]
                return {"drawn": drawn, "trouble": "", "recorded": [], "recorded_sum": 0, "since": None}
            except SourceUnavailable as error:
                trouble = f"{error}: the score of the past is not known now."
        since = now - timedelta(days=HISTORY_DAYS - 1)
        by_day: dict[date, int] = {}
        for one in await from_.evidence.days(since.replace(hour=0, minute=0, second=0, microsecond=0), None):
            if one.grade != "hygiene":
                by_day[one.day] = by_day.get(one.day, 0) + one.number
        columns = charts.recorded_days(by_day, now.date())
        return {"drawn": [], "trouble": trouble, "recorded": columns, "recorded_sum": sum(by_day.values()), "since": since}

    async def _readings(self, now: datetime) -> tuple[dict[str, Reading], str]:
        """Return what Prometheus says of each service, and why it says nothing where it does not."""
        if self._features.numbers is None:
            return {}, NO_PROMETHEUS
        try:
            return await self._features.numbers.readings(now), ""
        except SourceUnavailable as error:
            return {}, f"{error}: the score is not known now."


def _headline(verdicts: list[ServiceVerdict]) -> tuple[str, str]:
    """Return the gravest word and a sentence on all services."""
    if not verdicts:
        return "unknown", "No service has told anything yet"
    worst = verdicts[0].word
    number = sum(one.word == worst for one in verdicts)
    of = f"{number} of {len(verdicts)} services" if len(verdicts) > 1 else verdicts[0].service
    says = {
        "violated": "isolation is broken",
        "blind": "nobody can tell",
        "doubtful": "no violation seen, with gaps",
        "unknown": "the score is not known",
        "not_measurable": "nothing could leak, and nothing was proven",
        "isolated": "isolated, as far as requests were exposed",
    }[worst]
    return worst, f"{of}: {says}"


def _alert(one: ReceivedNotification) -> Values:
    item = one.notification
    runbook = item.annotations.get("runbook_url", "")
    name = runbook.rstrip("/").rsplit("/", 1)[-1]
    return {
        "name": item.alertname,
        "severity": item.labels.get("severity", ""),
        "action": item.labels.get("action", ""),
        "service": item.labels.get("service", ""),
        "summary": item.annotations.get("summary", ""),
        "starts_at": item.starts_at,
        "told_at": one.last_received_at,
        # Only the name is taken of an address that an alert holds: a link on this page leads nowhere else.
        "runbook": name if name.isalnum() else "",
    }


def _is_live(rollout: Rollout, now: datetime) -> bool:
    return rollout.staged is not None and rollout.staged.is_live(now)


def _is_drill(service: str) -> bool:
    return service.startswith(names.DRILL_PREFIX)


def _internal(internal: object) -> str:
    """Return who is internal in words; names of people are counted, not shown."""
    if isinstance(internal, Mapping):
        wanted = internal.get("in")
        return f"{internal.get('attribute', '')} in {', '.join(str(one) for one in wanted) if isinstance(wanted, list) else wanted}"
    number = len(internal) if isinstance(internal, list | tuple) else 0
    return f"{number} users" if number != 1 else "one user"


def _required(params: Params, name: str) -> str:
    if name not in params:
        raise Invalid(f"{name} is missing: the address of this page holds it")
    return params[name]


def _given(params: Params, name: str) -> str:
    value = params.get(name, "").strip()
    if len(value) > _LONGEST + 100 * (name == "cursor"):
        raise Invalid(f"{name} has {len(value)} characters, at most {_LONGEST} are taken")
    return value
