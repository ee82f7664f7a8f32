"""Run one case in one variant: the service in a process of its own, its users here."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from tests.leaks.case import Case, Variant, no_parts
from tests.leaks.service import Service

ROOT = Path(__file__).parents[2]
Watch = Literal["off", "two-lines", "annotated"]
PATIENCE_S = 60.0
"""How long a service may take to start, and again to report: a second on an idle machine."""


@dataclass
class Run:
    """What came of one run. `violations` are those on real principals; `drilled` those that the monitor planted itself."""

    case: str
    variant: Variant
    watch: Watch
    harm: list[str]
    violations: list[dict[str, Any]] = field(default_factory=list)
    drilled: list[dict[str, Any]] = field(default_factory=list)
    checks: dict[str, dict[str, int]] = field(default_factory=dict)
    log: str = ""

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """Violations that lower the score: a false alarm in a fixed twin."""
        return [v for v in self.violations if v["grade"] in ("crossed", "reachable")]

    def detected(self, expects: str) -> list[dict[str, Any]]:
        return [v for v in self.violations if v["grade"] in expects.split("|")]

    def kinds(self, expects: str) -> list[str]:
        return sorted({f"{v['kind']}:{v['grade']}" for v in self.detected(expects)})


def missing(case: Case) -> str | None:
    """Return the first needed module that is not here."""
    return next((name for name in case.needs if importlib.util.find_spec(name) is None), None)


def run(case: Case, variant: Variant, watch: Watch) -> Run:
    """Serve the case, drive it, stop it; return harm and violations.

    Raises:
        RuntimeError: the service did not start, or ended without a report.
    """
    with (
        (case.parts or no_parts)() as environment,
        tempfile.TemporaryFile() as log,
        _served(case, variant, watch, environment, log) as served,
    ):
        service = Service(served.port, case.users, environment)
        try:
            harm = asyncio.run(_drive(case, service))
        except Exception as error:
            log.seek(0)
            error.add_note(f"the service's log ends: {log.read().decode('utf-8', 'replace')[-3000:]}")
            raise
        found = served.stop()
        log.seek(0)
        violations = found["violations"]
        return Run(
            case.name,
            variant,
            watch,
            harm,
            [v for v in violations if not v["synthetic"]],
            [v for v in violations if v["synthetic"]],
            found["checks"],
            log.read().decode("utf-8", "replace")[-8000:],
        )


async def _drive(case: Case, service: Service) -> list[str]:
    try:
        return list(await case.drive(service))
    finally:
        await service.aclose()


class _Served:
    def __init__(self, process: subprocess.Popen[str], log: IO[bytes]) -> None:
        self._process = process
        self._log = log
        self.port = int(self._line("did not start")["port"])

    def stop(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write("stop\n")
            self._process.stdin.close()
        return self._line("ended without a report")

    def _line(self, trouble: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        watchdog = threading.Timer(PATIENCE_S, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise RuntimeError(f"the service {trouble}: {self._log.read().decode('utf-8', 'replace')[-4000:]}")
        found: dict[str, Any] = json.loads(line)
        return found


@contextlib.contextmanager
def _served(case: Case, variant: Variant, watch: Watch, environment: Mapping[str, str], log: IO[bytes]) -> Iterator[_Served]:
    command = [sys.executable, "-m", "tests.leaks.serve", "--case", case.name, "--module", case.build.__module__, "--variant", variant]
    command += ["--monitor", watch, "--settle", str(case.settle_s)]
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("ISOLATION_", "OTEL_"))}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**quiet, **environment, "PYTHONWARNINGS": "default"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        yield _Served(process, log)
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
