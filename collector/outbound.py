"""Requests that the collector itself makes, to addresses of its configuration and to no others.

No redirect is followed, so a token never travels to another host; proxies of the environment are not used; what answers
may send so many bytes and no more, and is not unpacked, so that a small answer cannot become a large one.
"""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from typing import Any

import httpx2

from isolation_monitor.telemetry.certificates import certificate_trouble


class AnswerTooLarge(Exception):
    """More bytes came than were asked for; the rest was not read."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> Any:  # Any: another program's JSON
        """Return the body's value. Raises ValueError when it is not JSON."""
        return json.loads(self.body)


def client(headers: dict[str, str], timeout_s: float, tls: ssl.SSLContext | None = None) -> httpx2.AsyncClient:
    """Return a client; `await aclose()` it. Without `tls` the certificates that the system trusts are."""
    headers = headers | {"Accept-Encoding": "identity"}
    return httpx2.AsyncClient(
        headers=headers, timeout=timeout_s, trust_env=False, follow_redirects=False, verify=True if tls is None else tls
    )


def why_unreachable(error: Exception, url: str) -> str:
    """Return in words why the address gave no answer, naming certificates where they are, or may be, the reason."""
    trouble = certificate_trouble(error)
    if trouble is not None:
        return trouble
    name = type(error).__name__
    if url.startswith("https://") and isinstance(error, httpx2.ReadError | httpx2.WriteError | httpx2.RemoteProtocolError):
        # TLS 1.3: the other side learns of our certificate after the handshake; its alert is lost when the connection ends first.
        return f"it ended the connection ({name}), as one does that accepts no certificate of ours"
    return name


async def posted(using: httpx2.AsyncClient, url: str, limit_bytes: int, **content: Any) -> Answer:  # Any: what httpx2 sends
    """Post and return the answer.

    Raises:
        AnswerTooLarge: it has more than `limit_bytes`.
        httpx2.RequestError, httpx2.InvalidURL: there was none.
    """
    return await _read(using, "POST", url, limit_bytes, **content)


async def fetched(
    using: httpx2.AsyncClient,
    url: str,
    limit_bytes: int,
    headers: dict[str, str] | None = None,
    timeout_s: float | None = None,
    /,
    **params: str,
) -> Answer:
    """Get and return the answer; `timeout_s` is another one than the client's. Raises what `posted` raises."""
    timed = {} if timeout_s is None else {"timeout": timeout_s}
    return await _read(using, "GET", url, limit_bytes, params=params, headers=headers, **timed)


async def _read(using: httpx2.AsyncClient, method: str, url: str, limit_bytes: int, **content: Any) -> Answer:  # Any: as above
    async with using.stream(method, url, **content) as answer:
        parts, left = [], limit_bytes
        async for part in answer.aiter_raw():
            left -= len(part)
            if left < 0:
                raise AnswerTooLarge(f"more than {limit_bytes} bytes came")
            parts.append(part)
        return Answer(answer.status_code, b"".join(parts))
