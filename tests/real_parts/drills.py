"""Prometheus, Alertmanager and a collector, wired for `isomon drill` as a user's own stack is."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from isolation_monitor.alerts import alertmanager_config, build, prometheus_config
from tests.real_parts.alertmanager import alertmanager
from tests.real_parts.collector import Collector, collector
from tests.real_parts.processes import free_port
from tests.real_parts.prometheus import Prometheus, prometheus


@dataclass
class Stack:
    folder: Path
    prometheus: Prometheus
    alertmanager: str
    collector: Collector

    @property
    def drills(self) -> Path:
        return self.folder / "drills"

    def command(self, *more: str) -> list[str]:
        command = [sys.executable, "-m", "isolation_monitor.cli", "drill", "--collector", self.collector.url]
        command += ["--prometheus", self.prometheus.url, "--alertmanager", f"http://{self.alertmanager}", "--folder", str(self.drills)]
        return [*command, "--token-file", str(self.folder / "read.token"), *more]

    def drill(self, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*more), capture_output=True, text=True, timeout=400)


@contextlib.contextmanager
def drill_stack(
    folder: Path,
    *,
    is_patient: bool = False,
    services: Sequence[str] = (),
    main_interval: str = "5s",
    settings: Mapping[str, str] | None = None,
) -> Iterator[Stack]:
    """Run a stack until the block ends. Unless it is patient, alerts that wait five minutes on purpose wait 20 s.

    `services` are further targets (`host:port`) that Prometheus reads, `settings` more of the collector's environment.
    """
    for job in ("services", "collector"):
        (folder / "drills" / job).mkdir(parents=True)
    rule_files = []
    for name, text in build.rules("http://127.0.0.1:1", None).items():
        # What they wait for is the rule's, not the way's.
        hurried = text.replace("for: 5m\n    keep", "for: 20s\n    keep").replace("  for: 5m\n", "  for: 20s\n")
        (folder / name).write_text(text if is_patient else hurried)
        rule_files.append(str(folder / name))
    with contextlib.ExitStack() as running:
        port = free_port()
        telling = {"COLLECTOR_ALERTMANAGER_URL": f"http://127.0.0.1:{port}"}
        receiving = running.enter_context(collector(folder / "collector", settings=telling | dict(settings or {})))
        (folder / "send.token").write_text(receiving.send_token)
        (folder / "read.token").write_text(receiving.read_token)
        routes = alertmanager_config.render(webhook_url=f"{receiving.url}/v1/alerts", webhook_token_file=str(folder / "send.token"))
        manager = running.enter_context(alertmanager(folder / "alertmanager", routes, port=port))
        config = prometheus_config.render(
            isolation_targets=services,
            main_interval=main_interval,
            collector_target=receiving.url.removeprefix("http://"),
            alertmanager=manager.address,
            rule_files=rule_files,
            collector_token_file=str(folder / "read.token"),
            drill_folder=str(folder / "drills"),
        )
        yield Stack(folder, running.enter_context(prometheus(folder / "prometheus", config)), manager.address, receiving)
