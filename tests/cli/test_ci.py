"""`isomon ci` as a CI uses it: real files, a real collector, a command of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from isolation_monitor.cli import junit
from isolation_monitor.cli.ci_environment import Place, find_place
from isolation_monitor.cli.ci_report import body_of, suite_of
from isolation_monitor.cli.junit import Report, read_reports
from isolation_monitor.collector.ci.schemas import parse_run
from tests.real_parts.collector import Collector, collector

FILES = Path(__file__).parents[1] / "junit_files"
TOKEN = "token-that-sends"
LEAKING = """
import threading

stop = threading.Event()

def test_leaves_a_thread():
    threading.Thread(target=stop.wait, args=(60,), name="left-here", daemon=True).start()

def test_leaves_nothing():
    pass
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with collector(tmp_path_factory.mktemp("collector"), settings={"COLLECTOR_SEND_TOKEN": TOKEN}) as one:
        yield one


def isomon(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `isomon ci` in a folder, with nothing in its environment that tells of a CI but what is given."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [sys.executable, "-m", "isolation_monitor.cli", "ci", *arguments]
    return subprocess.run(command, cwd=folder, env=kept | environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_report_is_kept_listed_and_explained(running: Collector, tmp_path: Path) -> None:
    """Twice the same failure: the second report knows the first."""
    environment = {"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "example/shop", "GITHUB_REF_NAME": "main", "GITHUB_JOB": "test"}
    summary = tmp_path / "summary.md"
    told = []
    for number in (1, 2):
        environment |= {"GITHUB_SHA": f"{number:040x}", "GITHUB_RUN_ID": str(number), "GITHUB_STEP_SUMMARY": str(summary)}
        done = isomon(
            *("report", str(FILES / "pytest.xml"), "--suite", "unit", "--url", running.url, "--json", "--github-summary"),
            *("--markdown", "pr.md", "--fail-on", "new-failures"),
            folder=tmp_path, ISOMON_TOKEN=TOKEN, **environment,
        )  # fmt: skip
        told.append(json.loads(done.stdout))
        assert done.returncode == {1: 3, 2: 0}[number], done.stderr
    reading = {"ISOMON_COLLECTOR": running.url, "ISOMON_TOKEN": running.reading["Authorization"].removeprefix("Bearer ")}
    lists = {name: isomon(name, folder=tmp_path, **reading) for name in ("suites", "runs", "flaky", "failures")}

    assert [all(group["is_new"] for group in one["failures"]) for one in told] == [True, False]
    assert told[1]["failures"][0]["nearest_earlier"]["commit"] == f"{1:040x}"
    assert (told[1]["run"]["passed"], told[1]["run"]["branch"], told[1]["run"]["origin"]["provider"]) == (2, "main", "github")
    assert "no, it is new" not in (tmp_path / "pr.md").read_text(encoding="utf-8")
    assert summary.read_text(encoding="utf-8").count("### ❌ unit: 4 of 6 tests failed") == 2
    assert {name: done.returncode for name, done in lists.items()} == dict.fromkeys(lists, 0)
    assert "33.3 %" in lists["suites"].stdout
    assert "4 of 6 tests failed" in lists["runs"].stdout
    assert "no test is known to be flaky" in lists["flaky"].stdout
    assert "nowhere_to_be_found is not there" in lists["failures"].stdout


def test_what_a_test_leaves_behind_comes_from_pytest_to_its_page(running: Collector, tmp_path: Path) -> None:
    """The whole way: the plugin measures, the file carries, the command sends, the collector tells it of the test."""
    (tmp_path / "test_shop.py").write_text(LEAKING, encoding="utf-8")
    pytest_run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--isolation-resources", "--junit-xml=junit.xml"]
    subprocess.run(pytest_run, cwd=tmp_path, capture_output=True, timeout=120, check=True)

    done = isomon(
        "report", "junit.xml", "--suite", "shop", "--url", running.url, "--json", "--markdown", "pr.md", folder=tmp_path, ISOMON_TOKEN=TOKEN
    )
    [leaking] = json.loads(done.stdout)["resources"]["leaking"]
    address = f"{running.url}/v1/ci/tests/{leaking['key']}?suite=shop"
    with urllib.request.urlopen(urllib.request.Request(address, headers=running.reading), timeout=30) as answer:
        usage = json.load(answer)["test"]["usage"]

    assert leaking["name"] == "test_leaves_a_thread"
    assert usage["resources"]["leaked_threads"] == usage["most"]["leaked_threads"] == 1
    assert "left-here" in usage["left_behind"]
    assert usage["resources"]["wall_s"] > 0
    assert "1 threads" in (tmp_path / "pr.md").read_text(encoding="utf-8")


def test_a_report_of_very_many_tests_carries_what_stands_out(tmp_path: Path) -> None:
    """The collector takes 8 MiB: every test must be in it, and the figures of those that used most or leaked."""
    used = [{"wall_s": 1.0, "cpu_s": float(number), "memory_peak_bytes": 1e9 - number} for number in range(50_000)]
    tests = [junit.TestRun("g" * 60, f"test_{number:05}", "pass", resources=one) for number, one in enumerate(used)]
    tests[25_000].resources["leaked_threads"] = 1.0

    body = body_of(Report(tests), Place(), "all", None, 1_800_000_000.0)

    measured = [number for number, test in enumerate(body["tests"]) if "resources" in test]
    assert len(body["tests"]) == 50_000
    assert len(json.dumps(body, separators=(",", ":"))) < 8 * 2**20
    assert 5_000 < len(measured) < 50_000
    assert {0, 1, 25_000, 49_998, 49_999} <= set(measured)


def test_without_a_collector_the_summary_is_printed_all_the_same(tmp_path: Path) -> None:
    """The collector's trouble must not hide why the build is red."""
    done = isomon("report", str(FILES / "node.xml"), "--url", "http://127.0.0.1:9", folder=tmp_path, ISOMON_TOKEN=TOKEN)

    assert done.returncode == 1
    assert "3 of 5 tests failed" in done.stdout
    assert "cannot be reached" in done.stderr


def test_offline_nothing_is_sent_and_every_failure_counts(tmp_path: Path) -> None:
    done = isomon("report", str(FILES), "--offline", "--suite", "all", "--fail-on", "failures", folder=tmp_path)

    assert done.returncode == 3, done.stderr
    assert "connection refused" in done.stdout


def test_what_is_said_offline_has_the_fingerprints_of_the_collector(running: Collector, tmp_path: Path) -> None:
    """A fingerprint in a build's log finds the failure on the collector's pages."""
    options = ("report", str(FILES / "pytest.xml"), "--suite", "fingerprints", "--json")
    here = isomon(*options, "--offline", folder=tmp_path)
    there = isomon(*options, "--url", running.url, folder=tmp_path, ISOMON_TOKEN=TOKEN)

    told = [{group["fingerprint"] for group in json.loads(done.stdout)["failures"]} for done in (here, there)]
    assert told[0] == told[1] != set()


def test_a_report_of_as_many_tests_as_are_read_fits_the_collector(tmp_path: Path) -> None:
    """Stacks make room where names need it; a report that is too large all the same says what to change."""
    stack = "<failure>" + "at example.Cart\n" * 400 + "</failure>"
    cases = [f'<testcase classname="{"c" * 45}" name="{"n" * 20}{n}">{"" if n % 100 else stack}</testcase>' for n in range(50_000)]
    path = tmp_path / "junit.xml"
    path.write_text(f"<testsuite>{''.join(cases)}</testsuite>")

    body = json.dumps(body_of(read_reports([path], tmp_path), Place(), "all", None, 1_800_000_000.0))

    assert body.count('"detail": "at') > 50
    assert len(body) < 8 * 1024 * 1024


def test_numbers_that_were_never_measured_fit_the_collector(tmp_path: Path) -> None:
    """Ten years for each of 400 tests would begin before there were dates."""
    cases = "".join(f'<testcase name="{number}" time="315000000"/>' for number in range(400))
    (tmp_path / "junit.xml").write_text(f'<testsuite failures="900000" errors="900000">{cases}</testsuite>')

    body = body_of(read_reports([tmp_path / "junit.xml"], tmp_path), Place(), "unit", None, 1e9)

    assert parse_run(json.dumps(body).encode(), datetime.now(UTC)).started_at == datetime(1970, 1, 1, tzinfo=UTC)


def test_a_report_that_the_collector_does_not_take_says_what_to_change(tmp_path: Path) -> None:
    settings = {"COLLECTOR_SEND_TOKEN": TOKEN, "COLLECTOR_MAX_INFLATED_BYTES": "1000"}
    with collector(tmp_path / "collector", settings=settings) as small:
        done = isomon("report", str(FILES / "pytest.xml"), "--url", small.url, folder=tmp_path, ISOMON_TOKEN=TOKEN)

    assert done.returncode == 2
    assert "COLLECTOR_MAX_INFLATED_BYTES" in done.stderr


def test_a_run_without_a_test_is_no_success(tmp_path: Path) -> None:
    """A wrong path or filter looks like that; a green sign would hide it."""
    (tmp_path / "junit.xml").write_text("<testsuites/>")
    isomon("report", "junit.xml", "--offline", "--suite", "unit", "--markdown", "pr.md", folder=tmp_path)

    assert "### ⚠️ unit: no test ran" in (tmp_path / "pr.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("files", "job", "name"),
    [
        (['<testsuite name="example.A"/>'], "build", "example.A"),
        (['<testsuite name="example.A"/>', '<testsuite name="example.B"/>'], "build", "build"),
        (['<testsuite name="example.A"/>', '<testsuite name="example.B"/>'], "", "tests"),
        (['<testsuites name="vitest tests"><testsuite name="a"/><testsuite name="b"/></testsuites>'], "", "vitest tests"),
        (['<testsuite name="/ one"/>'], "", "tests"),
    ],
)
def test_a_suite_keeps_its_name_when_a_class_is_added(files: list[str], job: str, name: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.xml" for number in range(len(files))]
    for path, content in zip(paths, files, strict=True):
        path.write_text(content)

    report = read_reports(paths, tmp_path)

    assert suite_of(report, Place(job=job), None) == name
    assert suite_of(report, Place(job=job), "/ given") == "given"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("report", "nothing.xml"), "there is no such file"),
        (("report", str(FILES / "node.xml")), "no token"),
        (("report", str(FILES / "node.xml"), "--fail-on", "what", "--offline"), "--fail-on"),
        (("report", str(FILES / "node.xml"), "--github-summary", "--offline"), "GITHUB_STEP_SUMMARY"),
        (("report", str(FILES / "versions.json"), "--offline"), "is no XML"),
    ],
)
def test_wrong_usage_says_what_to_change(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = isomon(*arguments, folder=tmp_path)

    assert done.returncode == 2
    assert says in done.stderr


PLACES = {
    "github": (
        {"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "o/n", "GITHUB_REF_NAME": "main", "GITHUB_SHA": "a1", "GITHUB_RUN_ID": "7"},
        ("github", "o/n", "main", "a1", "7", True),
    ),
    "github pull request": (
        {"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "o/n", "GITHUB_HEAD_REF": "fix", "GITHUB_SHA": "merge", "GITHUB_RUN_ID": "7"},
        ("github", "o/n", "fix", "head", "7", False),
    ),
    "gitlab": (
        {"GITLAB_CI": "true", "CI_PROJECT_PATH": "o/n", "CI_COMMIT_BRANCH": "dev", "CI_DEFAULT_BRANCH": "dev", "CI_COMMIT_SHA": "a1",
         "CI_JOB_ID": "8"},
        ("gitlab", "o/n", "dev", "a1", "8", True),
    ),
    "circleci": (
        {"CIRCLECI": "true", "CIRCLE_PROJECT_USERNAME": "o", "CIRCLE_PROJECT_REPONAME": "n", "CIRCLE_BRANCH": "fix", "CIRCLE_SHA1": "a1",
         "CIRCLE_BUILD_NUM": "9"},
        ("circleci", "o/n", "fix", "a1", "9", False),
    ),
    "jenkins": (
        {"JENKINS_URL": "https://ci", "GIT_URL": "https://user:secret@git.example.com/o/n.git", "GIT_BRANCH": "origin/master",
         "GIT_COMMIT": "a1", "BUILD_NUMBER": "10"},
        ("jenkins", "o/n", "master", "a1", "10", True),
    ),
    "buildkite": (
        {"BUILDKITE": "true", "BUILDKITE_REPO": "git@example.com:o/n.git", "BUILDKITE_BRANCH": "next", "BUILDKITE_COMMIT": "a1",
         "BUILDKITE_PIPELINE_DEFAULT_BRANCH": "next", "BUILDKITE_BUILD_NUMBER": "11", "BUILDKITE_PULL_REQUEST": "false"},
        ("buildkite", "o/n", "next", "a1", "11", True),
    ),
    "azure": (
        {"TF_BUILD": "True", "BUILD_REPOSITORY_NAME": "o/n", "BUILD_SOURCEBRANCH": "refs/heads/main", "BUILD_SOURCEVERSION": "a1",
         "BUILD_BUILDID": "12"},
        ("azure", "o/n", "main", "a1", "12", True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLACES)
def test_the_place_of_a_run_is_what_the_ci_says(name: str, tmp_path: Path) -> None:
    environment, expected = PLACES[name]
    if name == "github pull request":
        event = tmp_path / "event.json"
        event.write_text(json.dumps({"pull_request": {"number": 5, "head": {"sha": "head"}}, "repository": {"default_branch": "main"}}))
        environment = environment | {"GITHUB_EVENT_PATH": str(event)}

    place = find_place(environment, tmp_path)

    assert (place.provider, place.repository, place.branch, place.commit, place.run_id, place.is_default_branch) == expected


def test_git_fills_in_what_no_ci_says(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        named = ("-c", "user.name=ann", "-c", "user.email=ann@example.com", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null")
        done = subprocess.run(["git", *named, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    source = tmp_path / "cart.py"
    source.write_text("wrong")
    git("init", "-q", "-b", "fix")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    git("remote", "add", "origin", "https://ann:secret@example.com/deep/o/n.git")

    place = find_place({}, tmp_path)

    assert (place.branch, place.commit, place.repository) == ("fix", git("rev-parse", "HEAD"), "deep/o/n")
    assert not place.is_default_branch

    commits = [place.commit]
    for text in ("better", "right", "right"):
        source.write_text(text)
        commits.append(find_place({}, tmp_path).commit)

    assert all(commit.startswith(place.commit) for commit in commits)
    assert len(set(commits)) == 3, "what is mended before it is committed is another state, and the same state is the same"
