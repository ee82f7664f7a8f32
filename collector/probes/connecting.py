"""What probes over HTTP and TCP share: names, addresses, TLS, and what a failure is called."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from isolation_monitor.collector.probes.domain import Probe, Reason, Tls

_VERSIONS: Final = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_CONTEXTS_KEPT: Final = 100
_NAMES_AT_ONCE: Final = 32
_UTC_TIME, _GENERAL_TIME = 0x17, 0x18

_resolvers: Final = ThreadPoolExecutor(_NAMES_AT_ONCE, thread_name_prefix="probe-names")
"""Threads of their own: names that do not resolve hold them for a while, and not those that the collector works with."""
_contexts: dict[tuple[Tls, tuple[float, ...]], ssl.SSLContext] = {}


class ProbeFailed(Exception):
    """The endpoint is not as it should be; `reason` is one of `domain.REASONS`, the text says more."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason


@dataclass(slots=True)
class Seen:
    """What is known of an endpoint so far; more of it survives a failure."""

    status_code: int | None = None
    certificate_expires_at: datetime | None = None
    redirects: int = 0


class Phases:
    """How long each part of a check took, in seconds, and which one is under way."""

    def __init__(self) -> None:
        self.took: dict[str, float] = {}
        self.now = "prepare"
        self._since = time.perf_counter()

    def begin(self, name: str) -> None:
        """End the phase that is under way and begin the next one."""
        self.end()
        self.now = name

    def end(self) -> None:
        moment = time.perf_counter()
        self.took[self.now] = self.took.get(self.now, 0.0) + moment - self._since
        self._since = moment


async def addresses(probe: Probe, host: str, port: int) -> list[str]:
    """Return where to connect: one address of the preferred family, then one of the other where that is allowed.

    Raises:
        ProbeFailed: the name does not resolve, or to no address of that family.
    """
    try:
        find = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        # An address needs no resolver, so it does not wait for one either.
        found = (
            find(flags=socket.AI_NUMERICHOST) if _is_address(host) else await asyncio.get_running_loop().run_in_executor(_resolvers, find)
        )
    except (socket.gaierror, UnicodeError) as error:
        text = error.strerror if isinstance(error, socket.gaierror) else str(error)
        raise ProbeFailed("dns", f"{host}: {text}") from None
    families = [socket.AF_INET6, socket.AF_INET] if probe.prefers_ipv6 else [socket.AF_INET, socket.AF_INET6]
    first = {family: str(address[0]) for family, *_rest, address in reversed(found)}
    chosen = [first[family] for family in families[: None if probe.falls_back else 1] if family in first]
    if not chosen:
        raise ProbeFailed("dns", f"{host} has no IPv{6 if probe.prefers_ipv6 else 4} address")
    return chosen


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_global


async def ready_context(tls: Tls) -> ssl.SSLContext:
    """Return the context for these settings; made again, beside the event loop, when one of their files has changed.

    Raises:
        ProbeFailed: a file cannot be used.
    """
    files = [Path(name) for name in (tls.ca_file, tls.cert_file, tls.key_file) if name is not None]
    try:
        key = (tls, tuple(path.stat().st_mtime for path in files))
        if key not in _contexts:
            # Reading the system's authorities takes a while, in which other probes would look slow.
            made = await asyncio.to_thread(_make_context, tls)
            if len(_contexts) >= _CONTEXTS_KEPT:
                _contexts.clear()
            _contexts[key] = made
        return _contexts[key]
    except (OSError, ssl.SSLError) as error:
        raise ProbeFailed("tls", f"a file of tls_config cannot be used: {error}") from None


def _make_context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca_file)
    if not tls.verifies:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if tls.cert_file is not None:
        # Without an answer of our own OpenSSL would ask for a passphrase on the terminal.
        context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    if tls.min_version is not None:
        context.minimum_version = _VERSIONS[tls.min_version]
    if tls.max_version is not None:
        context.maximum_version = _VERSIONS[tls.max_version]
    return context


def expiry_of(connection: ssl.SSLObject | ssl.SSLSocket | None) -> datetime | None:
    """Return when the first certificate of those that the server showed expires; None without TLS."""
    if connection is None:
        return None
    shown = [connection.getpeercert(binary_form=True)]
    # Python 3.13 shows the intermediate ones too.
    chain: Any = getattr(connection, "get_unverified_chain", None)
    if chain is not None:
        shown += chain()
    return min((not_after(der) for der in shown if der), default=None)


def not_after(certificate: bytes) -> datetime:
    """Return the end of validity of a DER certificate (RFC 5280, 4.1): verified or not, which `ssl` tells of verified ones only."""
    _tag, body, _rest = _element(certificate)
    _tag, fields, _rest = _element(body)
    tag, _value, rest = _element(fields)
    # version [0] is optional; then serialNumber, signature, issuer, validity.
    for _ in range(3 if tag == 0xA0 else 2):
        _tag, _value, rest = _element(rest)
    _tag, validity, _rest = _element(rest)
    _tag, _begin, rest = _element(validity)
    tag, end, _rest = _element(rest)
    text = end.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Return tag and content of the first element of DER, and what follows it."""
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    return data[0], data[start : start + length], data[start + length :]


def failure_of(error: BaseException) -> ProbeFailed:
    """Return what an error of a connection is called here; libraries wrap the one that says why."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    for one in seen:
        if isinstance(one, ProbeFailed):
            return one
        if isinstance(one, ssl.SSLCertVerificationError):
            return ProbeFailed("certificate", one.verify_message or str(one))
        if isinstance(one, ssl.SSLError):
            return ProbeFailed("tls", one.reason or str(one))
        if isinstance(one, ConnectionRefusedError):
            return ProbeFailed("refused", "connection refused")
        if isinstance(one, OSError) and one.errno is not None:
            return ProbeFailed("unreachable", one.strerror or str(one))
    return ProbeFailed("unreachable", str(error) or type(error).__name__)
