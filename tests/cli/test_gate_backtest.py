"""`isomon gate backtest` and `isomon gate replay`: the past judged again, without a collector."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.collector.gates.comparison import ComparisonPlan
from isolation_monitor.collector.gates.csv_minutes import StageReader, read_csv
from isolation_monitor.collector.gates.domain import GatePlan, Inputs, MetricReading, RecordCounts, judge
from isolation_monitor.collector.gates.minutes import Counts, Minute, MinuteReading
from isolation_monitor.collector.gates.replay import NotADecision, canonical, replay, sha256

HEADER = "minute,arm,requests,errors,slow,violations"


def isomon(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ISOMON_")}
    command = [sys.executable, "-m", "isolation_monitor.cli", "gate", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, env=environment, timeout=120)


def counts(file: Path, *, minutes: int = 40, extra: float = 0.0, violations_at: int | None = None, weights: bool = False) -> Path:
    """Write a service of 1,200 requests a minute, 10 % of them canary, 0.5 % errors and `extra` more on the canary."""
    chance = random.Random(11)

    def failed(requests: int, rate: float) -> int:
        return sum(chance.random() < rate for _ in range(requests))

    lines = [HEADER + (",weight" if weights else "")]
    for n in range(minutes):
        weight = (10 if n < minutes // 2 else 50) if weights else 10
        on = 12 * weight
        violations = 1 if n == violations_at else 0
        tail = f",{weight}" if weights else ""
        lines.append(f"{29_000_000 + n},on,{on},{failed(on, 0.005 + extra)},0,{violations}{tail}")
        lines.append(f"{29_000_000 + n},off,{1200 - on},{failed(1200 - on, 0.005)},0,0{tail}")
    file.write_text("\n".join(lines) + "\n")
    return file


def looks(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = isomon("backtest", *arguments, "--json")
    return done.returncode, json.loads(done.stdout)


def test_a_healthy_hour_passes_and_every_look_is_there(tmp_path: Path) -> None:
    code, answer = looks(str(counts(tmp_path / "c.csv")))

    assert (code, answer["schema"], answer["verdict"], answer["rolled_back"]) == (0, "gate-backtest/1", "pass", False)
    assert [look["minute"] for look in answer["looks"]] == list(range(29_000_000, 29_000_040))
    assert answer["looks"][0]["verdict"] == "inconclusive"
    assert "null" not in json.dumps(answer)


def test_harm_rolls_back_and_stays_so(tmp_path: Path) -> None:
    code, answer = looks(str(counts(tmp_path / "c.csv", extra=0.05)))
    first = answer["rolled_back_after_looks"]

    assert (code, answer["verdict"], answer["rolled_back"]) == (10, "fail", True)
    assert first <= 15
    assert [look["latched"] for look in answer["looks"]] == [False] * first + [True] * (40 - first)
    assert answer["looks"][first - 1]["reasons"][0]["trigger"] == "error_rate"


def test_one_violation_rolls_back_at_its_minute(tmp_path: Path) -> None:
    _, answer = looks(str(counts(tmp_path / "c.csv", violations_at=3)))

    assert answer["rolled_back_after_looks"] == 4
    assert answer["looks"][3]["reasons"][0]["trigger"] == "isolation"


def test_stages_are_never_pooled(tmp_path: Path) -> None:
    """A stage begins without evidence, whatever the one before had; its first minute mixes both weights and is left out."""
    _, answer = looks(str(counts(tmp_path / "c.csv", weights=True)))
    by_percent = {look["percent"] for look in answer["looks"]}
    first_of_second = answer["looks"][20]

    assert by_percent == {10.0, 50.0}
    assert first_of_second["verdict"] == "inconclusive"
    assert answer["looks"][19]["verdict"] == "pass"
    assert answer["looks"][25]["metrics"]["canary_requests"] == 5 * 600


def test_a_stage_is_read_forwards_and_each_look_knows_what_all_its_minutes_say(tmp_path: Path) -> None:
    lines = counts(tmp_path / "c.csv", minutes=30, violations_at=7).read_text().splitlines()
    # Minute 11 was not seen, minute 12 is broken.
    lines = [line for line in lines if not line.startswith("29000011")]
    lines = [line.replace(",on,120,", ",on,nan,") if line.startswith("29000012") else line for line in lines]
    (stage,) = read_csv(lines, "c.csv")
    reader = StageReader(stage)

    for minute in range(stage.first, stage.last + 1):
        assert reader.reading(minute) == StageReader(stage).reading(minute)

    last = reader.reading(stage.last)
    assert (len(last.minutes), last.unseen, last.broken, last.violations) == (28, 1, 1, 1.0)
    with pytest.raises(ValueError, match="ask in order"):
        reader.reading(stage.first)


def test_people_get_a_table_and_one_line_of_what_happened(tmp_path: Path) -> None:
    done = isomon("backtest", str(counts(tmp_path / "c.csv", extra=0.05)))

    assert "would have rolled back at look" in done.stdout
    assert "stays failed" in done.stdout
    (failed,) = [line for line in done.stdout.splitlines() if " may be" in line]
    assert "points above the control's" in failed, "a log has no width: why is told on the line of its look"


def test_long_ranges_show_progress_on_standard_error_alone(tmp_path: Path) -> None:
    done = isomon("backtest", str(counts(tmp_path / "c.csv", minutes=130)), "--json")

    assert "judging minutes: 130 of 130" in done.stderr
    assert json.loads(done.stdout)["schema"] == "gate-backtest/1"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("29000001,off,x,1,0,0", ":3: requests 'x' is no number"),
        ("29000001,blue,5,1,0,0", ":3: arm 'blue'"),
        ("29000001,off,5,9,0,0", ":3: errors 9 of 5 requests"),
        ("29000001,off,5,1,0", ":3: 5 columns, the first line has 6"),
        ("29000001,off,-5,0,0,0", ":3: requests -5 is no count"),
        ("29000001,off,inf,0,0,0", ":3: requests inf is no count"),
        ("29000000,on,5,0,0,0", ":3: a second line for arm on"),
        ("yesterday,on,5,0,0,0", ":3: minute 'yesterday'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, expected: str) -> None:
    file = tmp_path / "c.csv"
    file.write_text(f"{HEADER}\n29000000,on,5,0,0,0\n{line}\n")
    done = isomon("backtest", str(file))

    assert (done.returncode, done.stdout) == (2, "")
    assert expected in done.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["nothing.csv"], ["--prometheus", "ftp://x", "--last", "1h"], ["--prometheus", "http://127.0.0.1:9"]]
)
def test_wrong_usage_is_said_and_leaves_with_2(arguments: list[str]) -> None:
    done = isomon("backtest", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("isomon gate: ")


def test_minutes_with_nan_are_broken_and_times_are_read(tmp_path: Path) -> None:
    file = tmp_path / "c.csv"
    rows = [f"2026-01-01T12:{n:02d}Z,{arm},{'NaN' if n % 2 else 100},0,0,0" for n in range(20) for arm in ("on", "off")]
    file.write_text("\n".join([HEADER, *rows]) + "\n")
    code, answer = looks(str(file), "--percent", "50")

    assert (code, answer["verdict"]) == (30, "error")
    assert "nan" in [reason["code"] for reason in answer["looks"][-1]["reasons"]]
    assert answer["looks"][0]["at"] == "2026-01-01T12:01Z"


# --- replay -------------------------------------------------------------------------------------------------------------


def decision() -> dict[str, Any]:
    """Return a stored decision of a compared stage, as the collector writes and serves it."""
    plan = GatePlan("checkout", "shop", "on", 300, 0, 30.0, stage="canary10", comparison=ComparisonPlan(10.0, stages=3))
    rows = tuple(Minute(n, Counts(120, n % 3), Counts(1080, 9 + n % 4)) for n in range(20))
    metrics = MetricReading(targets_up=1, data_age_s=0.7, checks=9000, requests=9000, exposed_isolated=9000, violations=0)
    inputs = Inputs(1200.5, RecordCounts(), metrics, MinuteReading(rows))
    config = asdict(plan) | {"started_at": "2026-01-01T12:00:00.000Z"}
    evidence = inputs.as_json() | {"queries": {"a": "b"}, "time": "2026-01-01T12:20:00.500Z"}
    stored = {
        "schema": "gate-decision/1",
        "decision_id": "0" * 32,
        "rollout": "checkout",
        "verdict": judge(plan, inputs).verdict,
        "answer": judge(plan, inputs).as_json() | {"decision_id": "0" * 32},
        "inputs": evidence,
        "config": config,
        "config_sha256": sha256(config),
        "inputs_sha256": sha256(evidence),
    }
    return dict(json.loads(json.dumps(stored)))


def test_a_stored_decision_replays_byte_for_byte(tmp_path: Path) -> None:
    stored = decision()
    (tmp_path / "d.json").write_text(json.dumps(stored))
    by_file, by_pipe = isomon("replay", str(tmp_path / "d.json")), isomon("replay", "-", text=json.dumps(stored))

    assert by_file.returncode == by_pipe.returncode == 0
    assert (
        by_file.stdout == by_pipe.stdout == canonical({name: stored["answer"][name] for name in ("verdict", "reasons", "metrics")}) + "\n"
    )


@pytest.mark.parametrize("part", ["config", "inputs"])
def test_a_decision_that_was_changed_is_refused(part: str) -> None:
    stored = decision()
    stored[part]["more"] = 1

    with pytest.raises(NotADecision, match=f"{part} is not what was stored"):
        replay(stored)


def test_a_verdict_that_was_changed_is_found(tmp_path: Path) -> None:
    stored = decision()
    stored["answer"]["metrics"]["canary_errors"] += 1
    (tmp_path / "d.json").write_text(json.dumps(stored))
    done = isomon("replay", str(tmp_path / "d.json"))

    assert done.returncode == 1
    assert "differs from what was stored" in done.stderr


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema":"gate/v1"}', "nonsense"])
def test_what_is_no_decision_is_refused(tmp_path: Path, text: str) -> None:
    done = isomon("replay", "-", text=text)

    assert (done.returncode, done.stdout) == (2, "")
