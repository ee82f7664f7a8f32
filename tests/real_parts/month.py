"""The recorded series of a month, as the product's rules would have written them: for the history of 30 days."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from tests.real_parts.promtool import series

STEP_S = 3600
KEPT = ("--storage.tsdb.retention.time=40d",)
"""Flags of a Prometheus that does not drop most of it at once."""
HARM_DAYS_AGO = {4: (99.4, 7), 5: (98.1, 19), 17: (99.999, 1)}
"""Days on which the score fell: its lowest, and how many violations."""
UNSEEN_DAYS_AGO = (11, 12)
"""Days without a score, because nobody could be met."""


def month_of_history(service: str = "chat", now: datetime | None = None) -> str:
    """Return OpenMetrics of the last 30 days up to two hours ago, a sample each hour."""
    # Blocks may not reach into what the server itself writes.
    end = math.floor((now or datetime.now(UTC)).timestamp() / STEP_S) * STEP_S - 2 * 3600
    lines: dict[str, list[str]] = {"isolation_score": [], "isolation_violations_total": []}
    counter = 0
    labels = {"service": service, "kind": "wrong_socket", "grade": "crossed", "arm": "none", "synthetic": "false"}
    for at in range(end - 30 * 86400, end + 1, STEP_S):
        days_ago, of_day = divmod(end - at, 86400)
        is_seen = days_ago not in UNSEEN_DAYS_AGO
        lowest, harm = HARM_DAYS_AGO.get(days_ago, (100.0, 0))
        is_harmed = harm and of_day == 43_200
        counter += harm if is_harmed else 0
        if is_seen:
            lines["isolation_score"].append(f"{series('isolation_score', {'service': service})} {lowest if is_harmed else 100:.12g} {at}\n")
        for state, holds in (("measured", is_seen), ("not_measurable", not is_seen), ("blind", False)):
            name = series("isolation_score_state", {"service": service, "state": state})
            lines.setdefault(f"isolation_score_state {state}", []).append(f"{name} {int(holds)} {at}\n")
        lines["isolation_violations_total"].append(f"{series('isolation_violations_total', labels)} {counter} {at}\n")
    return "".join(line for one in lines.values() for line in one) + "# EOF\n"
