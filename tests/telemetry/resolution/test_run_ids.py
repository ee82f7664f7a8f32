"""Run ids: unique, sorted, readable back, and never silently wrong."""

from __future__ import annotations

import multiprocessing
import os
import re
import string
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isolation_monitor.telemetry import InvalidIdError
from isolation_monitor.telemetry.resolution import RunIds, parse_run_id
from isolation_monitor.telemetry.resolution.run_ids import LONGEST, THREAD_LIMIT

THREADS = st.text(string.ascii_letters + string.digits + "._~-", min_size=1, max_size=THREAD_LIMIT)
TIMES = st.floats(min_value=0, max_value=2**49 / 1000, allow_nan=False)


@given(THREADS, TIMES)
def test_an_id_is_read_back_to_its_thread_and_time(thread: str, at: float) -> None:
    run_id = RunIds(clock=lambda: at).new(thread)

    read = parse_run_id(run_id)

    assert (read.text, read.thread_id) == (run_id, thread)
    assert read.time == int(at * 1000) / 1000
    assert len(run_id) == 35 + len(thread) <= LONGEST
    assert re.fullmatch(r"[A-Za-z0-9._~-]+", run_id)


@given(st.lists(TIMES, min_size=2, max_size=30))
def test_ids_of_a_process_sort_as_they_were_made_whatever_the_clock_does(times: list[float]) -> None:
    """The clock is set back, stands still, jumps: order holds all the same."""
    clock = iter(times)
    ids = RunIds(clock=lambda: next(clock))

    made = [ids.new("t") for _ in times]

    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_a_full_millisecond_runs_over_into_the_next() -> None:
    ids = RunIds(clock=lambda: 1.0)
    first = ids.new("t")
    ids._sequence = 32**4 - 1

    over = ids.new("t")

    assert parse_run_id(over).time == 1.001
    assert over > first


@given(st.text(max_size=300))
def test_any_other_text_is_refused_with_the_documented_error(text: str) -> None:
    with pytest.raises(InvalidIdError) as caught:
        parse_run_id(text)
    assert len(str(caught.value)) < 400


@given(THREADS, st.data())
def test_a_damaged_id_is_told_from_a_good_one(thread: str, data: st.DataObject) -> None:
    """Cut, one character changed, or its end replaced: 20 bits of check let one in a million through, and none of these."""
    run_id = RunIds(clock=lambda: 1_700_000_000.0, entropy=lambda n: bytes(range(n))).new(thread)
    at = data.draw(st.integers(4, 33))
    wrong = data.draw(st.sampled_from([c for c in "0123456789abcdefghjkmnpqrstvwxyz" if c != run_id[at]]))

    with pytest.raises(InvalidIdError, match="damaged"):
        parse_run_id(run_id[:at] + wrong + run_id[at + 1 :])
    with pytest.raises(InvalidIdError):
        parse_run_id(run_id[:at])


@pytest.mark.parametrize("bad", ["", "a b", "ä", "a/b", "x" * 65, "a\n", None, 7, b"t", ["t"]])
def test_what_no_run_id_can_carry_is_refused_and_says_what_can(bad: object) -> None:
    with pytest.raises(InvalidIdError, match=r"A-Z a-z 0-9 \. _ ~ -"):
        RunIds().new(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [None, 7, b"run_", "run_", "thread_1_run_2", "run_" + "0" * 30, "RUN_" + "0" * 30 + "_t"])
def test_what_is_no_run_id_says_how_one_looks(bad: object) -> None:
    with pytest.raises(InvalidIdError, match="run_<30 characters"):
        parse_run_id(bad)  # type: ignore[arg-type]


def test_many_threads_make_no_id_twice() -> None:
    ids = RunIds(clock=lambda: 1.0)
    gate = threading.Barrier(8)

    def make(_: int) -> list[str]:
        gate.wait()
        return [ids.new("t") for _ in range(2_000)]

    with ThreadPoolExecutor(8) as pool:
        made = [run_id for batch in pool.map(make, range(8)) for run_id in batch]

    assert len(set(made)) == 16_000
    assert sorted(parse_run_id(run_id).sequence for run_id in made) == list(range(16_000))


_IDS = RunIds(clock=lambda: 1.0)


def _make_many(_: int) -> list[str]:
    return [_IDS.new("t") for _ in range(500)]


def test_forked_processes_make_no_id_twice() -> None:
    """They share the state of the generator at the fork, and the same frozen clock: only the random part tells them apart."""
    pool = multiprocessing.get_context("fork").Pool(3)
    try:
        made = [run_id for batch in pool.map(_make_many, range(6), chunksize=1) for run_id in batch]
    finally:
        # Closed, not terminated: a server of an earlier test may have left a handler that makes nothing of SIGTERM.
        pool.close()
        pool.join()

    assert len(set(made)) == 3_000


def test_a_child_forked_while_the_lock_is_held_still_makes_ids() -> None:
    ids = RunIds()
    reading, writing = os.pipe()
    with ids._lock:
        child = os.fork()
        if child == 0:
            try:
                os.write(writing, ids.new("t").encode())
            finally:
                os._exit(0)
    os.close(writing)

    with os.fdopen(reading) as pipe:
        assert parse_run_id(pipe.read()).thread_id == "t"
    os.waitpid(child, 0)


@settings(max_examples=20)
@given(THREADS, THREADS)
def test_ids_of_two_generators_differ_within_one_millisecond(one: str, other: str) -> None:
    made = [RunIds(clock=lambda: 1.0).new(thread) for thread in (one, other) for _ in range(20)]

    assert len(set(made)) == 40
