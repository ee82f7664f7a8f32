"""The document of rules, `flags/v1`, as the collector answers it at `/v1/flags`: reading it, strictly.

{"schema":"flags/v1","revision":7,"flags":[{"key":"checkout-v2","enabled":true,"percent":10.0,"internal":["ann"],
"holdback_percent":0.0,"revision":7}]}

`internal` is a list of targeting keys, or `{"attribute":"email_domain","in":["example.com"]}`. `variants` may give the values of
`on` and `off`; they are true and false. Members that are not known come from a later version and are left alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NoReturn

from isolation_monitor.telemetry.errors import IsolationMonitorError
from isolation_monitor.telemetry.flags.bucketing import NOBODY, FlagRule, Internal

SCHEMA: Final = "flags/v1"
KEY_LIMIT: Final = 100
"""Characters of a flag's key."""


class FlagRulesError(IsolationMonitorError):
    """A document or a rule of it cannot be understood; the text says what was found."""


@dataclass(frozen=True, slots=True)
class FlagSet:
    """All rules of a service at one revision."""

    revision: int
    rules: Mapping[str, FlagRule]
    refused: Mapping[str, str] = field(default_factory=dict)
    """Rules of the document that were left out, by key: why."""

    def completed_by(self, known: FlagSet | None) -> FlagSet:
        """Return this set with the last known rule of each key whose own rule could not be read."""
        if not self.refused or known is None:
            return self
        return replace(self, rules={**{key: known.rules[key] for key in self.refused if key in known.rules}, **self.rules})


def parse(text: bytes | str) -> FlagSet:
    """Return the rules of a document. A rule that cannot be read is left out and named in `refused`; the others hold.

    Raises:
        FlagRulesError: it is no such document.
    """
    try:
        document = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise FlagRulesError(f"the document is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise FlagRulesError(f"the document is no {SCHEMA}")
    revision, flags = document.get("revision"), document.get("flags")
    if not isinstance(revision, int) or isinstance(revision, bool) or not isinstance(flags, list):
        raise FlagRulesError(f"the {SCHEMA} document has no whole revision, or no list of flags")
    return rules_of(revision, flags)


def rules_of(revision: int, flags: Iterable[object]) -> FlagSet:
    """Return the rules of plain values."""
    rules: dict[str, FlagRule] = {}
    refused: dict[str, str] = {}
    for plain in flags:
        key = plain.get("key") if isinstance(plain, dict) else None
        try:
            rule = rule_of(plain)
            rules[rule.key] = rule
        except FlagRulesError as error:
            refused[str(key)] = str(error)
    return FlagSet(revision, rules, refused)


def rule_of(plain: object) -> FlagRule:
    """Return one rule of plain values.

    Raises:
        FlagRulesError: a member is missing, or of the wrong kind or size.
    """
    if not isinstance(plain, dict):
        raise FlagRulesError("a rule is no object")
    key, enabled, variants = plain.get("key"), plain.get("enabled"), plain.get("variants", {})
    if not isinstance(key, str) or not 0 < len(key) <= KEY_LIMIT:
        raise FlagRulesError(f"a key is a text of 1 to {KEY_LIMIT} characters")
    if not isinstance(enabled, bool):
        raise FlagRulesError("`enabled` is neither true nor false")
    if not isinstance(variants, dict):
        raise FlagRulesError('`variants` is no object such as {"on": true, "off": false}')
    revision = plain.get("revision", 0)
    return FlagRule(
        key=key,
        enabled=enabled,
        percent=_percent(plain, "percent"),
        on=variants.get("on", True),
        off=variants.get("off", False),
        internal=_internal(plain.get("internal")),
        holdback_percent=_percent(plain, "holdback_percent"),
        revision=revision if isinstance(revision, int) else 0,
    )


def _percent(plain: Mapping[str, Any], name: str) -> float:
    value = plain.get(name, 0.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 <= value <= 100:
        raise FlagRulesError(f"`{name}` is no number from 0 to 100")
    return float(value)


def _internal(value: object) -> Internal:
    if value is None or value == []:
        return NOBODY
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return Internal(keys=frozenset(value))
    if isinstance(value, dict):
        attribute, values = value.get("attribute"), value.get("in")
        if isinstance(attribute, str) and attribute and isinstance(values, list) and all(isinstance(item, str) for item in values):
            return Internal(attribute=attribute, values=frozenset(values))
    raise FlagRulesError('`internal` is neither a list of targeting keys nor {"attribute": NAME, "in": [VALUE, ...]}')


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
