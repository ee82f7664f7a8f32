"""`python -m bench.rollback`: how long from the harm until the flag is off and until somebody is paged, by each way alone, on real parts.

By record: a violation is sent to a collector whose Prometheus takes connections and never answers. By alert: a counter
moves, and the project's own rules, Prometheus, Alertmanager and its webhook bring it to a collector that gets no record
and can ask nobody. Second 0 is the harm itself: the sending of the record, or the moving of the counter. The end is the
first answer of the collector that says `rolled_back`, asked a hundred times a second. The page of a record is that which the collector
posts to Alertmanager itself, with no Prometheus at all; its end is when it arrives at the receiver. Writes build/bench/rollback.json.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.rows import Row, p95, report, write
from bench.shown import console_for_people, table
from isolation_monitor.alerts import alertmanager_config
from isolation_monitor.collector.clock import rfc3339, utc_now
from tests.real_parts.alertmanager import alertmanager
from tests.real_parts.collector import Collector, collector
from tests.real_parts.exporter import exporters, scraped_twice
from tests.real_parts.processes import eventually
from tests.real_parts.prometheus import prometheus
from tests.real_parts.receiver import Receiver, receiver
from tests.real_parts.rollouts import PERSON, SLOW_ROUNDS, ask, begin, deaf, scraping, send_violation, status, violate, wrong_sockets

ROOT: Final = Path(__file__).resolve().parent.parent
OUTPUT: Final = ROOT / "build" / "bench" / "rollback.json"
TRIALS: Final = 20
BY_RECORD_S: Final = 1.0
BY_ALERT_S: Final = 5.0
"""The 95th percentile that is promised, from harm to flag off."""
PAGE_S: Final = 1.0
LIMIT_S: Final = 60.0
_POLL_S: Final = 0.01

Progress = Callable[[str], None]


def by_record(trials: int, progress: Progress) -> list[float]:
    """Return the seconds of each trial."""
    with (
        tempfile.TemporaryDirectory() as folder,
        deaf() as nowhere,
        collector(Path(folder), prometheus_url=nowhere, settings=SLOW_ROUNDS) as running,
    ):
        return [_trial(running, number, progress, lambda n: violate(running, f"v-{n}")) for number in range(trials)]


def by_alert(trials: int, progress: Progress) -> list[float]:
    """Return the seconds of each trial. Each has a service of its own: an alert that still fires is no news."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        [worker] = stack.enter_context(exporters(1))
        running = stack.enter_context(collector(folder / "collector", settings=SLOW_ROUNDS))
        (folder / "token").write_text(running.send_token)
        hook = alertmanager_config.render(webhook_url=f"{running.url}/v1/alerts", webhook_token_file=str(folder / "token"))
        manager = stack.enter_context(alertmanager(folder / "alertmanager", hook))
        for number in range(trials):
            worker.add(wrong_sockets(_service(number)), 0)
        address = running.url.removeprefix("http://")
        config = scraping(folder, worker, base_url=running.url, collector=address, alertmanager=manager.address)
        stack.enter_context(prometheus(folder / "prometheus", config))
        scraped_twice(worker)
        return [
            _trial(running, number, progress, lambda n: worker.add(wrong_sockets(_service(n)), 1), service=_service(number))
            for number in range(trials)
        ]


def page_by_record(trials: int, progress: Progress) -> list[float]:
    """Return the seconds from sending a record to its page. Each trial has a service of its own: a page that is there is no news."""
    found = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "token").write_text("token")
        inbox = stack.enter_context(receiver())
        routes = alertmanager_config.render(webhook_url=f"{inbox.url}/", webhook_token_file=str(folder / "token"))
        manager = stack.enter_context(alertmanager(folder / "alertmanager", routes))
        settings = {"COLLECTOR_ALERTMANAGER_URL": f"http://{manager.address}"}
        running = stack.enter_context(collector(folder / "collector", settings=settings))
        for number in range(trials):
            service, harmed = _service(number), time.time()
            send_violation(running, f"v-{number}", service, rfc3339(utc_now()))
            arrived = eventually(lambda service=service: _arrival(inbox, service), f"the page of {service}", LIMIT_S)  # type: ignore[misc]
            found.append(arrived - harmed)
            progress(f"  page of {service}: {found[-1]:.2f} s")
    return found


def _arrival(inbox: Receiver, service: str) -> float | None:
    return next((when for when, alert in inbox.alerts() if alert["labels"]["service"] == service), None)


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


def rows(name: str, seconds: list[float], budget: float, what: str = "flag off") -> list[Row]:
    """Return the 95th percentile with its budget, and the median and the maximum beside it."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    note = f"{len(ordered)} trials"
    return [
        Row(f"harm to {what} by {name}, p95", p95(ordered), "s", budget, spread=(ordered[0], ordered[-1]), note=note),
        Row(f"harm to {what} by {name}, median", ordered[last // 2], "s"),
        Row(f"harm to {what} by {name}, maximum", ordered[-1], "s"),
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
        *rows("record", page_by_record(chosen.trials, console.print), PAGE_S, "page"),
    ]
    content = report("rollback", found)
    write(chosen.output, content)
    console.print(table("rollback", found))
    return 0 if content["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
