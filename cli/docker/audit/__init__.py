"""Finds forced removals and unsafe stops in a repository's scripts, compose files and code. Needs no engine."""

from isolation_monitor.cli.docker.audit.audit import Report, audit
from isolation_monitor.cli.docker.audit.rules import RULES, Finding, Rule

__all__ = ["RULES", "Finding", "Report", "Rule", "audit"]
