"""The triggers that count violations by the hour, as the migrations of 2026-11-22 make them.

In the database, not in the code that writes: whoever inserts, amends or forgets, in whatever way, leaves the counts right, in
the same transaction. PostgreSQL counts once a statement; rows are taken in the order of their key, so that two writers never
hold what the other waits for. `first` and `last` are looked up again only when one of them is what left.

Expiry drops a day's counts as a whole before its records, which then find nothing to subtract from.
"""

from __future__ import annotations

from typing import Final

_PLAIN: Final = ("day", "service", "fingerprint", "kind", "grade", "detector", "arm", "synthetic")
_KEY: Final = ("day", "hour", *_PLAIN[1:], "retracted")
_DECLARE: Final = "DECLARE gone violation_counts%ROWTYPE;\n"


class Counting:
    """The statements that begin and end counting; `by_suppressed` tells apart what a service's suppressions accept for now."""

    def __init__(self, *, by_suppressed: bool) -> None:
        self._by_suppressed = by_suppressed
        self.key: Final = (*_KEY, "suppressed") if by_suppressed else _KEY
        self._conflict = ", ".join(self.key)
        self._columns = ", ".join((*self.key, "records", "violations", "first", "last"))

    def begin(self, *, is_postgresql: bool) -> tuple[str, ...]:
        """Return what makes the triggers."""
        return self._begin_pg() if is_postgresql else self._begin_sqlite()

    def recount(self, *, is_postgresql: bool) -> str:
        """Return what fills empty counts from the records that are there."""
        if is_postgresql:
            return self._add_pg(self._keyed_pg("violations", 1)).strip().rstrip(";")
        key = self._key_sqlite("v")
        values = ", ".join(key[column] for column in self.key)
        return (
            f"INSERT INTO violation_counts ({self._columns}) SELECT {values}, count(*), sum(v.count), min(v.time), max(v.time) "
            f"FROM violations v GROUP BY {', '.join(str(place) for place in range(1, len(self.key) + 1))}"
        )

    def end(self, *, is_postgresql: bool) -> tuple[str, ...]:
        """Return what takes the triggers away."""
        if not is_postgresql:
            return tuple(f"DROP TRIGGER violations_{trigger}" for trigger in ("inserted", "updated", "deleted"))
        return tuple(
            statement
            for trigger, function in (("inserted", "new"), ("updated", "changed"), ("deleted", "removed"))
            for statement in (f"DROP TRIGGER violations_{trigger} ON violations", f"DROP FUNCTION count_{function}_violations()")
        )

    def _same(self, left: str, right: str) -> str:
        return " AND ".join(f"{left}.{column} = {right}.{column}" for column in self.key)

    def _look_again(self, row: str, key: str) -> str:
        """Return the condition for the violations that a row of counts stands for."""
        return (
            f"{row}.service = {key}.service AND {row}.fingerprint = {key}.fingerprint AND {row}.day = {key}.day "
            f"AND {row}.kind = {key}.kind AND {row}.grade = {key}.grade AND {row}.detector = {key}.detector AND {row}.arm = {key}.arm "
            f"AND {row}.synthetic = {key}.synthetic AND ({row}.retracted_at IS NOT NULL) = {key}.retracted"
        ) + (f" AND {row}.suppressed = {key}.suppressed" if self._by_suppressed else "")

    # PostgreSQL

    def _begin_pg(self) -> tuple[str, ...]:
        new, old = self._keyed_pg("new_rows", 1), self._keyed_pg("old_rows", -1)
        tidy = self._tidy_pg()
        return (
            _function_pg("count_new_violations", self._add_pg(new)),
            _function_pg("count_changed_violations", self._add_pg(new, old) + tidy, _DECLARE),
            _function_pg("count_removed_violations", self._add_pg(old) + tidy, _DECLARE),
            (
                "CREATE TRIGGER violations_inserted AFTER INSERT ON violations REFERENCING NEW TABLE AS new_rows "
                "FOR EACH STATEMENT EXECUTE FUNCTION count_new_violations()"
            ),
            (
                "CREATE TRIGGER violations_updated AFTER UPDATE ON violations REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows "
                "FOR EACH STATEMENT EXECUTE FUNCTION count_changed_violations()"
            ),
            (
                "CREATE TRIGGER violations_deleted AFTER DELETE ON violations REFERENCING OLD TABLE AS old_rows "
                "FOR EACH STATEMENT EXECUTE FUNCTION count_removed_violations()"
            ),
        )

    def _keyed_pg(self, rows: str, sign: int) -> str:
        suppressed = "r.suppressed, " if self._by_suppressed else ""
        return (
            f"SELECT r.day, date_trunc('hour', r.time, 'UTC') AS hour, r.service, r.fingerprint, r.kind, r.grade, r.detector, r.arm, "
            f"r.synthetic, r.retracted_at IS NOT NULL AS retracted, {suppressed}"
            f"{sign} AS one, {sign} * r.count AS many, r.time AS at FROM {rows} r"
        )

    def _add_pg(self, *parts: str) -> str:
        # No change of a key, such as a subject that is forgotten on one side, is no change of a count.
        return f"""
  INSERT INTO violation_counts AS c ({self._columns})
  SELECT {self._conflict}, sum(one), sum(many), min(at), max(at) FROM ({" UNION ALL ".join(parts)}) changed
  GROUP BY {self._conflict} HAVING sum(one) <> 0 OR sum(many) <> 0 ORDER BY {self._conflict}
  ON CONFLICT ({self._conflict}) DO UPDATE SET records = c.records + excluded.records, violations = c.violations + excluded.violations,
    first = least(c.first, excluded.first), last = greatest(c.last, excluded.last);"""

    def _tidy_pg(self) -> str:
        old = self._keyed_pg("old_rows", -1)
        return f"""
  DELETE FROM violation_counts c USING ({old}) o WHERE {self._same("c", "o")} AND c.records <= 0;
  FOR gone IN SELECT DISTINCT c.* FROM violation_counts c JOIN ({old}) o ON {self._same("c", "o")}
    WHERE o.at = c.first OR o.at = c.last
  LOOP
    UPDATE violation_counts c SET first = coalesce({self._edge_pg("ASC")}, c.first), last = coalesce({self._edge_pg("DESC")}, c.last)
    WHERE {self._same("c", "gone")};
  END LOOP;"""

    def _edge_pg(self, order: str) -> str:
        found = self._look_again("v", "gone")
        return (
            f"(SELECT v.time FROM violations v WHERE {found} AND v.time >= gone.hour AND v.time < gone.hour + interval '1 hour' "
            f"ORDER BY v.time {order} LIMIT 1)"
        )

    # SQLite

    def _begin_sqlite(self) -> tuple[str, ...]:
        add, take = self._add_sqlite(), self._take_sqlite()
        old, new = self._key_sqlite("OLD"), self._key_sqlite("NEW")
        # What nothing that is counted depends on, such as a side that is forgotten, leaves the counts alone.
        changed = " OR ".join(f"{old[column]} <> {new[column]}" for column in self.key)
        return (
            f"CREATE TRIGGER violations_inserted AFTER INSERT ON violations BEGIN{add}\nEND",
            f"CREATE TRIGGER violations_updated AFTER UPDATE ON violations WHEN {changed} OR OLD.count <> NEW.count BEGIN{take}{add}\nEND",
            f"CREATE TRIGGER violations_deleted AFTER DELETE ON violations BEGIN{take}\nEND",
        )

    def _key_sqlite(self, row: str) -> dict[str, str]:
        key = {column: f"{row}.{column}" for column in _PLAIN}
        # Times are text with six digits after the second: their first 13 characters are the hour.
        key |= {"hour": f"substr({row}.time, 1, 13) || ':00:00.000000'", "retracted": f"({row}.retracted_at IS NOT NULL)"}
        return key | ({"suppressed": f"{row}.suppressed"} if self._by_suppressed else {})

    def _where_sqlite(self, row: str) -> str:
        key = self._key_sqlite(row)
        return " AND ".join(f"violation_counts.{column} = {key[column]}" for column in self.key)

    def _add_sqlite(self) -> str:
        key = self._key_sqlite("NEW")
        return f"""
  INSERT INTO violation_counts ({self._columns}) VALUES ({", ".join(key[column] for column in self.key)}, 1, NEW.count, NEW.time, NEW.time)
  ON CONFLICT ({self._conflict}) DO UPDATE SET records = records + 1, violations = violations + excluded.violations,
    first = min(first, excluded.first), last = max(last, excluded.last);"""

    def _take_sqlite(self) -> str:
        mine = self._where_sqlite("OLD")
        return f"""
  UPDATE violation_counts SET records = records - 1, violations = violations - OLD.count WHERE {mine};
  DELETE FROM violation_counts WHERE {mine} AND records <= 0;
  UPDATE violation_counts SET first = coalesce({self._edge_sqlite("ASC")}, first), last = coalesce({self._edge_sqlite("DESC")}, last)
  WHERE {mine} AND (first = OLD.time OR last = OLD.time);"""

    def _edge_sqlite(self, order: str) -> str:
        found = self._look_again("v", "violation_counts")
        # A time of the hour begins with its first 13 characters; ';' follows ':'.
        span = "v.time >= violation_counts.hour AND v.time < substr(violation_counts.hour, 1, 13) || ';'"
        return f"(SELECT v.time FROM violations v WHERE {found} AND {span} ORDER BY v.time {order} LIMIT 1)"


def _function_pg(name: str, body: str, declare: str = "") -> str:
    return f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $body$\n{declare}BEGIN{body}\n  RETURN NULL;\nEND $body$"
