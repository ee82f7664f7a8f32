"""What the routes of CI answer. Durations are seconds, sizes bytes, shares 0-1."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from isolation_monitor.collector.ci.domain import Day, FailedTest, FailureKind, KnownTest, StoredRun, Suite, pass_ratio
from isolation_monitor.collector.ci.resources import Use
from isolation_monitor.collector.ci.service import FailureGroup, RunResources, RunStory, SuiteStory, TestStory
from isolation_monitor.collector.clock import rfc3339

Json = dict[str, Any]  # Any: JSON

_WORDS: Final = {"P": "pass", "F": "fail", "E": "error", "S": "skip"}
_TESTS_OF_GROUP: Final = 50
_DETAIL_CHARS: Final = 2_000


def run(one: StoredRun, base_url: str) -> Json:
    """Return the numbers of a run."""
    return {
        "id": one.id,
        "url": f"{base_url}/ci/runs/{one.id}",
        "suite": one.suite,
        "started_at": rfc3339(one.started_at),
        "received_at": rfc3339(one.received_at),
        "duration_s": one.duration_s,
        "branch": one.branch,
        "is_default_branch": one.is_reference,
        "commit": one.commit,
        "repository": one.repository,
        "origin": asdict(one.origin),
        "tests": one.tests,
        "passed": one.passed,
        "failed": one.failed,
        "errors": one.errors,
        "skipped": one.skipped,
        "flaky": one.flaky,
        "pass_ratio": one.pass_ratio,
        "is_cut_off": one.is_cut_off,
        "resources": dict(one.resources),
    }


def run_story(story: RunStory, base_url: str) -> Json:
    """Return a run with what helps to understand it."""
    return {
        "schema": "ci-run-story/1",
        "run": run(story.run, base_url),
        "before": None if story.before is None else run(story.before, base_url),
        "failures": [_group(one) for one in story.groups],
        "known_flaky": [test(one, base_url) for one in story.flaky],
        "slowest": [
            {"key": one.key, "group": one.group, "name": one.name, "duration_s": took, "usual_s": one.duration_s}
            for one, took in story.slowest
        ],
        "resources": None if story.resources is None else _run_resources(story.resources),
    }


def _run_resources(found: RunResources) -> Json:
    def listed(some: list[tuple[KnownTest, Use]]) -> list[Json]:
        return [{"key": test.key, "group": test.group, "name": test.name, **_use(used)} for test, used in some]

    return {"memory": listed(found.memory), "cpu": listed(found.cpu), "leaking": listed(found.leaking), "leaked": found.leaked}


def _use(used: Use) -> Json:
    return {"resources": dict(used.amounts), "left_behind": used.left_behind}


def _group(group: FailureGroup) -> Json:
    return {
        **failure_kind(group.kind),
        "cause": group.cause,
        "is_new": group.is_new,
        "nearest_earlier": _earlier(group.before),
        "tests": [_failed(one) for one in group.tests[:_TESTS_OF_GROUP]],
        "number": group.number,
    }


def _earlier(one: FailedTest | None) -> Json | None:
    if one is None:
        return None
    return {"run_id": one.run_id, "commit": one.commit, "branch": one.branch, "at": rfc3339(one.at), "key": one.key}


def _failed(one: FailedTest) -> Json:
    return {
        "key": one.key,
        "group": one.group,
        "name": one.name,
        "is_flaky": one.is_flaky,
        "type": one.kind,
        "message": one.message,
        "detail": one.detail[-_DETAIL_CHARS:],
    }


def failure_kind(one: FailureKind) -> Json:
    """Return a kind of failure: why, since when, how often."""
    return {
        "suite": one.suite,
        "fingerprint": one.fingerprint,
        "category": one.category,
        "cause": one.cause,
        "message": one.message,
        "example": one.example,
        "example_key": one.example_key,
        "first": {"at": rfc3339(one.first_at), "commit": one.first_commit, "run_id": one.first_run_id},
        "last": {"at": rfc3339(one.last_at), "commit": one.last_commit, "run_id": one.last_run_id},
        "runs": one.runs,
        "failures": one.failures,
    }


def test(one: KnownTest, base_url: str) -> Json:
    """Return a test over all of its runs."""
    usage = one.usage
    evidence = sorted(one.flaky.values(), key=lambda item: item.at, reverse=True)
    return {
        "suite": one.suite,
        "key": one.key,
        "url": f"{base_url}/ci/tests/{quote(one.key)}?suite={quote(one.suite, safe='')}",
        "group": one.group,
        "name": one.name,
        "file": one.file,
        "passed": one.passed,
        "failed": one.failed,
        "skipped": one.skipped,
        "pass_ratio": one.pass_ratio,
        "usual_s": one.duration_s,
        "longest_s": one.longest_s,
        "last_result": _WORDS[one.last_result],
        "first_seen_at": rfc3339(one.first_seen_at),
        "last_seen_at": rfc3339(one.last_seen_at),
        "failing_since": _moment(one.failing_since),
        "history": one.history,
        "flaky": [{"kind": item.kind, "at": rfc3339(item.at), "says": item.says} for item in evidence],
        "usage": None
        if usage is None
        else {
            **_use(usage.latest), "at": _moment(usage.latest_at), "most": dict(usage.most), "last_leaked_at": _moment(usage.leaked_at),
        },
    }  # fmt: skip


def suite(one: Suite, base_url: str) -> Json:
    """Return a suite with its numbers now."""
    return {
        "name": one.name,
        "url": f"{base_url}/ci/suites/{quote(one.name)}",
        "repository": one.repository,
        "runs": one.runs,
        "results": {"pass": one.passed, "fail": one.failed, "error": one.errors, "skip": one.skipped},
        "last_run_at": _moment(one.reference_at),
        "last_received_at": rfc3339(one.received_at),
        **asdict(one.numbers),
        "recent": [
            {
                "id": run.id, "at": rfc3339(run.at), "commit": run.commit, "duration_s": run.duration_s, "pass_ratio": run.pass_ratio,
                "failed": run.failed,
            }
            for run in one.recent
        ],
    }  # fmt: skip


def suite_story(story: SuiteStory, base_url: str) -> Json:
    """Return a suite with what helps to judge it."""
    return {
        "schema": "ci-suite/1",
        "suite": suite(story.suite, base_url),
        "days": [_day(one) for one in story.days],
        "flaky": [test(one, base_url) for one in story.flaky],
        "failures": [failure_kind(one) for one in story.failures],
        "slowest": [test(one, base_url) for one in story.slowest],
        "runs": [run(one, base_url) for one in story.runs],
    }


def test_story(story: TestStory, base_url: str) -> Json:
    """Return a test over some of its runs."""
    return {
        "schema": "ci-test/1",
        "test": test(story.test, base_url),
        "is_flaky": story.is_flaky,
        "other_suites": [
            {"suite": one.suite, "last_result": _WORDS[one.last_result], "pass_ratio": one.pass_ratio} for one in story.others
        ],
        "results": [
            {
                "run_id": run.id, "started_at": rfc3339(run.started_at), "branch": run.branch, "commit": run.commit,
                "result": _WORDS[one.letter], "duration_s": one.duration_s, **({} if one.used is None else _use(one.used)),
            }
            for run, one in story.results
        ],
        "failures": [
            _failed(one)
            | {
                "run_id": one.run_id, "at": rfc3339(one.at), "branch": one.branch, "commit": one.commit, "category": one.category,
                "cause": one.cause, "fingerprint": one.fingerprint, "nearest_earlier": _earlier(before),
            }
            for one, before in story.failures
        ],
    }  # fmt: skip


def _day(one: Day) -> Json:
    mean = one.duration_s / one.runs if one.runs else None
    ratio = pass_ratio(one.passed, one.failed)
    return {"day": str(one.day), "runs": one.runs, "green": one.green, "pass_ratio": ratio, "mean_s": mean, "longest_s": one.longest_s}


def _moment(value: datetime | None) -> str | None:
    return None if value is None else rfc3339(value)
