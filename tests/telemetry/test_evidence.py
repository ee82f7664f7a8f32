"""What a record says beside the finding: complete enough to act on, and without a raw value in any field."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, Violation, evidence, names, stacks
from isolation_monitor.telemetry.context import CURRENT, RequestContext
from isolation_monitor.telemetry.ledger import FULL_RECORDS_PER_MINUTE
from isolation_monitor.telemetry.violations import Resource, side_of

Json = dict[str, Any]


@pytest.fixture
def records(monitor: IsolationMonitor, monkeypatch: pytest.MonkeyPatch) -> list[Json]:
    """Every record that would have gone to the collector."""
    sent: list[Json] = []
    monkeypatch.setattr(monitor.outbox, "put", sent.append)
    return sent


def test_a_stack_is_told_where_the_working_directory_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that takes the former one's folder away: what goes wrong after it must be reported all the same."""
    folder = tmp_path / "release-1"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()

    assert any(__file__ in line for line in stacks.render(stacks.capture()))


def request_of(monitor: IsolationMonitor, user: str, headers: Any = ()) -> RequestContext:
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
    return RequestContext(monitor.principals.named(user), scope, None, None)


def found(victim: RequestContext, offender: RequestContext, **more: Any) -> Violation:
    return Violation(
        kind=names.SHARED_STATE,
        grade="reachable",
        summary="a place is shared",
        resource=Resource("location", "shop.CACHE"),
        victim=side_of(victim, **more),
        offender=side_of(offender),
    )


async def test_no_field_of_a_record_holds_a_raw_value(monitor: IsolationMonitor, records: list[Json], client: Callable[..., Any]) -> None:
    """Ids, paths, queries, headers, bodies, task names and values of the application stay in the process."""
    secret = "s3cr3t"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asyncio.current_task().set_name(f"task of {secret}-ann")  # type: ignore[union-attr]
        local_secret = secret
        mine = CURRENT.get()
        assert mine is not None
        mine.checkouts = {1: SimpleNamespace(since=mine.started, pool="main")}
        monitor.ledger.report(found(request_of(monitor, f"{secret}-bob"), mine), mine)
        mine.checkouts = None
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", local_secret.encode())]})
        await send({"type": "http.response.body", "body": local_secret.encode()})

    served = monitor.instrument(app)
    await client(served).get(
        f"/{secret}?q={secret}",
        user=f"{secret}-ann",
        method="POST",
        body=json.dumps({"k": secret}).encode(),
        headers={"cookie": f"session={secret}", "traceparent": f"00-{secret}"},
    )

    (record,) = (one for one in records if one["kind"] == names.SHARED_STATE)
    assert secret not in json.dumps(record)
    assert record["offender"]["task"] is not None
    assert [event["what"] for event in record["offender"]["events"]] == [
        "entered over http",
        "took a connection of main, still out",
    ]


def test_a_record_names_process_and_code(make_monitor: Callable[..., IsolationMonitor], monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = make_monitor(revision="4f2a9c1", detectors="canary=off,foreign_content=block,loop_stall=monitor@0.5")
    sent: list[Json] = []
    monkeypatch.setattr(monitor.outbox, "put", sent.append)

    monitor.ledger.report(found(request_of(monitor, "ann"), request_of(monitor, "bob")))

    (record,) = sent
    assert record["revision"] == "4f2a9c1"
    assert record["configuration"]["mode"] == "monitor"
    assert set(record["configuration"]["detectors"]) == {"canary=off", "foreign_content=block", "loop_stall=monitor@0.5"}


def test_without_a_setting_the_revision_is_the_version_of_the_resource(
    make_monitor: Callable[..., IsolationMonitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=shop, service.version=2.4.1")

    about = make_monitor().ledger.about

    assert about is not None
    assert about.as_record()["revision"] == "2.4.1"


def test_the_trace_is_the_current_span_of_the_acting_side_and_the_callers_for_the_other(
    monitor: IsolationMonitor, records: list[Json], monkeypatch: pytest.MonkeyPatch
) -> None:
    span = SimpleNamespace(trace_id=0xABC, span_id=0xDEF)
    trace = SimpleNamespace(get_current_span=lambda: SimpleNamespace(get_span_context=lambda: span))
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", trace)
    victim = request_of(monitor, "ann", [(b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")])
    offender = request_of(monitor, "bob")
    token = CURRENT.set(offender)

    monitor.ledger.report(found(victim, offender))

    CURRENT.reset(token)
    (record,) = records
    assert (record["victim"]["trace_id"], record["victim"]["span_id"]) == ("a" * 32, "b" * 16)
    assert (record["offender"]["trace_id"], record["offender"]["span_id"]) == (f"{0xABC:032x}", f"{0xDEF:016x}")


def test_a_span_that_raises_costs_the_trace_and_nothing_else(
    monitor: IsolationMonitor, records: list[Json], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("a span of the host's")

    monkeypatch.setitem(sys.modules, "opentelemetry.trace", SimpleNamespace(get_current_span=broken))
    offender = request_of(monitor, "bob")
    token = CURRENT.set(offender)

    monitor.ledger.report(found(request_of(monitor, "ann"), offender))

    CURRENT.reset(token)
    assert records[0]["offender"]["trace_id"] is None


def test_headers_that_can_be_read_only_once_are_left_to_the_application(monitor: IsolationMonitor) -> None:
    headers = iter([(b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")])

    side_of(request_of(monitor, "ann", headers))

    assert len(list(headers)) == 1


def test_the_events_of_a_request_are_bounded_and_keep_the_latest_finding(monitor: IsolationMonitor) -> None:
    """The first say how it began, the last what was found: what lies between is left out."""
    request = request_of(monitor, "ann")
    other = request_of(monitor, "bob")
    request.status, request.responded, request.finished = 500, True, True
    for _ in range(40):
        monitor.ledger.report(found(other, request), request)

    events = evidence.events_of(request)

    assert len(events) == evidence.EVENTS_LIMIT
    assert [what for _, what in events][:3] == ["entered over http", "answered 500, to the last byte", "was over"]
    assert events[-1][1].endswith(request.violations[-1].id)  # type: ignore[index]


def test_checkouts_that_cannot_be_read_cost_the_events_and_not_the_violation(monitor: IsolationMonitor, records: list[Json]) -> None:
    request = request_of(monitor, "ann")
    request.checkouts = {1: object()}

    monitor.ledger.report(found(request, request_of(monitor, "bob")))

    assert records[0]["victim"]["events"] == []


def test_a_burst_says_how_many_users_and_runs_it_touched(monitor: IsolationMonitor, records: list[Json]) -> None:
    """25 users lose something to one offender: 20 full records, then one for 5 that names all 26 by hash."""
    offender = request_of(monitor, "bob")
    for n in range(FULL_RECORDS_PER_MINUTE + 5):
        monitor.ledger.report(found(request_of(monitor, f"user-{n}"), offender, run_id=f"run-{n % 3}"))

    monitor.ledger.sweep(float("inf"))

    *full, summed = records
    assert [one["affected"]["principals"] for one in full[:3]] == [2, 3, 4]
    assert all("hashes" not in one["affected"] for one in full)
    assert (summed["count"], summed["affected"]["principals"], summed["affected"]["runs"]) == (5, 26, 3)
    assert monitor.principals.named("user-24").hash in summed["affected"]["hashes"]


def test_affected_users_are_told_apart_up_to_a_limit_and_the_record_fits(monitor: IsolationMonitor, records: list[Json]) -> None:
    """The collector takes 64 KiB a record."""
    offender = request_of(monitor, "bob")
    for n in range(evidence.AFFECTED_LIMIT + 10):
        monitor.ledger.report(found(request_of(monitor, f"user-{n}"), offender))

    monitor.ledger.sweep(float("inf"))

    affected = records[-1]["affected"]
    assert (affected["principals"], affected["at_least"]) == (evidence.AFFECTED_LIMIT, True)
    assert len(json.dumps(records[-1])) < 65_536


def test_a_retraction_is_told_on_the_violation_itself(monitor: IsolationMonitor, records: list[Json]) -> None:
    violation = found(request_of(monitor, "ann"), request_of(monitor, "bob"))
    monitor.ledger.report(violation)

    monitor.ledger.retract(violation, "it came back")

    assert violation.retracted == "it came back"
    assert records[-1]["type"] == "retraction"
    assert records[-1]["grade"] == violation.grade, "so that it is kept as long as what it takes back"
