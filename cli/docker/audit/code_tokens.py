"""Splits source code of languages with C's, Ruby's or Python's marks into tokens: names, strings, marks. Comments fall away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from isolation_monitor.cli.docker.audit.unknown import HOLE, value_of_unknown

Kind = Literal["name", "text", "run", "mark", "number"]

_NAME = re.compile(r"[A-Za-z_$][\w$]*[!?]?(?=\()|[A-Za-z_$][\w$]*")
_NUMBER = re.compile(r"\d[\w.]*")
_MARK = re.compile(r"=>|===?|!==?|:=|\+=|&&|\|\||\?\?|::|->|.", re.S)
# After these a slash begins a regular expression, not a division.
_BEFORE_REGEX: Final = frozenset([
        "(", ",", "=", ":", "[", "!", "&", "|", "?", "{", "}", ";", "=>", "&&", "||", "return", "typeof", "case",
    ])  # fmt: skip
_REGEX = re.compile(r"/(?![/*])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+/[a-z]*")
_CLOSES: Final = {"(": ")", "[": "]", "{": "}", "<": ">"}
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "\n": ""}


@dataclass(frozen=True, slots=True)
class Token:
    """One token; a `text` is a string without its quotes, with holes for what is put into it, a `run` one that its quotes run."""

    kind: Kind
    text: str
    line: int
    end_line: int


@dataclass(frozen=True, slots=True)
class Language:
    """How a language writes comments and strings. `interpolates`: the pattern of a value inside a string, by the string's quote."""

    line_comments: tuple[str, ...]
    block_comments: bool
    quotes: tuple[str, ...]
    interpolation: dict[str, str]
    has_regex: bool = False
    backticks_run: bool = False
    runs: str = ""
    """Stands in front of any mark that then quotes a command: Ruby's `%x(...)`, Perl's `qx{...}`."""
    string_marks: str = ""
    """Marks that stand in front of a string and belong to it, as C#'s `$"..."`."""


JAVASCRIPT: Final = Language(("//",), True, ("`", '"', "'"), {"`": "${"}, has_regex=True)
GO: Final = Language(("//",), True, ("`", '"', "'"), {})
GROOVY: Final = Language(("//", "#!"), True, ('"""', "'''", '"', "'"), {'"""': "${", '"': "${"})
JVM: Final = Language(("//",), True, ('"""', '"', "'"), {'"""': "${", '"': "${"}, string_marks="$@")
RUST: Final = Language(("//",), True, ('"',), {})
RUBY: Final = Language(("#",), False, ("`", '"', "'"), {'"': "#{", "`": "#{"}, backticks_run=True, runs="%x")
PHP: Final = Language(("//", "#"), True, ("`", '"', "'"), {'"': "{$"}, backticks_run=True)
PERL: Final = Language(("#",), False, ("`", '"', "'"), {}, backticks_run=True, runs="qx")
LUA: Final = Language(("--",), False, ('"', "'"), {})
ELIXIR: Final = Language(("#",), False, ('"""', '"', "'"), {'"""': "#{", '"': "#{", "'": "#{"})
DART: Final = Language(("//",), True, ("'''", '"""', "'", '"'), {"'": "${", '"': "${"})
C: Final = Language(("//",), True, ('"', "'"), {})
PYTHON: Final = Language(("#",), False, ('"""', "'''", '"', "'"), {})


def tokens(text: str, language: Language) -> Iterator[Token]:
    """Yield the tokens of a source text. An unknown mark is a token of its own: nothing raises."""
    at, line = 0, 1
    before = "("
    while at < len(text):
        char = text[at]
        if char.isspace():
            line += char == "\n"
            at += 1
            continue
        if char in language.string_marks and text[at + 1 : at + 2] in (*language.string_marks, '"'):
            at += 1
            continue
        if any(text.startswith(mark, at) for mark in language.line_comments):
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
            continue
        if language.block_comments and text.startswith("/*", at):
            end = text.find("*/", at + 2)
            end = len(text) if end < 0 else end + 2
            line += text.count("\n", at, end)
            at = end
            continue
        if language.has_regex and char == "/" and before in _BEFORE_REGEX and (regex := _REGEX.match(text, at)):
            at = regex.end()
            before = ")"
            continue
        if language.runs and (opened := _opened(text, at, language.runs)) is not None:
            value, end = _string(text, opened, _CLOSES.get(text[opened], text[opened]), language.interpolation.get("`"), text[opened])
            end_line = line + text.count("\n", at, end)
            yield Token("run", value, line, end_line)
            at, line, before = end, end_line, ")"
            continue
        quote = next((one for one in language.quotes if text.startswith(one, at)), None)
        if quote is not None:
            value, end = _string(text, at, quote, language.interpolation.get(quote))
            end_line = line + text.count("\n", at, end)
            yield Token("run" if quote == "`" and language.backticks_run else "text", value, line, end_line)
            at, line, before = end, end_line, ")"
            continue
        kind: Kind = "name"
        found = _NAME.match(text, at)
        if found is None and (found := _NUMBER.match(text, at)):
            kind = "number"
        if found is None:
            found, kind = _MARK.match(text, at), "mark"
        taken = found[0] if found else char
        yield Token(kind, taken, line, line)
        at += len(taken)
        before = taken


def _opened(text: str, at: int, runs: str) -> int | None:
    """Return where the mark stands that quotes a command, of `%x(...)` or `qx{...}`; None where there is none."""
    mark = at + len(runs)
    is_one = text.startswith(runs, at) and not (at and (text[at - 1].isalnum() or text[at - 1] in "_$@%"))
    return mark if is_one and mark < len(text) and not (text[mark].isalnum() or text[mark].isspace() or text[mark] in "_,;=") else None


def _string(text: str, start: int, quote: str, opening: str | None, opened_by: str = "") -> tuple[str, int]:
    """Return a string's value and the position behind it. `opened_by`: the mark that opens it, where pairs of them may stand inside."""
    at, depth = start + len(quote), 0
    found: list[str] = []
    multiline = len(quote) == 3 or quote == "`" or bool(opened_by)
    while at < len(text):
        char = text[at]
        if text.startswith(quote, at):
            if not depth:
                return "".join(found), at + len(quote)
            depth -= 1
        elif char == opened_by:
            depth += 1
        if char == "\n" and not multiline:
            break  # no string after all, such as an apostrophe in a text
        if char == "\\":
            following = text[at + 1 : at + 2]
            found.append(_ESCAPES.get(following, following))
            at += 2
        elif opening is not None and text.startswith(opening, at):
            inside, at = _balanced(text, at + len(opening))
            found.append(value_of_unknown(inside.strip(" $")) if re.fullmatch(r"[\s$]*[\w.]+\s*", inside) else HOLE)
        else:
            found.append(char)
            at += 1
    return "".join(found), at


def _balanced(text: str, at: int) -> tuple[str, int]:
    start, depth = at, 1
    while at < len(text):
        depth += (text[at] == "{") - (text[at] == "}")
        at += 1
        if depth == 0:
            return text[start : at - 1], at
    return text[start:], at
