"""A real Prometheus on a free port, with the project's own configuration and rules, or with those of a test."""

from __future__ import annotations

import contextlib
import json
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isolation_monitor.alerts.prometheus_config import FLAGS
from tests.real_parts.processes import binary, free_port, running


@dataclass(frozen=True)
class Prometheus:
    """One running Prometheus; `url` has no trailing slash."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query: `[{"metric": {...}, "value": [time, text]}]`."""
        return list(self._get("query", query=expression)["result"])

    def value(self, expression: str) -> float | None:
        """Return the only sample's value, or None when there is none."""
        result = self.query(expression)
        assert len(result) <= 1, f"{expression} has {len(result)} series"
        return float(result[0]["value"][1]) if result else None

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that are pending or firing."""
        return list(self._get("alerts")["alerts"])

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=20) as answer:
            return dict(json.load(answer)["data"])


@contextlib.contextmanager
def prometheus(folder: Path, config: str, port: int | None = None, flags: Sequence[str] = ()) -> Iterator[Prometheus]:
    """Run Prometheus with this configuration text in `folder` until the block ends; `flags` are further ones."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    (folder / "prometheus.yml").write_text(config)
    command = [
        binary("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
        *FLAGS,
        *flags,
    ]
    with running(command, folder / "prometheus.log", f"http://127.0.0.1:{port}/-/ready"):
        yield Prometheus(f"http://127.0.0.1:{port}")
