"""`isomon doctor` on small services of every kind of neglect: each is named, with what to do about it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.real_parts.postgres import Postgres
from tests.real_parts.postgres import postgres as running_postgres
from tests.real_parts.processes import free_port

SOUND = """
    from fastapi import FastAPI
    from sqlalchemy import create_engine
    from isolation_monitor.telemetry import IsolationMonitor

    app = FastAPI()
    engine = create_engine("sqlite://")
    monitor = IsolationMonitor.from_env(service="shop")
    monitor.instrument(app, engine=engine)
    monitor.identity_fields("user_id")

    @monitor.principal
    def principal(scope):
        return None
"""


@pytest.fixture
def diagnose(tmp_path: Path) -> Callable[..., Any]:
    """Write a service, run the real command on it, and return its report (or what it said, for exit code 2)."""

    def run(source: str, *arguments: str, expect: int, app: str = "service:app", **environment: str) -> Any:
        (tmp_path / "service.py").write_text(textwrap.dedent(source))
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("ISOLATION_", "OTEL_", "WEB_CONCURRENCY"))}
        command = [sys.executable, "-m", "isolation_monitor.cli", "doctor", app, "--app-dir", str(tmp_path), "--json", *arguments]
        settings = {"ISOLATION_METRICS_DIR": str(tmp_path / "metrics"), "ISOLATION_SPOOL_DIR": str(tmp_path / "spool"), **environment}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env={**plain, **settings}, cwd=tmp_path)
        assert done.returncode == expect, done.stdout + done.stderr
        return json.loads(done.stdout) if expect != 2 else done.stderr

    return run


def found(report: Any, check: str) -> list[tuple[str, str]]:
    return [(f["level"], f["text"]) for f in report["findings"] if f["check"] == check]


class Collector(BaseHTTPRequestHandler):
    """Accepts records that come with the right token."""

    def do_POST(self) -> None:
        size = int(self.headers["content-length"])
        batch = json.loads(self.rfile.read(size))
        is_known = self.headers["authorization"] == "Bearer right"
        self.send_response(200 if is_known and batch["records"] == [] else 401)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector_url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as cluster:
        yield cluster


def test_a_sound_service_is_well(diagnose: Any, collector_url: str) -> None:
    report = diagnose(
        SOUND, expect=0, ISOLATION_HASH_KEY="k", ISOLATION_COLLECTOR_URL=collector_url, ISOLATION_COLLECTOR_TOKEN="right",
        ISOLATION_METRICS_TOKEN="t",
    )  # fmt: skip

    assert report["schema"] == "doctor/1"
    assert (report["ok"], report["service"], report["mode"]) == (True, "shop", "monitor")
    assert {f["level"] for f in report["findings"]} == {"ok"}, report["findings"]
    assert report["packages"]["sqlalchemy"].startswith("2.")
    assert {(p["library"], p["active"], p["reversible"]) for p in report["patches"]} >= {
        ("sqlalchemy", True, True),
        ("starlette", True, True),
    }
    assert [p for p in report["patches"] if not p["active"] and not p["note"]] == []


def test_neglect_is_warned_of_by_name(diagnose: Any) -> None:
    source = SOUND.split("    monitor.identity_fields")[0]
    report = diagnose(source, expect=0)

    assert found(report, "hash key")[0][0] == "warning"
    assert found(report, "principal")[0][0] == "warning"
    assert found(report, "identity fields")[0][0] == "note"
    assert found(report, "collector")[0][0] == "warning"
    assert found(report, "metrics page") == [("note", "the metrics pages ask for no token")]


def test_an_engine_that_was_not_passed_is_an_error(diagnose: Any) -> None:
    report = diagnose(SOUND.replace("app, engine=engine", "app"), expect=1)

    assert found(report, "engine") == [("error", "an engine of sqlite exists and was not passed: its sessions are not watched")]


def test_a_second_engine_is_named(diagnose: Any) -> None:
    report = diagnose(SOUND + '    reports = create_engine("sqlite://", pool_logging_name="reports")\n', expect=0)

    assert ("warning", "a further engine of reports exists and was not passed: its sessions are not watched") in found(report, "engine")


def test_an_unsupported_sqlalchemy_is_an_error(diagnose: Any) -> None:
    report = diagnose("    import sqlalchemy\n    sqlalchemy.__version__ = '3.0.0'\n" + SOUND, expect=1)

    assert [(level, "SQLAlchemy 3.0.0 is not supported" in text) for level, text in found(report, "engine")] == [("error", True)]


def test_the_hosts_own_metrics_page_is_named(diagnose: Any) -> None:
    report = diagnose(SOUND + '    app.get("/metrics")(lambda: "own")\n', expect=0)

    assert any(level == "warning" and "/metrics of its own" in text for level, text in found(report, "metrics page"))


def test_the_kill_switch_is_an_error(diagnose: Any) -> None:
    report = diagnose(SOUND, expect=1, ISOLATION_MODE="off")

    assert found(report, "mode") == [("error", "the mode is off: nothing is watched")]


def test_serving_the_unwrapped_application_is_an_error(diagnose: Any) -> None:
    source = """
        from isolation_monitor.telemetry import IsolationMonitor

        async def app(scope, receive, send): ...

        monitor = IsolationMonitor.from_env(service="shop")
        served = monitor.instrument(app)
    """
    report = diagnose(source, expect=1)
    assert found(report, "application")[0][0] == "error"

    assert found(diagnose(source, expect=0, app="service:served"), "application")[0][0] == "ok"


def test_a_service_without_a_monitor_is_an_error(diagnose: Any) -> None:
    report = diagnose("async def app(scope, receive, send): ...", expect=1)

    assert found(report, "application")[0][0] == "error"


def test_a_factory_is_called(diagnose: Any) -> None:
    body = textwrap.indent(textwrap.dedent(SOUND), "    ")
    report = diagnose(f"def make():\n{body}\n    make.kept = monitor\n    return app\n", "--factory", expect=0, app="service:make")

    assert found(report, "application")[0][0] == "ok"


def test_a_collector_is_asked(diagnose: Any, collector_url: str) -> None:
    unreachable = diagnose(
        SOUND, expect=1, ISOLATION_COLLECTOR_URL=f"http://127.0.0.1:{free_port()}", ISOLATION_COLLECTOR_TOKEN="right"
    )  # fmt: skip
    no_token = diagnose(SOUND, expect=1, ISOLATION_COLLECTOR_URL=collector_url)
    wrong_token = diagnose(SOUND, expect=1, ISOLATION_COLLECTOR_URL=collector_url, ISOLATION_COLLECTOR_TOKEN="wrong")

    texts = [found(report, "collector")[0][1] for report in (unreachable, no_token, wrong_token)]
    assert ["cannot be reached" in texts[0], "no token" in texts[1], "refuses the token (401)" in texts[2]] == [True] * 3
    assert "wrong" not in texts[2].replace("wrong_", "")


def test_a_metrics_folder_that_cannot_be_written_is_an_error(diagnose: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    report = diagnose(SOUND, expect=1, ISOLATION_METRICS_DIR=str(tmp_path / "file" / "metrics"))

    assert found(report, "metrics folder")[0][0] == "error"


@pytest.mark.parametrize("driver", ["postgresql+asyncpg", "postgresql+psycopg"])
def test_pools_larger_than_the_database_allows_are_an_error(diagnose: Any, postgres: Postgres, driver: str) -> None:
    """The test cluster allows 100 connections: 30 x 3 fit, 30 x 4 do not."""
    make = "create_async_engine" if "asyncpg" in driver else "create_engine"
    url = postgres.url("postgres").replace("postgresql+asyncpg", driver)
    source = (
        SOUND.replace("import create_engine", "import create_engine\n    from sqlalchemy.ext.asyncio import create_async_engine")
        .replace('create_engine("sqlite://")', f'{make}("{url}", pool_size=20, max_overflow=10)')
    )  # fmt: skip

    fits = diagnose(source, "--workers", "3", expect=0)
    too_many = diagnose(source, expect=1, WEB_CONCURRENCY="4")

    assert found(fits, "pool")[0][0] == "ok"
    ((level, text),) = found(too_many, "pool")
    assert level == "error"
    assert "30 connections x 4 workers = 120" in text
    assert "allows 100" in text


@pytest.mark.parametrize(
    ("app", "says"),
    [("service", "module:attribute"), ("nowhere:app", "cannot be imported"), ("service:nothing", "no attribute"), ("broken:app", "boom")],
)
def test_what_cannot_be_loaded_is_a_usage_error(diagnose: Any, tmp_path: Path, app: str, says: str) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('boom')")

    assert says in diagnose(SOUND, expect=2, app=app)


def test_the_text_for_people_names_findings_remedies_and_patches(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(textwrap.dedent(SOUND))
    done = subprocess.run(
        [sys.executable, "-m", "isolation_monitor.cli", "doctor", "service:app", "--app-dir", str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "WARNING  hash key" in done.stdout
    assert "-> set one ISOLATION_HASH_KEY" in done.stdout
    assert "app.build_middleware_stack: active, reversible" in done.stdout
    assert done.stdout.rstrip().endswith("0 errors, 2 warnings")


def test_where_records_wait_is_told_with_what_is_wrong_there(diagnose: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    folder = tmp_path / "spool" / "shop"
    collector = {"ISOLATION_COLLECTOR_URL": f"http://127.0.0.1:{free_port()}", "ISOLATION_COLLECTOR_TOKEN": "t"}

    fresh = diagnose(SOUND, expect=1, **collector)
    folder.mkdir(mode=0o700, parents=True)
    (folder / "dead-letters.jsonl").write_text("{}\n")
    (folder / "1-00000001.spool.corrupt").write_text("damaged")
    (folder / "1-00000002.spool").write_bytes(b"x" * 900_000)
    troubled = diagnose(SOUND, expect=1, ISOLATION_SPOOL_BYTES="1000000", **collector)
    unwritable = diagnose(SOUND, expect=1, ISOLATION_SPOOL_DIR=str(tmp_path / "file" / "spool"), **collector)
    none = diagnose(SOUND, expect=1, ISOLATION_SPOOL_DIR="", **collector)

    assert found(fresh, "spool")[0] == ("ok", f"records wait in {folder}: 0.0 of 268 MB")
    texts = [text for level, text in found(troubled, "spool") if level == "warning"]
    assert [word in text for word, text in zip(("nearly full", "dead-letters.jsonl", "1 damaged"), texts, strict=True)] == [True] * 3
    assert found(unwritable, "spool")[0][0] == "error"
    assert found(none, "spool")[0][0] == "warning"
    assert (folder / "1-00000002.spool").exists(), "the doctor adopts nothing"


def test_start_up_and_clean_up_are_told_of_with_the_health_paths_that_the_host_keeps(diagnose: Any) -> None:
    declared = """
    @monitor.lifecycle.phase("database")
    async def connect() -> None: ...

    @monitor.lifecycle.cleanup("database")
    async def disconnect() -> None: ...

    @app.get("/readyz")
    def own() -> None: ...
"""
    report = diagnose(SOUND + declared, expect=0)

    told = found(report, "lifecycle")
    assert ("ok", "1 phases: database; 1 steps: database") in told
    assert any(level == "note" and "a /readyz of its own" in text for level, text in told)
    assert any("SIGTERM and SIGINT" in text for _, text in told)
