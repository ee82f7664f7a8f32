"""`python -m bench.rollback`: how long from the harm until the flag is off, by each way alone, on real parts.

By record: a violation is sent to a collector whose Prometheus takes connections and never answers. By alert: a counter
moves, and the project's own rules, Prometheus, Alertmanager and its webhook bring it to a collector that gets no record
and can ask nobody. Second 0 is the harm itself: the sending of the record, or the moving of the counter. The end is the
first answer of the collector that says `rolled_back`, asked a hundred times a second. Writes build/bench/rollback.json.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bench.rows import Row, report, write
from bench.shown import console_for_people, table
from isolation_monitor.alerts import alertmanager_config, build, prometheus_config
from tests.real_parts.alertmanager import alertmanager
from tests.real_parts.collector import Collector, collector
from tests.real_parts.exporter import Exporter, exporters
from tests.real_parts.processes import eventually
from tests.real_parts.prometheus import prometheus
from tests.real_parts.promtool import series
from tests.real_parts.rollouts import PERSON, ask, begin, status, violate

ROOT: Final = Path(__file__).resolve().parent.parent
OUTPUT: Final = ROOT / "build" / "bench" / "rollback.json"
TRIALS: Final = 20
BY_RECORD_S: Final = 1.0
BY_ALERT_S: Final = 5.0
"""The 95th percentile that is promised, from harm to flag off."""
LIMIT_S: Final = 60.0
_POLL_S: Final = 0.01
_ROUNDS: Final = {"COLLECTOR_ROLLOUT_INTERVAL_S": "3600"}
"""So that nothing but what arrived can have made the collector look."""

Progress = Callable[[str], None]


def by_record(trials: int, progress: Progress) -> list[float]:
    """Return the seconds of each trial."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _deaf() as nowhere,
        collector(Path(folder), prometheus_url=nowhere, settings=_ROUNDS) as running,
    ):
        return [_trial(running, number, progress, lambda n: violate(running, f"v-{n}")) for number in range(trials)]


def by_alert(trials: int, progress: Progress) -> list[float]:
    """Return the seconds of each trial. Each has a service of its own: an alert that still fires is no news."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        [worker] = stack.enter_context(exporters(1))
        running = stack.enter_context(collector(folder / "collector", settings=_ROUNDS))
        (folder / "token").write_text(running.send_token)
        hook = alertmanager_config.render(webhook_url=f"{running.url}/v1/alerts", webhook_token_file=str(folder / "token"))
        manager = stack.enter_context(alertmanager(folder / "alertmanager", hook))
        for number in range(trials):
            worker.add(_counter(number), 0)
        stack.enter_context(prometheus(folder / "prometheus", _scraping(folder, worker, running, manager.address)))
        scraped = worker.scrapes
        eventually(lambda: worker.scrapes >= scraped + 2, "the counters are scraped twice")
        return [
            _trial(running, number, progress, lambda n: worker.add(_counter(n), 1), service=_service(number)) for number in range(trials)
        ]


def _trial(running: Collector, number: int, progress: Progress, harm: Callable[[int], None], service: str | None = None) -> float:
    name = "checkout" if service is None else f"checkout-{number}"
    if service is None and number:
        ask(running, "POST", f"/v1/rollouts/{name}/re-arm", PERSON)
        ask(running, "POST", f"/v1/rollouts/{name}/start", PERSON)
    else:
        begin(running, name, **({} if service is None else {"service": service}))
    # Not in step with scrapes and evaluations, which come once a second.
    time.sleep(0.37 * (number % 5))
    harmed = time.monotonic()
    harm(number)
    while status(running, name) != "rolled_back":
        if time.monotonic() - harmed > LIMIT_S:
            raise AssertionError(f"trial {number}: {name} is not rolled back after {LIMIT_S:.0f} s")
        time.sleep(_POLL_S)
    took = time.monotonic() - harmed
    progress(f"  {name}, trial {number + 1}: {took:.2f} s")
    return took


def _service(number: int) -> str:
    return f"chat-{number}"


def _counter(number: int) -> str:
    labels = {"kind": "wrong_socket", "grade": "crossed", "arm": "on", "synthetic": "false"}
    return series("isolation_violations_total", {"service": _service(number), **labels})


def _scraping(folder: Path, worker: Exporter, running: Collector, manager: str) -> str:
    files = []
    for name, text in build.rules(running.url, None).items():
        (folder / name).write_text(text)
        files.append(str(folder / name))
    return prometheus_config.render(
        isolation_targets=[worker.address],
        main_interval="5s",
        collector_target=running.url.removeprefix("http://"),
        alertmanager=manager,
        rule_files=files,
        metrics_token_file=str(folder / "token"),
    )


@contextlib.contextmanager
def _deaf() -> Iterator[str]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1000)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def rows(name: str, seconds: list[float], budget: float) -> list[Row]:
    """Return the 95th percentile with its budget, and the median and the maximum beside it."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    note = f"{len(ordered)} trials"
    return [
        Row(f"harm to flag off by {name}, p95", ordered[round(0.95 * last)], "s", budget, spread=(ordered[0], ordered[-1]), note=note),
        Row(f"harm to flag off by {name}, median", ordered[last // 2], "s"),
        Row(f"harm to flag off by {name}, maximum", ordered[-1], "s"),
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.rollback", description="From the harm to the flag that is off, on real parts.")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    chosen = parser.parse_args(arguments)
    console = console_for_people()
    found = [
        *rows("record", by_record(chosen.trials, console.print), BY_RECORD_S),
        *rows("alert", by_alert(chosen.trials, console.print), BY_ALERT_S),
    ]
    content = report("rollback", found)
    write(chosen.output, content)
    console.print(table("rollback", found))
    return 0 if content["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
