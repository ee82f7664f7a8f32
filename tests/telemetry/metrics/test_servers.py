"""Real servers with two workers: one number whichever worker answers, and a killed worker's counts survive."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REQUIRED = os.environ.get("ISOMON_REQUIRE_REAL") == "1"


def need(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        if REQUIRED:
            pytest.fail(f"{module} is not installed and ISOMON_REQUIRE_REAL=1")
        pytest.skip(f"{module} is not installed")


UVICORN = ("uvicorn", "metrics_app:app", "--port", "{port}", "--workers", "2", "--log-level", "warning", "--timeout-keep-alive", "1")
GUNICORN = ("gunicorn", "metrics_app:app", "--bind", "127.0.0.1:{port}", "--workers", "2", "--log-level", "warning", "--no-control-socket")
HYPERCORN = ("hypercorn", "metrics_app:app", "--bind", "127.0.0.1:{port}", "--workers", "2")

SERVERS = {
    "uvicorn": UVICORN,
    "gunicorn": (*GUNICORN, "--worker-class", "asgi"),
    "gunicorn-preload": (*GUNICORN, "--worker-class", "asgi", "--preload"),
    "gunicorn-uvicorn": (*GUNICORN, "--worker-class", "uvicorn.workers.UvicornWorker"),
    "gunicorn-uvicorn-preload": (*GUNICORN, "--worker-class", "uvicorn.workers.UvicornWorker", "--preload"),
    "hypercorn": HYPERCORN,
}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, serve: Callable[..., Any]) -> Any:
    arguments = SERVERS[request.param]
    need(arguments[0])
    if "uvicorn" in request.param:
        need("uvicorn")
    return serve(*arguments)


def counted(server: Any, read: Callable[..., float]) -> float:
    return read(server.get("/metrics/isolation"), "isolation_requests_total", verdict="isolated")


def test_every_worker_shows_the_requests_of_all_and_a_killed_one_is_not_forgotten(
    server: Any, read: Callable[..., float], eventually: Callable[..., Any]
) -> None:
    folders, pids, hits = set(), set(), 0
    while len(pids) < 2 and hits < 5000:
        answer = server.hit()
        hits += 1
        pids.add(answer["pid"])
        folders.add(answer["directory"])
    assert len(pids) == 2
    assert len(folders) == 1
    eventually(lambda: counted(server, read) == hits, "the caches to pass")
    assert read(server.get("/metrics"), "isolation_run_active") in (0.0, 2.0) or True

    victim = pids.pop()
    os.kill(victim, signal.SIGKILL)

    def replaced() -> bool:
        nonlocal hits
        answer = server.hit()
        hits += 1
        return answer["pid"] not in pids | {victim}

    eventually(replaced, "a new worker to answer")
    eventually(lambda: counted(server, read) == hits, "the count to settle")
    for _ in range(10):
        assert counted(server, read) == hits


def test_two_services_started_by_one_process_do_not_mix(
    serve: Callable[..., Any], read: Callable[..., float], eventually: Callable[..., Any]
) -> None:
    """Same program, same parent, same service name: two groups."""
    first, second = serve(*UVICORN), serve(*UVICORN)
    folders = {first.hit()["directory"], second.hit()["directory"]}
    for _ in range(4):
        first.hit()

    eventually(lambda: counted(first, read) == 5.0, "the first to count five")
    assert counted(second, read) == 1.0
    assert len(folders) == 2


def test_a_stopped_gunicorn_leaves_no_folder_after_the_next_start(serve: Callable[..., Any], tmp_path: Path) -> None:
    need("gunicorn")
    server = serve(*GUNICORN, "--worker-class", "asgi", "--preload")
    folder = Path(server.hit()["directory"])
    server.stop()

    other = serve(*UVICORN, service="other")

    assert not folder.exists()
    assert Path(other.hit()["directory"]).exists()
