"""The application, put together: the only place that knows every part.

uvicorn --factory isolation_monitor.collector.app:create_app
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from isolation_monitor import __version__
from isolation_monitor.collector import problems
from isolation_monitor.collector.alerts import routes as alerts
from isolation_monitor.collector.alerts.alertmanager import AlertmanagerHeld
from isolation_monitor.collector.alerts.reconciliation import Reconciliation
from isolation_monitor.collector.alerts.service import AlertService
from isolation_monitor.collector.announcements.alertmanager import Alertmanagers
from isolation_monitor.collector.announcements.domain import Links
from isolation_monitor.collector.announcements.grafana import Grafana
from isolation_monitor.collector.announcements.pager import Pager
from isolation_monitor.collector.announcements.service import AnnouncementService
from isolation_monitor.collector.ci import routes as ci
from isolation_monitor.collector.ci.numbers import SuiteWatch
from isolation_monitor.collector.ci.service import CiService
from isolation_monitor.collector.clock import Clock, utc_now
from isolation_monitor.collector.containers import routes as containers
from isolation_monitor.collector.containers.domain import Rules
from isolation_monitor.collector.containers.follower import Follower
from isolation_monitor.collector.containers.service import ContainerService
from isolation_monitor.collector.evidence import otlp_routes
from isolation_monitor.collector.evidence import routes as evidence
from isolation_monitor.collector.evidence.intake import Intake
from isolation_monitor.collector.evidence.rollup_service import RollupService
from isolation_monitor.collector.evidence.service import EvidenceService
from isolation_monitor.collector.evidence.writer import RecordWriter
from isolation_monitor.collector.flags import ofrep
from isolation_monitor.collector.flags import routes as flags
from isolation_monitor.collector.flags.domain import FlagSource
from isolation_monitor.collector.flags.service import FlagService
from isolation_monitor.collector.gates import flagger
from isolation_monitor.collector.gates import routes as gates
from isolation_monitor.collector.gates.prometheus import PrometheusSource
from isolation_monitor.collector.gates.service import GateService
from isolation_monitor.collector.heap import heap_at_rest
from isolation_monitor.collector.incidents import routes as incidents
from isolation_monitor.collector.incidents.service import IncidentService
from isolation_monitor.collector.keyring import KeyRing
from isolation_monitor.collector.lifecycle import routes as lifecycle
from isolation_monitor.collector.lifecycle.service import LifecycleService
from isolation_monitor.collector.logs import harmless
from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.probes import routes as probes
from isolation_monitor.collector.probes.modules import ProbesFileError
from isolation_monitor.collector.probes.prober import Prober
from isolation_monitor.collector.probes.probes_file import ProbesFile
from isolation_monitor.collector.probes.schedule import ProbeSchedule
from isolation_monitor.collector.probes.service import ProbeService
from isolation_monitor.collector.probes.watched_file import WatchedFile
from isolation_monitor.collector.queues import routes as queues
from isolation_monitor.collector.queues.service import QueueService
from isolation_monitor.collector.rates import Allowances, MeterBodies
from isolation_monitor.collector.retention.domain import Policy
from isolation_monitor.collector.retention.service import DiskGuard, RetentionService
from isolation_monitor.collector.rollouts import routes as rollouts
from isolation_monitor.collector.rollouts.announcer import Announcer
from isolation_monitor.collector.rollouts.controller import RolloutController
from isolation_monitor.collector.rollouts.domain import RolloutEvent
from isolation_monitor.collector.rollouts.service import RolloutService
from isolation_monitor.collector.runtime import Runtime
from isolation_monitor.collector.security import Guard
from isolation_monitor.collector.settings import CollectorSettings, SettingsError, load_settings
from isolation_monitor.collector.storage.database import Database, StoreUnavailable
from isolation_monitor.collector.storage.leader import Leader
from isolation_monitor.collector.storage.schema import newest_revision
from isolation_monitor.collector.subjects import routes as subjects
from isolation_monitor.collector.web import health, pages, rendering, runbooks, signing_in
from isolation_monitor.collector.web.ci_pages import CiPages
from isolation_monitor.collector.web.lifecycle_pages import LifecyclePages
from isolation_monitor.collector.web.live import LiveHub
from isolation_monitor.collector.web.numbers import PageNumbers
from isolation_monitor.collector.web.reader import Features, PageReader
from isolation_monitor.collector.web.sessions import SessionService

logger = logging.getLogger("isolation_monitor.collector")


def create_app(settings: CollectorSettings | None = None, clock: Clock = utc_now, flag_source: FlagSource | None = None) -> FastAPI:
    """Return the collector. Without `settings` they come from the environment; without `flag_source` the flags are
    those of its rollouts.

    Starts also while the database is away: `/readyz` tells, and requests are answered 503 until it is back.

    Raises:
        SettingsError: a setting cannot be used, or a token is missing.
    """
    settings = settings or load_settings()
    harmless()
    database = Database(settings.database_url, settings.store_timeout_s)
    metrics = CollectorMetrics()
    source = None
    if settings.prometheus_url:
        source = PrometheusSource(
            settings.prometheus_url,
            token=settings.prometheus_bearer(),
            tenant=settings.prometheus_tenant,
            timeout_s=settings.prometheus_timeout_s,
            tls=settings.prometheus_tls(),
        )

    runtime = Runtime(settings, database, metrics, clock, disk=DiskGuard(settings.database_url, settings.max_disk_ratio).look)
    gates_service = GateService(
        database, source, metrics, clock, scrape_stale_after_s=settings.scrape_stale_after_s, base_url=settings.base_url
    )
    rollouts_service = RolloutService(database, clock, runtime.rollouts_changed)
    controller = RolloutController(rollouts_service, gates_service, runtime.harm, settings.rollout_interval_s)
    flags_service = FlagService(flag_source or rollouts_service)

    async def look_at_flags(_event: RolloutEvent) -> None:
        flags_service.look()

    runtime.rollout_listeners.append(look_at_flags)
    alertmanagers = Alertmanagers(settings.alertmanager_urls(), settings.alertmanager_bearer()) if settings.alertmanager_url else None
    links = Links(settings.base_url, settings.grafana_url)
    announcements = _announcements(settings, database, clock, links, alertmanagers)
    leader = Leader(database)
    pager = None
    if alertmanagers is not None:
        pager = Pager(database, clock, links, settings.alert_labels(), alertmanagers, leader.leads, metrics.violations_paged)
    runtime.rollout_listeners.extend((announcements.mark, announcements.page))
    announcer = Announcer(database, clock, runtime.rollouts_changed, runtime.rollout_listeners)
    intake = Intake(settings.ingest_bytes)
    metrics.watch_intake(lambda: intake.held_bytes)
    record_writer = RecordWriter(database, intake, runtime.harm.give, pager)

    ci_service = CiService(database, clock)
    suite_watch = SuiteWatch(ci_service, clock, metrics.ci.show)
    policy = Policy(settings.keep_days, settings.keep_bytes)
    held = AlertmanagerHeld(settings.alertmanager_urls(), settings.alertmanager_bearer()) if settings.alertmanager_url else None
    reconciliation = Reconciliation(database, clock, held, leader.leads)
    retention = RetentionService(database, leader, metrics, clock, policy, settings.retention_interval_s)
    rollups = RollupService(database, leader.leads, clock, settings.keep_days, metrics.rolled_up)
    rules = _container_rules(settings)
    followers = _followers(settings, database, leader, metrics, clock, rules)

    probes_file = _probes_file(settings)
    asked = ProbesFile((), None) if probes_file is None else probes_file.asked
    probe_service = ProbeService(database, metrics.probes, clock, asked.probes)
    prober = Prober(asked.blackbox_url, clock)
    schedule = ProbeSchedule(probe_service, prober, leader.leads, settings.probes_at_once, probes_file)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        works = (controller.run(), announcer.run(), announcements.watch_bursts(), retention.run(), reconciliation.run(), schedule.run())
        tasks = [asyncio.create_task(work) for work in (*works, rollups.run(), *(follower.run() for follower in followers))]
        if pager is not None:
            tasks.append(asyncio.create_task(pager.run()))
        record_writer.start()
        with heap_at_rest():
            yield
        await record_writer.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await announcements.close()
        await reconciliation.close()
        await leader.close()
        await suite_watch.close()
        if source is not None:
            await source.close()
        await database.close()

    app = FastAPI(
        title="isolation-monitor collector",
        version=__version__,
        lifespan=lifespan,
        # Senders may take a redirect for "delivered": a wrong path is a plain 404.
        redirect_slashes=False,
        # The pages would load scripts from elsewhere; the schema itself stays at /openapi.json.
        docs_url=None,
        redoc_url=None,
    )
    app.state.runtime = runtime
    app.state.intake = intake
    app.state.record_writer = record_writer
    app.state.gates = gates_service
    app.state.rollouts = rollouts_service
    app.state.rollout_controller = controller
    app.state.announcer = announcer
    app.state.flags = flags_service
    app.state.announcements = announcements
    app.state.pager = pager
    keys = KeyRing(settings.load_keys, settings.key_files(), metrics.keys_reloaded)
    app.state.guard = Guard(keys, Allowances(settings.rates(), settings.rate_burst_s), metrics, clock)
    app.state.ci = ci_service
    app.state.suite_watch = suite_watch
    app.state.leader = leader
    app.state.retention = retention
    app.state.rollups = rollups
    app.state.containers = ContainerService(database, clock, rules)
    app.state.followers = followers
    app.state.reconciliation = reconciliation
    app.state.probes = probe_service
    app.state.schema_revision = newest_revision()
    _add_pages(app, runtime, source)
    problems.install(app)
    app.add_exception_handler(StoreUnavailable, _store_unavailable)
    app.add_middleware(_RefuseNul)
    app.add_middleware(MeterBodies)
    for router in (
        *(evidence.router, otlp_routes.router, alerts.router, rollouts.router, gates.router, flagger.router, flags.router, ofrep.router),
        *(queues.router, probes.router, subjects.router, incidents.router, containers.router, ci.router, health.router, runbooks.router),
        *(lifecycle.router, rendering.router, signing_in.router, pages.router),
    ):
        # Not include_router(), which builds every route a second time when the first request comes: a fifth of a second for nothing,
        # since nothing is added to them.
        app.router.routes.extend(router.routes)
    return app


def _add_pages(app: FastAPI, runtime: Runtime, source: PrometheusSource | None) -> None:
    """Put together what the pages read from; they read through the features' services and change nothing but who is signed in."""
    settings, database, clock = runtime.settings, runtime.database, runtime.clock
    features = Features(
        EvidenceService(database, clock), AlertService(database, clock), QueueService(database, clock),
        IncidentService(database, clock, settings.keep_days), app.state.containers, app.state.rollouts, app.state.gates,
        None if source is None else PageNumbers(source), clock, settings.scrape_stale_after_s, app.state.probes,
    )  # fmt: skip
    app.state.web_sessions = SessionService(database, app.state.guard, clock, settings.web_session_s)
    starts_and_ends = LifecyclePages(LifecycleService(database, clock))
    app.state.web_views = pages.views_of(PageReader(features), CiPages(app.state.ci, clock), starts_and_ends)
    app.state.web_live = LiveHub(app.state.web_sessions, settings.web_streams)


def _container_rules(settings: CollectorSettings) -> Rules:
    labels = tuple(label.strip() for label in settings.container_owner_labels.split(",") if label.strip())
    return Rules(labels, timedelta(seconds=settings.container_orphan_after_s), timedelta(seconds=settings.container_cooldown_s))


def _followers(
    settings: CollectorSettings, database: Database, leader: Leader, metrics: CollectorMetrics, clock: Clock, rules: Rules
) -> list[Follower]:
    addresses = settings.engines()
    if not addresses:
        return []
    # Only here: who follows no engine does not wait for its client to be imported.
    from isolation_monitor.collector.containers.engine import Engine

    return [
        Follower(
            address.name, partial(Engine, address), database, leader.leads, metrics.containers, clock, rules,
            interval_s=settings.container_interval_s, prefix=f"{address.name}/" if len(addresses) > 1 else "",
        )
        for address in addresses
    ]  # fmt: skip


def _probes_file(settings: CollectorSettings) -> WatchedFile | None:
    """Return what the operator's file asks to be checked.

    Raises:
        SettingsError: the file cannot be used.
    """
    if settings.probes_file is None:
        return None
    try:
        return WatchedFile(settings.probes_file, settings.blackbox_url)
    except ProbesFileError as error:
        raise SettingsError(f"the collector cannot start: COLLECTOR_PROBES_FILE: {error}") from None


def _announcements(
    settings: CollectorSettings, database: Database, clock: Clock, links: Links, alertmanagers: Alertmanagers | None
) -> AnnouncementService:
    grafana = Grafana(settings.grafana_url, settings.grafana_bearer()) if settings.grafana_url else None
    return AnnouncementService(database, clock, links, grafana, alertmanagers)


async def _store_unavailable(request: Request, error: Exception) -> Response:
    what = "ask again" if request.method in ("GET", "HEAD") else "nothing was stored, send it again"
    problem = problems.Unavailable(f"{error}; {what}")
    return problems.problem_response(problem.status, problem.title, problem.detail, problem.headers)


class _RefuseNul:
    """Answer 400 to addresses with a NUL: PostgreSQL takes none, and no honest client sends one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and ("\0" in scope["path"] or b"%00" in scope["query_string"]):
            await problems.problem_response(400, "Malformed address", "the address holds a NUL character")(scope, receive, send)
            return
        await self._app(scope, receive, send)
