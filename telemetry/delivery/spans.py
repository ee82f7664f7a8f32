"""Spans of runs and tools in OpenTelemetry's traces, under the names of its semantic conventions for generative AI.

Nothing is made unless the host has imported `opentelemetry.trace` and set a tracer provider. Names and attributes are those of
the conventions' agent spans, which are still in development (version 1.41): `invoke_agent` and `execute_tool`. A run that
knows its agent's name has it in its span's. What the conventions have no name for begins with `isolation.`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor import __version__
from isolation_monitor.telemetry.errors import SettingsError

if TYPE_CHECKING:
    from isolation_monitor.telemetry.delivery.automaton import EventNames

MODES: Final = ("auto", "off")
TOOLS_LIMIT: Final = 100
"""Tools of one run that are open at a time and have a span; one beyond it has none."""
_SCOPE: Final = "isolation_monitor"


class RunSpan:
    """The span of one run, and those of its tools that have not ended. Any: OpenTelemetry's objects, found, never required."""

    __slots__ = ("_events", "_tools", "_tracer", "span", "trace")

    def __init__(self, tracer: Any, name: str, attributes: dict[str, str], events: EventNames) -> None:
        self._tracer = tracer
        self._events = events
        self._tools: dict[str, Any] = {}
        self.span = tracer.start_span(name, attributes=attributes)
        context = self.span.get_span_context()
        self.trace: tuple[str, str] = (f"{context.trace_id:032x}", f"{context.span_id:016x}")

    def emitted(self, event: str, call_id: str, tool: str) -> None:
        """Note an event on the run's span; a tool's start and end make a span of their own, matched by call id."""
        self.span.add_event(event)
        if event == self._events.tool_started and call_id not in self._tools and len(self._tools) < TOOLS_LIMIT:
            attributes = {"gen_ai.operation.name": "execute_tool"}
            if call_id:
                attributes["gen_ai.tool.call.id"] = call_id
            if tool:
                attributes["gen_ai.tool.name"] = tool
            trace = sys.modules["opentelemetry.trace"]
            name = f"execute_tool {tool}".strip()
            self._tools[call_id] = self._tracer.start_span(name, context=trace.set_span_in_context(self.span), attributes=attributes)
        elif event == self._events.tool_ended and (open_ := self._tools.pop(call_id, None)) is not None:
            open_.end()

    def enter(self) -> Callable[[], None]:
        """Make the span the current one; return what undoes that, to be called by the same task."""
        context = sys.modules["opentelemetry.context"]
        token = context.attach(sys.modules["opentelemetry.trace"].set_span_in_context(self.span))
        return lambda: context.detach(token)

    def end(self, outcome: str, error: str | None) -> None:
        """End the span; what ended badly has the status of an error and says of which type."""
        for tool in self._tools.values():
            _fail(tool, "no_end")
            tool.end()
        self._tools.clear()
        self.span.set_attribute("isolation.run.outcome", outcome)
        if outcome in ("failed", "incomplete"):
            _fail(self.span, error or outcome)
        self.span.end()


class Spans:
    """Makes the span of a run, where the host traces."""

    def __init__(self, mode: str) -> None:
        """Raises `SettingsError` for a mode that is none of `MODES`."""
        if mode not in MODES:
            raise SettingsError(f"run_spans={mode!r} is no mode: use one of {', '.join(MODES)}")
        self._is_on = mode == "auto"

    def start(self, run_id: str, principal: str | None, agent: str | None, conversation: str | None, events: EventNames) -> RunSpan | None:
        """Return the span of a run that begins now, a child of the current one; None where nothing is traced."""
        tracer = self._tracer()
        if tracer is None:
            return None
        attributes = {"gen_ai.operation.name": "invoke_agent", "isolation.run.id": run_id}
        if principal is not None:
            attributes["isolation.principal"] = principal
        if agent:
            attributes["gen_ai.agent.name"] = agent
        if conversation:
            attributes["gen_ai.conversation.id"] = conversation
        return RunSpan(tracer, f"invoke_agent {agent or ''}".strip(), attributes, events)

    def _tracer(self) -> Any:
        trace = sys.modules.get("opentelemetry.trace")
        if trace is None or not self._is_on:
            return None
        provider = trace.get_tracer_provider()
        if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
            return None
        return provider.get_tracer(_SCOPE, __version__)


def _fail(span: Any, kind: str) -> None:
    trace = sys.modules["opentelemetry.trace"]
    span.set_attribute("error.type", kind)
    span.set_status(trace.Status(trace.StatusCode.ERROR))
