"""The pages of CI: every suite, one suite, one run, for somebody who is signed in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.collector.conftest import READ, Api
from tests.collector.test_ci import REFUSED, Ci, case


@pytest.fixture
async def api(make_api: Callable[..., Any], sqlite_url: str) -> AsyncIterator[Api]:
    """A collector with somebody signed in."""
    async with make_api(sqlite_url) as running:
        form = {"content-type": "application/x-www-form-urlencoded", "accept": "text/html"}
        assert (await running.client.post("/sign-in", content=f"token={READ}", headers=form)).status_code == 303
        yield running


async def shown(api: Api, path: str, status: int = 200) -> str:
    answer = await api.client.get(path, headers={"accept": "text/html"})
    assert answer.status_code == status, answer.text
    return str(answer.text)


async def test_the_first_page_says_how_to_report_a_run(api: Api) -> None:
    page = await shown(api, "/ci")

    assert "No run was reported yet" in page
    assert "isomon ci report" in page


async def test_suites_failures_flaky_tests_and_runs_stand_on_one_page(api: Api) -> None:
    ci = Ci(api)
    await ci.send(case("pays", "error", failure=REFUSED), case("adds"), commit="c" * 40)
    await ci.send(case("pays"), case("adds"), commit="c" * 40)

    page = await shown(api, "/ci")

    assert 'href="/ci/suites/unit"' in page
    assert "connection refused" in page
    assert "Nothing listens at 127.0.0.1:8080" in page
    assert "both of commit cccccccccccc" in page
    assert 'href="/ci/runs/run-000001"' in page


async def test_of_many_suites_the_worst_are_drawn_and_all_are_listed(api: Api) -> None:
    """The page stays small however many suites there are."""
    await Ci(api).send_all(*(((case("adds", "fail" if number == 55 else "pass"),), {"suite": f"s{number:02}"}) for number in range(60)))

    page = await shown(api, "/ci")

    assert page.count('<svg class="runs-chart"') == 50
    assert all(f'href="/ci/suites/s{number:02}"' in page for number in range(60))
    assert page.index('href="/ci/suites/s55"') < page.index('href="/ci/suites/s00"')
    assert '<rect class="fill bad"' in page


async def test_a_run_shows_why_it_failed_and_when_that_was_seen_before(api: Api) -> None:
    ci = Ci(api)
    await ci.send(case("pays", "error", failure=REFUSED))
    await ci.send(case("ships", "error", failure=REFUSED), case("adds", "fail"), origin={"url": "https://ci.example.com/7"})

    page = await shown(api, "/ci/runs/run-000002")

    assert "seen before" in page
    assert 'href="/ci/runs/run-000001"' in page
    assert "Never seen before this run" in page
    assert 'href="https://ci.example.com/7"' in page


async def test_a_suite_shows_its_days_and_slowest_tests(api: Api) -> None:
    ci = Ci(api)
    await ci.send(case("slow", duration_s=12.5), case("adds"), suite="unit 3.12 / linux")

    page = await shown(api, "/ci/suites/unit%203.12%20%2F%20linux")

    assert "12.5 s" in page
    assert "1 runs, 1 of them green" in page


async def test_what_tests_say_is_shown_as_text(api: Api) -> None:
    """A test's name and message come from a build, and builds are of whoever opens a pull request."""
    nasty = {"type": "<b>", "message": "<script>alert(1)</script>", "detail": "</pre><img src=x onerror=alert(1)>"}
    await Ci(api).send(case("<i>name</i>", "fail", failure=nasty), branch="<u>", commit="<s>\"'&")

    for path in ("/ci", "/ci/suites/unit", "/ci/runs/run-000001"):
        page = await shown(api, path)

        assert "<script>alert" not in page
        assert "<img" not in page
        assert "<i>name" not in page
        assert "<s>" not in page


async def test_pages_that_are_not_there_say_so(api: Api) -> None:
    await shown(api, "/ci/suites/none", 404)
    await shown(api, "/ci/runs/none", 404)
    await shown(api, "/ci?commit=ab", 422)


async def test_a_test_has_a_page_of_its_own_that_every_list_leads_to(api: Api) -> None:
    """From a red run, a flaky list or a kind of failure to the test: what it did, why, and what it uses."""
    ci = Ci(api)
    use = {"resources": {"cpu_s": 1.5, "memory_peak_bytes": 2**28, "leaked_threads": 2}, "left_behind": "thread worker-7"}
    await ci.send(case("pays", "error", failure=REFUSED), case("adds"), commit="c" * 40)
    await ci.send(case("pays", **use), case("adds", "skip"), commit="c" * 40)
    key = (await ci.get("flaky"))["items"][0]["key"]
    address = f"/ci/tests/{key}?suite=unit"

    page = await shown(api, address)

    for text in ("connection refused", "Nothing listens at 127.0.0.1:8080", "Never seen before that run", "both of commit cccccccccccc"):
        assert text in page
    assert page.count('<rect class="fill bad"') == 2, "the run that failed, and the one that leaked"
    assert "256 MiB" in page
    assert "thread worker-7" in page
    assert "2 threads" in page
    assert all(f'href="/ci/runs/run-00000{number}"' in page for number in (1, 2))
    for path in ("/ci", "/ci/suites/unit", "/ci/runs/run-000001", "/ci/runs/run-000002"):
        assert f'href="{address}"' in await shown(api, path)
    assert "run-000001" not in (await shown(api, f"{address}&commit={'d' * 8}")).split('<h2 id="runs-title"')[1]


async def test_a_run_shows_what_its_tests_used_and_left_behind(api: Api) -> None:
    use = {"resources": {"cpu_s": 1.5, "memory_peak_bytes": 2**28, "leaked_processes": 1}, "left_behind": "<img src=x> sleep 60"}
    await Ci(api).send(case("pays", **use), case("adds"))

    page = await shown(api, "/ci/runs/run-000001")

    assert "Left behind by tests" in page
    assert "1 process<" in page
    assert "&lt;img src=x&gt; sleep 60" in page
    assert "Most memory" in page
    assert "Most CPU" in page


async def test_the_page_of_a_test_is_for_who_is_signed_in_and_tells_who_is_not_there(api: Api, make_api: Callable[..., Any]) -> None:
    nasty = {"type": "<b>", "message": "<script>alert(1)</script>", "detail": "</pre><img src=x>"}
    ci = Ci(api)
    await ci.send(case("<i>name</i>", "fail", failure=nasty), suite="a & b / <c>?")
    key = (await ci.get("failures"))["items"][0]["example_key"]

    page = await shown(api, f"/ci/tests/{key}")

    assert "<script>alert" not in page
    assert "<i>name" not in page
    assert 'href="/ci/suites/a%20%26%20b%20/%20%3Cc%3E%3F"' in page
    assert "there is no test" in await shown(api, "/ci/tests/0123456789abcdef", 404)
    assert "a &amp; b" in await shown(api, f"/ci/tests/{key}?suite=other", 404)
    api.client.cookies.clear()
    answer = await api.client.get(f"/ci/tests/{key}", headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/sign-in?next=%2Fci%2Ftests%2F{key}")
