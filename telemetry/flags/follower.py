"""The follower: keeps this process's rules as the collector has them, on a thread of its own.

It asks `GET /v1/flags` and is answered when something changed, or after `WAIT_S` when nothing did. The application reads `rules`,
a mapping that is only ever replaced: no lock, no waiting. When the collector is away the last known rules hold without limit, so
that an outage of the monitor changes nothing for users. Falling to `off` after `off_after_s` is for who asks for it, and touches
no flag that is at 100 %. The thread begins with `start` and again in a forked child.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from isolation_monitor.telemetry.collector_address import CollectorAddress
from isolation_monitor.telemetry.flags import saved
from isolation_monitor.telemetry.flags.bucketing import FlagRule
from isolation_monitor.telemetry.flags.rules import FlagRulesError, FlagSet, parse

if TYPE_CHECKING:
    import http.client

    from isolation_monitor.telemetry.settings import Settings

LOGGER: Final = logging.getLogger("isolation_monitor")

WAIT_S: Final = 25
"""How long the collector may hold an answer back while nothing changes."""
TIMEOUT_S: Final = 5.0
"""To connect, and for an answer beyond `WAIT_S`."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
"""Between attempts while the collector is away: once it is back, changes arrive within this."""
LEAST_PERIOD_S: Final = 0.25
"""Between two answers that bring nothing: a proxy that does not wait must not be asked in a circle."""
STALE_AFTER_S: Final = 60.0

_NO_RULES: Final[Mapping[str, FlagRule]] = MappingProxyType({})


class Follower:
    """The rules of one service in one process."""

    def __init__(self, settings: Settings, count: Callable[[str], None], known: Callable[[Mapping[str, FlagRule]], None]) -> None:
        """`count(result)` counts one of `names.FLAG_FETCHES`; `known` is told of the rules when they changed. Neither may raise."""
        self.rules: Mapping[str, FlagRule] = _NO_RULES
        """By key, what is in force. Replaced as a whole, never changed."""
        self.is_ready = False
        """Whether the rules were ever known, from the collector or from the file."""
        self.on_change: list[Callable[[], None]] = []
        """Called on the follower's thread after the rules changed."""
        self._service = settings.service
        self._collector = CollectorAddress.of(settings)
        self._file = Path(settings.flags_cache_file) if settings.flags_cache_file else None
        self._off_after_s = settings.flags_off_after_s
        self._count = count
        self._known = known
        self._set: FlagSet | None = None
        self._etag = ""
        self._has_fallen = False
        self._warned_at: float | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._begin_again()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def _begin_again(self) -> None:
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._heard_at = time.monotonic()

    def _forked(self) -> None:
        # The parent's connection stays open there: the child only forgets it. The rules themselves are as good as the parent's.
        had_thread, was_closing = self._thread is not None, self._closing.is_set()
        self._connection = None
        self._begin_again()
        if was_closing:
            self._closing.set()
        elif had_thread:
            self.start()

    @property
    def age_s(self) -> float:
        """Seconds since the collector last said what the rules are."""
        return time.monotonic() - self._heard_at

    @property
    def is_stale(self) -> bool:
        """Whether nothing was heard for a minute though somebody listens."""
        return self._thread is not None and self.age_s > STALE_AFTER_S

    def start(self) -> None:
        """Read what was kept, and follow the collector from now on; calling it again does nothing."""
        with self._lock:
            if self._thread is not None or self._closing.is_set():
                return
            if self._set is None and self._file is not None and (kept := saved.read(self._file, self._service)) is not None:
                self._take(kept)
            if not self._collector.is_given:
                return
            self._thread = threading.Thread(target=self._run, name="isolation-monitor-flags", daemon=True)
            self._thread.start()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the rules are known, and return whether they are. Not for an event loop's thread."""
        return self.is_ready or (self._collector.is_given and self._changed.wait(timeout_s))

    def close(self) -> None:
        """Stop following. The rules stay."""
        self._closing.set()
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        closing, pause = self._closing, FIRST_PAUSE_S
        while not closing.is_set():
            asked_at = time.monotonic()
            try:
                result = self._ask()
            except Exception as error:
                # Whatever it is: the rules hold, and it is asked again.
                if closing.is_set():
                    break
                self._failed(error)
                closing.wait(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, LONGEST_PAUSE_S)
                continue
            pause = FIRST_PAUSE_S
            self._count(result)
            if result == "unchanged":
                closing.wait(max(0.0, LEAST_PERIOD_S - (time.monotonic() - asked_at)))
        self._disconnect()

    def _ask(self) -> str:
        """Ask once; return `changed` or `unchanged`.

        Raises:
            OSError, http.client.HTTPException: there was no answer.
            FlagRulesError: the answer holds no rules.
        """
        connection = self._connection = self._connection or self._collector.connect(WAIT_S + TIMEOUT_S)
        known = self._set
        query = f"?service={quote(self._service, safe='')}" + (f"&wait={WAIT_S}&after={known.revision}" if known and self._etag else "")
        headers = {"Accept": "application/json"}
        if self._etag:
            headers["If-None-Match"] = self._etag
        self._collector.request(connection, "GET", f"/v1/flags{query}", headers)
        response = connection.getresponse()
        body = response.read(saved.SIZE_LIMIT + 1)
        if response.status == 304:
            self._heard()
            return "unchanged"
        if response.status != 200:
            raise FlagRulesError(f"the collector answered {response.status} at /v1/flags")
        if len(body) > saved.SIZE_LIMIT:
            raise FlagRulesError(f"the rules are larger than {saved.SIZE_LIMIT} bytes")
        found = parse(body)
        if found.refused:
            LOGGER.warning("flags that cannot be read keep their last known rule: %s", dict(found.refused))
        self._etag = response.headers.get("ETag", "")
        completed = found.completed_by(known)
        if known is not None and (completed.rules, completed.revision) == (known.rules, known.revision):
            self._heard()
            return "unchanged"
        self._heard_at = time.monotonic()
        self._take(completed)
        self._keep(body)
        return "changed"

    def _heard(self) -> None:
        self._heard_at = time.monotonic()
        if self._has_fallen and self._set is not None:
            self._take(self._set)

    def _take(self, rules: FlagSet) -> None:
        self._set = rules
        self._has_fallen = False
        self._show(rules.rules)

    def _show(self, rules: Mapping[str, FlagRule]) -> None:
        self._known(rules)
        self.rules = MappingProxyType(dict(rules))
        self.is_ready = True
        self._changed.set()
        for listener in self.on_change:
            with suppress(Exception):
                listener()

    def _keep(self, document: bytes) -> None:
        if self._file is not None:
            try:
                saved.write(self._file, self._service, document)
            except (OSError, ValueError) as error:
                LOGGER.warning("the flags cannot be kept in %s: %s", self._file, error)

    def _failed(self, error: Exception) -> None:
        self._disconnect()
        self._count("failed")
        now = time.monotonic()
        if self._warned_at is None or now - self._warned_at > 60:
            self._warned_at = now
            LOGGER.warning("flags: the collector cannot be asked (%r); users keep what they have", error)
        rules = self._set
        if self._off_after_s and not self._has_fallen and rules is not None and self.age_s > self._off_after_s:
            self._has_fallen = True
            LOGGER.warning("flags: nothing heard for %.0f s; rollouts below 100 %% fall to `off`", self.age_s)
            self._show({key: _fallen(rule) for key, rule in rules.rules.items()})

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _fallen(rule: FlagRule) -> FlagRule:
    """Return what is left of a rule when the collector is away for longer than the application allows."""
    if not rule.enabled or rule.percent >= 100:
        return rule
    return replace(rule, enabled=False, is_stale=True)
