"""An action: what was asked of which container by whom, and what became of it. The form in which it is kept and sent."""

from __future__ import annotations

import getpass
import os
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from isolation_monitor.collector.clock import rfc3339, utc_now
from isolation_monitor.telemetry.violations import uuid7

Json = dict[str, Any]  # Any: JSON

Deed = Literal["stop", "kill", "remove", "restart", "prune"]
Result = Literal["done", "refused", "failed"]

# What the collector takes: one action that it does not take would hold up all that wait with it.
_LONGEST: Final = {"actor": 200, "host": 300, "command": 2000, "container": 300, "image": 2000, "signal": 20, "reason": 2000}


@dataclass(frozen=True, slots=True)
class Action:
    """One action on one container, or on none where a command was refused as a whole.

    `signal` is the last one that was sent, or that was asked for. `forced`: SIGKILL or removal by force was used or asked for.
    `reason` says in a sentence what happened, or why it was refused and what to do.
    """

    actor: str
    host: str
    command: str
    action: Deed
    result: Result
    reason: str
    container: str | None = None
    container_id: str | None = None
    image: str | None = None
    signal: str | None = None
    forced: bool = False
    id: str = field(default_factory=uuid7)
    time: str = field(default_factory=lambda: rfc3339(utc_now()))

    def as_json(self) -> Json:
        """Return it as the journal keeps it and `POST /v1/container-actions` takes it: texts cut to what fits, and encodable."""
        return asdict(self) | {name: _fitting(getattr(self, name), longest) for name, longest in _LONGEST.items()}


def _fitting(text: str | None, longest: int) -> str | None:
    # A name that somebody typed may hold anything, also bytes that are no text.
    return None if text is None else text.encode("utf-8", "replace").decode().replace("\0", "?")[:longest]


class ActionRefused(Exception):
    """The guard did not do what was asked; the text says why and what to do."""

    def __init__(self, action: Action) -> None:
        super().__init__(action.reason)
        self.action = action


class ActionFailed(Exception):
    """The engine did not do what was asked: it is away, or knows no such container."""

    def __init__(self, action: Action) -> None:
        super().__init__(action.reason)
        self.action = action


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a person or a job of CI, on which host, by which command line."""

    actor: str
    host: str
    command: str

    @classmethod
    def of_this_process(
        cls, actor: str | None = None, environment: Mapping[str, str] = os.environ, arguments: Sequence[str] | None = None
    ) -> Caller:
        """Return who runs this process; `actor` overrides what is found: the CI's user, who used sudo, the account."""
        words = [os.path.basename(sys.argv[0] or "python"), *sys.argv[1:]] if arguments is None else list(arguments)  # noqa: PTH119 - text
        return cls((actor or _actor(environment))[:200], socket.gethostname()[:300], shlex.join(words)[:2000])


def _actor(environment: Mapping[str, str]) -> str:
    if name := environment.get("GITHUB_ACTOR"):
        return f"{name} (GitHub {environment.get('GITHUB_REPOSITORY', '?')}, run {environment.get('GITHUB_RUN_ID', '?')})"
    if name := environment.get("GITLAB_USER_LOGIN"):
        return f"{name} (GitLab {environment.get('CI_PROJECT_PATH', '?')}, job {environment.get('CI_JOB_ID', '?')})"
    try:
        account = getpass.getuser()
    except (KeyError, OSError):  # a number without an account, as in containers
        account = f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"
    sudo = environment.get("SUDO_USER")
    return f"{sudo} (as {account})" if sudo and sudo != account else account
