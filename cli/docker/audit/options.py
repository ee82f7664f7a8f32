"""Options of a command line, as Docker's, Podman's and Compose's parsers read them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from isolation_monitor.cli.docker.audit.unknown import HOLE


@dataclass(frozen=True, slots=True)
class Options:
    """What stood there: `given` holds option and value (`true` for a switch) by the names without dashes, `rest` the operands."""

    given: dict[str, str]
    rest: tuple[str, ...]

    def is_on(self, *names: str) -> bool:
        return any(self.given[name].lower() not in ("false", "0", "f") for name in names if name in self.given)

    def value(self, *names: str) -> str | None:
        return next((self.given[name] for name in names if name in self.given), None)


def read_options(words: Sequence[str], with_value: Collection[str], *, until_operand: bool = False) -> Options:
    """Read options anywhere, or only before the first operand. `with_value`: names, without dashes, that take the next word."""
    given: dict[str, str] = {}
    rest: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            rest += words[at:]
            break
        if not word.startswith("-") or word == "-":
            rest.append(word)
            if until_operand:
                rest += words[at:]
                break
            continue
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not equals and name in with_value and at < len(words):
                value, equals = words[at], "="
                at += 1
            given[name] = value if equals else "true"
            continue
        # A cluster such as -fv, a value that clings (-t0) or follows (-t 0, -t=0).
        letters = word[1:]
        for position, letter in enumerate(letters):
            clinging = letters[position + 1 :]
            if letter in with_value:
                if not clinging and at < len(words):
                    clinging = words[at]
                    at += 1
                given[letter] = clinging.removeprefix("=")
                break
            if clinging.startswith("="):
                given[letter] = clinging[1:]
                break
            if letter == HOLE:
                break
            given[letter] = "true"
    return Options(given, tuple(rest))
