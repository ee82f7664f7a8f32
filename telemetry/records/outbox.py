"""The outbox: records wait here, bounded, until the collector has acknowledged them.

`put` is a bound check and a `deque.append`: it never blocks and never raises. One background thread posts batches to
`POST /v1/records`; what cannot be kept is counted by reason. Answers decide what happens next (docs/records.md):
200 acknowledged; 400, 413, 415, 422 final; everything else is tried again, with growing pauses, for ever.
"""

from __future__ import annotations

import atexit
import gzip
import http.client
import json
import os
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from isolation_monitor.telemetry.collector_address import CollectorAddress
from isolation_monitor.telemetry.violations import iso_time

BATCH_LIMIT: Final = 200
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 60.0
TIMEOUT_S: Final = 5.0
EXIT_FLUSH_S: Final = 2.0
FINAL_REFUSALS: Final = frozenset({400, 413, 415, 422})
_GATHER_S: Final = 0.05
"""A batch waits this long for company: a burst costs one request, a single violation is still out in well under a second."""


class Outbox:
    """Bounded queue of records with one sending thread, started by the first record or statement."""

    def __init__(
        self,
        service: str,
        url: str | None,
        token: str | None,
        limit: int,
        count: Callable[[str, int], None],
    ) -> None:
        """`count(what, n)` counts `queued`, `sent`, `failed`, `queue_full`, `rejected` and `shutdown`."""
        self._service = service
        self._collector = CollectorAddress(url, token)
        self._limit = limit
        self._count = count
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        # Also after fork: the parent keeps and sends what it queued; the child starts empty with its own thread.
        self._queue: deque[dict[str, Any]] = deque()
        self._statement: deque[dict[str, Any]] = deque(maxlen=1)
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closing = False
        self._in_flight = 0

    def __len__(self) -> int:
        return len(self._queue) + self._in_flight

    def put(self, record: dict[str, Any]) -> None:
        """Queue one record; drop and count it when the queue is full. Without a collector nothing is queued."""
        if not self._collector.is_given or self._closing:
            return
        if len(self._queue) >= self._limit:
            self._count("queue_full", 1)
            return
        self._queue.append(record)
        self._count("queued", 1)
        if self._thread is None:
            self._start()
        self._wake.set()

    def tell(self, statement: dict[str, Any]) -> None:
        """Send how things stand now, with the next batch; a newer statement takes the place of one that still waits.

        It takes no room from records, and is not sent again when it did not get through: the next one says it better.
        """
        if not self._collector.is_given or self._closing:
            return
        self._statement.append(statement)
        if self._thread is None:
            self._start()
        self._wake.set()

    def close(self, flush_s: float = EXIT_FLUSH_S) -> None:
        """Send what is left, for at most `flush_s` seconds, and stop. What remains is counted as dropped."""
        thread = self._thread
        self._closing = True
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(flush_s)
        if self._queue:
            self._count("shutdown", len(self._queue))
            self._queue.clear()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="isolation-monitor-outbox", daemon=True)
                self._thread.start()
                atexit.register(self.close)

    def _run(self) -> None:
        pause = FIRST_PAUSE_S
        connection: http.client.HTTPConnection | None = None
        while True:
            self._wake.wait()
            self._wake.clear()
            if not self._closing:
                time.sleep(_GATHER_S)
            while self._queue or self._statement:
                batch = [self._queue.popleft() for _ in range(min(BATCH_LIMIT, len(self._queue)))]
                self._in_flight = len(batch)
                everything = [*batch, self._statement.popleft()] if self._statement else batch
                try:
                    if connection is not None:
                        connection, outcome = self._post_on_kept(connection, everything)
                    else:
                        connection = self._collector.connect(TIMEOUT_S)
                        outcome = self._post(connection, everything)
                except Exception:
                    # A broken connection, a bad answer or a record that JSON cannot carry: same treatment, none may end the thread.
                    outcome = "retry"
                if outcome == "retry":
                    _close(connection)
                    connection = None
                    self._count("failed", len(batch))
                    self._put_back(batch)
                    if self._closing:
                        return
                    if not batch:
                        # A statement alone is lost, and must not make the next violation wait.
                        continue
                    # The event is not waited on: records that arrive meanwhile must not shorten the pause.
                    time.sleep(pause * random.uniform(0.5, 1.0))
                    pause = min(pause * 2, LONGEST_PAUSE_S)
                else:
                    pause = FIRST_PAUSE_S
                    self._count(outcome, len(batch))
                self._in_flight = 0
            if self._closing:
                _close(connection)
                return

    def _put_back(self, batch: list[dict[str, Any]]) -> None:
        room = max(0, self._limit - len(self._queue))
        if room < len(batch):
            self._count("queue_full", len(batch) - room)
        self._queue.extendleft(reversed(batch[:room]))

    def _post_on_kept(self, connection: http.client.HTTPConnection, batch: list[dict[str, Any]]) -> tuple[http.client.HTTPConnection, str]:
        """Send on a connection kept from the last batch, or on a new one if the collector has closed it meanwhile.

        Servers close idle connections after seconds; that is no failure, and waiting for a retry would delay the page.
        Sending twice is safe: the collector knows each record by its id.
        """
        try:
            return connection, self._post(connection, batch)
        except (OSError, http.client.HTTPException):
            connection.close()
            fresh = self._collector.connect(TIMEOUT_S)
            return fresh, self._post(fresh, batch)

    def _post(self, connection: http.client.HTTPConnection, batch: list[dict[str, Any]]) -> str:
        """Send one batch; return `sent`, `rejected` (final) or `retry`."""
        body = json.dumps(
            {
                "schema": "records/1",
                "service": self._service,
                "instance": f"{socket.gethostname()}:{os.getpid()}",
                "sent_at": iso_time(time.time()),
                "records": batch,
            },
            default=str,
        ).encode()
        headers = {"Content-Type": "application/json"}
        if len(body) > 4096:
            body = gzip.compress(body, 1)
            headers["Content-Encoding"] = "gzip"
        self._collector.request(connection, "POST", "/v1/records", headers, body)
        response = connection.getresponse()
        answer = response.read()
        if response.status == 200:
            rejected = len(json.loads(answer).get("rejected", ()))
            if rejected:
                self._count("rejected", rejected)
            return "sent"
        return "rejected" if response.status in FINAL_REFUSALS else "retry"


def _close(connection: http.client.HTTPConnection | None) -> None:
    if connection is not None:
        connection.close()
