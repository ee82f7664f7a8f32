"""`isomon ci`: reports runs of tests to the collector, and tells how suites fare, why they fail and which tests are flaky."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import typer
from rich.table import Table
from rich.text import Text

from isolation_monitor.cli.ci_environment import Place, find_place
from isolation_monitor.cli.ci_import.command import app as import_app
from isolation_monitor.cli.ci_report import body_of, story_without_collector, suite_of
from isolation_monitor.cli.ci_sending import TIMEOUT_S, send_report
from isolation_monitor.cli.ci_summary import headline, markdown, print_story, seconds
from isolation_monitor.cli.collector_client import (
    DEFAULT_URL,
    TOKEN_FILE_ENV,
    URL_ENV,
    CollectorClient,
    NoAnswer,
    NotACollector,
    UsageError,
    read_token,
)
from isolation_monitor.cli.console import stdout_console
from isolation_monitor.cli.gate_summary import SUMMARY_ENV
from isolation_monitor.cli.junit import JUnitError, files_of, read_reports

Json = dict[str, Any]  # Any: JSON

EXIT_UNSENT: Final = 1
EXIT_USAGE: Final = 2
EXIT_FAILED: Final = 3
FAIL_ON: Final = ("never", "failures", "new-failures")

REPORT_EPILOG = """Exit codes: 0 reported, 1 the collector could not be reached (the summary is printed all the same), 2 usage: a file, an
option or the token; 3 what --fail-on names is there.

Examples:

  isomon ci report build/junit.xml

  isomon ci report 'target/surefire-reports/*.xml' --suite unit --markdown summary.md

  isomon ci report junit.xml --github-summary --fail-on new-failures

  isomon ci report junit.xml --offline --json
"""
LIST_EPILOG = "Exit codes: 0 the collector answered, 1 it cannot be reached, 2 usage."

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(import_app, name="import")

Url = Annotated[str, typer.Option("--url", "--collector", envvar=URL_ENV, help="Address of the collector.")]
Token = Annotated[str | None, typer.Option(help="A token; seen by others in the list of processes.")]
TokenFile = Annotated[Path | None, typer.Option(envvar=TOKEN_FILE_ENV, help="File with a token: scope ingest to report, read to list.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
OfSuite = Annotated[str | None, typer.Option(help="Only this suite.")]


@app.command(epilog=REPORT_EPILOG)
def report(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="JUnit XML: files, folders (all *.xml below) or globs.")],
    suite: Annotated[
        str | None, typer.Option(help="Name of the suite, one for each environment; else that of the file or the CI's job.")
    ] = None,
    branch: Annotated[str | None, typer.Option(help="Instead of what the CI or git says.")] = None,
    commit: Annotated[str | None, typer.Option(help="Instead of what the CI or git says.")] = None,
    default_branch: Annotated[str | None, typer.Option(help="The branch whose runs speak for the suite.")] = None,
    repository: Annotated[str | None, typer.Option(help="Instead of what the CI or git says.")] = None,
    run_id: Annotated[str | None, typer.Option(help="The CI's own id of the run.")] = None,
    job: Annotated[str | None, typer.Option(help="The CI's job; runs of one commit are compared within a job.")] = None,
    run_url: Annotated[str | None, typer.Option(help="Where the CI shows the run.")] = None,
    duration: Annotated[float | None, typer.Option(min=0, help="Seconds that the run took, where the files do not say it.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write the summary as Markdown to this file.")] = None,
    github_summary: Annotated[bool, typer.Option(help=f"Add the summary to the job's page in GitHub Actions (${SUMMARY_ENV}).")] = False,
    fail_on: Annotated[str, typer.Option(help=f"Exit with 3 on these: {', '.join(FAIL_ON)}.")] = "never",
    offline: Annotated[bool, typer.Option(help="Send nothing: the summary then knows no history.")] = False,
    collector: Url = DEFAULT_URL,
    token: Token = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Report one run of a test suite: send its JUnit XML to the collector, say what failed, why, and whether it is new."""
    options = {"branch": branch, "commit": commit, "default_branch": default_branch, "repository": repository, "run_id": run_id}
    given = {name: value for name, value in (options | {"job": job, "url": run_url}).items() if value is not None}
    unsent = ""
    try:
        if fail_on not in FAIL_ON:
            raise UsageError(f"--fail-on {fail_on!r} is none of {', '.join(FAIL_ON)}")
        place: Place = replace(find_place(os.environ, Path.cwd()), **given)  # type: ignore[arg-type]  # only texts are given
        found = read_reports(files_of(files, Path.cwd()), Path.cwd())
        body = body_of(found, place, suite_of(found, place, suite), duration, time.time())
        story = story_without_collector(body)
        if not offline:
            try:
                with CollectorClient(collector, token or read_token(token_file), TIMEOUT_S) as client:
                    story = send_report(body, client)
            except NoAnswer as error:
                unsent = f"{error}; nothing was stored, and what is said here knows no history"
        _write_summaries(story, markdown_file, github_summary=github_summary)
    except (UsageError, JUnitError) as error:
        print(f"isomon ci report: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from None
    if as_json:
        print(json.dumps(story, ensure_ascii=False, allow_nan=False))
    else:
        print_story(story, stdout_console(highlight=False))
        if url := story["run"].get("url"):
            print(url)
    if unsent:
        print(f"isomon ci report: {unsent}", file=sys.stderr)
        raise typer.Exit(EXIT_UNSENT)
    if _fails(story, fail_on):
        raise typer.Exit(EXIT_FAILED)


def _write_summaries(story: Json, file: Path | None, *, github_summary: bool) -> None:
    text = markdown(story, story["run"].get("url"))
    summary = os.environ.get(SUMMARY_ENV, "") if github_summary else ""
    if github_summary and not summary:
        raise UsageError(f"--github-summary: ${SUMMARY_ENV} is not set, so this is no step of GitHub Actions; use --markdown FILE")
    try:
        if file is not None:
            file.write_text(text, encoding="utf-8")
        if summary:
            with Path(summary).open("a", encoding="utf-8") as target:
                target.write(text)
    except OSError as error:
        raise UsageError(f"{file or summary}: cannot be written ({error.strerror})") from None


def _fails(story: Json, fail_on: str) -> bool:
    run = story["run"]
    if fail_on == "never" or not (run["failed"] + run["errors"] or run["is_cut_off"]):
        return False
    return fail_on == "failures" or any(
        group["is_new"] and not all(one["is_flaky"] for one in group["tests"]) for group in story["failures"]
    )


@app.command(epilog=LIST_EPILOG)
def suites(collector: Url = DEFAULT_URL, token: Token = None, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """List every suite: how many pass, how many are flaky, how long it takes, when it ran last."""
    answer = _asked("suites", {}, "ci-suites/1", collector, token, token_file)
    rows = [
        (one["name"], _percent(one["pass_ratio"]), _percent(one["flaky_ratio"]), seconds(one["duration_s"]), one["last_run_at"] or "–")
        for one in answer["items"]
    ]
    _shown(answer, as_json, ("suite", "passed", "flaky", "takes", "last run"), rows, "no run was reported yet: isomon ci report FILE")


@app.command(epilog=LIST_EPILOG)
def runs(
    suite: OfSuite = None,
    branch: Annotated[str | None, typer.Option(help="Only this branch.")] = None,
    commit: Annotated[str | None, typer.Option(help="Only this commit, or the beginning of its hash.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    collector: Url = DEFAULT_URL,
    token: Token = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List runs, the one that began last first."""
    asked = {"suite": suite, "branch": branch, "commit": commit, "limit": str(limit)}
    answer = _asked("runs", asked, "ci-runs/1", collector, token, token_file)
    rows = [(one["started_at"], one["suite"], one["branch"] or "–", one["commit"][:10] or "–", headline(one)) for one in answer["items"]]
    _shown(answer, as_json, ("began", "suite", "branch", "commit", "what it came to"), rows, "no run is like that")


@app.command(epilog=LIST_EPILOG)
def flaky(
    suite: OfSuite = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    collector: Url = DEFAULT_URL,
    token: Token = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List the tests that are flaky now, each with the evidence."""
    answer = _asked("flaky", {"suite": suite, "limit": str(limit)}, "ci-flaky/1", collector, token, token_file)
    rows = [
        (one["suite"], f"{one['group']} {one['name']}".strip(), _percent(one["pass_ratio"]), "; ".join(e["says"] for e in one["flaky"]))
        for one in answer["items"]
    ]
    _shown(answer, as_json, ("suite", "test", "passed", "evidence"), rows, "no test is known to be flaky")


@app.command(epilog=LIST_EPILOG)
def failures(
    suite: OfSuite = None,
    category: Annotated[str | None, typer.Option(help="Only this category, such as timeout.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    collector: Url = DEFAULT_URL,
    token: Token = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List the kinds of failures of the last two weeks: why, since when, in how many runs."""
    asked = {"suite": suite, "category": category, "limit": str(limit)}
    answer = _asked("failures", asked, "ci-failures/1", collector, token, token_file)
    rows = [
        (one["suite"], one["category"].replace("_", " "), one["cause"], str(one["runs"]), one["first"]["at"][:16], one["last"]["at"][:16])
        for one in answer["items"]
    ]
    _shown(answer, as_json, ("suite", "why", "likely cause", "runs", "first", "last"), rows, "nothing failed in two weeks")


def _asked(what: str, asked: dict[str, str | None], schema: str, collector: str, token: str | None, token_file: Path | None) -> Json:
    """Return the collector's answer, or leave with what stood in the way."""
    query = urlencode({name: value for name, value in asked.items() if value is not None}, quote_via=quote)
    try:
        with CollectorClient(collector, token or read_token(token_file)) as client:
            answer = client.request("GET", f"/v1/ci/{what}?{query}")
        if answer.get("schema") != schema or not isinstance(answer.get("items"), list):
            raise NotACollector
    except (UsageError, NoAnswer) as error:
        print(f"isomon ci {what}: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_UNSENT) from None
    return answer


def _shown(answer: Json, as_json: bool, head: tuple[str, ...], rows: Sequence[tuple[str, ...]], nothing: str) -> None:
    if as_json:
        print(json.dumps(answer, ensure_ascii=False, allow_nan=False))
        return
    console = stdout_console(highlight=False, unfolded=True)
    if not rows:
        console.print(nothing)
        return
    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        # Text, not markup: what a test is called must not style the terminal.
        table.add_row(*(Text(" ".join(cell.split())) for cell in row))
    console.print(table)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
