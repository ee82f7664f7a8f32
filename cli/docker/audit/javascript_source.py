"""Finds what is dangerous in JavaScript and TypeScript."""

from __future__ import annotations

from collections.abc import Iterator

from isolation_monitor.cli.docker.audit import code_calls
from isolation_monitor.cli.docker.audit.code_tokens import JAVASCRIPT
from isolation_monitor.cli.docker.audit.rules import Hit


def hits(text: str) -> Iterator[Hit]:
    """Yield what is found in a source text."""
    yield from code_calls.hits(text, JAVASCRIPT)
