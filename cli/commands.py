"""The table of sub-commands: where each lives and what it must have installed. Imports none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Command:
    """One sub-command of `isomon`.

    `module` holds either a function of the command's name or a Typer application called `app`; `extra` is the extra of
    the distribution that brings what the module imports.
    """

    module: str
    help: str
    extra: str


COMMANDS: Final[Mapping[str, Command]] = MappingProxyType(
    {
        "gate": Command("isolation_monitor.cli.gate", "Ask a rollout's gate: pass, fail, inconclusive or error.", "cli"),
        "violations": Command("isolation_monitor.cli.violations", "List what was found: kind, grade, both users' hashes, how many.", "cli"),
        "explain": Command("isolation_monitor.cli.explain", "Show both sides of one violation, and which line to change.", "cli"),
        "queues": Command("isolation_monitor.cli.queues", "List the users for whom most events wait now: how many, how long.", "cli"),
        "incidents": Command(
            "isolation_monitor.cli.incidents", "Tell what happened, in order: alerts, violations, rollbacks, users.", "cli"
        ),
        "export": Command("isolation_monitor.cli.export", "Write evidence as lines of JSON or as CloudEvents, to be gone on with.", "cli"),
        "forget": Command("isolation_monitor.cli.forget", "Take one user's evidence away; the other side's stays.", "cli"),
        "ci": Command("isolation_monitor.cli.ci", "Report runs of tests from any CI; tell why they fail and which tests are flaky.", "cli"),
        "rollout": Command(
            "isolation_monitor.cli.rollout", "Apply a rollout's file, start, advance, hold or roll it back, look at it.", "cli"
        ),
        "docker": Command("isolation_monitor.cli.docker.commands", "Stop and remove containers gracefully; find who does not.", "cli"),
        "collector": Command("isolation_monitor.cli.collector", "Serve the collector, over TLS where it has a certificate.", "collector"),
        "probe": Command("isolation_monitor.cli.probe", "Check the endpoints of a file once: table, JSON, exit code.", "collector"),
        "token": Command("isolation_monitor.cli.token", "Make, list and revoke the collector's keys.", "collector"),
        "migrate": Command("isolation_monitor.cli.migrate", "Bring the collector's database to this version's schema.", "collector"),
        "doctor": Command("isolation_monitor.cli.doctor", "Say what is instrumented in a service, what is not, and why.", "cli"),
        "drill": Command("isolation_monitor.cli.drill", "Cause every alert on an invented service; check that each arrives.", "demo"),
        "validate": Command(
            "isolation_monitor.cli.validate", "Watch a service for a day: load, planted faults, drills, gate; a signed report.", "demo"
        ),
        "slo": Command("isolation_monitor.cli.slo", "Check what is promised to users; say how much of each budget is left.", "demo"),
        "demo": Command("isolation_monitor.cli.demo", "Bring the whole product up on this machine and break it on purpose.", "demo"),
    }
)
