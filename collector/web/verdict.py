"""The verdict of a service now, as a person should hear it: what is known, how well it could be seen, and from where.

Only what was looked at may look good. A score of 100 is green when its requests were judged by proven detectors and no
record says otherwise; everything that is not known is grey, never 100.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

Word = Literal["isolated", "doubtful", "violated", "not_measurable", "blind", "unknown"]

FRESH: Final = timedelta(seconds=60)
"""A violation by record counts as now for so long, as it does in the score's window."""
COVERAGE_FLOOR: Final = 0.5
"""Below this share of judged requests a score of 100 is doubtful (alerts/thresholds.yml, max_unverified_ratio)."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What Prometheus says of one service. None: there is no such sample. Shares are 0-1, the score 0-100."""

    score: float | None = None
    state: str | None = None
    age_s: float | None = None
    """Age of the newest recorded state."""
    coverage: float | None = None
    requests: float | None = None
    exposed: float | None = None
    detectors_grey: float | None = None
    targets_down: float | None = None
    unchecked: float | None = None
    containment: float | None = None
    delivery: float | None = None
    creation_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What records say of one service over the last day."""

    by_grade: Mapping[str, int] = field(default_factory=dict)
    last_crossing: datetime | None = None

    @property
    def crossing(self) -> int:
        return self.by_grade.get("crossed", 0) + self.by_grade.get("reachable", 0)


@dataclass(frozen=True, slots=True)
class ServiceVerdict:
    """One service as the first page shows it. `score` None shows as a dash; `why` are sentences."""

    service: str
    word: Word
    title: str
    score: float | None
    why: tuple[str, ...]
    reading: Reading | None
    recorded: Recorded
    source: Literal["prometheus", "records"]


TITLES: Final[Mapping[Word, str]] = {
    "violated": "Isolation is broken",
    "blind": "Blind: nobody can tell",
    "doubtful": "No violation seen, with gaps",
    "unknown": "Not known",
    "not_measurable": "Not measurable",
    "isolated": "Isolated",
}
ORDER: Final = tuple(TITLES)
"""The gravest first."""


def verdict_of(
    service: str, reading: Reading | None, recorded: Recorded, now: datetime, *, stale_after_s: float, trouble: str = ""
) -> ServiceVerdict:
    """Return the verdict. `reading` None: Prometheus says nothing; `trouble` then says why."""
    source: Literal["prometheus", "records"] = "records" if reading is None else "prometheus"
    word, why = _by_records(recorded, trouble) if reading is None else _by_numbers(reading, stale_after_s)
    score = reading.score if reading is not None and word not in ("blind", "unknown", "not_measurable") else None
    if recorded.last_crossing is not None and now - recorded.last_crossing <= FRESH and word != "violated":
        word, why = "violated", ["A record of the last minute proves a violation.", *why]
        # A score from before the violation would flatter.
        score = score if score is not None and score < 100 else None
    return ServiceVerdict(service, word, TITLES[word], score, tuple(why), reading, recorded, source)


def _by_records(recorded: Recorded, trouble: str) -> tuple[Word, list[str]]:
    why = [trouble] if trouble else []
    if recorded.crossing:
        why.append("Records alone say what was found, not what was looked at.")
    else:
        why.append("No violation was recorded in the last 24 hours. Whether anybody looked, records cannot say.")
    return "unknown", why


def _by_numbers(reading: Reading, stale_after_s: float) -> tuple[Word, list[str]]:
    if reading.age_s is None or reading.state is None:
        return "unknown", ["Prometheus has no score of this service: are the rules of alerts/generated loaded?"]
    if reading.age_s > stale_after_s:
        return "blind", [f"The newest number is {reading.age_s:.0f} s old: Prometheus does not evaluate its rules any more."]
    if reading.state == "blind":
        return "blind", _why_blind(reading)
    if reading.state == "not_measurable" or reading.score is None:
        return "not_measurable", ["No request of the last minute met another user's: nothing could have leaked, and nothing was proven."]
    if reading.score < 100:
        return "violated", ["Requests of the last minute touched another user's data or state."]
    why = []
    if reading.detectors_grey:
        number = int(reading.detectors_grey)
        verb = "one detector misses its planted fault" if number == 1 else f"{number} detectors miss their planted faults"
        why.append(f"{verb[0].upper()}{verb[1:]}: what it would find is not in the score.".replace("it would", "they would", number != 1))
    if reading.coverage is not None and reading.coverage < COVERAGE_FLOOR:
        why.append("Less than half of the requests could be judged.")
    return ("doubtful", why) if why else ("isolated", ["No exposed request of the last minute touched another user's."])


def _why_blind(reading: Reading) -> list[str]:
    why = []
    if reading.targets_down:
        number = int(reading.targets_down)
        why.append(f"{number} of its workers cannot be scraped." if number > 1 else "A worker of it cannot be scraped.")
    if reading.unchecked is not None:
        why.append("Requests are served, and no detector checks any of them.")
    return why or ["Somebody could be missed."]
