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
    kind = type(value)
    if kind is str:
        return value if value.isascii() and value.isprintable() else clean_text(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        if not -(2**63) <= value < 2**63:
            raise JsonError("a number is beyond 64 bits")
        return value
    if kind is float:
        if not math.isfinite(value):
            raise JsonError("a number is not finite")
        return value
    if depth <= 0:
        raise JsonError(f"values nest deeper than {MAX_DEPTH} levels")
    # Every record comes by here whole: what most values are is told apart without a call.
    if kind is dict:
        return {
            key if key.isascii() and key.isprintable() else clean_text(key): item
            if item is None or (type(item) is str and item.isascii() and item.isprintable())
            else clean(item, depth - 1)
            for key, item in value.items()
        }
    return [item if type(item) is str and item.isascii() and item.isprintable() else clean(item, depth - 1) for item in value]


def is_plain(encoded: bytes) -> bool:
    """Say whether `clean` has nothing to take out of any string of this JSON: no escape and no character beyond ASCII in it."""
    return encoded.isascii() and b"\\" not in encoded and b"\x7f" not in encoded


def fits(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Say whether `clean` would find nothing wrong with what was decoded from plain JSON: no number beyond 64 bits, not too deep."""
    for item in value.values() if type(value) is dict else value:
        kind = type(item)
        # Most values are texts, and many containers are empty: told apart without a call.
        if kind is str:
            continue
        if kind is dict or kind is list:
            if depth <= 1 or (item and not fits(item, depth - 1)):
                return False
        elif kind is int and not -(2**63) <= item < 2**63:
            return False
    return True


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
