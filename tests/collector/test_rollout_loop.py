"""The closed loop on real parts: harm takes a rollout back by each way alone, once, and also through kill -9."""

from __future__ import annotations

import http.client
import random
import threading
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from isolation_monitor.alerts import alertmanager_config
from tests.collector.conftest import MIGRATED
from tests.real_parts.alertmanager import alertmanager
from tests.real_parts.collector import Collector, collector
from tests.real_parts.exporter import Exporter, exporters, scraped_twice
from tests.real_parts.postgres import Postgres
from tests.real_parts.processes import eventually, free_port
from tests.real_parts.prometheus import prometheus
from tests.real_parts.promtool import series
from tests.real_parts.rollouts import (
    PERSON,
    SLOW_ROUNDS,
    ask,
    begin,
    deaf,
    history,
    rolled_back,
    scraping,
    status,
    violate,
    wrong_sockets,
)

QUICK_ROUNDS = {"COLLECTOR_ROLLOUT_INTERVAL_S": "0.2"}
VIOLATIONS = wrong_sockets("chat")


def test_a_record_takes_it_back_while_prometheus_hangs(tmp_path: Path) -> None:
    with deaf() as nowhere, collector(tmp_path, prometheus_url=nowhere, settings=SLOW_ROUNDS) as running:
        begin(running)

        violate(running, "v-1")
        event = rolled_back(running)

        assert (event["actor"], event["from_stage"], event["reason"][:10]) == ("isolation-monitor", "full", "isolation:")


def scraped(folder: Path, worker: Exporter, address: str, alertmanager_address: str) -> str:
    """Let an exporter show a service without violations; return the Prometheus configuration that reads it."""
    (folder / "token").write_text("secret-of-the-test")
    worker.add(series("isolation_monitor_info", {"service": "chat", "version": "1", "mode": "monitor"}), 1)
    worker.add(VIOLATIONS, 0)
    return scraping(folder, worker, base_url="http://127.0.0.1:1", collector=address, alertmanager=alertmanager_address)


def test_an_alert_takes_it_back_while_no_record_arrives_and_the_gate_sees_nothing(tmp_path: Path) -> None:
    """A counter, the project's rule, Prometheus, Alertmanager, its webhook: the only way that is left."""
    with (
        exporters(1) as [worker],
        collector(tmp_path / "collector", settings=SLOW_ROUNDS) as running,
    ):
        (tmp_path / "send-token").write_text(running.send_token)
        hook = alertmanager_config.render(webhook_url=f"{running.url}/v1/alerts", webhook_token_file=str(tmp_path / "send-token"))
        with (
            alertmanager(tmp_path / "alertmanager", hook) as manager,
            prometheus(tmp_path / "prometheus", scraped(tmp_path, worker, running.url.removeprefix("http://"), manager.address)),
        ):
            scraped_twice(worker)
            begin(running)

            worker.add(VIOLATIONS, 1)
            event = rolled_back(running)

    assert event["reason"].startswith("alert WebSocketIsolationViolation: ")


def test_the_gates_own_query_takes_it_back_while_neither_records_nor_alerts_arrive(tmp_path: Path) -> None:
    with exporters(1) as [worker]:
        config = scraped(tmp_path, worker, worker.address, f"127.0.0.1:{free_port()}")
        with (
            prometheus(tmp_path / "prometheus", config) as source,
            collector(tmp_path / "collector", prometheus_url=source.url, settings=QUICK_ROUNDS) as running,
        ):
            scraped_twice(worker)
            begin(running)

            worker.add(VIOLATIONS, 1)
            event = rolled_back(running)

    assert (event["reason"][:10], event["decision_id"] is not None) == ("isolation:", True)


def test_two_collectors_on_one_postgresql_never_both_act(tmp_path: Path, postgres: Postgres) -> None:
    """Both look five times a second and both hear of the harm at once; each rollout is taken back once, again and again."""
    url = postgres.create("two_collectors", template=MIGRATED)
    try:
        with (
            collector(tmp_path / "one", database_url=url, settings=QUICK_ROUNDS) as one,
            collector(tmp_path / "two", database_url=url, settings=QUICK_ROUNDS) as two,
        ):
            begin(one, "both")
            for number in range(5):
                with ThreadPoolExecutor(2) as pool:
                    list(pool.map(violate, (one, two), (f"both-{number}-one", f"both-{number}-two"), ("both", "both")))
                rolled_back(two, "both")
                ask(one, "POST", "/v1/rollouts/both/re-arm", PERSON)
                ask(two, "POST", "/v1/rollouts/both/start", PERSON)

            changes = history(one, "both")
    finally:
        postgres.drop("two_collectors")

    assert [change["action"] for change in changes] == ["apply", "start", *["rollback", "re-arm", "start"] * 5]
    assert [change["revision"] for change in changes] == list(range(1, len(changes) + 1))


def test_harm_that_a_killed_collector_heard_of_is_acted_on_by_the_next(tmp_path: Path) -> None:
    with collector(tmp_path, settings=SLOW_ROUNDS) as running:
        begin(running)
        violate(running, "v-1")
        running.process.kill()
        running.process.wait()

    with collector(tmp_path, settings=SLOW_ROUNDS) as again:
        assert rolled_back(again)["reason"].startswith("isolation:")
        assert [change["action"] for change in history(again)] == ["apply", "start", "rollback"]


def step_until_dead(running: Collector, seed: int, acknowledged: list[int], stop: threading.Event) -> None:
    """Take steps at random until the collector is gone; note the revision of each that was answered."""
    dice = random.Random(seed)
    while not stop.is_set():
        step = dice.choice(["start", "hold", "advance", "rollback", "re-arm"])
        try:
            answer = ask(running, "POST", f"/v1/rollouts/checkout/{step}", PERSON | {"force": True})
            acknowledged.append(answer["state"]["revision"])
        except urllib.error.HTTPError as error:
            error.close()
        except (http.client.HTTPException, OSError, ValueError):
            if running.process.poll() is not None:
                return


def kill_while_stepping(folder: Path, seed: int, steps: int) -> list[int]:
    acknowledged: list[int] = []
    stop = threading.Event()
    with collector(folder, settings=QUICK_ROUNDS) as running, ThreadPoolExecutor(3) as pool:
        if seed == 0:
            stages = [{"name": f"s{n}", "percent": n, "soak": "1m"} for n in (1, 5, 20, 100)]
            begin(running, stages=stages)
        done = [pool.submit(step_until_dead, running, seed * 10 + n, acknowledged, stop) for n in range(3)]
        try:
            eventually(lambda: len(acknowledged) >= steps, "steps are answered")
            # Not between two answers but anywhere in the middle of one.
            time.sleep(random.Random(seed).random() / 20)
            running.process.kill()
            running.process.wait()
        finally:
            stop.set()
        for one in done:
            one.result()
    return acknowledged


def whole_after(folder: Path, acknowledged: list[int]) -> None:
    """Nothing that was answered is lost, nothing is half there, and the state is the one of the last change."""
    with collector(folder, settings=SLOW_ROUNDS) as running:
        changes = history(running)
        state = ask(running, "GET", "/v1/rollouts/checkout")["state"]
    assert [change["revision"] for change in changes] == list(range(1, len(changes) + 1))
    assert max(acknowledged, default=0) <= len(changes)
    for before, after in pairwise(changes):
        assert (before["to_status"], before["to_stage"]) == (after["from_status"], after["from_stage"])
    assert (state["revision"], state["status"], state["stage"]) == (len(changes), changes[-1]["to_status"], changes[-1]["to_stage"])


def test_every_change_survives_kill_9_or_never_was(tmp_path: Path) -> None:
    acknowledged = kill_while_stepping(tmp_path, 0, steps=25)

    whole_after(tmp_path, acknowledged)


@pytest.mark.slow
def test_every_change_survives_twenty_kills(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    for seed in range(20):
        acknowledged += kill_while_stepping(tmp_path, seed, steps=10 + seed)

    whole_after(tmp_path, acknowledged)


def test_a_rollout_that_nobody_harms_stays(tmp_path: Path) -> None:
    """The other tests would pass with a collector that always reverts."""
    with collector(tmp_path, settings=QUICK_ROUNDS) as running:
        begin(running)
        begin(running, "other", service="shop")
        violate(running, "v-1", "other")
        rolled_back(running, "other")

        assert status(running) == "running"
