"""The file in which an application keeps the last known rules, so that they survive its restart while the collector is away."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Final

from isolation_monitor.telemetry.flags.rules import FlagRulesError, FlagSet, parse

LOGGER: Final = logging.getLogger("isolation_monitor")
SIZE_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a document of rules; a larger one is no such document."""


def read(path: Path, service: str) -> FlagSet | None:
    """Return the rules that were kept for `service`; None where there are none that can be used."""
    try:
        with path.open("rb") as file:
            text = file.read(SIZE_LIMIT + 1)
        if len(text) > SIZE_LIMIT:
            raise FlagRulesError("it is too large")
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("service") != service:
            raise FlagRulesError("it is not this service's")
        return parse(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, FlagRulesError) as error:
        LOGGER.warning("the flags kept in %s cannot be used: %s", path, error)
        return None


def write(path: Path, service: str, document: bytes) -> None:
    """Keep a document of rules, whole or not at all, for this user's eyes only: it may name internal users.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
        ValueError: the document is no JSON object.
    """
    text = json.dumps({**json.loads(document), "service": service}).encode()
    descriptor, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(unfinished).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(unfinished).unlink()
        raise
