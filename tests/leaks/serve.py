"""Serve one case in a process of its own: `python -m tests.leaks.serve --case NAME --variant buggy --monitor two-lines`.

It prints one line of JSON with the port when it is ready, serves until its standard input says `stop` or ends (or SIGTERM
comes), gives the monitor `--settle` seconds, and prints one more line: the violations and the counts of checks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import uvicorn

from tests.leaks import catalogue
from tests.leaks.case import Built, Case

VIOLATIONS_LIMIT = 5_000


def main() -> None:
    arguments = _arguments()
    cases = catalogue.cases_of(arguments.module) if arguments.module else catalogue.all_cases()
    case = next(case for case in cases if case.name == arguments.case)
    # Only the report goes to standard output: whatever the application or a library prints goes to standard error.
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    made = case.build(arguments.variant)
    built = made if isinstance(made, Built) else Built(made)
    with tempfile.TemporaryDirectory(prefix="leaks-") as folder:
        if arguments.monitor == "off":
            app, monitor, seen = built.app, None, []
        else:
            app, monitor, seen = _instrumented(case, built, Path(folder), annotated=arguments.monitor == "annotated")
        _serve(case, app, arguments.port, arguments.settle if monitor else 0.0, report)
        answer = _findings(monitor, seen) if monitor else {"violations": [], "checks": {}}
        if monitor:
            monitor.close()
    report.write(json.dumps(answer) + "\n")
    report.close()


def _instrumented(case: Case, built: Built, folder: Path, annotated: bool) -> tuple[Any, Any, list[Any]]:
    """The two lines and the extractor, as a user would write them."""
    from isolation_monitor.telemetry import IsolationMonitor

    monitor = IsolationMonitor.from_env(service=f"leaks-{case.name}", metrics_dir=str(folder), hash_key="leaks")
    app = monitor.instrument(built.app, engine=built.engine)

    @monitor.principal
    def principal(scope: Any) -> str | None:
        user = case.users.of_scope(scope)
        return user.id if user else None

    if annotated and case.declarations:
        case.declarations(monitor, built)
    seen: list[Any] = []
    monitor.ledger.on_violation.append(lambda violation: seen.append(violation) if len(seen) < VIOLATIONS_LIMIT else None)
    return app, monitor, seen


def _serve(case: Case, app: Any, port: int, settle_s: float, report: Any) -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(256)
    # Rather than uvicorn's own timeout: a task that never ends (a bug of some cases) must not hold up the report.
    options: dict[str, Any] = {"log_level": "warning", "lifespan": "auto", "timeout_graceful_shutdown": 1, **case.server}
    # Longer than clients keep a connection: a request must not meet its end on a busy machine.
    options.setdefault("timeout_keep_alive", 60)
    server = uvicorn.Server(uvicorn.Config(app, **options))

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wait_for_stop() -> None:
            sys.stdin.readline()
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=wait_for_stop, daemon=True).start()
        serving = asyncio.create_task(server.serve([listener]))
        # uvicorn says only by this attribute that it is ready.
        while not server.started and not serving.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        if serving.done():
            raise SystemExit("the server did not start")
        report.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")
        report.flush()
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        await asyncio.sleep(settle_s)
        server.should_exit = True
        await serving

    # uvicorn raises a captured signal again once it has shut down: by then there is only the report to write.
    signal.signal(signal.SIGTERM, lambda *_: None)
    config = server.config
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(run())


def _findings(monitor: Any, seen: list[Any]) -> dict[str, Any]:
    """The violations, each kind of one grade and summary once with its number, and the counts of checks by detector."""
    found: dict[tuple[str, str, str, bool], dict[str, Any]] = {}
    for violation in list(seen):
        key = (violation.kind, violation.grade, violation.summary, violation.synthetic)
        if key in found:
            found[key]["count"] += 1
        else:
            record = violation.as_record()
            wanted = ("kind", "grade", "summary", "synthetic", "resource", "victim", "offender", "detail")
            found[key] = {**{name: record[name] for name in wanted}, "count": 1}
    checks: dict[str, dict[str, int]] = {}
    for (detector, result), cell in monitor.ledger._checks.items():
        if count := int(cell.values[cell.index]):
            checks.setdefault(detector, {})[result] = count
    return {"violations": list(found.values())[:500], "checks": checks}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", required=True)
    parser.add_argument("--module", help="module of the case; found when absent")
    parser.add_argument("--variant", choices=["buggy", "fixed"], default="buggy")
    parser.add_argument("--monitor", choices=["off", "two-lines", "annotated"], default="two-lines")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--settle", type=float, default=1.2, help="seconds between stop and report")
    return parser.parse_args()


if __name__ == "__main__":
    main()
