"""The dashboards as Grafana loads them, and a Prometheus with the product's rules that scrapes a living service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from isolation_monitor.alerts import build as alerts_build
from isolation_monitor.alerts import prometheus_config
from tests.dashboards.living_service import LivingService
from tests.real_parts.processes import free_port
from tests.real_parts.prometheus import Prometheus, prometheus


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivingService]:
    with LivingService(tmp_path_factory.mktemp("cells")) as living:
        yield living


@pytest.fixture(scope="module")
def watched(service: LivingService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that scrapes `service` each second and evaluates the product's rules."""
    folder: Path = tmp_path_factory.mktemp("prometheus")
    for name, text in alerts_build.rules().items():
        # Promises are counted each 30 s and judged over minutes: here as often as the service lives.
        (folder / name).write_text(re.sub("interval: (15s|30s|1m)$", "interval: 5s", text, flags=re.MULTILINE))
    config: dict[str, Any] = yaml.safe_load(
        prometheus_config.render(
            isolation_targets=[service.address],
            main_interval="1s",
            collector_target=service.address,
            # Nobody listens there: ALERTS is written by Prometheus itself.
            alertmanager=f"127.0.0.1:{free_port()}",
            rule_files=[str(folder / name) for name in alerts_build.rules()],
            collector_interval="1s",
        )
    )
    config["scrape_configs"][-1]["metrics_path"] = "/collector/metrics"
    with prometheus(folder, yaml.safe_dump(config)) as running:
        yield running
