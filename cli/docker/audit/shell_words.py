"""Splits a shell's text into commands: quotes, continuation lines, comments, here-documents, substitutions and pipelines.

No shell is run and nothing is expanded but plain variables. What cannot be known stays a hole in its word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from isolation_monitor.cli.docker.audit.unknown import HOLE

_NAME = re.compile(r"[A-Za-z_]\w*|[0-9@*#?$!-]")
_HERE = re.compile(r"<<(-?)\s*(?:'([^'\n]+)'|\"([^\"\n]+)\"|\\?([^\s'\"|&;<>()]+))")
_REDIRECTION = re.compile(r"(?:&>>?|>\||>>|>&|<&|<>|>|<)")
_OPERATORS: Final = ("&&", "||", "|&", ";;", "|", ";", "&", "(", ")", "\n")


@dataclass(slots=True)
class Piece:
    """A part of a word: `text` as it stands, or the variable `name` (with what `${name:-text}` would give instead)."""

    text: str = ""
    name: str | None = None
    quoted: bool = False


@dataclass(slots=True)
class Word:
    """One word, its line, and the shell texts inside it (`$(...)`) with their lines."""

    line: int
    pieces: list[Piece] = field(default_factory=list)
    inner: list[tuple[str, int]] = field(default_factory=list)

    def plain(self) -> str:
        return "".join(piece.text if piece.name is None else HOLE for piece in self.pieces)


@dataclass(slots=True)
class Simple:
    """One simple command: its words, where it ends, what is written to, its here-documents, and the command that feeds it."""

    words: list[Word] = field(default_factory=list)
    end_line: int = 0
    outputs: list[str] = field(default_factory=list)
    documents: list[tuple[str, int]] = field(default_factory=list)
    fed_by: Simple | None = None


class _Reader:
    def __init__(self, text: str, line: int) -> None:
        self.text = text
        self.at = 0
        self.line = line
        self.waiting: list[tuple[str, bool, Simple]] = []

    def step(self, count: int = 1) -> str:
        taken = self.text[self.at : self.at + count]
        self.at += count
        self.line += taken.count("\n")
        return taken

    def sees(self, text: str) -> bool:
        return self.text.startswith(text, self.at)

    def commands(self) -> Iterator[Simple]:
        current = Simple()
        word: Word | None = None
        while self.at < len(self.text):
            char = self.text[self.at]
            if self.sees("\\\n") or self.sees("\\\r\n"):
                self.step(3 if self.sees("\\\r\n") else 2)
                continue
            if char in " \t\r":
                word = None
                self.step()
                continue
            if char == "#" and word is None:
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
                continue
            test = bool(current.words) and current.words[0].plain() == "[[" and current.words[-1].plain() != "]]"
            if not test and word is None and self.sees("((") and not current.words:
                self._skip_arithmetic()
                continue
            if char == "<" and self.sees("<<") and not self.sees("<<<") and not test and (here := _HERE.match(self.text, self.at)):
                self.waiting.append((here[2] or here[3] or here[4], bool(here[1]), current))
                self.step(len(here[0]))
                word = None
                continue
            if self.sees("<(") or self.sees(">("):
                word = word or self._new(current)
                self.step()
                word.inner.append(self._parenthesis())
                word.pieces.append(Piece(HOLE, quoted=True))
                continue
            if not test and (redirection := _REDIRECTION.match(self.text, self.at) if char in "<>&" else None):
                self._redirection(redirection[0], current, word)
                word = None
                continue
            operator = next((one for one in _OPERATORS if self.sees(one)), None)
            if operator == "(" and word is not None and word.plain().endswith("=") and not test:
                self._array(word)
                continue
            if operator is not None and not (test and operator != "\n"):
                current.end_line = self.line
                self.step(len(operator))
                if operator == "\n" and current.words and self._goes_on(current):
                    word = None
                    continue
                if operator == "\n":
                    self._documents()
                if current.words or current.documents:
                    yield current
                after = Simple()
                if operator in ("|", "|&"):
                    after.fed_by = current
                if operator == "\n" and not current.words and current.fed_by is not None:
                    after.fed_by = current.fed_by
                current, word = after, None
                continue
            word = word or self._new(current)
            self._piece(word)
        current.end_line = self.line
        self._documents()
        if current.words or current.documents:
            yield current

    @staticmethod
    def _goes_on(current: Simple) -> bool:
        """`[[` goes on over lines."""
        return current.words[0].plain() == "[[" and current.words[-1].plain() != "]]"

    def _new(self, current: Simple) -> Word:
        word = Word(self.line)
        current.words.append(word)
        return word

    def _piece(self, word: Word) -> None:
        char = self.text[self.at]
        if char == "'":
            self.step()
            end = self.text.find("'", self.at)
            word.pieces.append(Piece(self.step((len(self.text) if end < 0 else end) - self.at), quoted=True))
            self.step()
        elif char == '"':
            self.step()
            while self.at < len(self.text) and self.text[self.at] != '"':
                self._inside_quotes(word)
            word.pieces.append(Piece("", quoted=True))
            self.step()
        elif char == "\\":
            self.step()
            word.pieces.append(Piece(self.step(), quoted=True))
        elif char == "$" and self.sees("$'"):
            self.step(2)
            taken = re.compile(r"(?:\\.|[^'\\])*", re.S).match(self.text, self.at)
            word.pieces.append(Piece(self.step(len(taken[0]) if taken else 0), quoted=True))
            self.step()
        elif char in "$`":
            self._dollar(word, quoted=False)
        else:
            word.pieces.append(Piece(self.step()))

    def _inside_quotes(self, word: Word) -> None:
        char = self.text[self.at]
        if char == "\\":
            self.step()
            following = self.step()
            if following != "\n":
                word.pieces.append(Piece(following if following in '$`"\\' else "\\" + following, quoted=True))
        elif char in "$`":
            self._dollar(word, quoted=True)
        else:
            word.pieces.append(Piece(self.step(), quoted=True))

    def _dollar(self, word: Word, *, quoted: bool) -> None:
        if self.text[self.at] == "`":
            self.step()
            line, start = self.line, self.at
            while self.at < len(self.text) and self.text[self.at] != "`":
                self.step(2 if self.text[self.at] == "\\" else 1)
            word.inner.append((self.text[start : self.at], line))
            self.step()
            word.pieces.append(Piece(HOLE, quoted=quoted))
            return
        self.step()
        if self.sees("(("):
            self._skip_arithmetic()
            word.pieces.append(Piece(HOLE, quoted=True))
        elif self.sees("("):
            word.inner.append(self._parenthesis())
            word.pieces.append(Piece(HOLE, quoted=quoted))
        elif self.sees("{"):
            self._braces(word, quoted=quoted)
        elif name := _NAME.match(self.text, self.at):
            word.pieces.append(Piece(name=self.step(len(name[0])), quoted=quoted))
        else:
            word.pieces.append(Piece("$", quoted=True))

    def _braces(self, word: Word, *, quoted: bool) -> None:
        start = self.at
        depth = 0
        while self.at < len(self.text):
            char = self.text[self.at]
            depth += (char == "{") - (char == "}")
            self.step(2 if char == "\\" else 1)
            if depth == 0:
                break
        inside = self.text[start + 1 : self.at - 1]
        name = _NAME.match(inside.lstrip("!#"))
        rest = inside.lstrip("!#")[len(name[0]) :] if name else ""
        default = re.match(r":?[-=](.*)", rest, re.S)
        plain = default[1] if default and not re.search(r"[$`]", default[1]) else ""
        if "$(" in inside or "`" in inside:
            word.inner.append((inside[inside.find("$(") :] if "$(" in inside else inside, self.line))
        word.pieces.append(Piece(plain.strip("\"'"), name=name[0] if name else "?", quoted=quoted))

    def _parenthesis(self) -> tuple[str, int]:
        """Step over `(...)` and return its text: quotes, comments and nested ones inside are understood."""
        self.step()
        line, start = self.line, self.at
        depth = 1
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "\\":
                self.step(2)
                continue
            if char in "'\"":
                self._skip_quotes(char)
                continue
            if char == "#" and self.text[self.at - 1] in " \t\n(":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
                continue
            depth += (char == "(") - (char == ")")
            if depth == 0:
                break
            self.step()
        inside = self.text[start : self.at]
        self.step()
        return inside, line

    def _skip_quotes(self, quote: str) -> None:
        self.step()
        while self.at < len(self.text) and self.text[self.at] != quote:
            if quote == '"' and self.sees("$("):
                self.step()
                self._parenthesis()
            else:
                self.step(2 if quote == '"' and self.text[self.at] == "\\" else 1)
        self.step()

    def _skip_arithmetic(self) -> None:
        depth = 0
        while self.at < len(self.text):
            depth += (self.text[self.at] == "(") - (self.text[self.at] == ")")
            self.step()
            if depth == 0:
                return

    def _array(self, word: Word) -> None:
        """Read `NAME=( words )` into the one word: its elements stay apart by a blank."""
        inside, line = self._parenthesis()
        for command in _Reader(inside.replace("\n", " "), line).commands():
            for element in command.words:
                word.pieces += [*element.pieces, Piece(" ")]
                word.inner += element.inner

    def _redirection(self, operator: str, current: Simple, word: Word | None) -> None:
        if word is not None and word.plain().isdigit() and current.words and current.words[-1] is word:
            current.words.pop()  # the 2 of 2>
        self.step(len(operator))
        while self.at < len(self.text) and self.text[self.at] in " \t<":
            self.step()
        target = Word(self.line)
        while self.at < len(self.text) and self.text[self.at] not in " \t\n;|&()<>":
            self._piece(target)
        if operator.startswith((">", "&>")):
            current.outputs.append(target.plain())
        if target.inner:
            # A substitution as a target still runs.
            current.words.append(Word(target.line, [Piece("", quoted=True)], target.inner))

    def _documents(self) -> None:
        for delimiter, strips_tabs, command in self.waiting:
            line, lines = self.line, []
            while self.at < len(self.text):
                end = self.text.find("\n", self.at)
                one = self.step((len(self.text) if end < 0 else end + 1) - self.at).rstrip("\r\n")
                if (one.lstrip("\t") if strips_tabs else one) == delimiter:
                    break
                lines.append(one)
            command.documents.append(("\n".join(lines), line))
        self.waiting.clear()


def split(text: str, line: int = 1) -> Iterator[Simple]:
    """Yield the simple commands of a shell's text in order; `line` is that of its beginning."""
    return _Reader(text, line).commands()
