"""Beside frameworks of three years ago: the same judgement, the same routes, in an environment of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.telemetry.servers.test_servers import FASTAPI, STARLETTE, UVICORN

ROOT = Path(__file__).resolve().parents[3]
OLD = ("fastapi==0.104.1", "starlette==0.27.0", "uvicorn==0.24.0", "h11==0.14.0", "anyio==3.7.1")


@pytest.fixture(scope="session")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("old-frameworks")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", *OLD, str(ROOT)], check=True, capture_output=True)
    return python


@pytest.mark.slow
@pytest.mark.parametrize("source", [FASTAPI, STARLETTE], ids=["fastapi", "starlette"])
def test_frameworks_of_three_years_ago_are_judged_the_same(serve, old_python, source) -> None:
    server = serve(source, *UVICORN, python=old_python)

    for n in range(10):
        assert server.get(f"/items/{n}", user=f"user-{n % 3}")[0] == 200
    assert server.get("/items/13", user="ann")[0] == 500

    assert server.sample("isolation_requests_total", verdict="isolated") == 11
    route = {"http_route": "/items/{item_id}", "http_response_status_code": "200"}
    assert server.sample("http_server_request_duration_seconds_count", **route) == 10
    assert server.sample("isolation_monitor_errors_total") == 0
