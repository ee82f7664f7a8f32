"""`isomon rollout` as it is used: in a process of its own, against a real collector."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.collector.test_commands import isomon
from tests.real_parts.collector import Collector, collector
from tests.real_parts.processes import free_port

FILE = """\
rollout: checkout
service: chat
internal_users: [ann]
stages:
  - {name: internal, kind: internal, soak: 10m}
  - {name: full, percent: 100, soak: 1h, advance: manual}
"""
STEPS = ("start", "advance", "hold", "rollback", "re-arm")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with collector(tmp_path_factory.mktemp("collector")) as one:
        yield one


def test_a_rollout_goes_from_its_file_to_its_rollback_and_back(running: Collector, tmp_path: Path) -> None:
    file, wrong = tmp_path / "checkout.yml", tmp_path / "wrong.yml"
    file.write_text(FILE)
    wrong.write_text(FILE.replace("rollout: checkout", "rollout: other").replace("percent: 100", "percent: 1000"))

    def run(*words: str) -> tuple[int, str]:
        done = isomon("rollout", *words, "--collector", running.url, token=running.read_token)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    both = run("apply", str(file), str(wrong))
    nothing = run("status")
    applied, again = run("apply", str(file)), run("apply", str(file))
    started = run("start", "checkout", "-m", "release 2.4", "--actor", "bob")
    refused = run("advance", "checkout", "-m", "go on")
    forced = run("advance", "checkout", "-m", "go on", "--force")
    shown, held = run("status", "checkout"), run("hold", "checkout", "-m", "wait")
    held_status = run("status", "checkout", "--json")
    reverted, reverted_again = run("rollback", "checkout"), run("rollback", "checkout")
    after = run("status", "checkout")
    restarted = run("start", "checkout", "-m", "try")
    rearmed = run("re-arm", "checkout", "-m", "fixed")
    many, history = run("status"), run("history", "checkout")
    changes = json.loads(run("history", "checkout", "--json")[1])["items"]

    assert both[0] == 2
    assert f"{wrong}:6: stages[1].percent: 1000 is not within 0.1 to 100" in both[1]
    assert "nothing was stored" in both[1]
    assert nothing == (0, "no rollout yet: isomon rollout apply FILE\n")
    assert (applied, again) == ((0, "checkout: stored, it is ready\n"), (0, "checkout: nothing to do, it is ready\n"))
    assert started == (0, "checkout: running, stage internal, 0 %\n")
    assert (refused[0], "overrule it with force" in refused[1]) == (2, True)
    assert forced == (0, "checkout: running, stage full, 100 %\n")
    assert (shown[0], "full (100 % but 2 % held back)" in shown[1], "go on (forced)" in shown[1]) == (0, True, True)
    assert held[0] == 0
    assert (held_status[0], json.loads(held_status[1])["state"]["status"]) == (20, "held")
    assert reverted == (0, "checkout: rolled_back, stage off, 0 %\n")
    assert reverted_again == (0, "checkout: rolled_back, stage off, 0 % (it was so already)\n")
    assert (after[0], "nobody" in after[1]) == (10, True)
    assert (restarted[0], "re-arm" in restarted[1]) == (2, True)
    assert rearmed == (0, "checkout: ready, stage off, 0 %\n")
    assert (many[0], "checkout" in many[1], "ready" in many[1]) == (0, True, True)
    assert (history[0], "release 2.4" in history[1]) == (0, True)
    assert [change["action"] for change in changes] == ["re-arm", "rollback", "hold", "advance", "start", "apply"]
    assert (changes[4]["actor"], changes[1]["reason"]) == ("bob", "by hand")
    assert "@" in changes[0]["actor"]


def test_each_file_is_said_as_it_is_stored_and_the_first_refusal_ends_it(running: Collector, tmp_path: Path) -> None:
    names = ("several-1", "several-2", "several-3")
    files = [tmp_path / f"{name}.yml" for name in names]
    for name, file in zip(names, files, strict=True):
        file.write_text(FILE.replace("rollout: checkout", f"rollout: {name}"))

    def run(*words: str) -> tuple[int, str, str]:
        done = isomon("rollout", *words, "--collector", running.url, token=running.read_token)
        return done.returncode, done.stdout, done.stderr

    run("start", "several-2", "--service", "chat")
    code, told, refused = run("apply", *map(str, files))
    as_json = run("apply", *map(str, files), "--json")
    third = run("status", "several-3")

    assert (code, told) == (2, "several-1: stored, it is ready\n")
    assert "several-2 is already watched without a file" in refused
    assert (as_json[0], json.loads(as_json[1])["name"]) == (2, "several-1")
    assert third[0] == 2


def test_a_table_is_as_wide_in_a_log_as_its_text(running: Collector, tmp_path: Path) -> None:
    (tmp_path / "wide.yml").write_text(FILE.replace("rollout: checkout", "rollout: wide"))
    about = ["--collector", running.url]
    why = "a reason that would not fit into what 80 columns leave"

    applied = isomon("rollout", "apply", str(tmp_path / "wide.yml"), "-m", why, "--actor", "bob", *about, token=running.read_token)
    shown = isomon("rollout", "history", "wide", *about, token=running.read_token)

    assert (applied.returncode, why in shown.stdout) == (0, True)


def test_a_rollout_without_a_file_is_watched_as_before(running: Collector) -> None:
    about = ["--collector", running.url]

    done = [isomon("rollout", *words, *about, token=running.read_token) for words in (
        ("start", "canary-1", "--service", "chat", "--arm", "on"), ("show", "canary-1"), ("hold", "canary-1", "-m", "x"),
    )]  # fmt: skip

    assert [one.returncode for one in done] == [0, 0, 2]
    assert "arm                   on" in done[1].stdout
    assert "only watched" in done[2].stderr


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("apply",),
        ("apply", "/nonexistent.yml"),
        ("start", "r"),
        ("start", "r", "-m", "x", "--arm", "on"),
        ("advance", "r"),
        ("hold", "r"),
        ("re-arm", "r"),
        ("rollback",),
        ("rollback", "r", "--wait", "soon"),
        ("rollback", "no-such-rollout"),
        ("status", "no-such-rollout"),
        ("history", "no-such-rollout"),
        ("history", "r", "--limit", "0"),
    ],
)
def test_wrong_usage_leaves_with_2(running: Collector, words: tuple[str, ...]) -> None:
    about = ["--collector", running.url] if len(words) > 1 else []

    done = isomon("rollout", *words, *about, token=running.read_token)

    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


def test_a_collector_that_is_away_leaves_with_30_and_a_rollback_keeps_trying() -> None:
    about = ["--collector", f"http://127.0.0.1:{free_port()}"]

    looked = isomon("rollout", "status", *about, token="t")
    reverted = isomon("rollout", "rollback", "checkout", "--wait", "2s", *about, token="t")

    assert (looked.returncode, reverted.returncode) == (30, 30)
    assert "trying again" in reverted.stderr


def test_a_file_is_checked_without_any_collector(tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text(FILE)

    done = isomon("rollout", "apply", str(tmp_path / "r.yml"), "--check")

    assert (done.returncode, done.stdout) == (0, "1 of 1 files are right; nothing was sent\n")


@pytest.mark.parametrize("step", [*STEPS, "apply", "status", "history", "show"])
def test_each_help_shows_an_example_and_exit_codes(step: str) -> None:
    text = isomon("rollout", step, "--help").stdout

    assert f"isomon rollout {step}" in text
    assert "Exit codes" in text
