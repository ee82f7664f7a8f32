"""The tools an agent can call: a calculator, a clock, the user's note and the user's own earlier messages.

A tool is a plain function of its argument and of what the agent was given; none keeps state.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

Number = int | float

_OPERATORS: Final[dict[type[ast.operator], Callable[[Number, Number], Number]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_LONGEST_EXPRESSION: Final = 200


class ToolError(Exception):
    """The tool cannot do what it was asked; the text is fit for the user."""


def calculator(expression: str) -> str:
    """Return the value of an arithmetic expression.

    >>> calculator("2 * (3 + 4)")
    '14'

    Raises:
        ToolError: the expression is none, is too long, or divides by zero.
    """
    if len(expression) > _LONGEST_EXPRESSION:
        raise ToolError("not possible: too long for my calculator")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
        if isinstance(value, float) and not math.isfinite(value):
            raise OverflowError(expression)
        return str(value) if isinstance(value, int) else f"{value:.12g}"
    except ZeroDivisionError:
        raise ToolError("not possible: it divides by zero") from None
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        raise ToolError("nothing that I can calculate") from None


def _value(node: ast.expr) -> Number:
    # Only numbers and operators: the text comes from a user and is never evaluated as Python.
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value  # type: ignore[return-value]  # the line above has asked for the type
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError(ast.dump(node))


def clock(now: datetime | None = None) -> str:
    """Return the date and time in UTC."""
    return (now or datetime.now(UTC)).strftime("%A, %d %B %Y, %H:%M:%S UTC")
