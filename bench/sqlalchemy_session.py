"""One SQLAlchemy session with one query inside a watched request, with and without its engine being watched.

Both sides have the middleware, so the difference is what the pool's hooks, the tables of what is out and the request's
end add. Measured on the installed version, and on the other supported one, which is fetched into build/ on demand and
measured by a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from bench.applications import Client, monitor
from bench.rounds import Timings, Variant, measure
from bench.rows import Row
from isolation_monitor.telemetry import names

BUDGET_US = {"2.0": 12.0, "2.1": 18.0}
REQUIREMENT = {"2.0": "sqlalchemy>=2.0.36,<2.1", "2.1": "sqlalchemy>=2.1,<2.2"}
QUERIES = 5
FETCH_TIMEOUT_S = 120
BUILD = Path(__file__).resolve().parent.parent / "build" / "bench"
RAW, OURS = "unwatched", "watched"


async def session(quick: bool) -> list[Row]:
    """The rows of the installed version and of the other one."""
    installed = ".".join(sqlalchemy.__version__.split(".")[:2])
    rows = await of_this_version(installed, quick)
    for other in BUDGET_US.keys() - {installed}:
        rows += await asyncio.to_thread(_of_other_version, other, quick)
    return rows


async def of_this_version(version: str, quick: bool) -> list[Row]:
    """Measure the SQLAlchemy that this process imports."""
    rounds, operations = (4, 20) if quick else (120, 60)
    one = (await _timings(1, rounds, operations)).added(OURS, RAW)
    many = (await _timings(QUERIES, rounds, operations)).added(OURS, RAW)
    per_statement = (many.median - one.median) / (QUERIES - 1)
    return [
        Row(f"sqlalchemy session, {version}", one.median, "us", BUDGET_US.get(version), spread=one.spread, quiet=one.quiet),
        # No budget of its own: the difference of two differences is noise. The calls below are exact.
        Row(f"sqlalchemy session, {version}: each further statement", per_statement, "us"),
        Row(f"sqlalchemy session, {version}: calls of each further statement", _statement_calls(), "calls", 0.0),
    ]


async def _timings(queries: int, rounds: int, operations: int) -> Timings:
    watching = monitor()
    engines = [_engine(), _engine()]
    try:
        apps = [watching.instrument(_app(engines[0], queries)), watching.instrument(_app(engines[1], queries), engine=engines[1])]
        variants = [Variant(name, _requests(app)) for name, app in zip((RAW, OURS), apps, strict=True)]
        timings = await measure(variants, rounds=rounds, operations=operations)
        if not watching.ledger.passes[names.SESSION_LEAK].value():
            raise RuntimeError("no session was judged: the benchmark measures nothing")
        return timings
    finally:
        await watching.aclose()
        for engine in engines:
            engine.dispose()


def _statement_calls() -> float:
    """Return how many more functions a watched engine calls for a further statement than an unwatched one."""
    import cProfile
    import pstats

    def calls(engine: sqlalchemy.Engine, queries: int) -> int:
        profile = cProfile.Profile()
        for _ in range(3):
            _use(engine, queries)
        profile.enable()
        _use(engine, queries)
        profile.disable()
        return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]  # typeshed does not list it

    watching = monitor()
    plain, watched = _engine(), _engine()
    try:
        watching.instrument(_app(watched, 1), engine=watched)
        difference = (calls(watched, QUERIES) - calls(watched, 1)) - (calls(plain, QUERIES) - calls(plain, 1))
        return difference / (QUERIES - 1)
    finally:
        watching.close()
        plain.dispose()
        watched.dispose()


def _engine() -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(
        "sqlite://", poolclass=QueuePool, pool_size=1, max_overflow=0, connect_args={"check_same_thread": False}
    )


def _use(engine: sqlalchemy.Engine, queries: int) -> None:
    with Session(engine) as session:
        for _ in range(queries):
            session.execute(_QUERY).scalar_one()


_QUERY = sqlalchemy.select(sqlalchemy.literal(7))


def _app(engine: sqlalchemy.Engine, queries: int) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        _use(engine, queries)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    return app


def _requests(app: Any) -> Callable[[int], Awaitable[None]]:
    return Client(app).requests


def _of_other_version(version: str, quick: bool) -> list[Row]:
    name = f"sqlalchemy session, {version}"
    folder = BUILD / f"sqlalchemy-{version}"
    if not (folder / "sqlalchemy").is_dir():
        # A folder that is put before site-packages: everything else is the same as on this side.
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), REQUIREMENT[version]]
        failure = _run(command, FETCH_TIMEOUT_S)
        if isinstance(failure, str):
            return [Row(name, None, "us", note=f"skipped: SQLAlchemy {version} cannot be fetched ({failure})")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}
    measured = _run([sys.executable, "-m", __spec__.name, *(["--quick"] if quick else [])], 300, environment)
    if isinstance(measured, str):
        return [Row(name, None, "us", BUDGET_US[version], note=f"its own process failed: {measured}")]
    return [Row.from_json(row) for row in json.loads(measured.stdout)]


def _run(command: list[str], timeout_s: float, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str] | str:
    """Run a command from the checkout; return what it printed, or in one line why it failed."""
    try:
        done = subprocess.run(
            command, env=environment, cwd=BUILD.parent.parent, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return done


def main() -> None:
    """Measure the version that PYTHONPATH chose and print its rows as JSON."""
    version = ".".join(sqlalchemy.__version__.split(".")[:2])
    rows = asyncio.run(of_this_version(version, "--quick" in sys.argv))
    print(json.dumps([row.as_json() for row in rows]))


if __name__ == "__main__":
    main()
