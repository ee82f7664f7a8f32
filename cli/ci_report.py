"""From JUnit files and their place to the report that the collector takes (`ci-run/1`), and to a summary that needs no collector."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from isolation_monitor.cli.ci_environment import Place
from isolation_monitor.cli.collector_client import UsageError
from isolation_monitor.cli.junit import Report, TestRun
from isolation_monitor.cli.junit_values import MOST_ATTEMPTS
from isolation_monitor.cli.printable import one_line
from isolation_monitor.collector.ci.domain import key_of
from isolation_monitor.collector.ci.failures import diagnose
from isolation_monitor.collector.ci.resources import Use, heaviest, use_of

Json = dict[str, Any]  # Any: JSON

_DETAILS: Final = 300
"""Failures whose stack is sent: when more fail than that, one cause stands in many of them."""
_BRIEF: Final = 300
_BODY_CHARS: Final = 7_500_000
"""Beyond this no stack is sent: the collector takes 8 MiB (COLLECTOR_MAX_INFLATED_BYTES), and every test must be in it."""
_SAID_BESIDE: Final = 65
"""Characters that a test has beside its names: result, duration, the JSON around them."""
_SUITE_CHARS: Final = 100


def suite_of(report: Report, place: Place, given: str | None) -> str:
    """Return the suite's name: as given, as the files say where they say one, that of the CI's job, of the files' roots, or `tests`.

    Raises:
        UsageError: the name cannot be used.
    """
    names, roots = (
        [name for name in dict.fromkeys(every) if name and not name.startswith(("/", "("))]
        for every in (report.suite_names, report.root_names)
    )
    # Not the first of many classes: it would be another one as soon as a class is added.
    found = next((every[0] for every in (names, [place.job], roots) if len(every) == 1 and every[0]), "tests")
    name = given if given is not None else found
    name = one_line(name).lstrip("/ ")[:_SUITE_CHARS]
    if not name:
        raise UsageError("--suite is empty: name what these tests are, such as unit or e2e")
    return name


def body_of(report: Report, place: Place, suite: str, duration_s: float | None, now_s: float) -> Json:
    """Return the report of a run. Its id follows from where it ran and what the files hold, so that sending it twice is harmless."""
    took_s = report.duration_s if duration_s is None else duration_s
    began = report.started_at.timestamp() if report.started_at is not None else now_s - took_s
    known = (place.provider, place.repository, place.run_id, str(place.attempt), place.job, place.commit, suite, report.digest)
    failed, said = 0, sum(len(test.group) + len(test.name) + len(test.file) + _SAID_BESIDE for test in report.tests)
    measured, chars = _measured(report.tests, _BODY_CHARS - said)
    said += chars
    tests = []
    for test in report.tests:
        failed += test.failure is not None
        detailed = _test(test, has_detail=failed <= _DETAILS and said < _BODY_CHARS) | measured.get(id(test), {})
        tests.append(detailed)
        said += len(detailed["failure"]["detail"]) if test.failure is not None else 0
    return {
        "schema": "ci-run/1",
        "id": hashlib.sha256("\0".join(known).encode("utf-8", "replace")).hexdigest()[:32],
        "suite": suite,
        # Durations that were never measured may lead back before there were dates.
        "started_at": datetime.fromtimestamp(max(0.0, min(began, now_s)), UTC).isoformat(),
        "duration_s": took_s,
        "is_default_branch": place.is_default_branch,
        "branch": place.branch[:200],
        "commit": place.commit[:64],
        "repository": place.repository[:300],
        "origin": {
            "provider": place.provider,
            "run_id": place.run_id[:200],
            "attempt": place.attempt,
            "job": place.job[:200],
            "url": place.url[:500] if place.url.startswith(("http://", "https://")) else "",
            "pull_request": place.pull_request[:50],
        },
        "resources": report.resources,
        "is_cut_off": bool(report.cut_off),
        "tests": tests,
    }


def _measured(tests: Sequence[TestRun], room: int) -> tuple[dict[int, Json], int]:
    """Return what is sent of the tests' resources, by `id` of the test, and how many characters that is.

    Where not all has room beside the stacks, it is what stands out: tests that leaked, then those that used most CPU or memory.
    """
    stacks = [len(test.failure.detail) for test in tests if test.failure is not None]
    room -= sum(stacks[:_DETAILS])
    used = {id(test): found for test in tests if (found := use_of(test.resources, test.left_behind)) is not None}
    places: dict[int, int] = {}
    by_cpu = sorted(used, key=lambda one: -used[one].amounts.get("cpu_s", 0))
    by_memory = sorted(used, key=lambda one: -(used[one].memory_bytes or 0))
    for order in (by_cpu, by_memory):
        for place, one in enumerate(order):
            places[one] = min(place, places.get(one, place))
    sent: dict[int, Json] = {}
    chars = 0
    for one in sorted(used, key=lambda one: (not used[one].has_leaked, places[one])):
        said: Json = {"resources": {name: float(format(value, ".4g")) for name, value in used[one].amounts.items()}}
        if used[one].left_behind:
            said["left_behind"] = used[one].left_behind
        more = len(json.dumps(said))
        if chars + more > room:
            break
        sent[one], chars = said, chars + more
    return sent, chars


def _test(test: TestRun, *, has_detail: bool) -> Json:
    """Return one test, without what needs not be said: passed tests are many."""
    said: Json = {"group": test.group, "name": test.name, "result": test.result}
    if test.file:
        said["file"] = test.file
    if test.duration_s is not None:
        said["duration_s"] = test.duration_s
    if test.passes + test.failures > 1:
        said |= {"passes": min(test.passes, MOST_ATTEMPTS), "failures": min(test.failures, MOST_ATTEMPTS)}
    if test.failure is not None:
        told = test.failure
        said["failure"] = {
            "type": told.kind,
            "message": told.message if has_detail else told.message[:_BRIEF],
            "detail": told.detail if has_detail else "",
        }
    return said


def story_without_collector(body: Json) -> Json:
    """Return what a run came to by itself, in the form of the collector's answer: every failure is new to it."""
    groups: dict[str, Json] = {}
    for test in body["tests"]:
        told = test.get("failure")
        if told is None:
            continue
        found = diagnose(key_of(test["group"], test["name"]), told["type"], told["message"], told["detail"])
        group = groups.setdefault(
            found.fingerprint,
            {
                "suite": body["suite"], "fingerprint": found.fingerprint, "category": found.category, "cause": found.cause,
                "message": found.said, "is_new": True, "nearest_earlier": None, "runs": 1,
                "tests": [], "number": 0,
            },
        )  # fmt: skip
        group["number"] += 1
        is_flaky = test["result"] == "pass"
        group["tests"].append({"group": test["group"], "name": test["name"], "is_flaky": is_flaky, **told})
    results = [test["result"] for test in body["tests"]]
    passed, failed, errors, skipped = (results.count(one) for one in ("pass", "fail", "error", "skip"))
    ran = passed + failed + errors
    slowest = sorted(body["tests"], key=lambda test: -(test.get("duration_s") or 0.0))[:10]
    return {
        "schema": "ci-run-story/1",
        "stored": False,
        "run": {
            **{name: body[name] for name in ("id", "suite", "started_at", "duration_s", "branch", "commit", "repository", "origin")},
            "is_default_branch": body["is_default_branch"], "resources": body["resources"], "is_cut_off": body["is_cut_off"],
            "tests": len(results), "passed": passed, "failed": failed, "errors": errors, "skipped": skipped,
            "flaky": sum(bool(test.get("passes") and test.get("failures")) for test in body["tests"]),
            "pass_ratio": passed / ran if ran else None,
        },
        "before": None,
        "failures": sorted(groups.values(), key=lambda group: (all(one["is_flaky"] for one in group["tests"]), -group["number"])),
        "known_flaky": [],
        "slowest": [
            {"group": test["group"], "name": test["name"], "duration_s": test.get("duration_s"), "usual_s": None} for test in slowest
        ],
        "resources": _standing_out(body["tests"]),
    }  # fmt: skip


def _standing_out(tests: Sequence[Json]) -> Json | None:
    named = {str(number): test for number, test in enumerate(tests)}
    found = heaviest({
        key: used for key, test in named.items() if (used := use_of(test.get("resources", {}), test.get("left_behind", ""))) is not None
    })  # fmt: skip

    def listed(some: Sequence[tuple[str, Use]]) -> list[Json]:
        return [
            {
                "group": named[key]["group"], "name": named[key]["name"], "resources": dict(used.amounts), "left_behind": used.left_behind,
            }
            for key, used in some
        ]  # fmt: skip

    if not (found.memory or found.cpu or found.leaking):
        return None
    return {"memory": listed(found.memory), "cpu": listed(found.cpu), "leaking": listed(found.leaking), "leaked": found.leaked}
