"""What the doctor finds: what of a service is watched, what is not, and why. Pure: whoever calls it asks the network and prints."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, Literal

from isolation_monitor.telemetry.instrument import host_http_metrics
from isolation_monitor.telemetry.instrument import sqlalchemy as sqlalchemy_instrument
from isolation_monitor.telemetry.instrument.asgi import IsolationMiddleware
from isolation_monitor.telemetry.records import dead_letters

if TYPE_CHECKING:
    from isolation_monitor.telemetry.instrument.patches import Patch
    from isolation_monitor.telemetry.monitor import IsolationMonitor

Level = Literal["ok", "note", "warning", "error"]

PACKAGES: Final = (
    "isolation-monitor",
    "starlette",
    "fastapi",
    "uvicorn",
    "gunicorn",
    "sqlalchemy",
    "greenlet",
    "asyncpg",
    "psycopg",
    "aiosqlite",
    "prometheus-client",
    "opentelemetry-sdk",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `check` is a stable name for scripts; `remedy` says what to do, empty where nothing is to be done."""

    level: Level
    check: str
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class CollectorAnswer:
    """What the collector said to an empty batch: `status` is HTTP's, None when it could not be reached (`error` says why)."""

    status: int | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What lies outside the process, as far as it was asked.

    Attributes:
        workers: processes that will serve; None when nobody said.
        collector: None when it was not asked.
        max_connections: by pool name, what the database server allows; None where it could not be asked.
    """

    workers: int | None = None
    collector: CollectorAnswer | None = None
    max_connections: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the doctor has to say."""

    service: str
    mode: str
    python: str
    packages: dict[str, str]
    findings: tuple[Finding, ...]
    patches: tuple[Patch, ...] = ()

    @property
    def is_well(self) -> bool:
        return all(finding.level != "error" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values; `schema` is `doctor/1`."""
        return {
            "schema": "doctor/1",
            "ok": self.is_well,
            "service": self.service,
            "mode": self.mode,
            "python": self.python,
            "packages": self.packages,
            "findings": [asdict(finding) for finding in self.findings],
            "patches": [asdict(patch) for patch in self.patches],
        }


def diagnose(monitor: IsolationMonitor | None, app: Any, surroundings: Surroundings | None = None) -> Report:
    """Judge an application, as it would be served, and its monitor (None: none was found in the process)."""
    around = surroundings or Surroundings()
    packages = _packages()
    if monitor is None:
        missing = Finding(
            "error",
            "application",
            "no IsolationMonitor exists in this process: nothing is watched",
            "add the two lines of the quick start: IsolationMonitor.from_env() and monitor.instrument(app, engine=engine)",
        )
        return Report("", "off", platform.python_version(), packages, (missing,))
    findings = (
        *_application(monitor, app),
        *_engines(monitor),
        *_pools(monitor, around),
        *_metrics(monitor, app),
        *_principals(monitor),
        *_suppressions(monitor),
        *_collector(monitor, around),
        *_spool(monitor),
        *_lifecycle(monitor, app),
    )
    return Report(monitor.settings.service, monitor.mode, platform.python_version(), packages, findings, tuple(monitor.patches))


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _application(monitor: IsolationMonitor, app: Any) -> list[Finding]:
    if monitor.mode == "off":
        return [
            Finding(
                "error",
                "mode",
                "the mode is off: nothing is watched",
                "unset ISOLATION_MODE (and OTEL_SDK_DISABLED), or set ISOLATION_MODE=monitor",
            )
        ]
    findings = [Finding("ok", "mode", f"the mode is {monitor.mode}")]
    if monitor.app is None:
        return [
            *findings,
            Finding("error", "application", "monitor.instrument() was never called: no request is watched", "call monitor.instrument(app)"),
        ]
    if isinstance(monitor.app, IsolationMiddleware) and app is not monitor.app:
        return [
            *findings,
            Finding(
                "error",
                "application",
                "the application that is served is not the one that instrument() returned: no request is watched",
                "serve the returned object: app = monitor.instrument(app)",
            ),
        ]
    if monitor.app is not app:
        return [
            *findings,
            Finding(
                "warning",
                "application",
                "the object that is served is not the instrumented one; that is right only when it wraps it",
                "call monitor.instrument() on the outermost application, or make sure that requests reach the instrumented one",
            ),
        ]
    how = "wrapped" if isinstance(app, IsolationMiddleware) else "instrumented in place"
    return [*findings, Finding("ok", "application", f"{type(app).__module__}.{type(app).__qualname__} is {how}")]


def _engines(monitor: IsolationMonitor) -> list[Finding]:
    findings = []
    # A patch that waits for a part of the library to be imported is in order: nothing is there yet to be watched.
    refused = [p for p in monitor.patches if p.library == "sqlalchemy" and not p.active and not p.note.startswith("waits ")]
    watched = [p for p in monitor.patches if p.library == "sqlalchemy" and p.active]
    for patch in refused:
        remedy = "use SQLAlchemy 2.0 or 2.1" if "not supported" in patch.note else "report this with the text above"
        findings.append(Finding("error", "engine", patch.note or "an engine's hooks were taken off again", remedy))
    for engine in monitor.instrumented_engines:
        if not refused:
            findings.append(Finding("ok", "engine", f"the engine of {sqlalchemy_instrument.name_of_any(engine)} is watched"))
    if not refused:
        for name in sqlalchemy_instrument.engines_seen():
            findings.append(
                Finding(
                    "warning" if watched else "error",
                    "engine",
                    f"{'a further' if watched else 'an'} engine of {name} exists and was not passed: its sessions are not watched",
                    "pass it: monitor.instrument(app, engines=[...])" if watched else "pass it: monitor.instrument(app, engine=engine)",
                )
            )
    return findings or [Finding("note", "engine", "no SQLAlchemy engine exists in this process: no sessions to watch")]


def _pools(monitor: IsolationMonitor, around: Surroundings) -> list[Finding]:
    findings = []
    workers = around.workers or 1
    assumed = "" if around.workers else " (assumed: say --workers N or set WEB_CONCURRENCY)"
    for engine in monitor.instrumented_engines:
        name = sqlalchemy_instrument.name_of_any(engine)
        if name not in around.max_connections:
            continue
        allowed, own = around.max_connections[name], sqlalchemy_instrument.pool_limit(engine)
        if own is None:
            findings.append(Finding("note", "pool", f"the pool of {name} has no limit of its own", "give it pool_size and max_overflow"))
        elif allowed is None:
            findings.append(Finding("note", "pool", f"the database of {name} could not be asked for its max_connections"))
        elif own * workers > allowed:
            findings.append(
                Finding(
                    "error",
                    "pool",
                    f"the pools of {name} may open {own} connections x {workers} workers = {own * workers}{assumed}, "
                    f"the database allows {allowed} (max_connections)",
                    "lower pool_size + max_overflow or the workers, raise max_connections, or put a pooler between",
                )
            )
        else:
            findings.append(
                Finding("ok", "pool", f"the pools of {name} may open {own} x {workers} = {own * workers} of {allowed} connections{assumed}")
            )
    return findings


def _metrics(monitor: IsolationMonitor, app: Any) -> list[Finding]:
    settings = monitor.settings
    findings = []
    folder = monitor.registry.directory
    if folder is None:
        findings.append(
            Finding(
                "error",
                "metrics folder",
                f"the folder for counters ({settings.metrics_dir or 'chosen under the temporary folder'}) cannot be written: "
                "each worker shows only its own numbers",
                "set ISOLATION_METRICS_DIR to a folder that all workers may write",
            )
        )
    else:
        findings.append(Finding("ok", "metrics folder", "the workers of this host can share their counters"))
    paths = _route_paths(app)
    if monitor.host_owns_metrics_path or (settings.metrics_path and settings.metrics_path in paths):
        findings.append(
            Finding(
                "warning",
                "metrics page",
                f"the application has a {settings.metrics_path} of its own, which is never replaced: ours is not served there",
                f"scrape {settings.isolation_path}/all, or set ISOLATION_METRICS_PATH to a free path",
            )
        )
    if settings.isolation_path and settings.isolation_path in paths:
        findings.append(
            Finding(
                "warning",
                "metrics page",
                f"the application has a {settings.isolation_path} of its own, which our page hides",
                "set ISOLATION_ISOLATION_PATH to a free path",
            )
        )
    findings += _http_metrics(monitor, app)
    if not settings.metrics_token:
        findings.append(
            Finding("note", "metrics page", "the metrics pages ask for no token", "set ISOLATION_METRICS_TOKEN where strangers reach them")
        )
    return findings


def _http_metrics(monitor: IsolationMonitor, app: Any) -> list[Finding]:
    """Who measures requests by route; SLOs, dashboards and the alert on silent checks read it."""
    choice, host = monitor.settings.http_metrics, host_http_metrics.found(app)
    if choice == "on" and host is not None:
        text = f"requests are measured twice under one name: by the monitor and by {host}"
        return [Finding("warning", "http metrics", text, "set ISOLATION_HTTP_METRICS=auto, or take the other one off")]
    if choice == "off" or (choice == "auto" and host is not None):
        text = f"the monitor does not measure requests by route; {host or 'as far as we see nothing'} does"
        remedy = "give the series of that page a label service in its scrape job: SLOs, dashboards and alerts read them by service"
        return [Finding("note" if host else "warning", "http metrics", text, remedy)]
    return []


def _route_paths(app: Any) -> set[str]:
    inner = app.app if isinstance(app, IsolationMiddleware) else app
    return {path.rstrip("/") for route in getattr(inner, "routes", None) or () if isinstance(path := getattr(route, "path", None), str)}


def _principals(monitor: IsolationMonitor) -> list[Finding]:
    findings = []
    if monitor.hasher.key_is_shared:
        findings.append(Finding("ok", "hash key", "the hash key is set"))
    else:
        findings.append(
            Finding(
                "warning",
                "hash key",
                "no hash key is set: each host makes its own, so one user has another hash on each host",
                "set one ISOLATION_HASH_KEY (or ISOLATION_HASH_KEY_FILE) for all workers and replicas",
            )
        )
    if monitor.extractor is None:
        findings.append(
            Finding(
                "warning",
                "principal",
                "no principal extractor is declared: each credential is one principal, and a user with two tokens is two",
                "declare @monitor.principal",
            )
        )
    else:
        findings.append(Finding("ok", "principal", "a principal extractor is declared"))
    if monitor.identity is None:
        findings.append(
            Finding(
                "note",
                "identity fields",
                "no identity fields are declared: answers that name another user are not seen",
                'declare monitor.identity_fields("user_id") or set ISOLATION_IDENTITY_FIELDS',
            )
        )
    else:
        findings.append(Finding("ok", "identity fields", f"identity fields: {', '.join(monitor.identity.fields)}"))
    return findings


def _suppressions(monitor: IsolationMonitor) -> list[Finding]:
    """Suppressions that no longer suppress, and those that have suppressed nothing since this process started."""
    suppressions = monitor.suppressions
    findings = []
    for entry in suppressions.expired():
        findings.append(
            Finding(
                "warning",
                "suppressions",
                f"{suppressions.path}:{entry.line}: the suppression of {entry.kind} at {entry.site} expired on {entry.expires}: "
                "it suppresses nothing any more",
                "fix the defect, or decide anew and set a later day",
            )
        )
    for entry in suppressions.unused():
        if monitor.served:
            findings.append(
                Finding(
                    "note",
                    "suppressions",
                    f"{suppressions.path}:{entry.line}: {entry.kind} at {entry.site} has suppressed nothing in this process",
                    "remove it when the defect is fixed",
                )
            )
    in_force = len(suppressions.entries) - len(suppressions.expired())
    if in_force:
        hits = sum(entry.hits for entry in suppressions.entries)
        findings.append(Finding("note", "suppressions", f"{suppressions.path}: {in_force} in force, {hits} violations suppressed so far"))
    return findings


def _collector(monitor: IsolationMonitor, around: Surroundings) -> list[Finding]:
    settings, answer = monitor.settings, around.collector
    if not settings.collector_url:
        return [Finding("warning", "collector", "no collector is set: evidence stays in memory and is lost", "set ISOLATION_COLLECTOR_URL")]
    if not settings.collector_token:
        return [
            Finding(
                "error",
                "collector",
                f"no token for the collector at {settings.collector_url} is set: it will refuse all records",
                "set ISOLATION_COLLECTOR_TOKEN or ISOLATION_COLLECTOR_TOKEN_FILE",
            )
        ]
    if answer is None:
        return [Finding("note", "collector", f"the collector at {settings.collector_url} was not asked")]
    if answer.status is None:
        return [
            Finding(
                "error",
                "collector",
                f"the collector at {settings.collector_url} cannot be reached: {answer.error}",
                "start it, or correct ISOLATION_COLLECTOR_URL",
            )
        ]
    if answer.status in (401, 403):
        return [
            Finding(
                "error",
                "collector",
                f"the collector at {settings.collector_url} refuses the token ({answer.status})",
                "use the token for sending (COLLECTOR_SEND_TOKEN of the collector)",
            )
        ]
    if answer.status >= 300:
        return [
            Finding(
                "error",
                "collector",
                f"{settings.collector_url} answers {answer.status} to a batch of records: it is no collector, or it is not ready",
                "look at its /readyz",
            )
        ]
    return [Finding("ok", "collector", f"the collector at {settings.collector_url} accepts records")]


def _spool(monitor: IsolationMonitor) -> list[Finding]:
    """Where records wait for the collector, and what lies there."""
    settings, folder = monitor.settings, monitor.outbox.folder
    if not settings.collector_url:
        return []
    if folder is None:
        text = "records wait for the collector in memory alone: a crash loses those that were not sent"
        return [Finding("warning", "spool", text, "set ISOLATION_SPOOL_DIR to a folder on a disk that lasts")]
    try:
        folder.try_to_write()
    except OSError as error:
        text = f"the spool {folder.path} cannot be written ({error}): records wait in memory alone, and a crash loses them"
        return [Finding("error", "spool", text, "make it writable for the service's user, or set ISOLATION_SPOOL_DIR to another folder")]
    found, megabytes = folder.contents(), settings.spool_bytes / 1e6
    findings = [Finding("ok", "spool", f"records wait in {folder.path}: {found.bytes / 1e6:.1f} of {megabytes:.0f} MB")]
    if folder.is_passing():
        text = f"the spool {folder.path} lies on a file system that ends with the container or the machine: records survive crashes only"
        findings.append(Finding("note", "spool", text, "set ISOLATION_SPOOL_DIR to a folder on a volume"))
    if found.bytes > 0.8 * settings.spool_bytes:
        text = f"the spool {folder.path} is nearly full: the least grave records go first"
        findings.append(Finding("warning", "spool", text, "find out why the collector takes nothing, or raise ISOLATION_SPOOL_BYTES"))
    if found.dead_letters:
        text = f"the collector refused records for good: they are in {folder.path}/{dead_letters.NAME}"
        findings.append(Finding("warning", "spool", text, "read the reasons there; remove the file when they are dealt with"))
    if found.corrupt:
        text = f"{found.corrupt} damaged files were set aside in {folder.path}"
        findings.append(Finding("warning", "spool", text, "look at the disk; they are removed after a week"))
    return findings


def _lifecycle(monitor: IsolationMonitor, app: Any) -> list[Finding]:
    """What is declared of start-up, health and clean-up, and which health paths the application keeps."""
    life = monitor.lifecycle
    if not life.is_declared:
        return []
    declared = "; ".join(f"{len(names)} {kind}: {', '.join(names)}" for kind, names in life.declared().items() if names)
    findings = [Finding("ok", "lifecycle", declared or "the application has started")]
    for path in sorted(life.endpoint.paths.keys() & _route_paths(app)):
        text = f"the application has a {path} of its own, which is never replaced: ours is not answered there"
        remedy = f"take it off, or set ISOLATION_{life.endpoint.paths[path].upper()}_PATH to a free path"
        findings.append(Finding("note", "lifecycle", text, remedy))
    if monitor.settings.lifecycle_signals == "chain":
        text = "SIGTERM and SIGINT are heard from the start-up to the clean-up, and then handled as before"
        findings.append(Finding("note", "lifecycle", text))
    return findings
