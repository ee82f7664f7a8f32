"""Gates and rollouts over HTTP, on records alone: pinned start, latch, decisions, strict answers."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select

from isolation_monitor.collector.gates.answers import LastAnswers
from isolation_monitor.collector.gates.domain import GatePlan, Inputs, judge
from isolation_monitor.collector.storage.models import DecisionRow
from tests.collector.conftest import Api
from tests.real_parts.processes import free_port


async def test_a_rollout_starts_once_and_asking_again_changes_nothing(api: Api) -> None:
    first = await api.start_rollout("canary-1", arm="on", min_exposed_requests=10)
    api.clock.advance(60)

    again = await api.start_rollout("canary-1", arm="on", min_exposed_requests=10)

    assert first == again
    assert again["started_at"] == "2026-01-01T12:00:00.000Z"
    assert (await api.get("/v1/rollouts/canary-1")).json() == first


async def test_the_name_of_a_rollout_is_never_reused_for_another_plan(api: Api) -> None:
    await api.start_rollout("canary-1")

    answer = await api.post("/v1/rollouts", {"name": "canary-1", "service": "chat", "min_exposed_requests": 1})

    assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
    assert (await api.get("/v1/rollouts/canary-1")).json()["min_exposed_requests"] == 300


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x"},
        {"name": "../x", "service": "chat"},
        {"name": "x", "service": ""},
        {"name": "x", "service": "chat", "arm": "blue"},
        {"name": "x", "service": "chat", "min_exposed_request": 5},
        {"name": "x", "service": "chat", "min_exposed_requests": 0},
        {"name": "x", "service": "chat", "min_exposed_requests": "5"},
        [],
    ],
)
async def test_a_plan_that_makes_no_sense_starts_nothing(api: Api, body: Any) -> None:
    answer = await api.post("/v1/rollouts", body)

    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert (await api.get("/v1/rollouts/x")).status_code == 404


async def test_an_unknown_rollout_has_no_gate(api: Api) -> None:
    answer = await api.get("/v1/gates/nothing")

    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


async def test_without_prometheus_and_without_violations_the_verdict_is_error(api: Api) -> None:
    await api.start_rollout()

    gate = await api.gate()

    assert (gate["schema"], gate["verdict"], gate["verdict_code"], gate["ok"], gate["rollback"], gate["hold"]) == (
        "gate/v1",
        "error",
        -2,
        False,
        False,
        True,
    )
    assert gate["reasons"][0]["code"] == "source_unavailable"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"grade": "crossed"}, "fail"),
        ({"grade": "reachable"}, "fail"),
        ({"grade": "hygiene"}, "error"),
        ({"kind": "session_leak", "grade": "hygiene"}, "fail"),
        ({"synthetic": True}, "error"),
        ({"detail": {"suppressed": {"reason": "known", "expires": "2026-12-31"}}}, "error"),
        ({"detail": {"where": "the answer"}}, "fail"),
        ({"time": "2026-01-01T11:59:59.999Z"}, "error"),
        ({"time": "2026-01-01T12:00:00.000Z"}, "fail"),
        ({"arm": "off"}, "fail"),
    ],
)
async def test_what_counts_against_a_rollout(api: Api, change: dict[str, Any], expected: str) -> None:
    await api.start_rollout()

    await api.send(api.violation(**change))

    assert (await api.gate())["verdict"] == expected


async def test_a_violation_that_arrived_before_the_rollout_does_not_count(api: Api) -> None:
    """The sender's clock may run ahead of ours: its time alone does not place a violation after the start."""
    await api.send(api.violation(time="2026-01-01T12:00:30Z"))
    api.clock.advance(10)

    await api.start_rollout()

    assert (await api.gate())["verdict"] == "error"


async def test_another_service_does_not_count(api: Api) -> None:
    await api.start_rollout()

    await api.send(api.violation(), service="other")

    assert (await api.gate())["verdict"] == "error"


@pytest.mark.parametrize(("arm", "expected"), [("on", "fail"), ("off", "error"), ("none", "error")])
async def test_a_rollout_of_one_arm_judges_that_arm_alone(api: Api, arm: str, expected: str) -> None:
    await api.start_rollout(arm="on")

    await api.send(api.violation(arm=arm))

    assert (await api.gate())["verdict"] == expected


async def test_an_escalation_to_crossed_makes_a_hygiene_violation_count(api: Api) -> None:
    await api.start_rollout()
    await api.send(api.violation(id="v", grade="hygiene"))
    before = (await api.gate())["verdict"]

    await api.send(api.escalation("v"))

    assert (before, (await api.gate())["verdict"]) == ("error", "fail")


async def test_a_retracted_leak_does_not_count(api: Api) -> None:
    await api.start_rollout()

    await api.send(api.retraction("v"), api.violation(id="v", kind="session_leak", grade="hygiene"))

    assert (await api.gate())["verdict"] == "error"


async def test_once_failed_a_rollout_stays_failed_and_a_new_one_starts_clean(api: Api) -> None:
    """Traffic that recovers, or ends, after a violation proves nothing about the code that is rolled out."""
    await api.start_rollout("canary-1")
    await api.send(api.violation(id="v"))
    failed = await api.gate("canary-1")

    await api.send(api.retraction("v"))
    api.clock.advance(3600)
    later = await api.gate("canary-1")
    await api.start_rollout("canary-2")

    assert (failed["verdict"], failed["latched"], failed["verdict_code"], failed["rollback"]) == ("fail", False, -1, True)
    assert failed["reasons"][0]["examples"] == ["v"]
    assert later == failed | {"latched": True}
    assert (await api.gate("canary-2"))["verdict"] == "error"
    assert (await api.get("/v1/rollouts/canary-1")).json()["failed_at"] == "2026-01-01T12:00:00.000Z"


async def test_evaluations_at_the_same_moment_close_the_latch_once(api: Api) -> None:
    await api.start_rollout()
    await api.send(api.violation())

    gates = await asyncio.gather(*(api.gate() for _ in range(8)))

    assert {gate["verdict"] for gate in gates} == {"fail"}
    assert len({gate["decision_id"] for gate in gates}) == 1


async def test_an_answer_that_says_nothing_new_does_not_overtake_a_closing_latch(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one replica waits for Prometheus, another one finds harm: here the first is held at that point."""
    await api.start_rollout()
    await api.gate()
    service = api.app.state.gates
    other = copy.copy(service)
    other._last = LastAnswers()
    read_metrics = service._read_metrics

    async def slowly(*arguments: Any) -> Any:
        monkeypatch.setattr(service, "_read_metrics", read_metrics)
        await api.send(api.violation())
        assert (await other.evaluate("canary-1"))["verdict"] == "fail"
        return await read_metrics(*arguments)

    monkeypatch.setattr(service, "_read_metrics", slowly)
    gate = await api.gate()

    assert (gate["verdict"], gate["latched"]) == ("fail", True)


async def test_a_decision_keeps_everything_that_went_in_and_replays(api: Api) -> None:
    await api.start_rollout()
    await api.send(api.violation())
    gate = await api.gate()

    decision = (await api.get(f"/v1/gates/canary-1/decisions/{gate['decision_id']}")).json()

    assert gate["decision_url"] == f"http://127.0.0.1:8400/v1/gates/canary-1/decisions/{decision['decision_id']}"
    assert decision["answer"] == {key: value for key, value in gate.items() if key != "decision_url"}
    assert decision["config_sha256"] == gate["config_sha256"]
    stored = {key: value for key, value in decision["config"].items() if key != "started_at"}
    again = judge(GatePlan(**stored), Inputs.from_json(decision["inputs"]))
    assert again.verdict == decision["verdict"]
    assert [reason.as_json() for reason in again.reasons] == gate["reasons"]


async def test_a_look_that_says_nothing_new_is_answered_by_the_decision_that_is_stored(api: Api) -> None:
    """A pipeline asks each second for an hour: the decisions that matter must not be buried. Every answer can be replayed."""
    await api.start_rollout()
    answers = []
    for _ in range(59):
        answers.append(await api.gate())
        api.clock.advance(1)
    staged = (await api.get("/v1/gates/canary-1?stage=canary10")).json()
    api.clock.advance(1)
    after_a_minute = await api.gate()
    await api.send(api.violation())
    failed = await api.gate()

    ids = {answer["decision_id"] for answer in answers}
    assert len(ids) == 1
    assert all(answer == answers[0] for answer in answers)
    assert len(ids | {staged["decision_id"], after_a_minute["decision_id"], failed["decision_id"]}) == 4
    assert (failed["verdict"], staged["stage"]) == ("fail", "canary10")
    async with api.app.state.runtime.database.reading() as connection:
        stored = (await connection.execute(select(func.count()).select_from(DecisionRow))).scalar_one()
    assert stored == 4


async def test_a_decision_of_another_rollout_or_none_is_404(api: Api) -> None:
    await api.start_rollout("canary-1")
    await api.start_rollout("canary-2")
    gate = await api.gate("canary-1")

    assert (await api.get(f"/v1/gates/canary-2/decisions/{gate['decision_id']}")).status_code == 404
    assert (await api.get("/v1/gates/canary-1/decisions/nothing")).status_code == 404


async def test_every_answer_has_the_fields_that_rollout_tools_read_and_no_null(api: Api) -> None:
    await api.start_rollout()
    answers = [await api.gate()]
    await api.send(api.violation())
    answers += [await api.gate(), await api.gate()]

    for gate in answers:
        assert "null" not in json.dumps(gate, allow_nan=False)
        types = {
            key: type(gate[key])
            for key in ("verdict", "verdict_code", "ok", "rollback", "hold", "reasons", "metrics", "stage", "arm", "as_of")
        }
        assert list(types.values()) == [str, int, bool, bool, bool, list, dict, str, str, str]


async def test_the_stage_is_repeated_in_the_answer(api: Api) -> None:
    await api.start_rollout()

    assert (await api.get("/v1/gates/canary-1?stage=canary10")).json()["stage"] == "canary10"


async def test_the_collectors_metrics_show_the_verdict(api: Api) -> None:
    await api.start_rollout()
    await api.send(api.violation(), 7)
    await api.gate()

    text = (await api.get("/metrics")).text

    assert 'isolation_gate_verdict{rollout="canary-1",verdict="fail"} 1.0' in text
    assert 'isolation_gate_verdict{rollout="canary-1",verdict="pass"} 0.0' in text
    assert 'isolation_gate_last_evaluation_timestamp_seconds{rollout="canary-1"} 1.7672688e+09' in text
    assert 'isolation_collector_records_total{result="accepted"} 1.0' in text
    assert 'isolation_collector_records_total{result="rejected"} 1.0' in text


async def test_an_unreachable_prometheus_is_an_error_that_says_so(make_api: Callable[..., Any], database_url: str) -> None:
    async with make_api(database_url, prometheus_url=f"http://127.0.0.1:{free_port()}") as api:
        await api.start_rollout()

        gate = await api.gate()

        assert (gate["verdict"], gate["reasons"][0]["code"]) == ("error", "source_unavailable")


@pytest.mark.parametrize(
    "body",
    [
        b"<html>please log in</html>",
        b"",
        b"[]",
        b"null",
        b'{"status":"success"}',
        b'{"status":"success","data":{"resultType":"matrix","result":[]}}',
    ],
)
async def test_something_else_at_prometheus_address_is_an_error_never_a_pass(
    make_api: Callable[..., Any], database_url: str, body: bytes
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with make_api(database_url, prometheus_url=f"http://127.0.0.1:{port}") as api:
            await api.start_rollout()

            gate = await api.gate()

            assert (gate["verdict"], gate["reasons"][0]["code"]) == ("error", "source_unavailable")
    finally:
        server.close()
        await server.wait_closed()
