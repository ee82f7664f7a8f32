"""Alerts on start-up and clean-up: workers that do not get ready, and what processes leave behind when they end."""

from __future__ import annotations

from isolation_monitor.alerts.expressions import grew, selector, summed
from isolation_monitor.alerts.model import DURATION, NUMBER, SERVICE, Alert, Group
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.telemetry import names

PHASE = "{{ $labels.isolation_phase }}"
RESOURCE = "{{ $labels.isolation_resource }}"
_PAGE = "/lifecycle?service={{ $labels.service | urlquery }}&kind="
"""The collector's page of starts and ends, at one service and one kind of what happened."""


def groups(t: Thresholds) -> list[Group]:
    """Return the group of the alert that somebody waits for, and the one of those that read the slower page.

    That page is read each 15 s: evaluated as seldom, half a minute would be gone before anybody is told.
    """
    return [
        Group("isolation-startup", "5s", [_hanging(t)]),
        Group("isolation-lifecycle", "5s", [_failed(t), _slow(t), _left(t), _slow_cleanup(t)]),
    ]


def _hanging(t: Thresholds) -> Alert:
    return Alert(
        "StartupPhaseHanging",
        f"{summed(selector(names.STARTUP_PHASE_HANGING), 'isolation_phase')} > 0",
        "error",
        "page",
        summary=f"{SERVICE}: start-up phase {PHASE} hangs",
        description=(
            f"{NUMBER} workers of {SERVICE} have been in start-up phase {PHASE} for longer than `startup_hang_s`. They are not ready and "
            "take no traffic. The page has the line at which it stands, and what it waits for; so has the log."
        ),
        dashboard="process",
        page=f"{_PAGE}hanging",
        keep_firing_for=t.violation.keep_firing_for,
    )


def _failed(t: Thresholds) -> Alert:
    failed = selector(names.STARTUP_PHASE_DURATION, "_count", isolation_result="failed")
    return Alert(
        "StartupFailed",
        summed(grew(failed, t.lifecycle.window, t.lifecycle.memory), "isolation_phase"),
        "error",
        "page",
        summary=f"{SERVICE}: start-up phase {PHASE} fails",
        description=(
            f"About {NUMBER} start-ups of {SERVICE} failed in phase {PHASE} in the last {t.lifecycle.window}. These workers never got "
            "ready; what starts them tries again and again. The page has the class of its error, the service's log all of it."
        ),
        dashboard="process",
        page=f"{_PAGE}failed",
        keep_firing_for=t.blindness.keep_ticket_for,
    )


def _slow(t: Thresholds) -> Alert:
    # By instance: each process of a service has a start of its own, and the slowest speaks.
    duration, ready = selector(names.STARTUP_DURATION), selector(names.STARTUP_READY)
    told_s = t.lifecycle.startup_told_for.seconds
    return Alert(
        "StartupSlow",
        f"max by (service) (\n  {duration} > {t.lifecycle.max_startup_s:g}\n  unless\n  (time() - {ready} > {told_s:g} and {ready} > 0)\n)",
        "warning",
        "ticket",
        summary=f"{SERVICE}: the start-up takes longer than {t.lifecycle.max_startup_s:g} s",
        description=(
            f"The slowest start-up of {SERVICE} took {DURATION}, or has taken so long so far; {t.lifecycle.max_startup_s:g} s are allowed. "
            "Deployments, restarts and what scales the service wait as long. The page says which phase took it."
        ),
        dashboard="process",
        page=f"{_PAGE}startup",
    )


def _left(t: Thresholds) -> Alert:
    return Alert(
        "CleanupLeftovers",
        summed(grew(selector(names.CLEANUP_LEFT), t.lifecycle.window, t.lifecycle.memory), "isolation_resource"),
        "warning",
        "ticket",
        summary=f"{SERVICE}: processes leave {RESOURCE} behind",
        description=(
            f"About {NUMBER} {RESOURCE} were left in the last {t.lifecycle.window} by processes of {SERVICE} that had cleaned up. What "
            "outlives its process fills the machine; what is cut off was not finished. The page has each clean-up, the log names each."
        ),
        dashboard="process",
        page=f"{_PAGE}left",
        keep_firing_for=t.blindness.keep_ticket_for,
    )


def _slow_cleanup(t: Thresholds) -> Alert:
    grown = summed(f"increase({names.CLEANUP_DURATION.name}_bucket[{t.lifecycle.window}])", "le")
    return Alert(
        "CleanupSlow",
        # The bound of the highest bucket that anything fell into.
        f"histogram_quantile(1, {grown}) > {t.lifecycle.max_cleanup_s:g}",
        "warning",
        "ticket",
        summary=f"{SERVICE}: the clean-up takes longer than {t.lifecycle.max_cleanup_s:g} s",
        description=(
            f"The slowest clean-up of {SERVICE} in the last {t.lifecycle.window} took more than {t.lifecycle.max_cleanup_s:g} s, up to "
            f"{DURATION}. Platforms kill what takes too long to end: then nothing is cleaned up at all. The page has the steps."
        ),
        dashboard="process",
        page=f"{_PAGE}cleanup",
        keep_firing_for=t.blindness.keep_ticket_for,
    )
