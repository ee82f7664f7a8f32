"""GitLab: finished pipelines, and the test report that GitLab keeps of each (`artifacts:reports:junit` of its jobs).

Source: GitLab's REST API, "Pipelines" (list, test report), "Jobs" and "Merge requests". The files themselves are not to be had there.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, tostring

from isolation_monitor.cli.ci_environment import Place
from isolation_monitor.cli.ci_import.client import ForgeClient, NotThere
from isolation_monitor.cli.ci_import.importing import FinishedRun, FoundReport, LeftOut, Trouble, Wanted, moment_of
from isolation_monitor.cli.collector_client import UsageError
from isolation_monitor.cli.junit import JUnitError, Report, read_reports
from isolation_monitor.cli.printable import one_line

Json = dict[str, Any]  # Any: JSON

DEFAULT_URL: Final = "https://gitlab.com"
_TAGS: Final = {"success": "", "failed": "failure", "error": "error", "skipped": "skipped"}
"""What JUnit XML calls a status."""
_RAN_NOTHING: Final = frozenset({"skipped"})
_OF_REQUEST: Final = re.compile(r"refs/merge-requests/(\d+)/")


def api_of(url: str) -> str:
    """Return the API of the GitLab at `url`, which may lie below a path.

    >>> api_of("https://gitlab.com"), api_of("https://example.com/gitlab/")
    ('https://gitlab.com/api/v4', 'https://example.com/gitlab/api/v4')
    """
    plain = url.rstrip("/")
    return plain if plain.endswith("/api/v4") else f"{plain}/api/v4"


def headers_of(token: str, *, is_job_token: bool) -> dict[str, str]:
    """Return what is sent with each request; without a token nothing, which is enough for some public projects."""
    return {"JOB-TOKEN" if is_job_token else "PRIVATE-TOKEN": token} if token else {}


class GitLab:
    """One project of a GitLab, by its path or number."""

    def __init__(self, client: ForgeClient, project: str) -> None:
        """Raises UsageError when `project` is neither."""
        if not re.fullmatch(r"[\w.-]+(?:/[\w.-]+)+|\d+", project):
            raise UsageError(f"{project!r} is no project of GitLab's: write GROUP/NAME, or its number")
        self._client, self._name = client, project
        self._base = f"/projects/{quote(project, safe='')}"
        self._default_branch = ""
        self._branches: dict[str, str] = {}
        self._shared: dict[str, set[str]] = {}
        """Of the pipeline at hand: the numbers of the jobs that share a report, by the name of that."""

    @property
    def repository(self) -> str:
        return self._name

    @property
    def repeats_ids(self) -> bool:
        return False

    def runs(self, wanted: Wanted) -> list[FinishedRun]:
        """Return finished pipelines, the newest first. Raises what `ForgeClient.get` does."""
        told = self._client.get(self._base)
        if isinstance(told, dict):
            self._default_branch = str(told.get("default_branch") or "")
            self._name = str(told.get("path_with_namespace") or self._name)
        # In this order new pipelines push none off its page unseen. Pages by key instead of number GitLab has for other lists only.
        params = {"scope": "finished", "order_by": "id", "sort": "desc"}
        if wanted.branch:
            params["ref"] = wanted.branch
        if wanted.workflow:
            params["name"] = wanted.workflow
        if wanted.since is not None:
            # What was created since was updated since; `created_after` is younger than many a GitLab.
            params["updated_after"] = f"{wanted.since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        found: dict[str, FinishedRun] = {}
        for one in self._client.pages(f"{self._base}/pipelines", params):
            created = moment_of(one.get("created_at"))
            is_older = wanted.since is not None and created is not None and created < wanted.since
            if "id" in one and one.get("status") not in _RAN_NOTHING and not is_older:
                found.setdefault(str(one["id"]), self._run(one))
            if len(found) >= wanted.limit:
                break
        return list(found.values())

    def _run(self, one: Json) -> FinishedRun:
        ref, request = str(one.get("ref") or ""), ""
        of_request = _OF_REQUEST.match(ref)
        if of_request is not None:
            request = of_request[1]
            ref = self._branch_of(request) or ref
        place = Place(
            "gitlab", self._name, ref, str(one.get("sha") or ""), self._default_branch, str(one["id"]), 1, "",
            str(one.get("web_url") or ""), request,
        )  # fmt: skip
        name = str(one.get("name") or one.get("source") or "")
        return FinishedRun(place, name, str(one.get("created_at") or ""), str(one.get("source") or ""))

    def _branch_of(self, request: str) -> str:
        """Return a merge request's own branch, as CI_MERGE_REQUEST_SOURCE_BRANCH_NAME has it; nothing where it may not be seen."""
        if request not in self._branches:
            try:
                told = self._client.get(f"{self._base}/merge_requests/{request}")
            except UsageError:
                told = {}
            self._branches[request] = str(told.get("source_branch") or "") if isinstance(told, dict) else ""
        return self._branches[request]

    def reports(self, run: FinishedRun) -> Iterator[FoundReport | LeftOut | Trouble]:
        """Yield one report for each job that left one. Raises what `ForgeClient.get` does."""
        base = f"{self._base}/pipelines/{run.place.run_id}"
        try:
            told = self._client.get(f"{base}/test_report")
        except NotThere:
            yield LeftOut("test report", "the pipeline was deleted, or its test report is hidden from this token")
            return
        suites = told.get("test_suites") if isinstance(told, dict) else None
        jobs: list[Json] | None = None
        self._shared = {}
        for suite in suites if isinstance(suites, list) else ():
            if not isinstance(suite, dict):
                continue
            name = str(suite.get("name") or "")
            if suite.get("suite_error"):
                yield Trouble(name, f"GitLab could not read the file: {_line(suite['suite_error'])}")
            cases = [case for case in suite.get("test_cases") or () if isinstance(case, dict)]
            if not cases:
                continue
            try:
                report = _report(suite, cases)
            except JUnitError as error:
                yield Trouble(name, f"{len(cases)} tests cannot be taken ({str(error).rpartition('/')[2]})")
                continue
            if jobs is None:
                jobs = self._jobs(base)
            named = _named(name, jobs)
            self._shared[name] = {str(one["id"]) for one in named if "id" in one}
            place, ended = _placed(run, name, named)
            yield FoundReport(place, name, report, ended.timestamp())

    def _jobs(self, base: str) -> list[Json]:
        try:
            return list(self._client.pages(f"{base}/jobs", {}))
        except UsageError:
            # The report says the job's name; without its number the pipeline's stands for it.
            return []

    def is_same(self, stored: Json, body: Json) -> bool:
        """Say whether a stored run is of the same job, or of one of those that share the report: the job reported itself."""
        theirs, ours = stored.get("origin"), body["origin"]
        if not isinstance(theirs, dict) or theirs.get("provider") != ours["provider"]:
            return False
        if _group(str(theirs.get("job") or "")) == ours["job"] and str(theirs.get("run_id")) in self._shared.get(ours["job"], ()):
            return True
        return all(theirs.get(name) == ours[name] for name in ("run_id", "job"))


def _named(suite: str, jobs: list[Json]) -> list[Json]:
    """Return the jobs that left a suite. GitLab names it after the job; jobs of `parallel: N` share one."""
    return [one for one in jobs if one.get("name") == suite] or [one for one in jobs if _group(str(one.get("name") or "")) == suite]


def _placed(run: FinishedRun, suite: str, named: list[Json]) -> tuple[Place, datetime]:
    """Return where a suite ran, by the jobs that left it, and when that ended."""
    ends = [end for one in named if (end := moment_of(one.get("finished_at"))) is not None]
    ended = max(ends, default=None) or moment_of(run.began_at) or datetime.now(UTC)
    if len(named) != 1 or "id" not in named[0]:
        return replace(run.place, job=suite), ended
    job = named[0]
    url = str(job.get("web_url") or run.place.url)
    return replace(run.place, run_id=str(job["id"]), job=suite, url=url), ended


def _group(name: str) -> str:
    """Return what jobs of `parallel: N` have in common.

    >>> _group("unit 1/3"), _group("unit")
    ('unit', 'unit')
    """
    return re.sub(r"\s+\d+[\s:/\\]+\d+\s*$", "", name)


def _report(suite: Json, cases: list[Json]) -> Report:
    """Return a suite as a report, by way of JUnit XML again: so tests are named, merged and bounded as everywhere.

    The file holds what stays the same: an answer also tells how often a test failed lately, which is another number tomorrow.

    Raises:
        JUnitError: it has too many tests.
    """
    root = Element("testsuite", {"time": str(_seconds(suite.get("total_time")))})
    for case in cases:
        told = {"classname": case.get("classname"), "name": case.get("name"), "file": case.get("file")}
        attributes = {name: value for name, value in told.items() if isinstance(value, str)}
        test = SubElement(root, "testcase", attributes | {"time": str(_seconds(case.get("execution_time")))})
        # A status that is not known here must not pass for success.
        if tag := _TAGS.get(str(case.get("status")), "error"):
            SubElement(test, tag).text = "\n".join(text for name in ("system_output", "stack_trace") if (text := _text(case.get(name))))
    with tempfile.TemporaryDirectory(prefix="isomon-") as folder:
        path = Path(folder) / "junit.xml"
        # JSON may hold half of a pair of surrogates, which no encoding has.
        path.write_bytes(tostring(root, encoding="unicode").encode("utf-8", "replace"))
        return read_reports([path], Path(folder))


def _text(value: object) -> str:
    """Return what a runner said, which GitLab hands on as it parsed it: a text, or attributes and text by name."""
    if isinstance(value, dict):
        return "\n".join(text for name in ("type", "message", "__content__") if (text := _text(value.get(name))))
    if isinstance(value, list):
        return "\n".join(text for one in value if (text := _text(one)))
    return value.strip() if isinstance(value, str) else ""


def _line(value: object) -> str:
    return one_line(str(value))[:300]


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 <= value <= sys.float_info.max else None
