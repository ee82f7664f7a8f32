"""`isomon validate` against a real collector and Prometheus that scrapes a service which lives."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from isolation_monitor.alerts import prometheus_config
from isolation_monitor.cli import validation_report
from isolation_monitor.cli.collector_client import UsageError
from isolation_monitor.cli.validation_journal import Journal, Plan, open_journal
from isolation_monitor.collector.clock import utc_now
from isolation_monitor.demo.janitor import alive
from tests.cli.test_violations import record, send
from tests.dashboards.living_service import LivingService
from tests.real_parts.collector import Collector, collector
from tests.real_parts.processes import eventually, free_port, started
from tests.real_parts.prometheus import Prometheus, prometheus

PLAN = Plan("chat", 10.0, 1.0, None, None, 10, 10)


@dataclass
class Stack:
    folder: Path
    collector: Collector
    prometheus: Prometheus

    def command(self, folder: Path, *more: str, wanted: str = "3s") -> list[str]:
        (folder / "read.token").write_text(self.collector.read_token)
        command = [sys.executable, "-m", "isolation_monitor.cli", "validate", "--for", wanted, "--look-every", "0.5s"]
        command += ["--collector", self.collector.url, "--prometheus", self.prometheus.url, "--token-file", str(folder / "read.token")]
        command += ["--min-exposed-requests", "5", "--min-owed-events", "5", "--drill-every", "never"]
        return [*command, "--journal", str(folder / "journal.jsonl"), "--report", str(folder / "report.json"), *more]

    def validate(self, folder: Path, *more: str, wanted: str = "3s") -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(folder, *more, wanted=wanted), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("validate")
    with contextlib.ExitStack() as running:
        service = running.enter_context(LivingService(folder / "cells"))
        config = prometheus_config.render(
            isolation_targets=[service.address],
            main_interval="1s",
            collector_target=f"127.0.0.1:{free_port()}",
            alertmanager=f"127.0.0.1:{free_port()}",
            rule_files=[],
        )
        source = running.enter_context(prometheus(folder / "prometheus", config))
        receiving = running.enter_context(collector(folder / "collector", prometheus_url=source.url))
        eventually(lambda: source.value('sum(isolation_planted_faults_total{service="chat"})'), "the service is scraped")
        yield Stack(folder, receiving, source)


def entries(folder: Path) -> list[dict[str, Any]]:
    file = folder / "journal.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def pem(folder: Path, key: Any = None) -> tuple[Path, Path]:
    key = key or Ed25519PrivateKey.generate()
    private, public = folder / "key.pem", folder / "key.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_service_in_order_passes_and_its_report_is_signed(stack: Stack, tmp_path: Path) -> None:
    private, public = pem(tmp_path)
    load = f"{sys.executable} -c 'import time; time.sleep(600)'"

    done = stack.validate(tmp_path, "--key", str(private), "--load", load)

    report = json.loads((tmp_path / "report.json").read_text())
    assert (done.returncode, report["verdict"], report["reasons"]) == (0, "pass", []), done.stdout + done.stderr
    assert report["observed_s"] >= report["wanted_s"] == 3
    assert report["gate"]["by_verdict"]["pass"] >= 1
    assert report["planted_faults"]
    assert "planted faults" in done.stdout
    for more in ((), ("--public-key", str(public))):
        assert verify(tmp_path / "report.json", *more).returncode == 0

    (tmp_path / "report.json").write_text(json.dumps({**report, "verdict": "fail"}))
    assert "its content is not what it was made of" in verify(tmp_path / "report.json").stderr
    forged = {**report, "verdict": "fail"}
    forged["content_sha256"] = validation_report.content_hash(forged)
    (tmp_path / "report.json").write_text(json.dumps(forged))
    assert "its signature does not hold" in verify(tmp_path / "report.json").stderr


def verify(report: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "isolation_monitor.cli", "validate", "--verify", str(report), *more]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_killed_validation_goes_on_where_it_was(stack: Stack, tmp_path: Path) -> None:
    with started(stack.command(tmp_path, wanted="6s"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        eventually(lambda: sum(entry.get("counted_s", 0) for entry in entries(tmp_path)) >= 1, "it has seen something")
        process.send_signal(signal.SIGKILL)
    before = entries(tmp_path)
    # The line that was being written.
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"kind": "ga')

    done = stack.validate(tmp_path, "--json", wanted="6s")

    report = json.loads(done.stdout)
    assert (done.returncode, report["verdict"], report["restarts"]) == (0, "pass", 1), done.stdout + done.stderr
    after = entries(tmp_path)
    assert after[: len(before)] == before
    assert report["observed_s"] >= 6
    # Time between the two counts for nothing, and what was seen before counts on.
    assert sum(entry.get("counted_s", 0) for entry in after[len(before) :]) <= 6.5


def test_sigterm_ends_the_load_too(stack: Stack, tmp_path: Path) -> None:
    """A supervisor ends the command alone: the load has a session of its own and would go on for ever."""
    load = f"sh -c 'echo $$ > {tmp_path / 'load'}; exec sleep 600'"
    with started(stack.command(tmp_path, "--load", load, wanted="1h"), stderr=subprocess.DEVNULL) as process:
        group = int(eventually(lambda: written(tmp_path / "load"), "the load runs"))
        process.terminate()
        process.wait(60)

    assert process.returncode == 128 + signal.SIGTERM
    assert not alive(group)


def test_what_a_load_left_running_ends_before_the_next(stack: Stack, tmp_path: Path) -> None:
    load = f"sh -c 'sleep 600 & echo $$ > {tmp_path / 'load'}'"
    with started(stack.command(tmp_path, "--load", load, wanted="1h"), stderr=subprocess.DEVNULL) as process:
        group = int(eventually(lambda: written(tmp_path / "load"), "the load runs"))
        eventually(lambda: not alive(group), "nothing of it runs")
        process.terminate()
        process.wait(60)


def written(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def test_a_violation_ends_it_at_once(stack: Stack, tmp_path: Path) -> None:
    with started(stack.command(tmp_path, wanted="1h"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        eventually(lambda: any(entry.get("verdict") for entry in entries(tmp_path)), "it looks")
        send(stack.collector, record("violation-of-staging", time=utc_now().isoformat()))
        out, err = process.communicate(timeout=60)

    assert process.returncode == 10, out + err
    assert "the gate failed" in out


def test_without_sight_it_is_an_error_and_not_a_pass(stack: Stack, tmp_path: Path) -> None:
    command = stack.command(tmp_path, wanted="1h")
    command[command.index("--collector") + 1] = f"http://127.0.0.1:{free_port()}"
    with started(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        eventually(lambda: sum(entry.get("verdict") == "error" for entry in entries(tmp_path)) >= 2, "it looks in vain")
        process.send_signal(signal.SIGKILL)

    journal, goes_on = open_journal(tmp_path / "journal.jsonl", Plan("chat", 3600.0, 0.5, None, None, 5, 5))

    assert goes_on
    assert journal.observed_s == 0
    assert validation_report.report_of(journal)["verdict"] == "error"


def test_another_plan_and_another_file_are_refused(stack: Stack, tmp_path: Path) -> None:
    open_journal(tmp_path / "journal.jsonl", PLAN)

    done = stack.validate(tmp_path)
    assert done.returncode == 2
    assert "for_s was 10.0 and is 3.0" in done.stderr
    (tmp_path / "journal.jsonl").write_text("something else\n")
    assert "line 1: 'something else' is no JSON" in stack.validate(tmp_path).stderr
    (tmp_path / "journal.jsonl").write_text("{}\n")
    assert "is no journal of a validation" in stack.validate(tmp_path).stderr
    private, _ = pem(tmp_path, generate_private_key(SECP256R1()))
    assert "is a key of another kind" in stack.validate(tmp_path, "--key", str(private)).stderr


# --- what a journal comes to --------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A validation in order: seen for all of its ten seconds, each detector's faults seen."""
    made, _ = open_journal(tmp_path / "journal.jsonl", PLAN)
    for _ in range(10):
        made.add("gate", verdict="pass", why="", counted_s=1.0)
    made.add("faults", faults={"wrong_socket": {"seen": 20}, "foreign_content": {"seen": 95, "missed": 5}})
    return made


def reasons(journal: Journal) -> list[tuple[str, str]]:
    return [(reason["verdict"], reason["about"]) for reason in validation_report.report_of(journal)["reasons"]]


def test_all_in_order_is_a_pass(journal: Journal) -> None:
    assert reasons(journal) == []


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"kind": "gate", "verdict": "fail", "why": "one violation", "counted_s": 1.0}, ("fail", "gate")),
        ({"kind": "gate", "verdict": "inconclusive", "why": "no traffic", "counted_s": 1.0}, ("inconclusive", "gate")),
        ({"kind": "faults", "faults": {"wrong_socket": {"missed": 1}}}, ("fail", "planted faults")),
        ({"kind": "faults", "faults": {"wrong_socket": {"seen": 94, "missed": 6}}}, ("fail", "planted faults")),
        ({"kind": "faults", "faults": {}}, ("error", "planted faults")),
        ({"kind": "load", "exit_code": 1}, ("inconclusive", "load")),
    ],
)
def test_one_thing_that_is_not_in_order_is_the_verdict(journal: Journal, entry: dict[str, Any], expected: tuple[str, str]) -> None:
    journal.add(**entry)

    assert reasons(journal) == [expected]


def test_too_short_a_time_is_inconclusive_and_too_little_sight_an_error(tmp_path: Path) -> None:
    made, _ = open_journal(tmp_path / "journal.jsonl", PLAN)
    made.add("faults", faults={"wrong_socket": {"seen": 1}})
    assert reasons(made) == [("error", "gate"), ("inconclusive", "time")]
    for verdict in ("pass",) * 8 + ("error",):
        made.add("gate", verdict=verdict, why="gone", counted_s=1.0)
    assert reasons(made) == [("error", "gate"), ("inconclusive", "time")]


def test_drills_must_come_to_their_end_and_arrive(tmp_path: Path) -> None:
    made, _ = open_journal(tmp_path / "journal.jsonl", Plan("chat", 1.0, 1.0, 60.0, None, 10, 10))
    made.add("gate", verdict="pass", why="", counted_s=1.0)
    made.add("faults", faults={"wrong_socket": {"seen": 1}})
    made.add("drill", arrived=None, missed=[], why="Prometheus is away")
    assert reasons(made) == [("error", "drills")]
    made.add("drill", arrived=3, missed=[], why="")
    assert reasons(made) == []
    made.add("drill", arrived=2, missed=["SessionLeak"], why="")
    assert reasons(made) == [("fail", "drills")]


def test_a_report_without_a_signature_is_not_by_anybody(journal: Journal, tmp_path: Path) -> None:
    sealed = validation_report.sealed(validation_report.report_of(journal), None)
    _, public = pem(tmp_path)

    assert validation_report.problems_of(sealed, None) == []
    assert validation_report.problems_of(sealed, public) == ["it has no signature"]
    other = validation_report.sealed(sealed, pem(tmp_path)[0])
    assert validation_report.problems_of(other, public) == []
    _, stranger = pem(tmp_path)
    assert validation_report.problems_of(other, stranger) == ["its signature is not by that key"]
    with pytest.raises(UsageError, match="is no private key"):
        validation_report.private_key(public)
    assert time.strptime(sealed["started_at"][:19], "%Y-%m-%dT%H:%M:%S")
