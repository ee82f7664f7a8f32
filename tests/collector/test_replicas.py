"""Two collectors on one PostgreSQL, with one file of keys: records by either way, and what is told of rollouts is told once."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isolation_monitor.collector.announcements.domain import ALERT
from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.keys import Key, Scope, change_keys, new_key
from tests.collector.conftest import MIGRATED
from tests.real_parts.collector import Collector, collector
from tests.real_parts.grafana import grafana
from tests.real_parts.postgres import Postgres
from tests.real_parts.processes import eventually
from tests.real_parts.receiver import receiver
from tests.real_parts.rollouts import PERSON, ask, begin, rolled_back, violate

ROUNDS = 3


def made(path: Path, *scopes: Scope) -> tuple[Key, str]:
    key, token = new_key(scopes, datetime.now(UTC))
    change_keys(path, lambda keys: (*keys, key))
    return key, token


def sent(running: Collector, token: str, ids: list[str]) -> dict[str, Any]:
    """Send a batch of violations that no rollout minds; return the answer."""
    now = rfc3339(datetime.now(UTC))
    about = {"kind": "instance_reuse", "grade": "reachable", "detector": "instance_reuse", "synthetic": False}
    records = [{"type": "violation", "id": record_id, "time": now, **about} for record_id in ids]
    body = {"schema": "records/1", "service": "shop", "instance": "i", "sent_at": now, "records": records}
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{running.url}/v1/records", json.dumps(body).encode(), headers, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.load(answer))


def test_two_collectors_are_one(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.create("replicas", template=MIGRATED)
    keys = tmp_path / "keys.json"
    first, token = made(keys, "ingest")
    try:
        with receiver() as pager, grafana(tmp_path / "grafana") as board:
            settings = {
                "COLLECTOR_KEYS_FILE": str(keys),
                "COLLECTOR_ROLLOUT_INTERVAL_S": "0.2",
                "COLLECTOR_ALERTMANAGER_URL": pager.url,
                "COLLECTOR_GRAFANA_URL": board.url,
                "COLLECTOR_GRAFANA_TOKEN": board.token,
            }
            with (
                collector(tmp_path / "one", database_url=url, settings=settings) as one,
                collector(tmp_path / "two", database_url=url, settings=settings) as two,
            ):
                # The same two hundred records to both at once, in opposite orders: each is new to one of them.
                ids = [f"replicas-{number:03d}" for number in range(200)]
                with ThreadPoolExecutor(2) as pool:
                    answers = list(pool.map(sent, (one, two), (token, token), (ids, ids[::-1])))
                assert [answer["rejected"] for answer in answers] == [[], []]
                assert sum(answer["accepted"] for answer in answers) == len(ids)
                assert sum(answer["duplicate"] for answer in answers) == len(ids)
                for replica in (one, two):
                    seen = ask(replica, "GET", "/v1/violations?service=shop&limit=1000")["items"]
                    assert sorted(item["id"] for item in seen) == ids

                begin(one, "told-once")
                for number in range(ROUNDS):
                    with ThreadPoolExecutor(2) as pool:
                        list(pool.map(violate, (one, two), (f"told-{number}-one", f"told-{number}-two"), ("told-once", "told-once")))
                    rolled_back(two, "told-once")
                    ask(one, "POST", "/v1/rollouts/told-once/re-arm", PERSON)
                    ask(two, "POST", "/v1/rollouts/told-once/start", PERSON)
                # Apply, start, and three changes a round.
                changes = 2 + 3 * ROUNDS

                def marks() -> Counter[str]:
                    tags = [tag for mark in board.annotations() for tag in mark["tags"] if tag.startswith("isolation-id:event-")]
                    return Counter(tags)

                eventually(lambda: len(marks()) >= changes, "every change is marked")
                assert set(marks().values()) == {1}
                assert len(marks()) == changes
                pages = [
                    alert
                    for delivery in pager.deliveries
                    for alert in delivery.body
                    if alert["labels"]["alertname"] == ALERT and "startsAt" in alert
                ]
                assert Counter(alert["startsAt"] for alert in pages) == Counter({alert["startsAt"]: 1 for alert in pages})
                assert len(pages) == ROUNDS

                # A key that is revoked once is refused by both.
                change_keys(keys, lambda known: [key for key in known if key.id != first.id])
                for replica in (one, two):
                    eventually(lambda replica=replica: is_refused(replica, token), "the revoked key is refused")  # type: ignore[misc]
    finally:
        postgres.drop("replicas")


def is_refused(running: Collector, token: str) -> bool:
    try:
        sent(running, token, [])
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 401
    return False
