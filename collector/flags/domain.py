"""What flags are at one moment, and what OFREP answers about them: plain values, no HTTP.

Who gets what is decided by the same function as in the services (`telemetry/flags/bucketing.py`), so that an evaluation from afar
and one in a process never differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from isolation_monitor.collector import jsontext
from isolation_monitor.telemetry.flags.bucketing import FlagRule, TargetingKeyMissing, variant_of
from isolation_monitor.telemetry.flags.rules import SCHEMA, rules_of

Plain = dict[str, Any]
"""JSON."""

FLAG_NOT_FOUND: Final = "FLAG_NOT_FOUND"
PARSE_ERROR: Final = "PARSE_ERROR"
INVALID_CONTEXT: Final = "INVALID_CONTEXT"
TARGETING_KEY_MISSING: Final = "TARGETING_KEY_MISSING"
GENERAL: Final = "GENERAL"


class FlagSource(Protocol):
    """Who knows the rules."""

    async def rules(self, service: str | None) -> tuple[int, Sequence[Mapping[str, Any]]]:
        """Return the revision, which rises with each change, and the rules of a service's flags, or of all, as plain values."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The flags of one service, or of all, at one moment."""

    revision: int
    rules: Mapping[str, FlagRule]
    document: bytes
    """As providers read it: `flags/v1`."""
    etag: str
    """Of the document, with its quotes."""

    def is_what(self, after: int | None, etags: str | None) -> bool:
        """Return whether this is what somebody has who names a revision, an `If-None-Match`, or both; False for neither."""
        if after is None and etags is None:
            return False
        return (after is None or after == self.revision) and (etags is None or matches(etags, self.etag))


def snapshot_of(revision: int, flags: Sequence[Mapping[str, Any]]) -> Snapshot:
    """Return the flags of plain values, in an order that does not depend on the store's."""
    ordered = sorted((dict(flag) for flag in flags), key=lambda flag: str(flag.get("key")))
    document = jsontext.dumps({"schema": SCHEMA, "revision": revision, "flags": ordered}).encode()
    return Snapshot(revision, rules_of(revision, ordered).rules, document, etag_of(document))


def etag_of(body: bytes) -> str:
    """Return the entity tag of an answer."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def matches(header: str, etag: str) -> bool:
    """Return whether an `If-None-Match` names the tag; compared weakly, as RFC 9110 says for it."""
    named = [part.strip().removeprefix("W/") for part in header.split(",")]
    return etag in named or "*" in named


@dataclass(frozen=True, slots=True)
class Person:
    """Whom a flag is evaluated for: OFREP's context."""

    targeting_key: str
    attributes: Mapping[str, object]


class ContextRefused(Exception):
    """An evaluation's context cannot be used; `code` is OpenFeature's error code."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


def person_of(body: object) -> Person:
    """Return whom the body of an OFREP request names. No context at all is nobody in particular.

    Raises:
        ContextRefused: the body or its context is no object, or the targeting key no text.
    """
    if not isinstance(body, dict):
        raise ContextRefused(PARSE_ERROR, 'the body is no object: send {"context": {"targetingKey": "..."}}')
    context = body.get("context")
    if context is None:
        context = {}
    if not isinstance(context, dict):
        raise ContextRefused(INVALID_CONTEXT, "the context is no object")
    key = context.get("targetingKey")
    if key is not None and not isinstance(key, str):
        raise ContextRefused(INVALID_CONTEXT, "the targetingKey is no text")
    return Person(key or "", context)


def evaluated(rule: FlagRule, person: Person) -> Plain:
    """Return OFREP's answer for one flag: an `evaluationSuccess`, or an `evaluationFailure` that has an `errorCode`."""
    try:
        variant, reason = variant_of(rule, person.targeting_key, person.attributes)
    except TargetingKeyMissing as missing:
        return failure(rule.key, TARGETING_KEY_MISSING, str(missing))
    return {
        "key": rule.key,
        "value": rule.value_of(variant),
        "reason": reason,
        "variant": variant,
        "metadata": {"revision": rule.revision},
    }


def failure(key: str | None, code: str, details: str) -> Plain:
    """Return OFREP's `evaluationFailure` or `flagNotFound`; without a key its `bulkEvaluationFailure`."""
    return ({} if key is None else {"key": key}) | {"errorCode": code, "errorDetails": details}
