"""Own sources: what a user's requests read from stores under the user's own id, and whose the values are by that.

A query of one table whose rows are equal to its reader's id, or a key of a cache that names him, is followed column by column.
A column belongs to its readers when at least three principals have read values of their own there and no value came to two of
them: who shares a room, a plan or a team with somebody reads the same one as he does, sooner or later, and ends it. A source that
is also asked for others, as a table of profiles is, belongs to nobody. So does a value that anybody has found in another way, in a
request or outside of any, and what a request has written itself: it may be for all, or kept for all besides.
Evidence only: a value is foreign to who has read another one of his own by the same query, with the same other parameters,
and is shown nothing else of that column (`explains`).
Cost: about 8 us a read under one's own id and 2 us for each of its first 50 rows; 1 us for each of the first 100 rows of any other;
4 us a statement that writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.detectors.owner_predicates import bound_to, predicates_of
from isolation_monitor.telemetry.provenance import OVERFLOW, Fetched, texts_in, was_fetched
from isolation_monitor.telemetry.recent import forget_oldest
from isolation_monitor.telemetry.tokens import MIN_LENGTH, tokens_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.detectors.ownership import How, Ownership
    from isolation_monitor.telemetry.detectors.suspicion import Suspicion
    from isolation_monitor.telemetry.principals import Principal

SOURCES_LIMIT: Final = 1_000
STATEMENTS_LIMIT: Final = 2_000
COLUMNS_LIMIT: Final = 40
COLUMN_LIMIT: Final = 5_000
"""Values remembered of one column."""
VALUES_LIMIT: Final = 20_000
"""Values remembered of all sources together, about 5 MB."""
SEEN_LIMIT: Final = 50_000
"""Texts remembered that were read otherwise or written, by their hashes: about 4 MB."""
ROWS_LIMIT: Final = 50
OTHER_ROWS_LIMIT: Final = 100
"""Rows looked at of a read that names nobody."""
BYTES_LIMIT: Final = 20_000
"""Bytes that may be a text: a longer value is a file or a picture."""
WRITTEN_LIMIT: Final = 200
"""Texts of one statement's parameters that are remembered as written."""
TEXT_LIMIT: Final = 1_000
PRINCIPALS_NEEDED: Final = 3
OWN_FACTOR: Final = 10
"""How many times as often a source must be read for its reader as for others."""
_STORES: Final = ("sql", "kv", "http")
_KEY_MARKS: Final = (":", "/", "|", ".")
_IDS: Final = (str, int, UUID)
_PLAIN: Final = (*_IDS, float, bool, bytes, type(None), date, datetime, Decimal)


class _Source:
    """A statement, or a key with its reader's id left out."""

    __slots__ = ("columns", "others", "own")

    def __init__(self) -> None:
        self.columns: dict[object, _Column] = {}
        self.own = 0
        self.others = 0
        """Reads for another than the reader."""


class _Column:
    """What stood at one place of a source's rows."""

    __slots__ = ("is_shared", "owner_of", "owners", "source")

    def __init__(self, source: _Source) -> None:
        self.source = source
        self.owner_of: dict[str, tuple[Principal, int]] = {}
        """By value: who read it, and the hash of the other parameters that he read it with."""
        self.owners: set[tuple[str, int]] = set()
        """Ids of principals with a value of their own here, each with that hash."""
        self.is_shared = False

    @property
    def is_proven(self) -> bool:
        source = self.source
        if self.is_shared or source.others * OWN_FACTOR > source.own or len(self.owners) < PRINCIPALS_NEEDED:
            return False
        return len({id for id, _ in self.owners}) >= PRINCIPALS_NEEDED


class OwnSources:
    """Learns from reads of stores, on whichever thread they happen: single operations of dicts and sets only."""

    def __init__(self, kit: Kit, ownership: Ownership, belongs: Callable[[str, Principal, How], None]) -> None:
        self._reporter = kit.reporter
        self._switch = kit.switches[names.FOREIGN_CONTENT]
        self._known = kit.principals.known
        self._ownership = ownership
        self._belongs = belongs
        self._statements: dict[str, tuple[int | str, ...]] = {}
        self._sources: dict[object, _Source] = {}
        self._columns: dict[str, _Column] = {}
        """By value, and by the text that a value is part of."""
        self._seen: dict[int, str] = {}
        """By hash of a text that was read otherwise, or that a request wrote: the id of the one who may have it all the same, or `""`."""
        kit.stores.on_read.append(self.read)
        kit.stores.on_nobodys_read.append(self.read_by_nobody)
        kit.stores.on_write.append(self.written)

    # --- learning -----------------------------------------------------------------------------------------------------

    def read(self, request: RequestContext, read: Fetched) -> None:
        """Take a read of a request."""
        reader = request.principal
        if not self._switch.is_on or read.store == "http" or read.values is None or read is OVERFLOW:
            return
        try:
            if reader is None:
                self._read_otherwise(read.values)
            elif not reader.is_synthetic:
                self._read(reader, read)
        except Exception as error:
            self._reporter.check_failed(names.FOREIGN_CONTENT, "reads", error)

    def read_by_nobody(self, read: Fetched) -> None:
        """Take a read outside of any request: what is found may be meant for all."""
        if self._switch.is_on:
            self._read_otherwise(read.values)

    def written(self, request: RequestContext, write: Fetched) -> None:
        """Take what a request writes into a database: made there, it may have gone anywhere by other ways than the database."""
        if write.store != "sql" or not self._switch.is_on or request.principal is None or request.principal.is_synthetic:
            return
        for text in islice(texts_in(write.values), WRITTEN_LIMIT):
            if len(text) >= MIN_LENGTH and self._known(text) is None:
                self._publish(text)
        forget_oldest(self._seen, SEEN_LIMIT, 0.05)

    def _read(self, reader: Principal, read: Fetched) -> None:
        shape, owner, rest = self._asked_for(read)
        if owner is None:
            # Also by its owner: what he finds without his id may be meant for all. Where he names himself besides, his own stays his.
            names_himself = any(type(value) in _IDS and str(value) == reader.id for value in bound_to(read.key, ())[1])
            self._read_otherwise(read.values, reader.id if names_himself else "")
            return
        source = self._sources.get(shape)
        if source is None:
            source = self._sources[shape] = _Source()
            forget_oldest(self._sources, SOURCES_LIMIT, 0.05)
        if owner.id != reader.id:
            source.others += 1
            self._read_otherwise(read.values)
            return
        source.own += 1
        for place, text in _cells_of(read.values, ROWS_LIMIT):
            column = source.columns.get(place)
            if column is None:
                if len(source.columns) >= COLUMNS_LIMIT:
                    continue
                column = source.columns[place] = _Column(source)
            if not column.is_shared and self._seen.get(hash(text), reader.id) == reader.id:
                self._take(column, text, reader, rest)

    def _take(self, column: _Column, text: str, reader: Principal, rest: int) -> None:
        known = column.owner_of.get(text)
        if known is not None and known[0].id == reader.id and known[1] == rest:
            return
        for token in tokens_of(text[:TEXT_LIMIT]):
            entry = self._ownership.get(token)
            if entry is not None and (entry.is_public or (entry.owner is not None and entry.how != "source")):
                # Who said it, or keeps it, is known better.
                continue
            if self._known(token) is not None or len(column.owner_of) >= COLUMN_LIMIT:
                continue
            for one in {id(column): column, id(other := self._columns.get(token, column)): other}.values():
                if (holder := one.owner_of.get(token)) is not None and holder[0].id != reader.id:
                    # Two have it: a room, a plan, what everybody may know.
                    self._share(column)
                    self._share(one)
                    return
            was_proven = column.is_proven
            column.owner_of[token] = (reader, rest)
            column.owners.add((reader.id, rest))
            for name in {token, text}:
                self._columns.setdefault(name, column)
            if len(self._columns) > VALUES_LIMIT:
                self._forget()
            if column.is_proven:
                for value in (token,) if was_proven else list(column.owner_of):
                    if (holder := column.owner_of.get(value)) is not None:
                        self._belongs(value, holder[0], "source")

    def _share(self, column: _Column) -> None:
        column.is_shared = True
        for token in list(column.owner_of):
            self._drop(token)
        column.owner_of.clear()
        column.owners.clear()

    def _drop(self, token: str) -> None:
        self._columns.pop(token, None)
        entry = self._ownership.get(token)
        if entry is not None and entry.how == "source":
            entry.is_public = True

    def _forget(self) -> None:
        for name in list(self._columns)[: VALUES_LIMIT // 20]:
            column = self._columns.pop(name, None)
            if column is not None and (holder := column.owner_of.pop(name, None)) is not None:
                column.owners.discard((holder[0].id, holder[1]))

    def _read_otherwise(self, values: object, but_of: str = "") -> None:
        columns, seen = self._columns, self._seen
        for _, text in _cells_of(values, OTHER_ROWS_LIMIT):
            # What was found so before costs next to nothing.
            if seen.get(hash(text)) != "" or text in columns:
                self._publish(text, but_of)
        forget_oldest(seen, SEEN_LIMIT, 0.05)

    def _publish(self, text: str, but_of: str = "") -> None:
        """Take a text as one that others may have as well; with an id, than this principal."""
        key = hash(text)
        if self._seen.setdefault(key, but_of) != but_of:
            self._seen[key] = ""
        column = self._columns.get(text)
        if column is not None:
            for token in [text] if text in column.owner_of else tokens_of(text[:TEXT_LIMIT]):
                holder = column.owner_of.get(token)
                if holder is not None and holder[0].id != but_of:
                    column.owner_of.pop(token, None)
                    self._drop(token)

    def _asked_for(self, read: Fetched) -> tuple[object, Principal | None, int]:
        """Return what was asked, the one principal whom it was asked for, and the hash of the other parameters."""
        if read.store == "sql":
            equal = self._statements.get(read.statement)
            if equal is None:
                equal = self._statements[read.statement] = predicates_of(read.statement)
                forget_oldest(self._statements, STATEMENTS_LIMIT, 0.05)
            if not equal:
                return None, None, 0
            bound, everything = bound_to(read.key, equal)
            named = {owner.id: owner for value in bound if (owner := self._named(value)) is not None}
            if len(named) != 1:
                return None, None, 0
            owner = next(iter(named.values()))
            others = [value for value in everything if not (type(value) in _IDS and str(value) == owner.id)]
            if any(type(value) not in _PLAIN for value in others):
                # Whether two of them are the same, only code of the host could tell.
                return None, None, 0
            return read.statement, owner, hash(tuple(others))
        if type(read.key) in (str, bytes):
            key = read.key if type(read.key) is str else read.key.decode("utf-8", "replace")  # type: ignore[attr-defined]
            for mark in _KEY_MARKS:
                parts = key.split(mark) if mark in key else ()
                for at, part in enumerate(parts):
                    if (owner := self._known(part)) is not None:
                        return (read.where, mark, *parts[:at], None, *parts[at + 1 :]), owner, 0
        return None, None, 0

    def _named(self, value: object) -> Principal | None:
        return self._known(str(value)) if type(value) in _IDS else None

    # --- judging ------------------------------------------------------------------------------------------------------

    def explains(self, suspicion: Suspicion, text: str) -> bool:
        """Return whether a value that its owner read may be shown to another by right.

        It is foreign to who has, by the same query, another one of his own, has read it in no way himself, and is shown nothing
        else of that column: several side by side are a list for all.
        """
        column = self._columns.get(suspicion.token)
        holder = column.owner_of.get(suspicion.token) if column is not None else None
        if column is None or holder is None or not column.is_proven or (suspicion.principal.id, holder[1]) not in column.owners:
            return True
        if was_fetched(suspicion.request, suspicion.token, _STORES):
            return True
        return any((other := column.owner_of.get(token)) is not None and other[0].id != holder[0].id for token in tokens_of(text))


def _cells_of(values: object, limit: int) -> list[tuple[object, str]]:
    """Return the texts of the first rows with their places; rows as drivers make them, looked at raw."""
    found: list[tuple[object, str]] = []
    if type(values) is not list:
        _add_row(found, values)
        return found
    left = limit
    for row in values:
        # Some clients tell rows in portions.
        for one in row[:left] if type(row) is list and row and _is_row(row[0]) else (row,):
            if left <= 0:
                return found
            left -= 1
            _add_row(found, one)
    return found


def _add_row(found: list[tuple[object, str]], row: Any) -> None:
    if isinstance(row, tuple):
        cells: Iterable[tuple[object, object]] = enumerate(tuple.__iter__(row))
    elif type(row) is dict:
        cells = list(row.items())
    elif _is_row(row):
        cells = enumerate(row.values() if _is_record(row) else tuple(row))
    else:
        cells = (("", row),)
    for place, cell in cells:
        kind = type(cell)
        if kind is str:
            if len(cell) >= MIN_LENGTH:  # type: ignore[arg-type]  # an exact str
                found.append((place, cell))  # type: ignore[arg-type]
        elif kind is UUID:
            found.append((place, str(cell)))
        elif kind in (dict, list) or (kind is bytes and len(cell) <= BYTES_LIMIT):  # type: ignore[arg-type]  # exact bytes
            found += [(place, text) for text in texts_in(cell, 2) if len(text) >= MIN_LENGTH]


def _is_row(value: object) -> bool:
    kind = type(value)
    return isinstance(value, tuple) or kind is dict or (kind.__module__, kind.__name__) == ("sqlite3", "Row") or _is_record(value)


def _is_record(value: object) -> bool:
    kind = type(value)
    return kind.__name__ == "Record" and kind.__module__.startswith("asyncpg")
