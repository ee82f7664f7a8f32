"""Owner predicates: the parameters that the rows of a query of one table are equal to, found by the text of the statement.

Read once for each statement. Anything that is not plainly `column = parameter`, joined by `AND`, is taken for no predicate. Nor is
any of a query of several tables: whoever names himself there may be asking for what he shares with others.
"""

from __future__ import annotations

import re
from typing import Any, Final

TEXT_LIMIT: Final = 20_000
"""Characters of a statement that is read; a longer one lists its values, and is no query of one user."""

_PARTS: Final = re.compile(
    r"""(?sx)
      '(?:[^']|'')*' | --[^\n]* | /\*.*?\*/          # texts and comments
    | (?P<name>%\((?P<pyformat>\w+)\)s | (?<![:\w]):(?P<colon>[A-Za-z_]\w*))
    | (?P<number>\$(?P<dollar>\d+))
    | (?P<next>\?|%s)
    """
)
_EQUAL: Final = re.compile(r"[\w\"`\]]\s*=\s*$")
_WHERE: Final = re.compile(r"(?i)\bwhere\b")
_FROM: Final = re.compile(r"(?i)\bfrom\b")
_MANY: Final = re.compile(r"(?i)\b(?:or|union|intersect|except|not|case)\b")
_JOINED: Final = re.compile(r"(?i)\bjoin\b|\bselect\b.*\bselect\b", re.DOTALL)


def predicates_of(statement: str) -> tuple[int | str, ...]:
    """Return the places, or names, of the parameters that columns of the one table must be equal to.

    >>> predicates_of("SELECT iban FROM accounts WHERE owner = ? AND year = ? LIMIT ?")
    (0, 1)
    >>> predicates_of("SELECT p.text FROM posts p JOIN members m ON m.room = p.room WHERE m.member = :me")
    ()
    >>> predicates_of("SELECT text FROM posts WHERE author = %s OR is_public")
    ()
    """
    if len(statement) > TEXT_LIMIT or statement[:40].lstrip()[:6].lower() != "select":
        return ()
    found: list[int | str] = []
    positional = 0

    def bare(match: re.Match[str]) -> str:
        """Take the values out, so that no word or sign within them is read as one of the statement."""
        nonlocal positional
        if match["name"]:
            found.append(match["pyformat"] or match["colon"])
        elif match["number"]:
            found.append(int(match["dollar"]) - 1)
        elif match["next"]:
            found.append(positional)
            positional += 1
        else:
            return " "
        return "\0"

    text = _PARTS.sub(bare, statement.replace("\0", " "))
    source, begin = _FROM.search(text), _WHERE.search(text)
    if source is None or begin is None or _JOINED.search(text) or _MANY.search(text, begin.start()):
        return ()
    if set(text[source.end() : begin.start()]) & set(",("):
        return ()
    equal: list[int | str] = []
    at = -1
    for where in found:
        at = text.index("\0", at + 1)
        if at > begin.start() and _EQUAL.search(text, max(0, at - 200), at):
            equal.append(where)
    return tuple(equal)


def bound_to(parameters: Any, equal: tuple[int | str, ...]) -> tuple[list[object], list[object]]:
    """Return the values of the parameters that rows are equal to, and all values.

    The parameters stand in a sequence or a dict, or in a list of one of these.
    """
    if type(parameters) is list and len(parameters) == 1 and isinstance(parameters[0], (tuple, list, dict)):
        # SQLAlchemy's: one for each execution.
        parameters = parameters[0]
    kind = type(parameters)
    if kind is dict:
        return [parameters[where] for where in equal if type(where) is str and where in parameters], list(parameters.values())
    if kind in (tuple, list):
        return [parameters[where] for where in equal if type(where) is int and where < len(parameters)], list(parameters)
    return [], []
