"""Audits a repository: reads each file as what it is and gathers what was found, what was allowed and what could not be read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from isolation_monitor.cli.docker.audit import (
    build_files,
    code_calls,
    code_tokens,
    javascript_source,
    python_source,
    settings_files,
    yaml_source,
)
from isolation_monitor.cli.docker.audit.allowing import findings_of
from isolation_monitor.cli.docker.audit.files import MAX_BYTES, Kind, files_of, kind_of, text_of
from isolation_monitor.cli.docker.audit.rules import Finding, Hit
from isolation_monitor.cli.docker.audit.shell import ShellText

# Most files have none of these words, and are not split into tokens. Code speaks of containers that are none, scripts hardly do.
_WORDS: Final = ("docker", "podman", "nerdctl", "container", "compose", "oci", "grace", "signal", "/prune")
_WORTH_READING = re.compile(r"docker|podman|nerdctl|container|compose|stop_?grace|stop_?signal|/prune", re.I)
_WORTH_READING_CODE = re.compile(
    r"docker|podman|nerdctl|containers/|(?:container|compose)\w*(?:\(\))?\??\.(?:kill|stop|restart|remove|delete|down)\b"
    r"|(?:container|oci)_?(?:engine|runtime|cli|tool|cmd)|Container(?:Kill|Remove|sPrune)",
    re.I,
)
_CODE: Final = frozenset({"python", "javascript", "go", "groovy", "jvm", "rust", "ruby", "php", "perl", "lua", "elixir", "dart", "c"})
_TEMPLATE_LINE = re.compile(r"(?m)^[ \t]*\{[{%][-#]?.*?[-]?[%}]\}[ \t]*$")
_TEMPLATE_VALUE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}")


@dataclass(frozen=True, slots=True)
class Unread:
    """A file that should have been read, and why it was not."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """What an audit found; `files` were read. Findings are in order of path and line."""

    findings: tuple[Finding, ...]
    unread: tuple[Unread, ...]
    files: int

    @property
    def found(self) -> tuple[Finding, ...]:
        """The findings that nobody allowed."""
        return tuple(finding for finding in self.findings if finding.allowed is None)


def audit(paths: Sequence[Path], excluded: Sequence[str] = ()) -> Report:
    """Audit files and folders.

    `excluded` are patterns of paths below each folder.

    Raises:
        FileNotFoundError: one of `paths` does not exist.
    """
    findings: set[Finding] = set()
    unread: list[Unread] = []
    read = 0
    for root in paths:
        if not root.exists():
            raise FileNotFoundError(root)
        for path in files_of(root, tuple(excluded)):
            try:
                found = _findings_of(path)
            except _Unreadable as error:
                unread.append(Unread(path.as_posix(), str(error)))
                continue
            if found is not None:
                read += 1
                findings |= set(found)
    return Report(tuple(sorted(findings, key=_order)), tuple(unread), read)


def findings_in(text: str, kind: Kind, path: str) -> list[Finding]:
    """Return what is found in the text of one file that is read as `kind`.

    Raises:
        yaml_source.UnreadableYaml, SyntaxError, RecursionError: it cannot be read as that.
    """
    lowered = text.lower()
    # Plain words first: the patterns take ten times as long, which is minutes in a large repository.
    if not any(word in lowered for word in _WORDS) or not (_WORTH_READING_CODE if kind in _CODE else _WORTH_READING).search(text):
        return []
    hits = {(hit.line, hit.rule): hit for hit in _READERS[kind](text)}
    return list(findings_of(list(hits.values()), text, path))


class _Unreadable(Exception):
    """A file cannot be read; its text says why."""


def _findings_of(path: Path) -> list[Finding] | None:
    """Return what is found in a file; None: it is not of a kind that is read."""
    kind = kind_of(path)
    if kind is None and path.suffix and not path.name.startswith("."):
        return None
    try:
        text = text_of(path)
    except OSError as error:
        raise _Unreadable(f"cannot be read ({type(error).__name__})") from None
    if text is None:
        if kind is not None:
            raise _Unreadable(f"is binary, or larger than {MAX_BYTES >> 20} MiB")
        return None
    kind = kind or kind_of(path, text[:200].split("\n", 1)[0])
    if kind is None:
        return None
    try:
        return findings_in(text, kind, path.as_posix())
    except (SyntaxError, ValueError, RecursionError, yaml_source.UnreadableYaml) as error:
        raise _Unreadable(f"cannot be parsed: {error}") from None


def _order(finding: Finding) -> tuple[str, int, str]:
    return finding.path, finding.line, finding.rule


def _python(text: str) -> Iterator[Hit]:
    try:
        return iter(list(python_source.hits(text)))
    except (SyntaxError, ValueError):
        # Python 2, or a template of Python: read by its tokens.
        return code_calls.hits(text, code_tokens.PYTHON)


def _yaml(text: str) -> Iterator[Hit]:
    try:
        return iter(list(yaml_source.hits(text)))
    except yaml_source.UnreadableYaml:
        # A template of YAML (Helm, Jinja): without the lines that steer it, it mostly is YAML.
        if "{{" not in text and "{%" not in text:
            raise
        return iter(list(yaml_source.hits(_TEMPLATE_VALUE.sub("x", _TEMPLATE_LINE.sub("", text)))))


_READERS: Final[dict[Kind, Callable[[str], Iterator[Hit]]]] = {
    "shell": lambda text: ShellText().hits(text),
    "python": _python,
    "yaml": _yaml,
    "dockerfile": build_files.dockerfile_hits,
    "makefile": build_files.makefile_hits,
    "justfile": build_files.justfile_hits,
    "unit": build_files.unit_hits,
    "batch": build_files.batch_hits,
    "powershell": build_files.powershell_hits,
    "javascript": javascript_source.hits,
    "go": partial(code_calls.hits, language=code_tokens.GO),
    "groovy": partial(code_calls.hits, language=code_tokens.GROOVY),
    "jvm": partial(code_calls.hits, language=code_tokens.JVM),
    "rust": partial(code_calls.hits, language=code_tokens.RUST),
    "ruby": partial(code_calls.hits, language=code_tokens.RUBY),
    "php": partial(code_calls.hits, language=code_tokens.PHP),
    "perl": partial(code_calls.hits, language=code_tokens.PERL),
    "lua": partial(code_calls.hits, language=code_tokens.LUA),
    "elixir": partial(code_calls.hits, language=code_tokens.ELIXIR),
    "dart": partial(code_calls.hits, language=code_tokens.DART),
    "c": partial(code_calls.hits, language=code_tokens.C),
    "ini": settings_files.ini_hits,
    "toml": settings_files.toml_hits,
    "hcl": settings_files.hcl_hits,
    "procfile": settings_files.procfile_hits,
    "crontab": settings_files.crontab_hits,
}
