"""What `isomon gate check` leaves for GitHub Actions: outputs of the step, and a summary that people read.

The files are named by $GITHUB_OUTPUT and $GITHUB_STEP_SUMMARY; elsewhere neither is set and nothing is written. Reasons
may quote what a service sent, so every value is one printable line: a line break would start an output of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from isolation_monitor.cli.verdicts import gravest_reason

Json = dict[str, Any]  # Any: gate/v1

OUTPUT_ENV: Final = "GITHUB_OUTPUT"
SUMMARY_ENV: Final = "GITHUB_STEP_SUMMARY"
_MARKS: Final = {"pass": "✅", "fail": "❌", "inconclusive": "⏳", "error": "⚠️"}
_VALUE_LIMIT: Final = 1000


def write(answer: Json, exit_code: int, environment: Mapping[str, str]) -> list[str]:
    """Append to the files that `environment` names; return what could not be written, as sentences: a verdict is not lost for it."""
    problems = []
    for variable, text in ((OUTPUT_ENV, outputs(answer, exit_code)), (SUMMARY_ENV, summary(answer))):
        path = environment.get(variable)
        if not path:
            continue
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            problems.append(f"{variable}: cannot be written ({type(error).__name__})")
    return problems


def outputs(answer: Json, exit_code: int) -> str:
    """Return `name=value` lines: verdict, exit_code, rollback, reason, decision_id, decision_url."""
    values = {
        "verdict": answer["verdict"],
        "exit_code": exit_code,
        "rollback": "true" if answer.get("rollback") else "false",
        "reason": gravest_reason(answer),
        "decision_id": answer.get("decision_id", ""),
        "decision_url": answer.get("decision_url", ""),
    }
    return "".join(f"{name}={one_line(value)}\n" for name, value in values.items())


def summary(answer: Json) -> str:
    """Return Markdown: the verdict, each reason, the numbers and the decision."""
    verdict = answer["verdict"]
    stage = f", stage {_cell(answer['stage'])}" if answer.get("stage") else ""
    lines = [f"### {_MARKS[verdict]} Gate of {_cell(answer.get('rollout', '?'))}{stage}: {verdict}", ""]
    reasons = answer.get("reasons") or []
    if reasons:
        lines += ["| trigger | state | have | need | why |", "| --- | --- | --- | --- | --- |"]
        keys = ("trigger", "state", "have", "need", "detail")
        lines += ["| " + " | ".join(_cell(reason.get(key, "")) for key in keys) + " |" for reason in reasons]
        lines.append("")
    numbers = answer.get("metrics") or {}
    if numbers:
        lines += ["| number | value |", "| --- | --- |", *(f"| {_cell(name)} | {_cell(value)} |" for name, value in numbers.items()), ""]
    if answer.get("decision_id"):
        lines += [f"Decision `{_cell(answer['decision_id'])}` as of {_cell(answer.get('as_of', '?'))}", ""]
    return "\n".join(lines) + "\n"


def one_line(value: object) -> str:
    """Return `value` as one line of printable text, cut at 1,000 characters."""
    text = " ".join(str(value).split())
    return "".join(character for character in text if character.isprintable())[:_VALUE_LIMIT]


def _cell(value: object) -> str:
    """Return `value` so that it is text in a Markdown table: no markup, no column, no HTML."""
    text = one_line(value)
    for special in "\\`*_[]|":
        text = text.replace(special, f"\\{special}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
