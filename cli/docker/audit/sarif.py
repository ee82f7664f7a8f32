"""The findings as SARIF 2.1.0, which code hosts show beside the lines of a change."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from isolation_monitor import __version__
from isolation_monitor.cli.docker.audit.audit import Report
from isolation_monitor.cli.docker.audit.rules import RULES, Finding

Json = dict[str, Any]  # Any: JSON

_SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(report: Report) -> Json:
    """Return the report as one SARIF log with one run."""
    ids = list(RULES)
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "isomon docker audit",
                        "version": __version__,
                        "rules": [
                            {
                                "id": rule.id,
                                "shortDescription": {"text": rule.title},
                                "fullDescription": {"text": rule.why},
                                "help": {"text": f"Instead: {rule.instead}"},
                                "defaultConfiguration": {"level": "error"},
                            }
                            for rule in RULES.values()
                        ],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(finding, ids.index(finding.rule)) for finding in report.findings],
                "invocations": [
                    {
                        "executionSuccessful": True,
                        "toolExecutionNotifications": [
                            {"level": "warning", "message": {"text": f"{one.path}: {one.reason}"}} for one in report.unread
                        ],
                    }
                ],
            }
        ],
    }


def _result(finding: Finding, index: int) -> Json:
    rule = RULES[finding.rule]
    result: Json = {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": "error",
        "message": {"text": f"{finding.what}: {rule.title}. {rule.why} Instead: {rule.instead}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": quote(finding.path)},
                    "region": {"startLine": finding.line, "endLine": max(finding.line, finding.end_line)},
                }
            }
        ],
    }
    if finding.allowed is not None:
        result["suppressions"] = [{"kind": "inSource", "justification": finding.allowed}]
    return result
