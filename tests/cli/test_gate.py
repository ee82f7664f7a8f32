"""`isomon gate check` and `explain`: exit codes, what CI reads of them, and the words for people."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from isolation_monitor.cli import gate as gate_command
from isolation_monitor.cli import gate_summary, gate_words
from tests.consumers import ci
from tests.consumers.files import filled, load
from tests.real_parts.collector import collector

VERDICTS = ("pass", "fail", "inconclusive", "error")
CODES = {"pass": 1, "inconclusive": 0, "fail": -1, "error": -2}
MISSING = {
    "trigger": "isolation", "state": "inconclusive", "code": "min_samples", "detail": "210 of 420 exposed isolated requests of arm on",
    "have": 210, "need": 420, "about_minutes": 7,
}  # fmt: skip
BROKEN = {
    "trigger": "isolation", "state": "fail", "code": "violations", "detail": "1 violations in records; one is enough", "have": 1, "need": 0,
    "examples": ["0197a3c2"],
}  # fmt: skip
BLIND = {"trigger": "source", "state": "error", "code": "scrape_down", "detail": "none of 2 targets can be scraped"}
REASONS: dict[str, list[dict[str, Any]]] = {"pass": [], "fail": [BROKEN, MISSING], "inconclusive": [MISSING], "error": [BLIND]}
CONFIG = {
    "rollout": "checkout-v2", "service": "checkout", "arm": "on", "min_exposed_requests": 420, "min_owed_events": 100,
    "scrape_stale_after_s": 30.0, "delivery_floor_percent": 95, "started_at": "2026-01-01T12:00:00.000Z",
}  # fmt: skip


def answer(verdict: str, **changes: object) -> dict[str, Any]:
    return {
        "schema": "gate/v1", "decision_id": "d1", "rollout": "checkout-v2", "stage": "canary10", "service": "checkout", "arm": "on",
        "verdict": verdict, "verdict_code": CODES[verdict], "ok": verdict == "pass", "rollback": verdict == "fail",
        "hold": verdict in ("inconclusive", "error"), "latched": False, "reasons": REASONS[verdict],
        "metrics": {"isolation_checks": 2140, "isolation_upper95": 0.0014, "error_diff_pp": 0.21, "p95_ratio": 1.03, "new_number": 7},
        "as_of": "2026-01-01T12:00:00.000Z", "decision_url": "http://127.0.0.1:8400/v1/gates/checkout-v2/decisions/d1",
    } | changes  # fmt: skip


@contextlib.contextmanager
def gate(*answers: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Serve these answers one after the other, the last one for ever, and the decision behind them; yield address and what was asked."""
    asked: list[str] = []
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            value = left[0] if len(left) == 1 else left.pop(0)
            if "/decisions/" in self.path:
                value = {"schema": "gate-decision/1", "decision_id": "d1", "answer": left[0], "config": CONFIG, "inputs": {}}
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def isomon(*words: str, **environment: str) -> Done:
    """Run `isomon gate` in this process; in one of its own it is run by tests/collector/test_commands.py and the snippets below."""
    away = dict.fromkeys((key for key in os.environ if key.startswith(("ISOMON_", "GITHUB_"))), None)
    done = CliRunner().invoke(gate_command.app, list(words), env=away | {"ISOMON_TOKEN": "t"} | environment)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


# --- check ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "words", "code"),
    [
        *((verdict, (), code) for verdict, code in (("pass", 0), ("fail", 10), ("inconclusive", 20), ("error", 30))),
        *((verdict, ("--exit-map", "binary"), code) for verdict, code in (("pass", 0), ("fail", 10), ("inconclusive", 10), ("error", 10))),
        *(
            (verdict, ("--exit-map", "binary", "--on-inconclusive", "pass"), code)
            for verdict, code in (("pass", 0), ("fail", 10), ("inconclusive", 0), ("error", 0))
        ),
        *((verdict, ("--exit-map", "binary", "--on-inconclusive", "fail"), 10) for verdict in ("fail", "inconclusive", "error")),
    ],
)
def test_the_exit_code_of_each_verdict(verdict: str, words: tuple[str, ...], code: int) -> None:
    with gate(answer(verdict)) as (url, asked):
        done = isomon("check", "checkout-v2", "--stage", "canary10", "--collector", url, *words)

    assert done.returncode == code
    assert asked == ["/v1/gates/checkout-v2?stage=canary10"]


@pytest.mark.parametrize(
    "words",
    [("--on-inconclusive", "pass"), ("--exit-map", "other"), ("--exit-map", "binary", "--on-inconclusive", "maybe"), ("--wait", "x")],
)
def test_what_makes_no_sense_is_usage_and_no_verdict(words: tuple[str, ...]) -> None:
    with gate(answer("pass")) as (url, asked):
        done = isomon("check", "r", "--collector", url, *words)

    assert (done.returncode, asked) == (2, [])


def test_it_waits_until_there_is_a_verdict_and_says_meanwhile_what_is_missing() -> None:
    with gate(answer("inconclusive"), answer("error"), answer("pass")) as (url, asked):
        done = isomon("check", "r", "--collector", url, "--wait", "60s", "--json")

    assert (done.returncode, len(asked)) == (0, 3)
    assert json.loads(done.stdout)["verdict"] == "pass"
    assert "210 of 420" in done.stderr


def test_in_a_log_each_reason_is_one_line_however_long() -> None:
    long = MISSING | {"detail": "210 of 420 exposed isolated requests " + "and so on " * 40 + "to the end"}
    with gate(answer("inconclusive", reasons=[long])) as (url, _):
        done = isomon("check", "r", "--collector", url)

    (line,) = [line for line in done.stdout.splitlines() if line.startswith("isolation ")]
    assert line.rstrip().endswith("to the end")
    assert "210" in line


def test_the_job_template_asks_for_what_the_command_takes(tmp_path: Path) -> None:
    """A Kubernetes Job knows complete (0) and failed (anything else) and no third; its pod is not started twice."""
    spec = load("argo-rollouts/analysis-template-job.yaml")["spec"]["metrics"][0]["provider"]["job"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    words = filled(container["args"], {"rollout": "checkout-v2", "stage": "canary10"})
    words[words.index("--wait") + 1] = "1s"
    assert (spec["backoffLimit"], pod["restartPolicy"], container["command"], words[0]) == (0, "Never", ["isomon"], "gate")

    codes = {}
    for verdict in VERDICTS:
        with gate(answer(verdict)) as (url, _):
            codes[verdict] = isomon(*words[1:], ISOMON_COLLECTOR=url).returncode

    assert {verdict: code == 0 for verdict, code in codes.items()} == {"pass": True, "fail": False, "inconclusive": False, "error": False}


# --- CI ---------------------------------------------------------------------------------------------------------------


def test_github_gets_outputs_and_a_summary(tmp_path: Path) -> None:
    output, summary = tmp_path / "output", tmp_path / "summary.md"
    output.write_text("earlier=1\n")

    with gate(answer("fail")) as (url, _):
        isomon("check", "r", "--collector", url, GITHUB_OUTPUT=str(output), GITHUB_STEP_SUMMARY=str(summary))

    values = dict(line.split("=", 1) for line in output.read_text().splitlines())
    assert values == {
        "earlier": "1",
        "verdict": "fail",
        "exit_code": "10",
        "rollback": "true",
        "reason": "1 violations in records; one is enough",
        "decision_id": "d1",
        "decision_url": "http://127.0.0.1:8400/v1/gates/checkout-v2/decisions/d1",
    }
    assert "Gate of checkout-v2, stage canary10: fail" in summary.read_text()


def test_a_reason_cannot_write_outputs_of_its_own_nor_markup() -> None:
    """Reasons quote what a service sent; a line of its own would set any output, and rollback is one."""
    evil = answer("inconclusive", reasons=[MISSING | {"detail": "x\nrollback=true\r\nverdict=pass | <img src=x> `code`\x1b[31m"}])

    outputs, summary = gate_summary.outputs(evil, 20), gate_summary.summary(evil)

    assert [line.split("=", 1)[0] for line in outputs.splitlines()] == [
        "verdict", "exit_code", "rollback", "reason", "decision_id", "decision_url",
    ]  # fmt: skip
    assert "rollback=false" in outputs.splitlines()
    assert "<img" not in summary
    assert "\x1b" not in outputs + summary
    rows = [line for line in summary.splitlines() if line.startswith("| isolation |")]
    assert [row.replace("\\|", "").count("|") for row in rows] == [6]


def test_files_that_cannot_be_written_do_not_cost_the_verdict() -> None:
    with gate(answer("pass")) as (url, _):
        done = isomon("check", "r", "--collector", url, GITHUB_OUTPUT="/nonexistent/output")

    assert done.returncode == 0
    assert "GITHUB_OUTPUT: cannot be written" in done.stderr


@pytest.mark.parametrize(
    ("verdict", "ok", "rolled_back", "advanced"),
    [("pass", True, False, True), ("fail", False, True, False), ("inconclusive", True, False, False), ("error", False, False, False)],
)
def test_the_github_snippet_rolls_back_on_fail_alone(tmp_path: Path, verdict: str, ok: bool, rolled_back: bool, advanced: bool) -> None:
    runner = ci.Runner(tmp_path)
    steps = load("ci/github-actions.yml")["jobs"]["gate"]["steps"]
    steps = [step | {"run": step["run"].replace("--wait 30m", "--wait 0s")} for step in steps]

    with gate(answer(verdict)) as (url, _):
        succeeded, ran = ci.github_job(steps, runner, ISOMON_COLLECTOR=url, ISOMON_TOKEN="t")

    assert succeeded is ok
    assert any(line.startswith("isomon rollout rollback checkout-v2 --reason") for line in runner.noted) is rolled_back
    assert ("echo" in ran) is advanced


@pytest.mark.parametrize(
    ("verdict", "status", "rolled_back"),
    [("pass", "success", False), ("fail", "failed", True), ("inconclusive", "warning", False), ("error", "failed", False)],
)
def test_the_gitlab_snippet_is_amber_on_inconclusive_and_rolls_back_on_fail_alone(
    tmp_path: Path, verdict: str, status: str, rolled_back: bool
) -> None:
    runner = ci.Runner(tmp_path)
    jobs = load("ci/gitlab-ci.yml")
    about = {"ISOMON_TOKEN": "t", "ISOLATION_GATES_TOKEN": "t"}
    jobs["gate"]["script"] = [line.replace("--wait 30m", "--wait 0s") for line in jobs["gate"]["script"]]

    with gate(answer(verdict)) as (url, _):
        found = ci.gitlab_job(jobs["gate"], runner, ISOMON_COLLECTOR=url, **about)
        if found == "failed":
            assert ci.gitlab_job(jobs["rollback"], runner, ISOMON_COLLECTOR=url, **about) == "success"

    assert found == status
    assert any("rollout rollback" in line for line in runner.noted) is rolled_back


# --- explain ----------------------------------------------------------------------------------------------------------


def test_explain_says_why_and_what_is_missing_and_for_how_long() -> None:
    with gate(answer("inconclusive")) as (url, asked):
        done = isomon("explain", "checkout-v2", "--collector", url)

    assert done.returncode == 0
    assert asked == ["/v1/gates/checkout-v2", "/v1/gates/checkout-v2/decisions/d1"]
    for words in (
        "checkout-v2 (checkout, arm on, stage canary10): inconclusive",
        "It waits: nothing bad was seen, and not yet enough",
        "isolation (min_samples): 210 of 420 exposed isolated requests of arm on",
        "At the traffic so far it takes about 7 min more.",
        "clean exposed requests, at least",
        "420",
        "0.14 %",
        "+0.21 percentage points",
        "1.03 times",
        "new_number",
        "Nothing has to be done.",
        "Decision d1, as of 2026-01-01T12:00:00.000Z",
    ):
        assert words in done.stdout, words


def test_explain_of_an_earlier_decision_asks_for_that_one_alone() -> None:
    with gate(answer("fail")) as (url, asked):
        done = isomon("explain", "checkout-v2", "--decision", "d0", "--collector", url)

    assert asked == ["/v1/gates/checkout-v2/decisions/d0"]
    assert "must be rolled back" in done.stdout
    assert "see: isomon explain 0197a3c2" in done.stdout
    assert done.stdout.index("Against it") < done.stdout.index("What is missing")


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_verdict_is_explained_with_what_to_do(verdict: str) -> None:
    lines = gate_words.explained(answer(verdict), CONFIG)

    assert "What to do" in lines
    assert all(line == line.rstrip() for line in lines)


def test_a_failure_of_earlier_is_told_as_one_that_stays() -> None:
    assert any("stays failed" in line for line in gate_words.explained(answer("fail", latched=True), CONFIG))


def test_what_has_not_begun_to_come_has_no_forecast() -> None:
    nothing = {"trigger": "isolation", "state": "inconclusive", "code": "no_traffic", "detail": "no request since the rollout began"}

    lines = gate_words.explained(answer("inconclusive", reasons=[MISSING, nothing]), CONFIG)

    assert any("cannot be said" in line for line in lines)
    assert not any("7 min more" in line for line in lines)


def test_explain_against_a_real_collector(tmp_path: Path) -> None:
    with collector(tmp_path) as running:
        about = {"ISOMON_COLLECTOR": running.url, "ISOMON_TOKEN": running.read_token}
        unknown = isomon("explain", "nothing", **about)
        subprocess.run(
            [sys.executable, "-m", "isolation_monitor.cli", "rollout", "start", "canary-1", "--service", "chat"],
            env=os.environ | about, check=True, timeout=300, capture_output=True,
        )  # fmt: skip
        known = isomon("explain", "canary-1", **about)
        whole = json.loads(isomon("explain", "canary-1", "--json", **about).stdout)

    assert unknown.returncode == 2
    assert "What could not be seen" in known.stdout
    assert "no Prometheus is configured" in known.stdout
    assert {"answer", "config", "inputs", "config_sha256"} <= whole.keys()
