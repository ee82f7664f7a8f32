"""`isomon violations` and `isomon explain` as they are used: in a process of their own, against a real collector."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.real_parts.collector import Collector, collector
from tests.real_parts.processes import free_port

Json = dict[str, Any]


def isomon(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ISOMON_", "COLLECTOR_"))}
    command = [sys.executable, "-m", "isolation_monitor.cli", *words]
    return subprocess.run(
        command, capture_output=True, text=True, env=kept | {"COLUMNS": "200"} | environment, cwd=cwd, check=False, timeout=60
    )


def record(id: str, **changes: object) -> Json:
    now = datetime.now(UTC)
    side = {"principal": "a1b2c3d4e5f60718", "request_id": "1-1", "stack": ["shop.py:2 make"], "time": now.isoformat()}
    return {
        "type": "violation",
        "id": id,
        "time": now.isoformat(timespec="milliseconds"),
        "kind": "shared_state",
        "grade": "reachable",
        "detector": "shared_state",
        "synthetic": False,
        "summary": "one place holds what belongs to two users",
        "fingerprint": "9f2c000000000000",
        "count": 1,
        "resource": {"type": "location", "name": "shop.CACHE", "detail": {"holder": "module"}},
        "victim": side,
        "offender": side | {"principal": "18070f6e5d4c3b2a"},
        "detail": {},
    } | changes


def send(running: Collector, *records: Json) -> None:
    body = {"schema": "records/1", "service": "chat", "instance": "h:1", "sent_at": "2026-01-01T12:00:00Z", "records": list(records)}
    request = urllib.request.Request(
        f"{running.url}/v1/records",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {running.send_token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["rejected"] == []


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """One collector with what all tests here ask for."""
    with collector(tmp_path_factory.mktemp("collector")) as one:
        long_ago = (datetime.now(UTC) - timedelta(hours=3)).isoformat()
        send(
            one,
            record("v-1", count=3),
            record("v-2", victim={"principal": "ffff000000000000"}),
            record("v-3", kind="session_leak", grade="hygiene", fingerprint="b", victim=None, summary="[red]left out[/red]"),
            record("v-4", kind="canary", grade="crossed", fingerprint="c", time=long_ago),
            record("v-5", fingerprint="d", synthetic=True),
        )
        yield one


@pytest.fixture
def about(running: Collector) -> dict[str, str]:
    return {"ISOMON_COLLECTOR": running.url, "ISOMON_TOKEN": running.read_token}


def ids(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [item["id"] for item in json.loads(done.stdout)["items"]]


def test_violations_of_one_defect_are_one_line_with_their_users(about: dict[str, str]) -> None:
    """3 + 1 violations, two victims and one offender; planted faults are no users' violations."""
    table, answer = isomon("violations", **about), isomon("violations", "--json", **about)

    assert (table.returncode, answer.returncode) == (0, 0), table.stderr
    groups = {item["fingerprint"]: item for item in json.loads(answer.stdout)["items"]}
    assert set(groups) == {"9f2c000000000000", "b", "c"}
    assert (groups["9f2c000000000000"]["count"], groups["9f2c000000000000"]["affected"]["principals"]) == (4, 3)
    assert "3/3" in table.stdout
    assert "18070f6e" in table.stdout
    # Evidence is no markup.
    assert "[red]" in table.stdout


def test_each_violation_is_a_line_when_asked_for(about: dict[str, str]) -> None:
    done = isomon("violations", "--all", "--json", **about)

    assert sorted(ids(done)) == ["v-1", "v-2", "v-3", "v-4"]


def test_violations_are_narrowed(about: dict[str, str]) -> None:
    def listed(*options: str) -> list[str]:
        return sorted(ids(isomon("violations", "--all", "--json", *options, **about)))

    assert listed("--kind", "session_leak") == ["v-3"]
    assert listed("--grade", "crossed") == ["v-4"]
    assert listed("--since", "1h") == ["v-1", "v-2", "v-3"]
    assert listed("--service", "other") == []
    assert listed("--user", "0" * 16) == listed("--run", "none") == listed("--request", "none") == []
    assert listed("--synthetic", "--kind", "shared_state") == ["v-1", "v-2", "v-5"]
    assert len(listed("--limit", "2")) == 2


def test_no_violations_is_an_answer(about: dict[str, str]) -> None:
    done = isomon("violations", "--service", "other", **about)

    assert (done.returncode, done.stdout) == (0, "no violations\n")


def test_one_violation_is_explained_with_its_source(about: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("def make():\n    return CACHE\n")

    done = isomon("explain", "v-1", cwd=tmp_path, **about)

    assert done.returncode == 0, done.stderr
    for part in ("victim", "offender", "location shop.CACHE", "a1b2c3d4e5f60718", "> shop.py:2 make", "return CACHE", "/runbooks/"):
        assert part in done.stdout


def test_the_stored_evidence_is_printed_as_it_is(running: Collector) -> None:
    done = isomon("explain", "v-3", "--json", "--url", running.url, "--token", running.read_token)

    assert json.loads(done.stdout)["schema"] == "violation/1"


@pytest.mark.parametrize(
    "words",
    [
        *(("explain", "no-such-id"), ("violations", "--grade", "worst")),
        *(("violations", "--since", "soon"), ("violations", "--request", "1-1")),
    ],
)
def test_what_the_caller_must_change_leaves_with_2(words: tuple[str, ...], about: dict[str, str]) -> None:
    done = isomon(*words, **about)

    assert done.returncode == 2
    assert done.stderr.startswith("isomon ")


@pytest.mark.parametrize("words", [("explain", "v-1"), ("violations",)])
def test_without_a_token_the_usage_is_wrong(words: tuple[str, ...]) -> None:
    assert isomon(*words).returncode == 2


@pytest.mark.parametrize("words", [("explain", "v-1"), ("violations",)])
def test_a_collector_that_is_away_leaves_with_1(words: tuple[str, ...]) -> None:
    done = isomon(*words, ISOMON_COLLECTOR=f"http://127.0.0.1:{free_port()}", ISOMON_TOKEN="any")

    assert done.returncode == 1
    assert "cannot be reached" in done.stderr


@pytest.mark.parametrize("name", ["violations", "explain"])
def test_the_help_shows_examples_and_exit_codes(name: str) -> None:
    done = isomon(name, "--help")

    assert f"isomon {name}" in done.stdout
    assert "Exit codes" in done.stdout
