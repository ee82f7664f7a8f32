"""Why a test failed: its category, a fingerprint that stays the same from run to run, and the likely cause in a sentence.

Everything is decided by text, because that is all that JUnit files of ten ecosystems have in common. What the message itself says
counts first; the detail (a stack, a log) is asked only when the message says nothing: logs name many things that did not fail.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

Category = Literal[
    "isolation_violation",
    "out_of_memory",
    "port_conflict",
    "database_connection",
    "connection_refused",
    "import",
    "timeout",
    "exit_handler",
    "fixture",
    "assertion",
    "unknown",
]
CATEGORIES: Final[tuple[Category, ...]] = get_args(Category)

_SHARED: Final[frozenset[str]] = frozenset(
    {
        "isolation_violation",
        "out_of_memory",
        "port_conflict",
        "database_connection",
        "connection_refused",
        "import",
        "exit_handler",
        "fixture",
    }
)
"""Categories whose cause lies outside of the test: the same trouble in two tests has one fingerprint. Others are a test's own."""

_OF_A_PORT: Final[frozenset[str]] = frozenset({"port_conflict", "database_connection", "connection_refused"})
_EPHEMERAL_FROM: Final = 32_768
"""Ports from here on are given out by the system, another one each time (Linux; RFC 6335: 49152). Those below say which service it is."""

_HEAD_CHARS: Final = 4_000
_DETAIL_CHARS: Final = 20_000
_FINGERPRINT_CHARS: Final = 300


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a failure's text says. `fingerprint` is 16 hex digits; `cause` is one sentence for people, `said` what the failure says."""

    category: Category
    fingerprint: str
    cause: str
    said: str = ""


def diagnose(test: str, kind: str, message: str, detail: str = "") -> Diagnosis:
    """Return the diagnosis of one failure.

    `test` is the test's key; `kind` the exception's type as the runner names it, or empty; `message` what it says; `detail` the stack
    and output that follow.
    """
    kind, message, detail = _plain(kind[:200]), _plain(message[:_HEAD_CHARS]), _plain(_ends(detail, _DETAIL_CHARS))
    if not message.strip():
        message = _said(detail)
    category = categorize(kind, message, detail)
    about = "" if category in _SHARED else test
    telling = _said(detail) or message if _EMPTY_WORDS.fullmatch(message.strip()) else message
    said = normalize(_first_lines(telling))[:_FINGERPRINT_CHARS]
    text = "\n".join((category, about, kind.rsplit(".", 1)[-1], said, _service_port(telling) if category in _OF_A_PORT else ""))
    fingerprint = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
    return Diagnosis(category, fingerprint, _cause(category, f"{kind}\n{message}", detail), telling[:1000])


def categorize(kind: str, message: str, detail: str) -> Category:
    """Return the category of a failure by its texts.

    >>> categorize("ConnectionRefusedError", "[Errno 111] Connection refused", "")
    'connection_refused'
    >>> categorize("AssertionError", "assert response.timeout == 5", "")
    'assertion'
    """
    head = f"{kind}\n{message}"
    for category, pattern in _SPECIFIC:
        if pattern.search(head):
            return category
    if _FIXTURE.search(head):
        # What broke the fixture is more useful than that a fixture broke.
        return next((category for category, pattern in _SPECIFIC if pattern.search(detail)), "fixture")
    if _ASSERTION.search(head):
        return "assertion"
    for category, pattern in (*_SPECIFIC, ("fixture", _FIXTURE), ("assertion", _ASSERTION)):
        if pattern.search(detail):
            return category
    return "unknown"


def normalize(text: str) -> str:
    """Return `text` without what changes from run to run: addresses, ids, times, durations, ports, line numbers, machine paths.

    >>> normalize("at 0x7f3a2b10, line 12: took 3.2 ms in /home/ci/build/app.py:40")
    'at ADDR, line N: took TIME in app.py:N'
    """
    for pattern, instead in _CHANGING:
        text = pattern.sub(instead, text)
    return " ".join(text.split())


def _re(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


_DATABASE_PORTS: Final = r"(?:5432|5433|6432|3306|33060|27017|6379|1433|1521|9042|26257)"

_SPECIFIC: Final[tuple[tuple[Category, re.Pattern[str]], ...]] = (
    (
        "isolation_violation",
        _re(r"isolation[ _-]?violation", r"\bisolation (?:was )?broken\b", r"\bIsolationError\b"),
    ),
    (
        "out_of_memory",
        _re(
            *(r"\bMemoryError\b", r"OutOfMemory", r"\bout of memory\b", r"cannot allocate memory", r"\bbad_alloc\b", r"\bOOM[- ]?killed\b"),
            *(r"allowed memory size of \d+", r"\bENOMEM\b", r"exit(?:ed)?(?: with)?(?: code| status)? 137\b", r"\bsignal: killed\b"),
        ),
    ),
    (
        "port_conflict",
        _re(
            *(r"\bEADDRINUSE\b", r"address (?:is )?already in use", r"port is already (?:allocated|in use)", r"\bBindException\b"),
            *(r"only one usage of each socket address", r"port \d+ (?:is )?(?:already )?in use", r"\bAddrInUse\b"),
        ),
    ),
    (
        "database_connection",
        _re(
            *(r"could not connect to server", r"connection to server at .{1,200}? failed", r"SQLSTATE\[?\s?08", r"\[HY000\] \[200[23]\]"),
            *(r"communications link failure", r"too many (?:clients|connections)", r"remaining connection slots are reserved"),
            *(r"MongoServerSelectionError", r"MongoNetworkError", r"ServerSelectionTimeoutError", r"QueuePool limit of size"),
            *(r"(?:Hikari\w*|connection pool).{0,80}(?:not available|exhausted|timed? ?out)", r"\bCannotConnectNowError\b"),
            *(r"redis\S{0,40}ConnectionError", r"database is locked", r"lost connection to (?:MySQL|server during query)"),
            *(r"PG::ConnectionBad", r"ActiveRecord::ConnectionNotEstablished", r"asyncpg\.\S*Connection\w*Error", r"\bORA-12\d{3}\b"),
            *(r"password authentication failed for user", r"can't connect to (?:local )?(?:MySQL|MariaDB|server)"),
            rf"(?:ECONNREFUSED|connection refused|connect call failed)[^\n]{{0,100}}?\b{_DATABASE_PORTS}\b",
            rf"\b{_DATABASE_PORTS}\b[^\n]{{0,100}}?(?:ECONNREFUSED|connection refused)",
        ),
    ),
    (
        "connection_refused",
        _re(
            *(r"\bECONNREFUSED\b", r"connection refused", r"\bConnectionRefused\w*", r"actively refused", r"connect call failed"),
            *(r"\bConnectException\b", r"failed to connect to \S+ port \d+", r"all connection attempts failed"),
        ),
    ),
    (
        "import",
        _re(
            *(r"\bModuleNotFoundError\b", r"\bImportError\b", r"cannot find (?:module|package)", r"\bNoClassDefFoundError\b"),
            *(r"\bno module named\b", r"cannot import name"),
            *(r"\bClassNotFoundException\b", r"cannot load such file", r"unresolved import", r"error while loading shared libraries"),
            *(r"\bcollection failure\b", r"no required module provides package", r"Can't locate \S+ in @INC", r"\bERR_MODULE_NOT_FOUND\b"),
            *(
                r"Class [\"']\S+[\"'] not found",
                r"\[(?:build|setup) failed\]",
                r"failed to resolve import",
                r"does not provide an export named",
            ),
        ),
    ),
    (
        "timeout",
        _re(
            *(r"\btimed[- ]?out\b", r"\bTimeout(?:Error|Exception|Expired)\b", r"\bTestTimedOut", r"exceeded (?:the )?timeout"),
            *(
                r"\bdeadline exceeded\b",
                r"timeout of [\d.]+ ?m?s",
                r"\btimeout ?\(?>? ?[\d.]+ ?m?s",
                r"\bETIMEDOUT\b",
                r"\bDeadlineExceeded\b",
            ),
            *(r"^timeout$", r"\ntimeout\s*$", r"execution timed", r"\btestTimeoutFailure\b", r"^test timeout(?:\n|$)"),
        ),
    ),
    (
        "exit_handler",
        _re(
            *(r"\batexit\b", r"shutdown hook", r"failed to exit gracefully", r"did not exit (?:one second|within|in time)"),
            *(r"asynchronous activity after the test ended", r"exit handler", r"exception ignored in:? .{0,80}(?:finali|shutdown|__del__)"),
            *(r"\bat_exit\b", r"register_shutdown_function", r"process exited unexpectedly", r"forked VM terminated"),
        ),
    ),
)
"""In this order: what is narrower comes first."""

_FIXTURE: Final = _re(
    *(r"failed on (?:setup|teardown) with", r"\bfixture\b.{0,80}\bnot found", r"\btest (?:setup|teardown) failure\b", r"\bScopeMismatch\b"),
    *(
        r"\"(?:before|after) (?:each|all)\" hook",
        r"\b(?:before|after)(?:Each|All|Class)\b",
        r"\bset_?up(?:_?class|_?module)\b",
        r"\bhookFailed\b",
    ),
    *(r"\btear_?down(?:_?class|_?module)?\b", r"@(?:Before|After)(?:Each|All|Class)?\b", r"error at setup of", r"error at teardown of"),
)
_ASSERTION: Final = _re(
    *(r"assert(?:ion)?[ _]?(?:error|failed|failure|exception)", r"\bassert(?:ion)?\b", r"\bexpect(?:ed|ation|s)?\b", r"ComparisonFailure"),
    *(
        r"\bERR_ASSERTION\b",
        r"not equal",
        r"does not (?:match|equal|contain)",
        r"Failed asserting",
        r"\bnot ok\b",
        r"\bgot\b.{0,200}\bwant\b",
    ),
    *(r"\bwant\b.{0,200}\bgot\b", r"\bDID NOT RAISE\b", r"\bShould\w*\("),
)

_CHANGING: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE), "UUID"),
    (re.compile(r"\b\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?"), "MOMENT"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.IGNORECASE), "ADDR"),
    (re.compile(r"@[0-9a-f]{5,16}\b", re.IGNORECASE), "@ADDR"),
    # Folders differ between machines; the file is what matters.
    (re.compile(r"(?:[A-Za-z]:)?(?:[\\/][\w.@+~-]+)*[\\/](?=[\w.@+~-]+)"), ""),
    (re.compile(r"\b\d+(?:[.,]\d+)? ?(?:ns|us|µs|ms|s|secs?|seconds?|min(?:utes)?|hours?|milliseconds?)\b", re.IGNORECASE), "TIME"),
    (re.compile(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{7,64}\b", re.IGNORECASE), "HEX"),
    (re.compile(r"-?\d+(?:[.,]\d+)*"), "N"),
)
_ANSI: Final = re.compile(r"(?:\x1b|␛|#x1B)\[[0-9;?]*[A-Za-z]")
_PANICKED: Final = r"thread '[^'\n]*' (?:\(\d+\) )?panicked at \S+:\d+:\d+:?"
"""Rust since 1.73: what it panicked for stands on the next line; the number is that of a thread, another one each time."""
_EMPTY_WORDS: Final = re.compile(rf"(?:collection failure|test failed|failed|failure|errored|error)\.?|{_PANICKED}", re.IGNORECASE)
"""Messages of runners that say nothing of the failure."""
_TELLS: Final = re.compile(
    # PHPUnit repeats the test's name.
    rf"(?!\s*(?:=== |--- |Traceback |\[?Error \[ERR_TEST_FAILURE|{_PANICKED}$|[\w\\]+::\w+(?: with data set .*)?$|$))."
)
"""Lines that are not only headings of a runner."""
_MARKED: Final = re.compile(r"^E\s+(\S.*)$", re.MULTILINE)
_EXCEPTION: Final = re.compile(
    # Blanks of its own line only: over thousands of empty lines each would be tried to the end, for seconds.
    r"^[^\S\n]*((?:[\w$]+[.:/]+)*[A-Z][\w$]*(?:Error|Exception|Failure|Panic|Warning|Exit|Expired)\b.*)$",
    re.MULTILINE,
)


def _plain(text: str) -> str:
    return _ANSI.sub("", text).replace("\r", "")


def _ends(text: str, chars: int) -> str:
    """Return the beginning and the end of a long text: causes stand at either."""
    return text if len(text) <= chars else text[: chars // 2] + "\n…\n" + text[-chars // 2 :]


def _said(detail: str) -> str:
    """Return what a stack says for itself: the first line that names an exception (pytest marks it with E), or the first line."""
    found = _MARKED.search(detail) or _EXCEPTION.search(detail)
    return found[1] if found else next((line.strip() for line in detail.splitlines() if _TELLS.match(line)), "")


def _first_lines(message: str) -> str:
    return "\n".join(line for line in message.splitlines() if line.strip())[: 4 * _FINGERPRINT_CHARS].split("\n\n")[0]


# --- causes -----------------------------------------------------------------------------------------------------------


def _cause(category: Category, head: str, detail: str) -> str:
    return _CAUSES[category](head, detail)


def _found(pattern: str, *texts: str) -> str:
    """Return the first group of the first match in any of the texts; empty when there is none."""
    for text in texts:
        if found := re.search(pattern, text, re.IGNORECASE):
            return next((group for group in found.groups() if group), "")
    return ""


def _place(*texts: str) -> str:
    """Return the host and port that an error speaks of, from a line that speaks of connecting: stacks are full of `file:line`."""
    for text in texts:
        for line in text.splitlines():
            if _CONNECTING.search(line):
                for found in _ADDRESS.finditer(line):
                    if not _IS_FILE.search(found[1]):
                        return f"{found[1]}:{found[2]}"
                if pair := re.search(r"\('([\w.:-]+)', (\d{1,5})", line):
                    return f"{pair[1]}:{pair[2]}"
    return ""


_CONNECTING: Final = _re("refus", "connect", r"\bdial\b", "listen", r"\bbind\b", "in use", "EADDR")
_ADDRESS: Final = re.compile(
    r"(?<![\w./@-])((?:\d{1,3}\.){3}\d{1,3}|\[[0-9a-f:]+\]|::\d?|[a-z][a-z0-9-]*(?:\.[a-z0-9-]+)*):(\d{1,5})\b(?!:\d)", re.IGNORECASE
)
_IS_FILE: Final = _re(
    r"\.(?:py|go|[cm]?[jt]sx?|java|kt|rb|php|rs|c|cc|cpp|h|cs|pl|pm|t|ex|exs|swift|scala|lua|dart)$", r"^(?:line|node|port)$"
)


def _service_port(text: str) -> str:
    """Return the port that a service is known by; empty where there is none, or one that changes from run to run."""
    port = _place(text).rpartition(":")[2] or _found(r"\bport:? (\d{2,5})\b", text)
    return port if port and int(port) < _EPHEMERAL_FROM else ""


def _refused(head: str, detail: str) -> str:
    place = _place(head, detail)
    return f"Nothing listens at {place or 'the address that the test calls'}: the service was not started, was not ready yet, or had died."


def _port(head: str, detail: str) -> str:
    port = _place(head, detail).rpartition(":")[2] or _found(r"port:? (\d{2,5})|(?:in use|EADDRINUSE)\D{0,40}?:(\d{2,5})\b", head, detail)
    return f"Port {port or 'in question'} is taken: another test, or a process left by an earlier run, holds it. Ask for port 0 instead."


def _database(head: str, detail: str) -> str:
    place, text = _place(head, detail), f"{head}\n{detail}"
    if re.search(r"too many|slots are reserved|QueuePool|pool", text, re.IGNORECASE):
        return "The database or the pool has no connection left: sessions leak, or more tests run at once than it allows."
    if re.search(r"password|authentication", text, re.IGNORECASE):
        return "The database refuses the user or the password: the environment of this run differs from the one it was made for."
    if re.search(r"database is locked", text, re.IGNORECASE):
        return "Another connection holds the lock of the SQLite file: tests share a file, or a transaction was left open."
    return f"The database {'at ' + place + ' ' if place else ''}does not answer: it was not started, was not ready yet, or had died."


def _import(head: str, detail: str) -> str:
    name = _found(
        r"No module named ['\"]?([\w.-]+)|cannot import name ['\"](\w+)|Cannot find (?:module|package) ['\"]([^'\"\n]+)"
        r"|(?:NoClassDefFoundError|ClassNotFoundException):? ([\w./$]+)|cannot load such file -- (\S+)|unresolved import `?([\w:]+)"
        r"|Can't locate (\S+) in @INC|Class [\"'](\S+?)[\"'] not found|loading shared libraries: (\S+?):|provides package (\S+)",
        head,
        detail,
    )
    what = f"{name} is not there" if name else "The tests' code could not be loaded or built"
    return f"{what}: a dependency is missing in this environment, or a name has changed."


def _timeout(head: str, detail: str) -> str:
    limit = _found(r"(\d+(?:\.\d+)? ?(?:ms|s|sec(?:ond)?s?|min(?:utes)?)\b)", head)
    return (
        f"Something that was waited for did not happen{' within ' + limit if limit else ''}: it hangs, or the machine was too slow for it."
    )


def _memory(_head: str, _detail: str) -> str:
    return "The process had no memory left: something grows without bound, or too much runs at once for the machine's limit."


def _fixture(head: str, detail: str) -> str:
    name = _found(r"fixture ['\"]?(\w+)['\"]? not found", head, detail)
    if name:
        return f"There is no fixture {name}: its name has changed, or the file that defines it is not loaded."
    return "What prepares the test, or cleans up after it, failed: the test itself said nothing."


_CAUSES: Final[dict[str, Callable[[str, str], str]]] = {
    "isolation_violation": lambda _head, _detail: (
        "One user's work touched another's while the test ran: the evidence names both sides and what they shared."
    ),
    "out_of_memory": _memory,
    "port_conflict": _port,
    "database_connection": _database,
    "connection_refused": _refused,
    "import": _import,
    "timeout": _timeout,
    "exit_handler": lambda _head, _detail: (
        "The process did not end in order: something was still at work, or what runs at exit failed, after the tests were done."
    ),
    "fixture": _fixture,
    "assertion": lambda _head, _detail: "The code does not do what the test says: compare what was expected with what came.",
    "unknown": lambda _head, _detail: "The text names no cause that is known here: read the stack.",
}
