"""Shared state: every place that holds what several users left there is found; keyed, named and passing state is not."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.detectors import roots as roots_module
from isolation_monitor.telemetry.detectors.object_walk import Walk
from isolation_monitor.telemetry.detectors.roots import Roots
from isolation_monitor.telemetry.detectors.territory import Territory
from isolation_monitor.telemetry.principals import Principal
from isolation_monitor.telemetry.violations import Violation
from tests.telemetry.detectors.shared_state_objects import BUGGY_OBJECTS, LEGITIMATE_OBJECTS
from tests.telemetry.detectors.shared_state_services import BUGGY, LEGITIMATE, SECRETS, source_of

_serial = itertools.count()


class KnownSecrets:
    """An ownership that knows the users' secrets and nothing else."""

    def __init__(self, monitor: IsolationMonitor) -> None:
        self._monitor = monitor
        self._by_token = {token: user for user, token in SECRETS.items()}

    def proves_identity(self, token: str) -> bool:
        return False

    def is_credential(self, token: str) -> bool:
        return False

    def was_said(self, token: str) -> bool:
        return False

    def was_said_to_all(self, token: str) -> bool:
        return False

    def private_to(self, token: str) -> Principal | None:
        return None

    def is_usual(self, token: str) -> bool:
        return False

    def owner_of(self, token: str) -> Principal | None:
        user = self._by_token.get(token)
        return self._monitor.principals.named(user) if user is not None else None


@pytest.fixture
def load() -> Iterator[Callable[[str], ModuleType]]:
    """Make a module of a source, as an import would."""
    loaded: list[str] = []

    def make(body: str) -> ModuleType:
        module = ModuleType(f"shop{next(_serial)}")
        loaded.append(module.__name__)
        sys.modules[module.__name__] = module
        exec(compile(source_of(body), f"{module.__name__}.py", "exec"), module.__dict__)
        return module

    yield make
    for name in loaded:
        sys.modules.pop(name, None)


TRIES = 5


@pytest.fixture
def watched(monitor: IsolationMonitor, load: Callable[[str], ModuleType]) -> Callable[..., Any]:
    """Instrument a service, whose users' secrets the detector knows or not."""

    def instrument(body: str, *, knows_secrets: bool = True) -> Any:
        detector = monitor.detection.shared_state
        if knows_secrets:
            detector.owners = KnownSecrets(monitor)
        module = load(body)
        return monitor.instrument(module.app)

    return instrument


async def drive(client: Any, app: Any, monitor: IsolationMonitor, users: tuple[str, ...] = ("ann", "bob", "cid"), times: int = 4) -> None:
    """Let users call one after the other, then all at once, and look twice."""
    calls = client(app)
    for _ in range(times):
        for user in users:
            assert (await calls.get("/", user=user)).status == 200
    for _ in range(times):
        await asyncio.gather(*(calls.get("/", user=user) for user in users))
    monitor.detection.shared_state.look_now()
    monitor.detection.shared_state.look_now()


def reports(monitor: IsolationMonitor) -> list[Violation]:
    return [violation for violation in monitor.violations() if violation.kind == "shared_state"]


def found(monitor: IsolationMonitor) -> list[str]:
    return [violation.resource.name for violation in reports(monitor)]


@pytest.mark.parametrize("body", [*BUGGY.values(), *BUGGY_OBJECTS.values()], ids=[*BUGGY, *BUGGY_OBJECTS])
async def test_state_that_crosses_users_is_reachable(monitor, client, watched, body: str) -> None:
    app = watched(body)
    for _ in range(TRIES):
        # Not every request is looked at: what lasts for one call alone is met by chance.
        await drive(client, app, monitor)
        if found(monitor):
            break

    assert found(monitor), "the place was not found"
    assert {violation.grade for violation in reports(monitor)} == {"reachable"}


async def test_the_environment_is_a_place_that_all_requests_reach(monitor, client, watched, monkeypatch) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "")
    app = watched("""
import os

@app.get("/")
async def home(user: str = Depends(me)):
    os.environ["SHOP_API_KEY"] = SECRET[user]
    return {}
""")

    await drive(client, app, monitor)

    assert found(monitor) == ["os.environ:SHOP_API_KEY"]


async def test_what_the_application_assigns_to_in_a_library_is_looked_at_and_nothing_else_of_it(
    monitor, client, watched, monkeypatch, tmp_path
) -> None:
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "some_sdk.py").write_text("api_key = None\nown_books = []\nclass Session:\n    token = None\n")
    monkeypatch.syspath_prepend(str(installed))
    app = watched("""
import some_sdk
from some_sdk import Session

@app.get("/")
async def home(user: str = Depends(me)):
    some_sdk.api_key = SECRET[user]
    Session.token = SECRET[user]
    some_sdk.own_books.append(SECRET[user])
    return {}
""")
    monitor.started()

    await drive(client, app, monitor)
    sys.modules.pop("some_sdk")

    assert sorted(found(monitor)) == ["some_sdk:Session.token", "some_sdk:api_key"]


@pytest.mark.parametrize("body", [*LEGITIMATE.values(), *LEGITIMATE_OBJECTS.values()], ids=[*LEGITIMATE, *LEGITIMATE_OBJECTS])
async def test_legitimate_state_is_silent(monitor, client, watched, body: str) -> None:
    await drive(client, watched(body), monitor, users=("ann", "bob", "cid", "dora"))

    assert found(monitor) == []


async def test_a_place_is_named_reported_once_and_no_request_counts_as_violated(monitor, client, watched, samples) -> None:
    await drive(client, watched(BUGGY["one agent with one history for all"]), monitor, times=10)

    [violation] = reports(monitor)
    assert violation.resource.type == "location"
    assert violation.resource.name.endswith(":agent.history[*]['content']")
    assert violation.resource.detail["principals"] >= 2
    hashes = {monitor.principals.named(user).hash for user in ("ann", "bob", "cid")}
    assert {violation.victim.principal, violation.offender.principal} <= hashes
    assert not violation.synthetic
    assert samples(monitor, "isolation_requests_total", verdict="violated") == 0


async def test_evidence_carries_no_secret_and_no_id(monitor, client, watched) -> None:
    await drive(client, watched(BUGGY["state of the application"]), monitor)

    records = str([violation.as_record() for violation in reports(monitor)])
    assert found(monitor)
    assert not any(word in records for user, secret in SECRETS.items() for word in (f"'{user}'", secret))


OPAQUE = """
class Agent:
    def __init__(self):
        self.session = None
        self.last_seen = None
        self.mode = "idle"

agent = Agent()
serial = 0

@app.get("/")
async def home(user: str = Depends(me)):
    global serial
    serial += 1
    agent.session = "s" + hashlib.sha256(user.encode()).hexdigest()[:10]
    agent.last_seen = f"tick number {serial}"
    agent.mode = ["reading", "writing"][serial // 5 % 2]
    return {}
"""


async def test_a_field_whose_value_depends_on_who_asked_is_found_without_knowing_any_token(monitor, client, watched) -> None:
    await drive(client, watched(OPAQUE, knows_secrets=False), monitor, times=8)

    [name] = found(monitor)
    assert name.endswith(":agent.session")


async def test_ids_that_are_small_numbers_are_not_mistaken_for_counters(monitor, client, load) -> None:
    body = """
total = 0
user_count = 0
current_user_id = None

@app.get("/")
async def home(user: str = Depends(me)):
    global total, user_count, current_user_id
    total = user_count = int(user)
    current_user_id = int(user)
    return {}
"""
    app = monitor.instrument(load(body).app)

    await drive(client, app, monitor, users=("1", "2", "3"))

    [name] = found(monitor)
    assert name.endswith(":current_user_id")


async def test_a_token_leads_to_its_place(monitor, client, watched) -> None:
    """So that a crossing seen in an answer can raise the grade of the place it came from."""
    app = watched(BUGGY["a list that every request appends to"])
    await client(app).get("/", user="ann")
    detector = monitor.detection.shared_state
    detector.look_now()
    assert detector.location_of(SECRETS["ann"]) is None
    assert detector.whereabouts(SECRETS["ann"]).endswith(":HISTORY[*]")

    await drive(client, app, monitor)

    [violation] = reports(monitor)
    assert detector.location_of(SECRETS["ann"]) is violation


async def test_what_lies_under_a_users_key_tells_whose_it_is(monitor, client, watched) -> None:
    app = watched(LEGITIMATE["sessions by user"])
    detector = monitor.detection.shared_state
    told: set[tuple[str, str]] = set()
    detector.residue.on_keyed.append(lambda token, principal: told.add((token, principal.id)))
    detector.owners = _Nobody()

    await drive(client, app, monitor)

    assert told == {(SECRETS[user], user) for user in ("ann", "bob", "cid")}


class _Nobody:
    def proves_identity(self, token: str) -> bool:
        return False

    def is_credential(self, token: str) -> bool:
        return False

    def was_said(self, token: str) -> bool:
        return False

    def was_said_to_all(self, token: str) -> bool:
        return False

    def owner_of(self, token: str) -> Principal | None:
        return None


async def test_a_running_service_is_walked_without_being_asked(monitor, client, watched) -> None:
    """The housekeeper looks by itself, soon after requests of several users."""
    calls = client(watched(BUGGY["a pool of workers that are not reset"]))
    heard = asyncio.Event()
    loop = asyncio.get_running_loop()
    monitor.ledger.on_violation.append(lambda _: loop.call_soon_threadsafe(heard.set))

    await asyncio.gather(*(calls.get("/", user=user) for user in ("ann", "bob", "cid") * 4))

    await asyncio.wait_for(heard.wait(), 30)
    assert found(monitor)


async def test_a_field_taken_away_in_time_stays_silent_while_the_housekeeper_looks(monitor, client, watched) -> None:
    calls = client(watched(LEGITIMATE["fields that are set and taken away again under a lock"]))
    detector = monitor.detection.shared_state
    walks = detector._walks

    while detector._walks < walks + 10:
        await asyncio.gather(*(calls.get("/", user=user) for user in ("ann", "bob", "cid") * 3))

    assert found(monitor) == []


async def test_messages_of_open_sockets_are_judged_when_each_message_ends(monitor, socket, load) -> None:
    body = """
from fastapi import WebSocket

class Hub:
    def __init__(self):
        self.sockets = set()
        self.speaker = None

hub = Hub()

@app.websocket("/ws")
async def talk(socket: WebSocket):
    user = socket.headers["authorization"].removeprefix("Bearer ")
    await socket.accept()
    hub.sockets.add(socket)
    async for _ in socket.iter_json():
        hub.speaker = user
        await socket.send_json({"ok": True})
"""
    module = load(body)
    detector = monitor.detection.shared_state
    app = monitor.instrument(module.app)
    ann, bob = await socket(app, "ann"), await socket(app, "bob")

    for one in (ann, bob, ann, bob):
        one.say({})
        await one.hear()
    detector.look_now()

    assert [name.rpartition(":")[2] for name in found(monitor)] == ["hub.speaker"]


async def test_an_application_without_a_framework_is_walked_too(monitor, client, load) -> None:
    body = """
LATEST = {"text": None}

async def service(scope, receive, send):
    user = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
    LATEST["text"] = "note of " + user
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
"""
    app = monitor.instrument(load(body).service)

    await drive(client, app, monitor)

    [name] = found(monitor)
    assert name.endswith(":LATEST['text']")


async def test_what_an_object_of_a_compiled_library_holds_is_looked_at(monitor, client, watched) -> None:
    """As the providers of a library for dependencies, which hold the one instance that they give to everybody."""
    pytest.importorskip("propcache._helpers_c")
    body = """
from propcache._helpers_c import under_cached_property

class Agent:
    def __init__(self):
        self.history = []
    def remember(self, secret):
        self.history.append(secret)

provider = under_cached_property(Agent().remember)

@app.get("/")
async def home(user: str = Depends(me)):
    provider.wrapped(SECRET[user])
    return {}
"""
    await drive(client, watched(body), monitor)

    assert [name.partition(":")[2] for name in found(monitor)] == ["provider.*.__self__.history[*]"]


def test_where_nothing_leads_to_the_applications_modules_all_of_them_are_taken(load, monkeypatch) -> None:
    """Django finds its views by the name of their module: from its application object no way leads there."""
    # The modules of all tests are the application's here.
    monkeypatch.setattr(roots_module, "ROOTS_LIMIT", 100_000)
    module = load("")
    roots, informed = (Roots(territory := Territory(), (walk := Walk(territory)).layouts, walk.additions) for _ in range(2))
    for _ in informed.search(load("@app.get('/')\nasync def home(): ...").home):
        pass

    for one in (roots, informed):
        for _ in one.fall_back():
            pass

    assert module.__name__ in {root.label for root in roots}
    assert module.__name__ not in {root.label for root in informed}


async def test_what_two_principals_share_by_a_key_that_both_named_is_theirs_together(monitor, client, watched) -> None:
    body = """
DOCUMENTS = {}

@app.get("/")
async def home(user: str = Depends(me)):
    DOCUMENTS.setdefault("plan-2026", []).append("draft of " + SECRET[user])
    return {}
"""
    app = watched(body)
    monitor.detection.shared_state.knowledge.shares = lambda first, second, key: key == "plan-2026"

    await drive(client, app, monitor)

    assert found(monitor) == []


async def test_what_was_made_for_the_first_user_is_known_by_its_place(monitor, client, watched) -> None:
    """One principal alone proves nothing about a place, but tells where a crossing seen elsewhere came from."""
    body = """
class Agents:
    cached = None
    def get(self, user):
        if self.cached is None:
            self.cached = {"user": user, "note": SECRET[user]}
        return self.cached

agents = Agents()

@app.get("/")
async def home(user: str = Depends(me)):
    agents.get(user)
    return {}
"""
    await drive(client, watched(body), monitor)

    assert found(monitor) == []
    assert monitor.detection.shared_state.whereabouts(SECRETS["ann"]).endswith(":agents.cached['note']")
