"""Runbooks as pages: the Markdown files of the alerts, one for each alert, plus an index.

Open without a token, because they are opened at night from a page on someone's phone; they hold no data. HTML within
the Markdown is shown as text, links go only to http, https and this site, and the page may run no script.
"""

from __future__ import annotations

import html
import re
from importlib.resources import files
from typing import Final

from fastapi import APIRouter
from fastapi.responses import HTMLResponse
from markdown_it import MarkdownIt

from isolation_monitor.collector.problems import NotFound

router = APIRouter(tags=["runbooks"])

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,99}")
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_STYLE: Final = (
    ":root{color-scheme:light dark}body{font:16px/1.55 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{font:14px/1.45 ui-monospace,monospace}pre{overflow:auto;padding:.8rem;border:1px solid #8886;border-radius:.4rem}"
    "table{border-collapse:collapse}td,th{border:1px solid #8886;padding:.3rem .6rem;text-align:left}a{color:#2a6fdb}"
)


def runbook_names() -> list[str]:
    """Return the alerts that have a runbook, by name."""
    folder = files("isolation_monitor.alerts") / "runbooks"
    if not folder.is_dir():
        return []
    names = (entry.name.removesuffix(".md") for entry in folder.iterdir() if entry.name.endswith(".md"))
    return sorted(name for name in names if _NAME.fullmatch(name))


def render_markdown(text: str) -> str:
    """Return safe HTML: raw HTML is escaped, and links with other schemes are left as text."""
    return str(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))


@router.get("/runbooks", response_class=HTMLResponse)
async def index() -> HTMLResponse:
    items = "".join(f'<li><a href="/runbooks/{name}">{name}</a></li>' for name in runbook_names())
    return _page("Runbooks", f"<h1>Runbooks</h1><ul>{items}</ul>")


@router.get("/runbooks/{name}", response_class=HTMLResponse)
async def runbook(name: str) -> HTMLResponse:
    # Looked up in the list, never joined to a path: no name can lead out of the folder.
    if name not in runbook_names():
        raise NotFound(f"there is no runbook {name[:100]!r}: /runbooks lists all")
    text = (files("isolation_monitor.alerts") / "runbooks" / f"{name}.md").read_text(encoding="utf-8")
    return _page(name, render_markdown(text) + '<p><a href="/runbooks">All runbooks</a></p>')


def _page(title: str, body: str) -> HTMLResponse:
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>{body}</body></html>",
        headers=_HEADERS,
    )
