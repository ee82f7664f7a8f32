"""What is asked of a forge's API and what is made of its answers: pages, limits, redirects, jobs, branches."""

from __future__ import annotations

import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from isolation_monitor.cli.ci_import import client as client_side
from isolation_monitor.cli.ci_import import github as hub_side
from isolation_monitor.cli.ci_import import gitlab as lab_side
from isolation_monitor.cli.ci_import.client import ForgeClient, NotThere, TooLarge
from isolation_monitor.cli.ci_import.command import since_of
from isolation_monitor.cli.ci_import.importing import FoundReport, LeftOut, Trouble, Wanted, moment_of
from isolation_monitor.cli.collector_client import NoAnswer, UsageError
from isolation_monitor.telemetry.certificates import tls_context
from tests.cli.forge_servers import BEGAN, Answer, FakeGitHub, FakeGitLab, Server, at, github, gitlab, junit, said, serving, suite, zipped
from tests.real_parts.certificates import Authority

TOKEN = "token-of-the-forge"
ALL = Wanted(limit=10_000)
NO_AUTHORITY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For servers without TLS: to load the authorities that the system trusts takes a while, and is done once where it matters."""


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forges are reached through proxies of the environment, the servers here are not."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def client(
    server: Server, api: str = "", *, told: list[str] | None = None, max_wait_s: float = 5.0, tls: ssl.SSLContext | None = NO_AUTHORITY
) -> ForgeClient:
    say = told.append if told is not None else lambda _text: None
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return ForgeClient(f"{server.url}{api}", headers, "the forge", say, tls=tls, max_wait_s=max_wait_s, pauses_s=(0.0, 0.0))


def asking(hub: FakeGitHub, artifact: str = "*") -> hub_side.GitHub:
    return hub_side.GitHub(client(hub.api, "/api/v3"), "example/shop", artifact)


@pytest.fixture
def hub() -> Iterator[FakeGitHub]:
    with github() as one:
        yield one


@pytest.fixture
def lab() -> Iterator[FakeGitLab]:
    with gitlab() as one:
        yield one


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(lambda _path, _query: said({"is": "fine"})) as one:
        yield one


def test_all_pages_are_read_and_no_more_than_are_wanted(hub: FakeGitHub) -> None:
    for number in range(1, 251):
        hub.add_run(number)

    assert [one.place.run_id for one in asking(hub).runs(ALL)] == [str(number) for number in range(250, 0, -1)]
    hub.api.seen.clear()
    assert len(asking(hub).runs(Wanted(limit=100))) == 100
    assert len(hub.api.seen) == 2, "the repository, and one page"


def test_more_runs_than_github_finds_in_one_search_are_all_found(hub: FakeGitHub) -> None:
    """Of a search GitHub lists 1,000 runs and says nothing of the others."""
    for number in range(1, 1_251):
        hub.add_run(number)

    assert len(asking(hub).runs(ALL)) == 1_250
    assert len(asking(hub).runs(Wanted(branch="main", workflow="tests.yml", since=BEGAN + timedelta(minutes=51), limit=10_000))) == 1_200


def test_only_what_finished_and_ran_is_imported(hub: FakeGitHub) -> None:
    hub.add_run(1)
    hub.add_run(2, status="in_progress", conclusion=None)
    hub.add_run(3, conclusion="skipped")
    hub.add_run(4, conclusion="cancelled", head_branch="fix")

    assert [one.place.run_id for one in asking(hub).runs(ALL)] == ["4", "1"]
    assert [one.place.run_id for one in asking(hub).runs(Wanted(branch="main"))] == ["1"]


def test_a_pull_request_never_speaks_for_the_default_branch(hub: FakeGitHub) -> None:
    """A fork's branch may be called `main`, and GitHub names no pull request of a fork."""
    hub.add_run(1, event="pull_request", head_branch="fix", pull_requests=[{"number": 5}])
    fork = {"full_name": "ann/shop", "owner": {"login": "ann"}}
    hub.add_run(2, event="pull_request", head_repository=fork)
    hub.add_run(3, pull_requests=[{"number": 6}])
    hub.add_run(4, event="pull_request", head_repository=None)
    hub.add_run(5, event="pull_request_target")
    hub.add_run(6, event="pull_request", head_branch="fix")

    same, closed, deleted, pushed, forked, pulled = (one.place for one in asking(hub).runs(ALL))

    assert (deleted.branch, deleted.is_default_branch) == ("fork:main", False)
    assert (closed.branch, closed.is_default_branch) == ("example:main", False)
    assert (same.branch, same.is_default_branch) == ("fix", False)
    assert (pulled.branch, pulled.pull_request, pulled.is_default_branch) == ("fix", "5", False)
    assert (forked.branch, forked.is_default_branch) == ("ann:main", False)
    assert (pushed.branch, pushed.pull_request, pushed.is_default_branch) == ("main", "", True)


@pytest.mark.parametrize(
    ("jobs", "artifact", "place"),
    [
        ([("test", 1, 50, 1)], "junit", ("test", 1)),
        ([("test (3.11)", 1, 50, 1), ("test (3.12)", 1, 50, 1)], "junit-3.12", ("test", 1)),
        ([("shared / unit (a, b)", 1, 50, 1), ("build", 1, 20, 1)], "junit", ("unit", 1)),
        ([("unit", 1, 50, 1), ("unit-slow", 1, 50, 1)], "results-unit-slow", ("unit-slow", 1)),
        ([("unit", 1, 50, 1), ("e2e", 1, 50, 1)], "results", ("results", 1)),
        ([("unit", 1, 50, 1), ("unit", 1, 50, 2)], "junit", ("unit", 1)),
        ([("unit", -900, -800, 1), ("unit", 1, 50, 2)], "junit", ("unit", 2)),
        ([], "junit", ("junit", 2)),
    ],
)
def test_an_artifact_belongs_to_the_job_that_ran_when_it_was_made(
    jobs: list[tuple[str, int, int, int]], artifact: str, place: tuple[str, int], hub: FakeGitHub
) -> None:
    hub.add_run(7, run_attempt=2)
    hub.jobs[7] = [
        hub.job(name, 7, started_at=at(7, began), completed_at=at(7, ended), run_attempt=attempt) for name, began, ended, attempt in jobs
    ]
    hub.add_artifact(7, artifact, zipped({"junit.xml": junit("test_adds")}))
    forge = asking(hub)

    [found] = forge.reports(forge.runs(ALL)[0])

    assert isinstance(found, FoundReport)
    assert (found.place.job, found.place.attempt) == place


def test_only_artifacts_that_are_asked_for_are_fetched(hub: FakeGitHub) -> None:
    """Others may hold gigabytes."""
    hub.add_run(1)
    hub.add_artifact(1, "image", b"", size_in_bytes=10**10)
    hub.add_artifact(1, "junit-a", zipped({"junit.xml": junit("test_adds")}))
    hub.add_artifact(1, "junit-b", junit("test_adds").encode())
    forge = asking(hub, "junit-*")

    found = list(forge.reports(forge.runs(ALL)[0]))
    [large] = asking(hub, "ima*").reports(forge.runs(ALL)[0])
    others = list(asking(hub).reports(forge.runs(ALL)[0]))

    assert [isinstance(one, FoundReport) for one in found] == [True, True], "also a file without a zip file around it"
    assert len(hub.storage.seen) == 2 + 2
    assert isinstance(large, Trouble)
    assert "10000000000 bytes" in large.text
    assert [type(one) for one in others] == [LeftOut, FoundReport, FoundReport], "nobody asked for the large one"


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "0"},
        {"Retry-After": format_datetime(datetime(2020, 1, 1, tzinfo=UTC), usegmt=True)},
        {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1000"},
        {"RateLimit-Remaining": "0", "RateLimit-Reset": "1000"},
    ],
)
@pytest.mark.parametrize("status", [403, 429])
def test_a_short_limit_is_waited_for(status: int, headers: dict[str, str], server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    if "RateLimit-Reset" in headers and status == 403:
        headers = headers | {"Retry-After": "1"}
    server.in_the_way["/x"] = [Answer(status, b'{"message": "slow down"}', headers)] * 2
    told: list[str] = []

    with client(server, told=told) as asked:
        assert asked.get("/x") == {"is": "fine"}
    assert len(waited) == len(told) == 2
    assert max(waited) <= 1
    assert "rate limit" in told[0]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(429, b"{}"),
        Answer(429, b"{}", {"Retry-After": "3600"}),
        Answer(403, b'{"message": "You have exceeded a secondary rate limit"}'),
        Answer(403, b"{}", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "4102444800"}),
    ],
)
def test_a_long_limit_says_until_when(answer: Answer, server: Server) -> None:
    server.in_the_way["/x"] = [answer]

    with client(server) as asked, pytest.raises(NoAnswer, match=r"no more requests until \d{4}-\d\d-\d\d .*--max-wait"):
        asked.get("/x")


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (Answer(401, b'{"message": "Bad credentials"}'), UsageError, "refuses the token: 401 (Bad credentials)"),
        (Answer(403, b'{"message": "Resource not accessible", "x": 1}', {"X-RateLimit-Remaining": "59"}), UsageError, "not accessible"),
        (Answer(404, b'{"message": "404 Project Not Found"}'), NotThere, "or this token may not see it"),
        (Answer(400, b'{"error": {"scope": ["is wrong"]}}'), UsageError, "is wrong"),
        (Answer(200, b"<html>log in</html>"), NoAnswer, "no JSON"),
        (Answer(200, b"[" * 100_000), NoAnswer, "no JSON"),
    ],
)
def test_a_refusal_says_why_and_where(answer: Answer, kind: type[Exception], says: str, server: Server) -> None:
    server.in_the_way["/x"] = [answer]

    with client(server) as asked, pytest.raises(kind) as refused:
        asked.get("/x", {"secret": "in-the-query"})

    assert says in str(refused.value)
    assert TOKEN not in str(refused.value) + repr(asked)
    assert "in-the-query" not in str(refused.value)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(302, headers={"Location": "https://[127.0.0.1/x"}),
        Answer(429, b"{}", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "999999999999"}),
        Answer(429, b"{}", {"Retry-After": "999999999"}),
        Answer(429, b"{}", {"Retry-After": "Fri, 31 Dec 9999 23:59:59 -1200"}),
    ],
)
def test_an_answer_that_makes_no_sense_is_told_in_a_line(answer: Answer, server: Server) -> None:
    server.in_the_way["/x"] = [answer] * 3

    with client(server) as asked, pytest.raises(NoAnswer):
        list(asked.pages("/x", {}))


def test_trouble_that_passes_is_borne_and_trouble_that_stays_is_told(server: Server) -> None:
    server.in_the_way["/x"] = [Answer(502, b"<html>"), Answer(503)]
    server.in_the_way["/y"] = [Answer(500, b'{"message": "oh"}')] * 3

    with client(server) as asked:
        assert asked.get("/x") == {"is": "fine"}
        with pytest.raises(NoAnswer, match=r"answers 500 \(oh\)"):
            asked.get("/y")


def test_a_redirect_elsewhere_is_followed_without_the_token_and_within_the_api_with_it(server: Server) -> None:
    """A repository that was renamed redirects within the API."""
    with serving(lambda _path, _query: said({"is": "elsewhere"})) as other:
        server.in_the_way["/api/old"] = [Answer(301, headers={"Location": "/api/new"})]
        server.in_the_way["/api/out"] = [Answer(302, headers={"Location": f"{other.url}/api/x"})]
        server.in_the_way["/api/aside"] = [Answer(302, headers={"Location": "/apis/x"})]
        with client(server, "/api") as asked:
            assert asked.get("/old") == {"is": "fine"}
            assert asked.get("/out") == {"is": "elsewhere"}
            asked.get("/aside")

    assert {path: headers.get("authorization") for path, headers in (*server.seen, *other.seen)} == {
        "/api/old": f"Bearer {TOKEN}", "/api/new": f"Bearer {TOKEN}", "/api/out": f"Bearer {TOKEN}", "/api/aside": f"Bearer {TOKEN}",
        "/apis/x": None, "/api/x": None,
    }  # fmt: skip


def test_certificates_are_verified_and_no_redirect_leaves_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.certificate("forge"))
    with serving(lambda _path, _query: said({"is": "fine"}), context) as server:
        server.in_the_way["/away"] = [Answer(302, headers={"Location": "http://127.0.0.1:9/x"})]
        with client(server, tls=None) as asked, pytest.raises(NoAnswer, match="certificate is not trusted"):
            asked.get("/x")
        assert server.seen == []
        with client(server, tls=tls_context(str(authority.file), None)) as asked:
            assert asked.get("/x") == {"is": "fine"}
            with pytest.raises(UsageError, match="from https to http: not followed"):
                asked.get("/away")


def test_a_circle_of_redirects_ends(server: Server) -> None:
    server.in_the_way["/x"] = [Answer(302, headers={"Location": "/x"})] * 20

    with client(server) as asked, pytest.raises(NoAnswer, match="redirects more than"):
        asked.get("/x")


@pytest.mark.parametrize(
    "following",
    [
        lambda page: page,  # to itself
        lambda page: 1 if page == 3 else page + 1,  # to the first one
        lambda page: 2 if page == 3 else page + 1,
    ],
)
def test_a_list_that_leads_in_a_circle_ends_with_a_word(following: Callable[[int], int], server: Server) -> None:
    """Behind a proxy that loses or repeats a part of the query each page names one that was read before."""

    def answer(_path: str, query: dict[str, str]) -> Answer:
        number = int(query.get("page", "1"))
        # As forges do: the same query in another order, and under another address.
        link = f'<http://elsewhere.example/x?page={following(number)}&per_page=100&scope=finished>; rel="next"'
        return said([{"id": number}], Link=link)

    server.answer = answer
    found = []

    with client(server) as asked, pytest.raises(NoAnswer, match=r"leads in a circle: page [13] of /runs"):
        found.extend(one["id"] for one in asked.pages("/runs", {"scope": "finished"}))

    assert found in ([1], [1, 2, 3])


def test_a_list_without_an_end_ends(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_side, "PAGES", 5)
    server.answer = lambda _path, query: said(
        [{"id": 1}], Link=f'<http://127.0.0.1/x?page={int(query.get("page", "1")) + 1}&per_page=100>; rel="next"'
    )

    with client(server) as asked, pytest.raises(NoAnswer, match="after 5 of them: ask for less with --since"):
        list(asked.pages("/runs", {}))


def test_a_download_is_cut_off_at_its_limit(server: Server) -> None:
    """Whatever a list of artifacts said of its size."""
    with client(server) as asked, tempfile.TemporaryFile() as target:
        server.in_the_way["/x"] = [Answer(200, b"x" * 100_001)]
        with pytest.raises(TooLarge):
            asked.download("/x", target, 100_000)
        server.in_the_way["/x"] = [Answer(200, b"x" * 100_000)]
        asked.download("/x", target, 100_000)

        assert target.tell() == 100_000


def test_pages_of_gitlab_are_asked_for_at_its_own_address(lab: FakeGitLab) -> None:
    """Its links name a host behind the proxy, which the token must not go to and which cannot be reached."""
    for number in range(1, 151):
        lab.add_pipeline(number)
    lab.add_pipeline(151, status="skipped")
    forge = lab_side.GitLab(client(lab.api, "/gitlab/api/v4"), "group/shop")

    assert [one.place.run_id for one in forge.runs(ALL)] == [str(number) for number in range(150, 0, -1)]
    assert len(forge.runs(Wanted(since=BEGAN + timedelta(minutes=101), limit=10_000))) == 50
    assert lab.api.paths()[1].startswith("/gitlab/api/v4/projects/group%2Fshop/pipelines?scope=finished&")


def test_each_job_of_a_pipeline_is_a_report_of_its_own(lab: FakeGitLab) -> None:
    lab.add_pipeline(3)
    lab.jobs[3] = [lab.job("unit", 3), *(lab.job(f"e2e {one}/2", 3, one) for one in (1, 2)), lab.job("test: [3.12]", 3, 9)]
    lab.reports[3] = [suite("unit"), suite("e2e"), suite("test: [3.12]"), suite("of a child pipeline"), suite("empty", test_cases=[])]
    forge = lab_side.GitLab(client(lab.api, "/gitlab/api/v4"), "group/shop")

    found = [one for one in forge.reports(forge.runs(ALL)[0]) if isinstance(one, FoundReport)]

    assert [(one.place.job, one.place.run_id) for one in found] == [
        ("unit", "300"), ("e2e", "3"), ("test: [3.12]", "309"), ("of a child pipeline", "3"),
    ]  # fmt: skip
    assert found[0].place.url.endswith("/jobs/300")
    assert found[1].place.url.endswith("/pipelines/3")


def test_a_report_of_gitlab_has_the_same_digest_while_its_history_changes(lab: FakeGitLab) -> None:
    """GitLab tells beside each failure how often it was seen lately: another number the next day, and the same run."""
    lab.add_pipeline(3)
    forge = lab_side.GitLab(client(lab.api, "/gitlab/api/v4"), "group/shop")
    digests = []
    for count in (3, 4):
        lab.reports[3][0]["test_cases"][1]["recent_failures"] = {"count": count, "base_branch": "main"}
        [found] = forge.reports(forge.runs(ALL)[0])
        assert isinstance(found, FoundReport)
        digests.append(found.report.digest)

    assert digests[0] == digests[1]


def test_odd_cases_of_gitlab_are_read(lab: FakeGitLab) -> None:
    """What a runner wrote as attributes comes as an object; a status that is not known must not pass."""
    lab.add_pipeline(3)
    lab.reports[3][0]["test_cases"] = [
        {"status": "failed", "name": "a", "classname": "c", "execution_time": None, "system_output": {"message": "boom", "type": "E"}},
        {
            "status": "error",
            "name": "b \x00\x1b[1m \ud800",
            "classname": None,
            "file": "t.py",
            "system_output": ["one", None],
            "stack_trace": "two",
        },
        {"status": "surprising", "name": "d", "classname": "c", "execution_time": -1},
    ]
    forge = lab_side.GitLab(client(lab.api, "/gitlab/api/v4"), "group/shop")

    [found] = forge.reports(forge.runs(ALL)[0])

    assert isinstance(found, FoundReport)
    first, second, third = found.report.tests
    assert (first.result, first.failure and first.failure.detail) == ("fail", "E\nboom")
    assert (second.result, second.group, second.failure and second.failure.detail) == ("error", "t.py", "one\ntwo")
    assert (third.result, third.duration_s) == ("error", None)


def test_moments_and_durations_beyond_all_calendars_are_none(lab: FakeGitLab) -> None:
    lab.add_pipeline(8)
    case = {"status": "success", "name": "a", "classname": "b", "execution_time": 10**400}
    lab.reports[8] = [suite("unit", test_cases=[case])]
    forge = lab_side.GitLab(client(lab.api, "/gitlab/api/v4"), "group/shop")

    [found] = forge.reports(forge.runs(ALL)[0])

    assert isinstance(found, FoundReport)
    assert found.report.tests[0].duration_s is None
    assert moment_of("0001-01-01T00:00:00+23:00") is None


def test_a_job_token_goes_by_its_own_header() -> None:
    assert lab_side.headers_of("t", is_job_token=True) == {"JOB-TOKEN": "t"}
    assert lab_side.headers_of("t", is_job_token=False) == {"PRIVATE-TOKEN": "t"}
    assert lab_side.headers_of("", is_job_token=True) == {}


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("https://github.com", "https://api.github.com"),
        ("https://api.github.com/", "https://api.github.com"),
        ("https://shop.ghe.com", "https://api.shop.ghe.com"),
        ("https://git.example.com/", "https://git.example.com/api/v3"),
        ("https://git.example.com/api/v3", "https://git.example.com/api/v3"),
    ],
)
def test_the_api_of_a_github_follows_from_its_address(url: str, api: str) -> None:
    assert hub_side.api_of(url) == api


def test_since_is_a_duration_or_a_date() -> None:
    now = datetime(2026, 11, 8, 12, tzinfo=UTC)

    assert since_of(None, now) is None
    assert since_of("7d", now) == datetime(2026, 11, 1, 12, tzinfo=UTC)
    assert since_of("2w", now) == datetime(2026, 10, 25, 12, tzinfo=UTC)
    assert since_of("90m", now) == datetime(2026, 11, 8, 10, 30, tzinfo=UTC)
    assert since_of("2026-11-01", now) == datetime(2026, 11, 1, tzinfo=UTC)
    assert since_of("2026-11-01T02:00:00+02:00", now) == datetime(2026, 11, 1, tzinfo=UTC)
    for wrong in ("soon", "7 days", ""):
        with pytest.raises(UsageError, match="--since"):
            since_of(wrong, now)
