"""Errors as problem+json (RFC 9457): one shape for every answer that is not a success.

Business errors are subclasses of `Problem` with their own status; `install` also turns the framework's own errors
(404, 405, 422) and defects (500) into the same shape. No answer repeats the input or a stack.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from isolation_monitor.collector.jsontext import dumps

logger = logging.getLogger("isolation_monitor.collector")

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """An error with its HTTP meaning. `detail` says what was found and what to do."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None, **extensions: Any) -> None:
        """`extensions` become members of the answer; plain JSON values."""
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}
        self.extensions = extensions


class MalformedBody(Problem):
    status = 400
    title = "Malformed body"


class Unauthenticated(Problem):
    status = 401
    title = "Unknown token"


class Forbidden(Problem):
    status = 403
    title = "Wrong scope"


class NotFound(Problem):
    status = 404
    title = "Not found"


class Conflict(Problem):
    status = 409
    title = "Conflict"


class RequestTimeout(Problem):
    status = 408
    title = "Body too slow"


class TooLarge(Problem):
    status = 413
    title = "Too large"


class UnsupportedMedia(Problem):
    status = 415
    title = "Unsupported media"


class Invalid(Problem):
    status = 422
    title = "Invalid request"


class TryAgain(Problem):
    """Transient: the same request may succeed later."""

    def __init__(self, detail: str, *, retry_after_s: int = 2, **extensions: Any) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_s)}, **extensions)


class Unavailable(TryAgain):
    """The collector cannot now. Never 500, which senders give up on."""

    status = 503
    title = "Try again later"


class TooManyRequests(TryAgain):
    """This caller is too fast. Not for Alertmanager, which takes it for final."""

    status = 429
    title = "Too fast"


class JsonResponse(JSONResponse):
    """JSON that every parser accepts: NaN and infinity raise instead of leaving."""

    def render(self, content: Any) -> bytes:
        return dumps(content).encode()


def problem_response(
    status: int, title: str, detail: str, headers: dict[str, str] | None = None, extensions: dict[str, Any] | None = None
) -> Response:
    """Return one problem+json answer."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **(extensions or {})}
    return JsonResponse(body, status_code=status, headers=headers, media_type=MEDIA_TYPE)


def plain(reason: str) -> str:
    """Return what pydantic says is wrong, in words that mean something to who sent it."""
    if reason.startswith("Input should be a valid dictionary"):
        return "is no JSON object"
    return reason.removeprefix("Value error, ")


def install(app: FastAPI) -> None:
    """Register the handlers on `app`."""

    async def business(_request: Request, error: Exception) -> Response:
        problem = error if isinstance(error, Problem) else Problem(str(error))
        return problem_response(problem.status, problem.title, problem.detail, problem.headers, problem.extensions)

    async def framework(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
        title, detail = _FRAMEWORK.get(status, ("Request refused", str(getattr(error, "detail", ""))))
        return problem_response(status, title, detail.format(method=request.method, path=request.url.path[:200]), headers)

    async def invalid(_request: Request, error: Exception) -> Response:
        found = error.errors() if isinstance(error, RequestValidationError) else []
        errors = [{"where": ".".join(str(part) for part in item["loc"]), "reason": plain(item["msg"])} for item in found[:20]]
        malformed = any(item["type"] == "json_invalid" for item in found)
        kind: type[Problem] = MalformedBody if malformed else Invalid
        detail = "; ".join(f"{item['where']}: {item['reason']}" for item in errors[:3]) or "the request is not valid"
        return problem_response(kind.status, kind.title, detail, extensions={"errors": errors})

    async def defect(_request: Request, error: Exception) -> Response:
        logger.error("defect while answering", exc_info=error)
        return problem_response(500, "Internal error", "a defect of the collector; its log has the details")

    app.add_exception_handler(Problem, business)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, defect)


_FRAMEWORK = {
    404: ("Not found", "there is nothing at {path}"),
    405: ("Method not allowed", "{method} is not possible at {path}"),
}
