"""The report of one run as `isomon ci report` sends it (`ci-run/1`), checked at the edge and turned into plain values."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from isolation_monitor.collector.body import parsed
from isolation_monitor.collector.ci.domain import FAILED, Failing, Origin, Run, TestResult, key_of
from isolation_monitor.collector.ci.failures import diagnose
from isolation_monitor.collector.ci.resources import LEFT_CHARS, use_of
from isolation_monitor.collector.clock import parse_time

MAX_TESTS = 50_000
_AHEAD = timedelta(minutes=5)

Text = Annotated[str, Field(max_length=500)]
Amount = Annotated[float, Field(ge=0, le=1e15)]


class _Strict(BaseModel):
    # A newer command may say more than this version knows.
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class FailureIn(_Strict):
    """Why a test did not pass."""

    type: Annotated[str, Field(max_length=200)] = ""
    message: Annotated[str, Field(max_length=4000)] = ""
    detail: Annotated[str, Field(max_length=20_000)] = ""


class TestIn(_Strict):
    """One test; `passes` and `failures` count its attempts in this run.

    `resources` are what it used (`ci.resources.AMOUNTS`), `left_behind` the names of what it leaked.
    """

    group: Text = ""
    name: Annotated[str, Field(min_length=1, max_length=500)]
    file: Text = ""
    result: Literal["pass", "fail", "error", "skip"]
    duration_s: Amount | None = None
    passes: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    failures: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    failure: FailureIn | None = None
    resources: dict[Annotated[str, Field(max_length=50)], Amount] = Field(default_factory=dict, max_length=50)
    left_behind: Annotated[str, Field(max_length=4 * LEFT_CHARS)] = ""


class OriginIn(_Strict):
    """Which CI, and what of it."""

    provider: Annotated[str, Field(max_length=50)] = ""
    run_id: Annotated[str, Field(max_length=200)] = ""
    attempt: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    job: Annotated[str, Field(max_length=200)] = ""
    url: Text = ""
    pull_request: Annotated[str, Field(max_length=50)] = ""

    @field_validator("url")
    @classmethod
    def _web_address(cls, value: str) -> str:
        # It becomes a link on a page.
        if value and not value.startswith(("https://", "http://")):
            raise ValueError("is not an http:// or https:// address")
        return value


class RunIn(_Strict):
    """One run of one suite."""

    schema_: Annotated[Literal["ci-run/1"], Field(alias="schema")]
    id: Annotated[str, Field(min_length=8, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]
    suite: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\s/\x00-\x1f][^\x00-\x1f]*$")]
    started_at: str
    duration_s: Amount
    is_default_branch: bool = True
    branch: Annotated[str, Field(max_length=200)] = ""
    commit: Annotated[str, Field(max_length=64)] = ""
    repository: Annotated[str, Field(max_length=300)] = ""
    origin: OriginIn = OriginIn()
    resources: dict[Annotated[str, Field(max_length=50)], Amount] = Field(default_factory=dict, max_length=50)
    is_cut_off: bool = False
    tests: Annotated[list[TestIn], Field(max_length=MAX_TESTS)]

    @field_validator("started_at")
    @classmethod
    def _moment(cls, value: str) -> str:
        parse_time(value)
        return value


def parse_run(body: bytes, now: datetime) -> Run:
    """Return the run that a body tells of, each failure with its diagnosis. A start in the future is taken for now.

    Raises:
        MalformedBody: no JSON.
        Invalid: not a report; the first place that is wrong is named.
    """
    read = parsed(body, RunIn)
    started_at = parse_time(read.started_at)
    if started_at > now + _AHEAD:
        started_at = now.astimezone(UTC)
    seen: dict[str, TestResult] = {}
    for test in read.tests:
        one = _result(test)
        # A test is one row: a sender that lists it twice meant its last word.
        seen[one.key] = one
    return Run(
        read.id, read.suite, started_at, read.duration_s, read.is_default_branch, read.branch, read.commit, read.repository,
        Origin(**read.origin.model_dump()), {name: value for name, value in read.resources.items() if math.isfinite(value)},
        read.is_cut_off, tuple(seen.values()),
    )  # fmt: skip


def _result(test: TestIn) -> TestResult:
    failed = test.result in FAILED
    passes = test.passes if test.passes is not None else int(test.result == "pass")
    failures = test.failures if test.failures is not None else int(failed)
    failing = None
    if failed or failures:
        told = test.failure or FailureIn()
        diagnosis = diagnose(key_of(test.group, test.name), told.type, told.message, told.detail)
        failing = Failing(told.type, told.message, told.detail, diagnosis)
    used = use_of(test.resources, test.left_behind) if test.resources else None
    return TestResult(test.group, test.name, test.file, test.result, test.duration_s, passes, failures, failing, used)
