"""One test of a suite: what it used and left behind, over its runs, and by its key."""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from isolation_monitor.collector.ci import domain, repository, service
from isolation_monitor.collector.ci.packing import packed, result_in, unpacked, uses_in
from isolation_monitor.collector.ci.repository import CiRepository
from isolation_monitor.collector.ci.resources import AMOUNTS, Usage, Use, heaviest, usage_as_json, usage_of, use_of
from tests.collector.conftest import SEND, START
from tests.collector.test_ci import REFUSED, Ci, case

MIB = 2**20


@pytest.fixture
async def ci(make_api: Callable[..., Any], sqlite_url: str) -> AsyncIterator[Ci]:
    async with make_api(sqlite_url) as api:
        yield Ci(api)


def measured(cpu_s: float, memory_mib: float, **leaked: int) -> dict[str, Any]:
    return {"resources": {"cpu_s": cpu_s, "memory_peak_bytes": memory_mib * MIB} | {f"leaked_{name}": n for name, n in leaked.items()}}


async def key_of_test(ci: Ci, name: str) -> str:
    return str(next(one["key"] for one in (await ci.get("suites/unit"))["slowest"] if one["name"] == name))


async def test_what_a_test_used_last_and_at_most_is_told_and_by_run(make_api: Callable[..., Any], database_url: str) -> None:
    async with make_api(database_url) as api:
        ci = Ci(api)
        await ci.send(case("pays", left_behind="thread worker-1", **measured(2.0, 512, threads=1, handles=0)), case("adds"))
        await ci.send(case("pays", **measured(0.5, 128, threads=0)), case("adds"))

        told = await ci.get(f"tests/{await key_of_test(ci, 'pays')}?suite=unit")
        other = await ci.get(f"tests/{await key_of_test(ci, 'adds')}")

    usage = told["test"]["usage"]
    assert usage["resources"] == {"cpu_s": 0.5, "memory_peak_bytes": 128 * MIB}
    assert usage["most"] == {"cpu_s": 2.0, "memory_peak_bytes": 512 * MIB, "leaked_threads": 1}
    assert usage["last_leaked_at"] == told["results"][1]["started_at"]
    assert told["results"][1]["resources"]["leaked_threads"] == 1
    assert told["results"][1]["left_behind"] == "thread worker-1"
    assert other["test"]["usage"] is None
    assert "resources" not in other["results"][0]


async def test_a_run_tells_which_tests_used_most_and_which_leaked(ci: Ci) -> None:
    tests = [case(f"test_{number}", **measured(number / 10, 100 - number)) for number in range(20)]
    leaking = case("leaks", left_behind="sleep 60", **measured(0.01, 1, processes=1))

    told = (await ci.send(*tests, leaking, case("leaks_less", **measured(0.01, 1, handles=3))))["resources"]
    unmeasured = await ci.send(case("adds"))

    assert [one["name"] for one in told["cpu"]] == [f"test_{number}" for number in range(19, 9, -1)]
    assert [one["name"] for one in told["memory"]] == [f"test_{number}" for number in range(10)]
    assert [(one["name"], one["left_behind"]) for one in told["leaking"]] == [("leaks", "sleep 60"), ("leaks_less", "")]
    assert told["leaked"] == 2
    assert unmeasured["resources"] is None


async def test_a_late_report_changes_what_was_most_and_not_what_was_last(ci: Ci) -> None:
    late = ci.report(case("pays", **measured(9.0, 10)))
    await ci.send(case("pays", **measured(1.0, 20)))
    assert (await ci.api.post("/v1/ci/runs", late, SEND)).status_code == 200

    await ci.send(case("pays", "skip", **measured(0.0, 1)))
    usage = (await ci.get(f"tests/{await key_of_test(ci, 'pays')}"))["test"]["usage"]

    assert usage["resources"]["cpu_s"] == 1.0, "a test that was skipped used nothing of its own"
    assert usage["most"] == {"cpu_s": 9.0, "memory_peak_bytes": 20 * MIB}


async def test_a_test_is_told_of_every_suite_that_has_it(ci: Ci) -> None:
    """One entry of a matrix fails where the others pass: that is the first thing to know of the failure."""
    await ci.send(case("pays", "fail"), suite="3.12")
    await ci.send(case("pays"), suite="3.13")
    key = (await ci.get("suites/3.12"))["slowest"][0]["key"]

    newest = await ci.get(f"tests/{key}")
    asked = await ci.get(f"tests/{key}?suite=3.12")

    assert newest["test"]["suite"] == "3.13"
    assert newest["other_suites"] == [{"suite": "3.12", "last_result": "fail", "pass_ratio": 0.0}]
    assert asked["test"]["suite"] == "3.12"
    assert [one["result"] for one in asked["results"]] == ["fail"]


async def test_each_failure_tells_its_reason_and_the_nearest_earlier_of_whatever_test(ci: Ci) -> None:
    await ci.send(case("ships", "error", failure=REFUSED), case("pays"))
    await ci.send(case("pays", "error", failure=REFUSED))
    await ci.send(case("pays", "fail"))
    key = await key_of_test(ci, "pays")

    newest, refused = (await ci.get(f"tests/{key}"))["failures"]

    assert (newest["category"], newest["nearest_earlier"]) == ("assertion", None)
    assert refused["category"] == "connection_refused"
    assert refused["nearest_earlier"]["run_id"] == "run-000001"
    assert refused["nearest_earlier"]["key"] != key
    assert refused["fingerprint"] != newest["fingerprint"]


async def test_runs_of_a_test_go_on_by_cursor_and_begin_where_it_last_ran(make_api: Callable[..., Any], database_url: str) -> None:
    """A test that was taken out of the suite many runs ago still has a history."""
    async with make_api(database_url) as api:
        ci = Ci(api)
        await ci.send_all(*(((case("gone"), case("adds")), {}) for _ in range(3)), *(((case("adds"),), {}) for _ in range(5)))
        key = await key_of_test(ci, "gone")
        first = await ci.get(f"tests/{key}?limit=2")
        rest = await ci.get(f"tests/{key}?limit=2&cursor={first['next_cursor']}")

    assert [one["run_id"] for one in (*first["results"], *rest["results"])] == ["run-000003", "run-000002", "run-000001"]
    assert rest["next_cursor"] is None


async def test_runs_of_a_test_are_unpacked_some_at_a_time(ci: Ci, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred runs of fifty thousand tests each must not stand in memory together."""
    held: list[int] = []
    newest_results = CiRepository.newest_results

    async def counting(*arguments: Any) -> Any:
        found = await newest_results(*arguments)
        held.append(len(found))
        return found

    monkeypatch.setattr(service, "_UNPACKED_AT_ONCE", 2)
    monkeypatch.setattr(CiRepository, "newest_results", counting)
    await ci.send_all(*(((case("adds"),), {}) for _ in range(7)))
    key = await key_of_test(ci, "adds")
    first = await ci.get(f"tests/{key}?limit=5")
    rest = await ci.get(f"tests/{key}?limit=5&cursor={first['next_cursor']}")
    whole = await ci.get(f"tests/{key}?limit=7")

    assert [one["run_id"] for one in first["results"]] == [f"run-{number:06d}" for number in (7, 6, 5, 4, 3)]
    assert [one["run_id"] for one in rest["results"]] == ["run-000002", "run-000001"]
    assert whole["results"] == first["results"] + rest["results"]
    assert (rest["next_cursor"], whole["next_cursor"]) == (None, None)
    assert max(held) == 3


async def test_a_key_that_is_not_there_says_so(ci: Ci) -> None:
    await ci.send(case("pays"))
    key = await key_of_test(ci, "pays")

    unknown = await ci.api.get("/v1/ci/tests/0123456789abcdef")
    elsewhere = await ci.api.get(f"/v1/ci/tests/{key}?suite=e2e")

    assert unknown.status_code == elsewhere.status_code == 404
    assert "there is no test '0123456789abcdef'" in unknown.json()["detail"]
    assert "it is in 'unit'" in elsewhere.json()["detail"]


async def test_a_kind_of_failure_names_the_key_of_its_example(ci: Ci) -> None:
    await ci.send(case("pays", "fail"))

    [kind] = (await ci.get("failures"))["items"]

    assert kind["example_key"] == await key_of_test(ci, "pays")


async def test_evidence_that_is_old_makes_a_test_flaky_no_more(ci: Ci) -> None:
    await ci.send(case("pays", passes=1, failures=1, failure={"type": "AssertionError", "message": "assert paid"}))
    key = await key_of_test(ci, "pays")
    now = (await ci.get(f"tests/{key}"))["is_flaky"]
    ci.api.clock.advance(timedelta(days=15).total_seconds())

    later = await ci.get(f"tests/{key}")

    assert (now, later["is_flaky"]) == (True, False)
    assert later["test"]["flaky"][0]["kind"] == "same_run", "what it was is still told"


async def test_resources_that_cannot_be_are_refused_and_unknown_ones_are_left_out(ci: Ci) -> None:
    refused = await ci.api.post("/v1/ci/runs", ci.report(case("pays", resources={"cpu_s": -1})), SEND)
    told = await ci.send(case("pays", resources={"cpu_s": 1.0, "disk_bytes": 7.0}))

    assert refused.status_code == 422
    assert "tests.0.resources.cpu_s" in refused.json()["detail"]
    assert told["resources"]["cpu"][0]["resources"] == {"cpu_s": 1.0}


# --- values ---------------------------------------------------------------------------------------------------------


def result(name: str, used: Use | None = None, duration_s: float | None = 0.5) -> domain.TestResult:
    return domain.TestResult("g", name, "", "pass", duration_s, 1, 0, None, used)


AMOUNT = st.floats(min_value=0.001, max_value=1e15).map(lambda value: float(format(value, ".4g")))
USES = st.builds(Use, st.dictionaries(st.sampled_from(AMOUNTS), AMOUNT, min_size=1), st.text(max_size=40))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.none() | USES, max_size=8))
def test_what_is_packed_is_what_is_unpacked(uses: list[Use | None]) -> None:
    tests = [result(f"t{number}", used) for number, used in enumerate(uses)]

    content = packed(tests)

    assert unpacked(content) == {one.key: ("P", 0.5) for one in tests}
    assert uses_in(content) == {one.key: one.used for one in tests if one.used is not None}
    for one in tests:
        found = result_in(content, one.key)
        assert found is not None
        assert found.used == one.used
    assert result_in(content, result("other").key) is None


def test_results_without_resources_are_what_they_were_before_there_were_any() -> None:
    """Rows that an earlier version stored are read; one that is read by an earlier version holds nothing that it stumbles over."""
    one = result("t")
    before = zlib.compress(f"{one.key}P0.5".encode(), 6)

    assert packed([one]) == before
    assert uses_in(before) == {}
    assert zlib.decompress(packed([result("t", Use({"cpu_s": 1.0}))])) == zlib.decompress(before)


def test_growth_stands_for_the_peak_and_zero_leaks_for_nothing() -> None:
    used = use_of({"memory_growth_bytes": 5.0, "leaked_handles": 0.0, "cpu_s": 0.0})

    assert used == Use({"cpu_s": 0.0, "memory_growth_bytes": 5.0})
    assert used.memory_bytes == 5.0
    assert not used.has_leaked
    assert use_of({}) is use_of({"leaked_handles": 0.0}) is None


def test_of_many_tests_that_leak_the_worst_are_listed_and_all_are_counted() -> None:
    used = {f"{number:03}": Use({"leaked_handles": 1.0 + number}) for number in range(80)} | {"p": Use({"leaked_processes": 1.0})}

    found = heaviest(used)

    assert (len(found.leaking), found.leaked) == (50, 81)
    assert [key for key, _ in found.leaking[:2]] == ["p", "079"]
    assert found.memory == found.cpu == []


def test_usage_is_stored_and_read() -> None:
    usage = Usage().after(Use({"cpu_s": 2.0, "leaked_threads": 1.0}, "thread a"), START)

    assert usage_of(usage_as_json(usage)) == usage
    assert usage_of(None) is None


def test_one_line_is_found_wherever_the_parts_end_that_are_unpacked() -> None:
    """Lines of 0 to 70,000 bytes: the second part, of what tests used, is unpacked piece by piece."""
    used = [None if n % 7 == 0 else Use({"cpu_s": float(n)}, "x" * (70_000 if n == 40 else 900 * (n % 3))) for n in range(200)]
    tests = [domain.TestResult("shop", f"test_{n}", "", "pass", 1.0, 1, 0, None, one) for n, one in enumerate(used)]
    content = packed(tests)

    found = [result_in(content, test.key) for test in tests]

    assert [one.used if one is not None else None for one in found] == used


@pytest.mark.parametrize("suite", ["unit", None])
async def test_runs_of_a_commit_are_found_by_an_index_by_how_it_begins(
    suite: str | None, make_api: Callable[..., Any], database_url: str
) -> None:
    """Else a page reads every run, with the results of all tests, to show one."""
    async with make_api(database_url) as api:
        ci = Ci(api)
        for n in range(3):
            await ci.send(case("a"), commit=f"{n}abc" + "0" * 36)
        asked = "" if suite is None else f"&suite={suite}"

        found = [(await ci.get(f"runs?commit={beginning}{asked}"))["items"] for beginning in ("1abc", "1abc" + "0" * 36, "abcd")]
        statement = repository.newest_ids(suite, None, "1abc", None, 10)
        async with api.app.state.runtime.database.reading() as connection:
            if connection.dialect.name == "postgresql":
                # Three rows are read faster than any index.
                await connection.execute(text("SET LOCAL enable_seqscan = off"))
            explain = "EXPLAIN QUERY PLAN " if connection.dialect.name == "sqlite" else "EXPLAIN "
            asked_sql = str(statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True}))
            plan = "\n".join(str(row[-1]) for row in await connection.execute(text(explain + asked_sql.replace(":", "\\:"))))

    assert [len(runs) for runs in found] == [1, 1, 0]
    # PostgreSQL knows how few rows there are and takes the one index of a suite for as good as the other.
    assert "_commit" in plan or (suite is not None and "Index Scan" in plan)
    assert not re.search(r"SCAN ci_runs|Seq Scan", plan)
