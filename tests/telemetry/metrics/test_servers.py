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


def hit_both_workers(server: Any) -> tuple[set[int], int]:
    """The two workers, and how many requests it took to see both."""
    folders, pids, hits = set(), set(), 0
    while len(pids) < 2 and hits < 5000:
        answer = server.hit()
        hits += 1
        pids.add(answer["pid"])
        folders.add(answer["directory"])
    assert len(pids) == 2
    assert len(folders) == 1
    return pids, hits


def test_every_worker_shows_the_requests_of_all_and_a_killed_one_is_not_forgotten(
    server: Any, read: Callable[..., float], eventually: Callable[..., Any]
) -> None:
    pids, hits = hit_both_workers(server)
    # Each worker keeps a page for 0.2 s, so two workers may differ for as long.
    eventually(lambda: counted(server, read) == hits, "the count to settle")
    eventually(lambda: read(server.get("/metrics/isolation"), "isolation_run_active") == 2.0, "both workers' gauges")

    victim = pids.pop()
    os.kill(victim, signal.SIGKILL)

    def replaced() -> bool:
        nonlocal hits
        answer = server.hit()
        hits += 1
        return answer["pid"] not in pids | {victim}

    eventually(replaced, "a new worker to answer")
    eventually(lambda: all(counted(server, read) == hits for _ in range(10)), "the count to settle")
    eventually(lambda: read(server.get("/metrics/isolation"), "isolation_run_active") == 2.0, "the dead worker's gauge to go")


def test_hypercorn_workers_count_together(serve: Callable[..., Any], read: Callable[..., float], eventually: Callable[..., Any]) -> None:
    """It ends with its first killed worker, so only adding up is asked of it."""
    need("hypercorn")
    server = serve(*HYPERCORN)
    _, hits = hit_both_workers(server)

    eventually(lambda: all(counted(server, read) == hits for _ in range(10)), "the count to settle")


def test_two_services_started_by_one_process_do_not_mix(
    serve: Callable[..., Any], read: Callable[..., float], eventually: Callable[..., Any]
) -> None:
    """Same program, same parent, same service name: two groups."""
    first, second = serve(*UVICORN), serve(*UVICORN)
    folders = {first.hit()["directory"], second.hit()["directory"]}
    for _ in range(4):
        first.hit()

    eventually(lambda: counted(first, read) == 5.0, "the first to count five")
    eventually(lambda: counted(second, read) == 1.0, "the second to count its own")
    assert len(folders) == 2


def test_a_stopped_gunicorn_leaves_no_folder_after_the_next_start(serve: Callable[..., Any], tmp_path: Path) -> None:
    need("gunicorn")
    server = serve(*GUNICORN, "--worker-class", "asgi", "--preload")
    folder = Path(server.hit()["directory"])
    server.stop()

    other = serve(*UVICORN, service="other")

    assert not folder.exists()
    assert Path(other.hit()["directory"]).exists()
