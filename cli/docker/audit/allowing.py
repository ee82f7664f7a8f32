"""Comments that allow a finding: `isomon: allow RULE -- reason`, in the command's lines or in the line above."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from isolation_monitor.cli.docker.audit.rules import RULES, Finding, Hit

_ALLOW = re.compile(r"(?:#|//|/\*|<!--|::|\brem\b|--|;).*?\bisomon:\s*allow\s+([\w-]+(?:\s*,\s*[\w-]+)*)\s*(.*)$", re.I)
_REASON = re.compile(r"^(?:--|—|:|because\b)\s*(\S.*?)\s*(?:\*/|-->)?\s*$")


def findings_of(hits: Sequence[Hit], text: str, path: str) -> Iterator[Finding]:
    """Yield the hits of a file as findings, those with a reason beside them marked; a comment without a reason is one more."""
    comments: dict[int, tuple[frozenset[str], str]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if "isomon:" not in line or (found := _ALLOW.search(line)) is None:
            continue
        rules = frozenset(re.split(r"\s*,\s*", found[1]))
        reason = _REASON.match(found[2])
        if reason is not None and rules <= set(RULES):
            comments[number] = (rules, reason[1])
        elif hits:
            unknown = ", ".join(sorted(rules - set(RULES)))
            what = f"allow {found[1]}: there is no rule {unknown}" if unknown else f"allow {found[1]}"
            yield Finding(path, number, number, "suppression-without-reason", what)
    for hit in hits:
        near = range((hit.start_line or hit.line) - 1, hit.end_line + 1)
        why = next((comments[n][1] for n in near if n in comments and hit.rule in comments[n][0]), None)
        yield Finding(path, hit.line, max(hit.line, hit.end_line), hit.rule, hit.what, why)
