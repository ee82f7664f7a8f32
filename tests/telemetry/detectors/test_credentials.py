"""What counts as a credential in an HTTP call, whom it names, and who writes it into shared headers."""

from __future__ import annotations

import pytest

from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.context import RequestContext
from isolation_monitor.telemetry.detectors import credentials
from isolation_monitor.telemetry.detectors.credentials import Credential
from isolation_monitor.telemetry.detectors.header_writes import HOLDERS_LIMIT, WRITERS_LIMIT, HeaderWrites


def test_headers_cookies_and_parameters_are_read_without_their_schemes() -> None:
    headers: list[tuple[str | bytes, str | bytes]] = [
        ("Authorization", "Bearer abc"),
        (b"X-API-Key", b"k1"),
        ("Cookie", 'sid=1; AWSALB=2; b="3"'),
        ("Accept", "*/*"),
    ]

    found = credentials.credentials_of(headers, "page=2&access_token=t0ken-123&token=word")

    assert found == [
        Credential("authorization", "abc"),
        Credential("x-api-key", "k1"),
        Credential("cookie sid", "1"),
        Credential("cookie b", "3"),
        Credential("query access_token", "t0ken-123"),
    ]


@pytest.mark.parametrize(
    "header", ["sid=; Path=/", "sid=deleted; Max-Age=0", "sid=x; Expires=Thu, 01 Jan 1970 00:00:00 GMT", "XSRF-TOKEN=abc", ""]
)
def test_cookies_that_go_or_steer_are_given_to_nobody(header: str) -> None:
    assert credentials.set_cookie_of(header) is None


@pytest.mark.parametrize(
    ("body", "given"),
    [
        (b'{"access_token": "abcd1234", "token_type": "bearer"}', ["abcd1234"]),
        (b'{"data": {"sessionToken":"abcd1234"}}', ["abcd1234"]),
        (b'{"next_page_token": "abcd1234", "csrf_token": "efgh5678"}', []),
        (b"0123456789abcdef0123\n", ["0123456789abcdef0123"]),
        (b'{"items": []}', []),
        (b"", []),
    ],
)
def test_answers_give_the_tokens_that_they_call_so(body: bytes, given: list[str]) -> None:
    assert credentials.minted_in(body) == given


@pytest.mark.parametrize(
    ("text", "principal", "is_named"),
    [
        ("user=alice&x=1", "alice", True),
        ("malice", "alice", False),
        ("tok-u12", "u1", False),
        ("tok-u1", "u1", True),
        ("room 42", "42", False),
        ("", "alice", False),
    ],
)
def test_a_principal_is_named_between_delimiters_only(text: str, principal: str, is_named: bool) -> None:
    assert credentials.names(text, principal) is is_named


def test_parts_of_a_value_may_be_the_name_of_its_owner() -> None:
    assert {"user-7", "acme", "user-7@acme"} <= credentials.named_by("tok.user-7@acme.x")


def request_of(monitor: IsolationMonitor, user: str) -> RequestContext:
    return RequestContext(monitor.principals.named(user), {"type": "http"}, None, None)


def test_two_users_who_each_write_their_own_value_again_and_again_prove_it(monitor: IsolationMonitor) -> None:
    writes = HeaderWrites()
    proven = []
    for user, key in (("alice", 1), ("bob", 2), ("alice", 1), ("bob", 2)):
        request = request_of(monitor, user)
        assert request.principal is not None
        proven = writes.wrote(7, "authorization", key, request.principal, request)[1]

    assert {(key, request.principal.id) for key, request in proven if request.principal} == {(1, "alice"), (2, "bob")}


def test_a_value_that_two_users_write_is_common(monitor: IsolationMonitor) -> None:
    writes = HeaderWrites()
    results = []
    for user in ("alice", "bob"):
        request = request_of(monitor, user)
        assert request.principal is not None
        results.append(writes.wrote(7, "authorization", 1, request.principal, request))

    assert results == [(False, []), (True, [])]


def test_writes_are_bounded_and_forgotten_with_their_headers(monitor: IsolationMonitor) -> None:
    writes = HeaderWrites()
    for n in range(HOLDERS_LIMIT + 50):
        request = request_of(monitor, f"user-{n}")
        assert request.principal is not None
        writes.wrote(n, "authorization", n, request.principal, request)
        writes.wrote(-1, "authorization", n, request.principal, request)

    assert len(writes._writers) <= HOLDERS_LIMIT
    assert all(len(writers) <= WRITERS_LIMIT for writers in writes._writers.values())
    for holder in (-1, *range(HOLDERS_LIMIT + 50)):
        writes.forget(holder)
    assert not writes._writers
