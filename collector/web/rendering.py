"""Templates, static files and the headers of every page: what evidence says is shown as text, and nothing of it ever runs.

Pages load from this collector alone: one style sheet, one script, one picture. No inline script or style is allowed by
the policy, so widths of bars are attributes of SVG, never styles.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException

from isolation_monitor import __version__
from isolation_monitor.collector.ci.resources import WORDS
from isolation_monitor.collector.problems import NotFound, Problem, Unauthenticated
from isolation_monitor.collector.storage.database import StoreUnavailable

PAGES: Final = (
    ("overview", "/", "Now"),
    ("incidents", "/incidents", "Incidents"),
    ("violations", "/violations", "Violations"),
    ("runs", "/runs", "Runs"),
    ("rollouts", "/rollouts", "Rollouts"),
    ("detectors", "/detectors", "Detectors"),
    ("containers", "/containers", "Containers"),
    ("probes", "/probes", "Probes"),
    ("history", "/history", "History"),
    ("lifecycle", "/lifecycle", "Lifecycle"),
    ("ci", "/ci", "Tests"),
    ("runbooks", "/runbooks", "Runbooks"),
)
"""Name, address and word of each page in the navigation."""

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATIC_TYPES: Final = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
_STATIC: Final = {name: (files("isolation_monitor.collector.web") / "static" / name).read_bytes() for name in _STATIC_TYPES}

router = APIRouter(tags=["pages"])


@router.get("/static/{name}", include_in_schema=False)
async def static_file(name: str) -> Response:
    """Return one of the files that pages load; open, because they hold no data."""
    if name not in _STATIC:
        raise NotFound(f"there is no file {name[:100]!r}")
    # The address changes with the content, so a browser need never ask again.
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
    return Response(_STATIC[name], media_type=_STATIC_TYPES[name], headers=headers)


def static_url(name: str) -> str:
    """Return the address of a static file, with a fingerprint of its content."""
    return f"/static/{name}?v={hashlib.sha256(_STATIC[name]).hexdigest()[:12]}"


class SignInNeeded(Exception):
    """The page is for people who are signed in, and nobody is."""


class PageRoute(APIRoute):
    """A route that people open: its errors are pages too, where the caller takes HTML."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except SignInNeeded:
                if "text/event-stream" in request.headers.get("accept", ""):
                    raise Unauthenticated("nobody is signed in") from None
                return RedirectResponse(f"/sign-in?next={_quoted(request)}", status_code=303, headers=HEADERS)
            except (Problem, StoreUnavailable, RequestValidationError, HTTPException) as error:
                if "text/html" not in request.headers.get("accept", ""):
                    raise
                return _error_page(error, is_signed_in=getattr(request.state, "is_signed_in", False))

        return answer


def page(template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any) -> HTMLResponse:
    """Return a page made of `templates/{template}.html`. `values` may come from anywhere: everything is escaped."""
    return HTMLResponse(fragment(template, **values), status_code=status, headers={**HEADERS, **(headers or {})})


def fragment(template: str, **values: Any) -> str:
    """Return what a template makes of the values, escaped."""
    return _ENVIRONMENT.get_template(f"{template}.html").render(**values)


def _error_page(error: Exception, *, is_signed_in: bool) -> HTMLResponse:
    status, title, detail = 503, "Try again later", f"{error}"
    headers: Mapping[str, str] = {"Retry-After": "2"}
    if isinstance(error, Problem):
        status, title, detail, headers = error.status, error.title, error.detail, error.headers
    elif isinstance(error, HTTPException):
        status, title, detail, headers = error.status_code, "Request refused", str(error.detail), dict(error.headers or {})
    elif isinstance(error, RequestValidationError):
        found = [f"{item['loc'][-1]}: {item['msg']}" for item in error.errors()[:3]]
        status, title, detail, headers = 422, "Invalid request", "; ".join(found), {}
    return page("error", status=status, headers=headers, title=title, detail=detail, here="", signed_in=is_signed_in)


def _quoted(request: Request) -> str:
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return quote(asked if request.method == "GET" else "/", safe="")


# --- filters ----------------------------------------------------------------------------------------------------------


def percent(value: float | None, digits: int = 2) -> str:
    """Return a value of 0-100 rounded down, without trailing zeros: 99.999 reads 99.99, never 100. None reads as a dash.

    >>> percent(99.9999), percent(100.0), percent(97.5), percent(None)
    ('99.99', '100', '97.5', '–')
    """
    if value is None:
        return "–"
    # Binary fractions lie a hair below what was meant: 97.5 must not become 97.49.
    text = f"{math.floor(value * 10**digits + 1e-9) / 10**digits:.{digits}f}" if digits else str(math.floor(value + 1e-9))
    if value < 100 and float(text) >= 100:
        text = f"{100 - 10**-digits:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def share(value: float | None, digits: int = 1) -> str:
    """Return a share of 0-1 as a percentage, rounded down."""
    return percent(None if value is None else value * 100, digits)


def count(value: float | None) -> str:
    """Return a whole number with thin gaps between thousands; None reads as a dash."""
    return "–" if value is None else f"{math.floor(value + 1e-9):,}".replace(",", "\u202f")


def seconds(value: float | None) -> str:
    """Return a duration in the unit that people would use.

    >>> seconds(0.0042), seconds(3.14), seconds(600), seconds(5400)
    ('4.2 ms', '3.1 s', '10 min', '1.5 h')
    """
    if value is None:
        return "–"
    for limit, factor, unit in ((1.0, 1000.0, "ms"), (120.0, 1.0, "s"), (5400.0, 1 / 60, "min"), (172_800.0, 1 / 3600, "h")):
        if abs(value) < limit:
            return f"{value * factor:.1f}".removesuffix(".0") + f" {unit}"
    return f"{value / 86400:.1f}".removesuffix(".0") + " d"


def size(value: float | None) -> str:
    """Return bytes in a unit that people would use."""
    if value is None:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.1f}".removesuffix(".0") + f" {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def amount(value: float | None, name: str) -> str:
    """Return a measured value in the unit that its name ends with; `measured` names it.

    >>> amount(2048, "memory_peak_bytes"), measured("memory_peak_bytes"), amount(3, "leaked_threads")
    ('2 KiB', 'peak memory', '3')
    """
    return size(value) if name.endswith("_bytes") else seconds(value) if name.endswith("_s") else count(value)


def measured(name: str) -> str:
    """Return the name of what was measured in words."""
    return WORDS.get(name) or words(name)


def moment(value: datetime | None) -> str:
    """Return a time in UTC for people, to the second."""
    return "–" if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(value: datetime) -> str:
    """Return a time for the `datetime` attribute."""
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def words(name: str) -> str:
    """Return a name of code in words: `wrong_socket` reads `wrong socket`."""
    return str(name).replace("_", " ")


def short(text: str, length: int = 16) -> str:
    """Return the beginning of a long id."""
    return text if len(text) <= length else text[: length - 1] + "…"


def pretty(value: object) -> str:
    """Return JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("isolation_monitor.collector.web", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for made in (percent, share, count, seconds, size, amount, measured, moment, iso, words, short, pretty):
        environment.filters[made.__name__] = made
    environment.globals |= {"pages": PAGES, "static": static_url, "version": __version__}
    return environment


_ENVIRONMENT: Final = _environment()
