"""Learned identity: a field in which an endpoint gives everybody his own id names another principal.

The same harm as a declared identity field's (`foreign_identity.py`, whose kind it reports), without the declaration: where
several principals found their own id in a field of an endpoint that addresses nothing, that field is an identity field.
Sees: JSON answers of a principal named by id, fields that stand once in the answer. Cannot see: lists (members, authors);
answers to requests that name something; endpoints where nobody's id is answered. Cost: one search of the own id an answer,
about 1 us, and 3 us where it is found. Precision: a field that names the principal in most answers to several principals.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.detectors import foreign_identity
from isolation_monitor.telemetry.detectors.answers import field_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.principals import Principal

ENDPOINTS_LIMIT: Final = 2_000
FIELDS_LIMIT: Final = 4
MIN_PRINCIPALS: Final = 2
MIN_ANSWERS: Final = 5
MIN_SHARE: Final = 0.7
"""Share of the answers with this field that name their own principal in an identity field."""


class _Field:
    __slots__ = ("answers", "own", "pattern", "principals")

    def __init__(self, name: str) -> None:
        self.pattern = re.compile(rf'"{re.escape(name)}"\s*:\s*"?([^"\\,}}\]\s]{{1,200}})')
        self.answers = 0
        self.own = 0
        self.principals: set[str] = set()

    def value_in(self, text: str) -> str | None:
        """Return what the field holds in an answer, which counts from now on; None for an answer without it."""
        match = self.pattern.search(text)
        if match is None:
            return None
        self.answers += 1
        return match[1]

    @property
    def is_identity(self) -> bool:
        return len(self.principals) >= MIN_PRINCIPALS and self.own >= MIN_ANSWERS and self.own >= MIN_SHARE * self.answers


class LearnedIdentity:
    """Learns per endpoint; told of each JSON answer to a request that addresses nothing but its own."""

    def __init__(self, kit: Kit, acts_for: Callable[[Principal, str], bool] = lambda principal, other: False) -> None:
        """`acts_for` tells whether a principal may act for another, given by id: what names that one is then no leak."""
        self._kit = kit
        self._acts_for = acts_for
        self._switch = kit.switches[names.FOREIGN_IDENTITY]
        self._endpoints: dict[object, dict[str, _Field]] = {}

    def leaving(self, request: RequestContext, endpoint: object, text: str) -> bool:
        """Judge an answer; return True when it names another principal where its own should stand."""
        principal = request.principal
        if principal is None or principal.is_credential or not self._switch.is_on:
            return False
        fields = self._endpoints.get(endpoint)
        named: str | None = None
        if principal.id in text:
            named = field_of(text, principal.id)
            if named:
                fields = self._learn(endpoint, fields, named, text, principal.id)
        for name, field in (fields or {}).items():
            if name == named:
                continue
            value = field.value_in(text)
            if value is None:
                continue
            other = self._kit.principals.known(value)
            if other is not None and other.id != principal.id and field.is_identity and not self._acts_for(principal, other.id):
                foreign_identity.report(self._kit.reporter, self._kit.principals, request, (name, other.id), "the answer")
                return True
        return False

    def pushed(self, request: RequestContext, endpoint: object, text: str) -> None:
        """Note a frame to a client whose last message addressed somebody. It is no answer to that, and so not judged.

        Whom it names counts all the same: a broadcast that its sender hears too names everybody's own id, now and then.
        """
        principal = request.principal
        if principal is not None and (fields := self._endpoints.get(endpoint)) is not None:
            for field in fields.values():
                if field.value_in(text) == principal.id:
                    field.own += 1

    def _learn(self, endpoint: object, fields: dict[str, _Field] | None, name: str, text: str, own: str) -> dict[str, _Field]:
        if fields is None:
            if len(self._endpoints) >= ENDPOINTS_LIMIT:
                self._endpoints.pop(next(iter(self._endpoints)))
            fields = self._endpoints[endpoint] = {}
        field = fields.get(name)
        if field is None:
            if len(fields) >= FIELDS_LIMIT:
                return fields
            field = fields[name] = _Field(name)
        if field.value_in(text) == own:
            field.own += 1
            if len(field.principals) < 16:
                field.principals.add(own)
        return fields
