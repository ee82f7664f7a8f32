"""Staged rollouts over HTTP: files, steps, history, who gets what."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest

from isolation_monitor.collector.background import Nudge
from isolation_monitor.collector.gates.comparison import ComparisonPlan
from isolation_monitor.collector.gates.repository import GateRepository
from isolation_monitor.collector.rollouts.announcer import Announcer
from isolation_monitor.collector.rollouts.domain import RolloutEvent
from isolation_monitor.collector.settings import load_settings
from isolation_monitor.collector.storage.database import Database
from tests.collector.conftest import READ, SEND, STAGES, Api, scopes_of, until


@pytest.fixture
async def api(make_api: Callable[..., Any], database_url: str) -> AsyncIterator[Api]:
    """A collector whose controller acts only when a test tells it to."""
    async with make_api(database_url, rollout_interval_s=3600) as running:
        yield running


async def rules(api: Api) -> tuple[int, dict[str, Any]]:
    revision, found = await api.app.state.rollouts.rules("chat")
    return revision, {rule["key"]: rule for rule in found}


async def test_an_applied_rollout_waits_for_its_start_and_nobody_gets_it(api: Api) -> None:
    answer = await api.apply()

    assert (answer.status_code, answer.json()["changed"]) == (201, True)
    state = await api.state()
    assert (state["status"], state["stage"], state["percent"], state["next_stage"], state["revision"]) == ("ready", "off", 0, "internal", 1)
    assert (await rules(api))[1]["checkout"] == {
        "key": "checkout",
        "service": "chat",
        "variants": {"on": True, "off": False},
        "enabled": False,
        "percent": 0.0,
        "internal": ["ann"],
        "holdback_percent": 2.0,
        "revision": 1,
    }


async def test_a_rollout_climbs_its_stages_and_ends_with_a_holdback(api: Api) -> None:
    await api.apply()
    seen = []

    await api.step("start")
    for _ in range(4):
        rule = (await rules(api))[1]["checkout"]
        seen.append(((await api.state())["stage"], rule["enabled"], rule["percent"], rule["holdback_percent"]))
        await api.step("advance", force=True)

    assert seen == [("internal", True, 0.0, 2.0), ("canary", True, 10.0, 2.0), ("full", True, 100.0, 2.0), ("full", True, 100.0, 2.0)]
    assert (await api.state())["status"] == "complete"


async def test_the_gate_is_told_how_each_stage_compares(api: Api, database_url: str) -> None:
    await api.apply()
    database, compared = Database(database_url), []
    try:
        for step in ("start", "advance", "advance"):
            await api.step(step, force=step == "advance")
            async with database.reading() as connection:
                watched = await GateRepository(connection).rollout("checkout")
            assert watched is not None
            assert watched.stage is not None
            compared.append(watched.stage.comparison)
    finally:
        await database.close()

    # Nobody to compare an internal stage with; those who are held back are the control of the last one.
    assert compared == [None, ComparisonPlan(10.0, position=0, stages=2), ComparisonPlan(98.0, position=1, stages=2)]


async def test_every_change_is_in_the_history_with_who_and_why(api: Api) -> None:
    await api.apply()
    await api.step("start", actor="bob", reason="release 2.4")
    await api.step("hold")
    await api.step("rollback", reason="foreign invoices")
    await api.step("re-arm")

    history = await api.history()

    assert [(e["action"], e["from_status"], e["to_status"], e["from_stage"], e["to_stage"]) for e in reversed(history)] == [
        ("apply", "none", "ready", "off", "off"),
        ("start", "ready", "running", "off", "internal"),
        ("hold", "running", "held", "internal", "internal"),
        ("rollback", "held", "rolled_back", "internal", "off"),
        ("re-arm", "rolled_back", "ready", "off", "off"),
    ]
    assert [e["revision"] for e in history] == [5, 4, 3, 2, 1]
    assert (history[3]["actor"], history[3]["reason"], history[1]["reason"]) == ("bob", "release 2.4", "foreign invoices")


async def test_rolled_back_stays_so_until_a_person_re_arms(api: Api) -> None:
    await api.apply()
    await api.step("start")
    await api.step("rollback")

    refused = [await api.step(step, force=True) for step in ("start", "advance", "hold")]
    applied = await api.apply(holdback_percent=5)
    gate = await api.gate("checkout")

    assert [answer.status_code for answer in refused] == [409, 409, 409]
    assert "re-arm" in refused[0].json()["detail"]
    assert (applied.status_code, (await api.state())["status"]) == (200, "rolled_back")
    assert (gate["verdict"], gate["reasons"][0]["code"]) == ("fail", "rolled_back")
    assert (await rules(api))[1]["checkout"]["enabled"] is False
    assert (await api.step("re-arm")).json()["state"]["status"] == "ready"
    assert (await api.step("start")).json()["state"]["stage"] == "internal"
    assert (await api.gate("checkout"))["verdict"] == "error"


async def test_what_was_done_already_is_done_again_without_a_trace(api: Api) -> None:
    """A retry after a lost answer must not look like a second decision."""
    await api.apply()
    again = await api.apply()
    await api.step("start")
    steps = [await api.step(step) for step in ("start", "hold", "hold", "rollback", "rollback", "re-arm", "re-arm")]

    assert (again.status_code, again.json()["changed"]) == (200, False)
    assert [step.status_code for step in steps] == [200] * 7
    assert [step.json()["changed"] for step in steps] == [False, True, False, True, False, True, False]
    assert len(await api.history()) == 5


@pytest.mark.parametrize("before", [[], ["start"], ["start", "hold"], ["start", "advance"], ["start", "advance", "advance", "advance"]])
async def test_a_rollback_is_possible_in_every_state(api: Api, before: list[str]) -> None:
    await api.apply()
    for step in before:
        assert (await api.step(step, force=True)).status_code == 200

    answer = await api.step("rollback")

    assert (answer.status_code, answer.json()["state"]["status"], answer.json()["state"]["percent"]) == (200, "rolled_back", 0)


async def test_a_person_advances_against_the_gate_only_by_force_and_never_after_a_failure(api: Api) -> None:
    await api.apply()
    await api.step("start")

    refused = await api.step("advance")
    forced = await api.step("advance", force=True)
    told = (await api.history())[0]["reason"]
    await api.send(api.violation())
    failed = await api.step("advance", force=True)

    assert (refused.status_code, "no Prometheus" in refused.json()["detail"]) == (409, True)
    assert (forced.json()["state"]["stage"], told) == ("canary", "because (forced)")
    assert failed.status_code == 409


async def test_a_step_on_a_state_that_somebody_else_changed_is_refused(api: Api) -> None:
    await api.apply()
    await api.step("start")

    stale = await api.step("hold", expected_revision=1)
    fresh = await api.step("hold", expected_revision=2)

    assert (stale.status_code, fresh.status_code) == (409, 200)


async def test_steps_at_the_same_moment_leave_one_history_without_gaps(api: Api) -> None:
    await api.apply()
    await api.step("start")
    steps = [random.Random(7).choice(["hold", "start", "rollback", "re-arm"]) for _ in range(30)]

    answers = await asyncio.gather(*(api.step(step) for step in steps))

    assert {answer.status_code for answer in answers} <= {200, 409}
    history = list(reversed(await api.history()))
    assert [event["revision"] for event in history] == list(range(1, len(history) + 1))
    assert all(a["to_status"] == b["from_status"] and a["to_stage"] == b["from_stage"] for a, b in pairwise(history))
    assert (await api.state())["status"] == history[-1]["to_status"]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"holdback_percent": 0}, "holdback_percent"),
        ({"stages": [{"name": "full", "percent": 100, "soak": "x"}]}, "stages[0].soak"),
        ({"internal_users": None}, "stages[0]"),
        ({"stages": []}, "stages"),
        ({"trigger": []}, "trigger"),
    ],
)
async def test_a_wrong_file_is_refused_with_its_places_and_nothing_is_stored(api: Api, change: dict[str, Any], place: str) -> None:
    answer = await api.apply(**change)

    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert [error["where"] for error in answer.json()["errors"]] == [place]
    assert (await api.get("/v1/rollouts/checkout")).status_code == 404
    assert (await api.get("/v1/rollouts")).json()["items"] == []


async def test_a_file_never_moves_users_of_a_rollout_under_way(api: Api) -> None:
    await api.apply()
    await api.step("start")
    await api.step("advance", force=True)
    other = [STAGES[0], STAGES[1] | {"percent": 20}, STAGES[2]]

    refused = [await api.apply(stages=other), await api.apply(stages=STAGES[2:]), await api.apply(holdback_percent=9)]
    moved = await api.apply(service="shop")
    longer = await api.apply(stages=[*STAGES[:1], STAGES[1] | {"soak": "2m", "minimum": {"exposed_requests": 7}}, STAGES[2]])
    friends = await api.apply(internal_users=["ann", "bob"])

    assert [answer.status_code for answer in [*refused, moved]] == [409] * 4
    assert (longer.status_code, longer.json()["state"]["soak_s"], longer.json()["min_exposed_requests"]) == (200, 120, 7)
    assert (friends.status_code, (await rules(api))[1]["checkout"]["internal"]) == (200, ["ann", "bob"])
    assert (await api.state())["stage"] == "canary"


async def test_watched_and_staged_rollouts_do_not_take_each_others_names(api: Api) -> None:
    await api.apply("checkout")
    await api.start_rollout("canary-1")

    taken = [
        await api.post("/v1/rollouts", {"name": "checkout", "service": "chat"}),
        await api.apply("canary-1"),
        await api.step("start", "canary-1"),
    ]

    assert [answer.status_code for answer in taken] == [409] * 3
    assert (await rules(api))[1].keys() == {"checkout"}
    assert (await api.get("/v1/rollouts/canary-1")).json()["state"] is None


async def test_rules_are_of_one_service_and_their_revision_grows_with_every_change(api: Api) -> None:
    revisions = [(await rules(api))[0]]
    await api.apply()
    await api.apply("other", service="shop")
    for step in ("start", "hold", "start", "rollback"):
        revisions.append((await rules(api))[0])
        await api.step(step)

    everything = await api.app.state.rollouts.rules(None)

    assert revisions == sorted(set(revisions))
    assert (await rules(api))[1].keys() == {"checkout"}
    assert {rule["key"] for rule in everything[1]} == {"checkout", "other"}


async def test_an_operators_token_of_its_own_takes_the_steps_from_the_read_token(make_api: Callable[..., Any], database_url: str) -> None:
    async with make_api(database_url, operate_token="token-that-operates", rollout_interval_s=3600) as api:
        refused = [await api.apply(), await api.step("start"), await api.post("/v1/rollouts/checkout/start", {}, token=SEND)]
        looked = await api.get("/v1/rollouts", token="token-that-operates")

        assert [answer.status_code for answer in refused] == [403, 403, 403]
        assert looked.status_code == 200
    assert scopes_of(load_settings(database_url=database_url, send_token="s", read_token=READ), READ) >= {"read", "operate"}


@pytest.mark.parametrize(
    "body", [{}, {"actor": "a"}, {"actor": "", "reason": "r"}, {"actor": "a", "reason": " "}, {"actor": "a", "reason": "r", "x": 1}, []]
)
async def test_a_step_without_who_and_why_is_no_step(api: Api, body: Any) -> None:
    await api.apply()

    assert (await api.post("/v1/rollouts/checkout/start", body)).status_code == 422
    assert (await api.state())["status"] == "ready"


async def test_unknown_rollouts_and_steps_are_404(api: Api) -> None:
    await api.apply()

    found = [await api.step("start", "nothing"), await api.step("jump"), await api.get("/v1/rollouts/nothing/history")]

    assert [answer.status_code for answer in found] == [404] * 3


class TestAnnouncements:
    async def test_each_change_is_told_once_in_order(self, api: Api) -> None:
        told: list[RolloutEvent] = []
        api.app.state.runtime.rollout_listeners.append(listener_into(told))

        await api.apply()
        await api.step("start")
        await api.step("rollback")
        await until(lambda: len(told) == 3)
        await api.app.state.announcer.tell()

        assert [(event.action, event.sequence) for event in told] == [("apply", 1), ("start", 2), ("rollback", 3)]

    async def test_a_listener_that_fails_holds_up_nothing_and_is_told_again(self, api: Api) -> None:
        told: list[RolloutEvent] = []
        tries = 0

        async def failing(_event: RolloutEvent) -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise OSError("Grafana is away")

        api.app.state.runtime.rollout_listeners.extend([failing, listener_into(told)])

        assert (await api.apply()).status_code == 201
        await until(lambda: tries == 1 and len(told) == 1)
        await api.app.state.announcer.tell()
        during_lease = tries
        api.clock.advance(60)
        await api.app.state.announcer.tell()
        await api.app.state.announcer.tell()

        assert (during_lease, tries) == (1, 2)

    async def test_what_was_not_told_before_a_restart_is_told_after_it(self, make_api: Callable[..., Any], database_url: str) -> None:
        async def never(_event: RolloutEvent) -> None:
            raise OSError

        async with make_api(database_url, rollout_interval_s=3600) as before:
            before.app.state.runtime.rollout_listeners.append(never)
            await before.apply()
        before.clock.advance(60)
        told: list[RolloutEvent] = []
        database = Database(database_url)
        await Announcer(database, before.clock, Nudge(), [listener_into(told)]).tell()
        await database.close()

        assert [event.action for event in told] == ["apply"]


def listener_into(told: list[RolloutEvent]) -> Callable[[RolloutEvent], Any]:
    async def listener(event: RolloutEvent) -> None:
        told.append(event)

    return listener
