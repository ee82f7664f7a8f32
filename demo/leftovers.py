"""What remains of a story that failed: the stack's folder ends with it, so what explains the failure is copied out before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from isolation_monitor.demo.collector_api import Json
from isolation_monitor.demo.errors import DemoError
from isolation_monitor.demo.stack import Stack
from isolation_monitor.demo.users import UNREACHABLE

VIOLATIONS_LIMIT = 1_000


async def keep(stack: Stack, folder: Path) -> None:
    """Copy every process's log, the faults' log and the collector's newest violations to `folder`, in place of earlier ones."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(stack.layout.logs, folder)
    if stack.layout.fault_log.exists():
        shutil.copy(stack.layout.fault_log, folder)
    violations: list[Json] | str
    try:
        violations = await stack.parts.collector.violations(limit=VIOLATIONS_LIMIT)
    except (DemoError, *UNREACHABLE) as error:
        violations = f"the collector did not give them: {error!r}"
    (folder / "violations.json").write_text(json.dumps(violations, indent=1) + "\n")
