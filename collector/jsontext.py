"""Strict JSON: what comes in is finite, shallow and printable; what goes out parses everywhere.

`json` of the standard library reads and writes `NaN`, takes `1e999` for infinity and keeps NUL and lone surrogates,
none of which every store and every consumer accepts (Argo Rollouts counts an unparsable 2xx body as success).
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 16
"""Containers within containers, a record itself being the first."""

_DROPPED: Final[dict[int, None]] = dict.fromkeys(
    (
        *(code for code in range(0x20) if code not in (0x09, 0x0A)),
        *range(0x7F, 0xA0),
        # Line separators and the controls that reorder text on screen: evidence must read as it was written.
        *(0x2028, 0x2029),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    )
)


class JsonError(ValueError):
    """The text is not JSON as we accept it; the message says why, without repeating the text."""


def loads(text: bytes) -> Any:
    """Return the value of UTF-8 JSON.

    Raises:
        JsonError: not UTF-8, not JSON, NaN or infinity by name, a number of thousands of digits, or nested without end.
    """
    try:
        return json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise JsonError("the body is not UTF-8") from None
    except RecursionError:
        raise JsonError("the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except JsonError:
        raise
    except ValueError:
        raise JsonError("the body holds a number that is too long") from None


def dumps(value: Any) -> str:
    """Return compact JSON.

    Raises:
        ValueError: the value holds NaN or infinity.
    """
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def clean(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Return `value` with control characters and lone surrogates taken out of every string, keys included.

    Raises:
        JsonError: a number is not finite or beyond 64 bits, or containers nest deeper than `depth`.
    """
    if isinstance(value, str):
        return clean_text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise JsonError("a number is beyond 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise JsonError("a number is not finite")
        return value
    if depth <= 0:
        raise JsonError(f"values nest deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {clean_text(str(key)): clean(item, depth - 1) for key, item in value.items()}
    return [clean(item, depth - 1) for item in value]


def clean_text(text: str) -> str:
    """Return `text` without control characters (tab and line feed stay) and without lone surrogates."""
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_DROPPED).encode("utf-8", "replace").decode("utf-8")


def one_line(text: str) -> str:
    """Return `text` cleaned and on one line."""
    return " ".join(clean_text(text).split())


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"the body holds {name}, which is not JSON")
