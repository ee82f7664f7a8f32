"""One check over HTTP/1.1: a connection of its own, redirects step by step, then status, headers and body as the module asks.

Nothing of what came back is kept but numbers: a redirect that leads astray shows nobody what is there. One from a public address to a
private one is not followed at all.
"""

from __future__ import annotations

import base64
import contextlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import httpx2

from isolation_monitor import __version__
from isolation_monitor.collector.probes.connecting import (
    Phases,
    ProbeFailed,
    Seen,
    addresses,
    expiry_of,
    failure_of,
    is_public,
    ready_context,
)
from isolation_monitor.collector.probes.domain import HeaderRule, HttpModule, Probe, Secret
from isolation_monitor.collector.probes.searching import is_found

BODY_BYTES: Final = 1024 * 1024
"""Bodies are searched up to here, unless a module says otherwise by `body_size_limit`, beyond which a check fails."""
REDIRECTS: Final = 10
_REDIRECTING: Final = (301, 302, 303, 307, 308)
_SECRET_HEADERS: Final = ("authorization", "cookie", "proxy-authorization")


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    version: str
    headers: httpx2.Headers
    body: str
    is_tls: bool


async def check_http(probe: Probe, module: HttpModule, seen: Seen, phases: Phases) -> None:
    """Check an endpoint; note in `seen` and `phases` what becomes known.

    Raises:
        ProbeFailed: it is not as it should be.
    """
    request = _Request(module.method, probe.target, _headers(module), _body(module))
    began_public: bool | None = None
    while True:
        answer, public = await _asked(probe, module, request, seen, phases, began_public)
        began_public = public if began_public is None else began_public
        location = answer.headers.get("location")
        if not (module.follows_redirects and answer.status in _REDIRECTING and location):
            break
        if seen.redirects >= REDIRECTS:
            raise ProbeFailed("redirect", f"more than {REDIRECTS} redirects")
        request = _redirected(request, answer.status, location)
        seen.redirects += 1
    phases.begin("search")
    await _judge(module, answer)
    phases.end()


async def warm_up() -> None:
    """Load what the first request would load: an endpoint is not slow because of our imports. Nothing is connected to."""
    transport = httpx2.AsyncHTTPTransport(verify=False, uds="/nonexistent")
    with contextlib.suppress(httpx2.TransportError):
        async with httpx2.AsyncClient(transport=transport, trust_env=False) as client:
            await client.get("http://localhost/")


async def _asked(
    probe: Probe, module: HttpModule, request: _Request, seen: Seen, phases: Phases, began_public: bool | None
) -> tuple[_Answer, bool]:
    parts = urlsplit(request.url)
    host, is_tls = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    verify = await ready_context(module.tls) if is_tls else False
    phases.begin("resolve")
    found = await addresses(probe, host, port)
    if began_public and not all(is_public(address) for address in found):
        raise ProbeFailed("redirect", f"a redirect from a public address to the private one of {host} is not followed")
    failed: ProbeFailed | None = None
    for address in found:
        try:
            return await _sent(module, request, (address, port, host), verify, seen, phases), is_public(address)
        except (httpx2.ConnectError, OSError) as error:
            failed = failure_of(error)
            if failed.reason not in ("refused", "unreachable"):
                break
        except httpx2.RemoteProtocolError as error:
            raise ProbeFailed("protocol", str(error)) from None
        except httpx2.TransportError as error:
            raise failure_of(error) from None
    assert failed is not None
    raise failed


async def _sent(
    module: HttpModule, request: _Request, to: tuple[str, int, str], verify: ssl.SSLContext | bool, seen: Seen, phases: Phases
) -> _Answer:
    address, port, host = to
    is_tls = verify is not False
    parts = urlsplit(request.url)
    literal = f"[{address}]" if ":" in address else address
    url = parts._replace(netloc=f"{literal}:{port}", fragment="").geturl()
    authority = parts.netloc.rpartition("@")[2]
    headers = {"Host": authority, "User-Agent": f"isolation-monitor/{__version__}", "Accept-Encoding": "identity", "Accept": "*/*"}
    given = {name.lower() for name in request.headers}
    headers = {name: value for name, value in headers.items() if name.lower() not in given} | request.headers

    async def trace(event: str, _info: Any) -> None:  # Any: httpcore's
        phase = _PHASES.get(event)
        if phase is not None:
            phases.begin(phase)

    extensions: dict[str, Any] = {"trace": trace, "sni_hostname": module.tls.server_name or host}  # Any: httpx's
    phases.begin("connect")
    async with (
        httpx2.AsyncClient(verify=verify, trust_env=False, follow_redirects=False, timeout=None) as client,
        client.stream(request.method, url, headers=headers, content=request.body, extensions=extensions) as answer,
    ):
        seen.status_code = answer.status_code
        phases.begin("transfer")
        stream = answer.extensions.get("network_stream")
        seen.certificate_expires_at = expiry_of(stream.get_extra_info("ssl_object")) if is_tls and stream else None
        body = await _read(answer, module)
        phases.end()
        return _Answer(answer.status_code, answer.http_version, answer.headers, body, is_tls)


_PHASES: Final = {
    "connection.start_tls.started": "tls",
    "http11.send_request_headers.started": "processing",
}


async def _read(answer: httpx2.Response, module: HttpModule) -> str:
    limit, parts, size = module.body_limit_bytes or BODY_BYTES, [], 0
    async for part in answer.aiter_raw():
        parts.append(part)
        size += len(part)
        if size > limit:
            if module.body_limit_bytes is not None:
                raise ProbeFailed("body", f"it has more than body_size_limit, {limit} bytes")
            break
    return b"".join(parts)[:limit].decode("utf-8", errors="replace")


async def _judge(module: HttpModule, answer: _Answer) -> None:
    is_valid = answer.status in module.valid_statuses if module.valid_statuses else 200 <= answer.status <= 299
    if not is_valid:
        raise ProbeFailed("status", f"the status is {answer.status}")
    if module.valid_versions and answer.version not in module.valid_versions:
        raise ProbeFailed("protocol", f"it speaks {answer.version}, valid are {', '.join(sorted(module.valid_versions))}")
    if module.fails_if_tls and answer.is_tls:
        raise ProbeFailed("tls", "it is reached over TLS, which fail_if_ssl forbids")
    if module.fails_if_not_tls and not answer.is_tls:
        raise ProbeFailed("tls", "it is reached without TLS, which fail_if_not_ssl forbids")
    for pattern in module.body_must_not_match:
        if await is_found(pattern, answer.body):
            raise ProbeFailed("body", f"the body matches {pattern.pattern!r}")
    for pattern in module.body_must_match:
        if not await is_found(pattern, answer.body):
            raise ProbeFailed("body", f"the body does not match {pattern.pattern!r}")
    for rule, must_match in (*((one, False) for one in module.header_must_not_match), *((one, True) for one in module.header_must_match)):
        await _judge_header(rule, must_match, answer)


async def _judge_header(rule: HeaderRule, must_match: bool, answer: _Answer) -> None:
    values = answer.headers.get_list(rule.name)
    if not values:
        if not rule.allows_missing:
            raise ProbeFailed("header", f"there is no header {rule.name}")
        return
    found = [value for value in values if await is_found(rule.pattern, value)]
    if bool(found) is not must_match:
        raise ProbeFailed("header", f"header {rule.name} {'does not match' if must_match else 'matches'} {rule.pattern.pattern!r}")


def _redirected(request: _Request, status: int, location: str) -> _Request:
    try:
        url = urljoin(request.url, location)
        before, after = urlsplit(request.url), urlsplit(url)
        is_usable = after.scheme in ("http", "https") and after.hostname is not None and (after.port is None or after.port > 0)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ProbeFailed("redirect", "the redirect leads to no address of HTTP")
    headers, method, body = request.headers, request.method, request.body
    if (before.hostname, before.port, before.scheme) != (after.hostname, after.port, after.scheme):
        # Secrets are for the endpoint that was named, and so is its name.
        headers = {name: value for name, value in headers.items() if name.lower() not in (*_SECRET_HEADERS, "host")}
    if status == 303 or (status in (301, 302) and method == "POST"):
        method, body = ("HEAD" if method == "HEAD" else "GET"), None
    return _Request(method, url, headers, body)


def _headers(module: HttpModule) -> dict[str, str]:
    headers = dict(module.headers)
    if module.auth_type:
        secret = _secret(module.auth_secret)
        if module.auth_type == "Basic":
            secret = base64.b64encode(f"{module.auth_user}:{secret}".encode()).decode()
        headers["Authorization"] = f"{module.auth_type} {secret}"
    return headers


def _secret(secret: Secret) -> str:
    return _file_text(secret.file).strip() if secret.file is not None else secret.value or ""


def _body(module: HttpModule) -> bytes | None:
    text = module.body if module.body_file is None else _file_text(module.body_file)
    return None if text is None else text.encode()


def _file_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProbeFailed("defect", f"{path} cannot be read: {type(error).__name__}") from None
