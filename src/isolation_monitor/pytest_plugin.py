"""The pytest plugin: runs the detectors around each test, and fails the one in which isolation broke, with both sides in its report.

Set up in `pyproject.toml` (or by the fixture `isolation_app` in conftest.py, which returns the application):

    [tool.pytest.ini_options]
    isolation_app = "shop.main:app"

Then `pytest --isolation` watches every test, `@pytest.mark.isolation` one. One monitor for the whole session, in monitor mode, with its
numbers in a temporary folder and no collector. Without the option and the mark this module is all that is loaded, which is why it
lies outside of the telemetry package. `--isolation-resources` and `--isolation-repeat` load a module each, and nothing of the monitor.
docs/testing.md tells the rest.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from isolation_monitor.telemetry.testing import Watch

GRADES: Final = ("crossed", "reachable", "hygiene")
MARK: Final = "isolation"
_WATCH: Final = pytest.StashKey["Watch"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("isolation", "one user's request never touches another's")
    group.addoption("--isolation", action="store_true", help="Watch every test; without it, those marked with @pytest.mark.isolation.")
    group.addoption(
        "--isolation-grade",
        choices=GRADES,
        default="reachable",
        help="The mildest grade of violation that fails a test (default: reachable).",
    )
    group.addoption("--isolation-leaks", action="store_true", help="Sessions and tasks left behind fail a test, whatever the grade.")
    group.addoption(
        "--isolation-resources", action="store_true", help="Measure what each test uses and leaves behind (also an ini option)."
    )
    group.addoption("--isolation-fail-on-leak", action="store_true", help="Handles, threads and processes left behind fail their test.")
    group.addoption("--isolation-repeat", type=int, default=1, metavar="N", help="Run each selected test N times, in rounds.")
    group.addoption(
        "--isolation-repeat-order",
        choices=("rounds", "adjacent", "shuffled"),
        default="rounds",
        help="rounds: all tests once, then all again (default); adjacent: a test N times, then the next; shuffled: at random.",
    )
    group.addoption("--isolation-repeat-seed", type=int, metavar="SEED", help="The order of a shuffled run again; its header says it.")
    group.addoption("--isolation-repeat-together", action="store_true", help="N copies of an async test at once, where none is in its way.")
    parser.addini("isolation_resources", "Measure each test as --isolation-resources does.", type="bool", default=False)
    parser.addini("isolation_fail_on_leak", "Fail tests as --isolation-fail-on-leak does.", type="bool", default=False)
    parser.addini("isolation_repeat_shared", "Fixtures that copies of a test may share with --isolation-repeat-together.", type="args")
    parser.addini("isolation_app", "The application to watch, as its server names it: module:attribute.")
    parser.addini("isolation_principal", "The function that tells the user of an ASGI scope: module:attribute. Default: each credential.")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}: fail the test when a violation of isolation is found while it runs (isolation-monitor)")
    option = config.getoption
    fails_on_leak = bool(option("--isolation-fail-on-leak") or config.getini("isolation_fail_on_leak"))
    # A run that collects only has nothing to measure.
    if (fails_on_leak or option("--isolation-resources") or config.getini("isolation_resources")) and not option("collectonly"):
        from isolation_monitor.pytest_resources import Resources

        config.pluginmanager.register(Resources(config, fails_on_leak=fails_on_leak), "isolation-resources")
    _repeat(config)


def _repeat(config: pytest.Config) -> None:
    option = config.getoption
    times, order = option("--isolation-repeat"), option("--isolation-repeat-order")
    if times < 1:
        raise pytest.UsageError(f"--isolation-repeat={times}: give the number of times that each test is to run, 1 or more")
    if times > 1:
        from isolation_monitor import pytest_repeats

        together, seed = bool(option("--isolation-repeat-together")), option("--isolation-repeat-seed")
        repeats = pytest_repeats.Repeats(config, times, order=order, seed=seed, together=together)
        config.pluginmanager.register(pytest_repeats, "isolation-repeat-fixture")
        config.pluginmanager.register(repeats, "isolation-repeat")


def pytest_unconfigure(config: pytest.Config) -> None:
    watch = config.stash.get(_WATCH, None)
    if watch is not None:
        watch.close()


# --- what a test suite may declare ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def isolation_app(pytestconfig: pytest.Config) -> Any:  # Any: an ASGI application of any framework
    """The application to watch. Override it in conftest.py with one that returns the application of your tests."""
    name = pytestconfig.getini("isolation_app")
    if not name:
        raise pytest.UsageError('name the application: isolation_app = "package.module:app" in the ini file, or a fixture isolation_app')
    return _named(name, "isolation_app")


@pytest.fixture(scope="session")
def isolation_principal(pytestconfig: pytest.Config) -> Callable[[Any], str | None] | None:
    """The function that tells the user's id of an ASGI scope; None: each credential is one user. Override it in conftest.py."""
    name = pytestconfig.getini("isolation_principal")
    return _named(name, "isolation_principal") if name else None


@pytest.fixture
def isolation(request: pytest.FixtureRequest, isolation_app: Any, isolation_principal: Any) -> Watch:
    """The watch of this session: its `monitor`, and its `app` for applications that cannot be instrumented in place."""
    watch = _watch_of(request.config)
    watch.take(isolation_app, isolation_principal)
    return watch


# --- around each test -------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _isolation_around(request: pytest.FixtureRequest) -> None:
    # Autouse fixtures come first: the application is watched before a client of it is made, and what other fixtures do counts.
    if _is_watched(request.node):
        request.getfixturevalue("isolation").begin()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    watch = item.config.stash.get(_WATCH, None)
    if watch is None or not _is_watched(item):
        return (yield)
    try:
        result = yield
    except BaseException:
        if text := watch.report(*_threshold(item)):
            item.add_report_section("call", "isolation", text)
        raise
    if text := watch.report(*_threshold(item)):
        pytest.fail(text, pytrace=False)
    return result


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:  # Any: pytest's own, not exported
    watch = config.stash.get(_WATCH, None)
    if watch is not None:
        terminalreporter.write_line(f"isolation: {watch.summary()}")


def _is_watched(item: pytest.Item) -> bool:
    return bool(item.config.getoption("--isolation")) or item.get_closest_marker(MARK) is not None


def _threshold(item: pytest.Item) -> tuple[str, bool]:
    return item.config.getoption("--isolation-grade"), item.config.getoption("--isolation-leaks")


def _watch_of(config: pytest.Config) -> Watch:
    watch = config.stash.get(_WATCH, None)
    if watch is None:
        from isolation_monitor.telemetry.testing import Watch

        watch = config.stash[_WATCH] = Watch()
    return watch


def _named(name: str, option: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise pytest.UsageError(f"{option}={name!r} names no object: write package.module:{attribute or 'app'}")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise pytest.UsageError(f"{option}={name!r} cannot be loaded: {error}") from error
    return found
