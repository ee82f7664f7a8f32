"""Containers watched on a real Docker engine: deaths seen over an engine restart in their midst, and how soon each is told.

Fifty containers end within some twenty seconds: some before the engine is stopped, some while it is away (it keeps containers alive,
`live-restore`), some when it is back; some remove themselves and leave nothing to look at. Each end must be stored once.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from bench.rows import Row, p95
from tests.real_parts.collector import Collector, collector
from tests.real_parts.docker_engine import DockerEngine, docker_engine
from tests.real_parts.processes import eventually

CONTAINERS: Final = 50
_AWAY_S: Final = 5.0
_SPREAD_S: Final = 20.0
"""From the first end to the last; the engine is stopped after a third of it."""
_PATIENCE_S: Final = 180.0

Event = dict[str, Any]  # Any: JSON


async def rows(quick: bool = False) -> list[Row]:
    """Return the rows of containers; they are the same with `quick`, for they take less than two minutes."""
    del quick
    return await asyncio.to_thread(_rows)


def _rows() -> list[Row]:
    # One engine takes the containers of this; nothing else of the machine's Docker is touched.
    with tempfile.TemporaryDirectory() as folder, docker_engine(live_restore=True) as engine:
        settings = {"COLLECTOR_DOCKER_ENGINES": engine.url, "COLLECTOR_CONTAINER_INTERVAL_S": "2"}
        with collector(Path(folder), settings=settings) as running:
            names = _end_them(engine, running)
            deaths = _deaths(running, names)
    seen = Counter(str(one["container"]) for one in deaths)
    missed = Counter(str(one["found_by"]) for one in deaths)["listing"]
    delays = sorted(_delay_s(one) for one in deaths if one["found_by"] == "event")
    note = f"over an engine restart in their midst; {missed} told by a listing, the others by events"
    return [
        Row("container deaths seen", len(seen), f"of {len(names)}", budget=len(names), better="higher", note=note),
        Row("container deaths counted twice", sum(number - 1 for number in seen.values()), "deaths", budget=0),
        Row("container death to its record, p95", p95(delays) if delays else None, "s", budget=5.0, note="while the engine answers"),
    ]


def _end_them(engine: DockerEngine, running: Collector) -> list[str]:
    """Start the containers, stop the engine in their midst, start it again; return their names."""
    eventually(lambda: any(one["state"] == "up" for one in _asked(running, "/v1/containers")["engines"]), "the engine is followed")
    names = [f"mortal-{n:02d}" for n in range(CONTAINERS)]
    # A file ends each of them: the last one is started in time on any machine.
    for n, name in enumerate(names):
        wait = f"while ! test -e /tmp/end; do sleep 0.1; done; sleep {_SPREAD_S * n / CONTAINERS:.1f}; exit {1 + n % 7}"
        engine.run(name, "sh", "-c", wait, AutoRemove=n % 5 == 0)
    for name in names:
        engine.put(name, "/tmp", "end")
    time.sleep(_SPREAD_S / 3)
    engine.stop()
    time.sleep(_AWAY_S)
    engine.start()
    return names


def _deaths(running: Collector, names: Sequence[str]) -> list[Event]:
    """Return the stored deaths, when every container has one or nobody needs to wait any longer, and two listings more were compared."""

    def told() -> list[Event]:
        return [one for one in _asked(running, "/v1/container-events?kind=death&limit=1000")["items"] if one["container"] in names]

    deadline = time.monotonic() + _PATIENCE_S
    while len({one["container"] for one in told()}) < len(names) and time.monotonic() < deadline:
        time.sleep(0.5)
    time.sleep(6)
    return told()


def _delay_s(one: Event) -> float:
    return (datetime.fromisoformat(one["received_at"]) - datetime.fromisoformat(one["time"])).total_seconds()


def _asked(running: Collector, path: str) -> dict[str, Any]:  # Any: JSON
    with urllib.request.urlopen(urllib.request.Request(running.url + path, headers=running.reading), timeout=30) as answer:
        return dict(json.load(answer))
