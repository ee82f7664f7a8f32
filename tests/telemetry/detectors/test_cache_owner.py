"""Sealed values: whoever opens another's is reported, and what was never sealed passes as it is."""

from __future__ import annotations

import pickle
from collections.abc import Callable

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.context import RequestContext
from isolation_monitor.telemetry.lab import Lab


def test_a_value_sealed_for_one_and_opened_by_another_is_reported(monitor: IsolationMonitor) -> None:
    lab = Lab(monitor.principals)
    ana, ben = (RequestContext(monitor.principals.named(user), {}, None, None) for user in ("ana", "ben"))
    sealed = lab.inside(ana, monitor.seal, {"profile": 1})

    opened = lab.inside(ben, monitor.unseal, sealed)

    assert opened == {"profile": 1}
    [violation] = monitor.violations()
    assert (violation.kind, violation.grade) == (names.CACHE_OWNER, "reachable")
    assert violation.victim is not None
    assert violation.victim.principal == monitor.principals.named("ana").hash


def test_the_owner_opens_its_own_text_and_objects_also_through_pickle(monitor: IsolationMonitor) -> None:
    lab = Lab(monitor.principals)
    text = lab.inside(lab.request(), monitor.seal, "my text")
    thing = pickle.loads(pickle.dumps(lab.inside(lab.request(), monitor.seal, [1, 2])))

    assert lab.inside(lab.request(), monitor.unseal, text) == "my text"
    assert lab.inside(lab.request(), monitor.unseal, thing) == [1, 2]
    assert monitor.violations() == []


def test_what_was_never_sealed_or_sealed_outside_of_requests_opens_for_all(monitor: IsolationMonitor) -> None:
    lab = Lab(monitor.principals)

    assert lab.inside(lab.request(), monitor.unseal, "plain") == "plain"
    assert lab.inside(lab.request(), monitor.unseal, monitor.seal("for all")) == "for all"
    assert monitor.violations() == []


def test_in_block_mode_a_foreign_value_is_a_miss(make_monitor: Callable[..., IsolationMonitor]) -> None:
    monitor = make_monitor(detectors=("cache_owner=block",))
    lab = Lab(monitor.principals)
    sealed = lab.inside(lab.request(), monitor.seal, "secret")

    assert lab.inside(lab.request(of_offender=True), monitor.unseal, sealed, "miss") == "miss"


def test_the_planted_fault_is_reported_as_synthetic(monitor: IsolationMonitor) -> None:
    monitor.detection.cache_owner.plant(Lab(monitor.principals))

    assert [violation.synthetic for violation in monitor.violations(synthetic=True)] == [True]
