"""Every panel's query on a real Prometheus, with the product's own pages and rules."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Collection

import pytest

from isolation_monitor.dashboards.build import GENERATED
from isolation_monitor.dashboards.preview import board as reader
from isolation_monitor.dashboards.preview import page
from isolation_monitor.dashboards.preview.board import Board
from isolation_monitor.dashboards.preview.prometheus import Prometheus as Client
from isolation_monitor.dashboards.preview.prometheus import Window
from isolation_monitor.telemetry import names
from tests.dashboards.boards import UIDS
from tests.dashboards.living_service import FAULTS, LivingService
from tests.real_parts.processes import PATIENCE_S, eventually
from tests.real_parts.prometheus import Prometheus

Numbers = dict[str, list[tuple[str, float]]]
OVERVIEW = "isolation-overview / "
DELIVERY = "event-delivery / "
RUNS = "runs / "
CONNECTIONS = "connections / "
RESOLUTION = "resolution / "
CONTAINMENT = "containment / "
SESSIONS = "sessions / "
FACTORIES = "factories / "
PROCESS = "process / "
EXPERIENCE = "experience / "
FLAGS = "flags / "
ROLLOUT = "rollout / "
CONTAINERS = "containers / "
HEALTH = "monitor-health / "
EMPTY_WHEN_WELL = {
    HEALTH + "Detectors that miss planted faults / B",
    HEALTH + "Detectors that miss planted faults / C",
    PROCESS + "Start-up by phase, slowest 5 % / B",
    CONTAINERS + "Kills and starved processes, by container / A",
    CONTAINERS + "Kills and starved processes, by container / B",
}
"""Queries that name only what is wrong."""
FIRST_ROW = ("Foreign data left the service", "Isolation score", "Pages firing")
SIGNED = {"Errors of the new version beyond the old", "Slowness of the new version beyond the old", "Duration, now by before"}
"""Differences and comparisons: they may leave what a share keeps."""
RANGES = {"percentunit": (0.0, 1.0), "percent": (0.0, 100.0)}


@functools.cache
def boards() -> list[Board]:
    return [reader.read(json.loads((GENERATED / f"{uid}.json").read_text(encoding="utf-8"))) for uid in UIDS]


def numbers(watched: Prometheus, only: Collection[str] | None = None) -> Numbers:
    """The last value of each series of each query, by dashboard, panel and query; `only` of these queries, since all take seconds."""
    found: Numbers = {}
    window = Window.until(time.time(), 300)
    with Client(watched.url) as client:
        for board in boards():
            for panel in board.panels:
                for target in panel.targets:
                    where = f"{board.uid} / {panel.title} / {target.ref}"
                    if only is None or where in only:
                        series = page.answer(target, client, window)
                        found[where] = [(str(sorted(one.labels.items())), one.last) for one in series]
    return found


def test_every_query_of_every_panel_returns_data(watched: Prometheus):
    """A panel without data looks the same as a panel with a wrong query."""
    empty: list[str] = []

    def complete() -> bool:
        empty[:] = [where for where, values in numbers(watched).items() if not values and where not in EMPTY_WHEN_WELL]
        return not empty

    try:
        # Some rules run each 5 s, and read what others of them recorded.
        eventually(complete, "every query returns data", 2 * PATIENCE_S)
    except AssertionError:
        pytest.fail(f"without data: {empty}")


def test_shares_and_percentages_stay_in_their_range(watched: Prometheus):
    window = Window.until(time.time(), 300)
    with Client(watched.url) as client:
        for board in boards():
            answers = page.ask(board, client, window)
            for panel in board.panels:
                low, high = RANGES.get("" if panel.title in SIGNED else panel.unit, (float("-inf"), float("inf")))
                values = [value for series in answers[page.key(panel)].values() for one in series for _, value in one.points]
                assert all(low <= value <= high + 1e-9 for value in values), panel.title


def test_choosing_another_service_leaves_no_number_of_this_one(watched: Prometheus):
    """A panel that ignores the choice would show one service's score under another's name."""
    shared = {"Pages firing", "Firing alerts", "Targets answer", "Gates of rollouts", "Notifications that arrived"}
    # What Prometheus says of targets is of no service, as is what the collector says of itself.
    shared |= {"Time to read the metrics pages", "Age of the last scrape", "Gates: time of an evaluation, slowest 5 %"}
    with Client(watched.url, values={"service": "another"}) as client:
        for board in boards():
            answers = page.ask(board, client, Window.until(time.time(), 300))
            for panel in board.panels:
                # Containers and test suites are of no service, as the collector's own numbers are.
                if panel.title not in shared and not panel.title.startswith("Collector:") and board.uid not in ("containers", "ci-health"):
                    assert not any(answers[page.key(panel)].values()), panel.title


CHANGES = {
    "collector-forgets-nothing": {
        HEALTH + "Collector: time since the last round of expiry / A",
        HEALTH + "Collector: forgotten by age and size / A",
    },
    "broken-keys": {
        HEALTH + "Collector: keys as their files say / A",
        HEALTH + "Collector: keys read again, requests refused / A",
        HEALTH + "Collector: keys read again, requests refused / B",
    },
    "shared-agent": {OVERVIEW + "Foreign data left the service / A", OVERVIEW + "Instances given to a second request / A"},
    "wrong-socket": {DELIVERY + "Events on a wrong socket / A", OVERVIEW + "Foreign data left the service / A"},
    "inherited-context": {OVERVIEW + "Could have crossed / A", OVERVIEW + "Isolation broken, by kind / A"},
    "session-leak": {OVERVIEW + "Database sessions leaked and not given back / A", OVERVIEW + "Hygiene violations, by kind / A"},
    "slow-factory": {OVERVIEW + "Instance creation, slowest 5 % / A", OVERVIEW + "Instance creation, slowest 5 % / B"},
    "lost-event": {DELIVERY + "Events lost / A", DELIVERY + "Runs incomplete / A", DELIVERY + "Delivery rate / A"},
    "cascade": {
        CONTAINMENT + title
        for title in (
            "Containment / A",
            "Failures that escaped / A",
            "Cascades / A",
            "Requests that starved / A",
            "Failures, by outcome / A",
            "Users that one failure touched / B",
            "Stalls and starvation found / B",
        )
    },
    "strangers-let-in": {
        CONNECTIONS + title
        for title in (
            "Let in as nobody or another / A",
            "Let in as nobody or another, by outcome / A",
            "Connection ids of another user / A",
            "Connection ids that came again / A",
            "Handshakes by outcome / A",
        )
    },
    "nobody-connects": {
        CONNECTIONS + title
        for title in (
            "Handshakes that failed / A",
            "Share of handshakes that failed / A",
            "Connections dead / A",
            "Connections by state / A",
            "Closes, by reason / A",
            "Closes, by who closed / A",
        )
    },
    "slow-readers": {CONNECTIONS + "Items that wait / B", CONNECTIONS + "Deepest queue / A"},
    "lonely-runs": {
        CONNECTIONS + title
        for title in (
            "Events with nowhere to go / A",
            "Events that find nobody, by reason / A",
            "Runs started, by their way to the user / A",
        )
    },
    "disordered-run": {
        RUNS + title
        for title in (
            "Runs not in order / A",
            "Complete and in order / A",
            "Complete and in order, by service / A",
            "Runs by verdict / A",
            "Runs not in order, by verdict / A",
        )
    },
    "stuck-run": {RUNS + "Runs stuck / A", RUNS + "Runs stuck, by service / A", RUNS + "Runs found stuck / A"},
    "stalled-loop": {
        CONTAINMENT + "Requests that stopped the loop / A",
        CONTAINMENT + "The event loop stood still for / B",
        CONTAINMENT + "Stalls and starvation found / A",
        PROCESS + "Lag of the event loop / B",
        PROCESS + "Share of the time that the loop stood still / A",
    },
    "dead-worker": {CONTAINMENT + "Workers that died / A", CONTAINMENT + "Users at work / A"},
    "endless-start": {
        *(PROCESS + f"{panel} / A" for panel in ("Phases that hang", "Slowest start-up", "Latest worker ready since")),
        PROCESS + "Start-up by phase, slowest 5 % / B",
    },
    "untidy-end": {
        PROCESS + "Clean-up steps forced / A",
        PROCESS + "Left after clean-ups / A",
        *(PROCESS + f"Duration of clean-ups / {query}" for query in "AB"),
    },
    "growing-process": {
        *(PROCESS + f"{title} / A" for title in ("Memory", "Open files", "Threads", "Tasks", "Child processes")),
        *(PROCESS + f"{title}, growth in an hour / A" for title in ("Memory", "Open files", "Threads", "Tasks", "Child processes")),
        PROCESS + "Growing without a pause / A",
        PROCESS + "Steady growth found / A",
        PROCESS + "Left behind by requests / A",
    },
    "dirty-pool": {
        SESSIONS + title
        for title in (
            "Dirty handovers / A",
            "Shared connections / A",
            "Reads of others' rows / A",
            "Dirty handovers, by grade / A",
            "Connections shared, rows of others read / A",
            "Connections shared, rows of others read / B",
        )
    },
    "starved-pool": {
        SESSIONS + title
        for title in (
            "Fullest pool / A",
            "Wait, slowest 5 % / A",
            "Pool in use / A",
            "Wait for a database connection, slowest 5 % / A",
            "Connections held for / B",
            "Connections, by state / A",
        )
    },
    "slow-reset": {FACTORIES + "Reset, slowest 5 % / A", FACTORIES + "Instance reset, slowest 5 % / A"},
    "shared-state": {FACTORIES + "State shared by all / A", FACTORIES + "Reuse and shared state, by grade / B"},
    "blind-detector": {HEALTH + "Detectors that miss planted faults / C", HEALTH + "Proven power of each detector / A"},
    "failing-endpoint": {
        EXPERIENCE + title
        for title in (
            "Fastest burn, 1h / A",
            "Fastest burn, 6h / A",
            "Requests that failed / A",
            "Promises, by service / B",
            "Bad events, by promise and source / A",
            "Burn rates / A",
            "Error rate, by endpoint / A",
            "Answers, by status / A",
        )
    },
    "slow-endpoint": {
        EXPERIENCE + title
        for title in (
            "Answers, slowest 5 % / A",
            "Latency by endpoint, slowest 5 % / A",
            "Latency by endpoint, slowest 1 % / A",
            "Bad events, by promise and source / A",
        )
    },
    "late-first-event": {
        EXPERIENCE + title
        for title in (
            "First event, slowest 5 % / A",
            "Time to first event / B",
            "Time to first event / C",
            "Bad events, by promise and source / A",
            "Error budget left, over time / A",
        )
    },
    "bad-variant": {
        FLAGS + title
        for title in (
            "Violations with the variant / A",
            "Without an arm / A",
            "Workers out of touch / A",
            "Failed requests, by arm / A",
            "Slowest 5 %, by arm / A",
            "Violations, by arm and grade / A",
            "Evaluations, by reason / A",
            "Questions to the collector / A",
            "Workers out of touch, by service / A",
        )
    },
    "harmful-rollout": {
        ROLLOUT + title
        for title in (
            "Evidence so far / A",
            "Longest wait / A",
            "Violations with it / A",
            "Verdict of each gate / A",
            "Evidence against what is needed / A",
            "Waiting for a verdict / A",
            "Requests of each arm / A",
            "Failed requests of each arm / A",
            "Slowest requests of each arm / A",
            "Violations of each arm / A",
            "Errors of the new version beyond the old / A",
            "Slowness of the new version beyond the old / A",
            "Share that has it / A",
            "Share that has it, over time / A",
            "Counted / A",
        )
    },
    "containers-die": {
        CONTAINERS + title
        for title in (
            "Running / A",
            "Unhealthy / A",
            "Out of memory / A",
            "Removed by force / A",
            "Command storms / A",
            "Containers, by state / A",
            "Ends, by how / A",
            "Removals, by how / A",
            "Stops that needed SIGKILL / A",
            "Memory, of what each may use / A",
            "Memory, by container / A",
            "Nobody's, expired, unused / A",
            "Nobody's, expired, unused / B",
            "Nobody's, expired, unused / C",
            "Nobody's, expired, unused / D",
            "Kills and starved processes, by container / A",
            "Kills and starved processes, by container / B",
        )
    },
    "failed-gate": {ROLLOUT + "Gates that failed / A", ROLLOUT + "Held to / A"},
    "refused-handshakes": {EXPERIENCE + "Connections asked for, by outcome / A", EXPERIENCE + "Bad events, by promise and source / A"},
    "orchestrator-down": {
        RESOLUTION + title
        for title in (
            "Run ids resolved / A",
            "Led nowhere / A",
            "Share of run ids resolved / A",
            "Resolutions, by source / A",
            "No answers, by source and reason / A",
            "Sources left alone / A",
            "Outcomes / A",
        )
    },
    "ids-in-conflict": {
        RESOLUTION + title for title in ("Sources disagreed / A", "Foreign threads served / A", "Foreign threads denied / A")
    },
    "every-kind": {OVERVIEW + "Isolation broken, by kind / A", OVERVIEW + "Hygiene violations, by kind / A"},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_changes_panels(watched: Prometheus, service: LivingService, fault: str):
    """A fault that moves nothing on the screen is a silent failure."""
    before = numbers(watched, CHANGES[fault])
    service.switch_on(fault)

    def changed() -> bool:
        after = numbers(watched, CHANGES[fault])
        return all(sorted(after[where]) != sorted(before[where]) for where in CHANGES[fault])

    eventually(changed, f"{CHANGES[fault]} change", 2 * PATIENCE_S)


def test_each_kind_of_violation_is_seen_under_its_own_name(watched: Prometheus, service: LivingService):
    """Every kind grows after this; one that no panel names would be found by its alert alone."""
    service.switch_on("every-kind")

    def unseen() -> set[str]:
        found = numbers(watched, [f"{OVERVIEW}{panel}, by kind / A" for panel in ("Isolation broken", "Hygiene violations")])
        drawn = [one for series in found.values() for one in series]
        return {kind for kind in names.KIND_GRADES if not any(f"'{kind}'" in labels and value > 0 for labels, value in drawn)}

    eventually(lambda: not unseen(), "every kind is drawn", 2 * PATIENCE_S)


def test_broken_isolation_is_no_longer_shown_as_good(watched: Prometheus, service: LivingService):
    """Runs last: the tiles that were green are red by their own thresholds."""
    service.switch_on(*FAULTS)

    def red() -> bool:
        tiles = [f"{OVERVIEW}{title} / A" for title in FIRST_ROW]
        found = numbers(watched, tiles)
        crossed, score, paging = (found[tile] for tile in tiles)
        return bool(crossed and score and paging) and crossed[0][1] >= 1 and score[0][1] < 100 and paging[0][1] >= 1

    eventually(red, "the first row is red", 2 * PATIENCE_S)
