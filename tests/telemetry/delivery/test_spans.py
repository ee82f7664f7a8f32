"""Runs and tools as spans, made by the real SDK, under the names of OpenTelemetry's conventions."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai

from isolation_monitor.telemetry.errors import SettingsError

S, T, X, Y, C, E = "agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed", "agent_error"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """A provider as a host sets one; the process's own is put back, because OpenTelemetry lets it be set only once."""
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield found
    provider.shutdown()


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


async def test_a_run_and_its_parallel_tools_are_spans_of_one_trace(monitor: Any, exporter: InMemorySpanExporter) -> None:
    with monitor.run("run-1", owner="ann", agent="helper", conversation="thread-7") as run:
        run.emit(S)
        run.emit(X, "call-1", tool="search")
        run.emit(X, "call-2", tool="sum")
        run.emit(Y, "call-2")
        run.emit(Y, "call-1")
        run.emit(C)

    found = spans(exporter)
    assert set(found) == {"invoke_agent helper", "execute_tool search", "execute_tool sum"}
    agent, tool = found["invoke_agent helper"], found["execute_tool search"]
    assert agent.attributes == {
        gen_ai.GEN_AI_OPERATION_NAME: gen_ai.GenAiOperationNameValues.INVOKE_AGENT.value,
        gen_ai.GEN_AI_AGENT_NAME: "helper",
        gen_ai.GEN_AI_CONVERSATION_ID: "thread-7",
        "isolation.run.id": "run-1",
        "isolation.principal": monitor.principals.named("ann").hash,
        "isolation.run.outcome": "complete",
    }
    assert tool.attributes == {
        gen_ai.GEN_AI_OPERATION_NAME: gen_ai.GenAiOperationNameValues.EXECUTE_TOOL.value,
        gen_ai.GEN_AI_TOOL_CALL_ID: "call-1",
        gen_ai.GEN_AI_TOOL_NAME: "search",
    }
    assert tool.parent is not None
    assert tool.parent.span_id == agent.context.span_id
    assert [event.name for event in agent.events] == [S, X, X, Y, Y, C]
    assert agent.status.is_ok or agent.status.is_unset


async def test_what_the_run_calls_becomes_its_child_and_nothing_after_it(monitor: Any, exporter: InMemorySpanExporter) -> None:
    tracer = trace.get_tracer("host")
    with monitor.run("run-1", owner="ann") as run:
        run.emit(S)
        with tracer.start_as_current_span("model call"):
            pass
        run.emit(C)
    with tracer.start_as_current_span("afterwards"):
        pass

    found = spans(exporter)
    assert found["model call"].parent.span_id == found["invoke_agent"].context.span_id
    assert found["afterwards"].parent is None


async def test_a_run_that_breaks_and_its_open_tool_have_the_status_of_errors(monitor: Any, exporter: InMemorySpanExporter) -> None:
    def break_down() -> None:
        with monitor.run("run-1", owner="ann") as run:
            run.emit(S)
            run.emit(X, "call-1")
            run.emit(E)
            raise KeyError("a value of the user's")

    with pytest.raises(KeyError):
        break_down()

    found = spans(exporter)
    assert {name: span.attributes["error.type"] for name, span in found.items()} == {"invoke_agent": "KeyError", "execute_tool": "no_end"}
    assert not any("value of the user" in str(span.to_json()) for span in found.values()), "messages may hold users' data"


async def test_evidence_names_the_trace_of_the_run(monitor: Any, exporter: InMemorySpanExporter) -> None:
    with monitor.run("run-1", owner="ann") as run:
        run.emit(S)

    [violation] = monitor.violations()
    [span] = exporter.get_finished_spans()
    assert violation.victim.trace == (f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}")


async def test_a_block_that_ends_in_another_task_leaves_no_noise(monitor: Any, exporter: InMemorySpanExporter, caplog: Any) -> None:
    """A generator that another task closes, for one: OpenTelemetry would log an error for each."""
    run = monitor.run("run-1", owner="ann")
    run.__enter__()

    async def end() -> None:
        run.emit(S)
        run.emit(C)
        run.__exit__(None, None, None)

    await asyncio.create_task(end())

    assert list(spans(exporter)) == ["invoke_agent"]
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


async def test_a_provider_that_fails_is_the_monitors_own_matter(monitor: Any, monkeypatch: pytest.MonkeyPatch, samples: Any) -> None:
    class Broken(TracerProvider):
        def get_tracer(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("exporter is gone")

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", Broken())
    with monitor.run("run-1", owner="ann") as run:
        run.emit(S)
        run.emit(C)

    assert samples(monitor, "isolation_runs_total", outcome="complete") == 1
    assert samples(monitor, "isolation_monitor_errors_total", hook="run") >= 1


async def test_no_span_without_a_provider_or_when_switched_off(make_monitor: Any, exporter: InMemorySpanExporter) -> None:
    with make_monitor(run_spans="off").run("run-1", owner="ann") as run:
        run.emit(S)
        run.emit(C)

    assert run.span is None
    assert exporter.get_finished_spans() == ()


def test_a_host_that_does_not_trace_gets_no_tracing() -> None:
    """Neither is OpenTelemetry imported for it, nor is a provider set."""
    code = (
        "import sys; from isolation_monitor.telemetry import IsolationMonitor; m = IsolationMonitor.from_env(service='t')\n"
        "with m.run('r', owner='ann') as run:\n    run.emit('agent_started'); run.emit('agent_completed')\n"
        "assert run.span is None and 'opentelemetry.trace' not in sys.modules; m.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_a_mode_that_does_not_exist_fails_at_start(make_monitor: Any) -> None:
    with pytest.raises(SettingsError, match="run_spans"):
        make_monitor(run_spans="always")
