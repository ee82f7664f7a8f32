"""The arm reaches the request: over HTTP, over WebSocket, in threads; and from there the numbers, the records and the deliveries."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from isolation_monitor.telemetry import Resource, Violation, current_request, names
from isolation_monitor.telemetry.flags import arms
from isolation_monitor.telemetry.flags.arms import Arms
from isolation_monitor.telemetry.violations import side_of
from tests.telemetry.conftest import Socket
from tests.telemetry.flags.conftest import ROLLOUT, answer, requests


class Service:
    """Evaluates what a request asks for in its path: `/on`, `/off/split`, `/fails`; several after `+`."""

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor
        self.app = monitor.instrument(self.serve)

    def evaluate(self, what: str) -> None:
        for one in filter(None, what.split("+")):
            variant, _, reason = one.partition("=")
            name, _, variant = variant.rpartition(":")
            self.monitor.flags.evaluated(name or ROLLOUT, variant or None, (reason or "split").upper())

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self.talk(scope, receive, send)
            return
        what = scope["path"].strip("/")
        if what.startswith("fails"):
            self.evaluate(what.removeprefix("fails+"))
            raise LookupError("the application's own")
        self.evaluate(what)
        await answer(send)

    async def talk(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        self.evaluate(scope["path"].strip("/"))
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            self.evaluate(message["text"].strip('"'))
            request = current_request()
            assert request is not None
            await send({"type": "websocket.send", "text": f'"{request.arm}"'})


@pytest.fixture
def calls(monitor, client):
    return client(Service(monitor).app)


def measured(monitor: Any, arm: str) -> float:
    return float(monitor.registry.value(names.GATE_DURATION, rollout=ROLLOUT, arm=arm))


def verdicts(monitor: Any, arm: str, transport: str = "http") -> float:
    return sum(
        monitor.registry.value(names.REQUESTS, transport=transport, verdict=verdict, exposed=exposed, arm=arm)
        for verdict in names.VERDICTS
        for exposed in names.BOOLEANS
    )


@pytest.mark.parametrize(
    ("path", "arm"),
    [
        ("/on", "on"), ("/off", "off"), ("/off=disabled", "off"), ("/on=targeting_match", "on"), ("/on=error", "none"),
        ("/off=default", "none"), ("/on=stale", "none"), ("/treatment", "none"), ("/on+off", "on"), ("/off+on", "on"),
        ("/on=error+off", "off"), ("/off+on=error", "off"), ("/other:on+off", "on"), ("/other:off+on=error", "off"), ("/", "none"),
    ],
)  # fmt: skip
async def test_a_request_has_the_strongest_arm_that_it_was_given(monitor, calls, path, arm):
    await calls.get(path, user="ann")

    assert {one: verdicts(monitor, one) for one in names.ARMS} == {one: float(one == arm) for one in names.ARMS}


async def test_requests_are_counted_and_measured_by_rollout_and_arm(monitor, calls):
    for path in ("/on", "/on", "/off", "/on=error", "/"):
        await calls.get(path, user="ann")
    with pytest.raises(LookupError):
        await calls.get("/fails+on", user="ann")

    assert [requests(monitor, arm) for arm in names.ARMS] == [2, 1, 1]
    assert requests(monitor, "on", "error") == 1
    assert (measured(monitor, "on"), measured(monitor, "off")) == (3, 1)
    assert monitor.registry.value(names.FLAG_EVALUATIONS, rollout=ROLLOUT, reason="split") == 4
    assert monitor.registry.value(names.FLAG_EVALUATIONS, rollout=ROLLOUT, reason="error") == 1


async def test_synthetic_requests_are_in_none_of_the_numbers(monitor, calls):
    monitor.principals.named("drill").is_synthetic = True

    await calls.get("/on", user="drill")
    await calls.get("/on", user="ann")

    assert requests(monitor, "on") == 1
    assert measured(monitor, "on") == 1
    assert monitor.registry.value(names.FLAG_EVALUATIONS, rollout=ROLLOUT, reason="split") == 1


async def test_a_rollouts_series_are_there_at_0_once_it_is_known(following):
    """A counter that is born at 1 has not increased: the first violation of a rollout would be missed."""
    monitor = following()
    here = {
        (entry.family.name, *sorted((k, v) for k, v in entry.labels.items() if k != "service"))
        for entry in monitor.registry.series()
        if entry.labels.get("rollout") == ROLLOUT
    }

    assert len([one for one in here if one[0] == names.GATE_REQUESTS.name]) == 6
    assert len([one for one in here if one[0] == names.GATE_VIOLATIONS.name]) == 9
    assert len([one for one in here if one[0] == names.GATE_DURATION.name]) == 2


async def test_more_rollouts_than_are_told_apart_count_as_other(monitor, calls):
    for n in range(names.ROLLOUT_LIMIT + 5):
        await calls.get(f"/rollout-{n}:on", user="ann")

    told = {entry.labels["rollout"] for entry in monitor.registry.series() if entry.family.name == names.GATE_REQUESTS.name}
    assert len(told) == names.ROLLOUT_LIMIT + 1
    assert requests(monitor, "on", rollout=names.OTHER) == 5
    assert monitor.registry.value(names.MONITOR_DROPPED, reason="label_cap") > 0


async def test_one_request_with_too_many_rollouts_keeps_the_first(monitor, calls):
    await calls.get("/" + "+".join(f"rollout-{n}:off" for n in range(arms.ROLLOUTS_OF_A_REQUEST + 3)), user="ann")

    told = {entry.labels["rollout"] for entry in monitor.registry.series() if entry.family.name == names.GATE_REQUESTS.name}
    assert told == {f"rollout-{n}" for n in range(arms.ROLLOUTS_OF_A_REQUEST)}
    assert monitor.registry.value(names.MONITOR_DROPPED, reason="label_cap") > 0


async def test_a_messages_arm_is_its_own_and_else_its_handshakes(monitor):
    """A service evaluates when somebody connects, or for each message: both reach the numbers."""
    service = Service(monitor)
    ann = await Socket(service.app, "ann", "/on").accepted()
    ann.say("")
    first = await ann.hear()
    ann.say("off")
    second = await ann.hear()
    ann.say("other:off")
    third = await ann.hear()
    await ann.leave()

    assert (first, second, third) == ("on", "off", "on")
    # The second message was given `off`; the handshake itself is over before the application decides anything.
    assert (requests(monitor, "on"), requests(monitor, "off")) == (2, 1)
    assert (measured(monitor, "on"), measured(monitor, "off")) == (2, 1)
    assert verdicts(monitor, "on", "websocket") == 2


async def test_what_runs_in_a_thread_or_task_of_a_request_labels_that_request(monitor, client):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/thread":
            await asyncio.to_thread(monitor.flags.evaluated, ROLLOUT, "on", "SPLIT")
        else:
            await asyncio.create_task(in_task())
        await answer(send)

    async def in_task() -> None:
        monitor.flags.evaluated(ROLLOUT, "on", "SPLIT")

    calls = client(monitor.instrument(app))
    await calls.get("/thread", user="ann")
    await calls.get("/task", user="ben")

    assert requests(monitor, "on") == 2


def test_outside_of_a_request_nothing_is_labelled(monitor):
    monitor.flags.evaluated(ROLLOUT, "on", "SPLIT")

    assert monitor.registry.value(names.FLAG_EVALUATIONS, rollout=ROLLOUT, reason="split") == 0


async def test_a_violation_is_the_new_codes_when_either_side_had_it(monitor, client):
    """Its record says which rollouts, and so do the numbers of the gate; a planted one is in none of them."""
    sent: list[dict[str, Any]] = []
    monitor.outbox.put = sent.append
    first: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        monitor.flags.evaluated(ROLLOUT, "off" if scope["path"] == "/first" else "on", "SPLIT")
        request = current_request()
        first.append(request)
        if len(first) == 2:
            for is_synthetic in (False, True):
                violation = Violation("wrong_socket", "crossed", "x", Resource("socket", "1"), side_of(first[0]), side_of(request))
                violation.arm, violation.synthetic = first[0].arm, is_synthetic
                monitor.ledger.report(violation, first[0], request)
        await answer(send)

    calls = client(monitor.instrument(app))
    await calls.get("/first", user="ann")
    await calls.get("/second", user="ben")

    record = sent[0]
    assert (record["arm"], record["rollouts"]) == ("on", {ROLLOUT: "on"})
    assert monitor.registry.value(names.GATE_VIOLATIONS, rollout=ROLLOUT, arm="on", grade="crossed") == 1
    assert monitor.registry.value(names.GATE_VIOLATIONS, rollout=ROLLOUT, arm="off", grade="crossed") == 0


async def test_a_raised_grade_counts_for_the_rollout_too(monitor, client):
    async def app(scope: Any, receive: Any, send: Any) -> None:
        monitor.flags.evaluated(ROLLOUT, "on", "SPLIT")
        request = current_request()
        violation = Violation("shared_state", "reachable", "x", Resource("slot", "1"), side_of(request), None)
        monitor.ledger.report(violation, request)
        monitor.ledger.escalate(violation, "it left", request)
        await answer(send)

    await client(monitor.instrument(app)).get("/", user="ann")

    for grade in ("reachable", "crossed"):
        assert monitor.registry.value(names.GATE_VIOLATIONS, rollout=ROLLOUT, arm="on", grade=grade) == 1


async def test_nothing_that_breaks_inside_reaches_the_application(monitor, calls):
    monitor.flags._cells = None

    answer = await calls.get("/on", user="ann")

    assert answer.status == 200
    assert monitor.registry.value(names.MONITOR_ERRORS, hook="flags") == 1


def test_an_empty_set_of_arms_is_no_arm():
    assert arms.strongest(Arms().by_rollout) == "none"
