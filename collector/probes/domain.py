"""Probes in plain values: what is asked of an endpoint, what came of it, and when that became different.

Durations are seconds. A probe is checked by one of two probers: the collector itself (`collector`), or a blackbox exporter that it asks
(`blackbox`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

By = Literal["collector", "blackbox"]
Reason = Literal[
    "",
    "dns",
    "refused",
    "unreachable",
    "timeout",
    "certificate",
    "tls",
    "status",
    "body",
    "header",
    "redirect",
    "protocol",
    "exporter",
    "unknown",
    "defect",
]
REASONS: Final[dict[Reason, str]] = {
    "dns": "the name does not resolve",
    "refused": "nobody listens at the port",
    "unreachable": "the address cannot be reached, or the connection broke",
    "timeout": "no full answer within the timeout",
    "certificate": "the certificate is not valid for this name",
    "tls": "the TLS handshake failed, or TLS was (not) used where it must (not) be",
    "status": "a status that is not valid",
    "body": "the body, or what a TCP server said, is not as asked",
    "header": "a header is not as asked",
    "redirect": "too many redirects, or one that is not followed",
    "protocol": "what answered does not speak the protocol",
    "exporter": "the blackbox exporter did not answer: nothing is known of the endpoint",
    "unknown": "the blackbox exporter says that it failed, and not why",
    "defect": "the collector itself failed",
}
"""Why a probe failed; empty where it did not."""

CHANGES_KEPT: Final = 100
"""Changes that are kept of each probe."""
MISSED: Final = 3
"""After so many intervals without a result nothing is known any more."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How TLS is spoken. Files are read at each check, so that renewed ones count."""

    verifies: bool = True
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    server_name: str | None = None
    min_version: str | None = None
    max_version: str | None = None


@dataclass(frozen=True, slots=True)
class HeaderRule:
    name: str
    pattern: re.Pattern[str]
    allows_missing: bool = False


@dataclass(frozen=True, slots=True)
class Secret:
    """A value, or a file that holds it."""

    value: str | None = field(default=None, repr=False)
    file: str | None = None


@dataclass(frozen=True, slots=True)
class HttpModule:
    """What is asked over HTTP. Empty `valid_statuses`: 2xx."""

    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: str | None = field(default=None, repr=False)
    body_file: str | None = None
    valid_statuses: frozenset[int] = frozenset()
    valid_versions: frozenset[str] = frozenset()
    follows_redirects: bool = True
    fails_if_tls: bool = False
    fails_if_not_tls: bool = False
    body_must_not_match: tuple[re.Pattern[str], ...] = ()
    body_must_match: tuple[re.Pattern[str], ...] = ()
    header_must_not_match: tuple[HeaderRule, ...] = ()
    header_must_match: tuple[HeaderRule, ...] = ()
    body_limit_bytes: int | None = None
    auth_type: str = ""
    auth_user: str = ""
    auth_secret: Secret = Secret()
    tls: Tls = Tls()


@dataclass(frozen=True, slots=True)
class Exchange:
    """One step with a TCP server: await a line that matches, go over to TLS, send a line."""

    expect: re.Pattern[str] | None = None
    starts_tls: bool = False
    send: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class TcpModule:
    exchanges: tuple[Exchange, ...] = ()
    uses_tls: bool = False
    tls: Tls = Tls()
    source_ip: str | None = None


@dataclass(frozen=True, slots=True)
class Module:
    """One module of a blackbox exporter. `asks` None: only the exporter can check by it, `unsupported` says why."""

    name: str
    prober: str
    timeout_s: float | None
    asks: HttpModule | TcpModule | None
    prefers_ipv6: bool = True
    falls_back: bool = True
    unsupported: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """One endpoint that is checked every `interval_s`."""

    name: str
    service: str
    target: str = field(repr=False)
    module: str
    asks: HttpModule | TcpModule | None
    by: By
    interval_s: float
    timeout_s: float
    slow_after_s: float
    prefers_ipv6: bool = True
    falls_back: bool = True

    @property
    def shown_target(self) -> str:
        """Return the target without its query, which may hold what not every reader should see."""
        if "://" not in self.target:
            return self.target
        return urlunsplit(urlsplit(self.target)._replace(query="", fragment=""))

    @property
    def fresh_for(self) -> timedelta:
        """Return how long a result says something about now."""
        return timedelta(seconds=MISSED * self.interval_s + self.timeout_s)


@dataclass(frozen=True, slots=True)
class Result:
    """What one check came to. `phases_s` has the parts of `duration_s` that are known."""

    at: datetime
    duration_s: float
    reason: Reason = ""
    detail: str = ""
    status_code: int | None = None
    certificate_expires_at: datetime | None = None
    redirects: int = 0
    phases_s: dict[str, float] = field(default_factory=dict)

    @property
    def is_success(self) -> bool:
        return not self.reason

    @property
    def kind(self) -> tuple[Reason, int | None]:
        """Return what makes one result different from another."""
        return self.reason, self.status_code


@dataclass(frozen=True, slots=True)
class State:
    """The last result of a probe, and since when it is like that."""

    probe: str
    service: str
    last: Result
    since: datetime
    failures: int = 0
    """In a row."""
    certificate_expires_at: datetime | None = None
    """The last that was seen: a certificate that has expired is not shown to anybody who verifies."""


def after(state: State | None, probe: Probe, result: Result) -> tuple[State, bool]:
    """Return the state after a result, and whether it is another one than before."""
    is_change = state is None or state.last.kind != result.kind
    expires = result.certificate_expires_at
    if expires is None and state is not None and not result.is_success:
        # What answers as it should without a certificate has none any more.
        expires = state.certificate_expires_at
    return State(
        probe.name,
        probe.service,
        replace(result, certificate_expires_at=expires),
        result.at if is_change or state is None else state.since,
        0 if result.is_success else (state.failures if state is not None else 0) + 1,
        expires,
    ), is_change


def word_of(probe: Probe, state: State | None, now: datetime) -> str:
    """Return `ok`, `slow`, `failing` or `unknown`: no check yet, or none for three intervals."""
    if state is None or now - state.last.at > probe.fresh_for:
        return "unknown"
    if not state.last.is_success:
        return "failing"
    return "slow" if state.last.duration_s > probe.slow_after_s else "ok"
