"""Negotiation: what a scraper may see and in which form, from its request headers (RFC 9110, sections 11 and 12)."""

from __future__ import annotations

import hmac
import json


def is_authorized(authorization: str, token: str | None) -> bool:
    """Whether `authorization` carries the bearer token, compared in constant time; without a token everybody may look."""
    if token is None:
        return True
    scheme, _, given = authorization.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())


def wants_openmetrics(accept: str) -> bool:
    """Whether OpenMetrics text of a version that we write is preferred, or as welcome as the classic format.

    >>> wants_openmetrics("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5")
    True
    >>> wants_openmetrics("*/*")
    False
    """
    openmetrics = classic = 0.0
    for media_range, parameters in _ranges(accept):
        if media_range == "application/openmetrics-text" and parameters.get("version", "1.0.0") in ("1.0.0", "0.0.1"):
            openmetrics = max(openmetrics, _quality(parameters))
        elif media_range == "text/plain" and parameters.get("version", "0.0.4") == "0.0.4":
            classic = max(classic, _quality(parameters))
    return openmetrics > 0.0 and openmetrics >= classic


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether the client takes gzip.

    >>> accepts_gzip("gzip;q=0, identity"), accepts_gzip("br, gzip")
    (False, True)
    """
    return any(coding in ("gzip", "x-gzip") and _quality(parameters) > 0.0 for coding, parameters in _ranges(accept_encoding))


def problem(status: int, title: str, detail: str) -> bytes:
    """An error as problem+json (RFC 9457)."""
    return json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}).encode()


def _ranges(header: str) -> list[tuple[str, dict[str, str]]]:
    found = []
    for item in header.split(","):
        name, *parameters = item.split(";")
        pairs = (parameter.partition("=") for parameter in parameters)
        found.append((name.strip().lower(), {key.strip().lower(): value.strip().strip('"') for key, _, value in pairs}))
    return found


def _quality(parameters: dict[str, str]) -> float:
    try:
        return float(parameters.get("q", "1"))
    except ValueError:
        return 0.0
