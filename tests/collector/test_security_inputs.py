"""Hostile values: into SQL, into pages, into logs."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest
from sqlalchemy import text

from isolation_monitor.collector.storage.database import Database, RefusedByStore
from isolation_monitor.collector.web.runbooks import render_markdown
from tests.collector.conftest import Api
from tests.real_parts.processes import free_port, running

Running = Callable[..., AbstractAsyncContextManager[Api]]

SQL = (
    "' OR '1'='1",
    "'; DROP TABLE violations; --",
    '" OR ""="',
    "x' UNION SELECT id, body FROM unknown_records --",
    "%",
    "_",
    "\\",
    "1); DELETE FROM violations; --",
    "$1",
    ":service",
    "{service}",
    "%s",
)
"""What would change a query that is put together from text; wildcards too, which must stay what they are."""


@pytest.mark.parametrize("text", SQL)
async def test_values_stay_values_in_every_query(api: Api, text: str) -> None:
    await api.send(api.violation(id="kept"))
    await api.start_rollout("kept")
    value = quote(text, safe="")

    for path in (
        *(f"/v1/violations?{name}={value}" for name in ("service", "kind")),
        *(f"/v1/violation-groups?{name}={value}" for name in ("service", "kind")),
        f"/v1/alerts?alertname={value}",
        f"/v1/alerts?service={value}",
        f"/v1/queues?service={value}",
        f"/v1/rollouts?service={value}",
    ):
        answer = await api.get(path)
        assert (answer.status_code, answer.json()["items"]) == (200, []), path
    for path in (f"/v1/violations/{value}", f"/v1/rollouts/{value}", f"/v1/gates/{value}", f"/v1/rollouts/{value}/history"):
        assert (await api.get(path)).status_code == 404, path
    for name in ("grade", "since", "limit", "cursor", "synthetic"):
        assert (await api.get(f"/v1/violations?{name}={value}")).status_code == 422, name
    assert await api.stored_ids() == {"kept"}


@pytest.mark.parametrize("text", SQL)
async def test_values_stay_values_in_every_record(api: Api, text: str) -> None:
    sent = api.violation(kind=text, summary=text, fingerprint=text[:64], detail={text: text}, detector=text)

    assert (await api.send(sent, service=text, instance=text)).json()["accepted"] == 1

    seen = (await api.get(f"/v1/violations?service={quote(text, safe='')}")).json()["items"]
    assert [(one["kind"], one["service"], one["instance"], one["detail"]) for one in seen] == [(text, text, text, {text: text})]


async def test_a_page_has_an_end_whatever_is_asked_for(api: Api) -> None:
    for path in ("/v1/violations?limit=1001", "/v1/violation-groups?limit=201", "/v1/alerts?limit=100000", "/v1/queues?limit=201"):
        assert (await api.get(path)).status_code == 422, path


def test_html_and_dangerous_links_within_a_runbook_are_text() -> None:
    page = render_markdown(
        "<script>alert(1)</script> [x](javascript:alert(1)) ![y](data:text/html;base64,PHNjcmlwdD4=) <img src=x onerror=z>"
    )

    assert "<script" not in page
    assert "<img src=x" not in page
    assert 'href="javascript' not in page
    assert 'src="data:text/html' not in page


async def test_no_page_echoes_what_was_asked_for_as_html(api: Api) -> None:
    for path in ("/runbooks/<script>alert(1)</script>", "/<script>alert(1)</script>", "/v1/violations/<script>alert(1)</script>"):
        answer = await api.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


class TestLogs:
    @pytest.fixture
    def log(self) -> Iterator[io.StringIO]:
        text = io.StringIO()
        handler = logging.StreamHandler(text)
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        logger = logging.getLogger("isolation_monitor.collector")
        logger.addHandler(handler)
        yield text
        logger.removeHandler(handler)

    async def test_an_entry_cannot_be_forged(self, api: Api, log: io.StringIO) -> None:
        logging.getLogger("isolation_monitor.collector").warning("rollout %s: %s", "x\nERROR all is lost\r", "\x1b[2J\u202egone\x00")

        assert log.getvalue() == "WARNING rollout x ERROR all is lost: [2Jgone\n"

    async def test_the_lines_of_a_stack_are_marked(self, api: Api, log: io.StringIO) -> None:
        try:
            raise ValueError("one\nERROR two\x1b[31m")
        except ValueError:
            logging.getLogger("isolation_monitor.collector").exception("it failed")

        first, *rest = log.getvalue().splitlines()
        assert first == "ERROR it failed"
        assert rest[-2:] == ["| ValueError: one", "| ERROR two[31m"]
        assert all(line.startswith("| ") for line in rest)

    async def test_an_entry_with_wrong_arguments_is_still_one(self, api: Api, log: io.StringIO) -> None:
        logging.getLogger("isolation_monitor.collector").warning("%d of %s", "one\nERROR")

        assert log.getvalue().startswith("WARNING '%d of %s' could not be written out")
        assert len(log.getvalue().splitlines()) == 1

    def test_a_defect_forges_nothing_in_the_log_of_a_process(self, tmp_path: Path) -> None:
        """The server tells of a defect besides us, by a logger of its own."""
        program = tmp_path / "serving.py"
        program.write_text(SERVING, encoding="utf-8")
        port, log = free_port(), tmp_path / "collector.log"
        settings = {"COLLECTOR_SEND_TOKEN": "send", "COLLECTOR_READ_TOKEN": "read", "COLLECTOR_DATABASE_URL": f"sqlite:///{tmp_path / 'x'}"}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COLLECTOR_")} | settings

        with running([sys.executable, str(program), str(port)], log, f"http://127.0.0.1:{port}/healthz", environment):
            answer = httpx2.get(f"http://127.0.0.1:{port}/defect", trust_env=False)

        told = log.read_text(encoding="utf-8").splitlines()
        assert answer.status_code == 500
        assert [line for line in told if "ERROR: all is lost" in line and "raise" not in line] == ["| ERROR: all is lost[2J"] * 2
        assert any("Exception in ASGI application" in line for line in told)

    async def test_an_error_of_the_store_holds_no_values(self, sqlite_url: str) -> None:
        database = Database(sqlite_url)
        try:
            with pytest.raises(RefusedByStore) as caught:
                async with database.writing() as connection:
                    await connection.execute(text("INSERT INTO web_sessions (id) VALUES (:id)"), {"id": "-".join(("of", "ann"))})
        finally:
            await database.close()

        assert "of-ann" not in "".join(traceback.format_exception(caught.value))


SERVING = """
import sys
import uvicorn
from isolation_monitor.collector.app import create_app

def create():
    app = create_app()

    @app.get("/defect")
    async def defect():
        raise ValueError("one\\nERROR: all is lost\\x1b[2J")

    return app

uvicorn.run(create, factory=True, host="127.0.0.1", port=int(sys.argv[1]))
"""
