"""The benchmarks: their report has its form, `ok` follows from the numbers, and every peer does the work it is measured for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("uvloop")

from bench import __main__ as command
from bench import http_core, suites
from bench.applications import STACKS, Client, build, large_body, monitor
from bench.floor import Floor
from bench.rounds import Timings, Variant, measure
from bench.rows import Row, report
from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.context import SCOPE_KEY, RequestContext


def test_ok_follows_from_value_and_budget() -> None:
    assert Row("a", 1.5, "us", 1.5).ok
    assert not Row("a", 1.51, "us", 1.5).ok
    assert Row("a", 0.95, "ratio", 0.95, "higher").ok
    assert not Row("a", 0.94, "ratio", 0.95, "higher").ok
    assert not Row("a", None, "us", 1.0).ok, "what has a budget and was not measured is not kept"
    assert Row("a", 1e9, "us").ok, "a peer has no budget"


def test_a_report_is_ok_only_when_every_row_is() -> None:
    kept, missed = Row("a", 1.0, "us", 2.0, spread=(0.9, 1.1)), Row("b", 3.0, "us", 2.0)

    assert report("overhead", [kept]) == {
        "schema": "bench/1",
        "name": "overhead",
        "rows": [{"name": "a", "value": 1.0, "unit": "us", "budget": 2.0, "better": "lower", "ok": True, "spread": [0.9, 1.1]}],
        "ok": True,
    }
    assert report("overhead", [kept, missed])["ok"] is False


def test_a_row_survives_its_json() -> None:
    row = Row("a", 1.25, "us", 2.0, "higher", (1.0, 1.5), 1.125, "why")

    assert Row.from_json(json.loads(json.dumps(row.as_json()))) == row


def test_differences_are_taken_within_a_round() -> None:
    """A slow second round doubles both sides' cost and must not show as our cost."""
    timings = Timings({"raw": [10.0, 20.0, 10.0], "floor": [12.0, 22.0, 12.0], "ours": [13.0, 23.0, 13.0]})

    assert timings.added("ours", "raw").median == 3.0
    assert timings.ratio("ours", "floor", "raw").median == 1.5
    assert timings.ratio("ours", "floor", "raw").quiet == 1.5


async def test_each_variant_runs_once_per_round_in_changing_order() -> None:
    order: list[str] = []

    def variant(name: str) -> Variant:
        async def slot(n: int) -> None:
            order.append(name)

        return Variant(name, slot)

    timings = await measure([variant("a"), variant("b"), variant("c")], rounds=6, operations=1)

    rounds = [order[n : n + 3] for n in range(3, len(order), 3)]
    assert timings.rounds == len(rounds) == 6
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert rounds[1] == rounds[0][::-1]


async def test_a_client_notices_an_application_that_does_not_answer() -> None:
    with pytest.raises(RuntimeError, match="0 of 2 requests to /nowhere"):
        await Client(build("starlette"), "/nowhere").requests(2)


@pytest.mark.parametrize("stack", STACKS)
async def test_each_peer_records_every_request(stack) -> None:
    peers = pytest.importorskip("bench.peers")
    if absent := peers.missing(stack):
        pytest.skip(f"{absent[0][0]}: {absent[0][1]}")
    found = peers.peers(stack)

    for peer in found:
        await Client(peer.app).requests(7)

        recorded = peer.recorded()
        assert recorded["requests"] == 7, peer.name
        # The server's span and one for each of the two messages, or for each of FastAPI's operations.
        assert recorded.get("spans", 21) >= 21, peer.name
        peer.close()
    assert len(found) == (3 if stack == "fastapi" else 2)


@pytest.mark.parametrize("stack", STACKS)
async def test_the_monitor_that_is_measured_judges_every_request(stack) -> None:
    watching = monitor()
    try:
        await Client(watching.instrument(build(stack))).requests(9)

        count = watching.registry.value
        assert count(names.REQUESTS, transport="http", verdict="isolated", exposed="false", arm="none") == 9
        assert count(names.CHECKS, detector=names.INHERITED_CONTEXT, result="pass") == 9
        assert (
            watching.registry.value(
                names.HTTP_DURATION, http_route="/items/{item_id}", http_request_method="GET", http_response_status_code="200"
            )
            == 9
        )
    finally:
        await watching.aclose()


@pytest.mark.parametrize("stack", STACKS)
async def test_the_floor_counts_and_times_every_request(stack) -> None:
    app = build(stack)
    app.add_middleware(Floor)

    await Client(app).requests(5)

    floor = app.middleware_stack
    while not isinstance(floor, Floor):
        floor = floor.app
    assert floor.registry.get_sample_value("requests_total", {"method": "GET"}) == 5
    assert floor.registry.get_sample_value("seconds_count", {"method": "GET"}) == 5


async def test_a_request_sets_all_that_evidence_may_ask_for() -> None:
    """Slots have no defaults: one that is forgotten would raise only when a violation is described."""
    kept: list[RequestContext] = []
    app = build("starlette")
    watching = monitor()
    watching.instrument(app)

    async def keeps(scope, receive, send) -> None:
        await app(scope, receive, send)
        kept.append(scope[SCOPE_KEY])

    try:
        await Client(keeps).requests(1)
    finally:
        await watching.aclose()

    assert all(hasattr(kept[0], slot) for slot in RequestContext.__slots__)
    assert kept[0].finished
    assert kept[0].scope is None
    assert kept[0].route == "GET /items/{item_id}"


@pytest.mark.parametrize("stack", STACKS)
async def test_a_request_costs_the_same_function_calls_with_a_hundred_routes(stack) -> None:
    few, many = await http_core.calls_added(stack, 1), await http_core.calls_added(stack, 100)

    assert few == many
    assert few <= http_core.BUDGET_CALLS


def test_the_large_body_is_5_kb() -> None:
    assert 4_500 < len(json.dumps(large_body(), separators=(",", ":"))) < 5_500


def test_quick_runs_write_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "overhead.json"

    command.main(
        ["--quick", "--no-strict", "--output", str(output), "http-core-calls", "http-body", "websocket-message", "websocket-frame"]
    )

    written = json.loads(output.read_text())
    assert written["schema"] == "bench/1"
    assert written["name"] == "overhead"
    assert written["ok"] == all(row["ok"] for row in written["rows"])
    found = {row["name"] for row in written["rows"]}
    assert found >= {"http core calls, starlette", "http core calls, fastapi", "http body 5 kB, starlette", "websocket message"}
    assert "websocket frame 500 B" in capsys.readouterr().out


def test_an_unknown_suite_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["nonsense"])

    assert "no suite is called nonsense" in capsys.readouterr().err


def test_every_budget_of_the_issue_has_its_suite() -> None:
    assert list(suites.SUITES) == [
        "http-core",
        "http-core-calls",
        "http-body",
        "websocket-message",
        "websocket-frame",
        "delivery-message",
        "delivery-memory",
        "http-all-detectors",
        "http-all-detectors-json",
        "websocket-frame-all-detectors",
        "memory",
        "own-stretch",
        "record-put",
        "run-ids",
        "flags",
        "flag-changes",
        "sqlalchemy-session",
        "scrape",
        "collector-away",
    ]
