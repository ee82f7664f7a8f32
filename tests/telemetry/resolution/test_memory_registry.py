"""The registry in memory: the first word holds, nothing grows without bound, nothing outlives its time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from isolation_monitor.telemetry.resolution import Entry, MemoryRegistry


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def entry(run: str, thread: str = "t_1", owner: str | None = "ana", expires_at: float = 2_000.0) -> Entry:
    return Entry(run, thread, owner, "created", expires_at)


def test_the_first_registration_holds() -> None:
    registry = MemoryRegistry(clock=Clock())

    registry.put(entry("run_1", "t_1"))
    held = registry.put(entry("run_1", "t_2"))

    assert held.thread_id == "t_1"
    assert registry.get("run_1") is held


def test_an_owner_that_was_not_known_is_filled_in_and_never_replaced() -> None:
    registry = MemoryRegistry(clock=Clock())
    registry.put(entry("run_1", owner=None))

    registry.put(entry("run_1", owner="ana"))
    held = registry.put(entry("run_1", owner="ben"))

    assert held.owner == "ana"


def test_an_entry_is_gone_when_its_time_is_over() -> None:
    clock = Clock()
    registry = MemoryRegistry(clock=clock)
    registry.put(entry("run_1", expires_at=1_010.0))

    clock.now = 1_010.0

    assert registry.get("run_1") is None
    assert registry.put(entry("run_1", "t_2")).thread_id == "t_2"
    assert registry.forgotten == {"limit": 0, "expired": 1}


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 100)), max_size=200), st.integers(1, 10))
def test_there_are_never_more_entries_than_the_limit(puts: list[tuple[int, float]], limit: int) -> None:
    clock = Clock()
    registry = MemoryRegistry(limit=limit, ttl_s=50, clock=clock)

    for run, passed_s in puts:
        clock.now += passed_s
        put = registry.put(entry(f"run_{run}", expires_at=clock.now + 50))

        assert len(registry) <= limit
        assert registry.get(f"run_{run}") is put
        assert all(registry.get(one.run_id) is None for one in list(registry._entries.values()) if one.expires_at <= clock.now)


def test_of_many_threads_that_register_one_run_all_learn_who_won() -> None:
    registry = MemoryRegistry(clock=Clock())

    with ThreadPoolExecutor(8) as pool:
        held = list(pool.map(lambda n: registry.put(entry("run_1", f"t_{n}")), range(400)))

    assert len({one.thread_id for one in held}) == 1


def test_a_child_forked_while_the_lock_is_held_can_still_register() -> None:
    registry = MemoryRegistry(clock=Clock())
    registry.put(entry("run_0"))
    with registry._lock:
        child = os.fork()
        if child == 0:
            held = registry.put(entry("run_1"))
            os._exit(0 if held.run_id == "run_1" and registry.get("run_0") is not None else 1)

    assert os.waitpid(child, 0)[1] == 0
