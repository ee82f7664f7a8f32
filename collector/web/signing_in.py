"""Signing in and out of the pages with a `read` token.

The token is sent once, in the body of a form, and never kept, shown or logged; the browser holds a random secret in a
cookie that no script can read and no other site can send. Forms of other sites are refused besides.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Final
from urllib.parse import parse_qs, urlsplit

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from isolation_monitor.collector.problems import Forbidden, MalformedBody, RequestTimeout, TooLarge, TooManyRequests, Unauthenticated
from isolation_monitor.collector.web.rendering import HEADERS, PageRoute, SignInNeeded, page
from isolation_monitor.collector.web.sessions import Session, SessionService

logger = logging.getLogger("isolation_monitor.collector")

COOKIE: Final = "isomon_session"
_FORM_LIMIT: Final = 8192
_FORM_TIMEOUT_S: Final = 10.0

router = APIRouter(tags=["pages"], route_class=PageRoute, include_in_schema=False)


async def sessions_of(request: Request) -> SessionService:
    service: SessionService = request.app.state.web_sessions
    return service


Sessions = Annotated[SessionService, Depends(sessions_of)]


async def signed_in(request: Request, sessions: Sessions) -> Session:
    """Return who looks.

    Raises:
        SignInNeeded: nobody is signed in.
    """
    session = await sessions.of(request.cookies.get(COOKIE))
    if session is None:
        raise SignInNeeded
    request.state.is_signed_in = True
    return session


Visitor = Annotated[Session, Depends(signed_in)]


@router.get("/sign-in")
async def form(request: Request, sessions: Sessions, next: str = "/") -> Response:
    """Show the form; whoever is signed in already goes on."""
    if await sessions.of(request.cookies.get(COOKIE)) is not None:
        return RedirectResponse(local(next), status_code=303, headers=HEADERS)
    return page("sign_in", next=local(next), problem="", here="sign-in", signed_in=False)


@router.post("/sign-in")
async def sign_in(request: Request, sessions: Sessions) -> Response:
    """Open a session; the form again, with 401, where the token is not known or may not read, with 429 after too many of these."""
    refuse_other_sites(request)
    fields = await _read_form(request)
    target = local(fields.get("next", "/"))
    try:
        secret = await sessions.open(fields.get("token", "").strip())
    except TooManyRequests as refusal:
        problem = f"Too many tokens were refused. Try again in {refusal.headers['Retry-After']} s."
        return page("sign_in", status=429, headers=refusal.headers, next=target, problem=problem, here="sign-in", signed_in=False)
    except (Unauthenticated, Forbidden) as refusal:
        logger.warning("a sign-in to the pages was refused: %s", refusal.detail)
        problem = "This token is not known here, or may not read all services. Paste one of scope read that is bound to no service, whole."
        return page("sign_in", status=401, next=target, problem=problem, here="sign-in", signed_in=False)
    answer = RedirectResponse(target, status_code=303, headers=HEADERS)
    settings = request.app.state.runtime.settings
    answer.set_cookie(
        COOKIE, secret, max_age=int(settings.web_session_s), httponly=True, samesite="strict", secure=_is_secure(request), path="/"
    )
    return answer


@router.post("/sign-out")
async def sign_out(request: Request, sessions: Sessions) -> Response:
    """End the session, also in the store: the cookie is worth nothing afterwards, wherever it was copied to."""
    refuse_other_sites(request)
    if secret := request.cookies.get(COOKIE):
        await sessions.close(secret)
    answer = RedirectResponse("/sign-in", status_code=303, headers=HEADERS)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict", secure=_is_secure(request))
    return answer


def local(target: str) -> str:
    """Return an address within this site, or `/` for any other.

    >>> local("/violations?kind=x"), local("//evil.example"), local("https://evil.example"), local("/\\\\evil.example")
    ('/violations?kind=x', '/', '/', '/')
    """
    parts = urlsplit(target)
    is_path = target.startswith("/") and not target.startswith(("//", "/\\")) and not parts.netloc and not parts.scheme
    return target if is_path and target.isprintable() and len(target) <= 2000 else "/"


def refuse_other_sites(request: Request) -> None:
    """Let a form pass that this site sent, or no browser at all.

    Raises:
        Forbidden: another site sent it.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        is_ours = site in ("same-origin", "none")
    else:
        is_ours = origin is None or urlsplit(origin).netloc == request.headers.get("host", "")
    if not is_ours:
        raise Forbidden("this form was sent by another site: open the collector's own page")


def _is_secure(request: Request) -> bool:
    settings = request.app.state.runtime.settings
    return request.url.scheme == "https" or str(settings.base_url).startswith("https://")


async def _read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form.

    Raises:
        TooLarge: more than 8 KiB.
        RequestTimeout: it did not arrive in time.
        MalformedBody: not the fields of a form.
    """
    body = b""
    try:
        async with asyncio.timeout(_FORM_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _FORM_LIMIT:
                    raise TooLarge(f"the form has more than {_FORM_LIMIT} bytes: paste the token alone")
    except TimeoutError:
        raise RequestTimeout(f"the form did not arrive within {_FORM_TIMEOUT_S:g} s") from None
    try:
        return {name: values[-1] for name, values in parse_qs(body.decode("ascii"), max_num_fields=10).items()}
    except ValueError:
        raise MalformedBody("the body is no form") from None
