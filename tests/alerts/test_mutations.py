"""A rule test proves something only when it fails for a wrong rule: each threshold and comparison is changed, one at a time.

A mutant runs against the scenarios of its own alert (all of them for a recorded series). Mutants share promtool
processes, because starting one costs more than a scenario. All of them take minutes and are a slow test; at once a sample
runs that has some of every rule: which ones follows from the rule's text, so that a rule that is changed is tried by others.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from isolation_monitor.alerts import build
from tests.alerts.scenarios import LINKS, SCENARIOS
from tests.real_parts.promtool import Scenario, run_tests, write_test

_CORES = os.cpu_count() or 1

_SKIPPED = re.compile(r'\{[^}]*\}|\[[^]]*\]|"[^"]*"|offset \w+|(?:by|on) \([^)]*\)|[A-Za-z_:][\w:]*')
_TOKEN = re.compile(r"[<>=!]=|[<>]|(?<![\w.])\d+(?:\.\d+)?(?![\w.])")
_FLIPS = {">": (">=", "<"), "<": ("<=", ">"), ">=": (">", "<"), "<=": ("<", ">"), "==": ("!=",), "!=": ("==",)}

UNCHANGED = "unchanged"
_BATCH = 24
_ONE_IN = 12
PROMISES = ("service_slo:", "slo:")
EQUIVALENT = {
    "CleanupSlow: 5 becomes 6": "the quantile of 1 is the bound of a bucket, and none is between 5 and 10",
    "DeadMansSwitch: 1 becomes 2": "the value of a constant alert is compared with nothing",
    "DeadMansSwitch: 1 becomes 0": "as above",
    "RolloutLatency: < becomes <=": "a mean of measured percentiles is never exactly four standard errors above zero",
    "instance_creation_time_ms: >= becomes >": "the comparison drops NaN; a percentile of durations is never 0",
    "instance_creation_time_ms: 0 becomes -1": "as above",
}
"""Mutants that change nothing, each with the reason."""


def mutants_of(expression: str) -> Iterator[tuple[str, str]]:
    """Yield each mutant of an expression with a name: every comparison flipped, every number moved."""
    masked = _SKIPPED.sub(lambda match: " " * len(match.group()), expression)
    for token in _TOKEN.finditer(masked):
        text = token.group()
        for other in _FLIPS.get(text) or _moved(text):
            yield f"{text} at {token.start()} becomes {other}", expression[: token.start()] + other + expression[token.end() :]


def _moved(number: str) -> tuple[str, ...]:
    if "." in number:
        return f"{float(number) * 2:g}", f"{float(number) / 2:g}"
    return str(int(number) + 1), str(int(number) - 1)


def _groups() -> list[dict[str, Any]]:
    return [group for text in build.rules().values() for group in yaml.safe_load(text)["groups"]]


def _name(rule: dict[str, Any]) -> str:
    return str(rule.get("alert") or f"{rule['record']} {rule.get('labels', '')}".strip())


def _changes(rule: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    yield UNCHANGED, {}
    for what, expression in mutants_of(rule["expr"]):
        yield what, {"expr": expression}
    for key in ("for", "keep_firing_for"):
        if key in rule:
            yield f"{key} doubled", {key: f"{int(rule[key][:-1]) * 2}{rule[key][-1]}"}
            yield f"{key} gone", {key: "0s"}


def _reads(rule: dict[str, Any], record: str) -> bool:
    return re.search(rf"(?<![\w:]){record}(?![\w:])", rule["expr"]) is not None


def _surroundings(rule: dict[str, Any], rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rule, all that read it or record the same series, and all that those read, in the order of the files."""
    chosen = [rule]
    for other in rules:
        if other not in chosen and any(
            "record" in known and (_reads(other, known["record"]) or other.get("record") == known["record"]) for known in chosen
        ):
            chosen.append(other)
    for other in reversed(rules):
        if other not in chosen and "record" in other and any(_reads(known, other["record"]) for known in chosen):
            chosen.append(other)
    return [other for other in rules if other in chosen]


def _scenarios_of(rules: list[dict[str, Any]]) -> Iterator[Scenario]:
    """Yield the scenarios of these rules, without the samples of series that they do not record."""
    alerts = {rule["alert"] for rule in rules if "alert" in rule}
    for scenario in SCENARIOS:
        samples = {
            (expression, moment): values
            for (expression, moment), values in scenario.samples.items()
            if any("record" in rule and rule["record"] in re.findall(r"[\w:]+", expression) for rule in rules)
        }
        if scenario.alert in alerts or samples:
            yield dataclasses.replace(scenario, samples=samples)


def _chosen(rule: dict[str, Any], sampled: bool) -> list[tuple[str, dict[str, str]]]:
    """Return the changes to try, without those that change nothing: all of them, or the rule as it is and one in twelve, at least one."""
    counting = [(what, change) for what, change in _changes(rule) if re.sub(r" at \d+", "", f"{_name(rule)}: {what}") not in EQUIVALENT]
    if not sampled:
        return counting
    unchanged, changes = counting[:1], counting[1:]
    by_chance = sorted(changes, key=lambda change: zlib.crc32(f"{change[0]} {rule['expr']}".encode()))
    return unchanged + by_chance[: -(-len(changes) // _ONE_IN)]


def _mutants(folder: Path, *, sampled: bool) -> Iterator[tuple[str, list[Path]]]:
    """Write each mutant with its scenarios; yield its name and its promtool files."""
    rules = [rule for group in _groups() for rule in group["rules"]]
    shapes: set[str] = set()
    for number, rule in enumerate(rules):
        if rule.get("record", "").startswith(PROMISES):
            # One template makes them for every objective, source and window: one of each shape is enough.
            shape = _SKIPPED.sub("", rule["expr"])
            if shape in shapes:
                continue
            shapes.add(shape)
        surroundings = _surroundings(rule, rules)
        # An alert is judged by its own scenarios, a recorded series by all that depend on it.
        judged = [rule] if "alert" in rule else surroundings
        scenarios = list(_scenarios_of(judged))
        for variant, (what, change) in enumerate(_chosen(rule, sampled)):
            place = folder / f"{number}-{variant}"
            place.mkdir()
            mutant = place / "rules.yml"
            changed = [rule | change if other is rule else other for other in surroundings]
            mutant.write_text(json.dumps({"groups": [{"name": "mutant", "interval": "1s", "rules": changed}]}))
            yield (
                f"{_name(rule)}: {what}",
                [
                    write_test(place / f"every-{pace}.yml", [mutant], [s for s in scenarios if s.every_s == pace], LINKS)
                    for pace in sorted({s.every_s for s in scenarios})
                ],
            )


def _passed(files: list[Path]) -> set[str]:
    """Return the files that pass, of many run in one process."""
    output = run_tests(*files).stdout
    return {block.split()[0] for block in output.split("Unit Testing:")[1:] if block.split()[1:2] == ["SUCCESS"]}


@pytest.mark.parametrize("sampled", [pytest.param(True, id="sampled"), pytest.param(False, id="all", marks=pytest.mark.slow)])
def test_a_changed_threshold_or_comparison_fails_some_scenario(tmp_path: Path, sampled: bool):
    """A survivor means that a threshold could be typed wrongly and every test would stay green."""
    mutants = list(_mutants(tmp_path, sampled=sampled))
    files = [file for _, written in mutants for file in written]
    # Many files to a process, but few enough for each to end within its time on a busy machine.
    batches = [files[at : at + _BATCH] for at in range(0, len(files), _BATCH)]

    with ThreadPoolExecutor(_CORES) as pool:
        passed = set().union(*pool.map(_passed, batches))

    assert len(mutants) > (120 if sampled else 200)
    unchanged = {name for name, _ in mutants if name.endswith(UNCHANGED)}
    survivors = {name for name, written in mutants if passed.issuperset(map(str, written))}
    # A rule as it is must pass in the very same surroundings, or its mutants would fail for nothing.
    assert unchanged <= survivors, "\n".join(sorted(unchanged - survivors))
    assert survivors == unchanged, "\n".join(sorted(survivors - unchanged))
