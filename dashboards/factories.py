"""The dashboard `factories`: does every request get instances of its own, and fast enough that nobody is tempted to share them?"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as models

from isolation_monitor.alerts.model import Links
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import causes, queries
from isolation_monitor.dashboards.layout import FACTORIES_UID, Row, dashboard
from isolation_monitor.dashboards.panels import NEUTRAL, YELLOW, Panel, Query, bad_from, counts, graph, milliseconds, none_allowed, tile
from isolation_monitor.telemetry import names


def build(t: Thresholds, links: Links) -> models.Dashboard:
    """Is every instance fresh? What does a fresh one cost?"""
    tiles = [creation_now(t), reset_now(t), creations_now(), shared(), crossed(), shared_state()]
    return dashboard(
        uid=FACTORIES_UID,
        description="Does every request get instances of its own, and fast enough that nobody is tempted to share them?",
        links=links,
        rows=[
            Row("Is every instance fresh, and what does that cost?", tiles),
            Row("Creation", [causes.creation(t), creation_half(), creations()]),
            Row("Reset", [causes.reset(t), reset_half(), resets()]),
            Row("Reuse", [causes.shared_instances(), reuse(), slow_creations()]),
        ],
    )


# --- is every instance fresh ------------------------------------------------------------------------------------------


def creation_now(t: Thresholds) -> Panel:
    return tile(
        "Creation, slowest 5 %",
        Query(queries.slowest_ms(names.INSTANCE_CREATE)),
        unit="ms",
        decimals=1,
        steps=bad_from((milliseconds(t.creation.max_creation_s), YELLOW)),
        no_value="none created",
        trend=True,
        alerts=["InstanceCreationSlow"],
        description=(
            f"What the slowest twentieth of creations takes. Below {milliseconds(t.creation.max_creation_s):g} ms is good. Above: find the "
            "component below; its factory loads or connects something on every request."
        ),
    )


def reset_now(t: Thresholds) -> Panel:
    return tile(
        "Reset, slowest 5 %",
        Query(queries.slowest_ms(names.INSTANCE_RESET)),
        unit="ms",
        decimals=1,
        steps=bad_from((milliseconds(t.creation.max_reset_s), YELLOW)),
        no_value="no resets",
        trend=True,
        alerts=["InstanceResetSlow"],
        description=(
            f"What the slowest twentieth of resets takes. Below {milliseconds(t.creation.max_reset_s):g} ms is good. Above: make the "
            "instance anew instead; nothing of the last request can stay in a new one."
        ),
    )


def creations_now() -> Panel:
    return tile(
        "Instances made",
        Query(queries.rate(names.INSTANCE_CREATE, suffix="_count")),
        unit="cps",
        decimals=1,
        steps=NEUTRAL,
        no_value="none created",
        trend=True,
        description=(
            "Instances that declared factories make in a second. Following the traffic is good. Zero with traffic: the factory is no "
            "longer called, so something keeps its instances."
        ),
    )


def shared() -> Panel:
    return none_allowed(
        "Given to a second request",
        queries.grown(names.INSTANCE_SHARED, queries.RANGE),
        alerts=["SingletonReuse"],
        description=(
            "Instances in the chosen time that were declared fresh for each request and were not. 0 is good. Above: a cache or a "
            "singleton sits behind that factory."
        ),
    )


def crossed() -> Panel:
    return none_allowed(
        "Reused across users",
        queries.found(names.INSTANCE_REUSE, queries.RANGE, grade=queries.ONE_OF_SCORED),
        no_value="blind",
        alerts=["IsolationViolation"],
        description=(
            "Instances in the chosen time that went from one user's request to another's. 0 is the only good number. Above: roll back, "
            "then read the evidence; it names both users' requests."
        ),
    )


def shared_state() -> Panel:
    return none_allowed(
        "State shared by all",
        queries.found(names.SHARED_STATE, queries.RANGE),
        no_value="blind",
        alerts=["IsolationViolation"],
        description=(
            "Places in the chosen time that every request reaches and that held single users' values, under no key of theirs. 0 is "
            "the only good number. Above: the evidence names the attribute and who wrote it."
        ),
    )


# --- creation ---------------------------------------------------------------------------------------------------------


def creation_half() -> Panel:
    return graph(
        "Instance creation, half of all",
        Query(queries.half_ms(names.INSTANCE_CREATE, "component"), "{{component}}"),
        unit="ms",
        no_value="none created",
        alerts=["InstanceCreationSlow"],
        description=(
            "What a usual creation takes. Far below the slowest 5 % is good: most are cheap. Close to it: every creation is slow, not "
            "single ones; look at what the constructor does."
        ),
    )


def creations() -> Panel:
    return graph(
        "Instances made, by component",
        Query(queries.rate(names.INSTANCE_CREATE, "component", suffix="_count"), "{{component}}"),
        unit="cps",
        stacked=True,
        no_value="none created",
        description=(
            "Each component should follow the traffic that needs it. One that falls to zero while others go on: its factory is passed "
            "by, and an old instance is in use."
        ),
    )


# --- reset ------------------------------------------------------------------------------------------------------------


def reset_half() -> Panel:
    return graph(
        "Instance reset, half of all",
        Query(queries.half_ms(names.INSTANCE_RESET, "component"), "{{component}}"),
        unit="ms",
        no_value="no resets",
        alerts=["InstanceResetSlow"],
        description=(
            "What a usual reset takes. Steady and small is good. Rising: instances gather state over their life, and a reset has more "
            "and more to clear."
        ),
    )


def resets() -> Panel:
    return graph(
        "Instances reset, by component",
        Query(queries.rate(names.INSTANCE_RESET, "component", suffix="_count"), "{{component}}"),
        unit="cps",
        stacked=True,
        no_value="no resets",
        description=(
            "Pooled instances should be reset once a request. Fewer resets than requests: some path gives an instance back as it is, "
            "with the last user's state in it."
        ),
    )


# --- reuse ------------------------------------------------------------------------------------------------------------


def reuse() -> Panel:
    return counts(
        "Reuse and shared state, by grade",
        Query(queries.found(names.INSTANCE_REUSE, queries.STEP, "grade"), "instance, {{grade}}"),
        Query(queries.found(names.SHARED_STATE, queries.STEP, "grade"), "shared state, {{grade}}"),
        alerts=["IsolationViolation", "SingletonReuse"],
        description=(
            "Zero is good. Hygiene: one user's own two requests shared it. Reachable and crossed: two users did; roll back, then make "
            "that factory give a fresh instance to each request."
        ),
    )


def slow_creations() -> Panel:
    return counts(
        "Slow creations found",
        Query(queries.found(names.SLOW_CREATION, queries.STEP, "service"), "{{service}}"),
        alerts=["InstanceCreationSlow"],
        description=(
            "Creations beyond the budget, one by one. Zero is good. Single ones at the start of a worker: warm the factory up. A steady "
            "line: the evidence has what was created, and where."
        ),
    )
