"""What may be a secret leaves no record: by the name of its field, and by its form, before anything is written to the spool.

Records hold no raw value to begin with; this is the second line, for texts that an application's own names and reasons bring along.
Works on JSON alone, so that no code of the host runs here, and looks closer only where a quick look found something.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

REDACTED: Final = "[redacted]"

_NAME: Final = re.compile(
    r"passw(or)?d|passphrase|pwd|secret|authorization|cookie|(api|access|private)[_-]?key|tokens?$|credentials$",
    re.IGNORECASE,
)
"""Names of fields whose text is left out whatever it is. `principal` and `credential` are hashes and names of headers."""
_AS_IT_IS: Final = frozenset({"id", "run_id", "violation_id", "instance", "route", "endpoint", "stack"})
"""Fields that people search by, and places in code. They are nothing that a user typed, and mean nothing when they are rewritten."""

# A word before it makes no difference: DB_PASSWORD, clientSecret. A count (token=5) and our own sentences (token: one instance) do.
_KEY: Final = (
    r"\w{0,40}?(?:passw(?:or)?d|passphrase|pwd|(?:api|access|private)[_-]?key"
    r"|(?:secret|token)(?!\s*[=:]\s*\d{1,3}(?:[\s,;)\]}]|$))(?!\s*:\s+(?-i:[a-z]{1,12})\s+[a-z\[]))"
)
_QUOTE: Final = r"\\{0,3}[\"']"
# In quotes to their end, or to that of a text that was cut; `b"…"` and `Secret("…")` as well.
_VALUE: Final = r"(?!\[redacted\])(?:(?:[bru]{1,2}|[\w.]{1,40}\()?\\{0,3}(?:\"[^\"]*\"?|'[^']*'?)|[^\s&,;\"'=:>][^\s&,;\"']*)"
_IN_HEADERS: Final = rf"(?:{_QUOTE})?\s*[:=,]\s*(?:b?{_QUOTE})?"
_COOKIE: Final = r"[\w.%-]{1,100}=[^\s;,\"']*(?:;\s*[\w.%-]{1,100}(?:=[^\s;,\"']*)?)*"
_SCHEME: Final = r"(?:token|bearer|basic|digest|negotiate|api-?key|key)\s+"
# A plain word after "basic" is an English sentence.
_NO_WORD: Final = r"(?!(?-i:[A-Za-z]?[a-z]+)[.:]?(?![A-Za-z0-9._~+/=-]))"
# `module.token:NAME` is a place in code, `/token:refresh` a route.
_NAMED: Final = rf"\b(?:(?<!/){_KEY}{_QUOTE}|(?<![./]){_KEY})"
_FORMS: Final = (
    # What stands before a secret is kept: it tells the reader what there was.
    # A slash in a password should be written otherwise, and often is not; `host:443/` is an address.
    (
        re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^/\s@:\[\"']{0,100}:(?!\d{1,5}[/?#])[^\s@\"']{1,200}@", re.IGNORECASE),
        r"\1" + REDACTED + "@",
    ),
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)(?:[^/\s@\"']{1,200}@){1,3}", re.IGNORECASE), r"\1" + REDACTED + "@"),
    (re.compile(rf"(\bauthorization{_IN_HEADERS}{_SCHEME})(?!\[redacted\])[^\s\"',;]{{3,}}", re.IGNORECASE), r"\1" + REDACTED),
    (re.compile(rf"(\bauthorization{_IN_HEADERS})(?=[a-z._~+/-]*\d)[\w.~+/=-]{{8,}}", re.IGNORECASE), r"\1" + REDACTED),
    (re.compile(rf"(\b(?:bearer|basic|digest)\s+){_NO_WORD}[A-Za-z0-9._~+/=-]{{8,}}", re.IGNORECASE), r"\1" + REDACTED),
    (re.compile(rf"(\bcookie{_IN_HEADERS}){_COOKIE}", re.IGNORECASE), r"\1" + REDACTED),
    (re.compile(rf"(\b{_KEY}(?:{_QUOTE})?\s*+(?:=>|={{1,3}}+)\s*+){_VALUE}", re.IGNORECASE), r"\1" + REDACTED),
    (re.compile(rf"({_NAMED}\s*+:=?+\s*+){_VALUE}", re.IGNORECASE), r"\1" + REDACTED),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?"), REDACTED),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), REDACTED),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|sk-|sk_live_|rk_live_)[A-Za-z0-9_-]{12,}"), REDACTED),
    (re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*", re.DOTALL), REDACTED),
    (re.compile(r"\b[\w.%+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})*\.[^\W\d_]{2,24}\b"), REDACTED),
)
_TRACES: Final = (
    *(
        "passw",
        "passphrase",
        "pwd",
        "secret",
        "authorization",
        "cookie",
        "apikey",
        "api_key",
        "api-key",
        "token",
        "credentials",
        "@",
        "bearer",
        "basic",
        "digest",
    ),
    *("private_key", "private-key", "privatekey", "access_key", "access-key", "accesskey"),
    *(
        "eyj",
        "akia",
        "asia",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "glpat-",
        "xox",
        "sk-",
        "sk_live_",
        "rk_live_",
        "-----begin",
    ),
)
"""A text that holds none of these, in small letters, holds nothing of the above."""


def redacted(text: str) -> str:
    """Return the JSON text of a record without what may be a secret; the same text where there is nothing of the kind."""
    if not _has_trace(text):
        return text
    value = json.loads(text)
    found = _without(value)
    # What comes out of here unchanged is sent as it was written.
    return text if found == value else json.dumps(found, allow_nan=False)


def _without(value: Any) -> Any:  # Any: JSON
    if isinstance(value, str):
        if not _has_trace(value):
            return value
        for form, instead in _FORMS:
            value = form.sub(instead, value)
        return value
    if isinstance(value, list):
        return [_without(one) for one in value]
    if isinstance(value, dict):
        return _fields_without(value)
    return value


def _fields_without(fields: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    more: dict[str, int] = {}
    for name, value in fields.items():
        key = plain = _without(name)
        # Two that are called the same now are two all the same.
        while key != name and (key in found or key in fields):
            more[plain] = more.get(plain, 1) + 1
            key = f"{plain} {more[plain]}"
        if name in _AS_IT_IS and _is_text(value):
            found[key] = value
        else:
            found[key] = REDACTED if value != REDACTED and _NAME.search(name) and _holds_text(value) else _without(value)
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _holds_text(value: object) -> bool:
    """Whether there is anything but numbers in it: those are counts."""
    if isinstance(value, dict):
        return any(map(_holds_text, value.values()))
    return bool(value) and isinstance(value, (str, list))


def _has_trace(text: str) -> bool:
    lowered = text.lower()
    return any(trace in lowered for trace in _TRACES)
