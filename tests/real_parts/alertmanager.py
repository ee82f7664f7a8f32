"""A real Alertmanager on a free port, outside any cluster."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real_parts.processes import binary, free_port, running


@dataclass(frozen=True)
class Alertmanager:
    """One running Alertmanager; `address` is host:port."""

    address: str

    def post(self, *alerts: dict[str, Any]) -> None:
        """Post alerts as Prometheus does: `{"labels": {...}, "annotations": {...}}`, with `endsAt` for resolved ones."""
        request = urllib.request.Request(
            f"http://{self.address}/api/v2/alerts", json.dumps(alerts).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=20).close()

    def alerts(self) -> list[dict[str, Any]]:
        """Return the active alerts with their status, inhibited ones included."""
        with urllib.request.urlopen(f"http://{self.address}/api/v2/alerts", timeout=20) as answer:
            return list(json.load(answer))


@contextlib.contextmanager
def alertmanager(folder: Path, config: str, *, port: int | None = None) -> Iterator[Alertmanager]:
    """Run Alertmanager with this configuration text in `folder` until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{port or free_port()}"
    (folder / "alertmanager.yml").write_text(config)
    command = [
        binary("prometheus-alertmanager", "alertmanager"),
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
        "--log.level=warn",
    ]
    with running(command, folder / "alertmanager.log", f"http://{address}/-/ready"):
        yield Alertmanager(address)
