"""Whatever the sources say, an answer is the first one's, nobody contradicts it, and everything else is the documented error."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isolation_monitor.telemetry import ConflictingIdError, IdError, IsolationMonitor, UnresolvedIdError, names
from isolation_monitor.telemetry.resolution import Entry, Resolver

THREADS = st.sampled_from(["thread_1", "thread_2"])
OWNERS = st.sampled_from(["ana", "ben", None])
HIT = st.tuples(THREADS, OWNERS)
GARBAGE = st.sampled_from([7, "", "a\nb", ("thread_1", 7), ["thread_1"]])
SAID = st.one_of(st.none(), HIT, THREADS, GARBAGE, st.just(RuntimeError()))
RUN_IDS = st.sampled_from(["nobodys", "thread_1_run_1", "thread_2:1", "run_thread_1_7", "user:42"])
SPELLED = {"thread_1_run_1": "thread_1", "thread_2:1": "thread_2", "run_thread_1_7": "thread_1"}


@pytest.fixture(scope="module")
def watching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IsolationMonitor]:
    folder: Path = tmp_path_factory.mktemp("metrics")
    monitor = IsolationMonitor.from_env(metrics_dir=str(folder), hash_key="a key for tests", service="tests", resolution_verify_every=0)
    yield monitor
    monitor.close()


def function(said: Any) -> Any:
    async def answer(run_id: str) -> Any:
        if isinstance(said, Exception):
            raise said
        return said

    return answer


def claim(said: Any) -> tuple[str, str | None] | None:
    """What a source's answer claims, as the documentation has it."""
    if said in ("thread_1", "thread_2"):
        return said, None
    if isinstance(said, tuple) and said[0] in ("thread_1", "thread_2") and said[1] in ("ana", "ben", None):
        return said
    return None


def agree(one: tuple[str, str | None], other: tuple[str, str | None]) -> bool:
    return one[0] == other[0] and (one[1] is None or other[1] is None or one[1] == other[1])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(RUN_IDS, st.one_of(st.none(), HIT), SAID, SAID)
def test_an_answer_is_the_first_sources_and_nobody_contradicts_it(
    watching: IsolationMonitor, run_id: str, registered: Any, orchestrator: Any, connections: Any
) -> None:
    ids = watching.resolution(orchestrator=function(orchestrator), connections=function(connections))
    watching.housekeeper._ticks.pop()
    if registered is not None:
        ids._parts.registry.put(Entry(run_id, registered[0], registered[1], "created", 4e9))
    spelled = (SPELLED[run_id], None) if run_id in SPELLED else None
    # The orchestrator and the application's connections are asked until one knows; the id's text is always compared.
    asked = [("registry", registered), ("orchestrator", claim(orchestrator)), ("connection", claim(connections))]
    first = next(((source, said) for source, said in asked if said is not None), None)

    outcome = resolve(ids, run_id)

    if first is None and spelled is None:
        assert isinstance(outcome, UnresolvedIdError)
    elif first is None:
        assert (outcome.source, outcome.thread_id) == ("pattern", spelled[0])  # type: ignore[index]  # not None here
    elif spelled is not None and not agree(first[1], spelled):
        assert isinstance(outcome, ConflictingIdError)
    else:
        assert (outcome.source, outcome.thread_id, outcome.owner) == (first[0], *first[1])
        # The second time the registry knows, and says the same.
        again = resolve(ids, run_id)
        assert (again.source, again.thread_id, again.owner) == ("registry", *first[1])


def resolve(ids: Resolver, run_id: str) -> Any:
    try:
        return asyncio.run(ids.resolve(run_id))
    except IdError as error:
        return error


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.text(max_size=250), SAID)
def test_any_text_is_resolved_or_refused_with_a_documented_error_and_counted_once(
    watching: IsolationMonitor, text: str, orchestrator: Any
) -> None:
    ids = watching.resolution(orchestrator=function(orchestrator))
    watching.housekeeper._ticks.pop()

    before = counted(watching)
    outcome = resolve(ids, text)

    assert isinstance(outcome, IdError) or outcome.thread_id
    assert counted(watching) == before + 1


def counted(monitor: IsolationMonitor) -> float:
    """Resolutions by source, and what was no id."""
    resolved = sum(monitor.registry.value(names.ID_RESOLUTIONS, source=source) for source in names.ID_RESULTS)
    return resolved + monitor.registry.value(names.ID_OUTCOMES_TOTAL, outcome="invalid")
