"""A service too large for one walk: what it keeps deep below hundreds of modules is found all the same."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.detectors.object_walk import NODES_LIMIT, WHOLE_LIMIT, Root, Walk
from isolation_monitor.telemetry.detectors.territory import Territory
from isolation_monitor.telemetry.detectors.walk_pace import (
    HURRIED_SHARE,
    LATE_S,
    LONGEST_WAIT_S,
    PAUSE_S,
    SHARE,
    SHORTEST_WAIT_S,
    SLICE_S,
    WHOLE_SHARE,
    WalkPace,
)

MODULES = 120
FILLER = """
class Settings:
    table = "t"

    def read(self): ...
    def write(self): ...

def load(path, mode="r"): ...
def save(path, *, mode="w"): ...

DEFAULTS = {{f"key{{n}}": {{"from": n, "to": [n, n + 1], "names": {{"one": [n]}}}} for n in range(16)}}
settings = Settings()
"""
SERVICE = """
import asyncio
from fastapi import FastAPI, Request
{imports}

class Memory:
    def __init__(self):
        self.latest = None

class Agent:
    def __init__(self):
        self.memory = Memory()

class Backend:
    def __init__(self):
        self.rows = {{user: {{"profile": {{"key": f"k7f3{{n}}b9d1e{{n}}c2"}}}} for n, user in enumerate(("ann-1", "bob-2", "cid-3"))}}

class Store:
    def __init__(self):
        self.backend = Backend()

store = Store()
app = FastAPI()
app.state.agent = Agent()

@app.get("/me")
async def me(request: Request):
    memory = app.state.agent.memory
    user = request.headers["authorization"].removeprefix("Bearer ")
    memory.latest = store.backend.rows[user]["profile"]["key"]
    await asyncio.sleep(0.002)
    return {{"key": {answer}}}
"""


def module_of(name: str, source: str) -> ModuleType:
    module = sys.modules[name] = ModuleType(name)
    exec(compile(source, f"{name}.py", "exec"), module.__dict__)
    return module


@pytest.fixture(params=("memory.latest", 'store.backend.rows[user]["profile"]["key"]'), ids=("buggy", "fixed"))
def service(request: pytest.FixtureRequest) -> Iterator[tuple[bool, Any]]:
    """A service of many modules, with one agent's memory for all users or with none."""
    made = [f"large_shop_part{n}" for n in range(MODULES)]
    for name in made:
        module_of(name, FILLER.format())
    source = SERVICE.format(imports="\n".join(f"import {name}" for name in made), answer=request.param)
    yield request.param == "memory.latest", module_of("large_shop", source).app
    for name in (*made, "large_shop"):
        sys.modules.pop(name, None)


async def test_what_lies_deep_in_a_large_service_is_found(monitor: IsolationMonitor, client: Any, service: tuple[bool, Any]) -> None:
    is_buggy, app = service
    calls = client(monitor.instrument(app))
    found: list[Any] = []

    until = time.monotonic() + (20 if is_buggy else 4)
    while time.monotonic() < until and not found:
        await asyncio.gather(*(calls.get("/me", user=user) for user in ("ann-1", "bob-2", "cid-3")))
        await asyncio.sleep(0.05)
        found = [one for one in monitor.violations() if one.kind == names.FOREIGN_CONTENT]

    assert bool(found) is is_buggy


def test_a_walk_says_that_it_was_cut_and_a_longer_one_sees_the_rest() -> None:
    roots = [Root(f"part{n}", {"table": {f"key{m}": {"row": [m]} for m in range(40)}}) for n in range(200)]
    walk = Walk(Territory())

    cut = len(list(walk.nodes(roots)))
    assert walk.was_cut

    assert len(list(walk.nodes(roots, WHOLE_LIMIT))) > cut
    assert not walk.was_cut


def test_functions_and_classes_do_not_keep_a_walk_from_the_data() -> None:
    def closed_over() -> list[str]:
        return deep

    deep = ["the row"]
    code = [type(f"Class{n}", (), {"method": lambda self: None}) for n in range(3_000)]
    roots = [
        Root("code", {f"class{n}": one for n, one in enumerate(code)}),
        Root("data", {"a": {"b": {"c": deep}}}),
        Root("f", closed_over),
    ]

    order = [node.value for node in Walk(Territory()).nodes(roots)]

    assert any(value is deep for value in order[:100])


def test_the_first_whole_walk_comes_at_once_and_the_others_at_their_share() -> None:
    pace = WalkPace(lambda delay, job: None, lambda: None)
    assert pace.begin(0.0, is_glimpse=False, is_last=False) == NODES_LIMIT
    pace.spent(0.05)
    pace.ended(was_cut=True, is_eventful=False)
    assert pace.wait_s == SHORTEST_WAIT_S

    now = time.monotonic()
    assert pace.begin(now, is_glimpse=True, is_last=False) == NODES_LIMIT
    assert pace.begin(now, is_glimpse=False, is_last=False) == WHOLE_LIMIT
    pace.spent(0.2)
    pace.ended(was_cut=False, is_eventful=False)

    assert pace.wait_s == LONGEST_WAIT_S
    assert pace.begin(now + 0.9 * 0.2 / WHOLE_SHARE, is_glimpse=False, is_last=False) == NODES_LIMIT
    assert pace.begin(now + 1.1 * 0.2 / WHOLE_SHARE, is_glimpse=False, is_last=False) == WHOLE_LIMIT


def test_a_small_service_is_walked_at_its_share() -> None:
    pace = WalkPace(lambda delay, job: None, lambda: None)
    assert pace.begin(0.0, is_glimpse=False, is_last=False) == NODES_LIMIT
    pace.spent(0.01)
    pace.ended(was_cut=False, is_eventful=True)

    assert pace.wait_s == pytest.approx(0.01 / SHARE)
    assert not pace.is_large
    assert pace.begin(0.0, is_glimpse=False, is_last=True) == WHOLE_LIMIT


def test_who_waits_for_a_walk_gets_one_soon_and_none_is_put_off_by_the_next() -> None:
    appointments: list[tuple[float, Callable[[], None]]] = []
    walks: list[int] = []
    pace = WalkPace(lambda delay, job: appointments.append((delay, job)), lambda: walks.append(1))
    pace.begin(0.0, is_glimpse=False, is_last=False)
    pace.spent(0.02)
    pace.ended(was_cut=False, is_eventful=False)
    pace.schedule()

    for _ in range(50):
        pace.hurry()

    assert [delay for delay, _ in appointments] == [pytest.approx(0.02 / SHARE), pytest.approx(0.02 / HURRIED_SHARE)]
    for _, keep in appointments:
        keep()
    assert walks == [1]


def test_a_walk_that_hardly_comes_on_is_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("isolation_monitor.telemetry.detectors.walk_pace.time", SimpleNamespace(monotonic=lambda: now[0]))
    pace = WalkPace(lambda delay, job: None, lambda: None)
    assert not pace.is_held_up()
    pace.schedule()
    now[0] += SHORTEST_WAIT_S + 0.5 * LATE_S
    assert not pace.is_held_up()
    now[0] += LATE_S
    assert pace.is_held_up()

    pace.begin(now[0], is_glimpse=False, is_last=False)
    for has_processor in (True, False):
        for _ in range(100):
            now[0] += (SLICE_S + PAUSE_S) * (2 if has_processor else 10)
            pace.go_on_later()
        assert pace.is_held_up() is not has_processor


def test_a_look_between_walks_holds_up_nothing() -> None:
    pace = WalkPace(lambda delay, job: None, lambda: None)
    pace.wait_s = 3_600
    pace.schedule()
    pace.begin(time.monotonic() - 60, is_glimpse=True, is_last=False)

    assert not pace.is_held_up()
