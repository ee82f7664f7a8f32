"""`isomon export`, `forget`, `incidents` and `violations` as they are used: in a process of their own, against a real collector."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.telemetry.principals import PrincipalHasher
from tests.collector.test_commands import isomon
from tests.real_parts.collector import Collector, collector
from tests.real_parts.processes import free_port

KEY = "a key of the services"
ANN, BOB = PrincipalHasher(KEY).hash("ann"), PrincipalHasher(KEY).hash("bob")
RECORDS = 1_203


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """A collector with 1,203 violations of the last minutes: every hundredth of ann's, the others of bob's."""
    with collector(tmp_path_factory.mktemp("collector")) as one:
        start = datetime.now(UTC) - timedelta(minutes=5)
        records = [violation(n, rfc3339(start + timedelta(milliseconds=n))) for n in range(RECORDS)]
        for first in range(0, RECORDS, 1000):
            send(one, records[first : first + 1000])
        yield one


def violation(number: int, time: str) -> dict[str, Any]:
    return {
        "type": "violation", "id": f"v-{number:05d}", "time": time, "kind": "wrong_socket", "grade": "crossed", "detector": "wrong_socket",
        "synthetic": False, "fingerprint": "f" * 16, "victim": {"principal": ANN if number % 100 == 0 else BOB, "stack": []},
    }  # fmt: skip


def send(one: Collector, records: list[dict[str, Any]]) -> None:
    body = {"schema": "records/1", "service": "chat", "instance": "i/1", "sent_at": records[0]["time"], "records": records}
    headers = one.sending | {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{one.url}/v1/records", json.dumps(body).encode(), headers, method="POST")
    with urllib.request.urlopen(request, timeout=120) as answer:
        assert json.load(answer)["accepted"] == len(records)


def asked(one: Collector, *words: str) -> Any:
    return isomon(*words, "--collector", one.url, token=one.read_token)


def test_an_export_has_every_record_once_in_order_and_goes_on_from_its_cursor(running: Collector) -> None:
    whole = asked(running, "export", "--since", "1h")
    cursor = whole.stderr.strip().splitlines()[-1].rpartition(" ")[2]
    after = asked(running, "export", "--cursor", cursor)

    lines = [json.loads(line) for line in whole.stdout.splitlines()]
    assert whole.returncode == 0, whole.stderr
    assert [line["id"] for line in lines] == [f"v-{n:05d}" for n in range(RECORDS)]
    assert (after.returncode, after.stdout) == (0, "")
    middle = json.loads(asked(running, "export", "--json").stderr.splitlines()[0])
    rest = asked(running, "export", "--cursor", middle["cursor"]).stdout.splitlines()
    assert len(rest) == RECORDS - middle["lines"]


def test_a_full_disk_leaves_with_1_and_says_where_to_go_on(running: Collector) -> None:
    cursor = json.loads(asked(running, "export", "--json").stderr.splitlines()[0])["cursor"]

    with Path("/dev/full").open("w") as full:
        done = isomon("export", "--cursor", cursor, "--collector", running.url, token=running.read_token, output=full)

    assert done.returncode == 1
    progress, says = done.stderr.splitlines()
    assert progress == f"0 lines, cursor {cursor}"
    assert says.startswith("isomon export: standard output takes no more (No space left on device)")


def test_cloud_events_have_what_the_specification_asks_for(running: Collector) -> None:
    """CloudEvents 1.0.2, section 3.1: id, source (a URI reference), specversion and type; source and id together are unique."""
    done = asked(running, "export", "--format", "cloudevents")

    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {event["specversion"] for event in events} == {"1.0"}
    assert {event["source"] for event in events} == {"/services/chat/i%2F1"}
    assert {event["type"] for event in events} == {"isolation_monitor.violation.v1"}
    assert len({event["id"] for event in events}) == len(events)
    assert events[0]["data"]["victim"]["principal"] == ANN
    assert events[0]["time"] == events[0]["data"]["time"]


def test_an_incident_is_listed_and_told(running: Collector) -> None:
    listed = json.loads(asked(running, "incidents", "--open", "--json").stdout)
    told = asked(running, "incidents", listed["items"][0]["id"])
    table = asked(running, "incidents")

    assert [item["service"] for item in listed["items"]] == ["chat"]
    assert (told.returncode, "first wrong_socket (crossed)" in told.stdout, "users" in told.stdout) == (0, True, True)
    assert listed["items"][0]["id"] in table.stdout


def test_violations_of_one_user_are_listed(running: Collector) -> None:
    found = json.loads(asked(running, "violations", "--all", "--user", ANN, "--limit", "1000", "--json").stdout)

    assert {item["victim"]["principal"] for item in found["items"]} <= {ANN}
    assert asked(running, "violations", "--user", ANN).returncode == 2


def test_a_user_is_forgotten_by_id_with_the_key_at_hand(running: Collector, tmp_path: Path) -> None:
    """Last: afterwards this collector knows nothing of ann. Her id never leaves this machine."""
    key = tmp_path / "key"
    key.write_text(KEY + "\n")

    unasked = asked(running, "forget", ANN)
    done = asked(running, "forget", "--user-id", "ann", "--hash-key-file", str(key), "--yes", "--json")
    again = asked(running, "forget", ANN, "--yes")
    left = asked(running, "export").stdout

    assert (unasked.returncode, "--yes" in unasked.stderr) == (2, True)
    assert (done.returncode, json.loads(done.stdout)["removed"]) == (0, 13), done.stderr
    assert (again.returncode, again.stdout.startswith("forgotten: 0 records")) == (0, True)
    assert ANN not in left
    assert len(left.splitlines()) == RECORDS - 13


@pytest.mark.parametrize(
    "words",
    [
        ("export", "secrets"),
        ("export", "--format", "xml"),
        ("export", "--since", "yesterday"),
        ("export", "--since", "2026-01-01T00:00:00"),
        ("export", "--cursor", "nonsense"),
        ("forget", "--yes"),
        ("forget", "short", "--yes"),
        ("forget", "--user-id", "ann", "--yes"),
        ("incidents", "nonsense"),
    ],
)
def test_wrong_usage_leaves_with_2_and_says_what_to_write(running: Collector, words: tuple[str, ...]) -> None:
    done = asked(running, *words)

    assert (done.returncode, done.stdout) == (2, "")
    assert f"isomon {words[0]}: " in done.stderr


@pytest.mark.parametrize("words", [("export",), ("forget", "a" * 16, "--yes"), ("incidents",)])
def test_a_collector_that_is_away_leaves_with_1(words: tuple[str, ...]) -> None:
    done = isomon(*words, "--collector", f"http://127.0.0.1:{free_port()}", token="t")

    assert (done.returncode, "cannot be reached" in done.stderr) == (1, True)


@pytest.mark.parametrize("command", ["export", "forget", "incidents"])
def test_help_shows_examples_and_exit_codes(command: str) -> None:
    text = isomon(command, "--help").stdout

    assert "Exit codes" in text
    assert f"isomon {command}" in text
