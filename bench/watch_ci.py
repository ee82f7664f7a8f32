"""How fast the pages of CI answer with 10,000 stored runs, and how long one report takes to be kept among them.

The runs are stored as a collector stores them, on SQLite: 20 suites of 40 tests, 500 runs each over 30 days, every tenth run with failures,
and one suite of 5,000 tests whose runs measured what each test used. The row of runners reads the files that real runners of different
ecosystems wrote (`tests/junit_files`, made by its `make.py`).
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx2

from bench.rows import Row
from isolation_monitor.cli.junit import read_reports
from isolation_monitor.collector.app import create_app
from isolation_monitor.collector.ci.domain import Failing, Origin, Run, TestResult, key_of
from isolation_monitor.collector.ci.failures import diagnose
from isolation_monitor.collector.ci.resources import AMOUNTS, Use
from isolation_monitor.collector.clock import utc_now
from isolation_monitor.collector.settings import load_settings
from isolation_monitor.collector.storage.schema import migrate

SUITES: Final = 20
TESTS: Final = 40
RUNS: Final = 10_000
BUDGET_MS: Final = 200.0
JUNIT_FILES: Final = Path(__file__).resolve().parent.parent / "tests" / "junit_files"
BIG: Final = "big"
BIG_TESTS: Final = 5_000
_BIG_RUNS: Final = 31
"""One more than a page shows."""
_BATCH: Final = 200
_LOOKS: Final = 15
_BASE: Final = "http://127.0.0.1:8400"


async def rows(quick: bool) -> list[Row]:
    """Return the rows: each page's median, and one report's."""
    number = 400 if quick else RUNS
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{Path(folder) / 'ci.sqlite3'}"
        await migrate(url)
        app = create_app(load_settings(database_url=url, send_token="bench-send", read_token="bench-read", base_url=_BASE))
        transport = httpx2.ASGITransport(app=app)
        async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport, base_url=_BASE) as client:
            runs = list(invented_runs(number + _LOOKS))
            for start in range(0, number, _BATCH):
                await app.state.ci.store_all(runs[start : min(number, start + _BATCH)])
            big = list(big_runs(3 if quick else _BIG_RUNS))
            for run in big:
                await app.state.ci.store(run)
            await client.post("/sign-in", data={"token": "bench-read"}, headers={"Origin": _BASE})
            found = []
            paths = (
                ("ci page", "/ci"),
                ("ci page of a suite", "/ci/suites/suite-3"),
                ("ci page of a run", f"/ci/runs/{runs[9].id}"),
                ("ci page of a test", f"/ci/tests/{runs[9].tests[0].key}?suite={runs[9].suite}"),
                ("ci page of a test, one commit", f"/ci/tests/{runs[9].tests[0].key}?suite={runs[9].suite}&commit={runs[9].commit}"),
                ("ci page of a test of 5,000", f"/ci/tests/{big[0].tests[BIG_TESTS // 2].key}?suite={BIG}"),
                ("ci page of a run of 5,000", f"/ci/runs/{big[0].id}"),
                ("ci page, one branch", "/ci?branch=main"),
                ("ci page, one commit", f"/ci?commit={runs[9].commit[:39]}"),
            )
            for name, path in paths:
                took = []
                for _ in range(_LOOKS):
                    began = time.perf_counter()
                    answer = await client.get(path, headers={"Accept": "text/html"})
                    took.append(1000 * (time.perf_counter() - began))
                    answer.raise_for_status()
                    if answer.status_code != 200:
                        raise RuntimeError(f"{path} was answered {answer.status_code}")
                note = f"{number} runs stored"
                found.append(Row(name, statistics.median(took), "ms", BUDGET_MS, spread=(min(took), max(took)), note=note))
            took = []
            for run in runs[number:]:
                began = time.perf_counter()
                await app.state.ci.store(run)
                took.append(1000 * (time.perf_counter() - began))
            found.append(runners())
            found.append(Row("ci report kept", statistics.median(took), "ms", spread=(min(took), max(took)), note=f"{TESTS} tests"))
    return found


def runners() -> Row:
    """Return how many real runners' files are read: those that have tests that passed and tests that did not."""
    versions: dict[str, str] = json.loads((JUNIT_FILES / "versions.json").read_text(encoding="utf-8"))
    read = []
    for name, version in sorted(versions.items()):
        results = {test.result for test in read_reports([JUNIT_FILES / f"{name}.xml"], JUNIT_FILES).tests}
        if "pass" in results and results & {"fail", "error"}:
            read.append(f"{name} {version}")
    return Row("junit files of real runners read", len(read), "runners", budget=5, better="higher", note="; ".join(read))


def invented_runs(number: int) -> Iterator[Run]:
    """Yield runs over the last 30 days, oldest first, suite after suite."""
    rng, now = random.Random(7), utc_now()
    step = timedelta(days=29) / number
    for n in range(number):
        suite = f"suite-{n % SUITES}"
        fails = {rng.randrange(TESTS) for _ in range(2)} if n % 10 == 0 else set()
        tests = tuple(_result(suite, test, rng.random(), failed=test in fails) for test in range(TESTS))
        began = now - timedelta(days=29) + n * step
        is_main = n % 4 != 1
        yield Run(
            f"run-{n:08d}", suite, began, 60 + 10 * rng.random(), is_main, "main" if is_main else f"feature-{n % 50}", f"{n:040x}",
            "example/shop", Origin("github", str(n)), {"memory_peak_bytes": 4e8}, False, tests,
        )  # fmt: skip


def big_runs(number: int) -> Iterator[Run]:
    """Yield runs of the last hours of one suite of 5,000 tests, each of which says what it used."""
    rng, now = random.Random(8), utc_now()
    for n in range(number):
        used = [Use({name: 1e6 * rng.random() for name in AMOUNTS}) for _ in range(BIG_TESTS)]
        tests = tuple(_result(BIG, test, rng.random(), failed=False, used=used[test]) for test in range(BIG_TESTS))
        began, commit = now - timedelta(hours=number - n), f"{rng.getrandbits(160):040x}"
        yield Run(f"big-{n}", BIG, began, 600, True, "main", commit, "example/shop", Origin("github", f"b{n}"), {}, False, tests)


def _result(suite: str, number: int, duration_s: float, *, failed: bool, used: Use | None = None) -> TestResult:
    group, name = f"tests.{suite}", f"test_{number}"
    if not failed:
        return TestResult(group, name, "", "pass", duration_s, 1, 0, None, used)
    kind, message = [("AssertionError", f"assert {number} == 0"), ("ConnectionRefusedError", "[Errno 111] Connect call failed")][number % 2]
    failing = Failing(kind, message, "at line 1\n" * 40, diagnose(key_of(group, name), kind, message))
    return TestResult(group, name, "", "fail", duration_s, 0, 1, failing)
