"""GitHub Actions and GitLab CI: the shells that run our snippets, and what each makes of an exit code.

Sources: their workflow-syntax documents. A step of GitHub runs under `bash -e {0}`; with a failed step, later ones run only
when their `if` calls failure() or always(). A job of GitLab fails at the first line that does, unless the code is in
`allow_failure: exit_codes`, which makes it a warning. The scripts run for real; only `pip` and `isomon rollout` are noted
instead of run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SHIM = """#!/bin/sh
echo "{name} $*" >> "$NOTED"
{real}
"""


@dataclass
class Runner:
    """A machine that runs snippets; `noted` are the commands that were asked for instead of run."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tools = self.folder / "bin"
        tools.mkdir()
        isomon = Path(sys.executable).with_name("isomon")
        real = {"pip": "exit 0", "isomon": f'test "$1" = rollout || exec {isomon} "$@"'}
        for name, what in real.items():
            (tools / name).write_text(_SHIM.format(name=name, real=what))
            (tools / name).chmod(0o755)
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("ISOMON_", "GITHUB_"))}
        self.environment = clean | {"PATH": f"{tools}:{os.environ['PATH']}", "NOTED": str(self.folder / "noted")}

    def run(self, script: str, **environment: str) -> int:
        # GitHub fills its own expressions in before the shell sees the script.
        script = re.sub(r"\$\{\{.*?\}\}", "4711", script)
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script],
            cwd=self.folder, env=self.environment | environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        return done.returncode

    @property
    def noted(self) -> list[str]:
        file = self.folder / "noted"
        return file.read_text().splitlines() if file.exists() else []


def github_job(steps: list[dict[str, Any]], runner: Runner, **environment: str) -> tuple[bool, list[str]]:
    """Run a job's steps; return whether it succeeded, and which steps ran (by id or the first word of the command)."""
    outputs: dict[str, dict[str, str]] = {}
    ran, ok = [], True
    for number, step in enumerate(steps):
        if not _is_due(step.get("if"), ok, outputs):
            continue
        output, summary = runner.folder / f"output-{number}", runner.folder / f"summary-{number}.md"
        output.touch()
        code = runner.run(step["run"], GITHUB_OUTPUT=str(output), GITHUB_STEP_SUMMARY=str(summary), **environment)
        if "id" in step:
            outputs[step["id"]] = dict(line.split("=", 1) for line in output.read_text().splitlines())
        ran.append(step.get("id", step["run"].split()[0]))
        ok = ok and code == 0
    return ok, ran


def _is_due(text: str | None, ok: bool, outputs: Mapping[str, Mapping[str, str]]) -> bool:
    if text is None:
        return ok
    due = True if re.search(r"\b(failure|always|success)\(\)", text) else ok
    for part in text.split("&&"):
        part = part.strip()
        if part in ("failure()", "success()", "always()"):
            due = due and {"failure()": not ok, "success()": ok, "always()": True}[part]
            continue
        found = re.fullmatch(r"steps\.(\w+)\.outputs\.(\w+) == '(\w+)'", part)
        assert found is not None, f"an expression that this test does not know: {part}"
        due = due and outputs.get(found[1], {}).get(found[2]) == found[3]
    return due


def gitlab_job(job: Mapping[str, Any], runner: Runner, **environment: str) -> str:
    """Run a job; return its status."""
    code = runner.run("\n".join(job["script"]), **environment)
    if code == 0:
        return "success"
    return "warning" if code in job.get("allow_failure", {}).get("exit_codes", ()) else "failed"
