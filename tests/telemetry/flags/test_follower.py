"""Following a real collector: changes arrive, outages change nothing, restarts keep what was known."""

from __future__ import annotations

import json
import multiprocessing
import threading
from pathlib import Path

import pytest

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.flags import follower as follower_module
from tests.real_parts.flag_server import SEND, Rollouts, flag_server, rule
from tests.real_parts.processes import eventually, free_port


def has(monitor, **members) -> bool:
    found = monitor.flags.follower.rules.get("checkout-v2")
    return found is not None and all(getattr(found, name) == value for name, value in members.items())


def test_a_change_arrives_while_the_follower_waits(following, rollouts):
    monitor = following()
    assert has(monitor, percent=50.0)

    rollouts.set("checkout-v2", enabled=False)

    eventually(lambda: has(monitor, enabled=False), "the rollback arrives")
    assert monitor.registry.value(names.FLAG_FETCHES_TOTAL, result="changed") >= 2


def test_one_request_waits_while_nothing_changes(following, rollouts):
    """Twenty looks at the store later the collector has answered nobody a second time: waiting is not polling."""
    monitor = following()
    eventually(lambda: rollouts.asked > 20, "the collector looks")

    assert monitor.registry.value(names.FLAG_FETCHES_TOTAL, result="changed") == 1
    assert monitor.registry.value(names.FLAG_FETCHES_TOTAL, result="unchanged") == 0


def test_an_outage_changes_nothing_and_ends_by_itself(make_monitor, monkeypatch):
    rollouts, port = Rollouts(rule("checkout-v2")), free_port()
    with flag_server(rollouts, port=port) as url:
        monitor = make_monitor(collector_url=url, collector_token=SEND)
        monitor.flags.follower.start()
        assert monitor.flags.follower.wait_ready(30)
    before = dict(monitor.flags.follower.rules)
    eventually(lambda: monitor.registry.value(names.FLAG_FETCHES_TOTAL, result="failed") >= 3, "the outage is noticed")
    monkeypatch.setattr(follower_module, "STALE_AFTER_S", 0.0)

    assert dict(monitor.flags.follower.rules) == before
    monitor.flags._tick(0.0)
    assert monitor.registry.value(names.FLAG_STALE) == 1

    rollouts.set("checkout-v2", percent=100.0)
    with flag_server(rollouts, port=port):
        eventually(lambda: has(monitor, percent=100.0), "what changed meanwhile arrives")


@pytest.mark.parametrize("percent", [10.0, 100.0])
def test_falling_to_off_is_for_who_asks_and_never_at_100_percent(make_monitor, percent):
    rollouts, port = Rollouts(rule("checkout-v2", percent=percent)), free_port()
    with flag_server(rollouts, port=port) as url:
        monitor = make_monitor(collector_url=url, collector_token=SEND, flags_off_after_s=0.5)
        monitor.flags.follower.start()
        assert monitor.flags.follower.wait_ready(30)
        assert has(monitor, enabled=True)
    follower = monitor.flags.follower
    eventually(lambda: follower._has_fallen, "the time is over")

    assert has(monitor, enabled=percent == 100.0, is_stale=percent != 100.0)

    with flag_server(rollouts, port=port):
        eventually(lambda: has(monitor, enabled=True, is_stale=False), "they are back, though nothing changed")


def test_what_was_known_survives_a_restart_while_the_collector_is_away(following, make_monitor, tmp_path: Path, rollouts):
    kept = tmp_path / "flags.json"
    first = following(flags_cache_file=str(kept))
    eventually(kept.exists, "the rules are kept")
    first.close()

    second = make_monitor(collector_url=f"http://127.0.0.1:{free_port()}", flags_cache_file=str(kept))
    second.flags.follower.start()

    assert has(second, percent=50.0)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if "flags" in path.name] == ["flags.json"]


@pytest.mark.parametrize("content", ["", "{", json.dumps({"schema": "flags/v1", "service": "another", "revision": 1, "flags": []})])
def test_a_kept_file_that_is_not_ours_is_no_state(make_monitor, tmp_path: Path, content):
    kept = tmp_path / "flags.json"
    kept.write_text(content)
    monitor = make_monitor(flags_cache_file=str(kept))
    monitor.flags.follower.start()

    assert not monitor.flags.follower.is_ready
    assert not monitor.flags.follower.rules


def test_without_a_collector_there_is_no_thread(make_monitor):
    monitor = make_monitor()
    before = threading.active_count()
    monitor.flags.follower.start()

    assert threading.active_count() == before


def test_a_refused_token_is_asked_again_and_changes_nothing(following, make_monitor, collector_url):
    monitor = make_monitor(collector_url=collector_url, collector_token="wrong")
    monitor.flags.follower.start()

    eventually(lambda: monitor.registry.value(names.FLAG_FETCHES_TOTAL, result="failed") >= 2, "it is refused")
    assert not monitor.flags.follower.is_ready


def _in_child(follower, said) -> None:
    said.put(("before", dict(follower.rules)["checkout-v2"].enabled))
    eventually(lambda: not follower.rules["checkout-v2"].enabled, "the child follows by itself")
    said.put(("after", follower.rules["checkout-v2"].enabled))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_worker_follows_by_itself(following, rollouts):
    """gunicorn --preload: the application is loaded, and its provider set, before the workers are forked."""
    monitor = following()
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    child = context.Process(target=_in_child, args=(monitor.flags.follower, said))
    child.start()
    try:
        assert said.get(timeout=60) == ("before", True)
        rollouts.set("checkout-v2", enabled=False)
        assert said.get(timeout=60) == ("after", False)
        eventually(lambda: has(monitor, enabled=False), "so does the parent")
    finally:
        child.join(60)
        child.kill()


def test_closing_ends_the_thread_though_the_collector_holds_its_answer_back(following):
    monitor = following()
    thread = monitor.flags.follower._thread
    monitor.flags.close()
    thread.join(20)

    assert not thread.is_alive()
