"""Readers: a field that nothing in the application reads is known to be so, and only where that is certain."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isolation_monitor.telemetry.detectors.readers import SOURCE_LIMIT, Readers
from isolation_monitor.telemetry.detectors.territory import Family, Territory

NAME = "_".join(("latest", "visitor"))
"""Stands for `last_user` in what is imported: this module is loaded, too, and must not have the name."""
WRITES = "class Desk:\n    def serve(self, user):\n        self.last_user = user\n"

Ask = Callable[..., bool]


class OnlyThese(Territory):
    """Takes the named modules for the application: here the tests' own are loaded, too."""

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self._names = names

    def family(self, module: str) -> Family:
        return "application" if module in self._names else "infrastructure"


@pytest.fixture
def is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Import modules of these sources, and ask of them."""
    monkeypatch.syspath_prepend(tmp_path)
    imported: set[str] = set()

    def ask(*sources: str, name: str = NAME, keeps_code: bool = True) -> bool:
        monkeypatch.setattr(sys, "dont_write_bytecode", not keeps_code)
        for at, source in enumerate(sources):
            title = f"readers_{tmp_path.name}_{at}"
            (tmp_path / f"{title}.py").write_text(source.replace("last_user", NAME))
            imported.add(title)
            importlib.invalidate_caches()
            importlib.import_module(title)
        readers = Readers(OnlyThese(imported))
        for _ in (*readers.look_through(), *readers.look_elsewhere({name})):
            pass
        return readers.is_never_read(name)

    yield ask
    for title in imported:
        sys.modules.pop(title, None)


@pytest.mark.parametrize("keeps_code", [True, False])
def test_what_is_only_written_is_never_read(is_never_read: Ask, keeps_code: bool) -> None:
    assert is_never_read(WRITES, keeps_code=keeps_code)


def test_an_annotation_of_a_class_reads_nothing(is_never_read: Ask) -> None:
    assert is_never_read("class Desk:\n    last_user: str | None = None\n    def serve(self, user):\n        self.last_user = user\n")


@pytest.mark.parametrize(
    "reader",
    [
        "def reads(desk):\n    return desk.last_user\n",
        "def reads(desk):\n    return getattr(desk, 'last_user', None)\n",
        "def reads(desk):\n    return [lambda: desk.last_user]\n",
        "import functools\n@functools.cache\ndef reads(desk):\n    return desk.last_user\n",
        "def keeps(call):\n    return lambda *args: call(*args)\n@keeps\ndef reads(desk):\n    return desk.last_user\n",
        "def reads(desk):\n    desk.last_user += '!'\n",
        "def reads(desk):\n    return desk.last_user()\n",
        "last_user = ''\ndef reads():\n    return last_user\n",
        "def outer():\n    last_user = ''\n    def reads():\n        return last_user\n    return reads\n",
        "def reads(desk):\n    return vars(desk)\n",
        "def reads(desk):\n    return desk.__dict__\n",
        "def reads(desk, name):\n    return getattr(desk, name)\n",
        "class Shown:\n    last_user: str\n",
        "def reads(templates, desk):\n    return templates.TemplateResponse(desk)\n",
    ],
)
def test_what_may_be_read_is_not_said_to_be_never_read(is_never_read: Ask, reader: str) -> None:
    assert not is_never_read(WRITES, reader)


def test_a_name_that_a_loaded_package_has_may_be_read_by_it(is_never_read: Ask) -> None:
    """The object may be handed to it, whatever its class is."""
    assert not is_never_read(WRITES.replace("last_user", "maxsplit"), name="maxsplit")


def test_where_no_code_is_known_to_write_it_nothing_is_said(is_never_read: Ask) -> None:
    assert not is_never_read("def serve(desk):\n    desk.other = 1\n")


def test_a_large_source_without_kept_code_is_not_compiled(is_never_read: Ask) -> None:
    assert not is_never_read(WRITES + "#" * SOURCE_LIMIT, keeps_code=False)


SERVICE = """
import asyncio, json, sys
import httpx
from fastapi import FastAPI, Request
from isolation_monitor.telemetry import IsolationMonitor

app = FastAPI()

@app.get("/")
async def home(request: Request):
    app.state.last_user = request.headers["x-user"]
    return {}

def told():
    return REACHED

async def main():
    monitor = IsolationMonitor.from_env(service="desk")
    monitor.principal(lambda scope: dict(scope["headers"])[b"x-user"].decode())
    monitor.instrument(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://desk") as client:
        for user in ("ann-01", "bob-02", "cid-03", "dora-04") * 8:
            await client.get("/", headers={"x-user": user})
    monitor.detection.shared_state.look_now()
    print(json.dumps([(one.grade, one.resource.name) for one in monitor.violations()]))

def start():
    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("reached", "expected"), [("app.state.other", []), ("app.state.last_user", [["reachable", "app.state['last_user']"]])]
)
def test_the_last_user_in_the_applications_state_is_reported_where_something_reads_it(
    tmp_path: Path, reached: str, expected: list[list[str]]
) -> None:
    (tmp_path / "desk.py").write_text(SERVICE.replace("REACHED", reached))

    done = subprocess.run(
        [sys.executable, "-c", "import desk; desk.start()"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected
