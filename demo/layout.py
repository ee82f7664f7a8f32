"""Where a stack keeps everything: one private folder for databases, secrets, configurations, data and logs."""

from __future__ import annotations

import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from isolation_monitor.demo.errors import NotACheckoutError

SECRET_BYTES = 32


def checkout() -> Path:
    """Return the repository that holds the demonstration and the reference service.

    Raises:
        NotACheckoutError: this is an installed copy without the repository around it.
    """
    # The package's folders are links into the checkout, so the resolved path leads to it.
    root = Path(__file__).resolve().parent.parent
    if not (root / "examples" / "chat" / "app.py").is_file():
        raise NotACheckoutError(
            f"the demonstration runs the chat service of the repository, and {root} holds no examples/chat/app.py: "
            "clone the repository and run make demo in it"
        )
    return root


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one stack, all below `folder`. Secrets are files of mode 0600 in a folder of mode 0700."""

    folder: Path

    @classmethod
    def make(cls) -> Layout:
        """Make a new private folder under the system's temporary folder, with the secrets in it."""
        layout = cls(Path(tempfile.mkdtemp(prefix="isomon-demo-")))
        for folder in (layout.logs, layout.metrics, layout.rules, layout.prometheus_data, layout.alertmanager_data):
            folder.mkdir()
        for job in ("services", "collector"):
            # Made now: Prometheus watches only folders that are there when it starts.
            (layout.drills / job).mkdir(parents=True)
        for file in (layout.send_token, layout.read_token, layout.alerts_token, layout.metrics_token, layout.hash_key, layout.chat_secret):
            _write_secret(file)
        return layout

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def metrics(self) -> Path:
        """Counters that the chat service's workers share."""
        return self.folder / "metrics"

    @property
    def spool(self) -> Path:
        """Where the chat service's records wait for the collector; made by the service."""
        return self.folder / "spool"

    @property
    def rules(self) -> Path:
        return self.folder / "rules"

    @property
    def drills(self) -> Path:
        """Where `isomon drill` announces the targets of a drill to Prometheus."""
        return self.folder / "drills"

    @property
    def prometheus_config(self) -> Path:
        return self.folder / "prometheus.yml"

    @property
    def prometheus_data(self) -> Path:
        return self.folder / "prometheus"

    @property
    def alertmanager_config(self) -> Path:
        return self.folder / "alertmanager.yml"

    @property
    def alertmanager_data(self) -> Path:
        return self.folder / "alertmanager"

    @property
    def collector_database(self) -> Path:
        return self.folder / "collector.sqlite3"

    @property
    def chat_database(self) -> Path:
        return self.folder / "chat.sqlite3"

    @property
    def faults(self) -> Path:
        """Which fault is on; every worker of the chat service reads it."""
        return self.folder / "faults.json"

    @property
    def fault_log(self) -> Path:
        """One JSON line for the first harmful act after each switch-on."""
        return self.folder / "faults.log"

    @property
    def send_token(self) -> Path:
        return self.folder / "send.token"

    @property
    def read_token(self) -> Path:
        return self.folder / "read.token"

    @property
    def alerts_token(self) -> Path:
        return self.folder / "alerts.token"

    @property
    def metrics_token(self) -> Path:
        return self.folder / "metrics.token"

    @property
    def hash_key(self) -> Path:
        return self.folder / "hash.key"

    @property
    def chat_secret(self) -> Path:
        return self.folder / "chat.secret"


def _write_secret(file: Path) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(secrets.token_urlsafe(SECRET_BYTES))
