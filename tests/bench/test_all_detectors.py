"""The rows with all detectors at work: they run, they measure what they say, and they leave the process as it was."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvloop")

from bench import all_detectors, own_stretch
from bench.applications import Client
from isolation_monitor.telemetry import names


def test_a_page_is_5_kb_of_json_with_20_ids() -> None:
    page = all_detectors._page(random.Random(1))

    assert 4_500 < len(page) < 5_500
    assert len({thing["id"] for thing in json.loads(page)["things"]}) == 20


async def test_every_answer_is_judged_and_none_is_foreign() -> None:
    """Each user is given his own things only: a violation here would be a false alarm, no judgement a number of nothing."""
    watching = all_detectors.Watching()
    try:
        client = Client(watching.monitor.instrument(all_detectors.pages(random.Random(1))), "/page")
        all_detectors.fill_index(watching.monitor, 200)

        await client.requests(20)

        watching.expect_clean(names.FOREIGN_CONTENT)
        assert watching.monitor.registry.value(names.CHECKS, detector=names.FOREIGN_CONTENT, result="pass") == 20
    finally:
        await watching.end()


async def test_a_measurement_of_nothing_is_refused() -> None:
    watching = all_detectors.Watching()
    try:
        with pytest.raises(RuntimeError, match="nothing was judged by foreign_content"):
            watching.expect_clean(names.FOREIGN_CONTENT)
    finally:
        await watching.end()


async def test_what_acts_on_the_process_is_put_on_and_taken_off() -> None:
    """The variant without a monitor must run without it: its tasks, locks and threads are the library's own."""
    create_task = asyncio.AbstractEventLoop.create_task
    factory = asyncio.get_running_loop().get_task_factory()
    watching = all_detectors.Watching()
    try:
        watching.begin()
        assert not any(patch.active for patch in watching.monitor.integrations.patches)

        watching.on()
        assert any(patch.active for patch in watching.monitor.integrations.patches)
        watching.off()

        assert not any(patch.active for patch in watching.monitor.integrations.patches)
        assert asyncio.get_running_loop().get_task_factory() is factory
        assert asyncio.AbstractEventLoop.create_task is create_task
    finally:
        await watching.end()


@pytest.mark.parametrize("suite", ["http-all-detectors", "http-all-detectors-json", "websocket-frame-all-detectors"])
def test_quick_runs_give_every_row(suite: str, tmp_path: Path) -> None:
    rows = measured(suite, tmp_path)

    assert rows
    assert all(row["value"] is not None for row in rows.values())
    assert any(row["budget"] is not None for row in rows.values())


def test_memory_is_counted_for_each_request_and_each_id(tmp_path: Path) -> None:
    rows = measured("memory", tmp_path)

    assert rows["memory per request in flight"]["value"] > 0.5, "a request context alone is larger"
    assert rows["memory per 100k indexed ids"]["value"] > 5, "the ids themselves are 8 MB"


def measured(suite: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Run a suite in a process of its own, as people do: this one holds the modules of every test, which detectors look through."""
    output = folder / "rows.json"
    command = [sys.executable, "-m", "bench", "--quick", "--no-strict", "--output", str(output), suite]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return {row["name"]: row for row in json.loads(output.read_text())["rows"]}


def test_a_stretch_is_the_cpu_time_of_its_own_thread() -> None:
    """Waiting is no stretch: what the machine gives to others must not count as ours."""
    stretches = own_stretch.Stretches()

    stretches.timing(time.sleep, "waits", on_loop=False)(0.05)
    waited = stretches.longest_ns
    stretches.timing(lambda: sum(range(3_000_000)), "works", on_loop=True)()

    assert waited < 20_000_000
    assert stretches.where == stretches.where_on_loop == "works"
    assert stretches.timed == 2


async def test_jobs_that_are_due_later_are_timed_too() -> None:
    watching = all_detectors.Watching()
    stretches = own_stretch.Stretches()
    first, second = threading.Event(), threading.Event()
    try:
        stretches.wrap_housekeeper(watching.monitor.housekeeper)

        # One after the other on one thread: when the second runs, the first has been noted.
        watching.monitor.housekeeper.after(0.0, first.set)
        await asyncio.to_thread(first.wait, 10)
        watching.monitor.housekeeper.after(0.0, second.set)
        await asyncio.to_thread(second.wait, 10)

        assert stretches.timed >= 1
    finally:
        await watching.end()


async def test_the_longest_stretch_is_found_among_many() -> None:
    rows = {row.name: row for row in await own_stretch.stretch(True)}

    assert rows["longest stretch of our own code"].value > 0
    assert rows["longest stretch of our own code: stretches timed"].value > 1_000
    assert rows["longest stretch of our own code: frames sent"].value >= 100
