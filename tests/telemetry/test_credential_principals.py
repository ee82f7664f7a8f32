"""Without an extractor each credential is one principal; a session cookie that an answer renews stays its user's."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.principals import Principal, PrincipalHasher, Principals
from tests.telemetry.conftest import Client

USERS = ("ann", "bob", "cid")


def cookie(value: str) -> list[tuple[bytes, bytes]]:
    return [(b"cookie", f"theme=dark; session={value}".encode())]


@pytest.fixture
def principals() -> Principals:
    return Principals(PrincipalHasher("a key"))


def of(principals: Principals, value: str) -> Principal:
    found = principals.of_credential(cookie(value))
    assert found is not None
    return found


@pytest.mark.parametrize("separator", [".", ":"])
def test_a_cookie_that_is_signed_anew_is_the_same_user(principals: Principals, separator: str) -> None:
    """Starlette, Flask and Django sign a session with the time; each answer may bring another signature."""
    said = "eyJpZCI6ICI3ZmQyMTAwMSJ9"

    one, two, other = (
        of(principals, separator.join(parts))
        for parts in ((said, "aVw3Xg", "s" * 27), (said, "aVw3Yh", "t" * 43), ("eyJpZCI6ICJlZjAyMTAwMSJ9", "aVw3Xg", "u" * 27))
    )

    assert one is two
    assert other is not one


@pytest.mark.parametrize("token", ["sk.abc123." + "x" * 40, "key-of-all-users." + "y" * 30 + "." + "z" * 43])
def test_keys_with_points_in_them_are_told_apart(principals: Principals, token: str) -> None:
    """What looks like a time between points may be all that tells two keys apart."""
    one = principals.of_credential([(b"authorization", f"Bearer {token}".encode())])
    two = principals.of_credential([(b"authorization", f"Bearer {token.replace('abc', 'xyz').replace('y', 'w')}".encode())])

    assert one is not two


def test_what_takes_a_session_cookies_place_proves_the_same_user(principals: Principals) -> None:
    first = of(principals, "first-session-id")

    principals.renewed(cookie("first-session-id"), b"session=second-session-id; Path=/; HttpOnly")
    principals.renewed(cookie("second-session-id"), b"session=third-session-id")

    assert of(principals, "second-session-id") is first
    assert of(principals, "third-session-id") is first


def test_visitors_with_one_cookie_are_not_one_user_when_they_have_signed_in(principals: Principals) -> None:
    of(principals, "a-visitors-session")

    principals.renewed(cookie("a-visitors-session"), b"session=session-of-ann")
    principals.renewed(cookie("a-visitors-session"), b"session=session-of-bob")

    assert of(principals, "session-of-ann") is not of(principals, "session-of-bob")


def test_a_session_that_was_given_to_the_wrong_user_stays_its_owners(principals: Principals) -> None:
    ann, bob = of(principals, "session-of-ann"), of(principals, "session-of-bob")

    principals.renewed(cookie("session-of-bob"), b"session=session-of-ann")

    assert of(principals, "session-of-ann") is ann
    assert of(principals, "session-of-bob") is bob


@pytest.mark.parametrize("taken", [b"session=null; Max-Age=0", b'session=""', b"theme=light-and-long", b"session", b""])
def test_cookies_that_are_no_successor_change_nothing(principals: Principals, taken: bytes) -> None:
    first = of(principals, "first-session-id")

    principals.renewed(cookie("first-session-id"), taken)

    assert principals.of_credential([(b"cookie", b"session=null")]) is not first
    assert of(principals, "first-session-id") is first


@pytest.mark.parametrize("is_shared", [True, False])
async def test_a_session_that_each_answer_changes_is_one_user(monitor: IsolationMonitor, *, is_shared: bool) -> None:
    """A counter in the session: its own notes are no other user's, and other users' still are."""
    notes: dict[str, str] = {}

    async def note(request: Request) -> JSONResponse:
        user = request.headers["x-browser"]
        session = json.loads(base64.b64decode(request.cookies.get("session", "e30=")))
        if request.method == "POST":
            notes["all" if is_shared else user] = (await request.json())["note"]
        await asyncio.sleep(0.01)
        answer = JSONResponse({"saved": True} if request.method == "POST" else {"note": notes.get("all" if is_shared else user)})
        renewed = {"user": user, "visits": session.get("visits", 0) + 1}
        answer.set_cookie("session", base64.b64encode(json.dumps(renewed).encode()).decode())
        return answer

    monitor.extractor = None
    app = Starlette(routes=[Route("/note", note, methods=["GET", "POST"])])
    client = Client(monitor.instrument(app))

    async def act(user: str) -> None:
        session = ""

        async def ask(method: str, body: bytes = b"") -> None:
            nonlocal session
            headers = {"x-browser": user} | ({"cookie": session} if session else {})
            answer = await client.get("/note", method=method, headers=headers, body=body)
            session = answer.headers["set-cookie"].partition(";")[0]

        await ask("GET")
        for n in range(4):
            await ask("POST", f'{{"note": "mine-{n}f9a-{user}-77c7e"}}'.encode())
            await ask("GET")

    await asyncio.gather(*(act(user) for user in USERS))

    await asyncio.to_thread(monitor.detection.settle)
    kinds = {violation.kind for violation in monitor.violations() if violation.grade == "crossed"}
    assert kinds == ({names.FOREIGN_CONTENT} if is_shared else set())
