"""How each condition on containers, CI, probes, start-up and clean-up is caused for real, and since when it holds.

The time is that of the last look at which it did not hold yet, or of the command that causes it: what is measured from there is rather
too long than too short.
"""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from bench.watch_service import PHASE, SERVICE
from bench.watch_world import DOWN, EXPIRING, LEFT_S, SLOW, World
from isolation_monitor.alerts import thresholds
from isolation_monitor.collector.containers.domain import TTL_LABEL
from isolation_monitor.telemetry.settings import load_settings

PATIENCE_S: Final = 90.0
"""For what takes a few seconds on an idle machine."""
_LIMITS: Final = thresholds.load()
_MEMORY: Final = 64 << 20
_COMMIT: Final = "c0ffee" + "0" * 34


@dataclass(frozen=True, slots=True)
class Cause:
    """One condition. `act` causes it and returns the Unix time since when it holds; `labels` are those of its notification.

    `turn`: all of a turn are caused when those of the turn before were notified of; those of one `kind` one after the other, so that
    what is measured is the way of the notification and not a machine that starts twenty programs at once.
    """

    kind: Literal["containers", "ci", "probes", "service"]
    alert: str
    act: Callable[[World], float]
    labels: Mapping[str, str] = field(default_factory=dict)
    turn: int = 1
    what: str = ""
    """Tells causes of one alert apart."""

    @property
    def name(self) -> str:
        return f"{self.alert} ({self.what})" if self.what else self.alert


class NotCaused(Exception):
    """A condition did not come about; the text says what was waited for."""


def _since(holds: Callable[[], object], what: str) -> float:
    """Wait until it holds, and return the time at which it was last seen not to."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        before = time.time()
        if holds():
            return before
        if time.monotonic() > deadline:
            raise NotCaused(f"not within {PATIENCE_S:.0f} s: {what}")
        time.sleep(0.1)


# --- containers -------------------------------------------------------------------------------------------------------


def _out_of_memory(world: World) -> float:
    world.engine.run("hungry", "sh", "-c", "sleep 0.5; head -c 100000000 /dev/zero | tail", Memory=8 << 20, MemorySwap=8 << 20)
    return _ended(world, "hungry")


def _crash(world: World) -> float:
    world.engine.run("crashing", "sh", "-c", "sleep 0.5; exit 3")
    return _ended(world, "crashing")


def _killed(world: World) -> float:
    """Past the engine, as the kernel or another program of the machine does it."""
    world.engine.run("killed", "sleep", "3600")
    now = time.time()
    os.kill(int(world.engine.state("killed")["Pid"]), signal.SIGKILL)
    return now


def _ended(world: World, name: str) -> float:
    world.engine.exited(name)
    # To a microsecond, which is all that Python reads.
    return datetime.datetime.fromisoformat(world.engine.state(name)["FinishedAt"][:26].rstrip("Z") + "+00:00").timestamp()


def _restart_loop(world: World) -> float:
    world.engine.run("looping", "sh", "-c", "exit 7", RestartPolicy={"Name": "always"})

    def restarts() -> bool:
        return int(world.engine.ask("GET", "/containers/looping/json")["RestartCount"]) >= _LIMITS.containers.max_restarts

    return _since(restarts, "the engine restarts a container")


def _unhealthy(world: World) -> float:
    check = {"Test": ["CMD", "cat", "/tmp/well"], "Interval": 500_000_000, "Retries": 2, "StartPeriod": 0}
    world.engine.run("ill", "sh", "-c", "touch /tmp/well; sleep 3; rm /tmp/well; sleep 3600", Healthcheck=check)
    return _since(lambda: world.engine.state("ill")["Health"]["Status"] == "unhealthy", "a container is unhealthy")


def _memory_near_limit(world: World) -> float:
    used = int(_MEMORY * (1 + _LIMITS.containers.max_memory_ratio) / 2)
    hold = f"head -c {used} /dev/zero | tail -c {used} | sleep 3600"
    world.engine.run("full", "sh", "-c", hold, Memory=_MEMORY, MemorySwap=_MEMORY)

    def is_full() -> bool:
        memory = world.engine.ask("GET", "/containers/full/stats?stream=false&one-shot=true")["memory_stats"]
        cache = memory.get("stats", {})
        given_back = cache.get("inactive_file", cache.get("total_inactive_file", 0))
        return float(memory.get("usage", 0) - given_back) > _LIMITS.containers.max_memory_ratio * _MEMORY

    return _since(is_full, "a container has almost used up its memory")


def _stop_needs_kill(world: World) -> float:
    world.engine.run("stubborn", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    world.engine.ask("POST", "/containers/stubborn/stop?t=2")
    return _ended(world, "stubborn")


def _forced_removal(world: World) -> float:
    world.engine.run("unwanted", "sleep", "3600")
    now = time.time()
    world.engine.ask("DELETE", "/containers/unwanted?force=1")
    return now


def _command_storm(world: World) -> float:
    names = [f"victim-{n}" for n in range(4)]
    for name in names:
        world.engine.run(name, "sleep", "3600")
    now = time.time()
    with ThreadPoolExecutor(len(names)) as together:
        list(together.map(lambda name: world.engine.ask("POST", f"/containers/{name}/kill"), names))
    return now


def _kill(world: World) -> float:
    world.engine.run("shot", "sleep", "3600")
    now = time.time()
    world.engine.ask("POST", "/containers/shot/kill")
    return now


def _process_out_of_memory(world: World) -> float:
    """A worker starves; the first process, whose end would be the container's, waits for it and goes on."""
    hungry = "sleep 0.5; (head -c 100000000 /dev/zero | tail); echo starved > /tmp/starved; sleep 3600"
    world.engine.run("surviving", "sh", "-c", hungry, Memory=8 << 20, MemorySwap=8 << 20)
    return time.time()


def _orphan(world: World) -> float:
    world.engine.run("nobodys", "true")
    return _ended(world, "nobodys") + LEFT_S


def _expired(world: World) -> float:
    labels = {"isolation.owner": "bench", TTL_LABEL: f"{LEFT_S}s"}
    world.engine.run("outlived", "sleep", "3600", labels=labels)
    return time.time() + LEFT_S


def _unused_volume(world: World) -> float:
    world.engine.ask("POST", "/volumes/create", {"Name": "unused"})
    return time.time() + LEFT_S


def _engine_away(world: World) -> float:
    now = time.time()
    world.engine.stop()
    return now


# --- CI ---------------------------------------------------------------------------------------------------------------


def _pass_rate(world: World) -> float:
    """Half of the tests of a real run fail."""
    return _sent(world, "ci-pass", _pytest(world, "ci-pass", breaks=True))


def _flaky(world: World) -> float:
    """The same tests of the same commit pass and fail in two real runs."""
    _sent(world, "ci-flaky", _pytest(world, "ci-flaky", breaks=True))
    return _sent(world, "ci-flaky", _pytest(world, "ci-flaky", breaks=False), run="2")


def _slow_run(world: World) -> float:
    return _sent(world, "ci-slow", _junit(world, "ci-slow", seconds=2 * _LIMITS.ci.max_duration_s))


def _slower_runs(world: World) -> float:
    began = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=8)
    since = 0.0
    # Five runs of a minute, then three that take twice as long.
    for n in range(8):
        at = began + datetime.timedelta(hours=n)
        since = _sent(world, "ci-slower", _junit(world, "ci-slower", seconds=60 if n < 5 else 120, at=at), run=str(n))
    return since


def _hungry_run(world: World) -> float:
    return _sent(world, "ci-hungry", _junit(world, "ci-hungry", seconds=60, memory_bytes=2 * _LIMITS.ci.max_memory_bytes))


def _no_run(world: World) -> float:
    ago = datetime.timedelta(seconds=2 * _LIMITS.ci.missing_after_s)
    return _sent(world, "ci-missing", _junit(world, "ci-missing", seconds=60, at=datetime.datetime.now(datetime.UTC) - ago))


_TESTS: Final = """
import os
import pytest

@pytest.mark.parametrize("n", range(4))
def test_something(n):
    assert n % 2 == 0 or not os.environ["BREAKS"], "n is odd"
"""


def _pytest(world: World, suite: str, *, breaks: bool) -> Path:
    """Run pytest on four tests, two of which fail if it breaks, and return its JUnit file."""
    folder = world.folder / suite
    folder.mkdir(exist_ok=True)
    (folder / "test_something.py").write_text(_TESTS, encoding="utf-8")
    report = folder / f"{breaks}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", f"--rootdir={folder}", str(folder)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environ["BREAKS"] = "1" if breaks else ""
    subprocess.run(command, cwd=folder, env=environ, capture_output=True, timeout=PATIENCE_S, check=False)
    return report


def _junit(world: World, suite: str, *, seconds: float, at: datetime.datetime | None = None, memory_bytes: int = 0) -> Path:
    """Return the file of a run that nobody waited for: two tests that passed."""
    at = at or datetime.datetime.now(datetime.UTC)
    memory = f'<properties><property name="isolation.memory_peak_bytes" value="{memory_bytes}"/></properties>' if memory_bytes else ""
    cases = "".join(f'<testcase classname="shop" name="test_{n}" time="{seconds / 2:g}"/>' for n in range(2))
    about = f'name="{suite}" tests="2" time="{seconds:g}" timestamp="{at.isoformat()}"'
    text = f"<testsuites><testsuite {about}>{memory}{cases}</testsuite></testsuites>"
    path = world.folder / f"{suite}.xml"
    path.write_text(text, encoding="utf-8")
    return path


def _sent(world: World, suite: str, report: Path, *, run: str = "1") -> float:
    """Report a run by `isomon ci report`, and return when that began."""
    about = {"suite": suite, "branch": "main", "default-branch": "main", "commit": _COMMIT, "repository": "example/shop"}
    about |= {"run-id": run, "job": "test", "collector": world.stack.collector.url, "token-file": str(world.stack.folder / "send.token")}
    options = [part for name, value in about.items() for part in (f"--{name}", value)]
    command = [sys.executable, "-m", "isolation_monitor.cli", "ci", "report", str(report), "--json", *options]
    now = time.time()
    done = subprocess.run(command, cwd=world.folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode != 0:
        raise NotCaused(f"isomon ci report ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    return now


# --- probes -----------------------------------------------------------------------------------------------------------


def _endpoint_down(world: World) -> float:
    now = time.time()
    world.endpoints[DOWN].close()
    return now


def _endpoint_slow(world: World) -> float:
    now = time.time()
    world.endpoints[SLOW].delay_s = 1.5
    return now


def _certificate_expires(world: World) -> float:
    soon = world.authority.certificate("short", 1)
    now = time.time()
    world.endpoints[EXPIRING].show(soon)
    return now


# --- start-up and clean-up --------------------------------------------------------------------------------------------


def _phase_hangs(world: World) -> float:
    return world.hanging_since() + load_settings({}, environ={}).startup_hang_s


def _slow_start(world: World) -> float:
    return world.hanging_since() + _LIMITS.lifecycle.max_startup_s


def _phase_fails(world: World) -> float:
    with world.worker("fails") as (process, moment):
        process.wait(PATIENCE_S)
        return float(moment.read_text(encoding="utf-8"))


def _leaves_something(world: World) -> float:
    return _ended_by_signal(world, "leaves")


def _slow_clean_up(world: World) -> float:
    return _ended_by_signal(world, "slow") + _LIMITS.lifecycle.max_cleanup_s


def _ended_by_signal(world: World, conduct: str) -> float:
    """Start a worker, end it when it has started, and return when that was asked."""
    with world.worker(conduct) as (process, moment):
        _since(moment.exists, "a worker starts")
        # Its one phase ends as soon as it has begun; uvicorn takes signals from then on.
        time.sleep(2)
        now = time.time()
        process.terminate()
        process.wait(PATIENCE_S)
        return now


CAUSES: Final = (
    # First: what others leave behind would be told of as well, under the same labels.
    Cause("containers", "ContainerOrphaned", _orphan, turn=-1),
    Cause("containers", "ContainerExpired", _expired, turn=-1),
    Cause("containers", "ContainerVolumesUnused", _unused_volume, turn=-1),
    # Alone: commands that follow each other by chance would be another storm.
    Cause("containers", "ContainerCommandStorm", _command_storm, turn=0),
    Cause("containers", "ContainerKilled", _kill, {"container_name": "shot"}),
    Cause("containers", "ContainerProcessOutOfMemory", _process_out_of_memory, {"container_name": "surviving"}),
    Cause("containers", "ContainerOutOfMemory", _out_of_memory, {"container_name": "hungry"}),
    Cause("containers", "ContainerCrashed", _crash, {"container_name": "crashing"}),
    Cause("containers", "ContainerCrashed", _killed, {"container_name": "killed"}, what="killed"),
    Cause("containers", "ContainerRestarting", _restart_loop, {"container_name": "looping"}),
    Cause("containers", "ContainerUnhealthy", _unhealthy, {"container_name": "ill"}),
    Cause("containers", "ContainerMemoryNearLimit", _memory_near_limit, {"container_name": "full"}),
    Cause("containers", "ContainerStopNeededKill", _stop_needs_kill),
    Cause("containers", "ContainerForcedRemoval", _forced_removal),
    Cause("ci", "CiPassRateLow", _pass_rate, {"test_suite_name": "ci-pass"}),
    Cause("ci", "CiFlakyTests", _flaky, {"test_suite_name": "ci-flaky"}),
    Cause("ci", "CiRunSlow", _slow_run, {"test_suite_name": "ci-slow"}),
    Cause("ci", "CiRunSlower", _slower_runs, {"test_suite_name": "ci-slower"}),
    Cause("ci", "CiMemoryHigh", _hungry_run, {"test_suite_name": "ci-hungry"}),
    Cause("ci", "CiRunsMissing", _no_run, {"test_suite_name": "ci-missing"}),
    Cause("probes", "ProbeFailing", _endpoint_down, {"service": SERVICE, "isolation_probe": DOWN}),
    Cause("probes", "ProbeSlow", _endpoint_slow, {"service": SERVICE, "isolation_probe": SLOW}),
    Cause("probes", "CertificateExpiresSoon", _certificate_expires, {"service": SERVICE, "isolation_probe": EXPIRING}),
    Cause("service", "StartupPhaseHanging", _phase_hangs, {"service": SERVICE, "isolation_phase": PHASE}),
    Cause("service", "StartupSlow", _slow_start, {"service": SERVICE}),
    Cause("service", "StartupFailed", _phase_fails, {"service": SERVICE, "isolation_phase": PHASE}),
    Cause("service", "CleanupLeftovers", _leaves_something, {"service": SERVICE, "isolation_resource": "children"}),
    Cause("service", "CleanupSlow", _slow_clean_up, {"service": SERVICE}),
    # Last: nothing is heard of containers then.
    Cause("containers", "ContainerEngineDown", _engine_away, turn=2),
)
"""Every alert on containers, CI, probes, start-up and clean-up; a test holds that none is left out."""
