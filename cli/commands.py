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
        "rollout": Command("isolation_monitor.cli.rollout", "Start a rollout at the collector and look at it.", "cli"),
        "migrate": Command("isolation_monitor.cli.migrate", "Bring the collector's database to this version's schema.", "collector"),
        "doctor": Command("isolation_monitor.cli.doctor", "Say what is instrumented in a service, what is not, and why.", "cli"),
        "demo": Command("isolation_monitor.cli.demo", "Bring the whole product up on this machine and break it on purpose.", "demo"),
    }
)
