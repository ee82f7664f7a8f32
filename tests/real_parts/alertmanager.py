"""A real Alertmanager on a free port, alone or as one of a cluster."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real_parts.processes import binary, eventually, free_port, running


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

    def peers(self) -> int:
        """Return how many members its cluster has, itself included; 0 outside of one, or while it does not know yet."""
        with urllib.request.urlopen(f"http://{self.address}/api/v2/status", timeout=20) as answer:
            cluster = json.load(answer)["cluster"]
        return len(cluster.get("peers") or ()) if cluster["status"] == "ready" else 0


@contextlib.contextmanager
def alertmanager(
    folder: Path, config: str, *, port: int | None = None, cluster: Sequence[str] = ("--cluster.listen-address=",)
) -> Iterator[Alertmanager]:
    """Run Alertmanager with this configuration text in `folder` until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{port or free_port()}"
    (folder / "alertmanager.yml").write_text(config)
    command = [
        binary("prometheus-alertmanager", "alertmanager"),
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address={address}",
        *cluster,
        "--log.level=warn",
    ]
    with running(command, folder / "alertmanager.log", f"http://{address}/-/ready"):
        yield Alertmanager(address)


@contextlib.contextmanager
def alertmanager_cluster(folder: Path, config: str, members: int) -> Iterator[list[tuple[Alertmanager, contextlib.ExitStack]]]:
    """Run members that gossip, each with an exit stack by which a test ends it before the others; the block starts when all know all."""
    ports = [free_port() for _ in range(members)]
    peers = [f"--cluster.peer=127.0.0.1:{port}" for port in ports]
    with contextlib.ExitStack() as all_members:
        found = []
        for number, port in enumerate(ports):
            # The second waits so long whether the first has notified, the third twice as long.
            flags = [f"--cluster.listen-address=127.0.0.1:{port}", *peers, "--cluster.peer-timeout=3s", "--cluster.settle-timeout=5s"]
            member = all_members.enter_context(contextlib.ExitStack())
            found.append((member.enter_context(alertmanager(folder / f"member-{number}", config, cluster=flags)), member))
        eventually(lambda: all(one.peers() == members for one, _ in found), "all members know each other")
        yield found
