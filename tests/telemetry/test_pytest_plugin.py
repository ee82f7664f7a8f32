"""The pytest plugin as a project uses it: a test suite in a process of its own, for an application that leaks and one that does not."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

import pytest

pytestmark = pytest.mark.slow  # each starts a pytest of its own; tests/chat/test_in_process.py keeps the everyday way

pytest_plugins = ["pytester"]

SHOP = """
import asyncio, hashlib
from fastapi import FastAPI, Request

CACHE = {}
KEYS = {"5ecret" + hashlib.sha256(f"{n}".encode()).hexdigest()[:26]: f"user-{n}" for n in range(6)}

def key_of(scope):
    return dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")

def user_of(scope):
    return KEYS.get(key_of(scope))

async def listen():
    await asyncio.sleep(3600)

def make_app(leaks=True):
    app = FastAPI()

    @app.get("/profile")
    async def profile(request: Request):
        user = user_of(request.scope)
        where = "profile" if leaks else user
        if where not in CACHE:
            CACHE[where] = {"user": user, "api_key": key_of(request.scope)}
            await asyncio.sleep(0)
        return CACHE[where]

    @app.get("/forgetful")
    async def forgetful(request: Request):
        app.state.task = asyncio.create_task(listen())
        return {}

    return app

app = make_app()
clean = make_app(leaks=False)
"""

ASKING = """
import asyncio, httpx
from shop import KEYS
from starlette.testclient import TestClient

AS = [{"authorization": f"Bearer {key}"} for key in KEYS]

async def ask(app, path="/profile"):
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for _ in range(3):
            await asyncio.gather(*(client.get(path, headers=AS[n]) for n in range(3)))
"""

PLAIN_INI = "[pytest]\nasyncio_default_fixture_loop_scope = function\npythonpath = .\n"
INI = PLAIN_INI + "isolation_app = shop:{app}\nisolation_principal = shop:user_of\n"

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Write a test suite for the shop and run it; `app` names its application in shop.py."""

    def run(tests: str, *options: str, app: str = "app", conftest: str = "", ini: str = INI) -> pytest.RunResult:
        pytester.makepyfile(shop=SHOP, asking=ASKING, test_shop=tests, conftest=conftest)
        pytester.makeini(ini.format(app=app))
        # Where it is installed by its entry point, a second name for it would be refused.
        installed = any(one.name == "isolation" for one in entry_points(group="pytest11"))
        return pytester.runpytest_subprocess(*(() if installed else ("-p", "isolation_monitor.pytest_plugin")), *options)

    return run


ALL_USERS = "from asking import *\nfrom shop import {app}\ndef test_users():\n    asyncio.run(ask({app}))\n"


def test_a_leaking_application_fails_its_test_with_both_sides(run: Run) -> None:
    result = run(ALL_USERS.format(app="app"), "--isolation")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*crossed)*",
            "victim *",
            "* principal *",
            "*> shop.py:* *profile",
            "between *",
            "offender *",
            "*first *",
            "*1 tests watched, 1 with*",
        ]
    )
    assert "5ecret" not in result.stdout.str()


def test_a_clean_application_passes(run: Run) -> None:
    """Requests of several users in one test share the test's task and context: that must not look like a leak."""
    result = run(
        ALL_USERS.format(app="clean") + "def test_one_after_the_other():\n"
        "    client = TestClient(clean)\n"
        "    for n in range(6):\n"
        "        client.get('/profile', headers=AS[n % 2])\n",
        "--isolation",
        app="clean",
    )

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*2 tests watched, 0 with violations*"])


def test_context_variables_of_one_request_do_not_reach_the_next_through_the_test(run: Run) -> None:
    """A variable set and never reset is harmless under a server, where each request has its own context, so it is here."""
    result = run(
        "from asking import *\n"
        "from contextvars import ContextVar\n"
        "from shop import clean, user_of\n"
        "user = ContextVar('user')\n"
        "class SetsUser:\n"
        "    def __init__(self, app): self.app = app\n"
        "    async def __call__(self, scope, receive, send):\n"
        "        if scope['type'] == 'http': user.set(user_of(scope))\n"
        "        await self.app(scope, receive, send)\n"
        "clean.add_middleware(SetsUser)\n"
        "def test_users():\n"
        "    async def one_task():\n"
        "        async with httpx.AsyncClient(transport=httpx.ASGITransport(clean), base_url='http://test') as client:\n"
        "            for n in range(6):\n"
        "                await client.get('/profile', headers=AS[n])\n"
        "    asyncio.run(one_task())\n",
        "--isolation",
        app="clean",
    )

    result.assert_outcomes(passed=1)


def test_without_the_option_nothing_of_the_monitor_is_imported(run: Run) -> None:
    result = run(
        "import sys\n"
        "def test_nothing():\n"
        "    assert not [name for name in sys.modules if name.startswith('isolation_monitor.telemetry')]\n"
        "    assert 'prometheus_client' not in sys.modules\n"
        "    assert 'shop' not in sys.modules\n"
    )

    result.assert_outcomes(passed=1)
    assert "isolation:" not in result.stdout.str()


def test_the_mark_watches_one_test(run: Run) -> None:
    result = run(
        "import pytest\nfrom asking import *\nfrom shop import app\n"
        "def test_unwatched():\n    asyncio.run(ask(app))\n"
        "@pytest.mark.isolation\ndef test_watched():\n    import shop; shop.CACHE.clear()\n    asyncio.run(ask(app))\n",
        "--strict-markers",
    )

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*1 tests watched, 1 with violations*"])


def test_a_fixture_can_make_the_application_for_each_test(run: Run) -> None:
    """Two tests, each with an application of its own: the second is watched as well."""
    test = "def test_{n}(isolation_app):\n    shop.CACHE.clear()\n    asyncio.run(ask(isolation_app))\n"
    result = run(
        "import shop\nfrom asking import *\n" + test.format(n=1) + test.format(n=2),
        "--isolation",
        ini=PLAIN_INI,
        conftest=(
            "import pytest, shop\n"
            "@pytest.fixture\ndef isolation_app():\n    return shop.make_app()\n"
            "@pytest.fixture(scope='session')\ndef isolation_principal():\n    return shop.user_of\n"
        ),
    )

    result.assert_outcomes(failed=2)


def test_another_frameworks_application_is_served_wrapped(run: Run) -> None:
    """It cannot be instrumented in place: the fixture `isolation` holds what to serve."""
    result = run(
        "from asking import *\nimport pytest\ndef test_users(isolation):\n    asyncio.run(ask(isolation.app))\n",
        "--isolation",
        ini=PLAIN_INI,
        conftest=(
            "import pytest, shop\n"
            "@pytest.fixture(scope='session')\n"
            "def isolation_app():\n"
            "    async def plain(scope, receive, send):\n        await shop.app(scope, receive, send)\n"
            "    return plain\n"
            "@pytest.fixture(scope='session')\ndef isolation_principal():\n    return shop.user_of\n"
        ),
    )

    result.assert_outcomes(failed=1)


def test_an_application_with_a_monitor_of_its_own_keeps_it(run: Run) -> None:
    """Watched twice, each request would be two."""
    result = run(
        "from asking import *\nimport own\n"
        "def test_users(isolation):\n    asyncio.run(ask(own.app))\n    assert isolation.monitor is own.monitor\n",
        "--isolation",
        ini=INI.replace("shop:{app}", "own:app"),
        conftest=(
            "import sys, types, shop\n"
            "from isolation_monitor.telemetry import IsolationMonitor\n"
            "own = sys.modules['own'] = types.ModuleType('own')\n"
            "own.app, own.monitor = shop.make_app(), IsolationMonitor.from_env(service='shop')\n"
            "own.monitor.instrument(own.app)\n"
        ),
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*crossed)*"])


@pytest.mark.parametrize(
    ("options", "outcome"), [((), "passed"), (("--isolation-leaks",), "failed"), (("--isolation-grade=hygiene",), "failed")]
)
def test_tasks_left_behind_fail_a_test_only_when_asked_for(run: Run, options: tuple[str, ...], outcome: str) -> None:
    """Three requests of each user leave a task behind, which is there when the test ends: hygiene, below the usual threshold."""
    tests = "from asking import *\nfrom shop import app\nasync def test_users():\n    await ask(app, '/forgetful')\n"

    result = run(tests, "--isolation", *options, ini=INI + "asyncio_mode = auto\n")

    result.assert_outcomes(**{outcome: 1})
    assert ("task_leak (hygiene)" in result.stdout.str()) is (outcome == "failed")


def test_a_test_that_fails_by_itself_shows_what_was_found_beside_its_own_error(run: Run) -> None:
    result = run(ALL_USERS.format(app="app") + "    assert 1 == 2\n", "--isolation")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert 1 == 2*", "*Captured isolation call*", "*crossed)*"])


@pytest.mark.parametrize(
    ("ini", "says"),
    [
        ("", "name the application"),
        ("isolation_app = shop", "write package.module:app"),
        ("isolation_app = no.such:app", "cannot be loaded"),
    ],
)
def test_an_application_that_is_not_named_well_is_a_usage_error(run: Run, ini: str, says: str) -> None:
    result = run("def test_one(): pass\n", "--isolation", ini=f"{PLAIN_INI}{ini}\n")

    assert says in result.stdout.str() + result.stderr.str()
    assert result.ret != 0
