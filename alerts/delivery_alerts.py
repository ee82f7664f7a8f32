"""Alerts on event delivery: users who do not receive what their runs owe them."""

from __future__ import annotations

from isolation_monitor.alerts.expressions import selector, summed
from isolation_monitor.alerts.model import PERCENT, SERVICE, Alert, Group
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.telemetry import names


def groups(t: Thresholds) -> list[Group]:
    """Return the one group of delivery alerts, evaluated each second."""
    page, rollback = t.delivery.page_below_percent, t.delivery.rollback_below_percent
    return [
        Group(
            "isolation-delivery",
            "1s",
            [
                Alert(
                    "EventDeliveryBelow99",
                    _delivered_below(page, t),
                    "error",
                    "page",
                    summary=f"{SERVICE}: fewer than {page} % of events reach their users",
                    description=(
                        f"{PERCENT} % of the events owed to users of {SERVICE} in the last {t.delivery.window} were "
                        "delivered; 100 % is the goal. The rest never left: users watch runs that stand still."
                    ),
                    dashboard="event-delivery",
                    keep_firing_for=t.violation.keep_firing_for,
                ),
                Alert(
                    "EventDeliveryBelow95",
                    _delivered_below(rollback, t),
                    "critical",
                    "page",
                    summary=f"{SERVICE}: fewer than {rollback} % of events reach their users, roll back",
                    description=(
                        f"{PERCENT} % of the events owed to users of {SERVICE} in the last {t.delivery.window} were "
                        f"delivered. Below {rollback} % a rollout is rolled back."
                    ),
                    dashboard="event-delivery",
                    rollback=True,
                    keep_firing_for=t.violation.keep_firing_for,
                ),
                Alert(
                    "EventDeliveryUnknown",
                    _unknown_above(t),
                    "warning",
                    "ticket",
                    summary=f"{SERVICE}: nobody knows whether many events reached their users",
                    description=(
                        f"{PERCENT} % of the events of {SERVICE} in the last {t.delivery.unknown_window} ended without an answer: clients "
                        "left, fell silent, or their worker died. They are in no delivery rate."
                    ),
                    dashboard="event-delivery",
                    for_=t.delivery.unknown_for,
                ),
            ],
        )
    ]


def _unknown_above(t: Thresholds) -> str:
    window = t.delivery.unknown_window
    unknown = summed(f"increase({selector(names.EVENT_DELIVERIES, result='unknown')}[{window}])")
    owed = summed(f"increase({selector(names.EVENT_DELIVERIES)}[{window}])")
    return f"100 * {unknown} / {owed} > {t.delivery.max_unknown_percent}\nand\n{owed} >= {t.delivery.min_owed_events}"


def _delivered_below(percent: int, t: Thresholds) -> str:
    owed = summed(f"increase({selector(names.EVENT_DELIVERIES)}[{t.delivery.window}])")
    return f"{names.EVENT_DELIVERY_RATE} < {percent}\nand\n{owed} >= {t.delivery.min_owed_events}"
