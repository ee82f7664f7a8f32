"""Whose credentials outgoing calls carry: proof of ownership, and the legitimate sharing that must stay silent."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.context import RequestContext
from isolation_monitor.telemetry.detectors.foreign_credential import TABLE_LIMIT, ForeignCredential
from isolation_monitor.telemetry.lab import Lab
from isolation_monitor.telemetry.violations import Violation

HOST = "upstream.example"


class Service:
    """Drives the detector as an HTTP client's integration does."""

    def __init__(self, monitor: IsolationMonitor) -> None:
        self.monitor = monitor
        self.detector: ForeignCredential = monitor.detection.foreign_credential

    def request(self, user: str, path: str = "/", **headers: str) -> RequestContext:
        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "GET", "path": path, "headers": raw, "query_string": b""}
        return RequestContext(self.monitor.principals.named(user), scope, None, None)

    def call(
        self,
        request: RequestContext | None,
        path: str = "/data",
        *,
        method: str = "GET",
        sends: dict[str, str] | None = None,
        body: object = None,
        sets: tuple[str, ...] = (),
        answer: object = None,
    ) -> None:
        call = self.detector.outgoing(method, HOST, f"https://{HOST}{path}", list((sends or {}).items()), body, request)
        if call is not None:
            self.detector.answered(call, list(sets))
            self.detector.read(call, json.dumps(answer).encode() if answer is not None else b"")

    @property
    def found(self) -> list[Violation]:
        return [one for one in self.monitor.violations() if one.kind == names.FOREIGN_CREDENTIAL]


@pytest.fixture
def service(monitor: IsolationMonitor) -> Service:
    return Service(monitor)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# --- came in with one principal's requests ----------------------------------------------------------------------------


def test_a_token_that_came_in_with_one_user_and_goes_out_for_another_is_a_crossing(service: Service) -> None:
    alice, bob = service.request("alice", authorization="Bearer in-1"), service.request("bob", authorization="Bearer in-2")
    service.call(alice, sends=bearer("in-1"))

    service.call(bob, sends=bearer("in-1"))

    (violation,) = service.found
    assert violation.grade == "crossed"
    assert violation.victim is not None
    assert violation.offender is not None
    assert (violation.victim.principal, violation.offender.principal) == (alice.principal.hash, bob.principal.hash)  # type: ignore[union-attr]
    assert "in-1" not in json.dumps(violation.as_record())
    assert bob.violated


def test_the_call_that_came_before_the_owners_own_is_found_too(service: Service) -> None:
    """Many set the header and wait: the first that sends may carry the token of one who has not sent anything yet."""
    alice, bob = service.request("alice", authorization="Bearer in-1"), service.request("bob", authorization="Bearer in-2")
    service.call(bob, sends=bearer("in-1"))

    service.call(alice, sends=bearer("in-1"))

    assert [one.offender.principal for one in service.found if one.offender] == [bob.principal.hash]  # type: ignore[union-attr]


def test_a_session_cookie_that_came_in_is_recognised_as_a_bearer_token(service: Service) -> None:
    service.call(service.request("alice", cookie="theme=dark; session=0123456789abcdef"), sends=bearer("0123456789abcdef"))

    service.call(service.request("bob"), sends=bearer("0123456789abcdef"))

    assert len(service.found) == 1


def test_a_session_that_a_login_with_the_users_own_token_in_its_body_gave_is_his(service: Service) -> None:
    """One client for all, whose cookie jar holds the session of whoever logged in last."""
    for user, session in (("alice", "a1b2c3d4e5f6a7b8"), ("bob", "b1c2d3e4f5a6b7c8")):
        request = service.request(user, authorization=f"Bearer {user}-0f9a3c77e21")
        body = json.dumps({"token": f"{user}-0f9a3c77e21"}).encode()
        service.call(request, "/login", method="POST", body=body, sets=(f"sid={session}; Path=/",), answer={"ok": True})
    alice = service.request("alice", authorization="Bearer alice-0f9a3c77e21")

    service.call(alice, "/account", sends={"Cookie": "sid=b1c2d3e4f5a6b7c8"}, answer={"balance": 12})

    assert len(service.found) == 1


def test_users_who_pass_on_their_own_tokens_are_silent(service: Service) -> None:
    for _ in range(5):
        for user in ("alice", "bob", "carol"):
            service.call(service.request(user, authorization=f"Bearer {user}-in"), sends=bearer(f"{user}-in"))

    assert service.found == []


def test_a_gateway_key_that_everybody_comes_in_with_is_silent(service: Service) -> None:
    for user in ("alice", "bob", "carol"):
        service.call(service.request(user, x_api_key="gateway-key-1", x_user=user), sends={"X-Api-Key": "gateway-key-1"})

    assert service.found == []


def test_a_key_in_use_before_a_peer_comes_in_with_it_is_the_services_own(service: Service) -> None:
    """Services of one mesh may call us with the key that we call others with."""
    service.call(service.request("bob"), sends=bearer("mesh-key"))
    peer = service.request("peer", authorization="Bearer mesh-key")
    service.call(peer, sends=bearer("mesh-key"))

    service.call(service.request("carol"), sends=bearer("mesh-key"))

    assert service.found == []


def test_a_credential_read_from_the_database_was_chosen_on_purpose(service: Service) -> None:
    """Bob opens a calendar that alice shares: the service takes her stored token to fetch it."""
    service.call(service.request("alice", authorization="Bearer alices-own-1"), sends=bearer("alices-own-1"))
    bob = service.request("bob")
    service.monitor.detection.stores.read("sql", "tokens", ("calendar", 7), [("alices-own-1",)], bob)

    service.call(bob, sends=bearer("alices-own-1"))

    assert service.found == []


def test_a_request_whose_path_names_the_owner_acts_for_him_on_purpose(service: Service) -> None:
    service.call(service.request("alice", authorization="Bearer in-1"), sends=bearer("in-1"))

    service.call(service.request("admin", "/admin/users/alice/mailbox"), sends=bearer("in-1"))

    assert service.found == []


# --- given by an upstream ---------------------------------------------------------------------------------------------


def log_in(service: Service, request: RequestContext, user: str, value: str, carrying: str | None = None) -> None:
    service.call(
        request,
        "/login",
        method="POST",
        body=json.dumps({"user": user, "password": "x"}),
        sends={"Cookie": carrying} if carrying else {},
        sets=(f"sid={value}; HttpOnly",),
        answer={"ok": True},
    )


def test_an_upstream_session_in_a_shared_cookie_jar_is_a_crossing(service: Service) -> None:
    alice, bob = service.request("alice"), service.request("bob")
    log_in(service, alice, "alice", "s-1111")
    log_in(service, bob, "bob", "s-2222", carrying="sid=s-1111")

    service.call(alice, "/me", sends={"Cookie": "sid=s-2222"}, answer={"balance": 5})
    service.call(bob, "/me", sends={"Cookie": "sid=s-2222"}, answer={"balance": 5})

    assert [one.offender.principal for one in service.found if one.offender] == [alice.principal.hash]  # type: ignore[union-attr]


@pytest.mark.parametrize("answer", [{"user": "alice"}, {"balance": 5}])
def test_what_a_login_gives_is_a_session_by_whatever_name(service: Service, answer: Any) -> None:
    body = '{"user": "alice", "password": "x"}'
    service.call(service.request("alice"), "/login", method="POST", body=body, sets=("portal=0123456789abcdef",))

    service.call(service.request("bob"), "/me", sends={"Cookie": "portal=0123456789abcdef"}, answer=answer)

    assert len(service.found) == 1


def test_the_answer_that_names_the_other_user_proves_a_session_without_login(service: Service) -> None:
    service.call(service.request("alice"), "/me?user=alice", sets=("sid=s-1111",), answer={"user": "alice"})

    service.call(service.request("bob"), "/me?user=bob", sends={"Cookie": "sid=s-1111"}, answer={"user": "alice"})

    assert len(service.found) == 1


@pytest.mark.parametrize(
    "cookie",
    ["AWSALB=abcdef123456", "__cf_bm=abcdef123456", "csrftoken=abcdef123456", "lb_node=n2", "SERVERID=s1", "XSRF-TOKEN=abcdef123456"],
)
def test_cookies_that_steer_clients_are_nobodys(service: Service, cookie: str) -> None:
    service.call(service.request("alice"), "/login", method="POST", body='{"user": "alice", "password": "x"}', sets=(cookie,))

    service.call(service.request("bob"), "/posts", sends={"Cookie": cookie}, answer={"author": "alice"})

    assert service.found == []


def test_an_anonymous_session_shared_by_all_is_silent(service: Service) -> None:
    """Application servers give each client a session that nobody logged in to; a shared client keeps it for all users."""
    service.call(service.request("alice"), "/users/alice", sets=("JSESSIONID=ABCDEF012345",), answer={"name": "alice"})

    for user in ("bob", "carol", "dave"):
        cookie = {"Cookie": "JSESSIONID=ABCDEF012345"}
        service.call(service.request(user), f"/users/{user}", sends=cookie, answer={"name": user})
        service.call(service.request(user), "/weather", sends=cookie, answer={"degrees": 7})
        service.call(service.request(user), "/posts", sends=cookie, answer=[{"author": "alice"}, {"author": user}])

    assert service.found == []


def test_a_session_that_a_posted_order_was_given_is_no_login(service: Service) -> None:
    service.call(service.request("alice"), "/orders", method="POST", body='{"user": "alice"}', sets=("JSESSIONID=ABCDEF012345",))

    cookie = {"Cookie": "JSESSIONID=ABCDEF012345"}
    service.call(service.request("bob"), "/orders", method="POST", body='{"user": "bob"}', sends=cookie, answer={"ok": True})
    service.call(service.request("bob"), "/orders/count", sends=cookie, answer={"count": 2})

    assert service.found == []


def test_a_token_given_for_a_users_login_and_cached_for_all_is_a_crossing(service: Service) -> None:
    service.call(
        service.request("alice"),
        "/oauth/token",
        method="POST",
        body="grant_type=password&username=alice&password=x",
        answer={"access_token": "opaque-777", "expires_in": 60},
    )

    service.call(service.request("bob"), sends=bearer("opaque-777"))

    assert len(service.found) == 1


def test_a_token_exchanged_for_a_users_own_token_is_his(service: Service) -> None:
    alice = service.request("alice", authorization="Bearer in-1")
    service.call(alice, "/exchange", method="POST", sends=bearer("in-1"), answer={"token": "opaque-888"})
    service.call(alice, sends=bearer("opaque-888"))

    service.call(service.request("bob"), sends={"X-Api-Key": "opaque-888"})

    assert len(service.found) == 1


def test_a_services_own_token_fetched_by_whichever_request_came_first_is_silent(service: Service) -> None:
    service.call(
        service.request("alice", authorization="Bearer in-1"),
        "/oauth/token",
        method="POST",
        body="grant_type=client_credentials&client_id=shop&client_secret=y",
        sends={"Authorization": "Basic c2hvcDp5", "X-Request-User": "alice"},
        answer={"access_token": "service-token-1"},
    )

    for user in ("alice", "bob", "carol", "alice"):
        service.call(service.request(user), sends=bearer("service-token-1"))

    assert service.found == []


def test_one_token_given_to_two_users_is_neithers(service: Service) -> None:
    for user in ("alice", "bob"):
        service.call(service.request(user), f"/rooms/7/join?user={user}", answer={"token": "room-token-7"})

    service.call(service.request("alice"), sends=bearer("room-token-7"))
    service.call(service.request("bob"), sends=bearer("room-token-7"))

    assert service.found == []


# --- names its owner --------------------------------------------------------------------------------------------------


def jwt(subject: str) -> str:
    def part(content: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part({'sub': subject, 'iat': 1})}.c2ln"


@pytest.mark.parametrize("token", [lambda user: f"tok-{user}", jwt, lambda user: base64.b64encode(f"{user}:pw".encode()).decode()])
def test_tokens_that_name_their_owners_prove_each_other(service: Service, token: Callable[[str], str]) -> None:
    """A header of a shared client, written per request: the call goes out with what the last writer left."""
    alice, bob = service.request("alice"), service.request("bob")
    service.call(alice, sends=bearer(token("alice")))
    service.call(bob, sends=bearer(token("alice")))
    assert service.found == []

    service.call(bob, sends=bearer(token("bob")))

    assert [one.offender.principal for one in service.found if one.offender] == [bob.principal.hash]  # type: ignore[union-attr]


def test_a_service_key_that_happens_to_name_a_user_is_silent(service: Service) -> None:
    for user in ("test", "bob", "carol", "test"):
        service.call(service.request(user), sends={"X-Api-Key": "key-test-1"})

    assert service.found == []


# --- the guest --------------------------------------------------------------------------------------------------------


def test_what_calls_outside_of_requests_send_is_the_services_own(service: Service) -> None:
    service.call(None, sends=bearer("start-up-key"))

    service.call(service.request("alice", authorization="Bearer start-up-key"), sends=bearer("start-up-key"))
    service.call(service.request("bob"), sends=bearer("start-up-key"))

    assert service.found == []


def test_a_driver_in_the_same_process_does_not_make_its_users_tokens_the_services_own(service: Service) -> None:
    """Tests call the application from its own process, outside of requests, with the tokens of their users."""
    for user in ("alice", "bob"):
        service.detector.outgoing("GET", "testserver", "http://testserver/x", list(bearer(f"in-{user}").items()))
    alice = service.request("alice", host="testserver", authorization="Bearer in-alice")
    bob = service.request("bob", host="testserver", authorization="Bearer in-bob")
    service.call(alice, sends=bearer("in-alice"))

    service.call(bob, sends=bearer("in-alice"))

    assert len(service.found) == 1


def test_what_runs_on_in_the_context_of_a_finished_request_is_not_judged(service: Service) -> None:
    """A caller that awaits the application directly keeps its context, and sends the next user's token in it."""
    alice, bob = service.request("alice", authorization="Bearer in-1"), service.request("bob", authorization="Bearer in-2")
    service.call(alice, sends=bearer("in-1"))
    alice.finished = True

    service.call(alice, sends=bearer("in-2"))
    service.call(bob, sends=bearer("in-2"))

    assert service.found == []


def test_a_credential_that_the_caller_asked_for_by_itself_is_silent(service: Service) -> None:
    """Bob joins the session of an agent that alice began: he was given its id."""
    service.call(service.request("alice"), "/sessions?user=alice", method="POST", answer={"session_id": "agent-4711"})

    service.call(service.request("bob", "/join/agent-4711"), sends={"X-Session-Id": "agent-4711"})

    assert service.found == []


@pytest.mark.parametrize("nothing", ["Bearer null", "Bearer undefined", "Bearer", "", "None"])
def test_what_stands_for_no_credential_is_nobodys(service: Service, nothing: str) -> None:
    service.call(service.request("alice", authorization=nothing), sends={"Authorization": nothing})

    service.call(service.request("bob"), sends={"Authorization": nothing})

    assert service.found == []


def test_a_parameter_that_is_a_word_of_the_application_is_no_credential(service: Service) -> None:
    service.call(service.request("alice"), "/watch?user=alice", answer={"token": "BITCOIN"})

    service.call(service.request("bob"), "/price?token=BITCOIN")

    assert service.found == []


def test_the_tables_are_bounded(service: Service) -> None:
    for n in range(TABLE_LIMIT + 100):
        service.call(service.request(f"user-{n}", authorization=f"Bearer tok-{n}"), sends=bearer(f"tok-{n}"))

    detector: Any = service.detector
    assert len(detector._known) <= TABLE_LIMIT
    assert len(detector._people) <= TABLE_LIMIT
    assert len(detector._came_in) <= TABLE_LIMIT


class Hostile:
    def __iter__(self) -> Iterator[tuple[str, str]]:
        raise RuntimeError("the host's headers are broken")


def test_a_failure_inside_is_counted_and_never_raised(service: Service, samples: Callable[..., float]) -> None:
    service.detector.outgoing("GET", HOST, "/", Hostile(), None, service.request("alice"))

    assert samples(service.monitor, "isolation_checks_total", detector=names.FOREIGN_CREDENTIAL, result="error") == 1


def test_the_planted_fault_is_reported_as_synthetic_and_leaves_nothing(service: Service) -> None:
    service.detector.plant(Lab(service.monitor.principals))

    (violation,) = service.monitor.violations(synthetic=True)
    assert violation.synthetic
    detector: Any = service.detector
    assert not detector._known
    assert not detector._people


def test_switched_off_it_does_nothing(make_monitor: Callable[..., IsolationMonitor]) -> None:
    service = Service(make_monitor(detectors=("foreign_credential=off",)))
    service.call(service.request("alice", authorization="Bearer in-1"), sends=bearer("in-1"))

    service.call(service.request("bob"), sends=bearer("in-1"))

    assert service.found == []
