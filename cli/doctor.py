"""`isomon doctor APP`: load an application in this process, as its server would, and say what of it is watched.

Exit codes: 0 all well, 1 something is not watched or will not work, 2 the application cannot be loaded.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import importlib
import json
import os
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from isolation_monitor.telemetry.collector_address import CollectorAddress
from isolation_monitor.telemetry.doctor import CollectorAnswer, Report, Surroundings, diagnose
from isolation_monitor.telemetry.instrument import sqlalchemy as sqlalchemy_instrument
from isolation_monitor.telemetry.monitor import IsolationMonitor

EXIT_FINDINGS: Final = 1
EXIT_USAGE: Final = 2
ASKING_LIMIT_S: Final = 5.0
_MARKS: Final = {"ok": "ok", "note": "note", "warning": "WARNING", "error": "ERROR"}


def doctor(
    app: Annotated[str, typer.Argument(metavar="APP", help="The application as its server names it: module:attribute.")],
    app_dir: Annotated[Path, typer.Option("--app-dir", help="Folder to import it from.")] = Path(),
    factory: Annotated[bool, typer.Option("--factory", help="APP is a function that makes the application.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes that will serve; default: WEB_CONCURRENCY.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON (schema doctor/1).")] = False,
) -> None:
    """Say what is instrumented in a service, what is not, and why. Imports the application; starts no server.

    Exit codes: 0 all well, 1 at least one error was found, 2 the application cannot be loaded.
    """
    loaded = _load(app, app_dir, factory)
    monitor = _monitor_of(loaded)
    surroundings = Surroundings(
        workers=workers or _workers_from_environment(),
        collector=_ask_collector(monitor) if monitor is not None else None,
        max_connections=_ask_databases(monitor) if monitor is not None else {},
    )
    report = diagnose(monitor, loaded, surroundings)
    print(json.dumps(report.as_json(), indent=2) if as_json else as_text(app, report))
    if monitor is not None:
        monitor.close()
    if not report.is_well:
        raise typer.Exit(EXIT_FINDINGS)


def as_text(app: str, report: Report) -> str:
    """Return the report for a terminal."""
    lines = [
        f"{app}: service {report.service or 'unknown'}, mode {report.mode}, Python {report.python}",
        "  " + ", ".join(f"{name} {version}" for name, version in report.packages.items()),
        "",
    ]
    for finding in report.findings:
        lines.append(f"{_MARKS[finding.level]:>8}  {finding.check}: {finding.text}")
        if finding.remedy:
            lines.append(f"{'':>8}  -> {finding.remedy}")
    lines += ["", "Changes to other libraries' objects:"]
    for patch in report.patches:
        state = "active" if patch.active else "not active"
        kind = "reversible" if patch.reversible else "not reversible"
        note = f" ({patch.note})" if patch.note else ""
        lines.append(f"          {patch.library} {patch.version}: {patch.target}: {state}, {kind}{note}")
    if not report.patches:
        lines.append("          none")
    count = {level: sum(finding.level == level for finding in report.findings) for level in ("error", "warning")}
    lines += ["", f"{count['error']} errors, {count['warning']} warnings"]
    return "\n".join(lines)


def _load(app: str, app_dir: Path, factory: bool) -> Any:
    module_name, _, attribute = app.partition(":")
    if not module_name or not attribute:
        _refuse(f"{app!r} names no application: write module:attribute, such as chat.app:app")
    if not app_dir.is_dir():
        _refuse(f"--app-dir {app_dir} is no folder")
    sys.path.insert(0, str(app_dir.resolve()))
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        _refuse(f"{module_name} cannot be imported: there is no module {error.name!r} (from {app_dir.resolve()}; see --app-dir)")
    except Exception as error:
        _refuse(f"{module_name} cannot be imported: {type(error).__name__}: {error}")
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError:
        _refuse(f"{module_name} has no attribute {attribute!r}")
    if factory:
        try:
            return found()
        except Exception as error:
            _refuse(f"{app}() failed: {type(error).__name__}: {error}")
    return found


def _refuse(text: str) -> Any:
    print(text, file=sys.stderr)
    raise typer.Exit(EXIT_USAGE)


def _monitor_of(app: Any) -> IsolationMonitor | None:
    """Return the monitor that instrumented `app`, else any that exists: a service rarely says where it keeps it."""
    monitors = [thing for thing in gc.get_objects() if type(thing) is IsolationMonitor]
    return next((monitor for monitor in monitors if monitor.app is app), monitors[0] if monitors else None)


def _workers_from_environment() -> int | None:
    value = os.environ.get("WEB_CONCURRENCY", "")
    return int(value) if value.isdecimal() and int(value) > 0 else None


def _ask_collector(monitor: IsolationMonitor) -> CollectorAnswer | None:
    """Send an empty batch: it stores nothing, and the answer tells whether records would be accepted."""
    settings = monitor.settings
    if not settings.collector_url or not settings.collector_token:
        return None
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    batch = {"schema": "records/1", "service": settings.service, "instance": "doctor", "sent_at": now, "records": []}
    # As the records go: the same certificates, and nothing of the environment's proxies.
    collector = CollectorAddress.of(settings)
    try:
        with closing(collector.connect(ASKING_LIMIT_S)) as connection:
            collector.request(connection, "POST", "/v1/records", {"Content-Type": "application/json"}, json.dumps(batch).encode())
            return CollectorAnswer(connection.getresponse().status)
    except (OSError, http.client.HTTPException) as error:
        return CollectorAnswer(None, str(error) or type(error).__name__)


def _ask_databases(monitor: IsolationMonitor) -> dict[str, int | None]:
    """Ask each watched PostgreSQL how many connections it allows, through the service's own engine, so with its own options."""
    answers: dict[str, int | None] = {}
    for engine in monitor.instrumented_engines:
        if engine.dialect.name == "postgresql":
            answers[sqlalchemy_instrument.name_of_any(engine)] = _within_limit(engine)
    return answers


def _within_limit(engine: Any) -> int | None:
    """Return the server's `max_connections`; None when it does not say in time."""
    answer: list[int] = []

    def ask() -> None:
        try:
            if engine.dialect.is_async:
                answer.append(asyncio.run(_ask_async(engine)))
            else:
                with engine.connect() as connection:
                    answer.append(int(connection.exec_driver_sql("SHOW max_connections").scalar_one()))
        except Exception as error:
            print(f"{sqlalchemy_instrument.name_of_any(engine)}: {type(error).__name__}: {error}", file=sys.stderr)

    # A thread, because a synchronous driver may wait for a dead server for minutes.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ASKING_LIMIT_S)
    return answer[0] if answer else None


async def _ask_async(engine: Any) -> int:
    try:
        async with engine.connect() as connection:
            return int((await connection.exec_driver_sql("SHOW max_connections")).scalar_one())
    finally:
        # Its connections belong to this event loop, which ends here.
        await engine.dispose()
