"""Power: planted faults prove each detector while the service runs, and a detector that misses goes grey, alone."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.detectors import foreign_task
from isolation_monitor.telemetry.lab import Lab
from isolation_monitor.telemetry.metrics import merging
from isolation_monitor.telemetry.power import (
    AGAIN_AFTER_S,
    FIRST_AFTER_S,
    LATE_S,
    ROUNDS_UNTIL_GREY,
    SEEN_WITHIN_S,
    URGENT_AT_ONCE,
    recall_at_least,
)

Make = Callable[..., IsolationMonitor]


class Clock:
    """Ticks the power test by hand, second by second."""

    def __init__(self, monitor: IsolationMonitor) -> None:
        self.monitor = monitor
        # The real thread must not tick as well.
        monitor.housekeeper.close()
        self.now = time.monotonic()
        monitor.power._clock = lambda: self.now
        monitor.power.serving(None)

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.now += 1
            self.monitor.power.tick(self.now)
            # What detectors left for the housekeeper, in its stead.
            housekeeper = self.monitor.housekeeper
            with housekeeper._wake:
                due, housekeeper._due = housekeeper._due, []
            for _, _, job in sorted(due, key=lambda one: one[:2]):
                job()

    def states(self) -> dict[str, str]:
        return {detector: self.monitor.power.state(detector, self.now) for detector in names.DETECTORS}


@pytest.fixture
def clock(monitor: IsolationMonitor) -> Clock:
    return Clock(monitor)


def first_round() -> float:
    return FIRST_AFTER_S + math.ceil(len(names.DETECTORS) / URGENT_AT_ONCE) + 3


def test_every_detector_can_be_proven(monitor: IsolationMonitor) -> None:
    assert set(monitor.power._proofs) == set(names.DETECTORS)


def test_the_first_round_proves_every_detector_within_half_a_minute(clock: Clock) -> None:
    clock.run(first_round())

    assert clock.states() == dict.fromkeys(names.DETECTORS, "proven")
    assert first_round() < 30


def test_each_detector_is_proven_again_about_every_five_minutes(clock: Clock, monitor: IsolationMonitor) -> None:
    clock.run(first_round())

    clock.run(15 * len(names.DETECTORS) + 20)

    counts = {d: monitor.registry.value(names.PLANTED_FAULTS, detector=d, result="seen") for d in names.DETECTORS}
    assert set(counts.values()) <= {2.0, 3.0}, counts
    assert monitor.registry.value(names.PLANTED_FAULTS, result="missed") == 0


def test_faults_of_one_second_are_planted_one_at_a_time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted in one go with all else that is due each second, they held the interpreter for 10 ms."""
    acted: list[str] = []
    power, housekeeper = clock.monitor.power, clock.monitor.housekeeper
    monkeypatch.setattr(power, "_act", lambda proof, planted: acted.append(proof.detector))
    clock.now += FIRST_AFTER_S

    power.tick(clock.now)

    assert acted == []
    assert len(housekeeper._due) == URGENT_AT_ONCE
    assert len({at for at, _, _ in housekeeper._due}) == URGENT_AT_ONCE
    for done, (_, _, job) in enumerate(sorted(housekeeper._due, key=lambda one: one[:2]), 1):
        job()
        assert len(acted) == done


def test_the_planted_job_of_a_thread_reaches_little_code(monitor: IsolationMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a job reaches is read for each plant, and from the detector's own code the whole monitor is reached."""
    read: list[int] = []
    original = foreign_task.reach_of

    def counted(function: object) -> Iterator[CodeType]:
        codes = list(original(function))
        read.append(len(codes))
        return iter(codes)

    monkeypatch.setattr(foreign_task, "reach_of", counted)

    monitor.detection.foreign_task.plant(Lab(monitor.principals))

    assert 0 < max(read) <= 5, read


def test_nothing_is_planted_before_the_service_serves_or_when_the_setting_says_never(make_monitor: Make) -> None:
    idle, never = make_monitor(), Clock(make_monitor(self_test_interval_s=0))
    idle.housekeeper.close()

    for second in range(60):
        idle.power.tick(time.monotonic() + second)
    never.run(60)

    for monitor in (idle, never.monitor):
        assert monitor.violations(synthetic=True) == []
        assert {monitor.power.state(detector) for detector in names.DETECTORS} == {"untested"}


@pytest.mark.parametrize("broken", names.DETECTORS)
def test_a_detector_whose_fault_goes_unseen_turns_grey_and_no_other(broken: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = clock.monitor
    report = monitor.ledger.report

    def without(violation: Any, *requests: Any) -> None:
        if violation.kind != broken:
            report(violation, *requests)

    monkeypatch.setattr(monitor.ledger, "report", without)

    clock.run(first_round() + SEEN_WITHIN_S)

    assert {detector for detector, state in clock.states().items() if state == "grey"} == {broken}
    assert {state for detector, state in clock.states().items() if detector != broken} == {"proven"}
    assert monitor.registry.value(names.DETECTOR_STATE, detector=broken, state="grey") == 1
    assert monitor.registry.value(names.DETECTOR_POWER, detector=broken) == 0


def test_a_plant_that_raises_is_a_missed_fault_and_an_error_of_our_own(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, lab: Lab) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(type(clock.monitor.detection.canary), "plant", broken)

    clock.run(first_round() + SEEN_WITHIN_S)

    assert clock.states()[names.CANARY] == "grey"
    assert clock.monitor.registry.value(names.MONITOR_ERRORS, hook="self_test") >= 1


def test_a_missed_fault_is_planted_again_soon_and_proves_the_detector(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """One long pause of the machine must not leave a detector grey for a whole round."""
    with monkeypatch.context() as patched:
        patched.setattr(type(clock.monitor.detection.canary), "plant", lambda self, lab: None)
        clock.run(first_round() + SEEN_WITHIN_S)
        assert clock.states()[names.CANARY] == "grey"

    # The last one that could not be seen may have been planted just now.
    clock.run(SEEN_WITHIN_S + AGAIN_AFTER_S + 3)

    assert clock.states()[names.CANARY] == "proven"
    assert clock.monitor.power.power(names.CANARY) < recall_at_least(1, 1)


def test_a_detector_without_a_proof_for_three_rounds_turns_grey(clock: Clock) -> None:
    clock.run(first_round())

    clock.now += ROUNDS_UNTIL_GREY * 15 * len(names.DETECTORS) + 60

    assert set(clock.states().values()) == {"grey"}


def test_a_detector_that_is_off_is_neither_planted_nor_grey(make_monitor: Make) -> None:
    clock = Clock(make_monitor(detectors="shared_state=off"))

    clock.run(first_round())

    assert clock.states()[names.SHARED_STATE] == "off"
    assert clock.monitor.power.power(names.SHARED_STATE) == -1
    assert all(violation.kind != names.SHARED_STATE for violation in clock.monitor.violations(synthetic=True))


def test_with_the_monitor_switched_off_every_detector_is_off(clock: Clock) -> None:
    clock.run(5)
    clock.monitor.mode = "off"

    clock.run(60)

    assert set(clock.states().values()) == {"off"}
    assert clock.monitor.registry.value(names.PLANTED_FAULTS, result="missed") == 0


def test_planted_faults_leave_users_numbers_alone(clock: Clock, caplog: pytest.LogCaptureFixture, samples: Callable[..., float]) -> None:
    monitor = clock.monitor
    before = monitor.registry.render("isolation")

    clock.run(first_round())

    planted = (b"isolation_violations_total", b"isolation_monitor_info", b"isolation_requests_total")
    changed = set(monitor.registry.render("isolation").splitlines()) ^ set(before.splitlines())
    assert [line for line in changed if not line.startswith(planted[:2])] == []
    assert samples(monitor, "isolation_violations_total", synthetic="false") == 0
    assert samples(monitor, "isolation_violations_total", synthetic="true") == 0
    assert monitor.violations() == []
    assert {violation.kind for violation in monitor.violations(synthetic=True)} == set(names.DETECTORS)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    for name in (
        "isolation_runs_total",
        "isolation_events_total",
        "isolation_event_anomalies_total",
        "isolation_run_duration_seconds_count",
    ):
        assert samples(monitor, name) == 0, name


def test_one_record_of_each_detector_is_sent_in_an_hour(clock: Clock) -> None:
    sent: list[dict[str, Any]] = []
    clock.monitor.outbox.put = sent.append  # type: ignore[method-assign]  # what leaves is looked at here

    clock.run(first_round() + 15 * len(names.DETECTORS) * 2)

    assert sorted(record["kind"] for record in sent) == sorted(names.DETECTORS)
    assert all(record["synthetic"] and record["type"] == "violation" for record in sent)


def test_planted_principals_are_not_remembered(clock: Clock) -> None:
    clock.run(first_round() + 60)

    assert [id for id in clock.monitor.principals.by_id if "planted" in id] == []


def test_a_violation_of_another_lab_proves_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plant that is reported late must not stand for the one that is under way."""
    detector = clock.monitor.detection.canary
    with monkeypatch.context() as patched:
        patched.setattr(type(detector), "plant", lambda self, lab: None)
        clock.monitor.power.plant(names.CANARY, clock.now)
    detector.plant(Lab(clock.monitor.principals))

    clock.run(SEEN_WITHIN_S + 2)

    assert clock.monitor.registry.value(names.PLANTED_FAULTS, detector=names.CANARY, result="missed") == 1


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def test_detectors_of_the_loop_are_proven_on_the_loop(clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
    clock.monitor.power.serving(loop)

    clock.run(first_round() + SEEN_WITHIN_S)
    waiting = {detector for detector, state in clock.states().items() if state == "untested"}
    loop.run_until_complete(asyncio.sleep(0))
    clock.run(1)

    assert waiting == {names.FOREIGN_CONTEXT, names.FOREIGN_CONTENT, names.WRONG_SOCKET}
    assert set(clock.states().values()) == {"proven"}


def test_a_loop_that_never_comes_to_a_planted_fault_has_missed_it(clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
    clock.monitor.power.serving(loop)

    clock.run(first_round() + LATE_S)

    assert {d for d, state in clock.states().items() if state == "grey"} == {
        names.FOREIGN_CONTEXT,
        names.FOREIGN_CONTENT,
        names.WRONG_SOCKET,
    }


async def test_a_served_application_is_proven_while_users_are_served(
    make_monitor: Make, client: Callable[..., Any], samples: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isolation_monitor.telemetry.power.FIRST_AFTER_S", 0.0)
    # On a machine that is busy with other tests the loop does stand still.
    monitor = make_monitor(stall_threshold_ms=10_000)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    served = client(monitor.instrument(app))
    deadline = time.monotonic() + 60
    requests = 0
    while any(monitor.power.state(d) != "proven" for d in names.DETECTORS) and time.monotonic() < deadline:
        await asyncio.gather(*(served.get("/", user=user) for user in ("ann", "bob")))
        requests += 2
        await asyncio.sleep(0.05)

    assert {d: monitor.power.state(d) for d in names.DETECTORS} == dict.fromkeys(names.DETECTORS, "proven")
    assert monitor.violations() == []
    assert samples(monitor, "isolation_requests_total") == requests
    assert samples(monitor, "isolation_requests_total", verdict="violated") == 0


@pytest.mark.parametrize(
    ("seen", "planted", "bound"),
    # Hand-worked: 0.025 ** (1/20) and 0.025 ** (1/1); the others from published tables of exact 95 % limits.
    [(20, 20, 0.8316), (1, 1, 0.025), (0, 5, 0.0), (19, 20, 0.7513), (18, 20, 0.6830), (10, 20, 0.2720), (1, 20, 0.0013)],
)
def test_the_recall_is_bounded_as_clopper_and_pearson_bound_it(seen: int, planted: int, bound: float) -> None:
    assert recall_at_least(seen, planted) == pytest.approx(bound, abs=0.00005)


def test_the_worst_worker_speaks_for_the_power_of_all() -> None:
    assert merging.GAUGE_MERGE[names.DETECTOR_POWER.name] == "min"
    assert names.DETECTOR_STATE.name not in merging.GAUGE_MERGE, "workers in a state are added"
