"""A GitHub and a GitLab for tests: small servers that answer as their documented APIs do, on a port of this machine.

Pages by `Link`, artifacts by a redirect to a storage on another port, and whatever a test puts in the way of a path.
"""

from __future__ import annotations

import contextlib
import io
import json
import ssl
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Json = dict[str, Any]  # Any: JSON

BEGAN = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(days=2)
"""When run 0 of a forge began; run N began N minutes later. Not long ago: a collector forgets what is old."""


def at(number: int, second: float = 0) -> str:
    """Return a moment of run `number`, as forges write it."""
    return (BEGAN + timedelta(minutes=number, seconds=second)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class Answer:
    """One answer of a server."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Server:
    """One running server. `seen` are the requests: path with query, and headers in lower case."""

    url: str
    answer: Callable[[str, dict[str, str]], Answer]
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    in_the_way: dict[str, list[Answer]] = field(default_factory=dict)
    """Answers by path that come first, each once."""

    def paths(self) -> list[str]:
        return [path for path, _ in self.seen]


@contextlib.contextmanager
def serving(answer: Callable[[str, dict[str, str]], Answer], tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Run a server until the block ends; `answer` gets the path and the query."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            parts = urlsplit(self.path)
            waiting = server.in_the_way.get(parts.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            found = waiting.pop(0) if waiting else server.answer(unquote(parts.path), query)
            self.send_response(found.status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        if tls is not None:
            httpd.socket = tls.wrap_socket(httpd.socket, server_side=True)
        server = Server(f"http{'s' if tls is not None else ''}://127.0.0.1:{httpd.server_port}", answer)
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            httpd.shutdown()
            thread.join()


def said(value: object, **headers: str) -> Answer:
    """Return a JSON answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"} | named)


NOT_THERE = Answer(404, b'{"message": "Not Found", "status": "404"}')


def paged(items: list[Json], query: dict[str, str], url: str, key: str = "") -> Answer:
    """Return one page of a list, with a link to the next one; of an object with `key` where GitHub has one."""
    size, page = min(int(query.get("per_page", "30")), 100), int(query.get("page", "1"))
    part = items[(page - 1) * size : page * size]
    following = "&".join(f"{name}={value}" for name, value in (query | {"page": str(page + 1)}).items())
    link = {"Link": f'<{url}?{following}>; rel="next", <{url}?page=1>; rel="first"'} if page * size < len(items) else {}
    return said({"total_count": len(items), key: part} if key else part, **link)


def zipped(files: Mapping[str, bytes | str]) -> bytes:
    """Return a zip file."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def junit(*tests: str, failed: tuple[str, ...] = (), name: str = "pytest", began: str = at(0, 5)) -> str:
    """Return a file as pytest writes it."""
    cases = [
        f'<testcase classname="tests.test_cart" name="{one}" time="0.25">'
        + ('<failure message="AssertionError: assert 1 == 2">E   assert 1 == 2</failure>' if one in failed else "")
        + "</testcase>"
        for one in tests
    ]
    head = f'<testsuite name="{name}" failures="{len(failed)}" errors="0" tests="{len(tests)}" time="1.5" timestamp="{began}">'
    return f'<?xml version="1.0" encoding="utf-8"?><testsuites>{head}{"".join(cases)}</testsuite></testsuites>'


@dataclass
class FakeGitHub:
    """One repository, `example/shop`. Artifacts are kept by id, their content in the storage."""

    api: Server
    storage: Server
    runs: list[Json] = field(default_factory=list)
    artifacts: dict[int, list[Json]] = field(default_factory=dict)
    jobs: dict[int, list[Json]] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)

    def add_run(self, number: int, **changes: Any) -> Json:  # Any: JSON
        """Add a completed run, newer than those before it."""
        run = {
            "id": number, "name": "tests", "head_branch": "main", "head_sha": f"{number:040x}", "run_attempt": 1, "event": "push",
            "status": "completed", "conclusion": "success", "html_url": f"https://github.com/example/shop/actions/runs/{number}",
            "pull_requests": [], "created_at": at(number), "run_started_at": at(number),
            "head_repository": {"full_name": "example/shop", "owner": {"login": "example"}},
        } | changes  # fmt: skip
        self.runs.insert(0, run)
        self.jobs[number] = [self.job("test", number)]
        return run

    def job(self, name: str, run: int, **changes: Any) -> Json:  # Any: JSON
        times = {"started_at": at(run, 1), "completed_at": at(run, 50)}
        return {"id": run * 10, "run_id": run, "run_attempt": 1, "name": name} | times | changes

    def add_artifact(self, run: int, name: str, content: bytes, **changes: Any) -> int:  # Any: JSON
        """Add an artifact; return its id."""
        number = 1000 + len(self.contents)
        self.contents[number] = content
        one = {"id": number, "name": name, "size_in_bytes": len(content), "expired": False, "expires_at": "2020-01-30T10:00:00Z"}
        one |= {"created_at": at(run, 40)} | changes
        self.artifacts.setdefault(run, []).append(one)
        return number

    def answer(self, path: str, query: dict[str, str]) -> Answer:
        base = "/api/v3/repos/example/shop"
        if not path.startswith(base):
            return NOT_THERE
        rest, url = path[len(base) :], f"{self.api.url}{path}"
        match rest.strip("/").split("/"):
            case [""]:
                return said({"full_name": "example/shop", "default_branch": "main"})
            case ["actions", "runs"] | ["actions", "workflows", "tests.yml", "runs"]:
                since, _, until = query.get("created", "*").removeprefix(">=").partition("..")
                began, ended = (datetime.fromisoformat(one) if one.strip("*") else None for one in (since, until))
                found = [
                    one for one in self.runs
                    if query.get("branch", one["head_branch"]) == one["head_branch"] and query.get("status", one["status"]) == one["status"]
                    and (began is None or datetime.fromisoformat(one["created_at"]) >= began)
                    and (ended is None or datetime.fromisoformat(one["created_at"]) <= ended)
                ]  # fmt: skip
                return paged(found[:1000], query, url, "workflow_runs")
            case ["actions", "runs", run, "artifacts"]:
                return paged(self.artifacts.get(int(run), []), query, url, "artifacts")
            case ["actions", "runs", run, "jobs"]:
                return paged(self.jobs.get(int(run), []), query, url, "jobs")
            case ["actions", "artifacts", number, "zip"]:
                return Answer(302, headers={"Location": f"{self.storage.url}/blobs/{number}.zip?signature=secret-of-the-storage"})
        return NOT_THERE

    def stored(self, path: str, query: dict[str, str]) -> Answer:
        if query.get("signature") != "secret-of-the-storage":
            return Answer(403, b"<Error><Code>AuthenticationFailed</Code></Error>")
        return Answer(200, self.contents[int(path.rpartition("/")[2].removesuffix(".zip"))], {"Content-Type": "application/zip"})


@contextlib.contextmanager
def github() -> Iterator[FakeGitHub]:
    """Run a GitHub, and the storage of its artifacts beside it."""
    fake: list[FakeGitHub] = []
    with (
        serving(lambda path, query: fake[0].answer(path, query)) as api,
        serving(lambda path, query: fake[0].stored(path, query)) as storage,
    ):
        fake.append(FakeGitHub(api, storage))
        yield fake[0]


@dataclass
class FakeGitLab:
    """One project, `group/shop`, number 7, below a path as some installations have it."""

    api: Server
    pipelines: list[Json] = field(default_factory=list)
    reports: dict[int, list[Json]] = field(default_factory=dict)
    jobs: dict[int, list[Json]] = field(default_factory=dict)
    requests: dict[str, Json] = field(default_factory=dict)

    def add_pipeline(self, number: int, **changes: Any) -> Json:  # Any: JSON
        """Add a finished pipeline, newer than those before it, with a job `unit` that left a report of three tests."""
        pipeline = {
            "id": number, "iid": number, "project_id": 7, "status": "failed", "source": "push", "ref": "main", "sha": f"{number:040x}",
            "web_url": f"https://gitlab.example.com/group/shop/-/pipelines/{number}", "name": None,
            "created_at": at(number), "updated_at": at(number),
        } | changes  # fmt: skip
        self.pipelines.insert(0, pipeline)
        self.jobs[number] = [self.job("unit", number)]
        self.reports[number] = [suite("unit")]
        return pipeline

    def job(self, name: str, pipeline: int, place: int = 0) -> Json:
        number = pipeline * 100 + place
        return {
            "id": number, "name": name, "stage": "test", "status": "failed", "started_at": at(pipeline, 10),
            "finished_at": at(pipeline, 30), "web_url": f"https://gitlab.example.com/group/shop/-/jobs/{number}",
        }  # fmt: skip

    def answer(self, path: str, query: dict[str, str]) -> Answer:
        base = "/gitlab/api/v4/projects/group/shop"
        if not path.startswith(base):
            return Answer(404, b'{"message":"404 Project Not Found"}')
        # Behind a proxy GitLab takes itself for another host.
        url = f"http://gitlab.internal{path}"
        match path[len(base) :].strip("/").split("/"):
            case [""]:
                return said({"id": 7, "path_with_namespace": "group/shop", "default_branch": "main"})
            case ["pipelines"]:
                found = [one for one in self.pipelines if query.get("ref", one["ref"]) == one["ref"]]
                return paged(found, query, url)
            case ["pipelines", number, "test_report"]:
                suites = self.reports.get(int(number), [])
                return said({"total_time": 1.0, "total_count": 3, "test_suites": suites})
            case ["pipelines", number, "jobs"]:
                return paged(self.jobs.get(int(number), []), query, url)
            case ["merge_requests", number] if number in self.requests:
                return said(self.requests[number])
        return Answer(404, b'{"message":"404 Not found"}')


def suite(name: str, **changes: Any) -> Json:  # Any: JSON
    """Return a suite of a test report: one passed, one failed, one skipped."""
    common = {"classname": "tests.test_cart", "file": "tests/test_cart.py", "attachment_url": None, "stack_trace": None}
    return {
        "name": name, "total_time": 1.5, "total_count": 3, "success_count": 1, "failed_count": 1, "skipped_count": 1, "error_count": 0,
        "suite_error": None,
        "test_cases": [
            common | {"status": "success", "name": "test_adds", "execution_time": 0.5, "system_output": None},
            common | {"status": "failed", "name": "test_pays", "execution_time": 1.0, "recent_failures": {"count": 3},
                      "system_output": "def test_pays():\n>   pay()\nE   ConnectionRefusedError: [Errno 111] Connection refused"},
            common | {"status": "skipped", "name": "test_later", "execution_time": 0.0, "system_output": "later"},
        ],
    } | changes  # fmt: skip


@contextlib.contextmanager
def gitlab() -> Iterator[FakeGitLab]:
    """Run a GitLab."""
    fake: list[FakeGitLab] = []
    with serving(lambda path, query: fake[0].answer(path, query)) as api:
        fake.append(FakeGitLab(api))
        yield fake[0]
