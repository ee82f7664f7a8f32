"""Detection: all detectors of one monitor, built from one kit. The only place that knows them all."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.containment import Containment
from isolation_monitor.telemetry.context import next_serial
from isolation_monitor.telemetry.detectors.access_rules import AccessRules
from isolation_monitor.telemetry.detectors.cache_owner import CacheOwner
from isolation_monitor.telemetry.detectors.canary import Canaries
from isolation_monitor.telemetry.detectors.dirty_handover import DirtyHandover
from isolation_monitor.telemetry.detectors.foreign_content import ForeignContent
from isolation_monitor.telemetry.detectors.foreign_context import ForeignContext
from isolation_monitor.telemetry.detectors.foreign_credential import ForeignCredential
from isolation_monitor.telemetry.detectors.foreign_task import ForeignTask
from isolation_monitor.telemetry.detectors.id_resolution import IdResolution
from isolation_monitor.telemetry.detectors.kit import Kit
from isolation_monitor.telemetry.detectors.loop_stall import LoopStall
from isolation_monitor.telemetry.detectors.resource_trend import ResourceTrend
from isolation_monitor.telemetry.detectors.session_leak import SessionLeaks
from isolation_monitor.telemetry.detectors.shared_connection import SharedConnection
from isolation_monitor.telemetry.detectors.shared_state import SharedState
from isolation_monitor.telemetry.detectors.starvation import Starvation
from isolation_monitor.telemetry.detectors.task_leak import TaskLeaks
from isolation_monitor.telemetry.detectors.unscoped_access import UnscopedAccess
from isolation_monitor.telemetry.evidence import About
from isolation_monitor.telemetry.provenance import Stores
from isolation_monitor.telemetry.switches import Switches

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.housekeeper import Housekeeper
    from isolation_monitor.telemetry.instrument.steps import Steps
    from isolation_monitor.telemetry.lab import Plantable
    from isolation_monitor.telemetry.ledger import Ledger
    from isolation_monitor.telemetry.principals import Principals, Scope
    from isolation_monitor.telemetry.settings import Settings


LAST_LOOK_S: Final = 1.0
"""How long memory is walked through for what waits, when the process ends."""
UNFOLLOWED_STORES: Final = ("pymongo", "cassandra", "neo4j", "clickhouse_connect", "aerospike", "couchbase")
"""Clients of databases whose reads nobody follows: in a process with one, no request is known not to have read a value there."""
UNFOLLOWED: Final = (*UNFOLLOWED_STORES, "pymysql", "MySQLdb", "aiomysql", "asyncmy", "mysql.connector", "oracledb", "pyodbc", "duckdb")
"""The same where SQLAlchemy, through which all drivers are followed, is not at work."""


class Reads(Protocol):
    """Follows what is read from a store between `start` and `stop`, where following always would cost too much."""

    @property
    def is_needed(self) -> bool: ...
    @property
    def is_on(self) -> bool: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


class Looks:
    """How many requests detectors may still look at closely in this second; a bound on their share of the processor."""

    __slots__ = ("left", "missed", "per_second")

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        self.left = per_second
        self.missed = 0
        """Requests of this second that came too late to be looked at."""


class Detection:
    """Holds the detectors by name as attributes, so that integrations can hand them what they see."""

    def __init__(self, ledger: Ledger, housekeeper: Housekeeper, principals: Principals, settings: Settings) -> None:
        self.ledger = ledger
        self.switches = ledger.switches = Switches(settings.detectors)
        self.stores = Stores()
        ledger.about = About(settings, self.switches)
        self._pid: int | None = None
        """The process whose requests it judges, once it serves: one that is forked off has none of these to judge."""
        self.kit = Kit(
            reporter=ledger,
            registry=ledger.registry,
            housekeeper=housekeeper,
            principals=principals,
            exposure=ledger.exposure,
            settings=settings,
            switches=self.switches,
            stores=self.stores,
        )
        self.looks = Looks(settings.looks_per_second)
        self._judged = 0.0
        self.message_looks = Looks(settings.looks_per_second)
        """The same for messages of connections, so that a busy one takes no look from the requests."""
        self.sql_reads: Reads | None = None
        """Set by whoever can follow them."""
        self.has_unpassed_engines = False
        """Set once the process is seen to use a database through an engine that nobody passed to the monitor."""
        self._reads_kept_since = 0
        """Serial number of the last request that may have read rows before they were followed."""
        self.on_taken: Callable[[Any], None] = lambda queue: None
        """Told of each item that is taken from an `asyncio.Queue`, with the queue."""
        # One line per detector, in the order of names.KIND_GRADES.
        self.foreign_context = ForeignContext(self.kit)
        self.shared_state = SharedState(self.kit)
        self.foreign_content = ForeignContent(self.kit)
        self.canary = Canaries(self.kit)
        self.foreign_credential = ForeignCredential(self.kit)
        self.shared_connection = SharedConnection(self.kit)
        self.dirty_handover = DirtyHandover(self.kit)
        self.unscoped_access = UnscopedAccess(self.kit)
        self.access_rules = AccessRules(self.kit)
        self.cache_owner = CacheOwner(self.kit)
        self.task_leak = TaskLeaks(self.kit)
        self.foreign_task = ForeignTask(self.kit, self.task_leak, self.foreign_context)
        self.leaks = SessionLeaks(ledger, ledger.registry, housekeeper, settings.leak_grace_s)
        self.loop_stall = LoopStall(self.kit)
        self.starvation = Starvation(self.kit)
        self.resource_trend = ResourceTrend(self.kit)
        self.id_resolution = IdResolution(self.kit)
        self.containment = Containment(self.kit, self.leaks, self.starvation, self.loop_stall)
        self.stepped: dict[int, Steps] = {}
        """By serial number of the request: the steps of it that are being watched, in the task that came last."""
        self.foreign_credential.private_to = self.foreign_content.ownership.private_to
        self.foreign_credential.overwrites = self.shared_state.overwrites
        self.shared_state.owners = self.foreign_content.ownership
        self.shared_state.knowledge.shares = self.foreign_content.relations.shares
        self.resource_trend.own_bytes = self.foreign_content.ownership.bytes_held
        self.shared_state.residue.on_keyed.append(lambda token, owner: self.foreign_content.belongs(token, owner, "state"))
        self.shared_state.residue.on_between.append(lambda token, ids: self.foreign_content.ownership.told(ids, token))
        self.shared_state.residue.on_shared.append(self.foreign_content.public.share)
        self.foreign_content.look_again = self.shared_state.look_again
        self.foreign_content.is_held_up = self.shared_state.pace.is_held_up
        self.shared_state.on_walked.append(self.foreign_content.walked)
        self.foreign_content.consent.reads_are_known = self._reads_are_known
        self.may_block = any(switch.mode == "block" for switch in self.switches)
        """Whether an answer may have to be held back until it was judged."""

    @property
    def plantables(self) -> dict[str, Plantable]:
        """Every detector held here, by its name: what planted faults prove."""
        return {
            names.FOREIGN_CONTEXT: self.foreign_context,
            names.SHARED_STATE: self.shared_state,
            names.FOREIGN_CONTENT: self.foreign_content,
            names.CANARY: self.canary,
            names.FOREIGN_CREDENTIAL: self.foreign_credential,
            names.SHARED_CONNECTION: self.shared_connection,
            names.DIRTY_HANDOVER: self.dirty_handover,
            names.UNSCOPED_ACCESS: self.unscoped_access,
            names.CACHE_OWNER: self.cache_owner,
            names.FOREIGN_TASK: self.foreign_task,
            names.TASK_LEAK: self.task_leak,
            names.SESSION_LEAK: self.leaks,
            names.LOOP_STALL: self.loop_stall,
            names.STARVATION: self.starvation,
            names.RESOURCE_TREND: self.resource_trend,
            names.ID_RESOLUTION: self.id_resolution,
        }

    def made(self, value: object, by: RequestContext) -> None:
        """Note what a request's code hands to another's connection; see `ForeignContent.made`."""
        self.foreign_content.made(value, by)

    def is_for_all(self, scope: Scope) -> bool:
        """Return whether the application has declared that an endpoint shows what users write for everybody."""
        return self.foreign_content.public.serves(scope)

    def leaving(self, request: RequestContext, text: str, where: str, *, scope: Scope | None = None, learns: bool = True) -> bool:
        """Judge the content of a text on its way to the request's principal; True when it is beyond doubt another's."""
        is_foreign = self.canary.leaving(request, text, where)
        if self.shared_state.overwrites.slots:
            is_foreign = self.shared_state.overwrites.judge(request, text) or is_foreign
        return self.foreign_content.leaving(request, text, where, scope=scope, learns=learns) or is_foreign

    def answering(self, request: RequestContext) -> None:
        """Called when the answer to a watched request starts, before it leaves."""
        self.foreign_context.judge(request)

    def ended(self, request: RequestContext) -> None:
        """Called when a watched request is over, or a message of a connection."""
        self.shared_state.at_end(request)

    def settle(self) -> None:
        """Judge at once, on the calling thread, what waits for a walk through memory: at the end of a test or a process."""
        if not self.foreign_content.is_waiting or self._pid not in (None, os.getpid()):
            return
        try:
            self.shared_state.look_now(time.perf_counter() + LAST_LOOK_S)
        except Exception as error:
            self.ledger.check_failed(names.FOREIGN_CONTENT, "detector", error)
        finally:
            self.foreign_content.walked(time.monotonic())

    def serving(self) -> None:
        """Judge what waits when the process ends, before its records are sent off: called after those begin to be."""
        self._pid = os.getpid()
        atexit.unregister(self.settle)
        atexit.register(self.settle)

    def close(self) -> None:
        """Judge what waits, now or never."""
        atexit.unregister(self.settle)
        try:
            self.settle()
        except Exception as error:
            self.ledger.check_failed(names.FOREIGN_CONTENT, "detector", error)

    def tick(self) -> None:
        """Once a second: allow new looks, and say how many requests went without."""
        # Every HTTP request is one check of the inherited context: to count those that went without costs the request path nothing.
        cell, before = self.ledger.passes[names.INHERITED_CONTEXT], self._judged
        self._judged = cell.values[cell.index]
        missed = max(0, round(self._judged - before) - (self.looks.per_second - self.looks.left))
        self.looks.left = self.looks.per_second
        self._skipped(names.FOREIGN_CONTEXT, missed)
        # Messages are looked at for what they leave behind, and for nothing else.
        missed_messages, self.message_looks.missed = self.message_looks.missed, 0
        self.message_looks.left = self.message_looks.per_second
        self._skipped(names.SHARED_STATE, missed + missed_messages)

    def _skipped(self, detector: str, missed: int) -> None:
        if missed and self.switches[detector].is_on:
            self.kit.registry.counter(names.CHECKS, detector=detector, result="skipped").inc(float(missed))

    def _reads_are_known(self, request: RequestContext) -> bool:
        """Return whether whatever a request read from a database is known, and follow it from now on where it is not.

        A value cannot be judged without. Followed from the first suspicion on, it costs nothing where there is none.
        """
        reads = self.sql_reads
        uses_sqlalchemy = request.checkouts is not None or self.has_unpassed_engines
        if reads is not None and reads.is_needed and uses_sqlalchemy:
            self._reads_kept_since = next_serial()
            reads.start()
        if request.serial <= self._reads_kept_since:
            return False
        has_sqlalchemy = reads is not None and reads.is_on
        return not any(name in sys.modules for name in (UNFOLLOWED_STORES if has_sqlalchemy else UNFOLLOWED))

    def refuses(self, request: RequestContext) -> bool:
        """Return whether a detector in `block` mode has found something on this request."""
        return any(self.switches[violation.kind].blocks for violation in request.violations or ())
