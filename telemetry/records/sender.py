"""The sender: one thread that posts what waits in the spool to `POST /v1/records`, until each batch is answered for.

200 acknowledges. 400, 413, 415 and 422 are final: the batch is a dead letter (of several records, but for 415, two halves are tried
first, so that one bad record costs no others).
401 and 403 are tried again slowly, somebody has to correct the token; 429 and 503 when `Retry-After` says; everything else,
also no answer at all, with growing pauses, for ever. An answer that is not the collector's own is no acknowledgement.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import random
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from isolation_monitor.telemetry.collector_address import CollectorAddress
from isolation_monitor.telemetry.records.batches import Batch
from isolation_monitor.telemetry.records.quiet_log import QuietLog
from isolation_monitor.telemetry.records.spool import ADOPT_EVERY_S, Spool, Store
from isolation_monitor.telemetry.violations import iso_time

FINAL_REFUSALS: Final = frozenset({400, 413, 415, 422})
LONGEST_RETRY_AFTER_S: Final = 600.0
"""A collector that asks for a longer pause is asked again after this one."""
_PERHAPS_ONE_OF_THEM: Final = frozenset({400, 413, 422})
"""Refusals that one record of a batch, or their number, may be the reason of."""
_PASSED_LIMIT: Final = 100
_REASON_LIMIT: Final = 500


@dataclass(frozen=True, slots=True)
class Patience:
    """Pauses between attempts, in seconds. Each is shortened at random by up to half, so that workers do not come all at once."""

    first_s: float = 0.5
    longest_s: float = 60.0
    refused_s: float = 60.0
    """After 401 and 403."""
    timeout_s: float = 5.0
    """How long connecting, sending and waiting for the answer may each take."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the collector said; `status` 0: nothing, or nothing of its own."""

    status: int = 0
    text: bytes = b""
    retry_after_s: float = 0.0
    rejected: tuple[tuple[int, str], ...] = ()


class Sender:
    """Sends what is in the spool, and the newest statement with it, on a thread of its own."""

    def __init__(
        self, service: str, instance: str, collector: CollectorAddress, spool: Spool, count: Callable[[str, int], None],
        log: QuietLog, patience: Patience,
    ) -> None:  # fmt: skip
        """`count(what, n)` counts `sent`, `failed` and `rejected`."""
        self._service = service
        self._instance = instance
        self._collector = collector
        self._spool = spool
        self._count = count
        self._log = log
        self._patience = patience
        self.statement: deque[dict[str, Any]] = deque(maxlen=1)
        """How things stand now: goes with the next batch, and is not sent again. Any: JSON."""
        self.wake = threading.Event()
        """Set when there is something new to send."""
        self._closing = threading.Event()
        self._passed: set[tuple[Store, int]] = set()
        """Batches that the collector failed on: others are tried first, so that none of them holds up the rest."""
        self._connection: http.client.HTTPConnection | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Start the thread, unless it runs already; whether it does now. Called by one thread alone."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="isolation-monitor-sender", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # No more threads are to be had now, or the interpreter is ending.
                return False
            self._thread = thread
        return True

    def end(self, timeout_s: float) -> None:
        """End as soon as the spool is empty or one attempt fails; wait for it at most so long."""
        self._closing.set()
        self.wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            try:
                return self._send_all()
            except Exception as error:
                # Nothing of ours may end the thread.
                self._log.warn("sender", "records could not be sent: %r", error)
                if self._closing.wait(self._patience.first_s):
                    return None

    def _send_all(self) -> None:
        pause_s = self._patience.first_s
        try:
            while True:
                self.wake.clear()
                found = self._next()
                statement = self.statement.popleft() if self.statement else None
                if found is None and statement is None:
                    if self._closing.is_set():
                        return
                    self.wake.wait(ADOPT_EVERY_S)
                    continue
                answer = self._attempt(found[1] if found else None, statement)
                if answer.status in _PERHAPS_ONE_OF_THEM and found is not None and found[1].records > 1:
                    if self._spool.split(*found):
                        continue
                    # The disk lets nothing be changed now: the batch stays, and is tried again after a pause.
                elif answer.status == 200 or answer.status in FINAL_REFUSALS:
                    pause_s = self._patience.first_s
                    if found is not None:
                        self._settle(*found, answer)
                    continue
                self._disconnect()
                if self._closing.is_set():
                    return
                if found is None:
                    # A statement alone is lost, and must not make the next violation wait.
                    continue
                self._count("failed", found[1].records)
                # What arrives meanwhile must not shorten the pause, so it is not waited for.
                self._closing.wait(self._pause(found, answer, pause_s))
                pause_s = min(pause_s * 2, self._patience.longest_s)
        finally:
            self._disconnect()

    def _next(self) -> tuple[Store, Batch] | None:
        found = self._spool.next(self._passed)
        if found is None and self._passed:
            self._passed.clear()
            found = self._spool.next(self._passed)
        return found

    def _attempt(self, batch: Batch | None, statement: dict[str, Any] | None) -> _Answer:
        try:
            text = b"[]" if batch is None else batch.text()
            body = self._body(text, self._instance if batch is None else batch.instance, statement)
            return self._post_on_kept(body, batch.records if batch else 0)
        except zlib.error:
            # Its checksum was right: it was written so, and will never be read, nor divided.
            return _Answer(415, b"the batch cannot be read")
        except Exception as error:
            # A broken connection or a bad answer: same treatment, none may end the thread.
            self._log.warn("away", "the collector cannot be reached (%s): records wait", type(error).__name__)
            return _Answer()

    def _body(self, text: bytes, instance: str, statement: dict[str, Any] | None) -> bytes:
        if statement is not None:
            text = text[:-1] + (b"," if len(text) > 2 else b"") + json.dumps(statement, default=str).encode() + b"]"
        head = {"schema": "records/1", "service": self._service, "instance": instance, "sent_at": iso_time(time.time())}
        return json.dumps(head).encode()[:-1] + b', "records": ' + text + b"}"

    def _post_on_kept(self, body: bytes, records: int) -> _Answer:
        """Send on the connection kept from the last batch, or on a new one if the collector has closed it meanwhile.

        Servers close idle connections after seconds; that is no failure, and waiting for a retry would delay the page.
        Sending twice is safe: the collector knows each record by its id.
        """
        headers = {"Content-Type": "application/json"}
        if len(body) > 4096:
            body = gzip.compress(body, 1)
            headers["Content-Encoding"] = "gzip"
        if self._connection is not None:
            try:
                return self._post(self._connection, headers, body, records)
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException):
                self._disconnect()
        self._connection = self._collector.connect(self._patience.timeout_s)
        return self._post(self._connection, headers, body, records)

    def _post(self, connection: http.client.HTTPConnection, headers: dict[str, str], body: bytes, records: int) -> _Answer:
        self._collector.request(connection, "POST", "/v1/records", headers, body)
        response = connection.getresponse()
        text = response.read()
        if response.status == 200:
            reply = json.loads(text)
            rejected = tuple((int(one["index"]), str(one.get("reason", ""))) for one in reply["rejected"])
            # A statement is the last of the list, and no record.
            return _Answer(200, rejected=tuple(one for one in rejected if 0 <= one[0] < records))
        return _Answer(response.status, text, _retry_after_s(response.headers.get("Retry-After")))

    def _settle(self, store: Store, batch: Batch, answer: _Answer) -> None:
        if answer.status == 200:
            # As ever: what was named in the answer counts as sent and as rejected.
            self._count("sent", batch.records)
            if answer.rejected:
                self._refused(batch, 200, answer.rejected)
        else:
            reason = answer.text[:_REASON_LIMIT].decode(errors="replace")
            self._refused(batch, answer.status, tuple((index, reason) for index in range(batch.records)))
        self._spool.done(store, batch)

    def _refused(self, batch: Batch, status: int, refused: tuple[tuple[int, str], ...]) -> None:
        self._count("rejected", len(refused))
        self._log.warn("refused", "the collector refused %d records for good (%d): %s", len(refused), status, refused[0][1])
        with contextlib.suppress(zlib.error, ValueError):
            records = json.loads(batch.text())
            self._spool.bury(status, refused[0][1][:_REASON_LIMIT], [records[index] for index, _ in refused if index < len(records)])

    def _pause(self, found: tuple[Store, Batch], answer: _Answer, pause_s: float) -> float:
        """Return how long to wait after an attempt that failed."""
        if answer.status in (401, 403):
            self._log.warn("token", "the collector refuses the token (%d): records wait, correct ISOLATION_COLLECTOR_TOKEN", answer.status)
            pause_s = self._patience.refused_s
        elif answer.status >= 500 and answer.status != 503:
            # Perhaps it is this batch that it cannot digest.
            if len(self._passed) >= _PASSED_LIMIT:
                self._passed.clear()
            self._passed.add((found[0], found[1].number))
        return max(pause_s * random.uniform(0.5, 1.0), answer.retry_after_s if answer.status in (429, 503) else 0.0)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _retry_after_s(value: str | None) -> float:
    """Return the seconds of a `Retry-After` header, which holds a number or a date; 0 where it holds neither.

    >>> _retry_after_s("7")
    7.0
    """
    if value is None:
        return 0.0
    try:
        wanted = float(value) if value.strip().isdecimal() else (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return 0.0
    return min(max(wanted, 0.0), LONGEST_RETRY_AFTER_S)
