"""A process that speaks Grafana's annotation API, in place of Grafana, which is in no package registry."""

from __future__ import annotations

import contextlib
import json
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real_parts.processes import free_port, running


@dataclass(frozen=True)
class Grafana:
    """One running server; `url` has no trailing slash."""

    url: str
    token: str

    def annotations(self) -> list[dict[str, Any]]:
        """Return what was annotated, oldest first."""
        request = urllib.request.Request(f"{self.url}/api/annotations?limit=1000", headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return list(reversed(json.load(answer)))


@contextlib.contextmanager
def grafana(folder: Path, port: int | None = None) -> Iterator[Grafana]:
    """Run the server until the block ends."""
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(Path(__file__).with_name("grafana_server.py")), str(port), "grafana-token"]
    with running(command, folder / "grafana.log", f"http://127.0.0.1:{port}/api/health"):
        yield Grafana(f"http://127.0.0.1:{port}", "grafana-token")
