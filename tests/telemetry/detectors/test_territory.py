"""Territory: the application's modules are told from libraries and frameworks, by where their files lie."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from isolation_monitor.telemetry.detectors.territory import Territory


@pytest.fixture
def installed() -> Iterator[Callable[[str, str | None], None]]:
    """Put modules into `sys.modules` as if they had been imported from a file."""
    names: list[str] = []

    def put(name: str, file: str | None) -> None:
        module = ModuleType(name)
        if file is not None:
            module.__file__ = file
        sys.modules[name] = module
        names.append(name)

    yield put
    for name in names:
        sys.modules.pop(name, None)


def test_families_follow_from_where_a_module_lies(installed) -> None:
    installed("a_service.routes", "/srv/a_service/routes.py")
    installed("a_library.core", "/usr/lib/python3/site-packages/a_library/core.py")
    installed("made_at_run_time", None)
    territory = Territory()

    assert territory.family("a_service.routes") == "application"
    assert territory.family("made_at_run_time") == "application"
    assert territory.family("__main__") == "application"
    assert territory.family("a_library.core") == "library"
    for name in ("asyncio.events", "json", "fastapi.routing", "sqlalchemy.orm", "isolation_monitor.telemetry.monitor", "_thread"):
        assert territory.family(name) == "infrastructure"


def test_a_package_that_serves_requests_is_the_application_wherever_it_is_installed(installed) -> None:
    installed("an_agent_platform.api", "/usr/lib/python3/site-packages/an_agent_platform/api.py")
    installed("an_agent_platform.memory", "/usr/lib/python3/site-packages/an_agent_platform/memory.py")
    territory = Territory()
    assert territory.family("an_agent_platform.memory") == "library"

    territory.adopt("an_agent_platform.api")
    territory.adopt("fastapi.applications")

    assert territory.family("an_agent_platform.memory") == "application"
    assert territory.family("fastapi.routing") == "infrastructure"
