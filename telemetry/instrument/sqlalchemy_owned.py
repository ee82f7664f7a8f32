"""Owned models: tells `detectors/unscoped_access.py` which rows of them are asked for, and whose the loaded ones are.

Hooked by SQLAlchemy's own events, for declared models only. Owners are read from the instance's `__dict__`: an expired or
deferred attribute is unknown rather than fetched.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.detectors.unscoped_access import is_same
from isolation_monitor.telemetry.errors import SettingsError, UnscopedAccessError
from isolation_monitor.telemetry.instrument.patches import Patch
from isolation_monitor.telemetry.instrument.sqlalchemy_engines import SUPPORTED, version

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detection import Detection

OwnerOf = Callable[[dict[str, Any]], Any]


class OwnedModels:
    """The declared models of one monitor."""

    def __init__(self, detection: Detection) -> None:
        self._detector = detection.unscoped_access
        self._reporter = detection.kit.reporter
        self._owned: weakref.WeakKeyDictionary[Any, str | OwnerOf] = weakref.WeakKeyDictionary()
        self._undo: list[Callable[[], None]] = []
        self.patches: list[Patch] = []

    def declare(self, model: Any, by: str | OwnerOf) -> None:
        """Watch one mapped class, and the classes that inherit from it.

        Raises:
            SettingsError: `model` is no mapped class, or has no attribute called `by`.
        """
        from sqlalchemy import event, inspect
        from sqlalchemy.orm import Session

        found = version()
        if found[1] not in SUPPORTED:
            note = f"SQLAlchemy {found[0]} is not supported"
            self.patches.append(Patch("sqlalchemy", found[0], f"events of {model!r}", reversible=True, active=False, note=note))
            return
        mapper: Any = inspect(model, raiseerr=False) if isinstance(model, type) else None
        if mapper is None or not hasattr(mapper, "class_"):
            raise SettingsError(f"owns() got {model!r}, which is no mapped class of SQLAlchemy: pass the model itself")
        if isinstance(by, str) and by not in mapper.columns:
            raise SettingsError(
                f"owns({model.__name__}, by={by!r}): the model has no such column; it has {', '.join(mapper.columns.keys())}"
            )
        if not self._owned:
            self._listen(event, Session, "do_orm_execute", self._executing)
        self._owned[model] = by
        load, refresh = self._loading(model, by)
        self._listen(event, model, "load", load, propagate=True)
        self._listen(event, model, "refresh", refresh, propagate=True)
        self.patches.append(
            Patch("sqlalchemy", found[0], f"load, refresh and do_orm_execute of {model.__name__}", reversible=True, active=True)
        )

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()
        self._owned.clear()
        for patch in self.patches:
            patch.active = False

    def _listen(self, event: Any, target: Any, identifier: str, function: Any, **options: Any) -> None:
        event.listen(target, identifier, function, **options)
        self._undo.append(lambda: event.remove(target, identifier, function))

    def _failed(self, error: BaseException) -> None:
        self._reporter.check_failed(names.UNSCOPED_ACCESS, "sqlalchemy", error)

    # --- rows -------------------------------------------------------------------------------------------------------

    def _loading(self, model: Any, by: str | OwnerOf) -> tuple[Any, Any]:
        name, column = model.__name__, by if isinstance(by, str) else getattr(by, "__name__", "owner")
        detector, passed = self._detector, self._reporter.checked

        def judge(instance: Any) -> None:
            try:
                principal = detector.reader()
                if principal is None:
                    return
                inside = object.__getattribute__(instance, "__dict__")
                owner = inside.get(by) if isinstance(by, str) else by(inside)
                if is_same(owner, principal):
                    passed(names.UNSCOPED_ACCESS)
                else:
                    detector.loaded(name, column, owner)
            except Exception as error:
                self._failed(error)

        def load(instance: Any, _context: Any) -> None:
            judge(instance)

        def refresh(instance: Any, _context: Any, _attributes: Any) -> None:
            judge(instance)

        return load, refresh

    # --- queries ----------------------------------------------------------------------------------------------------

    def _executing(self, state: Any) -> None:
        try:
            if not state.is_select:
                return
            mappers = [mapper for mapper in _mappers(state.statement) if self._declared(mapper) is not None]
            if not mappers or state.is_column_load or state.is_relationship_load or self._detector.reader() is None:
                return
            for mapper in mappers:
                self._judge_query(state, mapper)
        except UnscopedAccessError:
            raise
        except Exception as error:
            self._failed(error)

    def _declared(self, mapper: Any) -> Any:
        return next((one for one in mapper.class_.__mro__ if one in self._owned), None)

    def _judge_query(self, state: Any, mapper: Any) -> None:
        model = self._declared(mapper)
        by = self._owned.get(model) if model is not None else None
        if model is None or not isinstance(by, str):
            # Undeclared, or owned by what only a row can tell.
            return
        compared = list(_comparisons(state.statement, _given(state.parameters)))
        keys = {column.key for column in mapper.primary_key}
        if keys and keys <= {column for column, _ in compared}:
            # A look-up by primary key: the row will be judged.
            return
        self._detector.selected(model.__name__, by, [value for _, value in compared])


def _mappers(statement: Any) -> list[Any]:
    """Return the mappers whose rows or columns a SELECT returns. `ORMExecuteState.all_mappers` tells the same in 100 us."""
    found = []
    for column in getattr(statement, "_raw_columns", ()):
        entity = column._annotations.get("parententity")
        mapper = getattr(entity, "mapper", None)
        if mapper is not None and mapper not in found:
            found.append(mapper)
    return found


def _given(parameters: Any) -> dict[str, Any]:
    return parameters if isinstance(parameters, dict) else {}


def _comparisons(statement: Any, parameters: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (column, value) for each `column = value` and `column IN values` in a statement's conditions, joins included."""
    from sqlalchemy.sql import operators, visitors

    clause: Any  # what a clause has depends on its kind
    for clause in visitors.iterate(statement):
        if clause.__visit_name__ != "binary" or clause.operator not in (operators.eq, operators.in_op):
            continue
        for one, other in ((clause.left, clause.right), (clause.right, clause.left)):
            if other.__visit_name__ == "bindparam":
                key = getattr(one, "key", None)
                if isinstance(key, str):
                    yield key, _value(other, parameters)


def _value(bind: Any, parameters: dict[str, Any]) -> Any:
    if bind.key in parameters:
        return parameters[bind.key]
    # A lazily given value is the library's own callable for loads of relationships, or the host's: not called.
    return None if bind.callable is not None else bind.value
