"""Finds what is dangerous in a shell's text: every command, also inside substitutions, `sh -c`, here-documents and functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from isolation_monitor.cli.docker.audit.command_line import SHELLS, judge
from isolation_monitor.cli.docker.audit.engine_words import COMPOSE, ENGINES, program
from isolation_monitor.cli.docker.audit.rules import Hit
from isolation_monitor.cli.docker.audit.shell_words import Piece, Simple, Word, split
from isolation_monitor.cli.docker.audit.unknown import HOLE, value_of_unknown

_MAX_DEPTH: Final = 8
_KEYWORDS: Final = frozenset({"if", "then", "else", "elif", "do", "while", "until", "!", "{", "time", "coproc", "&"})
_DECLARING: Final = frozenset({"export", "local", "readonly", "declare", "typeset"})
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=")
_WRAPPER = re.compile(
    r"""(?m)^[ \t]*(?:function[ \t]+)?([A-Za-z_][\w.-]*)[ \t]*(?:\([ \t]*\))?[ \t]*\{\s*([^\n;|&(){}@*]+?)[ \t]+"?\$(?:[@*]|\{[@*]\})"""
)
_WRITES_A_SCRIPT = re.compile(r"\.(?:sh|bash|command)$|/cron\.\w+/|crontab$")


class ShellText:
    """Reads shell texts of one file; what a variable was last set to is known to the texts after it."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self.variables: dict[str, str] = dict(variables or {})
        self.wrappers: dict[str, list[str]] = {}
        """Functions that hand what they are given to an engine, with the words in front: `dc() { docker compose "$@"; }`."""

    def hits(self, text: str, line: int = 1, depth: int = 0) -> Iterator[Hit]:
        """Yield what is found in `text`, whose first line has the number `line`."""
        if depth > _MAX_DEPTH:
            return
        for found in _WRAPPER.finditer(text):
            front = next(iter(split(found[2], 1)), None)
            words = [] if front is None else self._expanded(front.words)[0]
            if any(program(word) in ENGINES | COMPOSE for word in words):
                self.wrappers[found[1]] = words
        for command in split(text, line):
            for word in command.words:
                for inner, inner_line in word.inner:
                    yield from self.hits(inner, inner_line, depth + 1)
            words, lines = self._expanded(command.words)
            while words and (words[0] in _KEYWORDS or words[0] == "function"):
                words, lines = words[1:], lines[1:]
            self._assign(command.words, words)
            if words and (before := self.wrappers.get(words[0])) is not None:
                words, lines = [*before, *words[1:]], [lines[0]] * len(before) + lines[1:]
            yield from self.hits_of_words(words, lines, command.end_line, says_yes=_says_yes(command.fed_by), depth=depth)
            yield from self._fed(command, words, depth)

    def hits_of_words(
        self, words: Sequence[str], lines: Sequence[int], end_line: int, *, says_yes: bool = False, depth: int = 0
    ) -> Iterator[Hit]:
        """Judge one command line given as words, of which each has its line."""
        if not words:
            return
        judged = judge(words, says_yes=says_yes)
        for verdict in judged.verdicts:
            yield Hit(lines[0], max(end_line, lines[-1]), verdict.rule, verdict.what.replace(HOLE, "..."))
        for position in judged.texts:
            text = words[position]
            if alias := _ASSIGNMENT.match(text):
                text = text[alias.end() :]
            yield from self.hits(text, lines[position], depth + 1)

    def _fed(self, command: Simple, words: Sequence[str], depth: int) -> Iterator[Hit]:
        """Read what reaches a shell, or a script that is written, by a here-document or a pipe."""
        reads = bool(words) and any(program(word) in SHELLS or word == "ssh" for word in words[:6]) and not any(w == "-c" for w in words)
        for text, line in command.documents:
            writes = any(_WRITES_A_SCRIPT.search(name) for name in (*command.outputs, *words)) or re.match(r"#!.*sh\b", text)
            if reads or writes:
                yield from self.hits(text, line, depth + 1)
        if reads and command.fed_by is not None:
            said, _ = self._expanded(command.fed_by.words)
            if said and said[0] in ("echo", "printf"):
                line = command.fed_by.words[0].line
                yield from self.hits(" ".join(word for word in said[1:] if not word.startswith("-")), line, depth + 1)

    def _expanded(self, words: Iterable[Word]) -> tuple[list[str], list[int]]:
        """Return the words as far as they are known. An unquoted variable may be many words, or none."""
        found: list[str] = []
        lines: list[int] = []
        for word in words:
            parts = [""]
            for piece in word.pieces:
                value = self._value(piece)
                if piece.name is None or (piece.quoted and piece.name not in self._arrays()):
                    parts[-1] += value
                    continue
                split_value = value.split(" ")
                parts[-1] += split_value[0]
                parts += split_value[1:]
            texts = parts if len(parts) == 1 and (parts[0] or any(p.quoted for p in word.pieces)) else [part for part in parts if part]
            found += texts
            lines += [word.line] * len(texts)
        return found, lines

    def _arrays(self) -> frozenset[str]:
        return frozenset(name for name, value in self.variables.items() if value.endswith(" "))

    def _value(self, piece: Piece) -> str:
        if piece.name is None:
            return piece.text
        if piece.name in self.variables:
            return self.variables[piece.name]
        return piece.text or value_of_unknown(piece.name)

    def _assign(self, raw: Sequence[Word], words: Sequence[str]) -> None:
        """Remember `NAME=value` where it stands alone or behind `export` and its like."""
        if not words:
            return
        texts = [word.plain() for word in raw]
        # A word with an array holds blanks, and so fell into several.
        is_array = bool(_ASSIGNMENT.match(words[0])) and any(text.startswith(words[0]) and text.endswith(" ") for text in texts)
        if words[0] not in _DECLARING and not is_array and not all(_ASSIGNMENT.match(word) for word in words):
            return
        for word in raw:
            value, _ = self._expanded([word])
            joined = " ".join(value)
            if word.plain().endswith(" "):
                joined += " "
            found = _ASSIGNMENT.match(joined)
            if found is not None:
                text = joined[found.end() :]
                if found[2]:
                    text = f"{self.variables.get(found[1], '')} {text}" if text.endswith(" ") else self.variables.get(found[1], "") + text
                self.variables[found[1]] = text


def _says_yes(command: Simple | None) -> bool:
    """Whether a command only answers questions: `yes`, `echo y`, `printf 'y\\n'`."""
    if command is None or not command.words:
        return False
    words = [word.plain() for word in command.words]
    if words[0] == "yes":
        return len(words) == 1 or words[1].lower() in ("y", "yes")
    return words[0] in ("echo", "printf") and words[-1].lower().removesuffix("\\n") in ("y", "yes")
