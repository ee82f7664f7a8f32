"""`isomon ci import github` and `isomon ci import gitlab`: runs that finished already, or whose jobs cannot reach the collector."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from isolation_monitor.cli.ci_import import github as hub
from isolation_monitor.cli.ci_import import gitlab as lab
from isolation_monitor.cli.ci_import.client import ForgeClient
from isolation_monitor.cli.ci_import.importing import Forge, Import, ImportedRun, Importer, Wanted, moment_of
from isolation_monitor.cli.ci_sending import TIMEOUT_S
from isolation_monitor.cli.collector_client import (
    DEFAULT_URL,
    TOKEN_FILE_ENV,
    URL_ENV,
    CollectorClient,
    NoAnswer,
    UsageError,
    read_token,
    seconds,
)
from isolation_monitor.cli.console import stdout_console
from isolation_monitor.cli.printable import printable
from isolation_monitor.telemetry.certificates import tls_context

Json = dict[str, Any]  # Any: JSON

EXIT_STOPPED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREADABLE: Final = 3

_CODES: Final = """Exit codes: 0 everything was imported or known already, 1 the forge or the collector could not be reached, or allows no
more requests (what was sent is kept: run it again), 2 usage: a name, an option or a token; 3 a file could not be read (all
others were sent)."""
GITHUB_EPILOG: Final = f"""{_CODES}

Examples:

  isomon ci import github example/shop --branch main --since 7d --artifact 'junit-*'

  isomon ci import github example/shop --workflow tests.yml --suite 'unit {{artifact}}' --dry-run

  isomon ci import github shop/api --url https://git.example.com --token-file github.token --json
"""
GITLAB_EPILOG: Final = f"""{_CODES}

Examples:

  isomon ci import gitlab example/shop --branch main --since 7d

  isomon ci import gitlab 42 --url https://gitlab.example.com --token-file gitlab.token --dry-run

  isomon ci import gitlab example/shop --limit 500 --max-wait 30m --json
"""

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Report finished runs that a forge keeps, over its API; each is kept once."
)

Branch = Annotated[str, typer.Option(help="Only runs of this branch.")]
Since = Annotated[str | None, typer.Option(help="Only runs that began since: 7d, 12h, or a date such as 2026-11-01 (UTC).")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="At most so many runs, the newest.")]
Suite = Annotated[
    str | None,
    typer.Option(help="Name of the suite; {artifact}, {job} and {workflow} are filled in. Else that of the file or the job."),
]
ForgeTokenFile = Annotated[Path | None, typer.Option("--token-file", help="File with the forge's token.")]
CaFile = Annotated[Path | None, typer.Option(help="Certificates (PEM) that the forge's must be signed by; else those the system trusts.")]
MaxWait = Annotated[str, typer.Option(help="Longest wait for a rate limit, such as 90s or 1h.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Fetch and read, but send nothing; no collector is needed.")]
Collector = Annotated[str, typer.Option(envvar=URL_ENV, help="Address of the collector.")]
CollectorTokenFile = Annotated[
    Path | None,
    typer.Option(envvar=TOKEN_FILE_ENV, help="File with the collector's token, scope ingest; else ISOMON_TOKEN."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]


@app.command(epilog=GITHUB_EPILOG)
def github(
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", envvar="GITHUB_REPOSITORY", help="The repository.")],
    branch: Branch = "",
    workflow: Annotated[str, typer.Option(help="Only this workflow: its file's name, such as tests.yml, or its number.")] = "",
    since: Since = None,
    limit: Limit = 50,
    artifact: Annotated[str, typer.Option(metavar="GLOB", help="Only artifacts of such a name.")] = hub.EVERY,
    suite: Suite = None,
    url: Annotated[str, typer.Option(envvar="GITHUB_SERVER_URL", help="Address of GitHub, or of a GitHub Enterprise.")] = hub.DEFAULT_URL,
    token_file: ForgeTokenFile = None,
    ca_file: CaFile = None,
    max_wait: MaxWait = "2m",
    dry_run: DryRun = False,
    collector: Collector = DEFAULT_URL,
    collector_token_file: CollectorTokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Import workflow runs of GitHub Actions: the JUnit XML in their artifacts. The token needs `actions: read` (GITHUB_TOKEN)."""

    def forge(stack: ExitStack) -> Forge:
        token = _token(token_file, "GITHUB_TOKEN")
        if not token:
            raise UsageError("no token: pass --token-file, or set GITHUB_TOKEN; GitHub gives artifacts to nobody without one")
        hint = "the token must be allowed to read actions of this repository"
        client = _client(stack, hub.api_of(_address(url)), hub.headers_of(token), "GitHub", hint, ca_file, max_wait)
        return hub.GitHub(client, repository, artifact)

    _run("github", forge, branch, workflow, since, limit, suite, dry_run, collector, collector_token_file, as_json)


@app.command(epilog=GITLAB_EPILOG)
def gitlab(
    project: Annotated[str, typer.Argument(metavar="GROUP/NAME", envvar="CI_PROJECT_PATH", help="The project: its path or number.")],
    branch: Branch = "",
    workflow: Annotated[str, typer.Option(help="Only pipelines of this name (workflow:name).")] = "",
    since: Since = None,
    limit: Limit = 50,
    suite: Suite = None,
    url: Annotated[str, typer.Option(envvar="CI_SERVER_URL", help="Address of GitLab.")] = lab.DEFAULT_URL,
    token_file: ForgeTokenFile = None,
    ca_file: CaFile = None,
    max_wait: MaxWait = "2m",
    dry_run: DryRun = False,
    collector: Collector = DEFAULT_URL,
    collector_token_file: CollectorTokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Import pipelines of GitLab: their test reports. The token needs the scope `read_api` (GITLAB_TOKEN, else CI_JOB_TOKEN)."""

    def forge(stack: ExitStack) -> Forge:
        token, hint, is_job_token = _token(token_file, "GITLAB_TOKEN"), "the token needs the scope read_api", False
        if not token:
            token = os.environ.get("CI_JOB_TOKEN", "").strip()
            is_job_token = bool(token)
            hint = f"{'CI_JOB_TOKEN opens little' if token else 'no token was given'}: set GITLAB_TOKEN to one with the scope read_api"
        headers = lab.headers_of(token, is_job_token=is_job_token)
        return lab.GitLab(_client(stack, lab.api_of(_address(url)), headers, "GitLab", hint, ca_file, max_wait), project)

    _run("gitlab", forge, branch, workflow, since, limit, suite, dry_run, collector, collector_token_file, as_json)


def _run(
    name: str,
    make_forge: Callable[[ExitStack], Forge],
    branch: str,
    workflow: str,
    since: str | None,
    limit: int,
    suite: str | None,
    dry_run: bool,
    collector: str,
    collector_token_file: Path | None,
    as_json: bool,
) -> None:
    """Import, print what became of it, leave with the exit code."""
    command = f"isomon ci import {name}"
    try:
        with ExitStack() as stack:
            wanted = Wanted(branch, workflow, since_of(since, datetime.now(UTC)), limit)
            sending = None
            if not dry_run:
                sending = stack.enter_context(
                    CollectorClient(collector, read_token(collector_token_file, "--collector-token-file"), TIMEOUT_S)
                )
            done = Importer(make_forge(stack), sending, suite, _say).run(wanted)
    except UsageError as error:
        print(f"{command}: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from None
    except NoAnswer as error:
        print(f"{command}: {error}; nothing was imported", file=sys.stderr)
        raise typer.Exit(EXIT_STOPPED) from None
    if as_json:
        print(json.dumps(_json(name, done), ensure_ascii=False, allow_nan=False))
    else:
        _print(done)
    for text in (*done.notes, done.stopped):
        if text:
            print(f"{command}: {text}", file=sys.stderr)
    if done.stopped:
        raise typer.Exit(EXIT_STOPPED)
    if any(run.troubles for run in done.runs):
        raise typer.Exit(EXIT_UNREADABLE)


def since_of(text: str | None, now: datetime) -> datetime | None:
    """Return the moment that `--since` means, in UTC; None for None.

    >>> since_of("7d", datetime(2026, 11, 8, tzinfo=UTC)) == since_of("2026-11-01", datetime(2026, 11, 8, tzinfo=UTC))
    True

    Raises:
        UsageError: the text is neither a duration nor a date.
    """
    if text is None:
        return None
    days = re.fullmatch(r"(\d{1,5})([dw])", text.strip())
    try:
        if days is not None:
            return now - timedelta(days=int(days[1]) * (7 if days[2] == "w" else 1))
        return moment_of(text.strip()) or now - timedelta(seconds=seconds(text))
    except (UsageError, OverflowError):
        raise UsageError(f"--since {text!r} is neither a duration nor a date: write 7d, 12h, or 2026-11-01") from None


def _client(stack: ExitStack, api: str, headers: dict[str, str], named: str, hint: str, ca_file: Path | None, max_wait: str) -> ForgeClient:
    try:
        tls = tls_context(str(ca_file), None) if ca_file is not None else None
    except OSError as error:
        raise UsageError(
            f"--ca-file {ca_file}: cannot be used ({error.strerror or error}): name a file with certificates, in PEM"
        ) from None
    return stack.enter_context(ForgeClient(api, headers, named, _say, hint=hint, tls=tls, max_wait_s=seconds(max_wait)))


def _token(token_file: Path | None, variable: str) -> str:
    """Return the forge's token: of the file, else of the environment; nothing where there is none."""
    return read_token(token_file) if token_file is not None else os.environ.get(variable, "").strip()


def _address(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s/@?#]+(?:/[^\s?#]*)?", url):
        raise UsageError(f"--url {url!r} is no address such as https://git.example.com (without user, password and query)")
    return url


def _say(text: str) -> None:
    # What a branch or an artifact is called must not style the terminal.
    print(printable(text), file=sys.stderr, flush=True)


def _print(done: Import) -> None:
    console = stdout_console(highlight=False, unfolded=True)
    table = Table("run", "branch", "commit", "from", "suite", "tests", "failed", "came to", box=None, pad_edge=False)
    for imported in done.runs:
        place = imported.run.place
        at = (place.run_id, place.branch or "–", place.commit[:10] or "–")
        rows: list[tuple[str, ...]] = []
        for sent in imported.reports:
            numbers = sent.numbers
            rows.append((sent.source, sent.told["suite"], str(numbers["tests"]), str(numbers["failed"] + numbers["errors"]), sent.result))
        rows += [(one.source, "–", "–", "–", one.text) for one in imported.unsent]
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in (*at, *row)))
    if table.row_count:
        console.print(table)
    console.print(_summary(done))


def _summary(done: Import) -> str:
    totals = _totals(done)
    said = [f"{word}: {totals[name]}" for name, word in _WORDS.items() if totals[name]]
    return f"Runs of {done.repository}: {totals['runs']}; {', '.join(said) or 'nothing to import'}."


_WORDS: Final = {
    "stored": "reports stored",
    "known": "known already",
    "not_sent": "not sent (--dry-run)",
    "without_report": "runs without a JUnit report",
    "left_out": "left out (expired or too large)",
    "unreadable": "unreadable",
}


def _totals(done: Import) -> dict[str, int]:
    results = [sent.result for run in done.runs for sent in run.reports]
    return {
        "runs": len(done.runs),
        "stored": results.count("stored"),
        "known": results.count("known"),
        "not_sent": results.count("not sent"),
        "without_report": sum(run.is_empty for run in done.runs),
        "left_out": sum(len(run.left_out) for run in done.runs),
        "unreadable": sum(len(run.troubles) for run in done.runs),
    }


def _json(name: str, done: Import) -> Json:
    return {
        "schema": "ci-import/1",
        "forge": name,
        "repository": done.repository,
        "dry_run": done.is_dry,
        "totals": _totals(done),
        "stopped": done.stopped,
        "notes": done.notes,
        "runs": [_run_json(run) for run in done.runs],
    }


def _run_json(imported: ImportedRun) -> Json:
    run = imported.run
    return {
        "run_id": run.place.run_id,
        "name": run.name,
        "event": run.event,
        "branch": run.place.branch,
        "commit": run.place.commit,
        "url": run.place.url,
        "began_at": run.began_at,
        "reports": [
            {"source": sent.source, "id": sent.told["id"], "suite": sent.told["suite"], "job": sent.told["origin"]["job"],
             "attempt": sent.told["origin"]["attempt"], "started_at": sent.told["started_at"], "duration_s": sent.told["duration_s"],
             **sent.numbers, "result": sent.result, "url": sent.url}
            for sent in imported.reports
        ],
        "left_out": [{"source": one.source, "text": one.text} for one in imported.left_out],
        "unreadable": [{"source": one.source, "text": one.text} for one in imported.troubles],
    }  # fmt: skip
