#!/usr/bin/env python3
"""Writes deploy/kubernetes/prometheus-operator/rules.yaml: the rules of alerts/ as an object of the Prometheus Operator.

    python scripts/build_kubernetes.py [--check] [--base-url URL] [--grafana-url URL] [--out FILE]

`--check` writes nothing and exits 1 when the file differs from what it would write. The addresses are those under which people open the
collector and Grafana; links in alerts start with them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from isolation_monitor.alerts import build as alerts
from isolation_monitor.alerts.yaml_text import dump

FILE = Path(__file__).resolve().parent.parent / "deploy" / "kubernetes" / "prometheus-operator" / "rules.yaml"
HEAD = "# Written by scripts/build_kubernetes.py from the rules of alerts/; change those, then run `make docs`.\n"


def rules(base_url: str, grafana_url: str) -> str:
    """Return the object as text, its groups as they are in alerts/generated."""
    groups: list[Any] = []
    for text in alerts.rules(base_url, grafana_url).values():
        groups += yaml.safe_load(text)["groups"]
    found = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "isolation-monitor"},
        "spec": {"groups": groups},
    }
    return HEAD + dump(found)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the alerts' rules as a PrometheusRule.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the file differs")
    parser.add_argument("--base-url", default="https://collector.example.com", help="where people open the collector")
    parser.add_argument("--grafana-url", default="https://grafana.example.com", help="where people open Grafana")
    parser.add_argument("--out", type=Path, default=FILE, help="file to write")
    options = parser.parse_args()
    text = rules(options.base_url, options.grafana_url)
    if options.out.exists() and options.out.read_text(encoding="utf-8") == text:
        return 0
    if options.check:
        sys.stderr.write(f"{options.out} differs: run scripts/build_kubernetes.py\n")
        return 1
    options.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
