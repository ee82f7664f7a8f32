"""The whole product on this machine: collector, Prometheus, Alertmanager and the chat service with two workers.

Everything listens on free ports of loopback and keeps its files in one private folder. Leaving the context ends every
process and removes every file; when the driver is killed instead, its janitor does (`processes.py`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType

from isolation_monitor.alerts import alertmanager_config, build, prometheus_config
from isolation_monitor.demo import binaries, janitor
from isolation_monitor.demo.layout import Layout, checkout
from isolation_monitor.demo.parts import Parts, connect
from isolation_monitor.demo.ports import LOOPBACK, free_ports
from isolation_monitor.demo.processes import Janitor, Service, Services
from isolation_monitor.demo.state import StackState, Urls

SERVICE = "chat"
WORKERS = 2
START_TIMEOUT_S = 60.0
"""For one process on a slow, busy machine; usually each takes one or two seconds."""
INHERITED_ENV = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "VIRTUAL_ENV", "SSL_CERT_FILE")
"""What processes get of the user's environment: no `ISOLATION_*`, `OTEL_*` or proxy setting of his changes the demonstration."""

Progress = Callable[[str], None]


class Stack:
    """A running stack, as an async context manager. Clients to its parts are there after entering.

    `progress` is told, in a few words, what is waited for. `state_file` announces the stack to other terminals.
    """

    urls: Urls
    layout: Layout
    parts: Parts

    def __init__(self, *, progress: Progress = lambda _: None, state_file: Path | None = None) -> None:
        self._progress = progress
        self._state_file = state_file
        self._closing = AsyncExitStack()
        self._services: Services

    async def __aenter__(self) -> Stack:
        async with AsyncExitStack() as closing:
            await self._start(closing)
            # Only a complete start is handed over; otherwise all that was started ends here.
            self._closing = closing.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress("stopping")
        await self._closing.aclose()

    def check(self) -> None:
        """Raise StartError, with the end of its log, if a process has ended."""
        self._services.check()

    def groups(self) -> list[int]:
        """Return the process group of every process of the stack."""
        return self._services.groups()

    def log_of(self, name: str) -> Path:
        """Return the log of a process: `collector`, `prometheus`, `alertmanager` or `chat`."""
        return self.layout.logs / f"{name}.log"

    async def _start(self, closing: AsyncExitStack) -> None:
        root = checkout()
        programs = {part.name: binaries.find(part).path for part in binaries.STACK_PARTS}
        guard = Janitor()
        closing.callback(guard.close)
        self.layout = Layout.make()
        guard.watch_path(self.layout.folder)
        closing.callback(janitor.remove, [self.layout.folder])
        chat, collector, prometheus, alertmanager = free_ports(4)
        self.urls = Urls(*(f"http://{LOOPBACK}:{port}" for port in (chat, collector, prometheus, alertmanager)))
        self._configure()
        self.parts = await closing.enter_async_context(connect(self.urls, self.layout.read_token.read_text()))

        self._services = Services(guard)
        await closing.enter_async_context(self._services)
        await self._migrate(root)
        started = [
            self._start_collector(root, collector),
            self._start_prometheus(programs["Prometheus"], prometheus),
            self._start_alertmanager(programs["Alertmanager"], alertmanager),
            self._start_chat(root, chat),
        ]
        for service in started:
            self._progress(f"waiting for {service.name}")
            await service.ready(partial(self.parts.missing, service.name), START_TIMEOUT_S)
        self._progress("waiting for the first scrapes")
        await started[1].ready(self.parts.prometheus.targets_down, START_TIMEOUT_S)
        if self._state_file is not None:
            guard.watch_path(self._state_file)
            StackState(os.getpid(), self.layout.folder, self.urls).write(self._state_file)
            closing.callback(janitor.remove, [self._state_file])

    def _configure(self) -> None:
        """Write Prometheus's and Alertmanager's configuration and the rules, as compose mounts them too."""
        for name, text in build.rules(self.urls.collector, None).items():
            (self.layout.rules / Path(name).name).write_text(text)
        self.layout.prometheus_config.write_text(
            prometheus_config.render(
                isolation_targets=[_host(self.urls.chat)],
                main_interval="5s",
                collector_target=_host(self.urls.collector),
                alertmanager=_host(self.urls.alertmanager),
                rule_files=[str(self.layout.rules / "*.yml")],
                metrics_token_file=str(self.layout.metrics_token),
                collector_token_file=str(self.layout.read_token),
                drill_folder=str(self.layout.drills),
            )
        )
        self.layout.alertmanager_config.write_text(
            alertmanager_config.render(webhook_url=f"{self.urls.collector}/v1/alerts", webhook_token_file=str(self.layout.alerts_token))
        )

    async def _migrate(self, root: Path) -> None:
        self._progress("making the collector's database")
        command = [
            sys.executable,
            "-m",
            "isolation_monitor.cli",
            "migrate",
            "--database-url",
            self._collector_env()["COLLECTOR_DATABASE_URL"],
        ]
        service = self._services.start("migrate", command, env=self._collector_env(), folder=root, log=self.log_of("migrate"))
        await service.finished(START_TIMEOUT_S)

    def _start_collector(self, root: Path, port: int) -> Service:
        command = [*_uvicorn(port), "--http", "isolation_monitor.collector.http_head:BoundedHead"]
        command += ["--factory", "isolation_monitor.collector.app:create_app"]
        return self._services.start("collector", command, env=self._collector_env(), folder=root, log=self.log_of("collector"))

    def _start_prometheus(self, program: Path, port: int) -> Service:
        command = [
            str(program),
            f"--config.file={self.layout.prometheus_config}",
            f"--storage.tsdb.path={self.layout.prometheus_data}",
            "--storage.tsdb.retention.time=1d",
            *prometheus_config.FLAGS,
            f"--web.listen-address={LOOPBACK}:{port}",
            "--log.level=warn",
        ]
        return self._services.start("prometheus", command, env=_base_env(), folder=self.layout.folder, log=self.log_of("prometheus"))

    def _start_alertmanager(self, program: Path, port: int) -> Service:
        command = [
            str(program),
            f"--config.file={self.layout.alertmanager_config}",
            f"--storage.path={self.layout.alertmanager_data}",
            f"--web.listen-address={LOOPBACK}:{port}",
            # Empty: no cluster, so no second port.
            "--cluster.listen-address=",
            "--log.level=warn",
        ]
        return self._services.start("alertmanager", command, env=_base_env(), folder=self.layout.folder, log=self.log_of("alertmanager"))

    def _start_chat(self, root: Path, port: int) -> Service:
        env = {
            **_base_env(),
            "CHAT_DATABASE_URL": f"sqlite+aiosqlite:///{self.layout.chat_database}",
            "CHAT_FAULTS": "1",
            "CHAT_FAULTS_FILE": str(self.layout.faults),
            "CHAT_FAULT_LOG": str(self.layout.fault_log),
            "CHAT_SECRET_FILE": str(self.layout.chat_secret),
            "ISOLATION_COLLECTOR_URL": self.urls.collector,
            "ISOLATION_COLLECTOR_TOKEN_FILE": str(self.layout.send_token),
            "ISOLATION_HASH_KEY_FILE": str(self.layout.hash_key),
            "ISOLATION_METRICS_DIR": str(self.layout.metrics),
            "ISOLATION_SPOOL_DIR": str(self.layout.spool),
            "ISOLATION_METRICS_TOKEN_FILE": str(self.layout.metrics_token),
        }
        command = [*_uvicorn(port), "chat.app:app", "--app-dir", "examples", "--workers", str(WORKERS)]
        return self._services.start("chat", command, env=env, folder=root, log=self.log_of("chat"))

    def _collector_env(self) -> dict[str, str]:
        return {
            **_base_env(),
            "COLLECTOR_DATABASE_URL": f"sqlite+aiosqlite:///{self.layout.collector_database}",
            "COLLECTOR_SEND_TOKEN_FILE": str(self.layout.send_token),
            "COLLECTOR_READ_TOKEN_FILE": str(self.layout.read_token),
            "COLLECTOR_ALERTS_TOKEN_FILE": str(self.layout.alerts_token),
            "COLLECTOR_PROMETHEUS_URL": self.urls.prometheus,
            "COLLECTOR_ALERTMANAGER_URL": self.urls.alertmanager,
            "COLLECTOR_BASE_URL": self.urls.collector,
        }


def _uvicorn(port: int) -> list[str]:
    # Three seconds for open sockets at the end: a stop must not wait for clients that are gone already.
    return [sys.executable, "-m", "uvicorn", "--host", LOOPBACK, "--port", str(port), "--timeout-graceful-shutdown", "3", "--no-access-log"]


def _base_env() -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED_ENV if name in os.environ} | {"PYTHONUNBUFFERED": "1"}


def _host(url: str) -> str:
    return url.removeprefix("http://")
