"""`isomon queues` as it is used: a real service with users who are not there, a real collector, a command of its own."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.collector.storage.schema import migrate
from isolation_monitor.telemetry import IsolationMonitor
from tests.cli.test_violations import isomon
from tests.real_parts.collector import Collector, collector
from tests.real_parts.processes import eventually, free_port

Json = dict[str, Any]
TOKEN = "token-that-sends"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[[str], IsolationMonitor]]:
    """Return the monitor of a service that tells the collector at an address."""
    made: list[IsolationMonitor] = []

    def make(url: str) -> IsolationMonitor:
        folder = str(tmp_path / f"metrics-{len(made)}")
        monitor = IsolationMonitor.from_env(
            service="chat", collector_url=url, collector_token=TOKEN, hash_key="a key for tests", metrics_dir=folder
        )
        made.append(monitor)
        return monitor

    yield make
    for monitor in made:
        monitor.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a migrated database, for a collector that a running loop can start."""
    asyncio.run(migrate(f"sqlite:///{tmp_path / 'collector.sqlite3'}"))
    return tmp_path


def started(folder: Path, port: int | None = None) -> Any:
    return collector(folder, port=port, migrated=False, settings={"COLLECTOR_SEND_TOKEN": TOKEN})


def everything_in(folder: Path) -> bytes:
    files = sorted(folder.glob("collector*"))
    assert files
    return b"".join(file.read_bytes() for file in files)


def asked(running: Collector) -> Json:
    request = urllib.request.Request(f"{running.url}/v1/queues?service=chat", headers=running.reading)
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: Json = json.load(answer)
    return found


async def until(running: Collector, holds: Callable[[Json], object], what: str) -> Json:
    """Return the collector's answer as soon as it is the one that is waited for; the service's loop goes on meanwhile."""

    def ask() -> Json | None:
        answer = asked(running)
        return answer if holds(answer) else None

    return await asyncio.to_thread(eventually, ask, what)


async def test_the_users_who_wait_are_listed_until_nobody_waits_any_more(folder: Path, service: Any) -> None:
    """Both are told by their hashes: neither the collector's file nor the command has ever seen who they are."""
    with started(folder) as running:
        monitor = service(running.url)
        for n in range(3):
            await monitor.deliver("ann-7731@example.com", json.dumps({"n": n}))
        await monitor.deliver("bob-7731@example.com", json.dumps({"text": "x" * 1_000}))
        answer = await until(running, lambda found: len(found["items"]) == 2, "both wait")

        about = {"ISOMON_COLLECTOR": running.url, "ISOMON_TOKEN": running.read_token}
        table, printed, other, one = await asyncio.to_thread(
            lambda: [isomon("queues", *words, **about) for words in ((), ("--json",), ("--service", "other"), ("--limit", "1", "--json"))]
        )
        monitor.close()
        await until(running, lambda found: not found["items"], "a worker that ends says so")

    ann, bob = monitor.principals.named("ann-7731@example.com"), monitor.principals.named("bob-7731@example.com")
    assert [(item["principal"], item["events"], item["connections"]) for item in answer["items"]] == [(ann.hash, 3, 0), (bob.hash, 1, 0)]
    assert answer["items"][1]["bytes"] > 1_000
    assert 2 <= answer["items"][0]["age_s"] < 120
    assert answer["services"][0]["events"] == 4
    assert (table.returncode, printed.returncode) == (0, 0), table.stderr
    lines = table.stdout.splitlines()
    assert lines[1].split()[:3] == ["chat", ann.hash, "3"]
    assert "chat: 4 events" in lines[-1]
    assert [item["principal"] for item in json.loads(printed.stdout)["items"]] == [ann.hash, bob.hash]
    assert (other.returncode, other.stdout) == (0, "nobody waits\n")
    assert len(json.loads(one.stdout)["items"]) == 1
    assert b"7731" not in everything_in(folder)


async def test_a_collector_that_was_away_hears_of_it_when_it_is_back(folder: Path, service: Any) -> None:
    """Delivery goes on without it, nothing piles up, and what holds is told once it answers."""
    port = free_port()
    monitor = service(f"http://127.0.0.1:{port}")
    assert await monitor.deliver("ann", '{"n": 1}') is False
    await asyncio.to_thread(eventually, lambda: monitor.delivery.deepest._sequence or None, "it was told to nobody")
    await asyncio.to_thread(eventually, lambda: not monitor.outbox._sender.statement, "and given up")
    assert len(monitor.outbox) == 0

    with started(folder, port) as running:
        await monitor.deliver("ann", '{"n": 2}')
        answer = await until(running, lambda found: found["items"], "it is told again")

    assert answer["items"][0]["events"] == 2


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with collector(tmp_path_factory.mktemp("collector")) as one:
        yield one


def test_nobody_waits_is_an_answer(running: Collector) -> None:
    done = isomon("queues", "--url", running.url, "--token", running.read_token)

    assert (done.returncode, done.stdout) == (0, "nobody waits\n")


def test_what_the_caller_must_change_leaves_with_2(running: Collector) -> None:
    assert isomon("queues").returncode == 2
    assert isomon("queues", "--limit", "0").returncode == 2
    wrong = isomon("queues", "--url", running.url, "--token", running.send_token)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("isomon queues: ")


def test_a_collector_that_is_away_or_something_else_leaves_with_1(running: Collector) -> None:
    away = isomon("queues", ISOMON_COLLECTOR=f"http://127.0.0.1:{free_port()}", ISOMON_TOKEN="any")

    assert away.returncode == 1
    assert "cannot be reached" in away.stderr


def test_the_help_shows_examples_and_exit_codes() -> None:
    done = isomon("queues", "--help")

    assert "isomon queues --service chat --limit 5" in done.stdout
    assert "Exit codes" in done.stdout
