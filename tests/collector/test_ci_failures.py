"""Failures are sorted by what their text says, alike in every language, and found again in later runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from isolation_monitor.cli.junit import read_reports
from isolation_monitor.collector.ci.failures import CATEGORIES, diagnose, normalize
from isolation_monitor.collector.ci.flakiness import is_broken, suspects

FILES = Path(__file__).parents[1] / "junit_files"
SAID = [
    ("isolation_violation", "IsolationViolation", "wrong_socket: an event of one user reached another", ""),
    ("out_of_memory", "java.lang.OutOfMemoryError", "Java heap space", ""),
    ("out_of_memory", "", "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory", ""),
    ("port_conflict", "Error", "listen EADDRINUSE: address already in use :::3000", ""),
    ("port_conflict", "OSError", "[Errno 98] Address already in use", ""),
    ("database_connection", "OperationalError", 'connection to server at "db" (10.0.0.2), port 5432 failed: Connection refused', ""),
    ("database_connection", "", "dial tcp 127.0.0.1:5432: connect: connection refused", ""),
    ("database_connection", "PDOException", "SQLSTATE[HY000] [2002] Connection refused", ""),
    ("database_connection", "sqlalchemy.exc.TimeoutError", "QueuePool limit of size 5 overflow 10 reached, connection timed out", ""),
    ("connection_refused", "Error", "connect ECONNREFUSED 127.0.0.1:8080", ""),
    ("connection_refused", "java.net.ConnectException", "Connection refused (Connection refused)", ""),
    ("import", "ModuleNotFoundError", "No module named 'shop.cart'", ""),
    ("import", "", "No module named 'shop'", ""),
    ("import", "", "collection failure", "E   ModuleNotFoundError: No module named 'shop'"),
    ("import", "Error", "Cannot find module './cart'", ""),
    ("import", "java.lang.NoClassDefFoundError", "example/Cart", ""),
    ("import", "LoadError", "cannot load such file -- cart", ""),
    ("timeout", "Failed", "Timeout >5.0s", ""),
    ("timeout", "Error", "thrown: Exceeded timeout of 5000 ms for a test.", ""),
    ("timeout", "", "Failed", "panic: test timed out after 2m0s\ngoroutine 7 [running]:"),
    ("timeout", "AssertionError", "timed out waiting for the order", ""),
    ("exit_handler", "", "A worker process has failed to exit gracefully and has been force exited.", ""),
    ("fixture", "", "fixture 'database' not found", ""),
    ("fixture", "", '"before each" hook for "adds"', "TypeError: x is undefined"),
    ("connection_refused", "", 'failed on setup with "E"', "ConnectionRefusedError: [Errno 111] Connection refused"),
    ("assertion", "AssertionError", "assert response.timeout == 5", "log: connection refused by a fake, as the test wants"),
    ("assertion", "", "Failed", "cart_test.go:11: got 3, want 4"),
    ("assertion", "PHPUnit\\Framework\\ExpectationFailedException", "Failed asserting that 3 matches expected 4.", ""),
    ("unknown", "", "", ""),
    ("unknown", "RuntimeError", "the moon is full", ""),
]


@pytest.mark.parametrize(("category", "kind", "message", "detail"), SAID)
def test_a_failure_is_sorted_by_what_it_says(category: str, kind: str, message: str, detail: str) -> None:
    found = diagnose("test", kind, message, detail)

    assert found.category == category
    assert found.cause.endswith(".")


def test_every_category_is_met() -> None:
    assert {category for category, *_ in SAID} == set(CATEGORIES)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("assert <Cart object at 0x7f3a2b10> is None", "assert <Cart object at 0x7fffd010> is None"),
        ("order 4f9c2d1e-9b1a-4c55-8c52-0d6f3a1b2c3d lost at line 12", "order 11111111-2222-4333-8444-555555555555 lost at line 340"),
        ("took 3.2 ms in /home/ci/build-7/app.py:40", "took 812 ms in /runner/jobs/app.py:41"),
        ("started 2026-01-01T12:00:00Z, listening on port 40123", "started 2026-03-09T01:02:03Z, listening on port 51999"),
        ("example.Cart@1b2c3d4e is broken", "example.Cart@77aa00ff is broken"),
    ],
)
def test_what_changes_from_run_to_run_does_not_change_the_fingerprint(one: str, other: str) -> None:
    assert diagnose("t", "RuntimeError", one).fingerprint == diagnose("t", "RuntimeError", other).fingerprint


def test_other_failures_have_other_fingerprints() -> None:
    """A cause outside of the tests is the same in all of them; what a test asserts is its own."""
    refused = [diagnose(test, "ConnectionRefusedError", "[Errno 111] refused").fingerprint for test in ("one", "other")]
    asserted = [diagnose(test, "AssertionError", "assert 1 == 2").fingerprint for test in ("one", "other")]
    missing = [diagnose("t", "ModuleNotFoundError", f"No module named '{name}'").fingerprint for name in ("shop", "cart")]

    assert refused[0] == refused[1]
    assert asserted[0] != asserted[1]
    assert missing[0] != missing[1]


@pytest.mark.parametrize(
    "message",
    [
        "[Errno 111] Connect call failed ('127.0.0.1', {})",
        "dial tcp 127.0.0.1:{}: connect: connection refused",
        "listen EADDRINUSE: address already in use :::{}",
        'connection to server at "db" (10.0.0.2), port {} failed: Connection refused',
    ],
)
def test_another_service_is_another_cause_and_a_port_that_changes_is_not(message: str) -> None:
    """8080 and 9090 are two services; what the system gives out above 32768 is another port in each run."""
    shop, cart, one, other = (diagnose("t", "", message.format(port)).fingerprint for port in (8080, 9090, 40123, 51999))

    assert shop != cart
    assert one == other


def test_the_cause_names_the_place() -> None:
    assert "127.0.0.1:8080" in diagnose("t", "Error", "connect ECONNREFUSED 127.0.0.1:8080").cause
    assert "('" not in diagnose("t", "ConnectionRefusedError", "[Errno 111] Connect call failed ('10.0.0.5', 9000)").cause
    assert "10.0.0.5:9000" in diagnose("t", "ConnectionRefusedError", "[Errno 111] Connect call failed ('10.0.0.5', 9000)").cause
    assert "Port 3000" in diagnose("t", "Error", "listen EADDRINUSE: address already in use 127.0.0.1:3000").cause
    assert "shop.cart is not there" in diagnose("t", "ModuleNotFoundError", "No module named 'shop.cart'").cause


def test_long_texts_are_judged_quickly() -> None:
    """Whoever writes a test's output must not be able to stop the collector."""
    texts = ["a" * 200_000, "/a" * 100_000, "1" * 200_000, "got " * 50_000, "connection pool" * 10_000, "0x" * 100_000]
    began = time.process_time()
    for text in (*texts, "\n" * 200_000, "\n " * 100_000):
        diagnose("t", "", text[:4000], text)
        diagnose("t", "", "", text)
        normalize(text[:1200])

    # Some 2 s; a text that is tried anew from each of its lines takes 20 s alone.
    assert time.process_time() - began < 12


def test_a_flaky_test_stands_out_from_defects_and_from_quiet_suites() -> None:
    """Hand-worked: 4 episodes in 40 runs, where 1 in 200 is expected: 39 trials at 0.005 make 4 or more with p = 5e-5."""
    steady = {f"steady-{number}": "P" * 40 for number in range(50)}
    defects = {f"defect-{number}": "P" * 20 + "F" * 10 + "P" * 10 for number in range(2)}
    flaky = {"flaky": ("P" * 9 + "F") * 4}

    found = suspects(steady | defects | flaky)

    assert list(found) == ["flaky"]
    assert found["flaky"].p_value == pytest.approx(4.4e-5, rel=0.2)


def test_the_only_test_of_a_suite_may_have_three_defects_and_is_not_flaky() -> None:
    """Hand-worked: 99 trials at 0.005 make 3 or more with p = 0.014, which one test of a hundred quiet suites has by chance."""
    defects = {"smoke": ("P" * 28 + "F" * 5) * 3 + "P"}
    flaky = {"smoke": ("P" * 19 + "F") * 5}

    assert suspects(defects) == {}
    assert list(suspects(flaky)) == ["smoke"]


def test_a_suite_that_breaks_often_needs_more_evidence() -> None:
    """Where every test has an episode in ten runs, three in thirty are nothing special."""
    busy = {f"busy-{number}": ("P" * 9 + "F") * 3 for number in range(30)}

    assert suspects(busy) == {}
    assert suspects({}) == {}
    assert suspects({"young": "PFPFPFPFP"}) == {}


def test_a_run_in_which_much_failed_is_of_the_machine() -> None:
    assert is_broken(30, 100)
    assert not is_broken(20, 100)
    assert not is_broken(5, 6)


@pytest.mark.parametrize(
    ("file", "test", "category", "said"),
    [
        ("nextest.xml", "cart::hangs", "timeout", "running 1 test"),
        ("nextest.xml", "cart::is_wrong", "assertion", "assertion `left == right` failed: the sum"),
        ("nextest.xml", "cart::calls", "connection_refused", "called `Result::unwrap()` on an `Err` value"),
        ("phpunit.xml", "testIsWrong", "assertion", "the sum"),
        ("phpunit.xml", "testCalls", "connection_refused", "stream_socket_client(): Unable to connect"),
        ("phpunit.xml", "testSaysNothing", "unknown", "This test did not perform any assertions"),
        ("rspec.xml", "cart when empty has no total", "connection_refused", "Connection refused - connect(2)"),
        ("surefire.xml", "calls", "connection_refused", "Connection refused"),
        ("vitest.xml", "cart > when empty > hangs", "timeout", "Test timed out in 50ms"),
        ("vitest.xml", "broken.test.mjs", "import", "Cannot find module"),
    ],
)
def test_what_real_runners_say_is_told_by_its_reason_and_not_by_its_headings(file: str, test: str, category: str, said: str) -> None:
    """PHPUnit begins with the test's name, Rust with the number of a thread, which is another one in each run."""
    [found] = [one for one in read_reports([FILES / file], Path("/build")).tests if one.name == test]
    assert found.failure is not None

    diagnosis = diagnose("key", found.failure.kind, found.failure.message, found.failure.detail)

    assert (diagnosis.category, diagnosis.said[: len(said)]) == (category, said)
