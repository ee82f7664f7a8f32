"""The triggers that count violations by the hour, as the migration of 2026-11-22 makes them.

In the database, not in the code that writes: whoever inserts, amends or forgets, in whatever way, leaves the counts right, in
the same transaction. PostgreSQL counts once a statement; rows are taken in the order of their key, so that two writers never
hold what the other waits for. `first` and `last` are looked up again only when one of them is what left.

Expiry drops a day's counts as a whole before its records, which then find nothing to subtract from.
"""

from __future__ import annotations

from typing import Final

_KEY: Final = ("day", "hour", "service", "fingerprint", "kind", "grade", "detector", "arm", "synthetic", "retracted")
_COLUMNS: Final = ", ".join((*_KEY, "records", "violations", "first", "last"))
_CONFLICT: Final = ", ".join(_KEY)


def _same(left: str, right: str) -> str:
    return " AND ".join(f"{left}.{column} = {right}.{column}" for column in _KEY)


# PostgreSQL ------------------------------------------------------------------------------------------------------------


def _keyed_pg(rows: str, sign: int) -> str:
    return (
        f"SELECT r.day, date_trunc('hour', r.time, 'UTC') AS hour, r.service, r.fingerprint, r.kind, r.grade, r.detector, r.arm, "
        f"r.synthetic, r.retracted_at IS NOT NULL AS retracted, {sign} AS one, {sign} * r.count AS many, r.time AS at FROM {rows} r"
    )


def _add_pg(*parts: str) -> str:
    # No change of a key, such as a subject that is forgotten on one side, is no change of a count.
    return f"""
  INSERT INTO violation_counts AS c ({_COLUMNS})
  SELECT {_CONFLICT}, sum(one), sum(many), min(at), max(at) FROM ({" UNION ALL ".join(parts)}) changed
  GROUP BY {_CONFLICT} HAVING sum(one) <> 0 OR sum(many) <> 0 ORDER BY {_CONFLICT}
  ON CONFLICT ({_CONFLICT}) DO UPDATE SET records = c.records + excluded.records, violations = c.violations + excluded.violations,
    first = least(c.first, excluded.first), last = greatest(c.last, excluded.last);"""


def _look_again(row: str, key: str) -> str:
    """Return the condition for the violations that a row of counts stands for."""
    return (
        f"{row}.service = {key}.service AND {row}.fingerprint = {key}.fingerprint AND {row}.day = {key}.day AND {row}.kind = {key}.kind "
        f"AND {row}.grade = {key}.grade AND {row}.detector = {key}.detector AND {row}.arm = {key}.arm "
        f"AND {row}.synthetic = {key}.synthetic AND ({row}.retracted_at IS NOT NULL) = {key}.retracted"
    )


def _edge_pg(order: str) -> str:
    found = _look_again("v", "gone")
    return (
        f"(SELECT v.time FROM violations v WHERE {found} AND v.time >= gone.hour AND v.time < gone.hour + interval '1 hour' "
        f"ORDER BY v.time {order} LIMIT 1)"
    )


_TIDY_PG: Final = f"""
  DELETE FROM violation_counts c USING ({_keyed_pg("old_rows", -1)}) o WHERE {_same("c", "o")} AND c.records <= 0;
  FOR gone IN SELECT DISTINCT c.* FROM violation_counts c JOIN ({_keyed_pg("old_rows", -1)}) o ON {_same("c", "o")}
    WHERE o.at = c.first OR o.at = c.last
  LOOP
    UPDATE violation_counts c SET first = coalesce({_edge_pg("ASC")}, c.first), last = coalesce({_edge_pg("DESC")}, c.last)
    WHERE {_same("c", "gone")};
  END LOOP;"""


def _function_pg(name: str, body: str, declare: str = "") -> str:
    return f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $body$\n{declare}BEGIN{body}\n  RETURN NULL;\nEND $body$"


_DECLARE: Final = "DECLARE gone violation_counts%ROWTYPE;\n"

COUNTING_POSTGRESQL: Final = (
    _function_pg("count_new_violations", _add_pg(_keyed_pg("new_rows", 1))),
    _function_pg("count_changed_violations", _add_pg(_keyed_pg("new_rows", 1), _keyed_pg("old_rows", -1)) + _TIDY_PG, _DECLARE),
    _function_pg("count_removed_violations", _add_pg(_keyed_pg("old_rows", -1)) + _TIDY_PG, _DECLARE),
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

DROP_POSTGRESQL: Final = tuple(
    statement
    for trigger, function in (("inserted", "new"), ("updated", "changed"), ("deleted", "removed"))
    for statement in (f"DROP TRIGGER violations_{trigger} ON violations", f"DROP FUNCTION count_{function}_violations()")
)

# SQLite ----------------------------------------------------------------------------------------------------------------


def _key_sqlite(row: str) -> dict[str, str]:
    plain = {column: f"{row}.{column}" for column in ("day", "service", "fingerprint", "kind", "grade", "detector", "arm", "synthetic")}
    # Times are text with six digits after the second: their first 13 characters are the hour.
    return plain | {"hour": f"substr({row}.time, 1, 13) || ':00:00.000000'", "retracted": f"({row}.retracted_at IS NOT NULL)"}


def _where_sqlite(row: str) -> str:
    key = _key_sqlite(row)
    return " AND ".join(f"violation_counts.{column} = {key[column]}" for column in _KEY)


_NEW_SQLITE: Final = ", ".join(_key_sqlite("NEW")[column] for column in _KEY)
_ADD_SQLITE: Final = f"""
  INSERT INTO violation_counts ({_COLUMNS}) VALUES ({_NEW_SQLITE}, 1, NEW.count, NEW.time, NEW.time)
  ON CONFLICT ({_CONFLICT}) DO UPDATE SET records = records + 1, violations = violations + excluded.violations,
    first = min(first, excluded.first), last = max(last, excluded.last);"""


def _edge_sqlite(order: str) -> str:
    found = _look_again("v", "violation_counts")
    # A time of the hour begins with its first 13 characters; ';' follows ':'.
    span = "v.time >= violation_counts.hour AND v.time < substr(violation_counts.hour, 1, 13) || ';'"
    return f"(SELECT v.time FROM violations v WHERE {found} AND {span} ORDER BY v.time {order} LIMIT 1)"


_TAKE_SQLITE: Final = f"""
  UPDATE violation_counts SET records = records - 1, violations = violations - OLD.count WHERE {_where_sqlite("OLD")};
  DELETE FROM violation_counts WHERE {_where_sqlite("OLD")} AND records <= 0;
  UPDATE violation_counts SET first = coalesce({_edge_sqlite("ASC")}, first), last = coalesce({_edge_sqlite("DESC")}, last)
  WHERE {_where_sqlite("OLD")} AND (first = OLD.time OR last = OLD.time);"""

# What nothing that is counted depends on, such as a side that is forgotten, leaves the counts alone.
_CHANGED_SQLITE: Final = " OR ".join(f"{_key_sqlite('OLD')[column]} <> {_key_sqlite('NEW')[column]}" for column in _KEY)

COUNTING_SQLITE: Final = (
    f"CREATE TRIGGER violations_inserted AFTER INSERT ON violations BEGIN{_ADD_SQLITE}\nEND",
    (
        f"CREATE TRIGGER violations_updated AFTER UPDATE ON violations WHEN {_CHANGED_SQLITE} OR OLD.count <> NEW.count BEGIN"
        f"{_TAKE_SQLITE}{_ADD_SQLITE}\nEND"
    ),
    f"CREATE TRIGGER violations_deleted AFTER DELETE ON violations BEGIN{_TAKE_SQLITE}\nEND",
)

DROP_SQLITE: Final = tuple(f"DROP TRIGGER violations_{trigger}" for trigger in ("inserted", "updated", "deleted"))
