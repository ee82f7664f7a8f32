"""One run of an agent: who owns it, what it emitted, what was sent, and the judgement at its end.

`emit` says that the application hands an event over; the send wrapper of the WebSocket says that it was sent. A run is
judged when its block ends or its task is over: at once when an owed event was never emitted, else after the settle time,
so that a writer task may still send what was emitted last.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from isolation_monitor.telemetry import evidence, names, stacks
from isolation_monitor.telemetry.context import CURRENT, Connection, RequestContext
from isolation_monitor.telemetry.delivery.automaton import EventNames, RunOrder
from isolation_monitor.telemetry.delivery.envelope import RunNumbers
from isolation_monitor.telemetry.delivery.routes import Routes
from isolation_monitor.telemetry.delivery.spans import RunSpan, Spans
from isolation_monitor.telemetry.delivery.stuck_run import StuckRuns
from isolation_monitor.telemetry.violations import Resource, Violation, iso_time, side_of, uuid7

if TYPE_CHECKING:
    from isolation_monitor.telemetry.delivery.streamed import Streamed
    from isolation_monitor.telemetry.housekeeper import Housekeeper
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.ledger import Ledger
    from isolation_monitor.telemetry.principals import Principal

T = TypeVar("T")

REMEMBERED_RUNS: Final = 10_000
"""Ended runs are remembered, so that a late event on somebody else's socket is still recognised."""
COURSE_LIMIT: Final = 16
"""Events of a run that evidence can tell, the latest ones."""


class Run:
    """One run; made by `monitor.run(...)`, used as a `with` or `async with` block."""

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_leave",
        "_runs",
        "actor",
        "by_answer",
        "carrier",
        "connection",
        "course",
        "emitted",
        "ended",
        "error",
        "id",
        "moved",
        "numbers",
        "order",
        "owner",
        "patience_s",
        "request",
        "seen",
        "sent",
        "span",
        "stack",
        "started",
        "started_at",
        "strayed",
        "stream",
        "stuck",
        "task",
        "thread_id",
        "trace",
        "unrouted",
    )

    def __init__(self, runs: Runs, id: str, owner: Principal | None, request: RequestContext | None) -> None:
        self._runs = runs
        self.id = id
        self.owner = owner
        self.request = request
        self.connection: Connection | None = request.connection if request else None
        self.stack = stacks.capture(4)
        self.order = RunOrder(runs.events)
        """The events in the order in which the application emits them."""
        self.numbers = RunNumbers()
        self.seen = RunOrder(runs.events)
        """The events in the order in which they were sent on the connection that carries the run."""
        self.carrier: Connection | None = None
        self.strayed = 0
        """Events that went to another principal's connection."""
        self.unrouted = 0
        """Events that were emitted while their user had no connection."""
        self.emitted: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.by_answer: Counter[str] = Counter()
        """Events that were counted as sent when they were emitted, because no connection carried the run then."""
        self.started = time.perf_counter()
        self.started_at = time.time()
        self.ended = False
        self.error: str | None = None
        self.task = _reference(_current_task())
        self.actor = self.task
        """The task that emitted last: what it does now is what the run does."""
        self.thread_id = threading.get_ident()
        """The thread that runs the block, and with it the event loop of its tasks."""
        self.moved = self.started
        """When it last moved: started, emitted, sent or said that it goes on; `time.perf_counter()`."""
        self.patience_s: float | None = None
        """How long its present step may take, where the application has said so."""
        self.course: list[tuple[float, str]] = []
        """Its latest events, with Unix times, until it is judged."""
        self.stuck: Violation | None = None
        self.stream: Streamed | None = None
        """The streaming answer that carries its events, where one does."""
        self.span: RunSpan | None = None
        self.trace: tuple[str, str] | None = None
        """Trace and span id: of its own span, else of the one that was current when it began."""
        self._leave: Callable[[], None] | None = None

    @property
    def is_planted(self) -> bool:
        """True for the run of a planted fault, which is in nobody's numbers."""
        return self.owner is not None and self.owner.is_synthetic

    def emit(self, event: str, call_id: str = "", *, tool: str = "") -> None:
        """Say that `event` is being handed to the user's connection; call it just before sending.

        Args:
            event: name of the event, one of the configured run events; others count under `other`.
            call_id: for tool events, the id that pairs start and end.
            tool: for the start of a tool, its name; for the tool's span.
        """
        self._runs.emitted(self, event, call_id, tool)

    def progress(self, patience_s: float | None = None) -> None:
        """Say that the run goes on without an event: it is not stuck.

        Args:
            patience_s: how long until the next event may be due, seconds; for a step that waits for a person, for example.
                Until then the setting `stuck_after_s` does not count for this run.
        """
        self.moved = time.perf_counter()
        self.patience_s = patience_s

    def __enter__(self) -> Run:
        if self.span is not None:
            self._leave = self._runs.guarded(self.span.enter)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.error = kind.__qualname__
        leave, self._leave = self._leave, None
        # Only the task that entered may leave: another one has a context of its own.
        if leave is not None and _current_task() is self.task():
            self._runs.guarded(leave)
        self._runs.ended(self)

    async def __aenter__(self) -> Run:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.__exit__(kind, error, trace)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _reference(task: asyncio.Task[Any] | None) -> Callable[[], Any]:
    return weakref.ref(task) if task is not None else _nobody


def _nobody() -> None:
    return None


class Runs:
    """The runs of this process: open ones, and the last ended ones."""

    def __init__(
        self,
        ledger: Ledger,
        housekeeper: Housekeeper,
        events: EventNames,
        has_open: Callable[[Principal], bool],
        settle_s: float,
        stuck_after_s: float,
        spans: Spans,
        remembered: int = REMEMBERED_RUNS,
    ) -> None:
        """`has_open(principal)` tells whether a user has an open connection; `remembered` runs are known at most."""
        self.events = events
        self._remembered = min(remembered, REMEMBERED_RUNS)
        self.known: OrderedDict[str, Run] = OrderedDict()
        self.open: dict[str, Run] = {}
        self._ledger = ledger
        self._housekeeper = housekeeper
        self._settle_s = settle_s
        self.stuck = StuckRuns(ledger, stuck_after_s, lambda id, owner: Run(self, id, owner, None))
        self.routes = Routes(ledger, has_open, lambda id, owner: Run(self, id, owner, None))
        self._spans = spans
        self._registry = ledger.registry
        self._first_event = ledger.registry.histogram(names.RUN_FIRST_EVENT)
        self.configure(events)
        housekeeper.every_second(self._sweep)

    def configure(self, events: EventNames) -> None:
        """Set the event names and make their series exist at 0."""
        self.events = events
        self._judged = frozenset(events.all)
        emitted, sent = (
            {event: self._registry.counter(names.EVENTS, event=event, stage=stage) for event in (*events.all, names.OTHER)}
            for stage in ("emitted", "sent")
        )
        self._emitted, self._other_emitted = emitted, emitted[names.OTHER]
        self._sent, self._other_sent = sent, sent[names.OTHER]

    def guarded(self, act: Callable[[], T]) -> T | None:
        """Return what `act` returns; None, and the failure counted, where it fails."""
        try:
            return act()
        except Exception as error:
            self._ledger.internal_error("run", error)
            return None

    def start(self, id: str, owner: Principal | None, agent: str | None = None, conversation: str | None = None) -> Run:
        """Begin a run for `owner`, by default the principal of the current request."""
        request = CURRENT.get()
        run = Run(self, id, owner or (request.principal if request else None), request)
        self.open[id] = run
        self.known[id] = run
        while len(self.known) > self._remembered:
            self.known.popitem(last=False)
        if request is not None:
            request.open_runs += 1
        self.guarded(lambda: self.routes.started(run))
        who = run.owner.hash if run.owner is not None else None
        run.span = self.guarded(lambda: self._spans.start(id, who, agent, conversation, self.events))
        run.trace = run.span.trace if run.span is not None else evidence.current_trace()
        return run

    def emitted(self, run: Run, event: str, call_id: str, tool: str = "") -> None:
        try:
            anomaly = run.order.feed(event, call_id)
            if anomaly is not None:
                self._registry.counter(names.EVENT_ANOMALIES_TOTAL, anomaly=anomaly).inc()
            run.emitted[event] += 1
            run.numbers.emitted(event)
            run.moved, run.patience_s = time.perf_counter(), None
            if not run.ended:
                run.course.append((time.time(), event))
                if len(run.course) > COURSE_LIMIT:
                    del run.course[0]
            task = _current_task()
            if task is not run.actor():
                run.actor = _reference(task)
            if run.span is not None:
                run.span.emitted(event, call_id, tool)
            self._emitted.get(event, self._other_emitted).inc()
            stream = run.request.stream if run.request is not None else None
            if run.connection is None and stream is not None and not stream.is_over:
                # Counted when its message leaves.
                stream.emitted(run, event)
            elif run.connection is None and not self.routes.lacks(run, event):
                # No socket carries this run's events: the answer itself does, and handing over is all there is.
                run.by_answer[event] += 1
                self.sent(run, event)
        except Exception as error:
            self._ledger.internal_error("run", error)

    def sent(self, run: Run, event: str, connection: Connection | None = None) -> None:
        """Note that the server's send took a frame of this run without an error, on `connection`."""
        if connection is not None and event in self._judged:
            # A second tab of the user sees the same events once more: the order is judged on the first connection that is open.
            if run.carrier is None or run.carrier.closed:
                run.carrier = connection
                self.routes.carries_runs = True
            if run.carrier is connection:
                run.seen.feed(event)
        if connection is not None and run.by_answer[event]:
            # Emitted before anybody knew that a socket would carry it, and counted as sent then.
            run.by_answer[event] -= 1
            return
        if not run.sent and not run.is_planted:
            self._first_event.observe(time.perf_counter() - run.started)
        run.sent[event] += 1
        run.moved, run.patience_s = time.perf_counter(), None
        self._sent.get(event, self._other_sent).inc()

    def plant(self, lab: Lab) -> None:
        """Let a run of the victim end without the events that it owes."""
        self.ended(Run(self, f"planted-{lab.name}", lab.victim, None))

    def strayed(self, run: Run) -> None:
        """Count an event that went to another principal's connection."""
        run.strayed += 1
        self._registry.counter(names.EVENT_ANOMALIES_TOTAL, anomaly="wrong_owner").inc()

    def ended(self, run: Run) -> None:
        """The run's block is over, or its task is."""
        try:
            if run.ended:
                return
            run.ended = True
            self.open.pop(run.id, None)
            self.stuck.ended(run)
            run.course = []
            if run.stream is not None:
                run.stream.run_ended(run)
            if not run.emitted and run.sent:
                self._take_as_emitted(run)
            missing = run.order.close()
            duration_s = time.perf_counter() - run.started
            unsent = [event for event, n in run.emitted.items() if run.sent[event] < n]
            if (unsent if not missing else run.error is not None) and not (_is_gone(run) or run.unrouted):
                # A writer task may still send what is queued; a cancelled run may be one whose user just left.
                self._housekeeper.after(self._settle_s, lambda: self._judge(run, missing, duration_s))
            else:
                self._judge(run, missing, duration_s)
        except Exception as error:
            self._ledger.internal_error("run", error)
        finally:
            if run.request is not None:
                run.request.open_runs -= 1
                run.request.worked_until = time.perf_counter()

    def _take_as_emitted(self, run: Run) -> None:
        """The application never says what it emits: its frames say it for it."""
        run.order = run.seen
        run.emitted = Counter(run.sent)
        for event, n in run.emitted.items():
            self._emitted.get(event, self._other_emitted).inc(float(n))
        for anomaly, n in run.order.anomalies.items():
            self._registry.counter(names.EVENT_ANOMALIES_TOTAL, anomaly=anomaly).inc(float(n))

    def _judge(self, run: Run, missing: list[str], duration_s: float) -> None:
        arm = run.request.arm if run.request else "none"
        lost = Counter(missing)
        for event, n in run.emitted.items():
            if run.sent[event] < n:
                lost[event] += n - run.sent[event]
        outcome = run.order.outcome
        if (_is_gone(run) or run.unrouted) and lost:
            # Nobody was there to receive: reported as its own outcome, and no event of it was owed any more.
            outcome, lost = "abandoned", Counter()
        elif lost and outcome == "complete":
            outcome = "incomplete"
        verdict = _verdict(run, lost, outcome)
        if run.span is not None:
            run.span.end(outcome, run.error)
        if not run.is_planted:
            self._measure(run, lost, outcome, verdict, arm, duration_s)
        if outcome == "failed" and run.request is not None:
            run.request.failed = True
        if lost:
            self._report(run, lost, outcome, arm)
        else:
            self._ledger.checked(names.INCOMPLETE_RUN)
        if not run.unrouted and not run.is_planted:
            self._ledger.checked(names.UNROUTED_EVENT)
        if verdict not in ("complete_in_order", "undeliverable") and not run.is_planted:
            self._record(run, outcome, verdict, duration_s)
        run.stack = ()

    def _measure(self, run: Run, lost: Counter[str], outcome: str, verdict: str, arm: str, duration_s: float) -> None:
        registry = self._registry
        registry.counter(names.RUN_VERDICTS_TOTAL, verdict=verdict, arm=arm).inc()
        registry.counter(names.RUNS, outcome=outcome, arm=arm).inc()
        registry.histogram(names.RUN_DURATION).observe(duration_s)
        if run.connection is None or not run.connection.is_measured:
            # Nothing below tells what became of its events: the highest rung is that they were handed over.
            self._hand_over(run, arm)
        if lost:
            registry.counter(names.EVENT_DELIVERIES, result="lost", arm=arm).inc(float(sum(lost.values())))
            registry.counter(names.EVENT_ANOMALIES_TOTAL, anomaly="missing").inc(float(sum(lost.values())))

    def _hand_over(self, run: Run, arm: str) -> None:
        sent = float(sum(run.sent.values()))
        for rung, n in (("emitted", float(sum(run.emitted.values()))), ("sent", sent)):
            self._registry.counter(names.EVENT_RUNGS, rung=rung, highest="sent").inc(n)
        self._registry.counter(names.EVENTS_SETTLED, outcome="acknowledged", highest="sent").inc(sent)
        self._registry.counter(names.EVENT_DELIVERIES, result="delivered", arm=arm).inc(sent)

    def _report(self, run: Run, lost: Counter[str], outcome: str, arm: str) -> None:
        side = side_of(run.request, run.stack, principal=run.owner, run_id=run.id, at=run.started_at)
        text = ", ".join(f"{event} x{n}" if n > 1 else event for event, n in sorted(lost.items()))
        self._ledger.report(
            Violation(
                kind=names.INCOMPLETE_RUN,
                grade="hygiene",
                summary=f"a run ended and its user never got: {text}",
                resource=Resource("run", run.id, {"lost": dict(lost), "error": run.error, "outcome": outcome}),
                victim=replace(side, trace=run.trace or side.trace),
                offender=None,
                arm=arm,
                synthetic=run.is_planted,
            )
        )

    def _record(self, run: Run, outcome: str, verdict: str, duration_s: float) -> None:
        self._ledger.outbox.put(
            {
                "type": "run",
                "id": uuid7(),
                "time": iso_time(time.time()),
                "run_id": run.id,
                "principal": run.owner.hash if run.owner else None,
                "outcome": outcome,
                "duration_s": round(duration_s, 6),
                "events": [
                    {"event": e, "emitted": run.emitted[e], "sent": run.sent[e]} for e in self.events.all if run.emitted[e] or run.sent[e]
                ],
                "anomalies": {k: v for k, v in run.order.anomalies.items() if v},
                "detail": {"error": run.error, "verdict": verdict, "trace_id": run.trace[0] if run.trace else None},
            }
        )

    def _sweep(self, _: float) -> None:
        """End the runs whose task is over though their block never said so; called each second."""
        for run in list(self.open.values()):
            task, actor = run.task(), run.actor()
            if task is not None and task.done() and (actor is None or actor.done()):
                run.error = run.error or "task ended"
                self.ended(run)
        self._registry.gauge(names.RUN_ACTIVE).set(float(len(self.open)))
        self.stuck.look(list(self.open.values()))


def _verdict(run: Run, lost: Counter[str], outcome: str) -> str:
    """Return the worst that can be said of a run that has ended: one of `names.RUN_VERDICTS`."""
    if run.strayed:
        return "wrong_owner"
    if outcome == "abandoned":
        return "undeliverable"
    if run.order.ended is None:
        return "no_end"
    if lost:
        return "gap"
    if run.order.is_disordered or run.seen.is_disordered:
        return "disorder"
    if run.order.is_doubled or run.seen.is_doubled:
        return "duplicate"
    return "complete_in_order"


def _is_gone(run: Run) -> bool:
    return (run.connection is not None and run.connection.closed) or (run.stream is not None and run.stream.is_gone)
