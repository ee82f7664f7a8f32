"""Runs of test suites: kept once, summed up, explained."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from isolation_monitor.collector.ci.schemas import parse_run
from isolation_monitor.collector.clock import rfc3339
from tests.collector.conftest import READ, SEND, Api, bearer

REFUSED = {"type": "ConnectionRefusedError", "message": "[Errno 111] Connect call failed ('127.0.0.1', 8080)"}


def case(name: str, result: str = "pass", **about: object) -> dict[str, Any]:
    failure = {"failure": {"type": "AssertionError", "message": f"assert {name}"}} if result in ("fail", "error") else {}
    return {"group": "tests.cart", "name": name, "result": result, "duration_s": 0.5, **failure, **about}


class Ci:
    """Sends reports of one suite, each a minute after the other."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._sent = 0

    def report(self, *tests: dict[str, Any], **about: object) -> dict[str, Any]:
        self._sent += 1
        return {
            "schema": "ci-run/1", "id": f"run-{self._sent:06d}", "suite": "unit", "started_at": rfc3339(self.api.clock()),
            "duration_s": 60.0, "branch": "main", "commit": f"{self._sent:040x}", "tests": list(tests),
        } | about  # fmt: skip

    async def send(self, *tests: dict[str, Any], **about: object) -> dict[str, Any]:
        self.api.clock.advance(60)
        answer = await self.api.post("/v1/ci/runs", self.report(*tests, **about), SEND)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def send_all(self, *runs: tuple[tuple[dict[str, Any], ...], dict[str, Any]]) -> None:
        """Store many runs in one transaction: the way over HTTP is tested elsewhere."""
        read = []
        for tests, about in runs:
            self.api.clock.advance(60)
            read.append(parse_run(json.dumps(self.report(*tests, **about)).encode(), self.api.clock()))
        assert await self.api.app.state.ci.store_all(read) == len(read)

    async def get(self, path: str) -> dict[str, Any]:
        answer = await self.api.get(f"/v1/ci/{path}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def suite(self) -> dict[str, Any]:
        return dict((await self.get("suites/unit"))["suite"])


@pytest.fixture
def ci(api: Api) -> Ci:
    return Ci(api)


async def test_a_run_is_kept_once_however_often_it_is_sent(ci: Ci) -> None:
    """CI tries again after a lost answer: the numbers must not count that."""
    body = ci.report(case("adds"), case("pays", "fail"))

    first = await ci.api.post("/v1/ci/runs", body, SEND)
    again = await ci.api.post("/v1/ci/runs", body, SEND)

    assert first.json()["stored"] is True
    assert again.json()["stored"] is False
    assert again.json()["run"] == first.json()["run"]
    assert (await ci.suite())["results"] == {"pass": 1, "fail": 1, "error": 0, "skip": 0}
    assert [run["id"] for run in (await ci.get("runs"))["items"]] == [body["id"]]


async def test_the_numbers_of_a_suite_are_those_of_its_newest_run_on_the_default_branch(ci: Ci) -> None:
    """Work in progress on another branch may fail as it likes."""
    await ci.send(case("adds"), case("pays"), case("later", "skip"), resources={"memory_peak_bytes": 1e9})
    await ci.send(case("adds", "fail"), case("pays", "fail"), branch="feature", is_default_branch=False, duration_s=999)

    suite = await ci.suite()

    assert suite["pass_ratio"] == 1.0
    assert suite["duration_s"] == 60.0
    assert suite["memory_peak_bytes"] == 1e9
    assert suite["results"] == {"pass": 2, "fail": 2, "error": 0, "skip": 1}


async def test_a_suite_without_a_default_branch_is_judged_by_every_run(ci: Ci) -> None:
    await ci.send(case("adds", "fail"), case("pays"), branch="feature", is_default_branch=False)

    assert (await ci.suite())["pass_ratio"] == 0.5


async def test_a_failure_tells_when_it_was_seen_before(ci: Ci) -> None:
    """The first question of whoever reads a red run: is this mine? The cause is told as it was here, not as it was the first time."""
    first = await ci.send(case("pays", "error", failure=REFUSED | {"message": "[Errno 111] Connect call failed ('127.0.0.1', 40123)"}))
    await ci.send(case("pays"))
    moved = REFUSED | {"message": "[Errno 111] Connect call failed ('127.0.0.1', 51999)"}
    last = await ci.send(case("ships", "error", failure=moved), case("adds", "fail"))

    known, new = sorted(last["failures"], key=lambda group: group["is_new"])

    assert known["category"] == "connection_refused"
    assert "127.0.0.1:51999" in known["cause"]
    assert known["nearest_earlier"]["commit"] == first["run"]["commit"] == known["first"]["commit"]
    assert known["runs"] == 2
    assert new["category"] == "assertion"
    assert new["is_new"] is True
    assert new["nearest_earlier"] is None
    assert last["before"]["id"] == "run-000002"


async def test_a_new_failure_among_hundreds_of_known_ones_is_told(ci: Ci) -> None:
    """A gate on new failures must not miss the one that comes last by name; how many failed for one reason is counted over all."""
    known = [case(f"known_{number:03}", "fail") for number in range(150)]
    refused = [case(f"pays_{number:03}", "error", failure=REFUSED) for number in range(150)]
    await ci.send(*known, *refused)
    told = await ci.send(*known, *refused, case("zz", "fail", failure={"type": "RuntimeError", "message": "the moon is full"}))

    assert [group["tests"][0]["name"] for group in told["failures"] if group["is_new"]] == ["zz"]
    assert [group["number"] for group in told["failures"] if group["category"] == "connection_refused"] == [150]


async def test_both_results_of_one_commit_make_a_test_flaky(ci: Ci) -> None:
    await ci.send(case("adds"), case("pays", "fail"), commit="c" * 40)
    await ci.send(case("adds"), case("pays"), commit="c" * 40)

    [flaky] = (await ci.get("flaky"))["items"]

    assert flaky["name"] == "pays"
    assert flaky["flaky"][0]["kind"] == "same_commit"
    assert "cccccccccccc" in flaky["flaky"][0]["says"]
    assert (await ci.suite())["flaky_ratio"] == 0.5


async def test_another_job_of_the_commit_is_another_environment(ci: Ci) -> None:
    """A test that fails on one system and passes on another is broken there, not flaky."""
    await ci.send(case("pays", "fail"), commit="c" * 40, origin={"job": "windows"})
    await ci.send(case("pays"), commit="c" * 40, origin={"job": "linux"})

    assert (await ci.get("flaky"))["items"] == []


async def test_a_matrix_whose_entries_are_named_alike_makes_no_test_flaky(ci: Ci) -> None:
    """GitHub gives every entry of a matrix the same job: a test that fails on one version in each of 30 runs is broken there."""

    def entry(number: int, *, is_new: bool) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
        origin = {"provider": "github", "run_id": str(number), "job": "test", "attempt": 1}
        tests = case("pays", "fail" if is_new else "pass"), case("adds", "fail" if number % 6 == 5 else "pass")
        return tests, {"commit": f"{number:040x}", "origin": origin}

    # Whichever entry is ready first.
    await ci.send_all(*(entry(number, is_new=bool(order) == bool(number % 3)) for number in range(30) for order in (0, 1)))
    again = {"provider": "github", "run_id": "29", "job": "test", "attempt": 2}
    await ci.send(case("pays"), commit=f"{29:040x}", origin=again)

    [flaky] = (await ci.get("flaky"))["items"]

    assert flaky["name"] == "adds", "what fails in every entry is judged as before"
    assert flaky["history"] == "PPPPPF" * 5


async def test_an_attempt_that_passes_where_the_one_before_failed_is_evidence(ci: Ci) -> None:
    origin = {"provider": "github", "run_id": "7", "job": "test"}
    await ci.send(case("pays", "fail"), commit="c" * 40, origin=origin | {"attempt": 1})
    await ci.send(case("pays"), commit="c" * 40, origin=origin | {"attempt": 2})

    assert [one["name"] for one in (await ci.get("flaky"))["items"]] == ["pays"]


async def test_both_results_of_one_run_make_a_test_flaky(ci: Ci) -> None:
    """A rerun that passed hides the failure from the pipeline; it must not hide it from here."""
    told = await ci.send(case("pays", "pass", passes=1, failures=1, failure={"type": "AssertionError", "message": "assert paid"}))

    [flaky] = (await ci.get("flaky"))["items"]

    assert flaky["flaky"][0]["kind"] == "same_run"
    assert told["run"]["flaky"] == 1
    assert told["failures"][0]["tests"][0]["is_flaky"] is True
    assert (await ci.suite())["pass_ratio"] == 1.0


async def test_a_test_that_fails_again_and_again_is_flaky_and_a_defect_is_not(ci: Ci) -> None:
    """Over time: episodes count. A defect that lasts for many runs is one."""

    def of(number: int) -> tuple[dict[str, Any], ...]:
        is_broken = 10 <= number < 20
        return case("stable"), case("flaky", "fail" if number % 6 == 5 else "pass"), case("broken", "fail" if is_broken else "pass")

    await ci.send_all(*((of(number), {}) for number in range(30)))

    [flaky] = (await ci.get("flaky"))["items"]

    assert flaky["name"] == "flaky"
    assert flaky["flaky"][0]["kind"] == "statistical"
    assert flaky["history"] == "PPPPPF" * 5


async def test_a_run_in_which_everything_fails_says_nothing_of_single_tests(ci: Ci) -> None:
    """A machine without a database makes a hundred failures, and no test of them is flaky."""
    names = [f"test_{number}" for number in range(12)]

    def of(number: int) -> tuple[dict[str, Any], ...]:
        return tuple(case(name, "error", failure=REFUSED) if number % 6 == 5 else case(name) for name in names)

    await ci.send_all(*((of(number), {}) for number in range(30)))

    assert (await ci.get("flaky"))["items"] == []


async def test_evidence_is_forgotten_after_two_weeks(ci: Ci) -> None:
    await ci.send(case("pays"), commit="c" * 40)
    await ci.send(case("pays", "fail"), commit="c" * 40)
    ci.api.clock.advance(timedelta(days=15).total_seconds())
    await ci.send(case("pays"))

    assert (await ci.get("flaky"))["items"] == []
    assert (await ci.suite())["flaky_ratio"] == 0


async def test_runs_that_take_longer_show_as_a_trend_and_one_slow_run_does_not(ci: Ci) -> None:
    await ci.send_all(*(((case("adds"),), {"duration_s": 100}) for _ in range(8)))
    await ci.send(case("adds"), duration_s=500)
    one_slow = (await ci.suite())["trend_ratio"]
    await ci.send_all(*(((case("adds"),), {"duration_s": 150}) for _ in range(3)))

    assert one_slow == 1.0
    assert (await ci.suite())["trend_ratio"] == 1.5


async def test_a_late_report_of_an_old_run_changes_no_number_of_now(ci: Ci) -> None:
    old = ci.report(case("adds", "fail"), started_at=rfc3339(ci.api.clock()))
    await ci.send(case("adds"))
    await ci.api.post("/v1/ci/runs", old, SEND)

    assert (await ci.suite())["pass_ratio"] == 1.0
    assert [run["id"] for run in (await ci.get("runs"))["items"]][-1] == old["id"]


async def test_a_test_is_told_by_run_branch_and_commit(ci: Ci) -> None:
    await ci.send(case("pays"), branch="main", commit="a" * 40)
    told = await ci.send(case("pays", "fail", duration_s=2.5), branch="feature", commit="b" * 40, is_default_branch=False)
    key = told["failures"][0]["tests"][0]["key"]

    every = await ci.get(f"tests/{key}?suite=unit")
    one = await ci.get(f"tests/{key}?suite=unit&commit=bbbb")

    assert [(item["branch"], item["result"]) for item in every["results"]] == [("feature", "fail"), ("main", "pass")]
    assert [(item["duration_s"]) for item in one["results"]] == [2.5]
    assert every["test"]["pass_ratio"] == 0.5


async def test_lists_are_narrowed_and_go_on_by_cursor(ci: Ci) -> None:
    for number in range(5):
        await ci.send(case("adds"), branch="main" if number % 2 else "feature", suite="e2e" if number == 4 else "unit")

    first = await ci.get("runs?limit=2&suite=unit")
    rest = await ci.get(f"runs?limit=9&suite=unit&cursor={first['next_cursor']}")

    assert [run["id"] for run in (*first["items"], *rest["items"])] == ["run-000004", "run-000003", "run-000002", "run-000001"]
    assert {run["branch"] for run in (await ci.get("runs?branch=feature"))["items"]} == {"feature"}
    assert [run["commit"] for run in (await ci.get(f"runs?commit={3:040x}"))["items"]] == [f"{3:040x}"]
    assert (await ci.get("runs?commit=____"))["items"] == [], "a commit is looked for as it is written"
    assert [suite["name"] for suite in (await ci.get("suites"))["items"]] == ["unit", "e2e"]
    assert (await ci.get("failures?category=timeout"))["items"] == []


async def test_what_cannot_be_used_is_refused_with_the_place(ci: Ci) -> None:
    wrong = [
        (ci.report(case("adds", "perhaps")), "tests.0.result"),
        (ci.report(case("adds"), suite=""), "suite"),
        (ci.report(case("adds"), started_at="yesterday"), "started_at"),
        (ci.report(case("adds"), duration_s=-1), "duration_s"),
        (ci.report(case("adds"), origin={"url": "javascript:alert(1)"}), "origin.url"),
    ]
    for body, where in wrong:
        answer = await ci.api.post("/v1/ci/runs", body, SEND)

        assert answer.status_code == 422, answer.text
        assert where in answer.json()["detail"]
    assert (await ci.api.get("/v1/ci/runs/unknown-run")).status_code == 404
    assert (await ci.api.get("/v1/ci/suites/unknown")).status_code == 404
    assert (await ci.api.get("/v1/ci/failures?category=what")).status_code == 422
    assert (await ci.api.post("/v1/ci/runs", ci.report(), READ)).status_code == 403


async def test_a_report_of_thousands_of_tests_is_taken_compressed(ci: Ci) -> None:
    body = ci.report(*(case(f"test_{number}", "fail" if number % 100 == 0 else "pass") for number in range(5_000)))
    headers = bearer(SEND) | {"Content-Encoding": "gzip", "Content-Type": "application/json"}

    answer = await ci.api.client.post("/v1/ci/runs", content=gzip.compress(json.dumps(body).encode()), headers=headers)

    assert answer.status_code == 200, answer.text
    assert answer.json()["run"]["tests"] == 5_000


async def test_metrics_show_every_suite_and_many_as_one(ci: Ci) -> None:
    await ci.send(case("adds"), case("pays", "fail"), resources={"memory_peak_bytes": 3e9})
    for number in range(51):
        one = (case("adds", "fail" if number == 50 else "pass"),)
        await ci.send_all((one, {"suite": f"suite-{number:02}", "duration_s": number}))

    text = (await ci.api.get("/metrics")).text

    assert 'isolation_ci_pass_ratio{test_suite_name="unit"} 0.5' in text
    assert 'isolation_ci_tests_total{isolation_result="fail",test_suite_name="unit"} 1.0' in text
    assert 'isolation_ci_memory_peak_bytes{test_suite_name="unit"} 3e+09' in text
    assert 'isolation_ci_run_duration_seconds{test_suite_name="suite-48"}' in text
    assert "suite-49" not in text
    assert 'isolation_ci_pass_ratio{test_suite_name="other"} 0.0' in text
    assert 'isolation_ci_tests_total{isolation_result="pass",test_suite_name="other"} 1.0' in text


async def test_a_suite_that_was_retired_leaves_the_metrics(ci: Ci) -> None:
    await ci.send(case("adds"))
    ci.api.clock.advance(timedelta(days=15).total_seconds())

    assert 'test_suite_name="unit"' not in (await ci.api.get("/metrics")).text


async def test_replicas_say_the_same(make_api: Callable[..., Any], database_url: str) -> None:
    """The numbers come from the store, so it does not matter which replica took the report."""
    async with make_api(database_url) as one, make_api(database_url) as other:
        await Ci(one).send(case("adds"), case("pays", "fail"))
        texts = [(await api.get("/metrics")).text for api in (one, other)]

    first, second = ([line for line in text.splitlines() if line.startswith("isolation_ci_")] for text in texts)
    assert first == second != []


async def test_old_runs_expire_with_all_that_belongs_to_them(make_api: Callable[..., Any], database_url: str, clock: Any) -> None:
    async with make_api(database_url, keep_days=3) as api:
        ci = Ci(api)
        await ci.send(case("pays", "fail"), suite="old")
        clock.advance(timedelta(days=5).total_seconds())
        await ci.send(case("pays", "fail"))
        await api.app.state.retention.keep_house()

        assert [run["suite"] for run in (await ci.get("runs"))["items"]] == ["unit"]
        assert [suite["name"] for suite in (await ci.get("suites"))["items"]] == ["unit"]
        assert [kind["suite"] for kind in (await ci.get("failures"))["items"]] == ["unit"]


async def test_what_one_suite_forgets_stays_in_another(make_api: Callable[..., Any], database_url: str, clock: Any) -> None:
    """Suites of a matrix have the same tests and the same failures: those that one has not seen for long are the other's of today."""
    async with make_api(database_url, keep_days=3) as api:
        ci = Ci(api)
        missing = {"type": "ModuleNotFoundError", "message": "No module named 'shop'"}
        pays, ships = case("pays", "error", failure=REFUSED), case("ships", "error", failure=missing)
        await ci.send(pays, ships, suite="3.11")
        await ci.send(pays, ships, suite="3.12")
        clock.advance(timedelta(days=5).total_seconds())
        await ci.send(pays, suite="3.11")
        await ci.send(ships, suite="3.12")
        await api.app.state.retention.keep_house()
        told = [await ci.get(f"suites/{name}") for name in ("3.11", "3.12")]

    assert [[kind["category"] for kind in one["failures"]] for one in told] == [["connection_refused"], ["import"]]
    assert [[test["name"] for test in one["slowest"]] for one in told] == [["pays"], ["ships"]]


async def test_suites_of_one_name_in_two_repositories_are_two_suites(ci: Ci) -> None:
    """Both call it `unit`: one's failures are not the other's, and neither is flaky for the other's sake."""
    await ci.send(case("pays"), commit="c" * 40, repository="example/shop")
    other = await ci.send(case("pays", "fail"), commit="c" * 40, repository="example/bank")
    again = await ci.send(case("pays"), repository="example/bank")
    ours = await ci.send(case("pays"), repository="example/shop")
    unknown = await ci.send(case("pays"))

    suites = {one["name"]: (one["repository"], one["runs"], one["flaky"]) for one in (await ci.get("suites"))["items"]}
    assert suites == {"unit": ("example/shop", 3, 0), "unit (example/bank)": ("example/bank", 2, 0)}
    assert [told["run"]["suite"] for told in (other, again, ours, unknown)] == ["unit (example/bank)"] * 2 + ["unit"] * 2


async def test_a_suite_that_nobody_named_a_repository_of_becomes_that_of_the_first_who_does(ci: Ci) -> None:
    await ci.send(case("pays"))
    await ci.send(case("pays"), repository="example/shop")

    assert (await ci.suite())["repository"] == "example/shop"


async def test_a_run_that_is_kept_apart_is_kept_once(ci: Ci) -> None:
    await ci.send(case("pays"), repository="example/shop")
    body = ci.report(case("pays"), repository="example/bank")

    stored = [(await ci.api.post("/v1/ci/runs", body, SEND)).json()["stored"] for _ in range(2)]

    assert stored == [True, False]
    assert [one["runs"] for one in (await ci.get("suites"))["items"]] == [1, 1]
