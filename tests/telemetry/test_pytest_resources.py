"""`pytest --isolation-resources` and `--isolation-repeat` as a project uses them: test suites in processes of their own."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

INI = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
LEAKING = """
import os, subprocess, sys, threading, pytest
KEPT = []

@pytest.fixture(scope="module")
def server():
    child = subprocess.Popen(["sleep", "60"])
    yield child
    child.kill()
    child.wait()

@pytest.fixture(scope="module")
def careless():
    child = subprocess.Popen(["sleep", "60"])
    KEPT.append(child)
    yield child
    child.kill()

def test_uses_a_server(server, careless):
    pass

def test_holds_a_file(tmp_path):
    KEPT.append((tmp_path / "log").open("w"))

def test_starts_a_thread():
    threading.Thread(target=threading.Event().wait, name="reader", daemon=True).start()

def test_takes_memory():
    KEPT.append(len(bytearray(90_000_000)))

def test_leaves_nothing(server):
    subprocess.run([sys.executable, "-c", ""], check=True)
"""
REPEATED = """
import asyncio, unittest, pytest
seen = []
inside = 0

@pytest.mark.parametrize("kind", ["a", "b"])
def test_every_third_fails(kind):
    seen.append(kind)
    assert seen.count(kind) % 3

def test_holds():
    pass

async def test_races():
    global inside
    inside += 1
    await asyncio.sleep(0.01)
    alone = inside == 1
    await asyncio.sleep(0.01)
    inside -= 1
    assert alone

async def test_has_a_folder(tmp_path):
    (tmp_path / "mine").mkdir()

async def test_one_of_them_skips():
    seen.append("skip")
    if seen.count("skip") == 2:
        pytest.skip("the second")

class TestOld(unittest.TestCase):
    def test_old(self):
        pass
"""

Run = Callable[..., tuple[pytest.RunResult, ET.Element]]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Write a suite, run it, and return what was printed and the root of its JUnit file."""

    def run(tests: str, *options: str, ini: str = INI) -> tuple[pytest.RunResult, ET.Element]:
        pytester.makepyfile(test_it=tests)
        pytester.makeini(ini)
        installed = any(one.name == "isolation" for one in entry_points(group="pytest11"))
        plugin = () if installed else ("-p", "isolation_monitor.pytest_plugin")
        result = pytester.runpytest_subprocess(*plugin, "--junitxml=junit.xml", *options)
        return result, ET.parse(Path(pytester.path) / "junit.xml").getroot()

    return run


def properties(element: ET.Element | None) -> dict[str, str]:
    """Return what stands in an element's own `<properties>`."""
    assert element is not None
    return {one.attrib["name"]: one.attrib["value"] for one in element.findall("properties/property")}


def leaks(root: ET.Element) -> dict[str, tuple[str, ...]]:
    """Return handles, threads and processes that each test left."""
    names = [f"isolation.leaked_{what}" for what in ("handles", "threads", "processes")]
    return {case.attrib["name"]: tuple(properties(case)[name] for name in names) for case in root.iter("testcase")}


def test_each_test_says_what_it_used_and_what_it_left(run: Run) -> None:
    result, root = run(LEAKING, "--isolation-resources")

    result.assert_outcomes(passed=5)
    assert leaks(root) == {
        "test_uses_a_server": ("0", "0", "0"),
        "test_holds_a_file": ("1", "0", "0"),
        "test_starts_a_thread": ("0", "1", "0"),
        "test_takes_memory": ("0", "0", "0"),
        # The last of its module: the fixtures end with it, and one of them leaves a zombie.
        "test_leaves_nothing": ("0", "0", "1"),
    }
    suite, cases = properties(root.find("testsuite")), {case.attrib["name"]: properties(case) for case in root.iter("testcase")}
    assert suite["isolation.leaked_handles"] == suite["isolation.leaked_threads"] == suite["isolation.leaked_processes"] == "1"
    assert float(suite["isolation.wall_s"]) >= sum(float(one["isolation.wall_s"]) for one in cases.values())
    # A child's CPU counts for the test that waited for it.
    assert float(cases["test_leaves_nothing"]["isolation.cpu_s"]) > 0
    assert "thread reader (daemon)" in cases["test_starts_a_thread"]["isolation.left_behind"]
    if suite["isolation.memory_method"] == "peak":
        peaks = {name: int(one["isolation.memory_peak_bytes"]) for name, one in cases.items()}
        assert max(peaks, key=lambda name: peaks[name]) == "test_takes_memory"
        assert peaks["test_takes_memory"] - peaks["test_leaves_nothing"] > 45_000_000
        assert int(suite["isolation.memory_peak_bytes"]) >= peaks["test_takes_memory"]
    result.stdout.fnmatch_lines(["*isolation: resources*", "5 tests, *", "left behind *test_holds_a_file: */log"])


@pytest.mark.slow
def test_values_of_workers_reach_the_controller(run: Run) -> None:
    _result, alone = run(LEAKING, "--isolation-resources")
    result, root = run(LEAKING, "--isolation-resources", "-n", "2", "--dist", "loadfile")

    result.assert_outcomes(passed=5)
    assert leaks(root) == leaks(alone)
    suite = properties(root.find("testsuite"))
    assert (suite["isolation.leaked_handles"], suite["isolation.leaked_processes"]) == ("1", "1")
    assert float(suite["isolation.cpu_s"]) > 0
    result.stdout.fnmatch_lines(["*isolation: resources*", "5 tests, *"])


@pytest.mark.slow
def test_a_leak_fails_its_test_only_where_that_was_asked(run: Run) -> None:
    result, root = run(LEAKING, ini=INI + "isolation_fail_on_leak = true\n")

    result.assert_outcomes(passed=5, errors=3)
    failed = {case.attrib["name"] for case in root.iter("testcase") if case.find("error") is not None}
    assert failed == {"test_holds_a_file", "test_starts_a_thread", "test_leaves_nothing"}
    result.stdout.fnmatch_lines(["left behind by test_it.py::test_starts_a_thread and its fixtures:", "  thread reader (daemon)"])


@pytest.mark.slow
def test_without_the_options_nothing_is_loaded_or_written(run: Run) -> None:
    tests = (
        "import sys\ndef test_one():\n"
        "    loaded = {one.partition('.')[2] for one in sys.modules if one.startswith('isolation_monitor.')}\n"
        "    assert loaded <= {'pytest_plugin'}\n"
    )
    result, root = run(tests)

    result.assert_outcomes(passed=1)
    assert properties(root.find("testsuite")) == {}
    assert "isolation:" not in result.stdout.str()


def test_a_test_that_is_always_skipped_has_not_held(run: Run) -> None:
    tests = "import pytest\n@pytest.mark.skip\ndef test_off(): pass\n@pytest.mark.xfail\ndef test_known(): assert 0\ndef test_on(): pass\n"
    result, _root = run(tests, "--isolation-repeat", "2")

    result.stdout.fnmatch_lines(["2 of 3 tests held 2 times", "1 of 3 tests were skipped each time"])


def test_a_flaky_test_is_one_test_with_both_results(run: Run) -> None:
    """Whoever reads the JUnit file knows tests by their names: all repeats have the test's own."""
    result, root = run(REPEATED, "--isolation-repeat", "6")

    names = Counter(case.attrib["name"] for case in root.iter("testcase"))
    failed = Counter(case.attrib["name"] for case in root.iter("testcase") if case.find("failure") is not None)
    third = ("test_every_third_fails[a]", "test_every_third_fails[b]")
    assert names == dict.fromkeys((*third, "test_holds", "test_races", "test_has_a_folder", "test_one_of_them_skips"), 6) | {"test_old": 1}
    assert failed == dict.fromkeys(third, 2)
    repeats = [properties(case)["isolation.repeat"] for case in root.iter("testcase") if case.attrib["name"] == "test_holds"]
    assert repeats == [f"{number}/6" for number in range(1, 7)]
    result.stdout.fnmatch_lines(
        [
            "2 of 6 failed *FLAKY*test_it.py::test_every_third_fails?a?",
            "4 of 6 tests held 6 times",
            "1 ran once: *unittest*",
        ]
    )


def test_copies_at_once_find_the_race_that_rounds_do_not(run: Run) -> None:
    result, root = run(REPEATED, "--isolation-repeat", "5", "--isolation-repeat-together", "-k", "races or folder or skips or holds")

    cases = [case for case in root.iter("testcase") if case.attrib["name"] == "test_races"]
    assert len(cases) == 5
    assert all(properties(case)["isolation.repeat_mode"] == "together" for case in cases)
    assert all(case.find("failure") is not None for case in cases)
    skips = [case for case in root.iter("testcase") if case.attrib["name"] == "test_one_of_them_skips"]
    assert [case.find("skipped") is not None for case in skips].count(True) == 1
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["5 of 5 failed *test_races (together)", "* one after the other: it is not async", "* one after the other: fixture tmp_path *"]
    )


SHUFFLED = ("--isolation-repeat", "4", "--isolation-repeat-order", "shuffled", "-k", "holds or third")


@pytest.mark.slow
def test_a_shuffled_run_can_be_run_again(run: Run) -> None:
    first, root = run(REPEATED, *SHUFFLED)
    [seed] = {line.partition("--isolation-repeat-seed=")[2] for line in first.outlines if "--isolation-repeat-seed=" in line}

    _again, root_again = run(REPEATED, *SHUFFLED, "--isolation-repeat-seed", seed)

    orders = [[(case.attrib["name"], properties(case)["isolation.repeat"]) for case in one.iter("testcase")] for one in (root, root_again)]
    assert len(orders[0]) == 12
    assert orders[0] == orders[1]
    assert orders[0] != sorted(orders[0], key=lambda one: one[1])


@pytest.mark.slow
def test_workers_agree_on_the_order(run: Run) -> None:
    """pytest-xdist refuses workers that collected differently."""
    result, root = run(REPEATED, *SHUFFLED, "-n", "2")

    assert len(list(root.iter("testcase"))) == 12
    assert "of 3 tests held 4 times" in result.stdout.str()


@pytest.mark.slow
def test_fixtures_that_copies_may_share_are_named(run: Run) -> None:
    tests = "import pytest\n@pytest.fixture\ndef api():\n    return []\nasync def test_api(api):\n    api.append(1)\n"
    apart, _ = run(tests, "--isolation-repeat", "3", "--isolation-repeat-together")
    together, root = run(tests, "--isolation-repeat", "3", "--isolation-repeat-together", ini=INI + "isolation_repeat_shared = api\n")

    assert "fixture api is made for one test alone" in apart.stdout.str()
    assert "one after the other" not in together.stdout.str()
    assert [properties(case)["isolation.repeat_mode"] for case in root.iter("testcase")] == ["together"] * 3


@pytest.mark.slow
def test_zero_times_is_refused(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(): pass")

    result = pytester.runpytest_subprocess("--isolation-repeat", "0")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--isolation-repeat=0: give the number of times*"])
