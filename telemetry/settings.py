"""Settings of the monitor: argument > `ISOLATION_*` environment > `[tool.isolation]` in pyproject.toml > default.

Units are in the names (`_s` seconds). Wrong values fail here, at start, with the name, the value and a remedy.
`OTEL_SERVICE_NAME` and `OTEL_SDK_DISABLED` are honoured where no `ISOLATION_*` variable says otherwise.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args
from urllib.parse import urlsplit

from isolation_monitor.telemetry.certificates import tls_context
from isolation_monitor.telemetry.errors import SettingsError
from isolation_monitor.telemetry.names import DRILL_PREFIX

Mode = Literal["off", "monitor", "block"]

PLAIN_HTTP: Final = ("loopback", "anywhere")
HTTP_METRICS: Final = ("auto", "on", "off")
SPOOL_SYNC: Final = ("", "hygiene", "reachable", "crossed")
LIFECYCLE_SIGNALS: Final = ("chain", "off")
DEFAULT_EXCLUDE: Final = ("/healthz", "/readyz", "/livez", "/health", "/favicon.ico", "/static/*")
PREFIX: Final = "ISOLATION_"
HIGHEST_PORT: Final = 65_535
SERVICE_LIMIT: Final = 100
REMEMBERED_AT_LEAST: Final = 1_000
"""Characters of a service's name in a batch of records (docs/records.md)."""


def _setting(default: Any, doc: str, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"doc": doc})


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. Each field is also an environment variable: `leak_grace_s` is `ISOLATION_LEAK_GRACE_S`."""

    service: str = _setting("unknown_service", "Name of the service; on every series and record.")
    mode: Mode = _setting(
        "monitor",
        "`off` does nothing, `monitor` watches, `block` may refuse (opt-in per detector). Read again at run time by `monitor.mode`.",
    )
    collector_url: str | None = _setting(None, "Base URL of the collector, such as `http://127.0.0.1:8400`. Unset: records stay in memory.")
    collector_token: str | None = _setting(
        None, "Bearer token for sending records. `ISOLATION_COLLECTOR_TOKEN_FILE` names a file instead.", secret=True
    )
    collector_plain_http: str = _setting(
        "loopback",
        "Where `http://` is let through, token and evidence readable on the way: `loopback` to this machine alone, `anywhere` also within "
        "a network that you trust, such as one of containers. `https://` is always verified.",
    )
    collector_ca_file: str | None = _setting(
        None, "Certificates (PEM) that the collector's must be signed by. Unset: those that the system trusts."
    )
    collector_client_cert_file: str | None = _setting(
        None, "Certificate and private key of this service (PEM, both in one file), for collectors that ask for one. Unset: none."
    )
    hash_key: str | None = _setting(
        None,
        "Key of the principal hash, shared by workers and replicas. `ISOLATION_HASH_KEY_FILE` names a file instead. "
        "Unset: a key made once per host.",
        secret=True,
    )
    exclude: tuple[str, ...] = _setting(DEFAULT_EXCLUDE, "Paths that are not judged, comma-separated; a trailing `*` matches any rest.")
    identity_fields: tuple[str, ...] = _setting(
        (), "JSON fields of answers and frames that must name the request's principal, comma-separated."
    )
    detectors: tuple[str, ...] = _setting(
        (),
        "Detectors that differ from the shipped state, comma-separated: `shared_state=off`, `foreign_content=block`, "
        "`shared_state=monitor@0.05` (one chance in twenty).",
    )
    looks_per_second: int = _setting(
        500,
        "Requests a second, per process, whose context and shared state are looked at closely (about 10 us each), "
        "and as many messages of connections; the others count as skipped there.",
    )
    run_id_field: str = _setting("run_id", "JSON field of a frame that names its run.")
    connection_id_field: str = _setting(
        "", "Path or query parameter in which a client says its connection's id, where connections have ids of their own. Empty: none."
    )
    event_field: str = _setting("type", "JSON field of a frame that names its event.")
    run_events: tuple[str, ...] = _setting(
        (),
        "Names of a run's events that differ from the shipped ones, comma-separated: `started=RUN_STARTED`, `completed=RUN_FINISHED`, "
        "`failed=RUN_ERROR`, `cancelled=`, `tool_started=`, `tool_ended=`, `others=STEP|TEXT`.",
    )
    run_spans: str = _setting(
        "auto",
        "`auto`: each run and each of its tools is a span (`invoke_agent`, `execute_tool`) where an OpenTelemetry tracer provider is set. "
        "`off`: none, for services whose agent framework makes them already.",
    )
    leak_grace_s: float = _setting(
        0.4, "How long after its request a database connection may stay out before it counts as leaked, seconds."
    )
    task_grace_s: float = _setting(
        5.0, "How long after its request a task, thread or async generator may live on before it counts as leaked, seconds."
    )
    settle_s: float = _setting(1.0, "How long after its run an emitted event may take to be sent before it counts as lost, seconds.")
    stuck_after_s: float = _setting(
        20.0,
        "A run is stuck when it neither emits nor sends an event for so long, seconds; `run.progress()` says that it goes on without. "
        "0: never. Above 25 its page may come later than 30 s after its last event.",
    )
    creation_budget_ms: float = _setting(10.0, "Creation of an instance above this is slow, milliseconds (requirement R3).")
    stall_threshold_ms: float = _setting(100.0, "The event loop stalls when it stands still for longer than this, milliseconds.")
    starvation_threshold_ms: float = _setting(
        1000.0, "A request starves when it waits longer than this for a lock that another principal's request holds, milliseconds."
    )
    trend_window_s: float = _setting(
        600.0, "How far back the steady growth of memory, files, threads, children and tasks is looked for, seconds."
    )
    self_test_interval_s: float = _setting(
        15.0,
        "So often a fault is planted on synthetic principals, one detector after the other, to prove it is seen, seconds. 0: never.",
    )
    suppressions_file: str | None = _setting(
        None, "File of the violations that are accepted for now. Unset: `isolation-suppressions.toml` in the working directory, if there."
    )
    resolution_timeout_s: float = _setting(
        0.5, "How long each source is waited for that is asked which thread a run belongs to, seconds (docs/ids.md)."
    )
    resolution_verify_every: int = _setting(
        100, "One in so many runs that the registry knows is held against the orchestrator and the connection manager as well. 0: none."
    )
    body_limit_bytes: int = _setting(262_144, "Largest body or frame that is read for identity fields; a larger one is counted as skipped.")
    remembered_limit: int = _setting(
        100_000,
        "Private values whose owner this process remembers, as many ids of runs, and at most 10,000 ended runs; beyond it the oldest go. "
        "0.3 to 1 kB each, a run 3. At least 1,000.",
    )
    delivery_events: int = _setting(
        1_000, "Events kept per user until they are acknowledged, on connections that ask for the envelope; beyond it the oldest goes."
    )
    delivery_bytes: int = _setting(4_194_304, "Text of such events kept per user, bytes; beyond it the oldest goes.")
    delivery_wait_s: float = _setting(
        120.0,
        "How long an event waits for its acknowledgement, and for a user who lost his connection, before it counts as unknown or "
        "expired, seconds.",
    )
    delivery_ack_ms: int = _setting(250, "How often clients are asked to acknowledge what they received, milliseconds.")
    revision: str | None = _setting(
        None, "Revision of the service's code, on every record. Unset: `service.version` of `OTEL_RESOURCE_ATTRIBUTES`."
    )
    queue_limit: int = _setting(
        10_000, "Records kept in memory on their way to the disk or, without one, to the collector; beyond it they are dropped and counted."
    )
    spool_dir: str = _setting(
        "auto",
        "Folder in which records wait on disk for the collector, so that they survive the end of the process (docs/records.md). `auto`: "
        "below `$XDG_STATE_HOME`, `~/.local/state` or the temporary folder. In a container name a volume. Empty: none, memory alone.",
    )
    spool_bytes: int = _setting(
        268_435_456,
        "Cap of that folder for the service, all processes together, bytes; beyond it the least grave records go first. 0: no spool.",
    )
    spool_sync: Literal["", "hygiene", "reachable", "crossed"] = _setting(
        "",
        "Violations of this grade and above are on disk before the report of them returns: a few milliseconds each, on an event loop "
        "at most 50 (docs/records.md). Empty: none waits.",
    )
    flags_cache_file: str | None = _setting(
        None, "File that keeps the last known rules of flags, so that they survive a restart while the collector is away (docs/flags.md)."
    )
    flags_off_after_s: float = _setting(
        0.0,
        "Rollouts below 100 % fall to `off` when nothing was heard of the collector for so long, seconds. 0: never, users keep what "
        "they have.",
    )
    metrics_dir: str | None = _setting(None, "Folder of the counters that all workers share. Unset: chosen under the temporary folder.")
    metrics_path: str | None = _setting(
        "/metrics", "Path of the metrics page. An answer of the application's own at this path is never replaced. Empty: none."
    )
    isolation_path: str | None = _setting("/metrics/isolation", "Path of the small page that is scraped each second. Empty: none.")
    metrics_token: str | None = _setting(
        None, "Bearer token that both metrics pages ask for. `ISOLATION_METRICS_TOKEN_FILE` names a file instead.", secret=True
    )
    http_metrics: Literal["auto", "on", "off"] = _setting(
        "auto",
        "Requests by route, method and status, `http_server_request_duration_seconds`: `on` always, `off` never, `auto` unless the "
        "application puts a metric of that name on its own Prometheus page already (docs/slo.md).",
    )
    metrics_port: int = _setting(
        0, "Serve the metrics on a port of their own as well; 0: no. Several workers may share it: one serves the numbers of all."
    )
    livez_path: str | None = _setting(
        "/livez",
        "Path of the answer whether the process lives, once something is declared to `monitor.lifecycle` (docs/lifecycle.md). An answer "
        "of the application's own at this path is never replaced. Empty: none.",
    )
    readyz_path: str | None = _setting("/readyz", "Path of the answer whether the process can serve; as `livez_path`. Empty: none.")
    startupz_path: str | None = _setting("/startupz", "Path of the answer whether the start-up is over; as `livez_path`. Empty: none.")
    health_port: int = _setting(
        0,
        "Serve these three on a port of their own as well, from a thread that answers also while the event loop stands still; 0: no. Of "
        "several workers one has the port, and speaks for itself.",
    )
    live_lag_s: float = _setting(
        10.0, "On `health_port` a process whose event loop has not moved for so long is not live any more, seconds. 0: never."
    )
    startup_hang_s: float = _setting(10.0, "A phase of the start-up hangs when it has not ended after so long, seconds.")
    cleanup_timeout_s: float = _setting(2.0, "How long a step of the clean-up may take before it is forced, seconds.")
    cleanup_limit_s: float = _setting(
        5.0, "How long all steps of the clean-up may take together; what is not done by then is forced, seconds."
    )
    lifecycle_signals: Literal["chain", "off"] = _setting(
        "chain",
        "`chain`: SIGTERM and SIGINT end readiness at once and then do what they did before, the server's own handlers included. `off`: "
        "signals are left alone.",
    )


_SECRETS: Final = frozenset({"collector_token", "hash_key", "metrics_token"})


def load_settings(
    arguments: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    pyproject: Path | None = None,
) -> Settings:
    """Return the settings in force.

    Args:
        arguments: values given in code; `None` values are ignored.
        environ: the environment; `os.environ` when absent.
        pyproject: file whose `[tool.isolation]` table is read; `./pyproject.toml` when absent.

    Raises:
        SettingsError: a value is unknown, of the wrong type or out of range.
    """
    environ = os.environ if environ is None else environ
    known = {f.name: f for f in fields(Settings)}
    values: dict[str, Any] = {}
    for name, value in _pyproject_table(pyproject or Path("pyproject.toml")).items():
        if name not in known:
            raise SettingsError(f"[tool.isolation] has an unknown key {name!r}: known keys are {', '.join(sorted(known))}")
        values[name] = _coerce(name, value, f"[tool.isolation] {name}")
    if "service" not in values and environ.get("OTEL_SERVICE_NAME"):
        values["service"] = environ["OTEL_SERVICE_NAME"]
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        values["mode"] = "off"
    for name in known:
        variable = PREFIX + name.upper()
        if variable in environ:
            values[name] = _coerce(name, environ[variable], f"{variable}={_shown(name, environ[variable])}")
        elif name in _SECRETS and environ.get(variable + "_FILE"):
            values[name] = _secret_from_file(variable + "_FILE", environ[variable + "_FILE"])
    for name, value in (arguments or {}).items():
        if name not in known:
            raise SettingsError(f"unknown setting {name!r}: known settings are {', '.join(sorted(known))}")
        if value is not None:
            values[name] = _coerce(name, value, f"{name}={_shown(name, value)}")
    settings = Settings(**values)
    _check_collector(settings)
    _check_lifecycle(settings)
    return settings


def _check_collector(settings: Settings) -> None:
    """Raises SettingsError where records would cross a network that anybody may read, without anybody having said so."""
    if settings.collector_plain_http not in PLAIN_HTTP:
        raise SettingsError(f"collector_plain_http={settings.collector_plain_http!r} is no choice: use one of {', '.join(PLAIN_HTTP)}")
    url = urlsplit(settings.collector_url or "")
    if url.scheme == "http" and settings.collector_plain_http == "loopback" and not is_loopback(url.hostname or ""):
        raise SettingsError(
            f"collector_url goes to {url.hostname!r} over plain http: evidence and its token could be read on the way; use https://, or "
            "set ISOLATION_COLLECTOR_PLAIN_HTTP=anywhere where the network is trusted"
        )
    if url.scheme == "https":
        _check_certificates("collector_ca_file", settings.collector_ca_file, None, "certificates in PEM")
        _check_certificates("collector_client_cert_file", None, settings.collector_client_cert_file, "a certificate and its key in PEM")


def _check_lifecycle(settings: Settings) -> None:
    """Raises SettingsError where a path or a port would never be answered, or a time would be over before it begins."""
    taken: dict[str, str] = {}
    for name in ("livez_path", "readyz_path", "startupz_path"):
        path = getattr(settings, name)
        if path and not path.startswith("/"):
            raise SettingsError(f"{name}={path!r} is no path: begin it with a slash, or leave it empty for none")
        if path in taken:
            raise SettingsError(f"{name}={path!r} is {taken[path]} as well: give each answer a path of its own")
        if path:
            taken[path] = name
    for name in ("health_port", "metrics_port"):
        if getattr(settings, name) > HIGHEST_PORT:
            raise SettingsError(f"{name}={getattr(settings, name)} is no port: use 1 to {HIGHEST_PORT}, or 0 for none")
    if settings.health_port and settings.health_port == settings.metrics_port:
        raise SettingsError(f"health_port={settings.health_port} is metrics_port as well: one of them would never answer; use another port")
    for name in ("startup_hang_s", "cleanup_timeout_s", "cleanup_limit_s"):
        if not getattr(settings, name):
            raise SettingsError(f"{name}=0 leaves no time at all: use seconds above 0")


def _check_certificates(name: str, ca_file: str | None, client_cert_file: str | None, wanted: str) -> None:
    path = ca_file or client_cert_file
    if path is None:
        return
    try:
        tls_context(ca_file, client_cert_file)
    except OSError as error:
        raise SettingsError(f"{name}={path!r} cannot be used ({error}): name a readable file with {wanted}") from error


def is_loopback(host: str) -> bool:
    """Return whether a host of an address is this machine; names are not looked up."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(name: str, value: object) -> str:
    return "(secret)" if name in _SECRETS else repr(value)


def _pyproject_table(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("isolation", {})
    except OSError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        # The host's broken pyproject.toml is not ours to complain about: its own tools will.
        return {}
    return table if isinstance(table, dict) else {}


def _secret_from_file(variable: str, path: str) -> str:
    try:
        value = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}={path!r} cannot be read ({error}): name a readable text file") from error
    if not value:
        raise SettingsError(f"{variable}={path!r} is empty: write the secret into it")
    return value


def _coerce(name: str, value: Any, where: str) -> Any:
    default = {f.name: f.default for f in fields(Settings)}[name]
    if name == "mode":
        if value not in get_args(Mode):
            raise SettingsError(f"{where} is not a mode: use one of {', '.join(get_args(Mode))}")
        return value
    if name == "http_metrics":
        if value not in HTTP_METRICS:
            raise SettingsError(f"{where} is no choice: use one of {', '.join(HTTP_METRICS)}")
        return value
    if name == "spool_sync":
        if value not in SPOOL_SYNC:
            raise SettingsError(f"{where} is no grade: use one of {', '.join(SPOOL_SYNC[1:])}, or leave it empty")
        return value
    if name == "lifecycle_signals":
        if value not in LIFECYCLE_SIGNALS:
            raise SettingsError(f"{where} is no choice: use one of {', '.join(LIFECYCLE_SIGNALS)}")
        return value
    if isinstance(default, tuple):
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)) or not all(isinstance(i, str) for i in items):
            raise SettingsError(f"{where} is not a list of names: separate them by commas")
        return tuple(i.strip() for i in items if i.strip())
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        try:
            number: float = type(default)(value)
        except (TypeError, ValueError):
            kind = "a whole number" if isinstance(default, int) else "a number such as 0.5"
            raise SettingsError(f"{where} is not {kind}") from None
        if not 0 <= number < float("inf"):
            raise SettingsError(f"{where} is out of range: use a number of 0 or more")
        if name == "remembered_limit" and number < REMEMBERED_AT_LEAST:
            raise SettingsError(f"{where} would forget what is in use: use {REMEMBERED_AT_LEAST} or more")
        return number
    if not isinstance(value, str):
        raise SettingsError(f"{where} is not text: write it as a string")
    if name == "service" and not value.strip():
        raise SettingsError(f"{where} is empty: name the service, for example ISOLATION_SERVICE=chat")
    if name == "service" and len(value) > SERVICE_LIMIT:
        raise SettingsError(f"{where} has {len(value)} characters, a collector takes {SERVICE_LIMIT}: use a shorter name")
    if name == "service" and value.startswith(DRILL_PREFIX):
        # Alerts of such services reach nobody.
        raise SettingsError(f"{where} begins with {DRILL_PREFIX!r}, the name of alert drills: call the service otherwise")
    if name == "collector_url" and value and not value.startswith(("http://", "https://")):
        raise SettingsError(f"{where} is not a URL: use one such as http://127.0.0.1:8400")
    return value or None if default is None or name.endswith("_path") else value
