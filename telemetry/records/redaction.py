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
    r"passw(or)?d|passphrase|\bpwd\b|secret|authorization|cookie|api_?key|private_?key|access_?key|(^|_)token$|credentials$",
    re.IGNORECASE,
)
"""Names of fields whose value is left out whatever it is. `principal` and `credential` are hashes and names of headers."""

_KEYWORDS: Final = r"passw(?:or)?d|passphrase|pwd|secret|api[_-]?key|access[_-]?key|(?:access|refresh|id|auth)[_-]?token|token"
_FORMS: Final = (
    # What stands before a secret is kept: it tells the reader what there was.
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://)[^/\s@\"']{1,200}@", re.IGNORECASE), r"\1" + REDACTED + "@"),
    (re.compile(r"(\b(?:bearer|basic|digest)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), r"\1" + REDACTED),
    (re.compile(rf"(\b(?:{_KEYWORDS})\b\s*[=:]\s*)(?!\[redacted\])[^\s&,;\"']+", re.IGNORECASE), r"\1" + REDACTED),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)?"), REDACTED),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), REDACTED),
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|sk-|sk_live_|rk_live_)[A-Za-z0-9_-]{12,}"), REDACTED),
    (re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*", re.DOTALL), REDACTED),
    (re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.[A-Za-z]{2,24}\b"), REDACTED),
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
    *("private_key", "privatekey", "access_key", "access-key", "accesskey"),
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
        return {_without(key): REDACTED if _names_a_secret(key, one) else _without(one) for key, one in value.items()}
    return value


def _has_trace(text: str) -> bool:
    lowered = text.lower()
    return any(trace in lowered for trace in _TRACES)


def _names_a_secret(key: str, value: object) -> bool:
    return value not in (None, "", REDACTED) and not isinstance(value, bool) and _NAME.search(key) is not None
