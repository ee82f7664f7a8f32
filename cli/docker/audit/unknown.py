"""What the audit cannot know: values of variables. A word keeps a mark where one stands."""

from __future__ import annotations

import re
from typing import Final

HOLE: Final = "\ufffc"
"""Stands where a text has a value that is only known when it runs."""

_ENGINE = re.compile(r"(?:^|_|\b)(docker|podman|nerdctl)(?:_?(?:cmd|command|bin|binary|exe|executable|path|cli|prog|program|tool))?$")
_ANY_ENGINE = re.compile(r"^(?:container|oci)_?(?:engine|runtime|cli|tool|cmd|command|bin|exe)$|^engine(?:_?(?:cmd|bin|cli))?$")
_COMPOSE = re.compile(r"(?:^|_|\b)(?:docker_?)?compose(?:_?(?:cmd|command|bin|exe|cli|path))?$")


def value_of_unknown(name: str) -> str:
    """Return what a variable of this name stands for: the engine's program where the name says so, else a hole.

    >>> value_of_unknown("DOCKER_BIN"), value_of_unknown("self.compose_cmd"), value_of_unknown("name") == HOLE
    ('docker', 'docker-compose', True)
    """
    last = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.rsplit(".", 1)[-1]).lower().strip("_")
    if found := _ENGINE.search(last):
        return found[1]
    if _ANY_ENGINE.search(last):
        return "docker"
    return "docker-compose" if _COMPOSE.search(last) else HOLE
