"""The rules of the audit: what is found, why it is dangerous and what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that the audit finds; `id` is what a suppression names."""

    id: str
    title: str
    why: str
    instead: str


_RULES: Final = (
    Rule(
        "forced-remove",
        "a container is removed by force",
        "A running container gets SIGKILL at once: what it writes is cut off, its clients' connections break, and nobody learns why.",
        "isomon docker rm --stop NAME, or: docker stop -t 10 NAME && docker rm NAME",
    ),
    Rule(
        "kill",
        "a container is killed",
        "SIGKILL cannot be caught: no request is finished, no file flushed, no lock given back, no child process ended.",
        "isomon docker stop NAME, or: docker stop -t 10 NAME; to send a signal: docker kill --signal=SIGTERM NAME",
    ),
    Rule(
        "stop-without-grace",
        "a container is stopped without time to end",
        "With a grace of 0 s SIGKILL follows SIGTERM at once, so a stop is a kill.",
        "isomon docker stop NAME, or a grace of at least 10 s: docker stop -t 10 NAME, stop_grace_period: 10s",
    ),
    Rule(
        "kill-as-stop-signal",
        "the signal that stops the container is SIGKILL",
        "Every stop, also the one of an orderly deployment, becomes a kill.",
        "the signal that the program ends on, mostly SIGTERM (leave the setting out)",
    ),
    Rule(
        "forced-remove-volume",
        "a volume is removed by force",
        "Data goes without a question, and an error that would have told of a wrong name is swallowed.",
        "docker volume rm NAME, of a volume that this script made, after its containers are gone",
    ),
    Rule(
        "forced-remove-network",
        "a network is removed by force",
        "Containers that still use it lose their connections, and an error that would have told of a wrong name is swallowed.",
        "docker network rm NAME, after its containers are stopped",
    ),
    Rule(
        "forced-remove-image",
        "an image is removed by force",
        "Tags that others use, and images of stopped containers, go with it.",
        "docker image rm NAME:TAG, of the tag that this script made",
    ),
    Rule(
        "prune-without-asking",
        "everything unused is removed without a question",
        "Unused means stopped just now, by anybody: other jobs' containers, networks, caches and volumes of this host go with it.",
        "isomon docker prune --label KEY=VALUE, which removes only stopped containers that carry this label",
    ),
    Rule(
        "compose-down-volumes",
        "the project's volumes are removed with it",
        "Databases and uploads go with the containers; on the wrong host or project there is no way back.",
        "docker compose down; remove a volume by name where that is meant: docker volume rm NAME",
    ),
    Rule(
        "compose-forced-remove",
        "a project's containers are removed without a question",
        "What is removed depends on what happens to be stopped at that moment, and nobody is asked.",
        "docker compose down, which stops (SIGTERM, 10 s) and removes what the project has",
    ),
    Rule(
        "suppression-without-reason",
        "a finding is allowed without a reason",
        "Nobody can tell later whether it still holds, so it allows nothing.",
        "isomon: allow RULE -- why it is safe here",
    ),
)

RULES: Final[Mapping[str, Rule]] = MappingProxyType({rule.id: rule for rule in _RULES})


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One place: `path` as asked for, `line` from 1, the last line of the command, the rule's id, and the words that were found.

    `allowed` is the reason of a comment that allows it; None: it is not allowed.
    """

    path: str
    line: int
    end_line: int
    rule: str
    what: str
    allowed: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One place in a text: lines from 1, the rule's id and the words that were found.

    `start_line` is where the statement around it begins, if that is not `line`: a comment there allows it, too.
    """

    line: int
    end_line: int
    rule: str
    what: str
    start_line: int | None = None
