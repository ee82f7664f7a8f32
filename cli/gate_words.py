"""A gate's answer as sentences. Pure: an answer `gate/v1` and the plan it was judged by come in, lines come out.

Only what is known is said. Numbers of a name that this version does not know are shown by that name: a collector may be
newer than the command.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Json = Mapping[str, Any]  # Any: JSON

_VERDICTS: Final = {
    "pass": "may go on: everything that its gate asks for was seen, and nothing bad",
    "fail": "must be rolled back",
    "inconclusive": "waits: nothing bad was seen, and not yet enough to say that it is good",
    "error": "waits: the gate cannot look, which is neither good nor bad",
}
_NEXT: Final = {
    "pass": "Advance it, or let it advance by itself.",
    "fail": "Roll it back with `isomon rollout rollback`, read the evidence, and re-arm it only after the fix. The gate stays failed.",
    "inconclusive": "Wait, or send it more traffic. Nothing has to be done.",
    "error": "Mend the source named above. Nothing is rolled back for it, and nothing advances.",
}
_HEADS: Final = {"fail": "Against it", "error": "What could not be seen", "inconclusive": "What is missing"}
_LABELS: Final = {
    "isolation_violations": ("violations found", ""),
    "isolation_violations_recorded": ("of them in records", ""),
    "isolation_checks": ("checks made", ""),
    "requests": ("requests served", ""),
    "exposed_isolated_requests": ("exposed requests that were isolated", ""),
    "isolation_upper95": ("rate of violations is below (95 % sure)", "share"),
    "session_leaks": ("database sessions leaked", ""),
    "owed_events": ("events owed to users", ""),
    "delivered_events": ("of them delivered", ""),
    "event_delivery_share": ("share delivered", "share"),
    "error_diff_pp": ("errors, new less old", "pp"),
    "error_diff_pp_low": ("at least", "pp"),
    "error_diff_pp_high": ("at most", "pp"),
    "p95_ratio": ("slowest 5 %, new to old", "times"),
    "slow_share_low": ("share slower than allowed, at least", "share"),
    "cascade_failures": ("failures that spread", ""),
}
_THRESHOLDS: Final = {
    "min_exposed_requests": ("clean exposed requests, at least", ""),
    "min_owed_events": ("owed events, at least", ""),
    "delivery_floor_percent": ("share of events delivered, at least", "percent"),
    "scrape_stale_after_s": ("newest sample, at most this old", "s"),
}
_NOT_A_THRESHOLD: Final = {"rollout", "service", "arm", "started_at"}


def explained(answer: Json, config: Json) -> list[str]:
    """Return the lines of an explanation: the verdict, why, the numbers beside what they are held to, what to do."""
    verdict = str(answer.get("verdict", "error"))
    about = f"arm {answer['arm']}" if answer.get("arm") not in (None, "all") else "all arms together"
    stage = f", stage {answer['stage']}" if answer.get("stage") else ""
    lines = [f"{answer.get('rollout', '?')} ({answer.get('service', '?')}, {about}{stage}): {verdict}"]
    lines.append(f"It {_VERDICTS.get(verdict, 'has an unknown verdict')}.")
    if answer.get("latched"):
        lines.append("It failed before, and stays failed until a person re-arms it: traffic that recovers or ends proves nothing.")
    lines += [*_reasons(answer), *_waiting(answer), *_numbers(answer), *_plan(config)]
    lines += ["", "What to do", f"  {_NEXT.get(verdict, 'Ask a newer command.')}"]
    kept = [f"Decision {answer['decision_id']}"] if answer.get("decision_id") else []
    kept += [f"as of {answer['as_of']}"] if answer.get("as_of") else []
    kept += [str(answer["decision_url"])] if answer.get("decision_url") else []
    return [*lines, "", ", ".join(kept)] if kept else lines


def _reasons(answer: Json) -> list[str]:
    lines: list[str] = []
    for state, head in _HEADS.items():
        found = [reason for reason in answer.get("reasons") or [] if reason.get("state") == state]
        if found:
            lines += ["", head]
        for reason in found:
            lines.append(f"  {reason.get('trigger', '?')} ({reason.get('code', '?')}): {reason.get('detail', 'no reason given')}")
            lines += [f"    see: isomon explain {example}" for example in reason.get("examples") or ()]
    return lines


def _waiting(answer: Json) -> list[str]:
    """Say how long it will take: the longest of what is missing decides."""
    missing = [reason for reason in answer.get("reasons") or [] if reason.get("state") == "inconclusive"]
    minutes = [reason["about_minutes"] for reason in missing if "about_minutes" in reason]
    if not missing:
        return []
    if len(minutes) < len(missing):
        return ["", "How long it will take cannot be said: a part of what is missing has not begun to come."]
    return ["", f"At the traffic so far it takes about {max(minutes)} min more."]


def _numbers(answer: Json) -> list[str]:
    numbers = answer.get("metrics") or {}
    if not numbers:
        return []
    return ["", "What was counted since it began", *_table(numbers, _LABELS)]


def _plan(config: Json) -> list[str]:
    asked = {name: value for name, value in config.items() if name not in _NOT_A_THRESHOLD and isinstance(value, int | float)}
    return ["", "What it is held to", *_table(asked, _THRESHOLDS)] if asked else []


def _table(numbers: Json, labels: Mapping[str, tuple[str, str]]) -> list[str]:
    named = [(labels.get(name, (name, "")), value) for name, value in numbers.items()]
    width = max(len(label) for (label, _), _ in named)
    return [f"  {label:<{width}}  {_shown(value, unit)}" for (label, unit), value in named]


def _shown(value: object, unit: str) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    if unit == "share":
        return f"{100 * value:.3g} %"
    if unit == "pp":
        return f"{value:+.2f} percentage points"
    if unit == "times":
        return f"{value:.2f} times"
    if unit == "percent":
        return f"{value:g} %"
    return f"{value:,} {unit}".rstrip() if isinstance(value, int) else f"{value:,.6g} {unit}".rstrip()
