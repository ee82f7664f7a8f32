"""Every query of CI. What pages and metrics ask is answered from one row a suite, a test, a kind of failure or a day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import Select, and_, exists, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from isolation_monitor.collector.ci.domain import (
    Day,
    Evidence,
    FailedTest,
    FailureKind,
    KnownTest,
    Numbers,
    Origin,
    RecentRun,
    Run,
    StoredRun,
    Suite,
    TestResult,
)
from isolation_monitor.collector.ci.resources import usage_as_json, usage_of
from isolation_monitor.collector.storage.ci_models import CiDayRow, CiFailureKindRow, CiFailureRow, CiRunRow, CiSuiteRow, CiTestRow
from isolation_monitor.collector.storage.database import insert_into

_SAME_COMMIT: Final = 20
"""Runs of one commit that a new one is held against."""
_KEYS: Final = 500
_TEXTS: Final = 300
"""Failures of one run whose stack is kept; when more fail than that, one cause stands in many of them."""
_LAST: Final = "\U0010ffff"
"""Behind every text that begins alike."""
_RUN_COLUMNS: Final = tuple(column for column in CiRunRow.__table__.c if column.name != "results")


class CiRepository:
    """Queries on one connection; the caller owns the transaction."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    # --- writing ------------------------------------------------------------------------------------------------------

    async def add_run(self, run: Run, results: bytes, received_at: datetime) -> bool:
        """Store a run with its packed results; say whether it is new."""
        row = {
            "id": run.id, "suite": run.suite, "started_at": run.started_at, "received_at": received_at, "is_reference": run.is_reference,
            "branch": run.branch, "commit": run.commit, "repository": run.repository, "origin": asdict(run.origin),
            "duration_s": run.duration_s, "passed": run.count("pass"), "failed": run.count("fail"), "errors": run.count("error"),
            "skipped": run.count("skip"), "flaky": sum(test.is_flaky for test in run.tests), "is_cut_off": run.is_cut_off,
            "resources": dict(run.resources), "results": results,
        }  # fmt: skip
        statement = insert_into(self._connection, CiRunRow).values(row).on_conflict_do_nothing(index_elements=["id"])
        return bool((await self._connection.execute(statement)).rowcount)

    async def lock_suite(self, name: str, repository: str, now: datetime) -> Suite:
        """Return the suite, made if need be, and keep others from storing runs of it until the transaction ends.

        A suite of no repository becomes that of `repository`, where it is named.
        """
        empty = {"runs": 0, "passed": 0, "failed": 0, "errors": 0, "skipped": 0, "numbers": asdict(Numbers()), "recent": []}
        whose = repository or None
        made = insert_into(self._connection, CiSuiteRow).values(name=name, created_at=now, received_at=now, repository=whose, **empty)
        # An update of what is there takes the lock of the row.
        changes = {"received_at": now, "repository": func.coalesce(CiSuiteRow.repository, whose)}
        await self._connection.execute(made.on_conflict_do_update(index_elements=["name"], set_=changes))
        found = (await self._connection.execute(select(CiSuiteRow.__table__).where(CiSuiteRow.name == name))).one()
        return _suite(found)

    async def save_suite(self, suite: Suite) -> None:
        values = {
            "runs": suite.runs, "passed": suite.passed, "failed": suite.failed, "errors": suite.errors, "skipped": suite.skipped,
            "reference_at": suite.reference_at, "numbers": asdict(suite.numbers),
            "recent": [asdict(one) | {"at": one.at.isoformat()} for one in suite.recent],
        }  # fmt: skip
        await self._connection.execute(update(CiSuiteRow).where(CiSuiteRow.name == suite.name).values(values))

    async def tests(self, suite: str, keys: Iterable[str]) -> dict[str, KnownTest]:
        """Return what is known of these tests, by key. A suite whose names change with each run knows many more."""
        row, found, every = CiTestRow, {}, sorted(keys)
        for start in range(0, len(every), _KEYS):
            part = select(row.__table__).where(row.suite == suite, row.key.in_(every[start : start + _KEYS]))
            found.update({one.key: _test(one) for one in await self._connection.execute(part)})
        return found

    async def save_tests(self, suite: str, tests: Iterable[KnownTest]) -> None:
        rows = [_test_row(suite, test) for test in tests]
        if not rows:
            return
        statement = insert_into(self._connection, CiTestRow)
        changes = {name: statement.excluded[name] for name in rows[0] if name not in ("suite", "key", "group", "name")}
        await self._connection.execute(statement.on_conflict_do_update(index_elements=["suite", "key"], set_=changes), rows)

    async def results_of_commit(self, run: Run) -> list[tuple[StoredRun, bytes]]:
        """Return the other runs of this suite at the same commit and in the same job, with their packed results.

        Another job is another environment: what fails only there is not flaky.
        """
        if not run.commit:
            return []
        statement = (
            select(CiRunRow.__table__)
            .where(CiRunRow.suite == run.suite, CiRunRow.commit == run.commit, CiRunRow.id != run.id)
            .order_by(CiRunRow.started_at.desc())
            .limit(_SAME_COMMIT)
        )
        return [
            (_run(row), row.results) for row in await self._connection.execute(statement) if row.origin.get("job", "") == run.origin.job
        ]

    async def add_failures(self, run: Run, failing: Sequence[TestResult]) -> None:
        rows = []
        for number, test in enumerate(failing):
            if test.failing is None:
                continue
            told, found = test.failing, test.failing.diagnosis
            has_room = number < _TEXTS
            rows.append({
                "run_id": run.id, "key": test.key, "suite": run.suite, "at": run.started_at, "commit": run.commit, "branch": run.branch,
                "group": test.group, "name": test.name, "is_flaky": test.is_flaky, "category": found.category,
                "fingerprint": found.fingerprint, "cause": found.cause, "kind": told.kind,
                "message": told.message if has_room else told.message[:200], "detail": told.detail if has_room else "",
            })  # fmt: skip
        if rows:
            await self._connection.execute(insert(CiFailureRow), rows)

    async def add_failure_kinds(self, run: Run, failing: Sequence[TestResult]) -> None:
        kinds: dict[str, tuple[TestResult, int]] = {}
        for test in failing:
            if test.failing is not None:
                first, number = kinds.get(test.failing.diagnosis.fingerprint, (test, 0))
                kinds[test.failing.diagnosis.fingerprint] = (first, number + 1)
        row = CiFailureKindRow
        known = {one.fingerprint: one for one in await self.failure_kinds(run.suite, list(kinds))}
        for fingerprint, (test, number) in kinds.items():
            if test.failing is None:
                continue
            seen = {"at": run.started_at, "commit": run.commit, "run_id": run.id}
            before = known.get(fingerprint)
            if before is None:
                values = {f"{end}_{name}": value for end in ("first", "last") for name, value in seen.items()}
                found = test.failing.diagnosis
                about: dict[str, str] = {"category": found.category, "cause": found.cause, "message": found.said}
                about |= _example(test)
                await self._connection.execute(
                    insert(row).values(suite=run.suite, fingerprint=fingerprint, runs=1, failures=number, **about, **values)
                )
                continue
            changes: dict[str, Any] = {"runs": row.runs + 1, "failures": row.failures + number}
            if before.example_key is None:
                changes |= _example(test)
            if run.started_at >= before.last_at:
                changes |= {f"last_{name}": value for name, value in seen.items()}
            if run.started_at < before.first_at:
                changes |= {f"first_{name}": value for name, value in seen.items()}
            await self._connection.execute(update(row).where(row.suite == run.suite, row.fingerprint == fingerprint).values(changes))

    async def add_day(self, run: Run, day: date) -> None:
        failed = run.count("fail") + run.count("error")
        values = {
            "runs": 1, "green": int(not failed and not run.is_cut_off), "passed": run.count("pass"), "failed": failed,
            "duration_s": run.duration_s,
        }  # fmt: skip
        row = CiDayRow
        made = insert_into(self._connection, row).values(
            suite=run.suite, day=day, branch=run.branch, is_reference=run.is_reference, longest_s=run.duration_s, **values
        )
        longest = func.max if self._connection.dialect.name == "sqlite" else func.greatest
        sums: dict[str, Any] = {name: getattr(row, name) + value for name, value in values.items()}
        sums["longest_s"] = longest(row.longest_s, run.duration_s)
        await self._connection.execute(made.on_conflict_do_update(index_elements=["suite", "day", "branch"], set_=sums))

    # --- reading ------------------------------------------------------------------------------------------------------

    async def suites(self, *, with_recent: bool = True) -> list[Suite]:
        """Return every suite, the first that was ever seen first; `recent` costs most of it, and only pages draw it."""
        columns = [column for column in CiSuiteRow.__table__.c if with_recent or column.name != "recent"]
        found = await self._connection.execute(select(*columns).order_by(CiSuiteRow.created_at, CiSuiteRow.name))
        return [_suite(row) for row in found]

    async def suite(self, name: str) -> Suite | None:
        found = (await self._connection.execute(select(CiSuiteRow.__table__).where(CiSuiteRow.name == name))).one_or_none()
        return None if found is None else _suite(found)

    async def repository_of(self, suite: str) -> str:
        """Return whose suite it is; nothing where there is none, or nobody said."""
        found = await self._connection.execute(select(CiSuiteRow.repository).where(CiSuiteRow.name == suite))
        return found.scalar_one_or_none() or ""

    async def run(self, run_id: str) -> StoredRun | None:
        found = (await self._connection.execute(select(*_RUN_COLUMNS).where(CiRunRow.id == run_id))).one_or_none()
        return None if found is None else _run(found)

    async def results(self, run_id: str) -> bytes | None:
        """Return the packed results of a run."""
        return (await self._connection.execute(select(CiRunRow.results).where(CiRunRow.id == run_id))).scalar_one_or_none()

    async def runs(
        self, *, suite: str | None, branch: str | None, commit: str | None, after: tuple[datetime, str] | None, limit: int
    ) -> list[StoredRun]:
        """Return runs, the one that began last first."""
        row = CiRunRow
        chosen = newest_ids(suite, branch, commit, after, limit).scalar_subquery()
        statement = select(*_RUN_COLUMNS).where(row.id.in_(chosen)).order_by(row.started_at.desc(), row.id.desc())
        return [_run(found) for found in await self._connection.execute(statement)]

    async def run_before(self, run: StoredRun) -> StoredRun | None:
        """Return the newest run that speaks for the suite and began before this one."""
        row = CiRunRow
        statement = select(*_RUN_COLUMNS).where(row.suite == run.suite, row.started_at < run.started_at, row.is_reference.is_(True))
        found = (await self._connection.execute(statement.order_by(row.started_at.desc(), row.id.desc()).limit(1))).one_or_none()
        return None if found is None else _run(found)

    async def failed_tests(self, run: StoredRun, limit: int) -> list[FailedTest]:
        """Return what failed in a run: what did not pass in another attempt first, and of that what was never seen before."""
        row, earlier = CiFailureRow, aliased(CiFailureRow)
        is_known = (
            exists()
            .where(earlier.suite == row.suite, earlier.fingerprint == row.fingerprint)
            .where(earlier.at <= run.started_at, earlier.run_id != run.id)
        )
        order = (row.is_flaky, is_known, row.category, row.group, row.name)
        statement = select(row.__table__).where(row.run_id == run.id).order_by(*order).limit(limit)
        return [_failed(found) for found in await self._connection.execute(statement)]

    async def failed_by_fingerprint(self, run_id: str) -> dict[str, int]:
        """Return how many tests of a run failed for each reason."""
        row = CiFailureRow
        statement = select(row.fingerprint, func.count()).where(row.run_id == run_id).group_by(row.fingerprint)
        return {fingerprint: int(number) for fingerprint, number in await self._connection.execute(statement)}

    async def failures_of_test(self, suite: str, key: str, limit: int) -> list[FailedTest]:
        row = CiFailureRow
        statement = select(row.__table__).where(row.suite == suite, row.key == key).order_by(row.at.desc()).limit(limit)
        return [_failed(found) for found in await self._connection.execute(statement)]

    async def nearest_before(self, suite: str, fingerprints: Iterable[str], run: StoredRun) -> dict[str, FailedTest]:
        """Return, by fingerprint, the failure of an earlier run that is nearest in time."""
        nearest = {one: await self._nearest(suite, one, run.started_at, run.id) for one in fingerprints}
        return {fingerprint: one for fingerprint, one in nearest.items() if one is not None}

    async def nearest_like(self, suite: str, failure: FailedTest) -> FailedTest | None:
        """Return the failure of an earlier run that had the same reason and is nearest in time."""
        return await self._nearest(suite, failure.fingerprint, failure.at, failure.run_id)

    async def _nearest(self, suite: str, fingerprint: str, until: datetime, run_id: str) -> FailedTest | None:
        row = CiFailureRow
        of_kind = (row.suite == suite, row.fingerprint == fingerprint)
        statement = select(row.__table__).where(*of_kind, row.at <= until, row.run_id != run_id).order_by(row.at.desc()).limit(1)
        found = (await self._connection.execute(statement)).one_or_none()
        return None if found is None else _failed(found)

    async def failure_kinds(self, suite: str, fingerprints: Sequence[str]) -> list[FailureKind]:
        row, found = CiFailureKindRow, []
        for start in range(0, len(fingerprints), _KEYS):
            part = fingerprints[start : start + _KEYS]
            rows = await self._connection.execute(select(row.__table__).where(row.suite == suite, row.fingerprint.in_(part)))
            found += [FailureKind(**one._mapping) for one in rows]
        return found

    async def newest_failure_kinds(self, suite: str | None, since: datetime, category: str | None, limit: int) -> list[FailureKind]:
        """Return kinds of failures that were seen since then, the last one first."""
        row = CiFailureKindRow
        statement = select(row.__table__).where(row.last_at >= since).order_by(row.last_at.desc(), row.failures.desc()).limit(limit)
        if suite is not None:
            statement = statement.where(row.suite == suite)
        if category is not None:
            statement = statement.where(row.category == category)
        return [FailureKind(**one._mapping) for one in await self._connection.execute(statement)]

    async def flaky_tests(self, suite: str | None, since: datetime, limit: int) -> list[KnownTest]:
        """Return tests that were seen to be flaky since then, the last one first."""
        row = CiTestRow
        statement = select(row.__table__).where(row.flaky_at > since).order_by(row.flaky_at.desc(), row.suite, row.key).limit(limit)
        if suite is not None:
            statement = statement.where(row.suite == suite)
        return [_test(one) for one in await self._connection.execute(statement)]

    async def slowest_tests(self, suite: str, limit: int) -> list[KnownTest]:
        row = CiTestRow
        statement = select(row.__table__).where(row.suite == suite).order_by(row.duration_s.desc()).limit(limit)
        return [_test(one) for one in await self._connection.execute(statement)]

    async def test(self, suite: str, key: str) -> KnownTest | None:
        row = CiTestRow
        found = (await self._connection.execute(select(row.__table__).where(row.suite == suite, row.key == key))).one_or_none()
        return None if found is None else _test(found)

    async def suites_of_test(self, key: str, limit: int) -> list[KnownTest]:
        """Return a test as each suite knows it that has it, the one that ran it last first."""
        row = CiTestRow
        statement = select(row.__table__).where(row.key == key).order_by(row.last_seen_at.desc(), row.suite).limit(limit)
        return [_test(one) for one in await self._connection.execute(statement)]

    async def newest_results(
        self, suite: str, until: datetime, branch: str | None, commit: str | None, after: tuple[datetime, str] | None, limit: int
    ) -> list[tuple[StoredRun, bytes]]:
        """Return the newest runs of a suite that began `until` then, with their packed results."""
        row = CiRunRow
        chosen = newest_ids(suite, branch, commit, after, limit).where(row.started_at <= until)
        statement = select(row.__table__).where(row.id.in_(chosen.scalar_subquery())).order_by(row.started_at.desc(), row.id.desc())
        return [(_run(one), one.results) for one in await self._connection.execute(statement)]

    async def days(self, suite: str, since: date, *, is_reference: bool) -> list[Day]:
        """Return the sums of each day since then over the branches that speak for the suite, the oldest first."""
        row = CiDayRow
        sums = [func.sum(column) for column in (row.runs, row.green, row.passed, row.failed, row.duration_s)]
        columns: list[Any] = [row.day, *sums, func.max(row.longest_s)]  # Any: columns of several types
        statement = select(*columns).where(row.suite == suite, row.day >= since)
        if is_reference:
            statement = statement.where(row.is_reference.is_(True))
        found = await self._connection.execute(statement.group_by(row.day).order_by(row.day))
        return [
            Day(day, int(runs), int(green), int(passed), int(failed), float(took), float(longest))
            for day, runs, green, passed, failed, took, longest in found
        ]


def newest_ids(suite: str | None, branch: str | None, commit: str | None, after: tuple[datetime, str] | None, limit: int) -> Select[Any]:
    """Return the ids of the newest runs that are asked for and come after the last one that was seen.

    Only ids: an index has them and what they are ordered by, and no run is read, with all of its results, to be sorted out again.
    """
    row = CiRunRow
    started, statement = row.started_at, select(row.id)
    for column, value in ((row.suite, suite), (row.branch, branch)):
        if value is not None:
            statement = statement.where(column == value)
    if commit is not None:
        # The beginning of a hash is what people copy. Texts of this column are ordered by their bytes, whatever the database's locale.
        statement = statement.where(row.commit >= commit, row.commit <= commit + _LAST)
    if after is not None:
        time, last = after
        statement = statement.where(or_(started < time, and_(started == time, row.id < last)))
    return statement.order_by(started.desc(), row.id.desc()).limit(limit)


def _example(test: TestResult) -> dict[str, str]:
    return {"example": f"{test.group} {test.name}".strip(), "example_key": test.key}


def _suite(row: Any) -> Suite:  # Any: rows
    values = dict(row._mapping)
    values["repository"] = values["repository"] or ""
    recent = [RecentRun(**one | {"at": datetime.fromisoformat(one["at"])}) for one in values.pop("recent", ())]
    return Suite(**values | {"numbers": Numbers(**_known(Numbers, values["numbers"])), "recent": recent})


def _known(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    # A row that another version wrote may know more.
    return {name: value for name, value in values.items() if name in kind.__dataclass_fields__}


def _run(row: Any) -> StoredRun:  # Any: as above
    values = {name: value for name, value in row._mapping.items() if name != "results"}
    return StoredRun(**values | {"origin": Origin(**_known(Origin, values["origin"]))})


def _test(row: Any) -> KnownTest:  # Any: as above
    values = dict(row._mapping)
    flaky = {kind: Evidence(**one | {"at": datetime.fromisoformat(one["at"])}) for kind, one in (values.pop("flaky") or {}).items()}
    usage = usage_of(values.pop("resources"))
    return KnownTest(**values, flaky=flaky, usage=usage)


def _test_row(suite: str, test: KnownTest) -> dict[str, Any]:
    flaky = {kind: {"kind": one.kind, "at": one.at.isoformat(), "says": one.says} for kind, one in test.flaky.items()}
    return {
        "suite": suite, "key": test.key, "group": test.group, "name": test.name, "file": test.file,
        "first_seen_at": test.first_seen_at, "last_seen_at": test.last_seen_at, "last_result": test.last_result,
        "passed": test.passed, "failed": test.failed, "skipped": test.skipped, "duration_s": test.duration_s,
        "longest_s": test.longest_s, "history": test.history, "failing_since": test.failing_since, "flaky_at": test.flaky_at,
        "flaky": flaky or None, "resources": None if test.usage is None else usage_as_json(test.usage),
    }  # fmt: skip


def _failed(row: Any) -> FailedTest:  # Any: as above
    return FailedTest(**{name: value for name, value in row._mapping.items() if name != "suite"})
