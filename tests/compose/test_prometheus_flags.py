"""The flags that the alerts need beside their configuration stand in the compose file too."""

from __future__ import annotations

from pathlib import Path

import yaml

from isolation_monitor.alerts import prometheus_config

COMPOSE = Path(__file__).resolve().parents[2] / "docker-compose.monitoring.yml"


def test_prometheus_in_containers_has_the_flags_that_the_alerts_need() -> None:
    command = yaml.safe_load(COMPOSE.read_text())["services"]["prometheus"]["command"]

    assert set(prometheus_config.FLAGS) <= set(command)
