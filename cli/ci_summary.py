"""What a run came to, for people: a table on the terminal, Markdown for a pull request. Both from one answer (`ci-run-story/1`).

Names and messages come from tests: nothing in them may style a terminal or break out of Markdown.
"""

from __future__ import annotations

import re
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from isolation_monitor.cli.printable import one_line
from isolation_monitor.collector.ci.resources import LEAKED

Json = dict[str, Any]  # Any: ci-run-story/1

MARKDOWN_CHARS: Final = 60_000
"""GitHub takes 65,536 characters of a comment."""
_GROUPS: Final = 20
_TESTS: Final = 8
_MESSAGE: Final = 300
_SLOWEST: Final = 5
_LEAKING: Final = 10
_CATEGORY_WORDS: Final = {"connection_refused": "connection refused", "import": "import or build"}
_MEASURED: Final = (
    ("cpu_s", "CPU", "s"), ("memory_peak_bytes", "peak memory", "bytes"), ("leaked_handles", "leaked handles", ""),
    ("leaked_threads", "leaked threads", ""), ("leaked_processes", "leaked processes", ""),
)  # fmt: skip


_HOW: Final = {"failed": ("❌", "red"), "nothing ran": ("⚠️", "yellow"), "passed": ("✅", "green")}
"""Sign and colour. That nothing ran is no success: a wrong path or filter looks like that."""


def _judged(run: Json) -> str:
    return "failed" if run["failed"] + run["errors"] else "passed" if run["passed"] else "nothing ran"


def headline(run: Json) -> str:
    """Return the run in a sentence."""
    failed = run["failed"] + run["errors"]
    ran = run["tests"] - run["skipped"]
    said = f"{failed} of {ran} tests failed" if failed else f"all {ran} tests passed" if ran else "no test ran"
    return f"{said}, {run['skipped']} skipped, in {seconds(run['duration_s'])}"


def print_story(story: Json, console: Console) -> None:
    """Print the run, why it failed and what is flaky."""
    run = story["run"]
    console.print(Text(f"{run['suite']}: {headline(run)}", style=f"bold {_HOW[_judged(run)][1]}"))
    if compared := _compared(story):
        console.print(Text(compared, style="dim"))
    if measured := _measured(run):
        console.print(Text(measured, style="dim"))
    if story["failures"]:
        table = Table("why", "tests", "likely cause", "seen before", box=None, pad_edge=False)
        for group in story["failures"][:_GROUPS]:
            names = "\n".join(_named(one) for one in group["tests"][:_TESTS]) + _more(group)
            cells = (_category(group), names, f"{group['cause']}\n{_line(group['message'])}", _before(group))
            table.add_row(*(Text(cell) for cell in cells))
        console.print(table)
    for one in story["known_flaky"]:
        console.print(Text(f"known flaky: {_named(one)}: {_evidence(one)}", style="yellow"))
    if leaked := _leaked(story):
        console.print(Text("left behind:", style="yellow"))
        for text, what in leaked:
            console.print(Text(f"  {text}: {what}", style="yellow"))
    if story["slowest"]:
        slow = ", ".join(f"{_named(one)} {seconds(one['duration_s'])}" for one in story["slowest"][:_SLOWEST])
        console.print(Text(f"slowest: {slow}", style="dim"))


def markdown(story: Json, link: str | None) -> str:
    """Return the run as Markdown, short enough for a comment on a pull request; `link` opens it in the collector."""
    run = story["run"]
    lines = [f"### {_HOW[_judged(run)][0]} {_text(run['suite'])}: {headline(run)}", ""]
    if compared := _compared(story):
        lines += [_text(compared), ""]
    if measured := _measured(run):
        lines += [measured, ""]
    if story["failures"]:
        lines += ["| why | tests | likely cause | seen before |", "| --- | --- | --- | --- |"]
        for group in story["failures"][:_GROUPS]:
            names = "<br>".join(f"<code>{_text(_named(one))}</code>" for one in group["tests"][:_TESTS])
            cause = f"{_text(group['cause'])}<br><code>{_text(_line(group['message']))}</code>"
            lines.append(f"| {_category(group)} | {names}{_text(_more(group))} | {cause} | {_text(_before(group))} |")
        if len(story["failures"]) > _GROUPS:
            lines.append(f"\n{len(story['failures']) - _GROUPS} more kinds of failures are in the collector.")
        lines.append("")
    if story["known_flaky"]:
        lines.append("<details><summary>Known to be flaky</summary>\n")
        lines += [f"- <code>{_text(_named(one))}</code>: {_text(_evidence(one))}" for one in story["known_flaky"][:_GROUPS]]
        lines += ["\n</details>", ""]
    if leaked := _leaked(story):
        lines.append("<details><summary>Left behind by tests</summary>\n")
        lines += [f"- <code>{_text(text)}</code>: {_text(what)}" for text, what in leaked]
        lines += ["\n</details>", ""]
    if story["slowest"]:
        lines.append("<details><summary>Slowest tests</summary>\n")
        lines += [f"- <code>{_text(_named(one))}</code> {seconds(one['duration_s'])}{_usually(one)}" for one in story["slowest"][:_SLOWEST]]
        lines += ["\n</details>", ""]
    if link:
        lines.append(f"[The whole report]({link})")
    text = "\n".join(lines).rstrip() + "\n"
    return text if len(text) <= MARKDOWN_CHARS else text[:MARKDOWN_CHARS].rsplit("\n", 1)[0] + "\n\nThe rest is in the collector.\n"


def seconds(value: float | None) -> str:
    """Return a duration for people."""
    if value is None:
        return "–"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def _compared(story: Json) -> str:
    before, run = story["before"], story["run"]
    if before is None or before["pass_ratio"] is None or run["pass_ratio"] is None:
        return ""
    points = 100 * (run["pass_ratio"] - before["pass_ratio"])
    slower = f", {100 * (run['duration_s'] / before['duration_s'] - 1):+.0f} % time" if before["duration_s"] else ""
    return f"Against the run of {before['commit'][:10] or 'before'}: {points:+.2f} points of passed tests{slower}."


def _measured(run: Json) -> str:
    found = []
    for name, word, unit in _MEASURED:
        value = run["resources"].get(name)
        if value is not None and (value or not name.startswith("leaked")):
            shown = seconds(value) if unit == "s" else f"{value / 2**20:,.0f} MiB" if unit == "bytes" else f"{value:g}"
            found.append(f"{word} {shown}")
    return ", ".join(found)


def _leaked(story: Json) -> list[tuple[str, str]]:
    """Return which tests left something behind, and what; the worst few. A collector of before does not say."""
    found = story.get("resources")
    if found is None:
        return []
    shown = []
    for one in found["leaking"][:_LEAKING]:
        numbers = [f"{one['resources'][name]:g} {name.removeprefix('leaked_')}" for name in LEAKED if one["resources"].get(name)]
        shown.append((_named(one), _line(": ".join(part for part in (", ".join(numbers), one["left_behind"]) if part))))
    more = found["leaked"] - len(shown)
    return [*shown, ("more", f"{more} tests")] if more > 0 else shown


def _usually(one: Json) -> str:
    return "" if one["usual_s"] is None else f" (usually {seconds(one['usual_s'])})"


def _category(group: Json) -> str:
    word = _CATEGORY_WORDS.get(group["category"], group["category"].replace("_", " "))
    return f"{word} (flaky)" if group["tests"] and all(one["is_flaky"] for one in group["tests"]) else word


def _before(group: Json) -> str:
    earlier = group["nearest_earlier"]
    if earlier is None:
        return "no, it is new"
    first = group["first"]
    return f"{earlier['commit'][:10] or earlier['run_id'][:10]} at {earlier['at'][:16]}, first {first['at'][:10]}, in {group['runs']} runs"


def _more(group: Json) -> str:
    left = group["number"] - min(len(group["tests"]), _TESTS)
    return f"\nand {left} more" if left > 0 else ""


def _named(one: Json) -> str:
    return _line(f"{one['group']} {one['name']}".strip(), 160)


def _evidence(one: Json) -> str:
    return "; ".join(item["says"] for item in one["flaky"])


def _line(text: str, chars: int = _MESSAGE) -> str:
    plain = one_line(text)
    return plain if len(plain) <= chars else plain[: chars - 1] + "…"


def _text(text: str) -> str:
    """Return a text that Markdown and HTML show as it is."""
    escaped = _line(text, 1000).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A mention would wake people, an image would load from anywhere.
    return re.sub(r"([\\`*_\[\]!#@|~])", lambda sign: f"&#{ord(sign[1])};", escaped)
