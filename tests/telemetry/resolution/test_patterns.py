"""Patterns: a thread is read out of an id only where something vouches for it; a wrong thread is worse than none."""

from __future__ import annotations

import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation_monitor.telemetry import SettingsError
from isolation_monitor.telemetry.resolution import Patterns, RunIds
from isolation_monitor.telemetry.resolution.patterns import Reading

UUID = "4f9d3f0e-2a6b-4c1d-9e8f-0a1b2c3d4e5f"
OTHER = "11111111-2222-4333-8444-555555555555"
PARTS = st.text(string.ascii_letters + string.digits, min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("run_id", "thread", "algorithm"),
    [
        ("thread_8f2_run_1", "thread_8f2", "embedded"),
        (f"thread_{UUID}_run_{OTHER}", f"thread_{UUID}", "embedded"),
        ("thread-8f2-run-1", "thread-8f2", "embedded"),
        ("run_thread_8f2_3", "thread_8f2", "numbered"),
        ("run_thread-8f2_12", "thread-8f2", "numbered"),
        ("thread_8f2:run_1", "thread_8f2", "separated"),
        ("thread_8f2/1", "thread_8f2", "separated"),
    ],
)
def test_an_id_that_names_its_thread_as_one_is_read(run_id: str, thread: str, algorithm: str) -> None:
    assert Patterns().read(run_id) == Reading(thread, algorithm)


@pytest.mark.parametrize(
    "run_id",
    ["run_8f2_3", "8f2:1", "user:42", f"{UUID}_run_1", f"run_{UUID}_{OTHER}", f"{UUID}_{OTHER}", f"{UUID}:{OTHER}", f"run_{UUID}_7"],
)
def test_what_may_be_a_thread_or_something_else_is_not_believed(run_id: str) -> None:
    """`user:42` has the form of `<thread>:<run>`; whose thread would `user` be?"""
    assert Patterns().read(run_id) == Reading(None, "unconfirmed")


@pytest.mark.parametrize("run_id", [UUID, f"run_{UUID}", "run_", "8f2", "thread_8f2", "undefined", "thread_a_b_run_c", "", "run_x_y", "::"])
def test_what_has_no_form_of_ours_is_nothing(run_id: str) -> None:
    """A UUID that stands alone is the run's own."""
    assert Patterns().read(run_id).thread_id is None


@pytest.mark.parametrize(
    ("run_id", "thread", "algorithm"),
    [
        (f"{UUID}_run_1", UUID, "uuid"),
        (f"run_{UUID}_{OTHER}", UUID, "uuid"),
        (f"{UUID}:{OTHER}", UUID, "separated"),
        (f"run_{UUID}_7", UUID, "numbered"),
        (f"thread_{UUID}_run_1", UUID, "embedded"),
    ],
)
def test_the_shape_of_the_applications_threads_vouches_for_a_candidate(run_id: str, thread: str, algorithm: str) -> None:
    assert Patterns(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").read(run_id) == Reading(thread, algorithm)


def test_with_a_shape_a_label_alone_is_no_proof() -> None:
    assert Patterns(r"t_[0-9]+").read("thread_8f2_run_1").thread_id is None


def test_two_candidates_are_no_answer() -> None:
    """A shape that both the labelled and the bare part have leaves open which of them is meant."""
    assert Patterns(r"\w+").read("thread_8f2_run_1") == Reading(None, "ambiguous")


def test_an_id_of_our_own_is_believed_by_its_check_alone() -> None:
    run_id = RunIds().new("123")

    assert Patterns().read(run_id) == Reading("123", "own")
    # It has the form of run_<thread>_<n>, too: nobody else may try when the check does not fit.
    damaged = run_id.replace("_123", "_124")
    assert Patterns(r"\w+").read(damaged) == Reading(None, "damaged")


def test_the_applications_own_patterns_are_taken_at_their_word() -> None:
    patterns = Patterns(declared=(r"job\.(?P<thread>[a-z]+)\.\d+",))

    assert patterns.read("job.abc.7") == Reading("abc", "declared")
    assert patterns.read("job.abc.x") == Reading(None, "none")


@pytest.mark.parametrize(("shape", "declared"), [("(", ()), (None, ("(?P<thread>",)), (None, (r"run_(\w+)",))])
def test_a_wrong_expression_fails_at_start(shape: str | None, declared: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match="pattern"):
        Patterns(shape, declared)


@given(st.text(max_size=200))
def test_any_text_is_read_without_an_error_and_a_thread_comes_with_its_algorithm(text: str) -> None:
    reading = Patterns().read(text)

    assert (reading.thread_id is not None) == (reading.algorithm in {"own", "embedded", "numbered", "separated", "uuid", "declared"})
    if reading.thread_id is not None:
        assert reading.thread_id in text


@given(PARTS, PARTS)
def test_what_is_read_from_a_labelled_id_is_the_labelled_part(thread: str, run: str) -> None:
    assert Patterns().read(f"thread_{thread}_run_{run}") == Reading(f"thread_{thread}", "embedded")
    assert Patterns().read(f"thread_{thread}:{run}") == Reading(f"thread_{thread}", "separated")


@given(st.uuids(), st.uuids())
def test_of_two_uuids_the_first_is_the_thread_once_threads_are_known_to_be_uuids(thread: uuid.UUID, run: uuid.UUID) -> None:
    patterns = Patterns(r"[0-9a-f-]{36}")

    assert patterns.read(f"{thread}_{run}").thread_id == str(thread)
    assert patterns.read(str(run)).thread_id is None
