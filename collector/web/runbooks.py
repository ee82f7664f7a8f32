"""Runbooks as pages: the Markdown files of the alerts, one for each alert, plus an index.

Open without a token, because they are opened at night from a page on someone's phone; they hold no data. HTML within
the Markdown is shown as text, links go only to http, https and this site, and the page may run no script.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from markdown_it import MarkdownIt
from markupsafe import Markup

from isolation_monitor.collector.problems import NotFound
from isolation_monitor.collector.storage.database import StoreUnavailable
from isolation_monitor.collector.web.rendering import PageRoute, page
from isolation_monitor.collector.web.signing_in import COOKIE, Sessions

router = APIRouter(tags=["runbooks"], route_class=PageRoute)

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,99}")


def runbook_names() -> list[str]:
    """Return the alerts that have a runbook, by name."""
    folder = files("isolation_monitor.alerts") / "runbooks"
    if not folder.is_dir():
        return []
    names = (entry.name.removesuffix(".md") for entry in folder.iterdir() if entry.name.endswith(".md"))
    return sorted(name for name in names if _NAME.fullmatch(name))


def render_markdown(text: str) -> str:
    """Return safe HTML: raw HTML is escaped, and links with other schemes are left as text."""
    page = str(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))
    # A block that scrolls has to be reached by keys, too. Written by the renderer: in text, brackets are escaped.
    return page.replace("<pre>", '<pre tabindex="0">')


def meaning_of(text: str) -> str:
    """Return the first paragraph below `## Meaning`, on one line and without marks."""
    below = text.partition("## Meaning")[2].strip()
    return " ".join(below.partition("\n\n")[0].replace("`", "").replace("**", "").split())


async def _is_signed_in(request: Request, sessions: Sessions) -> bool:
    """Say whether somebody is: it decides what the head of the page offers, and nothing else."""
    try:
        return await sessions.of(request.cookies.get(COOKIE)) is not None
    except StoreUnavailable:
        # Runbooks are for such nights.
        return False


SignedIn = Annotated[bool, Depends(_is_signed_in)]


@router.get("/runbooks")
async def index(signed_in: SignedIn) -> Response:
    books = [(name, meaning_of(_text(name))) for name in runbook_names()]
    return page("runbooks", books=books, here="runbooks", signed_in=signed_in)


@router.get("/runbooks/{name}")
async def runbook(name: str, signed_in: SignedIn) -> Response:
    # Looked up in the list, never joined to a path: no name can lead out of the folder.
    if name not in runbook_names():
        raise NotFound(f"there is no runbook {name[:100]!r}: /runbooks lists all")
    # Safe as it comes: HTML within the Markdown was escaped.
    text = Markup(render_markdown(_text(name)))
    return page("runbook", name=name, text=text, here="runbooks", signed_in=signed_in)


def _text(name: str) -> str:
    return (files("isolation_monitor.alerts") / "runbooks" / f"{name}.md").read_text(encoding="utf-8")
