"""Finds what is dangerous in the commands of settings: INI and TOML files, Procfiles, crontabs, and HCL (Terraform, Nomad, Packer)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from isolation_monitor.cli.docker.audit.rules import Hit
from isolation_monitor.cli.docker.audit.shell import ShellText

_KEY = re.compile(r"""[ \t]*["']?([\w.-]+)["']?[ \t]*=[ \t]*(.*)""", re.S)
_INI_KEY = re.compile(r"([\w.-]+)[ \t]*[=:][ \t]*(.*)")
_COMMAND = re.compile(r"(?i)(?:^|[._-])(?:commands?|cmds?|scripts?|shell|sh|run|exec|inline|tasks?|hooks?|pre|post)(?:$|[._-])")
_TEXT = re.compile(r"""\"\"\"(.*?)\"\"\"|'''(.*?)'''|"((?:[^"\\\n]|\\.)*)"|'([^'\n]*)'""", re.S)
_HERE = re.compile(r"<<[-~]?\s*(\w+)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.S | re.M)
_CRON_TIME = re.compile(r"[ \t]*(?:@\w+|(?:[\d*/,LW#?A-Za-z-]+[ \t]+){5})[ \t]*(?=\S)")


def ini_hits(text: str) -> Iterator[Hit]:
    """Yield what is found in `commands =` and the like of an INI file, also on the indented lines below."""
    is_command = False
    for number, line in enumerate(text.split("\n"), 1):
        if line.lstrip().startswith(("#", ";")):
            continue
        if found := _INI_KEY.match(line):
            is_command = bool(_COMMAND.search(found[1]))
            line = found[2]
        elif line[:1] not in (" ", "\t"):
            is_command = False
        if is_command:
            yield from ShellText().hits(re.sub(r"^[ \t]*-[ \t]*", "", line), number)


def toml_hits(text: str) -> Iterator[Hit]:
    """Yield what is found in the texts of a TOML file whose key or table speaks of commands, tasks or scripts."""
    yield from _keyed(text, "#", tables=True)


def hcl_hits(text: str) -> Iterator[Hit]:
    """Yield what is found in `command`, `inline` and the like of an HCL file, also in its here-documents."""
    yield from _keyed(text, "#", "//", tables=False)


def procfile_hits(text: str) -> Iterator[Hit]:
    """Yield what is found in the commands of a Procfile."""
    for number, line in enumerate(text.split("\n"), 1):
        if found := re.match(r"[\w-]+:[ \t]*(.*)", line):
            yield from ShellText().hits(found[1], number)


def crontab_hits(text: str) -> Iterator[Hit]:
    """Yield what is found in the commands of a crontab, with or without the column of the user."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.lstrip().startswith("#") and (found := _CRON_TIME.match(line)):
            yield from ShellText().hits(line[found.end() :], number)


def _keyed(text: str, *comments: str, tables: bool) -> Iterator[Hit]:
    table = ""
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end]
        if tables and (header := re.match(r"[ \t]*\[+([^\]\n]+)\]+", line)):
            table = header[1]
        elif not line.lstrip().startswith(comments) and (found := _KEY.match(line)):
            value_at = at + found.start(2)
            end = _end_of_value(text, value_at, end)
            if _COMMAND.search(found[1]) or (table and _COMMAND.search(table)):
                yield from _texts(text, value_at, end)
        at = end + 1


def _end_of_value(text: str, start: int, end: int) -> int:
    """Return where a value ends that may be a here-document, a text of several lines or a list."""
    if here := _HERE.match(text, start):
        return here.end()
    if text.startswith(('"""', "'''"), start) and (found := _TEXT.match(text, start)):
        return found.end()
    if text.startswith("[", start):
        close = re.compile(r"^[^\"'\n]*\]|\][ \t]*(?:#.*)?$", re.M).search(text, start)
        return max(end, close.end()) if close else end
    return end


def _texts(text: str, start: int, end: int) -> Iterator[Hit]:
    if here := _HERE.match(text, start):
        yield from ShellText().hits(here[2], text.count("\n", 0, here.start(2)) + 1)
        return
    found = list(_TEXT.finditer(text, start, end))
    words = [next(part for part in one.groups() if part is not None) for one in found]
    lines = [text.count("\n", 0, one.start()) + 1 for one in found]
    if len(words) > 1 and not any(" " in word for word in words):
        # A command line as a list of words.
        yield from ShellText().hits_of_words(words, lines, lines[-1])
        return
    for word, line in zip(words, lines, strict=True):
        yield from ShellText().hits(word.replace('\\"', '"'), line)
