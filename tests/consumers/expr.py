"""Conditions of Argo Rollouts: the part of expr-lang that they are written in, with its types and its errors.

Sources: argo-rollouts `utils/evaluate/evaluate.go` (environment, `AsBool`) and expr-lang's language definition. Written
for the tests of this project: what is not known here raises, so that a condition cannot pass by being misread.
"""

from __future__ import annotations

import math
import re
from typing import Any

_TOKEN = re.compile(r'\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<string>"[^"\\]*")|(?P<name>[A-Za-z_]\w*)|(?P<op>&&|\|\||[=!<>]=|[<>!()\[\].,-]))')


class ExprError(Exception):
    """Argo would mark the measurement Error: the condition does not compile, or fails while it runs."""


def condition(text: str, result: Any) -> bool:
    """Return what the condition says of `result`.

    Raises:
        ExprError: it does not compile, fails, or gives anything but true or false.
    """
    parser = _Parser(_tokens(text), {"result": result})
    value = parser.either()
    if parser.rest:
        raise ExprError(f"unexpected {parser.rest[0]!r}")
    if not isinstance(value, bool):
        raise ExprError(f"{text!r} gives no bool")
    return value


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    text = text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ExprError(f"unknown text at {text[at:]!r}")
        kind = match.lastgroup or ""
        found.append((kind, match.group(kind)))
        at = match.end()
    return found


class _Parser:
    """Evaluates while it parses. `live` is off in the part that `&&` and `||` do not run."""

    def __init__(self, tokens: list[tuple[str, str]], environment: dict[str, Any]) -> None:
        self.rest = tokens
        self._environment = environment
        self._live = True

    def either(self) -> Any:
        left = self._both()
        while self._take("||"):
            left = self._short(left, self._both, stops_at=True)
        return left

    def _both(self) -> Any:
        left = self._compared()
        while self._take("&&"):
            left = self._short(left, self._compared, stops_at=False)
        return left

    def _short(self, left: Any, right: Any, *, stops_at: bool) -> Any:
        self._must(isinstance(left, bool), "a bool on the left")
        before = self._live
        self._live = before and left is not stops_at
        value = right()
        ran, self._live = self._live, before
        if not ran:
            return left
        self._must(isinstance(value, bool), "a bool on the right")
        return value

    def _compared(self) -> Any:
        left = self._unary()
        for operator in ("==", "!=", "<=", ">=", "<", ">"):
            if self._take(operator):
                return self._compare(operator, left, self._unary())
        return left

    def _compare(self, operator: str, left: Any, right: Any) -> bool:
        if not self._live:
            return False
        if operator in ("==", "!="):
            # A string never equals a number, nor nil anything but nil; NaN equals nothing.
            same = left == right and isinstance(left, str) == isinstance(right, str) and isinstance(left, bool) == isinstance(right, bool)
            return same if operator == "==" else not same
        self._must(_is_number(left) and _is_number(right), "numbers to compare")
        return {"<": left < right, ">": left > right, "<=": left <= right, ">=": left >= right}[operator]

    def _unary(self) -> Any:
        if self._take("!"):
            value = self._unary()
            self._must(isinstance(value, bool), "a bool after !")
            return not value if self._live else False
        if self._take("-"):
            value = self._unary()
            self._must(_is_number(value), "a number after -")
            return -value if self._live else 0
        return self._postfix()

    def _postfix(self) -> Any:
        value = self._primary()
        while True:
            if self._take("."):
                name = self._next("name")
                value = self._member(value, name)
            elif self._take("["):
                index = self.either()
                self._expect("]")
                value = self._index(value, index)
            else:
                return value

    def _member(self, value: Any, name: str) -> Any:
        if not self._live:
            return None
        # A key that is not there is nil; a member of anything but a map fails.
        self._must(isinstance(value, dict), f"a map to take .{name} from, not {type(value).__name__}")
        return value.get(name)

    def _index(self, value: Any, index: Any) -> Any:
        if not self._live:
            return None
        self._must(isinstance(value, list) and isinstance(index, int), "a list and a whole number")
        self._must(-len(value) <= index < len(value), "an index within the list")
        return value[index]

    def _primary(self) -> Any:
        if self._take("("):
            value = self.either()
            self._expect(")")
            return value
        kind, text = self.rest.pop(0) if self.rest else ("", "")
        if kind == "number":
            return float(text) if "." in text else int(text)
        if kind == "string":
            return text[1:-1]
        if kind != "name":
            raise ExprError(f"unexpected {text!r}")
        if text in ("true", "false", "nil"):
            return {"true": True, "false": False, "nil": None}[text]
        if self._take("("):
            argument = self.either()
            self._expect(")")
            return self._call(text, argument)
        if text not in self._environment:
            raise ExprError(f"unknown name {text}")
        return self._environment[text]

    def _call(self, name: str, value: Any) -> Any:
        if not self._live:
            return None
        if name == "len":
            self._must(isinstance(value, list | str | dict), "something with a length")
            return len(value)
        if name in ("isNaN", "isInf"):
            self._must(_is_number(value), "a number")
            return math.isnan(value) if name == "isNaN" else math.isinf(value)
        if name == "isNil":
            return value is None
        if name in ("asFloat", "asInt"):
            try:
                return float(value) if name == "asFloat" else int(value)
            except (TypeError, ValueError):
                raise ExprError(f"{name} of {value!r}") from None
        raise ExprError(f"unknown function {name}")

    def _take(self, operator: str) -> bool:
        if self.rest and self.rest[0] == ("op", operator):
            self.rest.pop(0)
            return True
        return False

    def _expect(self, operator: str) -> None:
        if not self._take(operator):
            raise ExprError(f"expected {operator}")

    def _next(self, kind: str) -> str:
        if not self.rest or self.rest[0][0] != kind:
            raise ExprError(f"expected a {kind}")
        return self.rest.pop(0)[1]

    def _must(self, holds: bool, what: str) -> None:
        if self._live and not holds:
            raise ExprError(f"needs {what}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
