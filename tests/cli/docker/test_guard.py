"""`isomon docker` against a real engine: containers that end slowly, that ignore SIGTERM, and guards that come all at once."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.cli.docker.guard.journal import Journal
from isolation_monitor.cli.main import main
from isolation_monitor.docker_guard import ActionFailed, ActionRefused, DockerGuard
from tests.real_parts.collector import collector
from tests.real_parts.docker_engine import DockerEngine, docker_engine
from tests.real_parts.processes import eventually, free_port

Json = dict[str, Any]

ENDS_AT_ONCE = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done")
TAKES_3_S = ("sh", "-c", "trap 'sleep 3; exit 7' TERM; while :; do sleep 0.05; done")
IGNORES = ("sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with docker_engine() as running:
        yield running


class Shell:
    """Runs `isomon docker` with a journal and locks of the test's own: in this process, or as another one with `start`."""

    def __init__(self, engine: DockerEngine, folder: Path, patch: pytest.MonkeyPatch, output: pytest.CaptureFixture[str]) -> None:
        self.journal = folder / "journal.jsonl"
        self._patch = patch
        self._output = output
        for name in [name for name in os.environ if name.startswith(("ISOMON_", "DOCKER_", "GITHUB_", "GITLAB_", "CI_"))]:
            patch.delenv(name)
        patch.setenv("DOCKER_HOST", engine.url)
        patch.setenv("ISOMON_DOCKER_JOURNAL", str(self.journal))
        patch.setenv("ISOMON_DOCKER_LOCK_DIR", str(folder / "locks"))
        patch.setenv("COLUMNS", "200")

    @staticmethod
    def start(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "isolation_monitor.cli", "docker", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __call__(self, *words: str, **environment: str) -> tuple[int, str, str]:
        with self._patch.context() as patch:
            patch.setattr(sys, "argv", ["isomon", "docker", *words])
            for name, value in environment.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as left:
                main(["docker", *words])
        printed = self._output.readouterr()
        return int(left.value.code or 0), printed.out, printed.err

    def recorded(self) -> list[Json]:
        return [json.loads(line) for line in self.journal.read_text().splitlines()]


@pytest.fixture
def isomon(engine: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(engine, tmp_path, monkeypatch, capsys)


def test_a_container_that_takes_three_seconds_gets_them(engine: DockerEngine, isomon: Shell) -> None:
    engine.run("slow", *TAKES_3_S)

    code, out, err = isomon("stop", "slow", "--time", "60s")

    assert code == 0, err
    assert engine.state("slow")["ExitCode"] == 7, "its own end, not SIGKILL's 137"
    assert "ended" in out
    (action,) = isomon.recorded()
    assert (action["action"], action["container"], action["result"]) == ("stop", "slow", "done")
    assert (action["signal"], action["forced"]) == ("SIGTERM", False)
    assert action["command"] == "isomon docker stop slow --time 60s"
    assert action["image"] == "isomon-test/busybox:1"
    assert action["actor"]


def test_one_that_ignores_sigterm_goes_on_and_the_caller_is_told_why(engine: DockerEngine, isomon: Shell) -> None:
    engine.run("deaf", *IGNORES)

    code, _, err = isomon("stop", "deaf", "--time", "1s")

    assert code == 3
    assert "still runs 1 s after SIGTERM" in err
    assert "--allow-kill" in err
    assert engine.state("deaf")["Status"] == "running"
    assert [(one["result"], one["forced"]) for one in isomon.recorded()] == [("refused", False)]

    code, out, _ = isomon("stop", "deaf", "--time", "1s", "--allow-kill", "--json")

    assert code == 0
    assert engine.exited("deaf") == 137
    (action,) = json.loads(out)["actions"]
    assert (action["signal"], action["forced"], action["result"]) == ("SIGKILL", True, "done")
    assert isomon.recorded()[-1] == action


def test_a_stop_signal_of_the_container_is_the_one_it_gets(engine: DockerEngine, isomon: Shell) -> None:
    engine.run("quits", "sh", "-c", "trap 'exit 5' QUIT; while :; do sleep 0.05; done", StopSignal="SIGQUIT")

    assert isomon("stop", "quits")[0] == 0

    assert engine.state("quits")["ExitCode"] == 5
    assert isomon.recorded()[0]["signal"] == "SIGQUIT"


def test_a_stopped_container_stays_stopped_whatever_its_restart_policy(engine: DockerEngine, isomon: Shell) -> None:
    engine.run("always", *ENDS_AT_ONCE, RestartPolicy={"Name": "always"})

    assert isomon("stop", "always")[0] == 0

    state = engine.state("always")
    assert (state["Status"], state["Restarting"]) == ("exited", False)


def test_a_running_container_is_not_removed_unless_it_may_be_stopped_first(engine: DockerEngine, isomon: Shell) -> None:
    engine.run("web", *ENDS_AT_ONCE)

    refused = isomon("rm", "web")
    forced = isomon("rm", "-f", "web")

    assert (refused[0], forced[0]) == (3, 3)
    assert "--stop" in refused[2]
    assert "leave -f out" in forced[2]
    assert engine.state("web")["Status"] == "running"

    assert isomon("rm", "--stop", "web")[0] == 0

    with pytest.raises(AssertionError, match="404"):
        engine.state("web")
    told = [(one["result"], one["forced"], one["container"]) for one in isomon.recorded()]
    assert told == [("refused", False, "web"), ("refused", True, "web"), ("done", False, "web")]


def test_one_that_removes_itself_when_it_ends_is_removed_too(engine: DockerEngine, isomon: Shell) -> None:
    engine.run("fleeting", *ENDS_AT_ONCE, AutoRemove=True)

    code, _, err = isomon("rm", "--stop", "fleeting")

    assert code == 0, err


def test_what_would_be_a_kill_is_refused(engine: DockerEngine, isomon: Shell) -> None:
    engine.run("victim", "sh", "-c", "trap '' TERM; trap 'exit 6' HUP; while :; do sleep 0.05; done")

    assert [isomon(*words)[0] for words in (("kill", "victim"), ("kill", "-s", "9", "victim"), ("stop", "-t", "0", "victim"))] == [3, 3, 3]
    assert engine.state("victim")["Status"] == "running"
    assert [(one["forced"], one["result"]) for one in isomon.recorded()] == [(True, "refused")] * 3

    assert isomon("kill", "-s", "HUP", "victim")[0] == 0
    assert engine.exited("victim") == 6
    assert isomon("kill", "-s", "HUP", "victim")[0] == 1


def test_a_restart_is_a_graceful_stop_and_a_start(engine: DockerEngine, isomon: Shell) -> None:
    engine.run("again", *ENDS_AT_ONCE)
    before = engine.state("again")["StartedAt"]

    assert isomon("restart", "again")[0] == 0

    assert engine.state("again")["Status"] == "running"
    assert engine.state("again")["StartedAt"] > before


def test_prune_takes_only_what_is_ours_and_has_ended(engine: DockerEngine, isomon: Shell) -> None:
    for name, label in (("mine-1", "ours"), ("mine-2", "ours"), ("other", "theirs")):
        engine.run(name, "true", labels={"job": label})
        engine.exited(name)
    engine.run("mine-running", *ENDS_AT_ONCE, labels={"job": "ours"})

    assert isomon("prune")[0] == 3
    assert isomon("prune", "--label", "job=ours", "--force")[0] == 3
    assert isomon("prune", "--label", "job=ours", "--older-than", "1h") == (0, "there is nothing to remove\n", "")
    assert isomon("prune", "--label", "job=ours", "--dry-run")[1].count("would be removed") == 2
    assert isomon("prune", "--label", "job=ours")[0] == 0

    left = {name.lstrip("/") for one in engine.ask("GET", "/containers/json?all=1") for name in one["Names"]}
    assert {"other", "mine-running"} <= left
    assert not {"mine-1", "mine-2"} & left


def test_guards_that_come_at_once_take_turns_half_a_second_apart(engine: DockerEngine, isomon: Shell) -> None:
    """Four scripts of a CI host clean up in the same moment: the engine gets one request per 0.5 s, by its own clock."""
    names = [f"crowd-{n}" for n in range(4)]
    for name in names:
        engine.run(name, *ENDS_AT_ONCE)

    guards = [isomon.start("stop", name) for name in names]
    for guard in guards:
        guard.communicate(timeout=120)

    assert [guard.returncode for guard in guards] == [0] * 4
    kills = sorted(_kills(engine, names))
    assert len(kills) == 4
    # The engine notes the signal while it is sent: a request that took long shortens the gap that is seen.
    assert min(after - before for before, after in itertools.pairwise(kills)) >= 0.4


def _kills(engine: DockerEngine, names: list[str]) -> list[float]:
    now = datetime.now().timestamp()  # noqa: DTZ005 - seconds since the epoch
    told = engine.ask("GET", f"/events?since=0&until={now:.0f}.999999999&filters=%7B%22event%22%3A%5B%22kill%22%5D%7D")
    lines = told.splitlines() if isinstance(told, str) else [json.dumps(told)]
    events = [json.loads(line) for line in lines]
    return [one["timeNano"] / 1e9 for one in events if one["Actor"]["Attributes"]["name"] in names]


def test_no_container_and_no_engine_are_failures_that_say_so(isomon: Shell, tmp_path: Path) -> None:
    code, _, err = isomon("stop", "nobody")
    assert (code, "there is no container 'nobody'" in err) == (1, True)
    assert isomon.recorded()[0]["result"] == "failed"

    code, _, err = isomon("stop", "web", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert code == 1
    assert "does not answer" in err
    assert isomon("stop", "web", "--time", "soon")[0] == 2


@pytest.mark.parametrize(
    ("name", "told"), [("", "is its variable set?"), (".", "there is no container '.'"), ("a\nb", "there is no container")]
)
def test_what_is_no_name_is_told_as_such(isomon: Shell, name: str, told: str) -> None:
    """A script's empty variable, or a list of names in one word, must not become another address of the engine's API."""
    code, _, err = isomon("rm", name)

    assert code == 1
    assert told in err
    assert "does not answer" not in err


def test_a_name_may_begin_with_the_slash_that_the_engine_writes(engine: DockerEngine, isomon: Shell) -> None:
    engine.run("slashed", *ENDS_AT_ONCE)

    assert isomon("rm", "/slashed", "--stop")[0] == 0


def test_nothing_that_was_typed_holds_up_what_waits_for_the_collector(isomon: Shell, tmp_path: Path) -> None:
    """One action that the collector cannot take would be sent again and refused for ever, and all others with it."""
    unsent = tmp_path / "journal.jsonl.unsent"
    odd = ["\n".join(["0123456789ab"] * 30), "\udcff"]
    with collector(tmp_path / "collector") as running:
        about = {"ISOMON_TOKEN": running.send_token, "ISOMON_COLLECTOR": running.url}

        told = [isomon("rm", *odd, **about)[2], isomon("kill", "web", "--signal", "S" * 50, **about)[2]]

    assert [text for text in told if "not told" in text] == []
    assert not unsent.exists()
    assert len(isomon.recorded()) == 3


def test_a_guard_that_told_the_collector_leaves_what_another_could_not_tell(tmp_path: Path) -> None:
    """Two jobs at once: one's success must not take away what the other has just put aside."""
    journal = Journal(tmp_path / "journal")
    journal.keep_unsent([{"id": "before"}])
    journal.keep_unsent([{"id": "before"}, {"id": "another's"}])

    journal.keep_unsent([], sent=["before", "mine"])

    assert [one["id"] for one in journal.unsent()] == ["another's"]
    journal.keep_unsent([], sent=["another's"])
    assert not journal.unsent_path.exists()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_job_that_is_called_off_leaves_a_record(engine: DockerEngine, isomon: Shell, sent: signal.Signals, code: int) -> None:
    """The container has heard SIGTERM: who looks later why it ended must find who asked."""
    name = f"off-{sent.name.lower()}"
    engine.run(name, "sh", "-c", "trap 'touch /tmp/heard' TERM; while :; do sleep 0.05; done")
    asking = isomon.start("stop", name, "--time", "60s")
    eventually(lambda: _heard(engine, name), "the container hears SIGTERM")

    asking.send_signal(sent)
    _, err = asking.communicate(timeout=60)

    assert (asking.returncode, "broken off" in err) == (code, True)
    (action,) = isomon.recorded()
    assert (action["container"], action["result"], "broken off" in action["reason"]) == (name, "failed", True)


def _heard(engine: DockerEngine, name: str) -> bool:
    try:
        engine.ask("GET", f"/containers/{name}/archive?path=/tmp/heard")
    except AssertionError:
        return False
    return True


def test_force_is_not_used_where_it_cannot_be_recorded(engine: DockerEngine, isomon: Shell, tmp_path: Path) -> None:
    engine.run("unseen", *IGNORES)
    (tmp_path / "file").write_text("")

    code, _, err = isomon("kill", "unseen", "--allow-kill", ISOMON_DOCKER_JOURNAL=str(tmp_path / "file" / "journal"))

    assert code == 3
    assert "force is used only where it is recorded" in err
    assert engine.state("unseen")["Status"] == "running"


def test_what_the_collector_did_not_get_goes_with_the_next_command(isomon: Shell, tmp_path: Path) -> None:
    """An outage, or a collector of before this feature, neither fails a command nor loses a refusal."""
    unsent = tmp_path / "journal.jsonl.unsent"
    with collector(tmp_path / "collector") as running:
        about = {"ISOMON_TOKEN": running.send_token}

        code, _, err = isomon("kill", "web", ISOMON_COLLECTOR=f"{running.url}/no-such-collector", **about)

        assert code == 3
        assert "the collector was not told" in err
        assert len(unsent.read_text().splitlines()) == 1
        away = isomon("kill", "web", ISOMON_COLLECTOR=f"http://127.0.0.1:{free_port()}", **about)
        assert (away[0], "cannot be reached" in away[2]) == (3, True)
        assert len(unsent.read_text().splitlines()) == 2
        assert "no token" in isomon("kill", "web", ISOMON_COLLECTOR=running.url)[2]
        if find_spec("isolation_monitor.collector.containers") is None:
            pytest.skip("this collector takes no actions of containers")

        code, _, err = isomon("kill", "web", ISOMON_COLLECTOR=running.url, **about)

        assert "not told" not in err
        assert not unsent.exists()
        request = urllib.request.Request(f"{running.url}/v1/container-actions", headers=running.reading)
        with urllib.request.urlopen(request, timeout=30) as answer:
            kept = json.load(answer)["items"]
    assert len(kept) == 3, "the two that waited, and this one; without a token nothing was tried, and nothing waits"
    assert {(one["action"], one["container"], one["result"], one["forced"]) for one in kept} == {("kill", "web", "refused", True)}


def test_scripts_in_python_get_the_action_or_an_exception(engine: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOMON_DOCKER_LOCK_DIR", str(tmp_path))
    engine.run("script", *ENDS_AT_ONCE)

    with DockerGuard(engine.url, actor="ann", journal=tmp_path / "journal") as guard:
        with pytest.raises(ActionRefused, match="stop it first"):
            guard.remove("script")
        removed = guard.remove("script", stop=True)
        with pytest.raises(ActionFailed, match="no container"):
            guard.stop("script")

    assert (removed.actor, removed.result) == ("ann", "done")
    assert len((tmp_path / "journal").read_text().splitlines()) == 3


def test_the_journal_is_shown(engine: DockerEngine, isomon: Shell) -> None:
    assert isomon("journal")[1] == "nothing is in the journal\n"
    isomon("kill", "[red]anybody", "--actor", "ann")

    _, shown, _ = isomon("journal")
    _, lines, _ = isomon("journal", "--json")

    assert "[red]anybody" in shown
    assert "kill by force (SIGKILL)" in shown
    assert json.loads(lines)["actor"] == "ann"
