"""`isomon drill` against real programs: Prometheus with the product's rules, Alertmanager with its routes, the collector."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.alerts.drills import RECIPES, ROLLED_BACK, drilled
from isolation_monitor.cli import drill
from isolation_monitor.cli.collector_client import CollectorClient, UsageError
from isolation_monitor.cli.drill_page import DrillTarget, announced
from isolation_monitor.cli.drill_rollout import DrillRollout
from tests.real_parts.drills import Stack, drill_stack
from tests.real_parts.processes import eventually, free_port, started


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with drill_stack(tmp_path_factory.mktemp("drill")) as running:
        yield running


def left_behind(stack: Stack) -> list[str]:
    return [str(file) for file in stack.drills.rglob("*") if file.is_file()]


@pytest.mark.slow
def test_every_alert_arrives_at_the_drill_receiver_within_its_time_and_nobody_else_is_told(stack: Stack, capsys):
    result = stack.drill("--json", "--report", str(stack.folder / "report" / "drill.json"))

    report = json.loads(result.stdout)
    with capsys.disabled():
        for row in report["alerts"]:
            print(f"\n{row['alert']}: {row['arrived_after_s']} s of {row['allowed_s']} s, {row['stage']}", end="")
    assert (report["schema"], report["ok"], result.returncode) == ("drill/1", True, 0), result.stdout
    assert [row["alert"] for row in report["alerts"]] == [alert.name for alert in drilled()]
    assert json.loads((stack.folder / "report" / "drill.json").read_text()) == report
    assert left_behind(stack) == []
    # The only alerts that people would have been told of: none. What came late on a busy machine was asked for, and is a drill as well.
    told = json.loads(_read(stack, "/v1/alerts?limit=1000"))["items"]
    assert {item["receiver"] for item in told if item["labels"].get("synthetic") != "true"} == {"dead-mans-switch"}
    assert {item["receiver"] for item in told} - {"asked"} == {"drill", "dead-mans-switch"}
    assert all(item["labels"].get("synthetic") == "true" for item in told if item["receiver"] == "drill")


def test_one_alert_arrives_and_the_next_drill_of_it_does_not_count_the_first(stack: Stack):
    first, second = (stack.drill("--alert", "IsolationViolation", "--json") for _ in range(2))

    assert (first.returncode, second.returncode) == (0, 0), first.stdout + first.stderr + second.stdout + second.stderr
    services = [json.loads(result.stdout)["alerts"][0]["service"] for result in (first, second)]
    assert len(set(services)) == 2
    assert all(service.startswith("drill:chat:IsolationViolation:") for service in services)


def test_a_rollback_is_told_by_the_collector_and_a_second_drill_finds_the_rollout_as_it_needs_it(stack: Stack):
    first, second = (stack.drill("--alert", "RolloutRolledBack", "--json") for _ in range(2))

    assert (first.returncode, second.returncode) == (0, 0), first.stdout + first.stderr + second.stdout + second.stderr
    (row,) = json.loads(second.stdout)["alerts"]
    assert (row["service"], row["receiver"], row["stage"]) == ("drill:chat:RolloutRolledBack", "drill", "arrived")
    state = json.loads(_read(stack, "/v1/rollouts/drill-chat"))["state"]
    assert (state["status"], state["actor"]) == ("ready", "isomon drill")
    told = json.loads(_read(stack, "/v1/alerts?alertname=RolloutRolledBack&limit=100"))["items"]
    assert {(item["receiver"], item["labels"]["synthetic"]) for item in told} == {("drill", "true")}


def test_a_drill_that_does_not_arrive_says_where_it_got_stuck_and_fails(stack: Stack):
    """A second is not enough for anybody."""
    result = stack.drill("--alert", "SessionLeak", "--within", "0s")

    assert result.returncode == 1
    assert "MISSED: not firing in Prometheus" in result.stdout
    assert "0 of 1 alerts arrived" in result.stdout
    assert left_behind(stack) == []


def test_a_drill_that_is_ended_takes_its_targets_away(stack: Stack):
    with started(stack.command("--alert", "IsolationTargetDown"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        eventually(lambda: left_behind(stack), "the drill is announced")
        process.terminate()
        process.communicate(timeout=30)

    assert process.returncode not in (0, 1)
    assert left_behind(stack) == []


def test_without_a_prometheus_there_is_no_drill(stack: Stack):
    command = stack.command("--alert", "Cascade")
    command[command.index("--prometheus") + 1] = f"http://127.0.0.1:{free_port()}"
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1


def test_an_unknown_alert_is_told_with_the_known_ones(stack: Stack):
    result = stack.drill("--alert", "NoSuchAlert")

    assert result.returncode == 2
    assert "no such alert: NoSuchAlert; there are IsolationViolation," in result.stderr


def test_a_page_is_healthy_then_broken_then_stands_still():
    target = DrillTarget("SessionLeak", "drill:x:SessionLeak:1", RECIPES["SessionLeak"])
    before = target.page("isolation")
    target.broken_at = time.monotonic()
    broken = target.page("isolation")

    assert before is not None
    assert broken is not None
    assert before.decode().split()[-1] == "0.0"
    assert broken.decode().split()[-1] == "1.0"
    assert b'synthetic="true"' in broken
    assert b"service" not in broken, "the announcement names the service"
    target.healed_at = target.broken_at
    assert target.page("isolation") == broken


def test_a_target_that_dies_answers_again_when_it_is_healed():
    target = DrillTarget("IsolationTargetDown", "drill:x:IsolationTargetDown:1", RECIPES["IsolationTargetDown"])
    target.broken_at = time.monotonic()
    assert target.page("isolation") is None

    target.healed_at = time.monotonic()

    assert target.page("isolation") is not None


def test_a_folder_that_is_not_there_leaves_nothing_behind(tmp_path: Path):
    target = DrillTarget("Cascade", "drill:x:Cascade:1", RECIPES["Cascade"])

    with pytest.raises(OSError, match="services"), announced([target], tmp_path / "missing", "127.0.0.1:1", "run"):
        pass

    assert list(tmp_path.iterdir()) == []


def _read(stack: Stack, path: str) -> str:
    import urllib.request

    request = urllib.request.Request(stack.collector.url + path, headers=stack.collector.reading)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


@pytest.mark.slow
def test_a_validation_drills_and_says_what_arrived(stack: Stack, tmp_path: Path):
    """The service itself is not there: what its gate says is another test's."""
    journal = tmp_path / "journal.jsonl"
    command = [sys.executable, "-m", "isolation_monitor.cli", "validate", "--for", "1h", "--look-every", "1s", "--drill-every", "1h"]
    command += [*stack.command()[4:], "--drill-option", "--alert IsolationViolation", "--journal", str(journal)]
    del command[command.index("--alertmanager") : command.index("--alertmanager") + 2]
    with started(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        eventually(lambda: journal.exists() and '"kind": "drill"' in journal.read_text(), "the drill came to its end", within_s=180)
        process.kill()

    (drill,) = (entry for line in journal.read_text().splitlines() if (entry := json.loads(line)).get("kind") == "drill")
    assert (drill["arrived"], drill["missed"], drill["why"]) == (1, [], "")


@pytest.mark.slow
def test_drills_of_collectors_do_not_hide_each_other(stack: Stack):
    """Two drills show a collector that answers, while a third one's is down."""
    result = stack.drill("--alert", "IsolationCollectorDown", "--alert", "GateError", "--alert", "RolloutStuck", "--json")

    assert result.returncode == 0, result.stdout + result.stderr


class OneRollout(CollectorClient):
    """A collector with one rollout, which knows the steps of a drill."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", "token")
        self.status = "ready"

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        step = path.rsplit("/", 1)[-1]
        assert step != "re-arm" or self.status in ("rolled_back", "ready"), "only what was taken back is re-armed"
        self.status = {"start": "running", "rollback": "rolled_back", "re-arm": "ready"}.get(step, self.status)
        return {"state": {"status": self.status}}


def test_a_drill_that_cannot_begin_leaves_no_rollout_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its users are invented, but it would be on the pages and in every round of the controller for ever."""
    monkeypatch.setattr(drill, "KNOWN_WITHIN_S", -1.0)
    (tmp_path / "services").mkdir()

    class Ready:
        def require(self) -> None:
            pass

    with OneRollout() as client:
        rollout = DrillRollout(client, "chat")
        with pytest.raises(UsageError, match="has not read the pages"):
            drill._run(Ready(), [ROLLED_BACK.name, "IsolationViolation"], "chat", rollout, tmp_path, "127.0.0.1", "127.0.0.1", 1.0)  # type: ignore[arg-type]  # the rest of Watch is not reached

    assert client.status == "ready"
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
