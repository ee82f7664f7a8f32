"""Starting services: a failure says which process, why, and shows the end of its log."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isolation_monitor.demo import janitor
from isolation_monitor.demo.errors import StartError
from isolation_monitor.demo.ports import free_ports, is_open
from isolation_monitor.demo.processes import Janitor, Services


@pytest.fixture
def guard() -> Iterator[Janitor]:
    one = Janitor()
    yield one
    one.close()


async def never() -> str | None:
    return "it never is"


async def test_a_process_that_ends_while_it_is_waited_for_is_told_with_its_log(guard: Janitor, tmp_path: Path) -> None:
    code = "import sys; print('the port is taken'); sys.exit(3)"
    async with Services(guard) as services:
        service = services.start("worker", [sys.executable, "-c", code], env=dict(os.environ), folder=tmp_path, log=tmp_path / "log")

        with pytest.raises(StartError, match=r"(?s)worker ended with exit code 3.*the port is taken"):
            await service.ready(never, timeout_s=60)


async def test_a_process_that_is_never_ready_is_told_with_what_was_missing(guard: Janitor, tmp_path: Path) -> None:
    async with Services(guard) as services:
        service = services.start("worker", ["sleep", "600"], env=dict(os.environ), folder=tmp_path, log=tmp_path / "log")

        with pytest.raises(StartError, match="worker was not ready after 0 s: it never is"):
            await service.ready(never, timeout_s=0.1)

    assert not janitor.alive(service.pid)


async def test_children_of_a_service_end_with_it(guard: Janitor, tmp_path: Path) -> None:
    """uvicorn's workers are children: killing only the parent would leave them serving."""
    async with Services(guard) as services:
        service = services.start(
            "parent", ["sh", "-c", "sleep 600 & sleep 600"], env=dict(os.environ), folder=tmp_path, log=tmp_path / "log"
        )
        services.check()
        await services.stop(grace_s=0.2)

    assert not janitor.alive(service.pid)


def test_free_ports_differ_and_are_free() -> None:
    ports = free_ports(20)

    assert len(set(ports)) == 20
    assert not any(map(is_open, ports))
