"""Reads JUnit XML as the runners of many ecosystems write it: one list of tests, whatever the dialect.

There is no standard. What is told apart here: suites within suites (PHPUnit, node), tests without a suite (node), times that are missing
or written for people ("1,234.5", "0,5"), results as elements and as attributes (GoogleTest, CTest), `rerunFailure` and `flakyFailure`
(Surefire, nextest), tests that occur several times (repeats, reruns), text in CDATA, files in other encodings, characters that XML
forbids, and files that end in the middle because the runner was killed.

Files come from a build and may be hostile: entities and document types are refused (defusedxml), sizes are bounded, and a file is
read as a stream.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final, Literal, NamedTuple
from xml.parsers.expat import errors

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, iterparse

from isolation_monitor.cli.junit_values import count, duration, moment_of, seconds
from isolation_monitor.cli.printable import one_line
from isolation_monitor.cli.xml_mending import mended
from isolation_monitor.collector.ci.resources import AMOUNTS, LEFT_CHARS

Result = Literal["pass", "fail", "error", "skip"]

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
MAX_TESTS: Final = 50_000
_MESSAGE_CHARS: Final = 2_000
_DETAIL_CHARS: Final = 8_000
_NAME_CHARS: Final = 500
_KIND_CHARS: Final = 200
_MOST_USED: Final = 1e15
_DEPTH: Final = 100
_PROPERTY: Final = "isolation."
_LEFT_BEHIND: Final = "isolation.left_behind"
_ENDS: Final = frozenset(
    errors.codes[message] for message in (errors.XML_ERROR_NO_ELEMENTS, errors.XML_ERROR_UNCLOSED_TOKEN, errors.XML_ERROR_PARTIAL_CHAR,
                                   errors.XML_ERROR_UNCLOSED_CDATA_SECTION)
)  # fmt: skip
_FAILED: Final[dict[str, Result]] = {"failure": "fail", "error": "error"}
_AGAIN: Final[dict[str, Result]] = {"rerunFailure": "fail", "rerunError": "error", "flakyFailure": "fail", "flakyError": "error"}
_SUITE: Final = re.compile(rb"<(?:[\w.-]+:)?test(?:suites?|case)[\s/>]")
_SAYS_NOTHING: Final = frozenset({"", "test", "tests", "suite", "root suite", "mocha tests", "jest tests", "pytest", "(empty)"})
_NOT_RUN: Final = frozenset({"notrun", "disabled", "skipped", "ignored", "suppressed"})


class JUnitError(Exception):
    """A file cannot be read as JUnit XML; the text names it and says why."""


class NotJUnitError(JUnitError):
    """A file is XML of another kind, such as a coverage report."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a test did not pass. `kind` is the exception's type as the runner names it."""

    kind: str = ""
    message: str = ""
    detail: str = ""


@dataclass(slots=True)
class TestRun:
    """One test of a run. `group` is the class, package or suite that it belongs to; both together name it."""

    group: str
    name: str
    result: Result
    file: str = ""
    duration_s: float | None = None
    failure: Failure | None = None
    passes: int = 0
    failures: int = 0
    """How often it passed and failed in this run, reruns and repeats included."""
    resources: dict[str, float] = field(default_factory=dict)
    left_behind: str = ""
    """The names of what it leaked."""

    @property
    def is_flaky(self) -> bool:
        """Say whether it had both results in this run."""
        return self.passes > 0 and self.failures > 0


@dataclass(slots=True)
class Report:
    """What all files of a run say. `duration_s` is the run's, as the files tell it."""

    tests: list[TestRun] = field(default_factory=list)
    duration_s: float = 0.0
    started_at: datetime | None = None
    suite_names: list[str] = field(default_factory=list)
    root_names: list[str] = field(default_factory=list)
    """Of `suite_names` those that name a whole file of suites."""
    resources: dict[str, float] = field(default_factory=dict)
    cut_off: dict[str, str] = field(default_factory=dict)
    """Files that end in the middle, or are no XML from there on, and why: what came before is here."""
    digest: str = ""


class Place(NamedTuple):
    """Where a file has a test: the test's own file or the suites around it, and the `hostname` of its suite."""

    around: str
    host: str = ""


_Seen = dict[tuple[str, str], dict[Place, TestRun]]


def read_reports(paths: Sequence[Path], root: Path) -> Report:
    """Return what the files say together. Names of files below `root` become relative to it.

    Raises:
        JUnitError: a file is missing, too large, no JUnit XML, or holds what is refused.
    """
    report, digest = Report(), hashlib.sha256()
    seen: _Seen = {}
    for path in paths:
        try:
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise JUnitError(f"{path}: has {size} bytes, at most {MAX_FILE_BYTES} are read: write one file a suite")
            content = path.read_bytes()
        except OSError as error:
            raise JUnitError(f"{path}: cannot be read ({error.strerror})") from None
        digest.update(hashlib.sha256(content).digest())
        _read_file(path, content, root, report, seen)
    for name, message in report.cut_off.items():
        report.tests.append(TestRun("(report)", name, "error", failure=Failure("", message), failures=1))
    report.digest = digest.hexdigest()
    return report


def _read_file(path: Path, content: bytes, root: Path, report: Report, seen: _Seen) -> None:
    if not content.strip():
        raise JUnitError(f"{path}: is empty: the runner did not come to its end")
    reader = _Reader(path, root)
    try:
        try:
            reader.read(io.BytesIO(content))
        except (ParseError, ValueError):
            # Once more with what XML forbids taken out, in the encoding that it says or seems to have. ValueError: expat knows
            # no encoding of several bytes but UTF-8 and UTF-16.
            reader = _Reader(path, root)
            try:
                reader.read(io.BytesIO(mended(content)))
            except ParseError as error:
                if not reader.tests:
                    raise JUnitError(f"{path}: is no XML ({error})") from None
                report.cut_off[path.name] = _why_cut_off(error)
    except DefusedXmlException as error:
        if _SUITE.search(content.replace(b"\0", b"")) is None:
            # JaCoCo and Cobertura write one: it often lies beside the tests. NUL: UTF-16.
            raise NotJUnitError(f"{path}: is no JUnit XML, it has a document type and no <testsuite>") from None
        raise JUnitError(f"{path}: is refused, it has a document type or entities ({type(error).__name__})") from None
    except LookupError as error:
        raise JUnitError(f"{path}: is in an encoding that is not known here ({error})") from None
    if not reader.is_junit:
        raise NotJUnitError(f"{path}: is no JUnit XML, it begins with <{reader.root_tag}>: expected <testsuites> or <testsuite>")
    if (unnamed := reader.unnamed()) and path.name not in report.cut_off:
        message = f"the runner counts {unnamed} more failures than it names: something could not be built or loaded, or died; see its log"
        reader.tests.append((TestRun("(report)", path.name, "error", failure=Failure("", message), failures=unnamed), Place(path.name)))
    # One host is the machine, which is no part of a name; several in one file are browsers.
    has_hosts = len({place.host for _, place in reader.tests}) > 1
    for test, place in reader.tests:
        _merge(test, place if has_hosts else Place(place.around), report.tests, seen)
    if len(report.tests) > MAX_TESTS:
        raise JUnitError(f"{path}: there are more than {MAX_TESTS} tests: send one report a suite, with --suite")
    report.duration_s += reader.duration_s
    report.suite_names += reader.suite_names
    report.root_names += reader.suite_names[:1] if reader.has_root_name else []
    if reader.started_at is not None:
        report.started_at = reader.started_at if report.started_at is None else min(report.started_at, reader.started_at)
    for name, value in reader.resources.items():
        # What a process holds at its peak is not added up over files; all else is.
        together = max if name == "memory_peak_bytes" else float.__add__
        report.resources[name] = together(report.resources.get(name, 0.0), value)


def _merge(test: TestRun, place: Place, tests: list[TestRun], seen: _Seen) -> None:
    """Put a test beside the others; one that was there already, at the same place, ran again.

    Two tests of one name at different places are two tests: the second carries its place in its name.
    """
    places = seen.setdefault((test.group, test.name), {})
    first = places.get(place)
    if first is None:
        if places:
            differs = place.host if any(one.around == place.around for one in places) else place.around
            test.group = f"{test.group} ({differs or len(places) + 1})"[:_NAME_CHARS]
        places[place] = test
        tests.append(test)
        return
    never_passed = not first.passes
    first.passes += test.passes
    first.failures += test.failures
    if test.duration_s is not None:
        first.duration_s = max(first.duration_s or 0.0, test.duration_s)
    for name, value in test.resources.items():
        first.resources[name] = max(first.resources.get(name, 0.0), value)
    first.left_behind = first.left_behind or test.left_behind
    if test.result in ("fail", "error"):
        # pytest tells a test that failed and whose clean-up failed, too, as two: what the test itself says counts.
        if not (first.result == "fail" and test.result == "error"):
            first.result, first.failure = test.result, test.failure
    elif test.result == "pass" and first.result in ("fail", "error"):
        # Failed until it passed, and then no more: a rerun, which runners count as passed. A failure among repeats stays one.
        first.result = "pass" if never_passed else first.result
    elif first.result == "skip":
        first.result = test.result


def _why_cut_off(error: Any) -> str:  # Any: an exception of a library without types
    if error.code in _ENDS:
        return "the file ends in the middle: the runner was killed, or is still writing"
    return f"the file is broken ({error}): what follows was not read"


class _Reader:
    """Reads one file."""

    def __init__(self, path: Path, root: Path) -> None:
        self._path = path
        self._root = root
        self.root_tag = ""
        self.is_junit = False
        self.tests: list[tuple[TestRun, Place]] = []
        self.suite_names: list[str] = []
        self.has_root_name = False
        self.started_at: datetime | None = None
        self.resources: dict[str, float] = {}
        self._told_s: float | None = None
        self._suites_s = 0.0
        self._tests_s = 0.0
        self._told_all: int | None = None
        self._told = 0
        self._found = 0

    @property
    def duration_s(self) -> float:
        """Return how long the file says that the run took: as measured, as told for all, for the suites, for the tests."""
        return self.resources.get("wall_s") or self._told_s or self._suites_s or self._tests_s

    def read(self, source: IO[bytes]) -> None:
        suites: list[Any] = []
        inside_case = False
        for event, element in iterparse(source, events=("start", "end"), forbid_dtd=True):
            tag = _local(element.tag)
            if event == "start":
                if not self.root_tag:
                    self.root_tag = tag
                    self.is_junit = tag in ("testsuites", "testsuite", "testcase")
                    if not self.is_junit:
                        return
                if tag == "testcase":
                    inside_case = True
                elif tag in ("testsuites", "testsuite"):
                    if len(suites) >= _DEPTH:
                        raise JUnitError(f"{self._path}: suites are nested deeper than {_DEPTH}")
                    suites.append(element)
                    self._suite(tag, element, len(suites))
                continue
            if tag == "testcase":
                inside_case = False
                host = suites[-1].get("hostname", "").strip() if suites else ""
                self._case(element, [one.get("name", "").strip() for one in suites if _local(one.tag) == "testsuite"], host)
                _forget(element, suites)
            elif tag in ("testsuites", "testsuite"):
                suites.pop()
                _forget(element, suites)
            elif not inside_case:
                if tag == "property":
                    self._property(element)
                if tag in ("property", "properties", "system-out", "system-err"):
                    _forget(element, suites)

    def _suite(self, tag: str, element: Any, depth: int) -> None:  # Any: an element of a library without types
        name, told = element.get("name", "").strip(), duration(element.get("time"))
        failed = count(element.get("failures")) + count(element.get("errors"))
        if depth == 1 and ("failures" in element.keys() or "errors" in element.keys()):  # noqa: SIM118 - an element is no mapping
            self._told_all = failed
        elif depth == 2:
            self._told += failed
        if depth <= 2 and name:
            self.suite_names.append(name)
            self.has_root_name |= tag == "testsuites"
        if tag == "testsuites" or (depth == 1):
            self._told_s = told or None
        elif depth == 2 and self.root_tag == "testsuites":
            self._suites_s += told or 0.0
        moment = moment_of(element.get("timestamp"))
        if moment is not None and (self.started_at is None or moment < self.started_at):
            self.started_at = moment

    def _property(self, element: Any) -> None:  # Any: as above
        name, value = _resource(element)
        if name:
            self.resources[name] = max(self.resources.get(name, 0.0), value)

    def _case(self, element: Any, suites: list[str], host: str) -> None:  # Any: as above
        group = (element.get("classname") or element.get("class") or "").strip()
        path = [name for name in suites if name.lower() not in _SAYS_NOTHING and not name.startswith("/")]
        name = (element.get("name") or "").strip()
        # Some runners repeat the title as the class: what the test belongs to then stands around it.
        if group.lower() in _SAYS_NOTHING or name == group or name.endswith(f" {group}"):
            group = " > ".join(path)
        file = _relative((element.get("file") or element.get("filepath") or "").strip(), self._root)
        if not group and file:
            group = file
        result, failure, passes, failures = _outcome(element)
        resources, left_behind = _used(element)
        duration_s = duration(element.get("time"))
        self._tests_s += duration_s or 0.0
        # Surefire names a class alone where what it does before or after all of its tests went wrong.
        unnamed = "(whole class)" if group and not name else "(no name)"
        test = TestRun(
            _stable(group)[:_NAME_CHARS], _stable(name)[:_NAME_CHARS] or unnamed, result, file[:_NAME_CHARS], duration_s, failure,
            passes, failures, resources, left_behind,
        )  # fmt: skip
        self._found += failures
        # Playwright tells a test once for each browser, in suites that differ by `hostname` alone: no repeats, but other tests.
        self.tests.append((test, Place(file or " > ".join(path), host)))

    def unnamed(self) -> int:
        """Return how many failures the runner counts and does not name: a package that does not build, a suite that died."""
        return max(0, (self._told_all if self._told_all is not None else self._told) - self._found)


def _outcome(element: Any) -> tuple[Result, Failure | None, int, int]:  # Any: as above
    """Return the result of a test, why, and how often it passed and failed."""
    result: Result = "pass"
    failure: Failure | None = None
    again: Failure | None = None
    output, failures, is_told = "", 0, False
    for child in element:
        tag = _local(child.tag)
        if tag in _FAILED:
            is_told = True
            failures += 1
            if failure is None or (result == "error" and tag == "failure"):
                result, failure = _FAILED[tag], _failure(child)
        elif tag in _AGAIN:
            failures += 1
            again = again or _failure(child)
        elif tag in ("skipped", "disabled", "ignored") and not is_told:
            is_told, result = True, "skip"
        elif tag in ("system-out", "system-err") and not output:
            output = _text(child)
    status = f"{element.get('status', '')} {element.get('result', '')}".lower().split()
    if not is_told and _NOT_RUN.intersection(status):
        result = "skip"
    elif not is_told and {"fail", "failed", "failure"}.intersection(status):
        result, failures, failure = "fail", failures + 1, Failure("", "", _bounded(output, _DETAIL_CHARS))
    if failure is not None and not failure.message and not failure.detail:
        failure = Failure(failure.kind, "", _bounded(output, _DETAIL_CHARS))
    elif failure is not None and not failure.detail:
        failure = Failure(failure.kind, failure.message, _bounded(output, _DETAIL_CHARS))
    # Only flaky tests keep the failure of an attempt that another one made good.
    return result, failure or again, int(result == "pass"), failures


def _used(element: Any) -> tuple[dict[str, float], str]:  # Any: as above
    """Return what a test used, and the names of what it left behind."""
    resources, left_behind = {}, ""
    for properties in (child for child in element if _local(child.tag) == "properties"):
        for one in properties:
            name, value = _resource(one)
            if name:
                resources[name] = value
            elif one.get("name") == _LEFT_BEHIND:
                left_behind = _bounded((one.get("value") or one.text or "").strip(), LEFT_CHARS)
    return resources, left_behind


def _failure(element: Any) -> Failure:  # Any: as above
    stack = next((_text(child) for child in element if _local(child.tag) in ("stackTrace", "system-out")), "")
    detail = (element.text or "").strip() or stack.strip()
    return Failure(
        (element.get("type") or "").strip()[:_KIND_CHARS], _bounded((element.get("message") or "").strip(), _MESSAGE_CHARS),
        _bounded(detail, _DETAIL_CHARS),
    )  # fmt: skip


def _resource(element: Any) -> tuple[str, float]:  # Any: as above
    """Return name and value of a property that tells what was used; an empty name for any other."""
    name = (element.get("name") or "").removeprefix(_PROPERTY)
    if not (element.get("name") or "").startswith(_PROPERTY) or name not in AMOUNTS:
        return "", 0.0
    value = seconds(element.get("value") or element.text)
    return (name, value) if value is not None and value <= _MOST_USED else ("", 0.0)


def _forget(element: Any, suites: list[Any]) -> None:  # Any: as above
    """Drop what was read, also from the suite around it: a large file must not become a large tree."""
    element.clear()
    if suites:
        for child in list(suites[-1]):
            suites[-1].remove(child)


def _local(tag: object) -> str:
    """Return a tag without its namespace; comments and instructions have none."""
    return tag.rsplit("}", 1)[-1] if isinstance(tag, str) else ""


def _text(element: Any) -> str:  # Any: as above
    return "".join(element.itertext())


def _bounded(text: str, chars: int) -> str:
    """Return the beginning and the end of a long text, which is then a little longer than `chars`: causes stand at either."""
    return text if len(text) <= chars else f"{text[: chars // 2]}\n… {len(text) - chars} characters left out …\n{text[-(chars // 2) :]}"


def _stable(name: str) -> str:
    """Return a name without the address of an object, which is another one in each run, and without what cannot be seen."""
    return re.sub(r"\b0x[0-9a-fA-F]{6,16}\b", "0x…", one_line(name))


def _relative(file: str, root: Path) -> str:
    """Return a file's name below `root`; only its own name where it lies elsewhere, because that differs between machines."""
    if not file:
        return ""
    path = file.replace("\\", "/")
    if path.startswith(f"{root.as_posix()}/"):
        return path[len(root.as_posix()) + 1 :]
    return path.rsplit("/", 1)[-1] if path.startswith("/") or re.match(r"[A-Za-z]:/", path) else path.removeprefix("./")


def files_of(patterns: Sequence[str], root: Path) -> list[Path]:
    """Return the files that the patterns name: files, folders (all `*.xml` below) and globs, each once, in order.

    Raises:
        JUnitError: one of them names nothing.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        matches = list(_matching(pattern, root))
        if not matches:
            raise JUnitError(f"{pattern}: there is no such file: did the tests write their JUnit XML there?")
        found.update(dict.fromkeys(matches))
    return list(found)


def _matching(pattern: str, root: Path) -> Iterator[Path]:
    path = root / pattern
    if path.is_dir():
        yield from sorted(path.rglob("*.xml"))
    elif path.exists():
        yield path
    elif any(sign in pattern for sign in "*?["):
        base = Path(path.anchor) if path.is_absolute() else root
        yield from sorted(one for one in base.glob(str(path.relative_to(base))) if one.is_file())
