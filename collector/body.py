"""Reading a request body with its limits enforced while it streams.

uvicorn caps nothing by itself. A body is refused at the byte that breaks a limit, compressed or inflated, so neither
an endless upload nor a gzip bomb is ever held in memory.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from isolation_monitor.collector import jsontext
from isolation_monitor.collector.problems import Invalid, MalformedBody, RequestTimeout, TooLarge, UnsupportedMedia, plain

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """`wire_bytes` as sent, `inflated_bytes` after gzip, `timeout_s` for the whole body to arrive."""

    wire_bytes: int
    inflated_bytes: int
    timeout_s: float


def _uncounted(_size: int) -> None:
    return None


async def read_json_body(request: Request, limits: BodyLimits) -> bytes:
    """Return the body, inflated, of a request that says it is JSON. Raises what `read_body` does."""
    return (await read_body(request, limits, ("application/json",)))[1]


async def read_body(
    request: Request, limits: BodyLimits, media_types: tuple[str, ...], count: Callable[[int], None] = _uncounted
) -> tuple[str, bytes]:
    """Return which of `media_types` the body is (the first where the request does not say), and the body, inflated.

    `count` is told of bytes before they are kept, and may raise.

    Raises:
        UnsupportedMedia: another content type or encoding.
        TooLarge: more bytes than allowed, announced, sent or inflated.
        MalformedBody: the gzip stream is broken, incomplete or followed by something.
        RequestTimeout: the body did not arrive in time.
    """
    media = request.headers.get("content-type", media_types[0]).partition(";")[0].strip().lower()
    if media not in media_types:
        raise UnsupportedMedia(f"the body is {media[:100]!r}: send {' or '.join(media_types)}")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip"):
        raise UnsupportedMedia(f"the body is encoded as {encoding[:100]!r}: send gzip, or plain")
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > limits.wire_bytes:
        raise TooLarge(f"the body has {announced[:20]} bytes, at most {limits.wire_bytes} are taken: send smaller batches")
    try:
        async with asyncio.timeout(limits.timeout_s):
            stream = _limited(request.stream(), limits)
            return media, await (_gunzip(stream, limits, count) if encoding == "gzip" else _collect(stream, count))
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {limits.timeout_s:g} s") from None
    except ClientDisconnect:
        raise MalformedBody("the connection closed before the body was complete") from None


def parsed(body: bytes, model: type[M], what: str = "") -> M:
    """Return a JSON body as `model` reads it; `what` begins the error text where the caller has to know what was expected.

    Raises:
        MalformedBody: not JSON.
        Invalid: not what `model` says; the first place where it is not is named.
    """
    try:
        return model.model_validate(jsontext.clean(jsontext.loads(body)))
    except jsontext.JsonError as error:
        raise MalformedBody(str(error)) from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise Invalid(f"{what}{'.'.join(str(part) for part in first['loc']) or 'the body'}: {plain(first['msg'])}") from None


async def _limited(chunks: AsyncIterator[bytes], limits: BodyLimits) -> AsyncIterator[bytes]:
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        if total > limits.wire_bytes:
            raise TooLarge(f"the body has more than {limits.wire_bytes} bytes: send smaller batches")
        yield chunk


async def _collect(chunks: AsyncIterator[bytes], count: Callable[[int], None]) -> bytes:
    parts = []
    async for chunk in chunks:
        count(len(chunk))
        parts.append(chunk)
    return b"".join(parts)


async def _gunzip(chunks: AsyncIterator[bytes], limits: BodyLimits, count: Callable[[int], None]) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    parts: list[bytes] = []
    room = limits.inflated_bytes
    try:
        async for chunk in chunks:
            if not chunk:
                continue
            if inflater.eof:
                raise MalformedBody("something follows the gzip stream: send one member")
            # One byte more than there is room for tells "exactly full" from "too large".
            part = inflater.decompress(chunk, room + 1)
            room -= len(part)
            if room < 0:
                raise TooLarge(f"the body inflates to more than {limits.inflated_bytes} bytes: send smaller batches")
            count(len(part))
            parts.append(part)
    except zlib.error:
        raise MalformedBody("the body is not gzip, although Content-Encoding says so") from None
    if not inflater.eof:
        raise MalformedBody("the gzip stream ends too early")
    if inflater.unused_data:
        raise MalformedBody("something follows the gzip stream: send one member")
    return b"".join(parts)
