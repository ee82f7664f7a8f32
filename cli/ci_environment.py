"""Where a test run ran: told by the CI's own environment variables, by git where those say nothing, and by options before either.

GitHub Actions, GitLab, CircleCI, Jenkins, Buildkite and Azure Pipelines, by the names that their manuals give.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

Environment = Mapping[str, str]

_DEFAULT_NAMES: Final = frozenset({"main", "master", "trunk", ""})
"""Branches that are taken for the default one where nobody says which it is. An unknown branch hides no failure."""
_GIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run ran; empty where it is not known. `attempt` counts from 1."""

    provider: str = ""
    repository: str = ""
    branch: str = ""
    commit: str = ""
    default_branch: str = ""
    run_id: str = ""
    attempt: int = 1
    job: str = ""
    url: str = ""
    pull_request: str = ""

    @property
    def is_default_branch(self) -> bool:
        """Say whether the run speaks for the suite: it is of the default branch, and of no pull request."""
        if self.pull_request:
            return False
        return self.branch == self.default_branch if self.default_branch else self.branch in _DEFAULT_NAMES


def find_place(environment: Environment, folder: Path) -> Place:
    """Return what the environment says; git fills in commit, branch and repository where it says nothing."""
    for variable, read in _PROVIDERS.items():
        if environment.get(variable, "").lower() not in ("", "false", "0"):
            return _with_git(read(environment), folder)
    return _with_git(Place(), folder)


def _github(e: Environment) -> Place:
    event = _event(e.get("GITHUB_EVENT_PATH", ""))
    pull = _part(event, "pull_request")
    head, repository = _part(pull, "head"), _part(event, "repository")
    name, run = e.get("GITHUB_REPOSITORY", ""), e.get("GITHUB_RUN_ID", "")
    return Place(
        "github",
        name,
        e.get("GITHUB_HEAD_REF") or e.get("GITHUB_REF_NAME", ""),
        # GITHUB_SHA of a pull request is a merge that exists nowhere else.
        str(head.get("sha") or e.get("GITHUB_SHA", "")),
        str(repository.get("default_branch") or ""),
        run,
        _number(e.get("GITHUB_RUN_ATTEMPT")),
        e.get("GITHUB_JOB", ""),
        f"{e.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}/actions/runs/{run}" if name and run else "",
        str(pull.get("number") or ""),
    )


def _gitlab(e: Environment) -> Place:
    branch = e.get("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME") or e.get("CI_COMMIT_BRANCH") or e.get("CI_COMMIT_REF_NAME", "")
    # A merge request of a fork runs there, and is a run of the project that it is for.
    project = e.get("CI_MERGE_REQUEST_PROJECT_PATH") or e.get("CI_PROJECT_PATH", "")
    return Place(
        "gitlab", project, branch, e.get("CI_COMMIT_SHA", ""), e.get("CI_DEFAULT_BRANCH", ""), e.get("CI_JOB_ID", ""),
        1, e.get("CI_JOB_NAME", ""), e.get("CI_JOB_URL", ""), e.get("CI_MERGE_REQUEST_IID", ""),
    )  # fmt: skip


def _circleci(e: Environment) -> Place:
    owner, name = e.get("CIRCLE_PROJECT_USERNAME", ""), e.get("CIRCLE_PROJECT_REPONAME", "")
    # Parallel containers of one build are jobs of their own.
    index = f" {e['CIRCLE_NODE_INDEX']}" if e.get("CIRCLE_NODE_TOTAL", "1") != "1" and "CIRCLE_NODE_INDEX" in e else ""
    return Place(
        "circleci", f"{owner}/{name}".strip("/"), e.get("CIRCLE_BRANCH", ""), e.get("CIRCLE_SHA1", ""), "", e.get("CIRCLE_BUILD_NUM", ""),
        1, e.get("CIRCLE_JOB", "") + index, e.get("CIRCLE_BUILD_URL", ""), e.get("CIRCLE_PULL_REQUEST", "").rpartition("/")[2],
    )  # fmt: skip


def _jenkins(e: Environment) -> Place:
    branch = e.get("CHANGE_BRANCH") or e.get("BRANCH_NAME") or e.get("GIT_BRANCH", "").removeprefix("origin/")
    return Place(
        "jenkins", _address(e.get("GIT_URL", "")), branch, e.get("GIT_COMMIT", ""),
        branch if e.get("BRANCH_IS_PRIMARY") == "true" else "", e.get("BUILD_NUMBER", ""), 1, e.get("JOB_NAME", ""),
        e.get("BUILD_URL", ""), e.get("CHANGE_ID", ""),
    )  # fmt: skip


def _buildkite(e: Environment) -> Place:
    pull = e.get("BUILDKITE_PULL_REQUEST", "false")
    return Place(
        "buildkite", _address(e.get("BUILDKITE_REPO", "")) or e.get("BUILDKITE_PIPELINE_SLUG", ""), e.get("BUILDKITE_BRANCH", ""),
        e.get("BUILDKITE_COMMIT", ""), e.get("BUILDKITE_PIPELINE_DEFAULT_BRANCH", ""), e.get("BUILDKITE_BUILD_NUMBER", ""),
        1 + _number(e.get("BUILDKITE_RETRY_COUNT"), 0), e.get("BUILDKITE_STEP_KEY") or e.get("BUILDKITE_LABEL", ""),
        e.get("BUILDKITE_BUILD_URL", ""), "" if pull == "false" else pull,
    )  # fmt: skip


def _azure(e: Environment) -> Place:
    project, build = f"{e.get('SYSTEM_COLLECTIONURI', '')}{e.get('SYSTEM_TEAMPROJECT', '')}", e.get("BUILD_BUILDID", "")
    branch = e.get("SYSTEM_PULLREQUEST_SOURCEBRANCH") or e.get("BUILD_SOURCEBRANCH", "")
    return Place(
        "azure", e.get("BUILD_REPOSITORY_NAME", ""), branch.removeprefix("refs/heads/"),
        e.get("SYSTEM_PULLREQUEST_SOURCECOMMITID") or e.get("BUILD_SOURCEVERSION", ""), "", build, _number(e.get("SYSTEM_JOBATTEMPT")),
        e.get("SYSTEM_JOBNAME") or e.get("AGENT_JOBNAME", ""), f"{project}/_build/results?buildId={build}" if project and build else "",
        e.get("SYSTEM_PULLREQUEST_PULLREQUESTNUMBER") or e.get("SYSTEM_PULLREQUEST_PULLREQUESTID", ""),
    )  # fmt: skip


_PROVIDERS: Final[Mapping[str, Callable[[Environment], Place]]] = {
    "GITHUB_ACTIONS": _github,
    "GITLAB_CI": _gitlab,
    "CIRCLECI": _circleci,
    "BUILDKITE": _buildkite,
    "TF_BUILD": _azure,
    # Last: others set some of Jenkins's names, too.
    "JENKINS_URL": _jenkins,
}


def _event(path: str) -> dict[str, Any]:  # Any: JSON
    """Return GitHub's description of what started the run; nothing where it cannot be read."""
    try:
        event = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return {}
    return event if isinstance(event, dict) else {}


def _part(event: dict[str, Any], name: str) -> dict[str, Any]:  # Any: as above
    part = event.get(name)
    return part if isinstance(part, dict) else {}


def _number(text: str | None, default: int = 1) -> int:
    return int(text) if text and text.isdigit() else default


def _address(url: str) -> str:
    """Return a repository's path on its forge, such as `owner/name` or `group/part/name`; else without user and password."""
    found = re.fullmatch(r"(?:[a-z+]+://[^/]+/|(?:[^/@]+@)?[^/:@]+:(?!/))([\w./-]+?)(?:\.git)?/?", url)
    return found[1] if found and "/" in found[1] else re.sub(r"//[^/@]*@", "//", url)


def _with_git(place: Place, folder: Path) -> Place:
    """Fill in what the environment did not say."""
    changes: dict[str, str] = {}
    if not place.commit:
        changes["commit"] = _commit(folder)
    if not place.branch:
        changes["branch"] = _git(folder, "branch", "--show-current")
    if not place.repository:
        changes["repository"] = _address(_git(folder, "config", "--get", "remote.origin.url"))
    if not place.default_branch:
        changes["default_branch"] = _git(folder, "symbolic-ref", "--short", "refs/remotes/origin/HEAD").removeprefix("origin/")
    return replace(place, **changes)  # type: ignore[arg-type]  # only texts are changed


def _commit(folder: Path) -> str:
    """Return the commit that is checked out; changes beside it are part of the name.

    A test that fails, is mended and passes before anybody commits has had both results at one commit, and is not flaky.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _output(folder, "diff", "--no-ext-diff", "--no-color", "HEAD") if commit else b""
    return f"{commit[:40]}-dirty-{hashlib.sha256(changes).hexdigest()[:8]}" if changes.strip() else commit


def _git(folder: Path, *arguments: str) -> str:
    """Return what git says in one line; empty where it is missing, fails or hangs."""
    lines = _output(folder, *arguments).decode("utf-8", "replace").strip().splitlines()
    return lines[0] if lines else ""


def _output(folder: Path, *arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, timeout=_GIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""
