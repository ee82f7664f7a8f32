"""`isomon gate`, `rollout` and `migrate` as they are used: in a process of their own, against a real collector."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import pytest

from tests.real_parts.collector import Collector, collector
from tests.real_parts.processes import free_port


def isomon(
    *words: str, token: str | None = None, cwd: Path | None = None, output: IO[str] | int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ISOMON_", "COLLECTOR_"))}
    if token is not None:
        environment["ISOMON_TOKEN"] = token
    command = [sys.executable, "-m", "isolation_monitor.cli", *words]
    return subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, env=environment, cwd=cwd, check=False, timeout=120)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Collector]:
    with collector(tmp_path) as one:
        yield one


def test_a_gate_is_asked_from_start_to_failure(running: Collector, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(running.read_token + "\n")
    about = ["--collector", running.url, "--token-file", str(token_file)]

    started = isomon("rollout", "start", "canary-1", "--service", "chat", *about)
    unseen = isomon("gate", "check", "canary-1", *about)
    violation = {
        "type": "violation", "id": "v-1", "time": "2100-01-01T00:00:00Z", "kind": "wrong_socket", "grade": "crossed",
        "detector": "wrong_socket", "synthetic": False,
    }  # fmt: skip
    violation["time"] = json.loads(isomon("rollout", "show", "canary-1", "--json", *about).stdout)["started_at"]
    send(running, violation)
    failed = isomon("gate", "check", "canary-1", "--wait", "60s", "--json", *about)
    table = isomon("gate", "check", "canary-1", *about)

    assert started.returncode == 0, started.stderr
    assert (unseen.returncode, "source_unavailable" in unseen.stdout) == (30, True)
    assert failed.returncode == 10
    assert json.loads(failed.stdout)["verdict"] == "fail"
    assert (table.returncode, "violations" in table.stdout) == (10, True)


def send(running: Collector, record: dict[str, Any]) -> None:
    import urllib.request

    body = {"schema": "records/1", "service": "chat", "instance": "i", "sent_at": record["time"], "records": [record]}
    request = urllib.request.Request(
        f"{running.url}/v1/records", json.dumps(body).encode(), running.sending | {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["accepted"] == 1


@pytest.mark.parametrize("verdict", ["pass", "fail", "inconclusive", "error"])
def test_each_verdict_has_its_exit_code(verdict: str) -> None:
    with answering(200, {"schema": "gate/v1", "rollout": "r", "verdict": verdict, "reasons": [], "metrics": {}}) as url:
        done = isomon("gate", "check", "r", "--collector", url, token="t")

    assert done.returncode == {"pass": 0, "fail": 10, "inconclusive": 20, "error": 30}[verdict]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"verdict": "pass"}),
        (200, {"schema": "gate/v1", "verdict": "splendid"}),
        (200, "log in"),
        (200, None),
        (503, {"detail": "later"}),
        (302, {}),
    ],
)
def test_an_answer_that_is_no_gate_answer_is_never_a_pass(status: int, body: Any) -> None:
    """A login page or a proxy that answers 200 must not promote a rollout."""
    with answering(status, body) as url:
        assert isomon("gate", "check", "r", "--collector", url, token="t").returncode == 30


def test_a_collector_that_is_away_is_an_error_after_the_wait() -> None:
    done = isomon("gate", "check", "r", "--collector", f"http://127.0.0.1:{free_port()}", "--wait", "6s", "--json", token="t")

    assert done.returncode == 30
    assert json.loads(done.stdout)["reasons"][0]["code"] == "no_answer"
    assert "waiting" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("gate",),
        ("gate", "check"),
        ("gate", "check", "r", "--wait", "soon"),
        ("gate", "check", "r", "--collector", "collector:80"),
        ("gate", "check", "r", "--token-file", "/nonexistent"),
        ("rollout", "start", "r"),
        ("migrate", "--database-url", "mysql://db/x"),
        ("migrate", "--down"),
        ("migrate", "--to", "no-such-revision", "--database-url", "sqlite:///x.sqlite3"),
    ],
)
def test_wrong_usage_leaves_with_2(words: tuple[str, ...], tmp_path: Path) -> None:
    assert isomon(*words, token="t", cwd=tmp_path).returncode == 2


def test_a_missing_token_and_an_unknown_rollout_leave_with_2(running: Collector) -> None:
    missing = isomon("gate", "check", "r", "--collector", running.url)
    wrong = isomon("gate", "check", "r", "--collector", running.url, token="wrong")
    unknown = isomon("gate", "check", "r", "--collector", running.url, token=running.read_token)

    assert [done.returncode for done in (missing, wrong, unknown)] == [2, 2, 2]
    assert "ISOMON_TOKEN" in missing.stderr
    assert "not known" in wrong.stderr
    assert "no rollout" in unknown.stderr


def test_help_shows_examples_and_exit_codes() -> None:
    text = isomon("gate", "check", "--help").stdout

    assert "isomon gate check canary-42" in text
    assert "20 inconclusive" in text


def test_migrate_says_what_it_did_and_goes_back(tmp_path: Path) -> None:
    about = ["--database-url", f"sqlite:///{tmp_path / 'm.sqlite3'}"]

    texts = [isomon("migrate", *words, *about).stdout for words in ([], [], ["--down", "--to", "base"])]

    assert texts[0].startswith("migrated the schema from nothing to ")
    assert texts[1].startswith("nothing to do")
    assert texts[2].rstrip().endswith("to base")


def test_migrate_of_a_database_that_is_away_leaves_with_1() -> None:
    done = isomon("migrate", "--database-url", f"postgresql://u:hidden@127.0.0.1:{free_port()}/x")

    assert done.returncode == 1
    assert "hidden" not in done.stderr
    assert "Traceback" not in done.stderr


class answering:
    """A server that gives one answer to everything."""

    def __init__(self, status: int, body: Any) -> None:
        payload = b"" if body is None else (body.encode() if isinstance(body, str) else json.dumps(body).encode())

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
