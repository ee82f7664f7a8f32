"""The monitor: the two lines that instrument a service, and the ten that declare more.

>>> monitor = IsolationMonitor.from_env(service="chat")     # doctest: +SKIP
>>> app = monitor.instrument(app, engine=engine)            # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from isolation_monitor import __version__
from isolation_monitor.telemetry import names, private
from isolation_monitor.telemetry.context import CURRENT, Connection, RequestContext
from isolation_monitor.telemetry.delivery.automaton import EventNames
from isolation_monitor.telemetry.delivery.declarations import begin_run, declare_events, declare_queue
from isolation_monitor.telemetry.delivery.envelope import WrappedBytes, WrappedText
from isolation_monitor.telemetry.delivery.frames import Frames
from isolation_monitor.telemetry.delivery.handshakes import Handshakes
from isolation_monitor.telemetry.delivery.queue_depths import QueueDepths
from isolation_monitor.telemetry.delivery.run import Runs
from isolation_monitor.telemetry.delivery.setup import make_delivery
from isolation_monitor.telemetry.delivery.spans import Spans
from isolation_monitor.telemetry.detection import Detection
from isolation_monitor.telemetry.detectors import foreign_identity, inherited_context
from isolation_monitor.telemetry.detectors.foreign_identity import IdentityFields
from isolation_monitor.telemetry.detectors.instance_reuse import InstanceReuse
from isolation_monitor.telemetry.detectors.slow_creation import SlowCreation
from isolation_monitor.telemetry.errors import SettingsError
from isolation_monitor.telemetry.factory import Factories
from isolation_monitor.telemetry.flags.flags import Flags
from isolation_monitor.telemetry.housekeeper import Housekeeper
from isolation_monitor.telemetry.instrument import pongs
from isolation_monitor.telemetry.instrument import sqlalchemy as sqlalchemy_instrument
from isolation_monitor.telemetry.instrument import starlette as starlette_instrument
from isolation_monitor.telemetry.instrument.asgi import IsolationMiddleware
from isolation_monitor.telemetry.instrument.integrations import Integrations
from isolation_monitor.telemetry.instrument.sqlalchemy_owned import OwnedModels
from isolation_monitor.telemetry.instrument.sqlalchemy_reads import SqlReads
from isolation_monitor.telemetry.ledger import Ledger
from isolation_monitor.telemetry.lifecycle.endpoint import HealthMiddleware
from isolation_monitor.telemetry.lifecycle.lifecycle import Lifecycle
from isolation_monitor.telemetry.metrics.endpoint import MetricsEndpoint
from isolation_monitor.telemetry.metrics.port import ThreadPort, serve_on_port
from isolation_monitor.telemetry.metrics.registry import MetricRegistry
from isolation_monitor.telemetry.metrics.worker_deaths import WorkerDeaths
from isolation_monitor.telemetry.power import Power
from isolation_monitor.telemetry.principals import Principal, PrincipalExtractor, PrincipalHasher, Principals, Scope
from isolation_monitor.telemetry.records.setup import make_outbox
from isolation_monitor.telemetry.resolution.setup import declare_resolution
from isolation_monitor.telemetry.settings import Mode, Settings, load_settings
from isolation_monitor.telemetry.suppressions import load as load_suppressions

if TYPE_CHECKING:
    from isolation_monitor.telemetry.instrument.patches import Patch
    from isolation_monitor.telemetry.violations import Violation

E = TypeVar("E", bound=PrincipalExtractor)
F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound=type)


BASELINE_S: Final = 0.1
"""Longest look at the application's state before it serves its first request."""


class IsolationMonitor:
    """Watches one application for isolation violations. Build one per process, at import or at start; forking is safe."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.is_on = True
        """False while the kill switch is on; read on every request, so a plain attribute that `mode` keeps."""
        self.registry = MetricRegistry(settings.service, Path(settings.metrics_dir) if settings.metrics_dir else None)
        for metric in names.CATALOGUE:
            self.registry.declare(metric)
        self.hasher = PrincipalHasher(settings.hash_key)
        self.principals = Principals(self.hasher)
        self.outbox = make_outbox(settings, self._count_record)
        self.suppressions = load_suppressions(settings.suppressions_file)
        self.ledger = Ledger(self.registry, self.outbox, self.suppressions)
        self.housekeeper = Housekeeper(lambda error: self.ledger.internal_error("housekeeper", error))
        self.detection = Detection(self.ledger, self.housekeeper, self.principals, settings)
        self.integrations = Integrations(self.detection)
        self.mode = settings.mode
        self.handshakes = Handshakes(self.ledger, self.principal_of, settings.connection_id_field)
        self.runs = Runs(
            self.ledger,
            self.housekeeper,
            EventNames.parse(settings.run_events),
            self.handshakes.has_open,
            settings.settle_s,
            settings.stuck_after_s,
            Spans(settings.run_spans),
            settings.remembered_limit,
        )
        self.flags = Flags(settings, self.ledger, self.housekeeper)
        self.frames = Frames(
            self.ledger, self.principals, self.runs, settings.run_id_field, settings.event_field, settings.body_limit_bytes
        )
        self.detection.sql_reads = reads = SqlReads(self.detection.stores, self.detection.leaks.failed)
        self.delivery = make_delivery(
            self.registry,
            self.runs,
            settings,
            pongs.find,
            lambda error: self.ledger.internal_error("delivery", error),
            self.outbox.tell,
        )
        self.connections: set[Connection] = self.handshakes.connections
        self.queue_depths = QueueDepths(self.ledger, lambda: self.connections)
        self.detection.on_taken = self.queue_depths.taken
        self.handshakes.identity = lambda: self.identity
        self.handshakes.is_public = self.detection.is_for_all
        self.leaks = self.detection.leaks
        if settings.body_limit_bytes and self.detection.switches[names.FOREIGN_CONTENT].mode != "off":
            self.frames.content = self.detection
            self.frames.reads = True
        reuse, slow = InstanceReuse(self.ledger), SlowCreation(self.ledger, settings.creation_budget_ms)
        self.factories = Factories(self.ledger, reuse, slow, lambda: self.is_on)
        self.endpoint = MetricsEndpoint(
            self.registry, isolation_path=settings.isolation_path, metrics_path=settings.metrics_path, token=settings.metrics_token
        )
        self.identity: IdentityFields | None = None
        self.extractor: PrincipalExtractor | None = None
        self.host_owns_metrics_path = False
        self.app: Any = None
        self.instrumented_engines: list[Any] = []
        self._patches: list[Patch] = []
        self._owned: OwnedModels | None = None
        self._undo: list[Callable[[], None]] = [reads.stop]
        self._route_template: Callable[[Scope], str] = starlette_instrument.route_template
        self.loop: asyncio.AbstractEventLoop | None = None
        self._judged, self.served = 0, False
        if settings.identity_fields:
            self.identity_fields(*settings.identity_fields)
        self.worker_deaths = WorkerDeaths(self.registry, self.ledger.exposure)
        for tick in (self.queue_depths.tick, self.handshakes.tick, self._tick, self.worker_deaths.tick, self.detection.stores.let_go):
            self.housekeeper.every_second(tick)
        self.power = Power(
            self.ledger,
            self.principals,
            self.detection.switches,
            self.detection.plantables
            | {
                names.INHERITED_CONTEXT: inherited_context.Proof(self.ledger),
                names.INSTANCE_REUSE: reuse,
                names.WRONG_SOCKET: self.frames,
                names.FOREIGN_IDENTITY: foreign_identity.Proof(self.ledger, self.principals, lambda: self.identity),
                names.SLOW_CREATION: slow,
                names.INCOMPLETE_RUN: self.runs,
                names.STUCK_RUN: self.runs.stuck,
                names.BAD_HANDSHAKE: self.handshakes,
                names.UNROUTED_EVENT: self.runs.routes,
            },
            settings.self_test_interval_s,
            self.housekeeper.after,
        )
        self.lifecycle = Lifecycle(self.ledger, self.housekeeper, settings, lambda: self.is_on)
        self._port: ThreadPort | None = None
        self._shown_mode: Mode = self.mode
        self._show_info()

    @classmethod
    def from_env(cls, **arguments: Any) -> IsolationMonitor:
        """Build a monitor from arguments, `ISOLATION_*` variables and `[tool.isolation]`; the arguments are those of `Settings`.

        Raises:
            SettingsError: a value cannot be used.
        """
        return cls(load_settings(arguments))

    # --- the second line --------------------------------------------------------------------------------------------

    def instrument(self, app: Any, *, engine: Any = None, engines: Iterable[Any] = ()) -> Any:
        """Instrument an ASGI application and, where given, its SQLAlchemy engines; return the application to serve.

        Starlette and FastAPI applications are instrumented in place and returned themselves. Any other ASGI application
        is wrapped: serve the returned object. Call it once per application, at import time or before the first request.

        Raises:
            SettingsError: `app` is not callable.
        """
        if not callable(app):
            raise SettingsError(f"instrument() got {type(app).__qualname__}, which is no ASGI application: pass the app object itself")
        if self.settings.mode == "off":
            # Probes go on: a service whose monitor is off would be restarted for it.
            self.app = self._with_health(app) if self.lifecycle.is_declared else app
            return self.app
        if app is self.app:
            # A second call, for another engine perhaps: the application is watched already.
            for one in (*((engine,) if engine is not None else ()), *engines):
                self._instrument_engine(one)
            return app
        for one in (*((engine,) if engine is not None else ()), *engines):
            self._instrument_engine(one)
        self.integrations.is_open = True
        self.integrations.look()
        self.detection.shared_state.watch(app)
        in_place = starlette_instrument.instrument(app, lambda inner: IsolationMiddleware(inner, self))
        if in_place is not None:
            self._undo.append(in_place.undo)
            self._patches.append(in_place.patch)
            self.app = app
        else:
            self.app = IsolationMiddleware(app, self)
        return self.app

    def uninstrument(self) -> None:
        """Take every hook off again. A plain ASGI wrapper stays in place and hands everything through."""
        self.mode = "off"
        while self._undo:
            self.runs.guarded(self._undo.pop())  # where one fails, the others come off all the same
        self.factories.uninstrument()
        self.integrations.undo()
        for patch in self._patches:
            patch.active = False

    # --- declarations -----------------------------------------------------------------------------------------------

    def principal(self, extractor: E) -> E:
        """Declare how to find the user's id of an ASGI scope: `extractor(scope) -> str | None`. Usable as a decorator.

        It is called at entry, and once more at the end where it gave None (authentication inside the application may have
        filled the scope). Without it, each credential (Authorization header or session cookie) is one principal.
        """
        self.extractor = extractor
        return extractor

    def identity_fields(self, *fields: str) -> None:
        """Declare JSON fields that must name the request's own principal wherever an answer or frame carries them."""
        declared = (*(self.identity.fields if self.identity else ()), *fields)
        self.identity = IdentityFields(dict.fromkeys(declared)) if declared else None
        self.frames.identity = self.identity
        self.frames.reads = self.frames.reads or self.identity is not None

    def factory(self, component: str, *, scope: str = "request", reset: str | None = None) -> Callable[[F], F]:
        """Declare a factory: its creations are timed, and its instances proven fresh per `scope` (request, user or process).

        Args:
            component: name in metrics and evidence.
            scope: how far one instance may be shared.
            reset: name of the instances' method that clears their state; its time is measured.
        """
        return self.factories.declare(component, scope, reset)

    def owns(self, model: M, *, by: str | Callable[[dict[str, Any]], Any]) -> M:
        """Declare that the rows of a SQLAlchemy model belong to users: reading others' is a violation. Usable on any mapped class.

        Args:
            by: the column that holds the owner's id; or a function that returns it (or several) from an instance's `__dict__`.

        Raises:
            SettingsError: `model` is no mapped class, or has no such column.
        """
        if self.settings.mode == "off":
            return model
        if self._owned is None:
            self._owned = OwnedModels(self.detection)
        known = len(self._owned.patches)
        self._owned.declare(model, by)
        self._patches.extend(self._owned.patches[known:])
        self._undo.append(self._owned.undo)
        return model

    def unscoped(self, reason: str) -> AbstractContextManager[None]:
        """Say that a `with` block reads rows of all owners on purpose; the reason is logged."""
        return self.detection.unscoped_access.unscoped(reason)

    def shared(self, parameter: str, *, access: Callable[[str, str], object]) -> None:
        """Declare who may see a shared resource: a request that names one and is answered though the rule says no is a violation.

        Reads are judged when their answer starts; other methods, which may change who has access, only where the rule had said
        no before the application acted, too. In `block` mode of `unscoped_access` the answer is withheld.

        Args:
            parameter: the path parameter, query parameter, or field of a body, that holds the resource's id: `"room_id"`.
            access: `access(user_id, value)`, true when the user may see it. Called on the event loop; it must wait for nothing.

        Raises:
            SettingsError: the parameter has a rule already, or `access` is no plain function of two arguments.
        """
        self.detection.access_rules.declare(parameter, access)

    @overload
    def private(self, function: F) -> F: ...
    @overload
    def private(self, *, by: Callable[..., str]) -> Callable[[F], F]: ...
    def private(self, function: Any = None, *, by: Callable[..., str] | None = None) -> Any:
        """Declare that what a function returns is private. Usable as a decorator, with or without `by`.

        Every opaque value in the result (texts, plain containers, instances' fields) is then known wherever it turns up.
        Works for functions and async functions; the result passes unchanged.

        Args:
            by: returns the owner's id from the function's own arguments: `@monitor.private(by=lambda user_id: user_id)`.
                It also sees a request that loads another user's value. Without it, the current request's principal owns it.

        Raises:
            SettingsError: `function` is not callable, or is a generator.
        """

        def declare(function: F) -> F:
            return private.declare(function, by, self.detection.foreign_content, self.principals, self.ledger)

        return declare if function is None else declare(function)

    def public(self, endpoint: F) -> F:
        """Declare an endpoint that takes and shows what users write for everybody: a board, a lobby. Usable as a decorator.

        Belongs below the router's decorator; the function is returned unchanged. Its answers and frames may name anybody, and
        what passes there is public wherever else it turns up. Credentials, and what was declared private, stay their owner's.

        Raises:
            SettingsError: `endpoint` cannot be called.
        """
        self.detection.foreign_content.public.declare(endpoint)
        return endpoint

    def canary(self, value: str, *, owner: str) -> None:
        """Declare a value that was planted in the stores for the user or tenant `owner`: seen by anybody else, it proves a leak.

        Raises:
            SettingsError: the value is too short to be nobody else's.
        """
        self.detection.canary.add(value, self.principals.named(owner))

    def seal(self, value: object) -> object:
        """Return a value with the current principal's name on it, to be put into a cache or queue; see `unseal`."""
        return self.detection.cache_owner.seal(value)

    def unseal(self, sealed: object, default: object = None) -> object:
        """Return what was sealed; reported when the current principal is another one, and `default` in `block` mode."""
        return self.detection.cache_owner.unseal(sealed, default)

    events = declare_events
    run = begin_run
    queue = declare_queue

    @overload
    def envelope(self, frame: str) -> str: ...

    @overload
    def envelope(self, frame: bytes) -> bytes: ...

    def envelope(self, frame: str | bytes) -> str | bytes:
        """Return a frame that is no JSON object, to be sent so that its delivery is measured to the client.

        Send what it returns. A client that asked for the envelope gets a JSON object whose member `data` holds the frame
        (the clients of this project give it back as it was); everybody else gets the frame itself.
        """
        return WrappedText(frame) if isinstance(frame, str) else WrappedBytes(frame)

    async def deliver(self, user_id: str, frame: str | bytes) -> bool:
        """Send a frame, a JSON object or what `envelope` returns, to a user; it waits for him while he has no connection here.

        It goes out on his latest connection that asked for the envelope, and what waited when he opens one, within the limits
        of `delivery_events`, `delivery_bytes` and `delivery_wait_s`. Only connections of this worker process count.
        Call it on the event loop. Returns whether he had a connection.

        Raises:
            ValueError: the frame is neither.
        """
        return await self.delivery.deliver(self.principals.named(user_id), frame)

    resolution = declare_resolution

    def violations(self, *, synthetic: bool = False) -> list[Violation]:
        """Return the latest violations of this process, oldest first; at most 256.

        Args:
            synthetic: instead, what the detectors reported of planted faults; at most 32.
        """
        return list(self.ledger.planted if synthetic else self.ledger.recent)

    @property
    def patches(self) -> list[Patch]:
        """Every change to a foreign library's object, in force or taken off again."""
        return [*self._patches, *self.integrations.patches, *self.lifecycle.patches]

    # --- what the parts ask -----------------------------------------------------------------------------------------

    @property
    def mode(self) -> Mode:
        """The mode in force; set it at run time to switch the monitor off and on again."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._mode: Mode = mode
        self.is_on = mode != "off"
        self.detection.switches.kill(mode == "off")
        self.detection.stores.is_on = self.is_on

    def principal_of(self, scope: Scope) -> Principal | None:
        """Return the principal of a scope; an extractor that raises is counted and means none."""
        try:
            if self.extractor is None:
                return self.principals.of_credential(scope["headers"])
            id = self.extractor(scope)
            return self.principals.named(id) if id else None
        except Exception as error:
            self.ledger.internal_error("principal", error)
            return None

    def route_template(self, scope: Scope) -> str:
        return self._route_template(scope)

    def request_ended(self, request: RequestContext) -> None:
        self.leaks.request_ended(request)
        if request.fetched is not None:
            self.detection.stores.over(request)

    def request_failed(self, request: RequestContext) -> None:
        """Count a failure, and find out whom else it touched."""
        self.detection.containment.failed(request)

    def serving(self) -> None:
        """Called on the event loop's thread: at the start of the application, else with its first request."""
        self.registry.own_thread()
        self.integrations.serving()
        self.housekeeper.start()
        self.outbox.start()
        self.detection.serving()
        self.loop = asyncio._get_running_loop()
        self.power.serving(self.loop)
        self.lifecycle.serving(self.loop)
        self.served = True
        if self.settings.metrics_port and self._port is None:
            self._port = serve_on_port(self.registry, "0.0.0.0", self.settings.metrics_port, self.settings.metrics_token)

    def started(self) -> None:
        """Called on the event loop's thread when the application is ready and serves nobody yet."""
        self.detection.shared_state.baseline(BASELINE_S)

    def close(self) -> None:
        """Stop the background threads, send what is left (at most 2 s) and take the hooks off."""
        self.detection.close()
        self.uninstrument()
        self.lifecycle.detach()
        self.delivery.close()
        self.flags.close()
        self.housekeeper.close()
        self.outbox.close()
        self.endpoint.close()
        if self._port is not None:
            self._port.close()
        self.registry.close()

    async def aclose(self) -> None:
        """As `close`, off the event loop."""
        await asyncio.to_thread(self.close)

    # --- housekeeping -----------------------------------------------------------------------------------------------

    def _with_health(self, app: Any) -> Any:
        in_place = starlette_instrument.instrument(app, lambda inner: HealthMiddleware(inner, self.lifecycle.endpoint))
        return HealthMiddleware(app, self.lifecycle.endpoint) if in_place is None else app

    def _instrument_engine(self, engine: Any) -> None:
        done = sqlalchemy_instrument.instrument_engine(engine, self.detection)
        self._patches.extend(done.patches)
        self._undo.append(done.undo)
        self.instrumented_engines.append(engine)

    def _show_info(self) -> None:
        """Say that this process watches, and in which mode; again at each tick, because a forked worker starts at zero."""
        if self._shown_mode != self.mode:
            self.registry.gauge(names.MONITOR_INFO, version=__version__, mode=self._shown_mode).set(0.0)
            self._shown_mode = self.mode
        self.registry.gauge(names.MONITOR_INFO, version=__version__, mode=self.mode).set(1.0)

    def _tick(self, now: float) -> None:
        self._show_info()
        if self.is_on:
            self.integrations.look()
            self.detection.tick()
        if self.ledger.latest_finished != self._judged:
            self._judged = self.ledger.latest_finished
            self.registry.gauge(names.MONITOR_LAST_CHECK).set(time.time())
        self.registry.gauge(names.WEBSOCKET_ACTIVE).set(float(len(self.connections)))
        self.registry.gauge(names.RECORD_QUEUE_DEPTH).set(float(len(self.outbox)))
        self.registry.gauge(names.RECORD_SPOOL_BYTES).set(float(self.outbox.spool.used_bytes))
        self.ledger.sweep(now)
        self.power.tick(now)

    def _count_record(self, what: str, n: int) -> None:
        if what in names.RECORD_STATES:
            self.registry.counter(names.RECORDS, state=what).inc(float(n))
        else:
            self.registry.counter(names.MONITOR_DROPPED, reason=what).inc(float(n))


def current_request() -> RequestContext | None:
    """Return the request that the calling code runs for, or None outside any."""
    return CURRENT.get()
