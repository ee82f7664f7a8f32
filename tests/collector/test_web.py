"""Health that tells the truth, and runbooks that open without a token and run no script."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from isolation_monitor.alerts import build
from isolation_monitor.collector.storage.schema import migrate
from isolation_monitor.collector.web import runbooks
from tests.collector.conftest import Api
from tests.collector.test_web_ci import api as signed_in
from tests.collector.test_web_ci import shown

__all__ = ["signed_in"]


async def test_a_migrated_collector_is_ready(api: Api) -> None:
    answer = await api.get("/readyz", token=None)

    assert (answer.status_code, answer.json()["status"]) == (200, "ready")


async def test_an_unmigrated_database_is_not_ready_and_the_answer_says_what_to_run(
    make_api: Callable[..., Any], empty_sqlite_url: str
) -> None:
    async with make_api(empty_sqlite_url) as api:
        before = await api.get("/readyz", token=None)
        alive = await api.get("/healthz", token=None)
        await migrate(empty_sqlite_url)
        after = await api.get("/readyz", token=None)

        assert (before.status_code, before.headers["content-type"]) == (503, "application/problem+json")
        assert "isomon migrate" in before.json()["detail"]
        assert (alive.status_code, after.status_code) == (200, 200)


async def test_every_runbook_opens_and_the_index_names_it(api: Api) -> None:
    index = await api.get("/runbooks", token=None)

    assert index.status_code == 200
    for name in runbooks.runbook_names():
        page = await api.get(f"/runbooks/{name}", token=None)
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert f'href="/runbooks/{name}"' in index.text


@pytest.mark.parametrize("path", sorted({alert.page for alert in build.alerts() if alert.page}))
async def test_every_page_that_an_alert_links_opens(signed_in: Api, path: str) -> None:
    """With whatever name Prometheus puts in; what is chosen there is chosen on the page."""
    page = await shown(signed_in, re.sub(r"\{\{.*?\}\}", "web%2Fblue", path))

    assert 'value="web/blue"' in page or "{{" not in path


@pytest.mark.parametrize("name", ["Nothing", "..%2f..%2fsettings", "%2e%2e%2fbuild", "IsolationViolation.md", "A" * 5000])
async def test_an_unknown_runbook_is_a_problem(api: Api, name: str) -> None:
    answer = await api.get(f"/runbooks/{name}", token=None)

    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


def test_markdown_is_rendered_and_its_html_and_scripts_are_not() -> None:
    page = runbooks.render_markdown(
        "# Title\n\n| a | b |\n| - | - |\n| `x` | **y** |\n\n<script>alert(1)</script>\n\n[bad](javascript:alert(1)) [good](https://example.com)\n\n```\n<b>\n```\n"
    )

    assert "<h1>Title</h1>" in page
    assert "<table>" in page
    assert "<script" not in page
    assert "javascript:" not in page.split("href")[-1]
    assert 'href="javascript' not in page
    assert 'href="https://example.com"' in page
    assert "&lt;b&gt;" in page
