"""Judges any command line: looks through what only starts another program (`sudo`, `xargs`, `timeout`, ...) for the engine's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from isolation_monitor.cli.docker.audit.engine_words import COMPOSE, ENGINES, Verdict, judge_engine, program
from isolation_monitor.cli.docker.audit.options import read_options
from isolation_monitor.cli.docker.audit.unknown import HOLE

SHELLS: Final = frozenset({"sh", "bash", "zsh", "dash", "ash", "ksh", "fish", "mksh", "pwsh", "powershell", "cmd"})
# What talks, searches, edits or installs; the words after it are no command.
# fmt: off
_NO_STARTERS: Final = frozenset({
    "echo", "printf", "print", "grep", "egrep", "fgrep", "rg", "ag", "ack", "sed", "awk", "gawk", "git", "gh", "apt", "apt-get",
    "apk", "dnf", "yum", "brew", "pip", "pip3", "npm", "yarn", "pnpm", "man", "which", "type", "whereis", "hash", "help", "cat",
    "tee", "ls", "cp", "mv", "ln", "rm", "chmod", "chown", "touch", "mkdir", "test", "[", "[[", "true", "false", "read", "for",
    "case", "select", "in", "function", "write-host", "write-output", "write-error", "write-warning", "write-verbose", "curl",
    "wget", "systemctl", "service", "usermod", "groupadd", "gpasswd", "snap", "choco", "winget", "return", "exit", "set",
    "unset", "source", ".", "cd", "pushd", "local", "declare", "export", "readonly", "typeset", "make", "tar", "logger", "pgrep",
    "pidof", "basename", "dirname", "expr", "apt-cache", "dpkg", "rpm", "zypper", "pacman", "adduser", "addgroup", "useradd",
    "complete", "compgen",
})
# fmt: on
_TALKS = re.compile(
    r"(?:^|[_\-.:])(?:log|echo|info|warn|warning|err|error|debug|msg|message|say|print|printf|die|fail|usage|note|title|step)s?(?:$|[_\-.:])"
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
# Their words are a shell's text.
_READ_AS_SHELL: Final = frozenset(
    {"eval", "ssh", "trap", "alias", "watch", "parallel", "concurrently", "su", "runuser", "script", "invoke-expression", "iex", "call"}
)
_API_KILL = re.compile(r"/containers/[^/\s]+/kill\b(?!\?signal=(?:SIG)?(?!KILL|9)[A-Z0-9])")
_API_FORCED = re.compile(r"/(containers|volumes|images)/[^\s]+\?(?:[^\s]*&)?force=(?:true|1|True)\b")
_API_STOP = re.compile(r"/containers/[^/\s]+/(?:stop|restart)\?(?:[^\s]*&)?t=0\b")
_API_PRUNE = re.compile(r"/(?:containers|volumes|images|networks)/prune\b")


@dataclass(frozen=True, slots=True)
class Judged:
    """What one command line does: the rules it breaks, and which of its words (by position) are a shell's text."""

    verdicts: tuple[Verdict, ...] = ()
    texts: tuple[int, ...] = ()


def judge(words: Sequence[str], *, says_yes: bool = False) -> Judged:
    """Judge a command line given as words. `says_yes`: something in front of it answers its questions."""
    start = 0
    while start < len(words) and (_ASSIGNMENT.match(words[start]) or words[start] in ("!", "&", "@")):
        start += 1
    words = [*([""] * start), *words[start:]]
    if start >= len(words):
        return Judged()
    name = program(words[start])
    if name == "curl" or name == "wget":
        return Judged(tuple(_api(words)))
    if name == "command" and len(words) > start + 1 and words[start + 1] in ("-v", "-V"):
        return Judged()
    at = start
    while at < len(words):
        name = program(words[at])
        if name in ENGINES or name in COMPOSE:
            verdicts, inside = judge_engine(words[at:], says_yes=says_yes)
            if inside is None:
                return Judged(tuple(verdicts))
            inner = judge(words[at + inside :])
            return Judged((*verdicts, *inner.verdicts), tuple(at + inside + position for position in inner.texts))
        if name in SHELLS:
            return Judged(texts=tuple(_shells_text(words, at)))
        if name in _READ_AS_SHELL:
            return _read_as_shell(words, at, name)
        if at == start and (name in _NO_STARTERS or _TALKS.search(name)):
            return Judged()
        at += 1
    return Judged()


def _shells_text(words: Sequence[str], at: int) -> list[int]:
    """Return where the text of `sh -c TEXT` stands; also behind clusters such as `-euxc`, and `-Command`."""
    for position in range(at + 1, len(words)):
        word = words[position].lower()
        if word in ("-command", "/c", "/k") or (re.fullmatch(r"-[a-z]*c", word) and not word.startswith("--")):
            return [position + 1] if position + 1 < len(words) else []
        if not word.startswith(("-", "+")) and words[position - 1] not in ("-o", "+o", "-O", "--rcfile"):
            # The name of a script (`pipefail` belongs to -o).
            if re.fullmatch(r"-[a-z]*o", words[position - 1]):
                continue
            return []
    return []


def _read_as_shell(words: Sequence[str], at: int, name: str) -> Judged:
    if name == "ssh":
        options = read_options(words[at + 1 :], set("BbcDEeFIiJLlmOoPpRSWw"), until_operand=True)
        first = len(words) - len(options.rest) + 1
        rest = words[first:]
        # Without quotes the far shell gets the words joined; judged as they stand, that is the same for us.
        if len(rest) > 1:
            inner = judge(rest)
            return Judged(inner.verdicts, tuple(first + position for position in inner.texts))
        return Judged(texts=tuple(range(first, len(words))))
    if name in ("su", "runuser", "script"):
        return Judged(texts=tuple(n + 1 for n in range(at + 1, len(words) - 1) if words[n] in ("-c", "--command")))
    rest = words[at + 1 :]
    if name == "alias":
        return Judged(texts=tuple(at + 1 + n for n, word in enumerate(rest) if "=" in word))
    inner = judge(rest) if name != "trap" else Judged()
    texts = {at + 1 + position for position in inner.texts} | {at + 1 + n for n, word in enumerate(rest) if " " in word}
    return Judged(inner.verdicts, tuple(sorted(texts)))


def _api(words: Sequence[str]) -> list[Verdict]:
    """Judge a call of the engine's HTTP API."""
    text = " ".join(words)
    found = []
    if forced := _API_FORCED.search(text):
        rule = {"containers": "forced-remove", "volumes": "forced-remove-volume", "images": "forced-remove-image"}[forced[1]]
        if "DELETE" in text:
            found.append(Verdict(rule, f"DELETE {_short(forced[0])}"))
    if _API_KILL.search(text):
        found.append(Verdict("kill", "POST /containers/.../kill"))
    if _API_STOP.search(text):
        found.append(Verdict("stop-without-grace", "POST /containers/.../stop?t=0"))
    if prune := _API_PRUNE.search(text):
        found.append(Verdict("prune-without-asking", f"POST {_short(prune[0])}"))
    return found


def _short(text: str) -> str:
    return text.replace(HOLE, "...")
