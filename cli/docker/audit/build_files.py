"""Finds what is dangerous in Dockerfiles, Makefiles, justfiles, systemd units and files of Windows' shells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from isolation_monitor.cli.docker.audit.engine_words import is_no_time, is_sigkill
from isolation_monitor.cli.docker.audit.rules import Hit
from isolation_monitor.cli.docker.audit.shell import ShellText
from isolation_monitor.cli.docker.audit.unknown import HOLE, value_of_unknown

_INSTRUCTION = re.compile(r"\s*(?:ONBUILD\s+)?(?:HEALTHCHECK\s+(?:--\S+\s+)*)?(RUN|CMD|ENTRYPOINT|SHELL|STOPSIGNAL)\s+", re.I)
_MAKE_VARIABLE = re.compile(r"\$(?:\(([\w.-]+)\)|\{([\w.-]+)\})")
_MAKE_ASSIGNMENT = re.compile(r"^(?:export\s+|override\s+)*([\w.-]+)\s*(\+|\?|::?:?|!)?=\s*(.*)$", re.S)


def joined(lines: list[str], start: int, mark: str = "\\") -> tuple[str, int]:
    """Return the lines from `start` on that belong together by a mark at their ends, newlines kept, and the position after them."""
    at = start
    while at < len(lines) - 1 and lines[at].rstrip().endswith(mark):
        at += 1
    return "\n".join(lines[start : at + 1]), at + 1


def dockerfile_hits(text: str) -> Iterator[Hit]:
    """Yield what is found in a Dockerfile. A shell form is a shell's text, an exec form a list of words."""
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        found = _INSTRUCTION.match(lines[at])
        if found is None:
            at += 1
            continue
        start = at
        # Comment lines inside a continued instruction belong to no line.
        kept = [line if not line.lstrip().startswith("#") or n == at else "\\" for n, line in enumerate(lines)]
        whole, at = joined(kept, start)
        body = whole[found.end() :]
        if found[1].upper() == "STOPSIGNAL":
            if is_sigkill(body):
                yield Hit(start + 1, at, "kill-as-stop-signal", f"STOPSIGNAL {body.strip()}")
            continue
        body = re.sub(r"^(?:--\S+\s+)+", lambda flags: "\n" * flags[0].count("\n"), body)
        heredoc = re.match(r"<<-?\s*['\"]?(\w+)['\"]?[ \t]*$", body)
        if heredoc:
            end = next((n for n in range(at, len(lines)) if lines[n].strip() == heredoc[1]), len(lines))
            yield from ShellText().hits("\n".join(lines[at:end]), at + 1)
            at = end + 1
            continue
        if body.lstrip().startswith("["):
            try:
                words = json.loads(body.replace("\\\n", "\n"))
            except ValueError:
                words = None
            if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
                yield from ShellText().hits_of_words(words, [start + 1] * len(words), at)
                continue
        yield from ShellText().hits(body, start + 1)


def makefile_hits(text: str) -> Iterator[Hit]:
    """Yield what is found in the recipes of a Makefile, and in its `$(shell ...)`."""
    lines = text.split("\n")
    variables: dict[str, str] = {}
    at = 0
    in_define = False
    while at < len(lines):
        start = at
        whole, at = joined(lines, start)
        head = whole.lstrip()
        if re.match(r"define\s", head):
            in_define = True
            continue
        if head.startswith("endef"):
            in_define = False
            continue
        inline = re.match(r"[^\t#=][^#=]*?:(?![=:])[^;=\n]*;(.*)", whole, re.S)
        if whole.startswith("\t") or in_define:
            yield from _recipe(whole.lstrip("\t "), variables, start + 1)
        elif inline:
            yield from _recipe(inline[1], variables, start + 1)
        elif assigned := _MAKE_ASSIGNMENT.match(head):
            name, value = assigned[1], _make_expanded(assigned[3].split("#")[0].strip(), variables)
            if assigned[2] == "?" and name in variables:
                continue
            variables[name] = f"{variables.get(name, '')} {value}".strip() if assigned[2] == "+" else value
            for shell in re.finditer(r"\$\(shell\s+(.*?)\)\s*$", assigned[3], re.S):
                yield from ShellText().hits(_make_expanded(shell[1], variables), start + 1)


def _recipe(body: str, variables: dict[str, str], line: int) -> Iterator[Hit]:
    yield from ShellText().hits(_make_expanded(re.sub(r"^[@+-]+\s*", "", body), variables), line)


def _make_expanded(text: str, variables: dict[str, str]) -> str:
    text = text.replace("$$", "\0")

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        return variables[name] if name in variables else value_of_unknown(name)

    for _ in range(4):
        text = _MAKE_VARIABLE.sub(value, text)
    # What is left in $( ) is one of make's functions.
    text = re.sub(r"\$\(shell\s", "$(", text)
    text = re.sub(
        r"\$\((?:call|if|foreach|filter|patsubst|subst|wildcard|addprefix|addsuffix|or|and|info|warning|error)\b[^()]*\)", HOLE, text
    )
    return text.replace("\0", "$")


def justfile_hits(text: str) -> Iterator[Hit]:
    """Yield what is found in the recipes of a justfile."""
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        start = at
        whole, at = joined(lines, start)
        if whole[:1] in (" ", "\t") and whole.strip():
            body = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: value_of_unknown(found[1]), whole)
            yield from ShellText().hits(re.sub(r"\{\{.*?\}\}", HOLE, re.sub(r"^\s*[@-]*", "", body)), start + 1)


def unit_hits(text: str) -> Iterator[Hit]:
    """Yield what is found in the commands of a systemd unit."""
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        start = at
        whole, at = joined(lines, start)
        if found := re.match(r"\s*Exec\w+\s*=\s*[-@+!:]*", whole):
            yield from ShellText().hits(whole[found.end() :].replace("%%", "%"), start + 1)
        elif (found := re.match(r"\s*StopTimeout\s*=\s*(\S+)", whole)) and is_no_time(found[1]):
            # Quadlet's units of Podman.
            yield Hit(start + 1, at, "stop-without-grace", whole.strip())
        elif (found := re.match(r"\s*StopSignal\s*=\s*(\S+)", whole)) and is_sigkill(found[1]):
            yield Hit(start + 1, at, "kill-as-stop-signal", whole.strip())


def batch_hits(text: str) -> Iterator[Hit]:
    """Yield what is found in a batch file of Windows."""
    lines = text.replace("\r\n", "\n").split("\n")
    at = 0
    while at < len(lines):
        start = at
        whole, at = joined(lines, start, "^")
        body = whole.lstrip(" \t@")
        if re.match(r"(?i)(?:rem\b|::)", body):
            continue
        body = body.replace("^\n", "\\\n").replace("'", " ").replace("\\\\", "/")
        body = re.sub(r"\\(?!\n)", "/", body)
        body = re.sub(r"(?i)\bdo\s+\(?", "; ", re.sub(r"%+~?\w+%?", HOLE, body))
        yield from ShellText().hits(body, start + 1)


_QUOTES = re.compile(r"""[@(),'"]""")
_START_PROCESS = re.compile(
    r"""(?ix)\bStart-Process [ \t]+ (?:-FilePath[ \t]+)? (['"]?[\w./-]+['"]?) [ \t]+ (?:-ArgumentList|-Args) [ \t]+
    ( @\([^)\n]*\) | "[^"\n]*" | '[^'\n]*' )"""
)


def powershell_hits(text: str) -> Iterator[Hit]:
    """Yield what is found in a PowerShell script; its words split as a shell's, but for the marks of folders and of lines that go on."""
    text = re.sub(r"<#.*?#>", lambda found: "\n" * found[0].count("\n"), text, flags=re.S).replace("\r\n", "\n")
    text = re.sub(r"`(?=\n)", "\0", text.replace("\\", "/")).replace("`", "").replace("\0", "\\")
    text = _START_PROCESS.sub(lambda found: f"{found[1]} {re.sub(_QUOTES, ' ', found[2])}", text)
    yield from ShellText().hits(text)
