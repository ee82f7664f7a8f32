"""GitHub Actions: finished workflow runs, and the JUnit files in their artifacts.

Source: GitHub's REST API, "Workflow runs", "Workflow jobs" and "Artifacts", version 2022-11-28, which GitHub Enterprise Server has too.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from isolation_monitor.cli.ci_environment import Place
from isolation_monitor.cli.ci_import.archive import MAX_ARCHIVE_BYTES, read_artifact
from isolation_monitor.cli.ci_import.client import ForgeClient, NotThere, TooLarge
from isolation_monitor.cli.ci_import.importing import FinishedRun, FoundReport, LeftOut, Trouble, Wanted, moment_of
from isolation_monitor.cli.collector_client import UsageError
from isolation_monitor.collector.ci.domain import name_apart

Json = dict[str, Any]  # Any: JSON

DEFAULT_URL: Final = "https://github.com"
EVERY: Final = "*"
_SEARCHED: Final = 1000
"""GitHub lists no more than this of a search."""
_RAN_NOTHING: Final = frozenset({"skipped", "action_required", "stale", "startup_failure"})
_SLACK: Final = timedelta(seconds=2)


def api_of(url: str) -> str:
    """Return the API of the GitHub at `url`.

    >>> api_of("https://github.com"), api_of("https://shop.ghe.com"), api_of("https://git.example.com/")
    ('https://api.github.com', 'https://api.shop.ghe.com', 'https://git.example.com/api/v3')
    """
    plain, host = url.rstrip("/"), urlsplit(url).netloc.lower()
    if plain.endswith("/api/v3") or host.startswith("api."):
        return plain
    if host in ("github.com", "www.github.com"):
        return "https://api.github.com"
    return f"https://api.{host}" if host.endswith(".ghe.com") else f"{plain}/api/v3"


def headers_of(token: str) -> dict[str, str]:
    """Return what is sent with each request to the API."""
    return {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28", "Authorization": f"Bearer {token}"}


class GitHub:
    """One repository of a GitHub. `artifact` is a glob; only artifacts of such a name are fetched."""

    def __init__(self, client: ForgeClient, repository: str, artifact: str = EVERY) -> None:
        """Raises UsageError when `repository` is no OWNER/NAME."""
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
            raise UsageError(f"{repository!r} is no repository of GitHub's: write OWNER/NAME")
        self._client, self._name, self._artifact = client, repository, artifact
        self._default_branch = ""

    @property
    def repository(self) -> str:
        return self._name

    @property
    def repeats_ids(self) -> bool:
        return True

    def runs(self, wanted: Wanted) -> list[FinishedRun]:
        """Return completed runs, the newest first. Raises what `ForgeClient.get` does."""
        told = self._client.get(f"/repos/{self._name}")
        if isinstance(told, dict):
            self._default_branch = str(told.get("default_branch") or "")
            # As GITHUB_REPOSITORY has it inside of a job: letters as the owner wrote them, and the new name of one that moved.
            self._name = str(told.get("full_name") or self._name)
        found: dict[str, FinishedRun] = {}
        until = ""
        while True:
            number, oldest = 0, until
            for one in self._listed(wanted, until):
                number += 1
                oldest = str(one.get("created_at") or oldest)
                if one.get("status") == "completed" and one.get("conclusion") not in _RAN_NOTHING and "id" in one:
                    found.setdefault(str(one["id"]), self._run(one))
                if len(found) >= wanted.limit:
                    return list(found.values())
            if number < _SEARCHED or oldest == until:
                return list(found.values())
            until = oldest

    def _listed(self, wanted: Wanted, until: str) -> Iterator[Json]:
        path = f"/repos/{self._name}/actions"
        path += f"/workflows/{quote(wanted.workflow, safe='')}/runs" if wanted.workflow else "/runs"
        params = {"status": "completed"}
        if wanted.branch:
            params["branch"] = wanted.branch
        since = f"{wanted.since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if wanted.since is not None else ""
        if since or until:
            params["created"] = f"{since or '*'}..{until}" if until else f">={since}"
        return self._client.pages(path, params, "workflow_runs")

    def _run(self, one: Json) -> FinishedRun:
        event, branch = str(one.get("event") or ""), str(one.get("head_branch") or "")
        pull = ""
        if event.startswith("pull_request"):
            numbers = [str(each["number"]) for each in one.get("pull_requests") or () if isinstance(each, dict) and "number" in each]
            pull = numbers[0] if numbers else ""
            theirs = _part(one, "head_repository")
            owner = str(_part(theirs, "owner").get("login") or "")
            is_ours = theirs.get("full_name") == self._name
            if not pull and not (is_ours and not Place(branch=branch, default_branch=self._default_branch).is_default_branch):
                # GitHub names no pull request of a fork, nor one that is closed; its `main` must not speak for ours. A fork that was
                # deleted has no owner any more.
                branch = f"{owner or 'fork'}:{branch}"
        attempt = one.get("run_attempt")
        place = Place(
            "github", self._name, branch, str(one.get("head_sha") or ""), self._default_branch, str(one["id"]),
            attempt if isinstance(attempt, int) and attempt > 0 else 1, "", str(one.get("html_url") or ""), pull,
        )  # fmt: skip
        return FinishedRun(place, str(one.get("name") or ""), str(one.get("run_started_at") or one.get("created_at") or ""), event)

    def reports(self, run: FinishedRun) -> Iterator[FoundReport | LeftOut | Trouble]:
        """Yield one report for each artifact that fits and has JUnit files. Raises what `ForgeClient.get` does."""
        base = f"/repos/{self._name}/actions/runs/{run.place.run_id}"
        try:
            listed = self._client.pages(f"{base}/artifacts", {}, "artifacts")
            artifacts = [one for one in listed if "id" in one and fnmatchcase(_name(one), self._artifact)]
        except NotThere:
            yield LeftOut("artifacts", "the run was deleted meanwhile")
            return
        jobs: list[Json] | None = None
        for one in sorted(artifacts, key=lambda each: (str(each.get("created_at") or ""), _name(each))):
            name = _name(one)
            if one.get("expired") is True:
                yield LeftOut(name, f"the artifact expired{_on(one.get('expires_at'))}")
                continue
            told_bytes = one.get("size_in_bytes")
            if isinstance(told_bytes, int) and told_bytes > MAX_ARCHIVE_BYTES:
                text = f"has {told_bytes} bytes, at most {MAX_ARCHIVE_BYTES} are fetched: {_SMALLER}"
                # Of all artifacts some are large for good reasons; one that was asked for is missed.
                yield LeftOut(name, text) if self._artifact == EVERY else Trouble(name, text)
                continue
            with tempfile.TemporaryDirectory(prefix="isomon-") as folder:
                archive, inside = Path(folder) / "artifact", Path(folder) / "files"
                inside.mkdir()
                try:
                    with archive.open("w+b") as target:
                        self._client.download(f"/repos/{self._name}/actions/artifacts/{one['id']}/zip", target, MAX_ARCHIVE_BYTES)
                except TooLarge:
                    yield Trouble(name, f"has more than {MAX_ARCHIVE_BYTES} bytes: {_SMALLER}")
                    continue
                except NotThere as error:
                    yield LeftOut(name, "the artifact expired or was deleted") if error.is_gone else Trouble(name, str(error))
                    continue
                found = read_artifact(archive, name, inside)
            yield from (Trouble(name, text) for text in found.troubles)
            if found.report is None:
                continue
            if jobs is None:
                jobs = self._jobs(base)
            made = moment_of(one.get("created_at")) or moment_of(run.began_at) or datetime.now(UTC)
            yield FoundReport(_placed(run.place, name, made, jobs), name, found.report, made.timestamp())

    def _jobs(self, base: str) -> list[Json]:
        try:
            return list(self._client.pages(f"{base}/jobs", {"filter": "all"}, "jobs"))
        except NotThere:
            return []

    def is_same(self, stored: Json, body: Json) -> bool:
        """Say whether a stored run is this report although its job is called otherwise: same attempt, suite, numbers and duration."""
        theirs, ours = _part(stored, "origin"), body["origin"]
        if any(theirs.get(name) != ours[name] for name in ("provider", "run_id", "attempt")):
            return False
        # Where another repository has a suite of that name the collector keeps this one apart.
        if stored.get("suite") not in (body["suite"], name_apart(body["suite"], body["repository"])):
            return False
        results = [test["result"] for test in body["tests"]]
        numbers = {"tests": len(results), "passed": results.count("pass"), "failed": results.count("fail")}
        took = stored.get("duration_s")
        # Files without times have no duration, and are then not told apart from those of another job.
        is_as_long = isinstance(took, int | float) and took > 0 and abs(took - body["duration_s"]) < 1e-6
        return is_as_long and all(stored.get(name) == number for name, number in numbers.items())


_SMALLER: Final = "upload the JUnit files as an artifact of their own, and name it with --artifact"


def _placed(place: Place, artifact: str, made: datetime, jobs: list[Json]) -> Place:
    """Return where an artifact comes from. GitHub does not say which job made it: the one that ran then, or that it is named after."""
    running = [one for one in jobs if _ran_at(one, made)]
    keys = {_key(one): one for one in reversed(running or jobs)}
    if len(keys) > 1:
        named = [key for key in keys if key.lower() in artifact.lower()]
        longest = max(map(len, named), default=0)
        keys = {key: keys[key] for key in named if len(key) == longest}
    # Not known which: the artifact's own name tells environments apart, which is what a job is for here.
    key = next(iter(keys)) if len(keys) == 1 else artifact
    made_by = [one for one in running if _key(one) == key] or running
    # A job that passed is listed again with each later attempt: the first one made the artifact.
    attempts = [attempt for one in made_by if isinstance(attempt := one.get("run_attempt"), int) and attempt > 0]
    return replace(place, job=key, attempt=min(attempts, default=place.attempt))


def _key(job: Mapping[str, Any]) -> str:  # Any: JSON
    """Return the job's key in the workflow, GITHUB_JOB, from its name, as it is where the workflow names the job no other way.

    >>> _key({"name": "test (3.12, ubuntu-latest)"}), _key({"name": "called / unit"})
    ('test', 'unit')
    """
    return re.sub(r" \([^()]*\)$", "", str(job.get("name") or "")).rpartition(" / ")[2]


def _ran_at(job: Mapping[str, Any], moment: datetime) -> bool:  # Any: JSON
    began, ended = moment_of(job.get("started_at")), moment_of(job.get("completed_at"))
    return began is not None and began - _SLACK <= moment and (ended is None or moment <= ended + _SLACK)


def _part(value: Mapping[str, Any], name: str) -> dict[str, Any]:  # Any: JSON
    part = value.get(name)
    return part if isinstance(part, dict) else {}


def _name(artifact: Json) -> str:
    return str(artifact.get("name") or artifact.get("id") or "")


def _on(text: object) -> str:
    moment = moment_of(text)
    return f" on {moment:%Y-%m-%d}" if moment is not None else ""
