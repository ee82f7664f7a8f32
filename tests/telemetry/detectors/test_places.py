"""Places: what functions assign to, and how often that is read."""

from __future__ import annotations

import asyncio
import dis
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace

import pytest
from fastapi import FastAPI

from isolation_monitor.telemetry import IsolationMonitor
from isolation_monitor.telemetry.detectors import places as places_module
from isolation_monitor.telemetry.detectors.places import Places
from isolation_monitor.telemetry.detectors.reach import arguments_of
from tests.telemetry.conftest import Client


@pytest.fixture
def module(tmp_path: Path) -> Iterator[ModuleType]:
    module = sys.modules["places_shop"] = ModuleType("places_shop")
    module.__dict__["__file__"] = str(tmp_path / "places_shop.py")
    exec("current = None\ndef sign_in(user):\n    global current\n    current = user\n", module.__dict__)
    yield module
    sys.modules.pop("places_shop", None)


def found(places: Places) -> set[str]:
    return {place.name for place in places.shared if place.name.startswith("places_shop.")}


def test_arguments_are_those_that_the_interpreters_own_disassembler_tells() -> None:
    # More than 256 names, so that some arguments need EXTENDED_ARG, and one more than 65,536 would.
    source = "\n".join(f"def f{n}(o): pass" for n in range(3)) + "\ndef long(o):\n" + "\n".join(f"    o.name{n} = {n}" for n in range(700))
    codes = [one for one in compile(source, "long.py", "exec").co_consts if isinstance(one, CodeType)]

    for operation in ("STORE_ATTR", "STORE_GLOBAL", "LOAD_FAST", "RETURN_VALUE"):
        number = dis.opmap[operation]
        for code in codes:
            told = [one.arg or 0 for one in dis.get_instructions(code) if one.opcode == number]
            assert list(arguments_of(code, number)) == told


def test_an_object_that_modules_import_is_one_place_under_all_its_names(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    other = ModuleType("places_cart")
    other.__dict__["__file__"] = str(module.__dict__["__file__"]).replace("places_shop", "places_cart")
    source = "from types import SimpleNamespace\ncontext = SimpleNamespace(place_user=None)\ndef f(u):\n    context.place_user = u\n"
    exec(source, module.__dict__)
    other.__dict__["request_context"] = module.__dict__["context"]
    monkeypatch.setitem(sys.modules, "places_cart", other)

    places = Places()
    places.scan()

    (place,) = [one for one in places.shared if "place_user" in one.words]
    assert place.name == "places_shop.context"
    assert place.roots == {"context", "request_context"}


def test_what_a_module_has_by_itself_is_no_place(module: ModuleType) -> None:
    exec("def rename(f):\n    f.__name__ = f.__doc__ = ''\ndef load(m):\n    m.loader = m.name = None\n", module.__dict__)
    module.__dict__["__loader__"] = SimpleNamespace(loader=None, name="")

    places = Places()
    places.scan()

    assert found(places) == {"places_shop.current"}


def test_a_name_that_begins_with_two_underscores_is_a_place(module: ModuleType) -> None:
    exec("__tenant = None\ndef choose(tenant):\n    global __tenant\n    __tenant = tenant\n", module.__dict__)

    places = Places()
    places.scan()

    assert found(places) == {"places_shop.current", "places_shop.__tenant"}


def test_what_functions_assign_to_is_read_once_and_again_when_the_module_changed(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    codes_of = places_module.codes_of

    def counting(one: ModuleType) -> Iterator[CodeType]:
        read.append(one.__name__)
        return codes_of(one)

    monkeypatch.setattr(places_module, "codes_of", counting)
    places = Places()
    places.scan()
    assert found(places) == {"places_shop.current"}
    places.scan()
    assert read.count("places_shop") == 1
    exec("def choose(tenant):\n    global chosen\n    chosen = tenant\nchosen = None\n", module.__dict__)

    places.scan()

    assert read.count("places_shop") == 2
    assert found(places) == {"places_shop.current", "places_shop.chosen"}


async def test_the_first_request_leads_to_one_scan(monitor: IsolationMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
    scans: list[float] = []

    def scan(places: Places) -> None:
        places._seen = len(sys.modules)
        scans.append(time.monotonic())

    monkeypatch.setattr(Places, "scan", scan)
    app = FastAPI()

    @app.get("/")
    async def root() -> dict[str, str]:
        return {}

    client = Client(monitor.instrument(app))
    for _ in range(3):
        await client.get("/", user="ana")
        monitor.detection.foreign_context._tick(time.monotonic())

    await asyncio.sleep(0.2)

    assert len(scans) == 1
