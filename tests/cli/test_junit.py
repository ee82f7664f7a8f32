"""JUnit XML as real runners write it, and as they write it when something went wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import junitparser
import pytest

from isolation_monitor.cli.ci_environment import Place as CiPlace
from isolation_monitor.cli.ci_report import body_of
from isolation_monitor.cli.junit import JUnitError, Report, files_of, read_reports
from isolation_monitor.collector.ci.schemas import parse_run

FILES = Path(__file__).parents[1] / "junit_files"
EXPECTED = {
    # passed, failed, errors, skipped
    "ctest.xml": (1, 2, 0, 2),
    "gotestsum.xml": (3, 3, 1, 1),
    "gotestsum-rerun.xml": (3, 3, 0, 1),
    "jest.xml": (1, 3, 0, 1),
    "mocha.xml": (1, 3, 0, 0),
    "nextest.xml": (3, 3, 0, 0),
    "node.xml": (2, 3, 0, 1),
    "phpunit.xml": (2, 2, 3, 2),
    "prove.xml": (1, 2, 0, 1),
    "pytest.xml": (2, 2, 2, 2),
    "rspec.xml": (1, 3, 0, 2),
    "surefire.xml": (3, 1, 1, 1),
    "surefire-broken.xml": (0, 0, 1, 0),
    "vitest.xml": (3, 4, 0, 1),
}


def read(text: str | bytes, folder: Path, root: Path | None = None) -> Report:
    path = folder / "junit.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_reports([path], root or folder)


def results(report: Report) -> dict[str, str]:
    return {f"{test.group}/{test.name}": test.result for test in report.tests}


def test_every_real_file_says_by_which_version_it_was_made() -> None:
    versions = json.loads((FILES / "versions.json").read_text(encoding="utf-8"))

    assert {path.stem.partition("-")[0] for path in FILES.glob("*.xml")} == versions.keys()
    assert len(versions) >= 12


@pytest.mark.parametrize("name", EXPECTED)
def test_the_file_of_a_real_runner_is_read_as_what_its_tests_did(name: str) -> None:
    report = read_reports([FILES / name], Path("/build"))
    found = [test.result for test in report.tests]

    assert tuple(found.count(one) for one in ("pass", "fail", "error", "skip")) == EXPECTED[name]
    assert report.duration_s > 0
    assert all(test.failure is not None for test in report.tests if test.result in ("fail", "error"))


@pytest.mark.parametrize("name", ["ctest.xml", "jest.xml", "mocha.xml", "prove.xml", "pytest.xml", "rspec.xml", "vitest.xml"])
def test_names_and_times_are_those_that_another_reader_finds(name: str) -> None:
    """junitparser reads the dialects that it knows; on these both must agree."""
    tree = junitparser.JUnitXml.fromfile(str(FILES / name))
    cases = [case for suite in ([tree] if isinstance(tree, junitparser.TestSuite) else tree) for case in suite]
    report = read_reports([FILES / name], Path("/build"))

    assert [" ".join(case.name.split()) for case in cases] == [test.name for test in report.tests]
    assert [case.time for case in cases] == pytest.approx([test.duration_s for test in report.tests])


def test_what_a_runner_counts_and_does_not_name_is_an_error() -> None:
    """A Go package that does not build has no test: without this the report would be green."""
    report = read_reports([FILES / "gotestsum.xml"], Path("/build"))

    [error] = [test for test in report.tests if test.result == "error"]

    assert error.failure is not None
    assert "counts 1 more failures than it names" in error.failure.message


@pytest.mark.parametrize(
    ("file", "name"), [("gotestsum-rerun.xml", "TestFlaky"), ("surefire.xml", "isFlaky"), ("nextest.xml", "cart::is_flaky")]
)
def test_a_rerun_that_passed_counts_as_passed_and_is_flaky(file: str, name: str) -> None:
    report = read_reports([FILES / file], Path("/build"))
    [flaky] = [test for test in report.tests if test.is_flaky]

    assert (flaky.name, flaky.result, flaky.passes, flaky.failures) == (name, "pass", 1, 1)


@pytest.mark.parametrize(
    ("file", "name", "failures"), [("surefire.xml", "isWrong", 3), ("nextest.xml", "cart::is_wrong", 3), ("nextest.xml", "cart::hangs", 3)]
)
def test_a_test_that_failed_in_each_rerun_failed_as_often_and_is_not_flaky(file: str, name: str, failures: int) -> None:
    report = read_reports([FILES / file], Path("/build"))
    [test] = [test for test in report.tests if test.name == name]

    assert (test.result, test.passes, test.failures, test.is_flaky) == ("fail", 0, failures, False)


def test_what_went_wrong_before_all_tests_of_a_class_is_of_the_whole_class() -> None:
    [test] = read_reports([FILES / "surefire-broken.xml"], Path("/build")).tests

    assert (test.group, test.name) == ("com.example.BrokenTest", "(whole class)")


def test_flaky_and_rerun_failures_of_surefire_are_evidence(tmp_path: Path) -> None:
    """Element names of surefire-test-report.xsd, version 3.0."""
    report = read(
        """<testsuite name="example.OrdersTest" time="0.5" tests="2" errors="0" failures="1" skipped="0">
        <testcase name="isFlaky" classname="example.OrdersTest" time="0.1">
          <flakyFailure message="only later" type="AssertionFailedError"><stackTrace><![CDATA[at example.Orders(1)]]></stackTrace>
          <system-out>x</system-out></flakyFailure></testcase>
        <testcase name="isWrong" classname="example.OrdersTest" time="0.1">
          <failure message="expected: 4" type="AssertionFailedError"><![CDATA[at example.Orders(2) <&>]]></failure>
          <rerunFailure message="expected: 4" type="AssertionFailedError"><stackTrace>again</stackTrace></rerunFailure></testcase>
        </testsuite>""",
        tmp_path,
    )
    flaky, wrong = report.tests

    assert (flaky.result, flaky.is_flaky, flaky.failure.detail if flaky.failure else "") == ("pass", True, "at example.Orders(1)")
    assert (wrong.result, wrong.is_flaky, wrong.failures) == ("fail", False, 2)
    assert wrong.failure is not None
    assert wrong.failure.detail == "at example.Orders(2) <&>"


def test_repeats_of_one_test_are_counted_and_a_failure_among_them_stays_one(tmp_path: Path) -> None:
    case = '<testcase classname="tests.a" name="race" time="0.1">{}</testcase>'
    failed = case.format('<failure message="assert x"/>')
    report = read(f"<testsuite name='a'>{case.format('')}{failed}{case.format('')}</testsuite>", tmp_path)
    [race] = report.tests

    assert (race.result, race.passes, race.failures, race.is_flaky) == ("fail", 2, 1, True)


def test_two_tests_of_one_name_in_different_files_are_two_tests(tmp_path: Path) -> None:
    report = read(
        '<testsuites><testsuite name="a"><testcase classname="cart" name="adds" file="a.js"/></testsuite>'
        '<testsuite name="b"><testcase classname="cart" name="adds" file="b.js"><failure/></testcase></testsuite></testsuites>',
        tmp_path,
    )

    assert results(report) == {"cart/adds": "pass", "cart (b.js)/adds": "fail"}


def test_results_that_stand_in_attributes_are_read(tmp_path: Path) -> None:
    """GoogleTest marks what did not run by an attribute alone."""
    report = read(
        '<testsuites tests="3"><testsuite name="Cart"><testcase name="Adds" classname="Cart" status="run" result="completed" time="0."/>'
        '<testcase name="Later" classname="Cart" status="notrun" result="suppressed"/>'
        '<testcase name="Died" classname="Cart" status="fail"><system-out>boom</system-out></testcase></testsuite></testsuites>',
        tmp_path,
    )

    assert results(report) == {"Cart/Adds": "pass", "Cart/Later": "skip", "Cart/Died": "fail"}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("1,234.5", 1234.5), ("1.234,5", 1234.5), ("0,5", 0.5), ("1 234,5", 1234.5), ("", None), ("NaN", None), ("-1", None), ("1e-3", 0.001)],
)
def test_times_are_read_in_whatever_notation(written: str, seconds: float | None, tmp_path: Path) -> None:
    [test] = read(f'<testsuite><testcase classname="c" name="n" time="{written}"/></testsuite>', tmp_path).tests

    assert test.duration_s == seconds


def test_other_encodings_and_forbidden_characters_are_no_reason_to_lose_a_report(tmp_path: Path) -> None:
    body = '<testsuite name="a"><testcase classname="c" name="Größe"><failure message="{}"/></testcase></testsuite>'
    declared = ('<?xml version="1.0" encoding="ISO-8859-1"?>' + body.format("x")).encode("latin-1")
    undeclared = body.format("x").encode("cp1252")
    escapes = ('<?xml version="1.0" encoding="utf-8"?>' + body.format("&#27;[31mred\x1b[0m")).encode()
    wide = ('<?xml version="1.0" encoding="utf-16"?>' + body.format("x")).encode("utf-16")

    japanese = ('<?xml version="1.0" encoding="Shift_JIS"?>' + body.replace("Größe", "テスト").format("x")).encode("shift_jis")

    assert results(read(japanese, tmp_path)) == {"c/テスト": "fail"}
    for content in (declared, undeclared, escapes, wide):
        assert results(read(content, tmp_path)) == {"c/Größe": "fail"}


def test_a_file_that_ends_in_the_middle_is_read_as_far_as_it_goes_and_is_an_error(tmp_path: Path) -> None:
    """The runner was killed: what came before is worth having, and the run must not look complete."""
    report = read('<testsuite name="a"><testcase classname="c" name="one"/><testcase classname="c" name="tw', tmp_path)

    assert results(report) == {"c/one": "pass", "(report)/junit.xml": "error"}
    assert list(report.cut_off) == ["junit.xml"]
    assert "ends in the middle" in report.cut_off["junit.xml"]


def test_a_file_that_is_broken_says_so_and_not_that_its_runner_was_killed(tmp_path: Path) -> None:
    """Two reports in one file, an ampersand that nobody escaped: the place is told."""
    whole = '<testsuite name="a"><testcase classname="c" name="one"/></testsuite>'
    for content in (whole + whole, whole.replace("</testsuite>", '<testcase name="a & b"/></testsuite>')):
        report = read(content, tmp_path)

        assert results(report) == {"c/one": "pass", "(report)/junit.xml": "error"}
        assert "the file is broken" in report.cut_off["junit.xml"]
        assert "line 1" in report.cut_off["junit.xml"]


def test_numbers_and_names_beyond_all_measure_do_not_lose_the_report(tmp_path: Path) -> None:
    """The collector takes no such value, and would refuse the whole report for one test's."""
    report = read(
        '<testsuite name="a" time="1e300" failures="1e30" timestamp="0001-01-01T00:00:00+10:00">'
        f'<testcase classname="c" name="&#x202e;" time="1e17"><failure type="{"T" * 300}" message="m"/></testcase></testsuite>',
        tmp_path,
    )
    body = body_of(report, CiPlace(), "a", None, 1_800_000_000.0)
    run = parse_run(json.dumps(body).encode(), datetime(2027, 1, 15, tzinfo=UTC))

    assert {test.name for test in run.tests} == {"(no name)", "junit.xml"}
    assert run.duration_s == 0
    assert report.started_at is None


def test_a_test_that_failed_and_could_not_clean_up_is_told_by_its_failure(tmp_path: Path) -> None:
    """pytest writes two testcases then; the second says what the fixture could not do any more."""
    report = read(
        '<testsuite name="pytest" errors="1" failures="1"><testcase classname="t" name="pays"><failure message="assert 1 == 2"/></testcase>'
        '<testcase classname="t" name="pays"><error message="failed on teardown with &quot;OSError&quot;"/></testcase></testsuite>',
        tmp_path,
    )
    [pays] = report.tests

    assert (pays.result, pays.is_flaky, pays.failure.message if pays.failure else "") == ("fail", False, "assert 1 == 2")


def test_one_test_in_two_browsers_is_two_tests(tmp_path: Path) -> None:
    """Playwright's reporter names the browser as hostname: a failure in one of them is no flaky test."""
    suite = '<testsuite name="pay.spec.ts" hostname="{}"><testcase classname="pay.spec.ts" name="pays">{}</testcase></testsuite>'
    browsers = suite.format("chromium", "") + suite.format("webkit", '<failure message="x"/>')
    machines = suite.format("runner-17", "")

    assert results(read(f"<testsuites>{browsers}</testsuites>", tmp_path)) == {
        "pay.spec.ts/pays": "pass",
        "pay.spec.ts (webkit)/pays": "fail",
    }
    assert results(read(machines, tmp_path)) == {"pay.spec.ts/pays": "pass"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('<!DOCTYPE a [<!ENTITY b "x"><!ENTITY c "&b;&b;&b;&b;">]><testsuite><testcase name="&c;"/></testsuite>', "is refused"),
        ('<!DOCTYPE a SYSTEM "http://example.com/a.dtd"><testsuite/>', "is refused"),
        ("", "is empty"),
        ("<html><body>Sign in</body></html>", "begins with <html>"),
        ("not XML", "is no XML"),
    ],
)
def test_what_is_no_junit_xml_is_refused_by_name(content: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(JUnitError, match=says) as raised:
        read(content, tmp_path)

    assert "junit.xml" in str(raised.value)


def test_resources_are_read_where_the_plugin_wrote_them(tmp_path: Path) -> None:
    report = read(
        '<testsuite name="a" time="3"><properties><property name="isolation.memory_peak_bytes" value="1048576"/>'
        '<property name="isolation.wall_s" value="4.5"/><property name="other" value="1"/></properties>'
        '<testcase classname="c" name="n"><properties><property name="isolation.leaked_threads" value="2"/>'
        '<property name="isolation.left_behind" value="thread a; thread b"/></properties></testcase>'
        "</testsuite>",
        tmp_path,
    )

    assert report.resources == {"memory_peak_bytes": 1048576, "wall_s": 4.5}
    assert (report.tests[0].resources, report.tests[0].left_behind) == ({"leaked_threads": 2}, "thread a; thread b")
    assert report.duration_s == 4.5


def test_names_hold_no_machine_and_no_address(tmp_path: Path) -> None:
    """A name that changes from run to run would be a new test each time."""
    report = read(
        f'<testsuite name="a"><testcase classname="c" name="n[&lt;object at 0x7f3a2b104c10&gt;]" file="{tmp_path}/tests/a.js"/>'
        '<testcase classname="" name="m" file="/elsewhere/b.js"/></testsuite>',
        tmp_path,
    )

    assert [(test.group, test.name, test.file) for test in report.tests] == [
        ("c", "n[<object at 0x…>]", "tests/a.js"),
        ("a", "m", "b.js"),
    ]


def test_files_are_named_by_folder_and_pattern(tmp_path: Path) -> None:
    for name in ("a.xml", "deep/b.xml", "c.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")

    assert [path.name for path in files_of([".", "*.xml"], tmp_path)] == ["a.xml", "b.xml"]
    with pytest.raises(JUnitError, match="no such file"):
        files_of(["d*.xml"], tmp_path)
