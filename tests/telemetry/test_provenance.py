"""What requests read is kept while it may explain something, and no longer: hosts read much."""

from __future__ import annotations

import gc
import weakref
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.context import CURRENT, RequestContext
from isolation_monitor.telemetry.evidence import events_of
from isolation_monitor.telemetry.provenance import FETCHED_LIMIT, KEPT_REQUESTS, ROWS_LIMIT, Stores, was_fetched
from tests.telemetry.acting import Acting
from tests.telemetry.conftest import Client, user_of


def over(acting: Acting, stores: Stores, *, open_runs: int = 0) -> tuple[RequestContext, weakref.ref[set[str]]]:
    """Return a request that is over and a reference to what it has read: a set, since lists and tuples have no weak ones."""
    request = acting.request("ann")
    row = {"private-4711-value"}
    stores.read("sql", "db", None, [row], request)
    request.open_runs, request.finished = open_runs, True
    stores.over(request)
    return request, weakref.ref(row)


def test_reads_explain_a_moment_longer_than_the_request_and_are_let_go_then(monitor: IsolationMonitor) -> None:
    acting, stores = Acting(monitor), Stores()

    request, row = over(acting, stores)

    assert was_fetched(request, "private-4711-value")
    stores.let_go(1e12)
    assert row() is None
    assert not was_fetched(request, "private-4711-value")
    assert any("read from sql, 1 times" in str(event) for event in events_of(request))


def test_what_a_run_may_still_send_is_kept_until_it_ends(monitor: IsolationMonitor) -> None:
    acting, stores = Acting(monitor), Stores()

    request, row = over(acting, stores, open_runs=1)

    stores.let_go(1e12)
    assert row() is not None
    request.open_runs = 0
    stores.let_go(2e12)
    assert row() is None


def test_however_many_end_at_once_few_keep_what_they_read(monitor: IsolationMonitor) -> None:
    acting, stores = Acting(monitor), Stores()

    rows = [over(acting, stores, open_runs=n % 2)[1] for n in range(3 * KEPT_REQUESTS)]

    assert sum(row() is not None for row in rows) <= KEPT_REQUESTS


def test_a_request_that_reads_on_and_on_keeps_nothing_of_it(monitor: IsolationMonitor) -> None:
    """A stream that asks the database each second lives for hours: it may have read anything by then, and holds none of it."""
    request, stores = Acting(monitor).request("ann"), Stores()
    rows: list[weakref.ref[set[str]]] = []

    for n in range(2 * FETCHED_LIMIT):
        row = {f"private-value-{n}"}
        stores.read("sql", "db", None, [row], request)
        rows.append(weakref.ref(row))
    del row

    assert [reference for reference in rows if reference() is not None] == []
    assert was_fetched(request, "private-value-0")
    assert any(f"read from sql, {FETCHED_LIMIT} times" in str(event) for event in events_of(request))


def test_a_read_of_very_many_rows_is_not_kept(monitor: IsolationMonitor) -> None:
    request, stores = Acting(monitor).request("ann"), Stores()
    row = {"private-4711-value"}
    stores.read("sql", "db", None, [row] * (ROWS_LIMIT + 1), request)
    stores.read("sql", "db", None, [row], request)
    reference = weakref.ref(row)

    del row

    assert reference() is None
    assert was_fetched(request, "private-4711-value")


async def test_a_served_request_does_not_keep_the_hosts_rows(monitor: IsolationMonitor) -> None:
    rows: list[weakref.ref[set[str]]] = []

    async def read(request: Request) -> JSONResponse:
        row = {f"private-value-{len(rows)}"}
        monitor.detection.stores.read("sql", "db", None, [row])
        rows.append(weakref.ref(row))
        return JSONResponse({"value": min(row), "known": CURRENT.get() is not None})

    monitor.principal(user_of)
    app: Any = monitor.instrument(Starlette(routes=[Route("/read", read)]))
    client = Client(app)
    for _ in range(10):
        assert (await client.get("/read", user="ann")).json()["known"]

    monitor.detection.stores.let_go(1e12)
    gc.collect()
    assert [row() for row in rows] == [None] * 10
