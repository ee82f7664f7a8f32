"""Resolution: five sources in order, what later ones know goes into the registry, and nobody is answered when two disagree."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from isolation_monitor.telemetry import (
    ConflictingIdError,
    ForeignIdError,
    InvalidIdError,
    IsolationMonitor,
    RunThreadMismatchError,
    SettingsError,
    UnresolvedIdError,
    names,
)
from isolation_monitor.telemetry.context import Connection, RequestContext
from isolation_monitor.telemetry.lab import Lab
from isolation_monitor.telemetry.resolution import Resolver, RunIds


def request_of(monitor: IsolationMonitor, user: str) -> RequestContext:
    return RequestContext(monitor.principals.named(user), {"type": "http", "method": "GET", "path": "/", "headers": []}, None, None)


def count(monitor: IsolationMonitor, metric: names.Metric, **labels: str) -> float:
    return monitor.registry.value(metric, **labels)


class Orchestrator:
    """Knows some runs and counts who asks."""

    def __init__(self, **known: Any) -> None:
        self.known = known
        self.asked: list[str] = []

    async def __call__(self, run_id: str) -> Any:
        self.asked.append(run_id)
        return self.known.get(run_id)


async def test_a_created_run_is_known_to_the_registry(monitor: IsolationMonitor) -> None:
    ids = monitor.resolution()

    run_id = await ids.create("t_1", owner="ana")
    resolved = await ids.resolve(run_id, asker="ana")

    assert (resolved.thread_id, resolved.owner, resolved.source, resolved.outcome) == ("t_1", "ana", "registry", "own")
    assert count(monitor, names.ID_RESOLUTIONS, source="registry") == 1
    assert count(monitor, names.ID_REGISTRATIONS_TOTAL, source="created", result="stored") == 1
    assert count(monitor, names.ID_OUTCOMES_TOTAL, outcome="created") == 1
    assert count(monitor, names.ID_OUTCOMES_TOTAL, outcome="own") == 1


async def test_the_sources_are_asked_in_order_and_only_as_far_as_needed(monitor: IsolationMonitor) -> None:
    orchestrator, connections = Orchestrator(r1=("t_1", "ana")), Orchestrator(r1=("t_1", "ana"), r2=("t_2", "ben"))
    ids = monitor.resolution(orchestrator=orchestrator, connections=connections)

    by = [(await ids.resolve(run_id)).source for run_id in ("r1", "r2", "thread_3_run_1")]

    assert by == ["orchestrator", "connection", "pattern"]
    assert orchestrator.asked == ["r1", "r2", "thread_3_run_1"]
    assert connections.asked == ["r2", "thread_3_run_1"]
    assert count(monitor, names.ID_PATTERN_READS, algorithm="embedded") == 1


async def test_what_a_later_source_knew_the_registry_knows_from_then_on(monitor: IsolationMonitor) -> None:
    orchestrator = Orchestrator(r1=("t_1", "ana"))
    ids = monitor.resolution(orchestrator=orchestrator)

    by = [(await ids.resolve(run_id)).source for run_id in ("r1", "r1", "thread_3_run_1", "thread_3_run_1")]

    assert by == ["orchestrator", "registry", "pattern", "registry"]
    assert orchestrator.asked == ["r1", "thread_3_run_1"]
    for source in ("orchestrator", "pattern"):
        assert count(monitor, names.ID_REGISTRATIONS_TOTAL, source=source, result="stored") == 1


@pytest.mark.parametrize("known", ["t_1", ("t_1", "ana"), ("t_1", None)])
async def test_plain_functions_are_asked_like_async_ones(monitor: IsolationMonitor, known: Any) -> None:
    ids = monitor.resolution(orchestrator=lambda run_id: known, connections=None)

    assert (await ids.resolve("r1")).thread_id == "t_1"


async def test_a_run_that_nobody_knows_is_an_error_with_what_each_source_said(monitor: IsolationMonitor) -> None:
    ids = monitor.resolution(orchestrator=Orchestrator())
    lab = Lab(monitor.principals)

    with pytest.raises(UnresolvedIdError) as caught:
        await lab.inside(request_of(monitor, "ana"), lambda: ids.resolve("r1"))
    with pytest.raises(UnresolvedIdError):
        await ids.resolve("r1", asker="ben")

    assert caught.value.said == {"registry": "miss", "orchestrator": "miss", "connection": "miss", "pattern": "miss (none)"}
    assert "orchestrator: miss" in str(caught.value)
    assert count(monitor, names.ID_RESOLUTIONS, source="error") == 2
    assert count(monitor, names.ID_OUTCOMES_TOTAL, outcome="unknown") == 2
    violation = monitor.violations()[0]
    assert (violation.kind, violation.grade) == (names.ID_RESOLUTION, "hygiene")
    assert violation.resource.detail["said"]["orchestrator"] == "miss"


async def test_an_error_counts_the_users_that_asked_in_vain(monitor: IsolationMonitor) -> None:
    ids = monitor.resolution()
    affected = []

    for user in ("ana", "ben", "ana"):
        request = request_of(monitor, user)
        with pytest.raises(UnresolvedIdError) as caught:
            await in_request(request, ids.resolve, "nobodys")
        affected.append(caught.value.affected)

    assert affected == [1, 2, 2]
    assert len({v.victim.principal for v in monitor.violations() if v.victim is not None}) == 2


async def in_request(request: RequestContext, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Await a call as the code of a request would."""
    import asyncio
    import contextvars

    from isolation_monitor.telemetry.context import CURRENT

    async def call() -> Any:
        CURRENT.set(request)
        return await function(*arguments, **named)

    return await asyncio.get_running_loop().create_task(call(), context=contextvars.Context())


async def test_a_default_is_an_answer_and_a_failure(monitor: IsolationMonitor) -> None:
    resolved = await monitor.resolution().resolve("nobodys", default="t_main")

    assert (resolved.thread_id, resolved.source, resolved.outcome) == ("t_main", "error", "defaulted")
    assert count(monitor, names.ID_RESOLUTIONS, source="error") == 1
    assert count(monitor, names.ID_OUTCOMES_TOTAL, outcome="defaulted") == 1
    assert "default" in monitor.violations()[0].summary


# --- conflicts --------------------------------------------------------------------------------------------------------


async def test_a_registry_that_contradicts_the_id_itself_is_an_isolation_risk(monitor: IsolationMonitor) -> None:
    ids = monitor.resolution()
    ids._parts.registry.put(entry_of(ids, "thread_1_run_1", "thread_2", "ana"))

    with pytest.raises(ConflictingIdError, match="registry and pattern"):
        await ids.resolve("thread_1_run_1")

    [violation] = monitor.violations()
    assert (violation.kind, violation.grade) == (names.ID_RESOLUTION, "reachable")
    assert [claim["source"] for claim in violation.resource.detail["claims"]] == ["registry", "pattern"]
    assert violation.victim is not None
    assert violation.victim.principal == monitor.principals.named("ana").hash
    assert count(monitor, names.ID_RESOLUTIONS, source="error") == 1
    assert count(monitor, names.ID_OUTCOMES_TOTAL, outcome="conflict") == 1


def entry_of(ids: Resolver, run_id: str, thread_id: str, owner: str | None) -> Any:
    from isolation_monitor.telemetry.resolution import Entry

    return Entry(run_id, thread_id, owner, "created", ids._expiry())


async def test_evidence_of_a_conflict_names_no_id_in_the_clear(monitor: IsolationMonitor) -> None:
    ids = monitor.resolution()
    ids._parts.registry.put(entry_of(ids, "thread_secret_run_1", "thread_other", "ana"))

    with pytest.raises(ConflictingIdError):
        await ids.resolve("thread_secret_run_1")

    record = str(monitor.violations()[0].as_record())
    assert "secret" not in record
    assert "thread_other" not in record
    assert "'ana'" not in record


async def test_a_second_registration_with_another_thread_or_owner_is_refused_and_reported(monitor: IsolationMonitor) -> None:
    ids = monitor.resolution()
    await ids.register("r1", "t_1", owner="ana")
    await ids.register("r1", "t_1", owner="ana")

    for thread, owner in (("t_2", "ana"), ("t_1", "ben")):
        with pytest.raises(ConflictingIdError):
            await ids.register("r1", thread, owner=owner)

    assert len(monitor.violations()) == 2
    assert (await ids.resolve("r1", asker="ana")).outcome == "own"


async def test_an_id_of_our_own_cannot_be_registered_for_another_thread(monitor: IsolationMonitor) -> None:
    with pytest.raises(ConflictingIdError, match="pattern"):
        await monitor.resolution().register(RunIds().new("t_1"), "t_2")


async def test_the_connection_of_a_run_is_held_against_the_registry(monitor: IsolationMonitor) -> None:
    """The socket was opened for one thread, the registry names another: somebody's events would go to the wrong place."""
    ids = monitor.resolution()
    await ids.register("r1", "t_1", owner="ana")
    ids._parts.registry.peek("r1").is_compared = False  # type: ignore[union-attr]  # as in a worker that did not make it
    connection = Connection(monitor.principals.named("ana"), {"path_params": {"thread_id": "t_2"}})
    monitor.runs.known["r1"] = SimpleNamespace(connection=connection, owner=monitor.principals.named("ana"))  # type: ignore[assignment]

    with pytest.raises(ConflictingIdError, match="registry and connection"):
        await ids.resolve("r1")


@pytest.mark.parametrize("scope", [{"path_params": {"thread_id": "t_1"}}, {"query_string": b"a=1&thread_id=t_1"}])
async def test_the_monitors_own_connections_know_the_thread_of_their_address(monitor: IsolationMonitor, scope: dict[str, Any]) -> None:
    connection = Connection(monitor.principals.named("ana"), scope)
    monitor.runs.known["r1"] = SimpleNamespace(connection=connection, owner=monitor.principals.named("ana"))  # type: ignore[assignment]

    resolved = await monitor.resolution().resolve("r1", asker="ana")

    assert (resolved.thread_id, resolved.source, resolved.outcome) == ("t_1", "connection", "own")


async def test_an_address_that_names_two_threads_names_none(monitor: IsolationMonitor) -> None:
    connection = Connection(None, {"query_string": b"thread_id=t_1&thread_id=t_2"})
    monitor.runs.known["r1"] = SimpleNamespace(connection=connection, owner=None)  # type: ignore[assignment]

    with pytest.raises(UnresolvedIdError):
        await monitor.resolution().resolve("r1")


# --- whose it is ------------------------------------------------------------------------------------------------------


async def test_a_thread_of_another_user_is_denied_without_a_word_about_it(monitor: IsolationMonitor) -> None:
    ids = monitor.resolution()
    run_id = await ids.create("t_1", owner="ana")
    await ids.register("r1", "t_secret", owner="ana")

    for asked in (run_id, "r1"):
        with pytest.raises(ForeignIdError) as caught:
            await in_request(request_of(monitor, "ben"), ids.resolve, asked)
        assert "ana" not in str(caught.value)
        assert "t_secret" not in str(caught.value)

    assert count(monitor, names.ID_OUTCOMES_TOTAL, outcome="foreign_denied") == 2
    assert monitor.violations() == []
    # Refusing is no failure to resolve.
    assert count(monitor, names.ID_RESOLUTIONS, source="error") == 0


async def test_a_rule_says_who_may_see_threads_of_others(monitor: IsolationMonitor) -> None:
    ids = monitor.resolution(access=lambda user, thread: user == "friend" and thread == "t_1")
    run_id = await ids.create("t_1", owner="ana")

    assert (await ids.resolve(run_id, asker="friend")).outcome == "shared"
    with pytest.raises(ForeignIdError):
        await ids.resolve(run_id, asker="stranger")


async def test_a_rule_that_breaks_lets_nobody_in(monitor: IsolationMonitor) -> None:
    def access(user: str, thread: str) -> bool:
        raise RuntimeError("no database")

    ids = monitor.resolution(access=access)
    run_id = await ids.create("t_1", owner="ana")

    with pytest.raises(ForeignIdError):
        await ids.resolve(run_id, asker="ben")
    assert count(monitor, names.MONITOR_ERRORS, hook="resolution") == 1


@pytest.mark.parametrize(
    ("status", "refuses", "outcome", "grades"),
    [(200, False, "foreign_served", ["crossed"]), (404, False, "foreign_denied", []), (200, True, "foreign_denied", [])],
)
async def test_a_foreign_thread_that_is_only_reported_is_judged_by_what_the_request_answered(
    monitor: IsolationMonitor, settled: Callable[[], None], status: int, refuses: bool, outcome: str, grades: list[str]
) -> None:
    ids = monitor.resolution()
    await ids.register("r1", "t_1", owner="ana")
    request = request_of(monitor, "ben")

    resolved = await in_request(request, ids.resolve, "r1", foreign="report")
    settled()
    assert resolved.outcome == "", "the request still runs: nothing is known yet"
    if refuses:
        resolved.refuse()
    request.status, request.finished = status, True
    settled()

    assert resolved.outcome == outcome
    assert count(monitor, names.ID_OUTCOMES_TOTAL, outcome=outcome) == 1
    assert [violation.grade for violation in monitor.violations()] == grades


async def test_the_owner_of_a_thread_is_asked_of_the_application_once(monitor: IsolationMonitor) -> None:
    owners = Orchestrator(thread_1="ana")
    ids = monitor.resolution(owner_of=owners)

    outcomes = [(await ids.resolve("thread_1_run_1", asker="ana")).outcome for _ in range(3)]

    assert outcomes == ["own"] * 3
    assert owners.asked == ["thread_1"]


async def test_an_id_that_names_a_thread_which_does_not_exist_is_not_resolved(monitor: IsolationMonitor) -> None:
    """Anybody can write `thread_x_run_1`."""
    ids = monitor.resolution(owner_of=Orchestrator())

    with pytest.raises(UnresolvedIdError) as caught:
        await ids.resolve("thread_x_run_1")

    assert caught.value.said["owner"] == "miss"
    assert ids._parts.registry.peek("thread_x_run_1") is None


async def test_a_run_asked_for_with_another_thread_is_a_mismatch(monitor: IsolationMonitor) -> None:
    ids = monitor.resolution()
    run_id = await ids.create("t_1", owner="ana")

    assert (await ids.resolve(run_id, thread_id="t_1")).thread_id == "t_1"
    with pytest.raises(RunThreadMismatchError):
        await ids.resolve(run_id, thread_id="t_2")
    assert count(monitor, names.ID_OUTCOMES_TOTAL, outcome="run_thread_mismatch") == 1


async def test_without_an_owner_or_an_asker_nothing_is_judged(monitor: IsolationMonitor) -> None:
    ids = monitor.resolution()
    await ids.register("r1", "t_1")
    await ids.register("r2", "t_1", owner="ana")

    assert (await ids.resolve("r1", asker="ben")).outcome == "unowned"
    assert (await ids.resolve("r2")).outcome == "unowned"


async def test_owner_and_asker_are_the_requests_own_principal(monitor: IsolationMonitor) -> None:
    ids = monitor.resolution()
    run_id = await in_request(request_of(monitor, "ana"), ids.create, "t_1")

    assert (await in_request(request_of(monitor, "ana"), ids.resolve, run_id)).outcome == "own"
    with pytest.raises(ForeignIdError):
        await in_request(request_of(monitor, "ben"), ids.resolve, run_id)


# --- input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [None, "", 7, b"r1", "x" * 201, "a\nb", "a\x00b", "\ud800", ["r1"]])
async def test_what_can_be_no_id_is_refused_before_anybody_is_asked(monitor: IsolationMonitor, bad: Any) -> None:
    orchestrator = Orchestrator()
    ids = monitor.resolution(orchestrator=orchestrator)

    with pytest.raises(InvalidIdError, match="run_id is no id"):
        await ids.resolve(bad)
    with pytest.raises(InvalidIdError, match="run_id is no id"):
        ids.resolve_now(bad)

    assert orchestrator.asked == []
    assert count(monitor, names.ID_OUTCOMES_TOTAL, outcome="invalid") == 2
    assert count(monitor, names.ID_RESOLUTIONS, source="error") == 0


@pytest.mark.parametrize(
    "wrong",
    [{"orchestrator": 7}, {"access": "yes"}, {"registry": object()}, {"thread_shape": "("}, {"patterns": [r"\d+"]}],
)
def test_a_wrong_declaration_fails_at_start(monitor: IsolationMonitor, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        monitor.resolution(**wrong)


def test_no_time_at_all_is_refused(make_monitor: Callable[..., IsolationMonitor]) -> None:
    with pytest.raises(SettingsError, match="resolution_timeout_s"):
        make_monitor(resolution_timeout_s=0).resolution()


async def test_with_the_monitor_switched_off_ids_are_still_made_and_resolved(monitor: IsolationMonitor) -> None:
    """The kill switch stops the watching. The application lives by its ids."""
    ids = monitor.resolution()
    monitor.mode = "off"

    run_id = await ids.create("t_1", owner="ana")

    assert (await ids.resolve(run_id, asker="ana")).thread_id == "t_1"
    with pytest.raises(ForeignIdError):
        await ids.resolve(run_id, asker="ben")
    with pytest.raises(UnresolvedIdError):
        await ids.resolve("nobodys")
    assert monitor.violations() == []


def test_code_without_an_event_loop_does_all_the_same(monitor: IsolationMonitor) -> None:
    ids = monitor.resolution(orchestrator={"r1": ("t_1", "ana")}.get)
    run_id = ids.create_now("t_2", owner="ana")

    assert ids.resolve_now(run_id, asker="ana").source == "registry"
    assert ids.resolve_now("r1", asker="ana").source == "orchestrator"
    assert ids.resolve_now("r1", asker="ana").source == "registry"
    with pytest.raises(UnresolvedIdError):
        ids.resolve_now("r2")


async def test_the_planted_conflict_is_reported_as_synthetic(monitor: IsolationMonitor) -> None:
    monitor.detection.id_resolution.plant(Lab(monitor.principals))
    with monitor.ledger.planting():
        monitor.detection.id_resolution.plant(Lab(monitor.principals))

    assert [v.kind for v in monitor.violations(synthetic=True)] == [names.ID_RESOLUTION] * 2
    assert monitor.violations() == []
