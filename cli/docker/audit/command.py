"""`isomon docker audit`: what the audit found, as a table, as JSON and as SARIF, with an exit code for CI."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from isolation_monitor.cli.console import stdout_console
from isolation_monitor.cli.docker.audit.audit import Report, audit
from isolation_monitor.cli.docker.audit.rules import RULES
from isolation_monitor.cli.docker.audit.sarif import sarif
from isolation_monitor.cli.printable import printable

Json = dict[str, Any]  # Any: JSON

SCHEMA: Final = "docker-audit/1"
EXIT_FOUND: Final = 1
EXIT_USAGE: Final = 2

EPILOG = """Exit codes: 0 nothing was found, or each finding is allowed with a reason; 1 something was found; 2 usage.

A finding is allowed by a comment in the command's lines or in the line above it: isomon: allow RULE -- why it is safe here

Examples:

  isomon docker audit

  isomon docker audit deploy scripts .github --exclude 'scripts/old/*'

  isomon docker audit . --json | jq -r '.findings[] | "\\(.path):\\(.line) \\(.what)"'

  isomon docker audit . --sarif docker-audit.sarif
"""


def audit_command(
    paths: Annotated[list[Path] | None, typer.Argument(metavar="[PATH]...", help="Folders or files; without, this folder.")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave out files by their path below PATH, such as 'docs/*'; repeatable.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Files that cannot be parsed count as found.")] = False,
    sarif_file: Annotated[Path | None, typer.Option("--sarif", metavar="FILE", help="Also write SARIF 2.1.0, for code hosts.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Find forced removals and unsafe stops in scripts, compose files and code. Needs no engine."""
    try:
        report = audit(paths or [Path()], exclude or ())
    except FileNotFoundError as error:
        print(f"isomon docker audit: {error.args[0]}: there is no such file or folder", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from None
    if sarif_file is not None:
        try:
            sarif_file.write_text(json.dumps(sarif(report), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            print(f"isomon docker audit: --sarif {sarif_file}: cannot be written ({type(error).__name__})", file=sys.stderr)
            raise typer.Exit(EXIT_USAGE) from None
    if as_json:
        print(json.dumps(as_document(report), ensure_ascii=False))
    else:
        _print(report, stdout_console(highlight=False, unfolded=True))
    if report.found or (strict and report.unread):
        raise typer.Exit(EXIT_FOUND)


def as_document(report: Report) -> Json:
    """Return the report as JSON; `allowed` of a finding is the reason of the comment that allows it, or null."""
    return {
        "schema": SCHEMA,
        "files": report.files,
        "found": len(report.found),
        "allowed": len(report.findings) - len(report.found),
        "findings": [
            {
                "path": finding.path,
                "line": finding.line,
                "end_line": finding.end_line,
                "rule": finding.rule,
                "what": finding.what,
                "title": RULES[finding.rule].title,
                "why": RULES[finding.rule].why,
                "instead": RULES[finding.rule].instead,
                "allowed": finding.allowed,
            }
            for finding in report.findings
        ],
        "unread": [{"path": one.path, "reason": one.reason} for one in report.unread],
    }


def _print(report: Report, console: Console) -> None:
    if report.found:
        table = Table("where", "what", "rule", "why it is dangerous", "write instead", box=None, pad_edge=False)
        for finding in report.found:
            rule = RULES[finding.rule]
            # Text, not markup: what a file holds must not style the terminal.
            cells = (f"{finding.path}:{finding.line}", printable(finding.what), finding.rule, rule.why, rule.instead)
            table.add_row(*(Text(cell) for cell in cells))
        console.print(table)
    for one in report.unread:
        console.print(Text(f"not read: {one.path}: {one.reason}", style="yellow"))
    found, more = len(report.found), len(report.findings) - len(report.found)
    told = f"{found} found" if found else "nothing found"
    console.print(Text(f"{told} in {report.files} files{f', {more} allowed with a reason' if more else ''}", style="bold"))
