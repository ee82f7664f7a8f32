"""`isomon ci import` as a schedule runs it: a command of its own, a real collector, and forges that answer as documented."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from isolation_monitor.cli import token as token_command
from isolation_monitor.cli.ci import app
from tests.cli.forge_servers import Answer, FakeGitHub, FakeGitLab, at, github, gitlab, junit, suite, zipped
from tests.real_parts.collector import Collector, collector

Json = dict[str, Any]  # Any: JSON
TOKEN = "token-that-sends"
FORGE_TOKEN = "ghp_notForTheStorage"


UNSET = (
    "GITHUB_TOKEN", "GITHUB_REPOSITORY", "GITHUB_SERVER_URL", "GITHUB_ACTIONS", "GITLAB_TOKEN", "GITLAB_CI", "CI_JOB_TOKEN",
    "CI_PROJECT_PATH", "CI_SERVER_URL", "ISOMON_TOKEN", "ISOMON_TOKEN_FILE", "ISOMON_COLLECTOR",
)  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    folder = tmp_path_factory.mktemp("collector")
    keys = ["new", "--scope", "ingest", "--scope", "read", "--file", str(folder / "keys.json"), "--token-file", str(folder / "both.token")]
    assert CliRunner().invoke(token_command.app, keys).exit_code == 0
    settings = {"COLLECTOR_SEND_TOKEN": TOKEN, "COLLECTOR_KEYS_FILE": str(folder / "keys.json")}
    with collector(folder / "run", settings=settings) as one:
        yield one


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, running: Collector) -> str:
    """Return a token that may send and read."""
    return next(tmp_path_factory.getbasetemp().glob("collector*/both.token")).read_text().strip()


@pytest.fixture
def hub() -> Iterator[FakeGitHub]:
    with github() as one:
        yield one


@pytest.fixture
def lab() -> Iterator[FakeGitLab]:
    with gitlab() as one:
        yield one


def isomon(*arguments: str, **environment: str) -> Result:
    """Run `isomon ci` with nothing of a CI or a collector in its environment but what is given."""
    return CliRunner().invoke(app, list(arguments), env=dict.fromkeys(UNSET) | {"NO_PROXY": "127.0.0.1"} | environment)


def import_github(hub: FakeGitHub, to: Collector | None, *options: str, token: str = TOKEN) -> tuple[Result, Json]:
    """Import `example/shop`; return what the command did, and its JSON."""
    given = {"GITHUB_TOKEN": FORGE_TOKEN, "ISOMON_TOKEN": token} | ({"ISOMON_COLLECTOR": to.url} if to is not None else {})
    done = isomon("import", "github", "example/shop", "--url", hub.api.url, "--json", *options, **given)
    return done, json.loads(done.stdout) if done.stdout else {}


def import_gitlab(lab: FakeGitLab, to: Collector, *options: str, token: str = TOKEN) -> tuple[Result, Json]:
    """Import `group/shop`; return what the command did, and its JSON."""
    given = {"GITLAB_TOKEN": FORGE_TOKEN, "ISOMON_TOKEN": token, "ISOMON_COLLECTOR": to.url}
    done = isomon("import", "gitlab", "group/shop", "--url", f"{lab.api.url}/gitlab", "--json", *options, **given)
    return done, json.loads(done.stdout) if done.stdout else {}


def results(told: Json) -> list[str]:
    return [one["result"] for run in told["runs"] for one in run["reports"]]


def listed(running: Collector, *options: str) -> list[Json]:
    done = isomon("runs", "--json", *options, ISOMON_COLLECTOR=running.url, ISOMON_TOKEN=running.read_token)
    items: list[Json] = json.loads(done.stdout)["items"]
    return items


def test_runs_of_github_are_stored_once_and_as_the_job_itself_would_have_reported_them(
    running: Collector, hub: FakeGitHub, tmp_path: Path
) -> None:
    """Importing every hour, beside jobs that report themselves, must not count a run twice."""
    content = junit("test_adds", "test_pays", failed=("test_pays",))
    for number in (11, 12):
        hub.add_run(number)
        hub.add_artifact(number, "junit", zipped({"build/junit.xml": content, "build/coverage.xml": "<coverage/>", "notes.txt": "hi"}))
    hub.add_run(13)
    (tmp_path / "junit.xml").write_text(content)
    inside = {"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "example/shop", "GITHUB_REF_NAME": "main", "GITHUB_JOB": "test"}
    inside |= {"GITHUB_SHA": f"{12:040x}", "GITHUB_RUN_ID": "12", "GITHUB_RUN_ATTEMPT": "1", "GITHUB_HEAD_REF": "", "GITHUB_EVENT_PATH": ""}
    options = ("--url", running.url, "--token", TOKEN, "--json")
    reported = json.loads(isomon("report", str(tmp_path / "junit.xml"), *options, **inside).stdout)

    done, told = import_github(hub, running)
    again, told_again = import_github(hub, running)

    assert (done.exit_code, again.exit_code) == (0, 0), done.stderr
    assert results(told) == ["stored", "known"]
    assert told["totals"] == {"runs": 3, "stored": 1, "known": 1, "not_sent": 0, "without_report": 1, "left_out": 0, "unreadable": 0}
    assert results(told_again) == ["known", "known"]
    assert told["runs"][1]["reports"][0]["id"] == reported["run"]["id"]
    [first] = listed(running, "--commit", f"{11:040x}")
    assert (first["suite"], first["branch"], first["is_default_branch"], first["tests"], first["failed"]) == ("pytest", "main", True, 2, 1)
    assert datetime.fromisoformat(first["started_at"]) == datetime.fromisoformat(at(0, 5))
    assert first["origin"] == {
        "provider": "github", "run_id": "11", "attempt": 1, "job": "test", "pull_request": "",
        "url": "https://github.com/example/shop/actions/runs/11",
    }  # fmt: skip


def test_a_job_that_reported_itself_under_another_name_is_known(running: Collector, both: str, hub: FakeGitHub, tmp_path: Path) -> None:
    """GitHub's API tells the name of a job for people; GITHUB_JOB is its key, and so the id is another one."""
    content = junit("test_adds", name="renamed")
    (tmp_path / "junit.xml").write_text(content)
    options = ("--run-id", "15", "--job", "unit", "--commit", f"{15:040x}", "--url", running.url, "--token", TOKEN)
    inside = {"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "example/shop", "GITHUB_RUN_ATTEMPT": "1", "GITHUB_EVENT_PATH": ""}
    assert isomon("report", str(tmp_path / "junit.xml"), *options, **inside).exit_code == 0
    hub.add_run(15)
    hub.jobs[15] = [hub.job("Unit tests on Linux", 15)]
    hub.add_artifact(15, "junit", zipped({"junit.xml": content}))

    _, told = import_github(hub, running, token=both)

    assert results(told) == ["known"]


def test_the_token_never_reaches_the_storage_of_artifacts(hub: FakeGitHub) -> None:
    """GitHub redirects to another company's storage; a token there could change the repository."""
    hub.add_run(1)
    hub.add_artifact(1, "junit", zipped({"junit.xml": junit("test_adds")}))

    done, told = import_github(hub, None, "--dry-run")

    assert (done.exit_code, results(told)) == (0, ["not sent"]), done.stderr
    assert hub.storage.paths() == ["/blobs/1000.zip?signature=secret-of-the-storage"]
    assert all(FORGE_TOKEN not in str(headers) and "authorization" not in headers for _, headers in hub.storage.seen)
    assert {headers["authorization"] for _, headers in hub.api.seen} == {f"Bearer {FORGE_TOKEN}"}
    assert FORGE_TOKEN not in done.output
    assert "secret-of-the-storage" not in done.output


def test_what_is_broken_or_expired_is_told_and_stops_nothing(running: Collector, hub: FakeGitHub) -> None:
    """One bad file among a hundred must neither hide the others nor be hidden by them."""
    hub.add_run(21)
    hub.add_artifact(21, "a-cut", zipped({"junit.xml": junit("test_adds")})[:-40])
    hub.add_artifact(21, "b-expired", b"", expired=True)
    hub.add_artifact(21, "c-gone", b"")
    hub.api.in_the_way["/api/v3/repos/example/shop/actions/artifacts/1002/zip"] = [Answer(410, b'{"message": "Artifact has expired"}')]
    bad = {"bad.xml": "no XML", "dtd.xml": '<!DOCTYPE x [<!ENTITY a "b">]><testsuite/>'}
    hub.add_artifact(21, "d-mixed", zipped({"good.xml": junit("test_adds")} | bad))
    hub.add_artifact(21, "e-good", zipped({"junit.xml": junit("test_pays")}))
    hub.add_artifact(21, "f-denied", b"")
    hub.storage.in_the_way["/blobs/1005.zip"] = [Answer(403, b"<Error><Code>AuthenticationFailed</Code></Error>")]

    done, told = import_github(hub, running, "--suite", "broken {artifact}")

    [run] = told["runs"]
    assert done.exit_code == 3
    assert [(one["suite"], one["tests"], one["result"]) for one in run["reports"]] == [
        ("broken d-mixed", 1, "stored"), ("broken e-good", 1, "stored"),
    ]  # fmt: skip
    assert [one["source"] for one in run["left_out"]] == ["b-expired", "c-gone"]
    cut, *mixed, denied = run["unreadable"]
    assert sorted((one["source"], one["text"].partition(":")[0]) for one in mixed) == [("d-mixed", "bad.xml"), ("d-mixed", "dtd.xml")]
    assert "no zip file" in cut["text"]
    assert "403 from 127.0.0.1" in denied["text"]
    assert tempfile.gettempdir() not in json.dumps(told)
    assert "b-expired: the artifact expired on 2020-01-30" in done.stderr


def test_a_report_that_the_collector_refuses_stops_no_other(running: Collector, hub: FakeGitHub) -> None:
    """Who may open a pull request must not be able to end every import from then on."""
    used = '<testsuite><properties><property name="isolation.cpu_s" value="1e15"/></properties><testcase name="a"/></testsuite>'
    hub.add_run(31)
    hub.add_artifact(31, "odd", zipped({"a.xml": used, "b.xml": used}))
    hub.add_run(32)
    hub.add_artifact(32, "junit", zipped({"junit.xml": junit("test_adds")}))

    done, told = import_github(hub, running, "--suite", "refused {artifact}")

    assert done.exit_code == 3
    assert results(told) == ["stored"]
    [refused] = told["runs"][0]["unreadable"]
    assert refused["source"] == "odd"
    assert "the collector does not take it: " in refused["text"]
    assert "cpu_s" in refused["text"]


def test_the_table_says_what_became_of_each_run(running: Collector, hub: FakeGitHub, tmp_path: Path) -> None:
    """As a command of its own, since what it prints, and where, is what a person sees."""
    hub.add_run(31, head_branch="fix [bold]it")
    hub.add_artifact(31, "junit", zipped({"junit.xml": junit("test_adds", failed=("test_adds",), name="table")}))
    hub.add_run(32)
    (tmp_path / "forge.token").write_text(FORGE_TOKEN)
    command = [sys.executable, "-m", "isolation_monitor.cli", "ci", "import", "github", "example/shop", "--url", hub.api.url]
    command += ["--token-file", "forge.token", "--collector", running.url, "--since", at(30)]
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ} | {"ISOMON_TOKEN": TOKEN}

    done = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    head, row, summary = done.stdout.splitlines()
    assert head.split() == ["run", "branch", "commit", "from", "suite", "tests", "failed", "came", "to"]
    assert row.split() == ["31", "fix", "[bold]it", "0000000000", "junit", "table", "1", "1", "stored"]
    assert summary == "Runs of example/shop: 2; reports stored: 1, runs without a JUnit report: 1."
    assert "1/2 tests 31 fix [bold]it" in done.stderr


def test_a_rate_limit_that_lasts_ends_the_import_and_what_was_sent_stays(running: Collector, hub: FakeGitHub) -> None:
    for number in (41, 42):
        hub.add_run(number)
        hub.add_artifact(number, "junit", zipped({"junit.xml": junit("test_adds", name="limited")}))
    limited = Answer(403, b'{"message": "API rate limit exceeded"}', {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "4102444800"})
    hub.api.in_the_way["/api/v3/repos/example/shop/actions/runs/42/artifacts"] = [limited]

    done, told = import_github(hub, running)
    later, told_later = import_github(hub, running)

    assert (done.exit_code, results(told)) == (1, ["stored"])
    assert "2100-01-01" in done.stderr
    assert "1 of 2 runs are left, the first of them 42" in told["stopped"]
    assert (later.exit_code, results(told_later)) == (0, ["known", "stored"])


def test_test_reports_of_gitlab_are_stored_once(running: Collector, lab: FakeGitLab) -> None:
    lab.add_pipeline(51)
    lab.add_pipeline(52, ref="refs/merge-requests/9/head", source="merge_request_event")
    lab.requests["9"] = {"iid": 9, "source_branch": "faster-cart"}
    lab.add_pipeline(53)
    lab.reports[53] = []
    lab.add_pipeline(54)
    lab.reports[54] = [suite("unit", suite_error="JUnit XML parsing failed: Document is empty", test_cases=[])]

    done, told = import_gitlab(lab, running)
    again, told_again = import_gitlab(lab, running)

    assert (done.exit_code, again.exit_code) == (3, 3), done.stderr
    assert (results(told), results(told_again)) == (["stored", "stored"], ["known", "known"])
    assert told["totals"]["without_report"] == 1
    assert told["runs"][3]["unreadable"][0]["text"].startswith("GitLab could not read the file: JUnit XML parsing failed")
    [merged] = listed(running, "--commit", f"{52:040x}")
    assert (merged["suite"], merged["branch"], merged["is_default_branch"]) == ("unit", "faster-cart", False)
    assert (merged["tests"], merged["passed"], merged["failed"], merged["skipped"]) == (3, 1, 1, 1)
    assert merged["origin"] == {
        "provider": "gitlab", "run_id": "5200", "attempt": 1, "job": "unit", "pull_request": "9",
        "url": "https://gitlab.example.com/group/shop/-/jobs/5200",
    }  # fmt: skip
    assert datetime.fromisoformat(merged["started_at"]) == datetime.fromisoformat(at(52, 28.5)), "when the job ended, less what it took"
    causes = isomon("failures", "--suite", "unit", ISOMON_COLLECTOR=running.url, ISOMON_TOKEN=running.read_token)
    assert "connection refused" in causes.stdout
    assert {headers.get("private-token") for _, headers in lab.api.seen} == {FORGE_TOKEN}
    assert FORGE_TOKEN not in done.output


def test_a_job_of_gitlab_that_reported_itself_is_known(running: Collector, both: str, lab: FakeGitLab, tmp_path: Path) -> None:
    """GitLab keeps no file, so the id is another one: a token that may read looks the job up, another one says that it cannot."""
    lab.add_pipeline(61)
    (tmp_path / "junit.xml").write_text(junit("test_adds", name="unit"))
    inside = {"GITLAB_CI": "true", "CI_PROJECT_PATH": "group/shop", "CI_COMMIT_BRANCH": "main", "CI_COMMIT_SHA": f"{61:040x}"}
    inside |= {"CI_JOB_ID": "6100", "CI_JOB_NAME": "unit"}
    assert isomon("report", str(tmp_path / "junit.xml"), "--url", running.url, "--token", TOKEN, **inside).exit_code == 0

    looked_up, told = import_gitlab(lab, running, token=both)
    _, told_blind = import_gitlab(lab, running)

    assert (looked_up.exit_code, results(told), told["notes"]) == (0, ["known"], [])
    assert "is there twice now" in told_blind["notes"][0]


def test_parallel_jobs_of_gitlab_that_reported_themselves_are_known(running: Collector, both: str, lab: FakeGitLab, tmp_path: Path) -> None:
    """GitLab has one report of all of them, under the pipeline's number: it must not count their tests once more."""
    for number in (63, 64):
        lab.add_pipeline(number)
        lab.jobs[number] = [lab.job(f"e2e {place}/2", number, place) for place in (1, 2)]
        lab.reports[number] = [suite("e2e")]
    (tmp_path / "junit.xml").write_text(junit("test_adds", name="e2e"))
    inside = {"GITLAB_CI": "true", "CI_PROJECT_PATH": "group/shop", "CI_COMMIT_BRANCH": "main", "CI_COMMIT_SHA": f"{63:040x}"}
    inside |= {"CI_JOB_ID": "6302", "CI_JOB_NAME": "e2e 2/2"}
    assert isomon("report", str(tmp_path / "junit.xml"), "--url", running.url, "--token", TOKEN, **inside).exit_code == 0

    _, told = import_gitlab(lab, running, token=both)

    assert results(told) == ["known", "stored"]


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "no token was given: set GITLAB_TOKEN"),
        ({"CI_JOB_TOKEN": "j"}, "CI_JOB_TOKEN opens little"),
        ({"GITLAB_TOKEN": "g"}, "read_api"),
    ],
)
def test_a_token_that_opens_nothing_is_answered_with_one_that_would(environment: dict[str, str], says: str, lab: FakeGitLab) -> None:
    done = isomon("import", "gitlab", "group/other", "--url", f"{lab.api.url}/gitlab", "--dry-run", **environment)

    assert done.exit_code == 2
    assert says in done.stderr
    assert lab.api.seen[0][1].get("job-token") == environment.get("CI_JOB_TOKEN")


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (("github", "example/shop"), {"ISOMON_TOKEN": "t"}, "set GITHUB_TOKEN"),
        (("github", "example/shop"), {"GITHUB_TOKEN": "t"}, "no token: pass --collector-token-file"),
        (("github", "shop", "--dry-run"), {"GITHUB_TOKEN": "t"}, "OWNER/NAME"),
        (("github", "o/n", "--dry-run", "--since", "soon"), {"GITHUB_TOKEN": "t"}, "--since"),
        (("github", "o/n", "--dry-run", "--url", "ftp://x"), {"GITHUB_TOKEN": "t"}, "--url"),
        (("gitlab", "o/n", "--dry-run", "--ca-file", "none.pem"), {}, "--ca-file none.pem"),
        (("gitlab", "o/n", "--dry-run", "--max-wait", "long"), {}, "'long' is not a duration"),
    ],
)
def test_wrong_usage_says_what_to_change(arguments: tuple[str, ...], environment: dict[str, str], says: str) -> None:
    done = isomon("import", *arguments, **environment)

    assert done.exit_code == 2
    assert says in done.stderr
