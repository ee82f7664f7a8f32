"""The controller: harm takes a rollout back, evidence and time seen in order bring it on, and nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from isolation_monitor.collector.background import Nudge
from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.rollouts.controller import RolloutController
from isolation_monitor.collector.rollouts.domain import Who, soak_tick
from isolation_monitor.collector.rollouts.service import RolloutService
from isolation_monitor.collector.storage.database import Database
from tests.collector.conftest import SEND, STAGES, Api, FrozenClock, until

ROUND_S = 5.0


@dataclass
class PlannedGate:
    """Answers what a test wants, and counts how often it was asked."""

    verdict: str = "pass"
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def evaluate(self, name: str, stage: str = "") -> dict[str, Any]:
        self.asked.append((name, stage))
        await asyncio.sleep(0)
        reasons = [{"trigger": "isolation", "state": "fail", "detail": "1 violation"}] if self.verdict == "fail" else []
        return {"verdict": self.verdict, "decision_id": f"d{len(self.asked)}", "reasons": reasons}


@dataclass
class Replica:
    """A controller of its own on the shared database, as another process would have it."""

    controller: RolloutController
    gate: PlannedGate
    wall: FrozenClock
    monotonic_s: float = 0.0

    async def rounds(self, number: int) -> None:
        """Let time go by on both clocks and look, `number` times."""
        for _ in range(number):
            self.wall.advance(ROUND_S)
            self.monotonic_s += ROUND_S
            await self.controller.look()


@pytest.fixture
def replica(database_url: str) -> Callable[..., Any]:
    @asynccontextmanager
    async def build(clock: FrozenClock, verdict: str = "pass") -> AsyncIterator[Replica]:
        database, gate = Database(database_url), PlannedGate(verdict)
        built: Replica
        controller = RolloutController(RolloutService(database, clock), gate, Nudge(), ROUND_S, lambda: built.monotonic_s)
        built = Replica(controller, gate, clock)
        try:
            yield built
        finally:
            await database.close()

    return build


@pytest.fixture
async def api(make_api: Callable[..., Any], database_url: str) -> AsyncIterator[Api]:
    """A collector that starts nothing by itself but what records and alerts ask for."""
    async with make_api(database_url, rollout_interval_s=3600) as running:
        # Its first round must not take part in what a test plans.
        await until(lambda: running.app.state.rollout_controller.rounds > 0)
        yield running


async def started(api: Api, **changes: object) -> None:
    assert (await api.apply(**changes)).status_code == 201
    assert (await api.step("start")).status_code == 200


async def completed(api: Api, **changes: object) -> None:
    await started(api, stages=STAGES[2:], **changes)
    assert (await api.step("advance", force=True)).json()["state"]["status"] == "complete"


class TestPromotion:
    async def test_a_stage_that_passes_and_soaked_is_left_for_the_next(self, api: Api, replica: Callable[..., Any]) -> None:
        await started(api)

        async with replica(api.clock) as one:
            # The first look only starts the count; twelve more make the minute.
            await one.rounds(12)
            before = (await api.state())["stage"]
            await one.rounds(1)

        state, newest = await api.state(), (await api.history())[0]
        assert (before, state["stage"], state["soaked_s"]) == ("internal", "canary", 0)
        assert (newest["actor"], newest["action"], newest["decision_id"]) == ("isolation-monitor", "advance", "d13")

    async def test_a_stage_that_asks_for_a_person_is_held_and_the_person_completes_it(self, api: Api, replica: Callable[..., Any]) -> None:
        await started(api)

        async with replica(api.clock) as one:
            await one.rounds(13 * 3 + 5)
            held = await api.state()
            await api.step("advance", force=True)
            await one.rounds(20)

        assert (held["status"], held["stage"]) == ("held", "full")
        assert "isolation-monitor" not in {event["actor"] for event in (await api.history())[:1]}
        assert (await api.state())["status"] == "complete"

    @pytest.mark.parametrize("verdict", ["inconclusive", "error"])
    async def test_nothing_but_a_pass_promotes_however_long_it_takes(self, api: Api, replica: Callable[..., Any], verdict: str) -> None:
        await started(api)

        async with replica(api.clock, verdict) as one:
            await one.rounds(100)

        state = await api.state()
        assert (state["status"], state["stage"]) == ("running", "internal")
        # Time in which the gate could not look is no time in order.
        assert state["soaked_s"] == (495 if verdict == "inconclusive" else 0)

    async def test_a_held_rollout_does_not_advance_and_goes_on_where_it_was(self, api: Api, replica: Callable[..., Any]) -> None:
        await started(api)

        async with replica(api.clock) as one:
            await one.rounds(7)
            await api.step("hold")
            await one.rounds(50)
            held = await api.state()
            await api.step("start")
            await one.rounds(6)
            resumed = await api.state()
            await one.rounds(1)

        assert (held["stage"], held["soaked_s"]) == ("internal", 30)
        assert (resumed["stage"], resumed["soaked_s"]) == ("internal", 55)
        assert (await api.state())["stage"] == "canary"


class TestClocks:
    async def test_a_wall_clock_that_jumps_promotes_nothing(self, api: Api, replica: Callable[..., Any]) -> None:
        """A year ahead, back, and ahead again: twelve rounds stay the minute that they were."""
        await started(api)

        async with replica(api.clock) as one:
            for jump in (timedelta(days=365), -timedelta(days=365), timedelta(hours=2), -timedelta(minutes=9), timedelta(0)):
                api.clock.now += jump
                await one.rounds(1)
            jumped = await api.state()

        assert jumped["stage"] == "internal"
        assert jumped["soaked_s"] <= 4 * ROUND_S

    async def test_time_in_which_no_collector_ran_is_no_time_in_order(self, api: Api, replica: Callable[..., Any]) -> None:
        await started(api)
        async with replica(api.clock) as one:
            await one.rounds(3)

        api.clock.advance(86_400)
        async with replica(api.clock) as another:
            await another.rounds(1)

        assert (await api.state())["soaked_s"] == 2 * ROUND_S

    async def test_two_collectors_count_the_same_time_once(self, api: Api, replica: Callable[..., Any]) -> None:
        await started(api, stages=[{"name": "full", "percent": 100, "soak": "1d"}])

        async with replica(api.clock) as one, replica(api.clock) as two:
            for _ in range(20):
                api.clock.advance(ROUND_S)
                one.monotonic_s += ROUND_S
                two.monotonic_s += ROUND_S
                await asyncio.gather(one.controller.look(), two.controller.look())

        assert (await api.state())["soaked_s"] == 19 * ROUND_S

    @pytest.mark.parametrize(
        ("verdict", "monotonic_s", "wall_s", "expected"),
        [
            ("pass", 5.0, 5.0, 5.0),
            ("pass", 5.0, 86_400.0, 5.0),
            ("pass", 86_400.0, 86_400.0, 15.0),
            ("pass", 5.0, -3_600.0, 0.0),
            ("pass", None, 5.0, 0.0),
            ("pass", 5.0, None, 0.0),
            ("inconclusive", 5.0, 4.0, 4.0),
            ("error", 5.0, 5.0, 0.0),
            ("fail", 5.0, 5.0, 0.0),
        ],
    )
    def test_a_look_counts_only_what_both_clocks_saw(
        self, verdict: str, monotonic_s: float | None, wall_s: float | None, expected: float
    ) -> None:
        assert soak_tick(verdict, monotonic_s, wall_s, 15.0) == expected


class TestHarm:
    async def test_a_violation_record_takes_the_rollout_back_by_itself(self, api: Api) -> None:
        """Nobody asks the gate and there is no Prometheus: the record alone acts."""
        await started(api)

        await api.send(api.violation(id="v", arm="off"))
        await rolled_back(api)

        newest = (await api.history())[0]
        assert (newest["action"], newest["actor"], newest["from_stage"]) == ("rollback", "isolation-monitor", "internal")
        assert newest["reason"].startswith("isolation: 1 violations")
        decision = (await api.get(f"/v1/gates/checkout/decisions/{newest['decision_id']}")).json()
        assert (decision["verdict"], decision["answer"]["reasons"][0]["examples"]) == ("fail", ["v"])

    async def test_a_held_rollout_is_taken_back_too(self, api: Api) -> None:
        await started(api)
        await api.step("hold")

        await api.send(api.violation())

        await rolled_back(api)

    async def test_a_complete_rollout_is_taken_back_as_long_as_its_file_asks_to_watch_it(self, api: Api) -> None:
        await completed(api, watch_after_completion="1h")
        state = await api.state()
        api.clock.advance(3599)

        await api.send(api.violation(time=rfc3339(api.clock())))

        await rolled_back(api)
        newest = (await api.history())[0]
        assert (state["status"], state["watched_until"]) == ("complete", "2026-01-01T13:00:00.000Z")
        assert (newest["from_status"], newest["from_stage"], newest["actor"]) == ("complete", "full", "isolation-monitor")

    @pytest.mark.parametrize(("changes", "later_s"), [({}, 1), ({"watch_after_completion": "1h"}, 3600)])
    async def test_a_complete_rollout_that_is_watched_no_more_stays(self, api: Api, changes: dict[str, Any], later_s: float) -> None:
        await completed(api, **changes)
        api.clock.advance(later_s)

        await api.send(api.violation(time=rfc3339(api.clock())))
        await api.app.state.rollout_controller.look()

        assert (await api.state())["status"] == "complete"

    async def test_a_complete_rollout_that_is_watched_goes_nowhere_by_itself(self, api: Api, replica: Callable[..., Any]) -> None:
        await completed(api, watch_after_completion="1d")
        before = await api.state()

        async with replica(api.clock) as one:
            await one.rounds(30)
            asked = len(one.gate.asked)

        assert (asked, await api.state()) == (30, before)

    async def test_after_re_arming_old_violations_and_alerts_do_not_count(self, api: Api) -> None:
        await started(api)
        await api.send(api.violation())
        await rolled_back(api)
        api.clock.advance(60)
        await api.step("re-arm")
        await api.step("start")

        await api.app.state.rollout_controller.look()

        assert (await api.state())["status"] == "running"
        assert (await api.gate("checkout"))["verdict"] == "error"

    @pytest.mark.parametrize("change", [{"synthetic": True}, {"grade": "hygiene"}, {"detail": {"suppressed": {"reason": "known"}}}])
    async def test_what_is_no_harm_takes_nothing_back(self, api: Api, change: dict[str, Any]) -> None:
        await started(api)

        await api.send(api.violation(**change))
        await api.app.state.rollout_controller.look()

        assert (await api.state())["status"] == "running"

    async def test_an_escalation_of_what_was_no_harm_takes_it_back(self, api: Api) -> None:
        await started(api)
        await api.send(api.violation(id="v", grade="hygiene"))

        await api.send(api.escalation("v"))

        await rolled_back(api)

    async def test_a_leaked_session_takes_it_back(self, api: Api) -> None:
        await started(api)

        await api.send(api.violation(kind="session_leak", grade="hygiene"))

        await rolled_back(api)

    async def test_a_rollout_of_another_service_stays(self, api: Api) -> None:
        await started(api)

        await api.send(api.violation(), service="shop")
        await api.app.state.rollout_controller.look()

        assert (await api.state())["status"] == "running"

    async def test_a_violation_of_the_stage_before_still_counts(self, api: Api) -> None:
        """Its record may have been on its way while the stage changed."""
        await started(api)
        api.clock.advance(10)
        before = rfc3339(api.clock())
        api.clock.advance(1)
        await api.step("advance", force=True)

        await api.send(api.violation(time=before))

        await rolled_back(api)

    async def test_what_a_killed_collector_left_undone_is_done_by_the_next(self, api: Api, replica: Callable[..., Any]) -> None:
        """The record is stored, and the process ends before it acts: the next look finds it."""
        await started(api)

        async with replica(api.clock, "fail") as another:
            await another.rounds(1)

        assert (await api.state())["status"] == "rolled_back"

    async def test_collectors_that_see_the_same_harm_act_once(self, api: Api, replica: Callable[..., Any]) -> None:
        await started(api)

        async with replica(api.clock, "fail") as one, replica(api.clock, "fail") as two, replica(api.clock, "fail") as three:
            await asyncio.gather(*(each.controller.look() for each in (one, two, three) for _ in range(5)))

        history = await api.history()
        assert [event["action"] for event in history] == ["rollback", "start", "apply"]

    async def test_a_rollback_wins_over_an_advance_that_was_decided_before_it(self, api: Api, replica: Callable[..., Any]) -> None:
        await started(api)

        async with replica(api.clock) as one:
            await one.rounds(12)

            async def slow(name: str, stage: str = "") -> dict[str, Any]:
                await api.step("rollback")
                return {"verdict": "pass", "decision_id": "late", "reasons": []}

            one.gate.evaluate = slow  # type: ignore[method-assign]  # the race, made certain
            await one.rounds(1)

        assert (await api.state())["status"] == "rolled_back"
        assert "advance" not in {event["action"] for event in await api.history()}

    async def test_harm_wins_over_a_hold_that_came_between(self, api: Api, replica: Callable[..., Any]) -> None:
        await started(api)

        async with replica(api.clock, "fail") as one:
            answer = one.gate.evaluate

            async def slow(name: str, stage: str = "") -> dict[str, Any]:
                await api.step("hold")
                return await answer(name, stage)

            one.gate.evaluate = slow  # type: ignore[method-assign]  # the race, made certain
            await one.rounds(1)

        assert [event["action"] for event in await api.history()] == ["rollback", "hold", "start", "apply"]

    async def test_one_rollout_that_cannot_be_looked_at_does_not_keep_others_from_it(self, api: Api, replica: Callable[..., Any]) -> None:
        await started(api)
        await api.apply("other")
        await api.step("start", "other")

        async with replica(api.clock, "fail") as one:
            answer = one.gate.evaluate

            async def partly(name: str, stage: str = "") -> dict[str, Any]:
                if name == "checkout":
                    raise RuntimeError("a defect")
                return await answer(name, stage)

            one.gate.evaluate = partly  # type: ignore[method-assign]  # a defect, made certain
            await one.rounds(1)

        assert [(await api.state(name))["status"] for name in ("checkout", "other")] == ["running", "rolled_back"]


class TestAlerts:
    async def alert(self, api: Api, **labels: str) -> None:
        starts = labels.pop("starts_at", rfc3339(api.clock()))
        status = labels.pop("status", "firing")
        every = {"alertname": "IsolationViolation", "service": "chat", "rollback": "true"} | labels
        alert = {"status": status, "labels": every, "annotations": {"summary": "it broke"}, "startsAt": starts, "fingerprint": "f1"}
        body = {"version": "4", "groupKey": "g", "receiver": "page", "alerts": [alert]}
        assert (await api.post("/v1/alerts", body, token=SEND)).status_code == 200

    async def test_an_alert_takes_the_rollout_back_without_any_record(self, api: Api) -> None:
        await started(api)
        api.clock.advance(5)

        await self.alert(api)
        await rolled_back(api)

        newest = (await api.history())[0]
        assert (newest["actor"], newest["reason"]) == ("isolation-monitor", "alert IsolationViolation: it broke")

    async def test_an_alert_is_heard_behind_a_thousand_others(self, api: Api) -> None:
        """An older rollout of another team, and planted faults, have filled the store since the start."""
        await started(api)
        await asyncio.gather(*(self.others(api, first) for first in range(0, 1000, 200)))
        api.clock.advance(5)

        await self.alert(api)
        await rolled_back(api)

    async def others(self, api: Api, first: int) -> None:
        alerts = [
            {
                "status": "firing",
                "labels": {"alertname": "IsolationViolation", "service": "chat", "rollback": "true", "rollout": "other"},
                "annotations": {},
                "startsAt": rfc3339(api.clock()),
                "fingerprint": f"other-{first + n}",
            }
            for n in range(200)
        ]
        body = {"version": "4", "groupKey": "g", "receiver": "page", "alerts": alerts}
        assert (await api.post("/v1/alerts", body, token=SEND)).status_code == 200

    @pytest.mark.parametrize(
        "labels",
        [
            {"synthetic": "true"},
            {"rollback": "false"},
            {"service": "shop"},
            {"rollout": "other"},
            {"starts_at": "2026-01-01T11:59:59Z"},
            {"status": "resolved"},
            {"alertname": "EventDeliveryBelow95"},
            {"trigger": "latency"},
        ],
    )
    async def test_an_alert_that_is_not_about_this_rollout_does_nothing(self, api: Api, labels: dict[str, str]) -> None:
        """Planted faults, other services and rollouts, repeated old notifications, and numbers of a stage of five people."""
        await started(api)

        await self.alert(api, **labels)
        await api.app.state.rollout_controller.look()

        assert (await api.state())["status"] == "running"

    @pytest.mark.parametrize(
        ("labels", "expected"),
        [
            ({"alertname": "EventDeliveryBelow95"}, "rolled_back"),
            ({"trigger": "latency"}, "rolled_back"),
            ({"trigger": "latency", "arm": "off"}, "running"),
            ({"arm": "off"}, "rolled_back"),
        ],
    )
    async def test_a_stage_by_percent_listens_to_the_other_triggers_too(self, api: Api, labels: dict[str, str], expected: str) -> None:
        await started(api)
        await api.step("advance", force=True)

        await self.alert(api, **labels)
        await api.app.state.rollout_controller.look()

        assert (await api.state())["status"] == expected


async def rolled_back(api: Api) -> None:
    """Wait until the rollout is taken back."""

    async def is_so() -> bool:
        return bool((await api.state())["status"] == "rolled_back")

    await until(is_so)


async def test_a_rollout_that_was_completed_meanwhile_is_not_taken_back(api: Api, database_url: str, clock: FrozenClock) -> None:
    """Two look at the same alarm of a last stage: a person completes it between this one's look and its step."""
    await api.apply(stages=[{"name": "full", "percent": 100, "soak": "1m"}])
    await api.step("start")
    database, gate = Database(database_url), PlannedGate("fail")

    class Completing(RolloutService):
        async def change(self, name: str, action: Any, who: Who, *, expected_revision: int | None = None) -> bool:
            if (await api.state())["status"] == "running":
                await api.step("advance", force=True)
            return await super().change(name, action, who, expected_revision=expected_revision)

    controller = RolloutController(Completing(database, clock), gate, Nudge(), ROUND_S, lambda: 0.0)
    try:
        await controller.look()
    finally:
        await database.close()

    assert (await api.state())["status"] == "complete", "without a time to watch it after its end, harm does not reach it"
