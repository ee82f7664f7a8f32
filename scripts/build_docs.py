"""Write the generated parts of docs/: metrics.md and settings.md from the code, and the alert table of alerts.md from the rules.

    python scripts/build_docs.py [--check]

`--check` writes nothing and exits 1 when a page differs from what it would write.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import fields
from pathlib import Path

import yaml

from isolation_monitor.alerts import build as alerts
from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.settings import CollectorSettings
from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.settings import PREFIX, Settings
from isolation_monitor.telemetry.switches import BLOCKING

DOCS = Path(__file__).resolve().parent.parent / "docs"
GENERATED = "<!-- Written by scripts/build_docs.py; change the code, then run `make docs`. -->"


def metrics_page() -> str:
    lines = [
        "# Metrics",
        "",
        GENERATED,
        "",
        "Every series carries `service`. No user, session, run, connection or request id is ever a label; those are in the records.",
        "`/metrics/isolation` is small and scraped each second; `/metrics` carries the rest. All children of closed label sets exist at 0",
        "from the start, so that `increase()` sees the first violation. Histograms have `_bucket`, `_sum` and `_count`.",
        "",
        "## The six public series",
        "",
        "Recorded by the rules in `alerts/`, by `service`.",
        "",
        "| name | meaning |",
        "| --- | --- |",
        *(f"| `{name}` | {text} |" for name, text in names.PUBLIC_SERIES.items()),
        f"| `{names.ISOLATION_SCORE_STATE}` | 1 for the state in force: {', '.join(f'`{s}`' for s in names.SCORE_STATES)}. |",
    ]
    for endpoint, path in (("isolation", "/metrics/isolation"), ("main", "/metrics")):
        lines += ["", f"## `{path}`", "", "| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
        for metric in names.CATALOGUE:
            if metric.endpoint == endpoint:
                labels = "; ".join(f"`{label}`: {_values(values)}" for label, values in metric.labels.items())
                lines.append(f"| `{metric.name}` | {metric.type} | {labels or '-'} | {metric.help} |")
    lines += [
        "",
        "## The collector's own `/metrics`",
        "",
        "Asks for the read token.",
        "",
        "| metric | type | meaning |",
        "| --- | --- | --- |",
    ]
    for family in CollectorMetrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        lines.append(f"| `{name}` | {family.type} | {family.documentation} |")
    lines += [
        "",
        "## Buckets",
        "",
        *(f"- `{m.name}`: {', '.join(f'{b:g}' for b in m.buckets)} {m.unit}" for m in names.CATALOGUE if m.buckets),
        "",
        "## Kinds and grades",
        "",
        "`crossed`: foreign data left the process. `reachable`: shared state that could cross. `hygiene`: leaks and stalls; the score",
        "is not lowered. A violation whose grade rises counts once in each grade it reached.",
        "",
        "| kind | grades |",
        "| --- | --- |",
        *(f"| `{kind}` | {', '.join(grades)} |" for kind, grades in names.KIND_GRADES.items()),
    ]
    return "\n".join(lines) + "\n"


def _values(values: tuple[str, ...] | int) -> str:
    return f"at most {values} values, then `{names.OTHER}`" if isinstance(values, int) else ", ".join(values)


def settings_page() -> str:
    lines = [
        "# Settings",
        "",
        GENERATED,
        "",
        "An argument of `IsolationMonitor.from_env(...)` beats the environment, which beats `[tool.isolation]` in `pyproject.toml`, which",
        "beats the default. A wrong value fails at start and says what to write. `OTEL_SERVICE_NAME` names the service where nothing",
        "else does; `OTEL_SDK_DISABLED=true` switches the monitor off.",
        "",
        "| setting | environment | default | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for setting in fields(Settings):
        default = ",".join(setting.default) if isinstance(setting.default, tuple) else setting.default
        shown = f"`{default}`" if default not in (None, "") else "-"
        lines.append(f"| `{setting.name}` | `{PREFIX}{setting.name.upper()}` | {shown} | {setting.metadata['doc']} |")
    lines += [
        "",
        "## The collector",
        "",
        "From the environment of the process that runs `isomon collector`; it refuses to start with a value that it cannot use, and says",
        "which. Durations are seconds, sizes bytes. There is no default token.",
        "",
        "| environment | default | meaning |",
        "| --- | --- | --- |",
    ]
    for name, field in CollectorSettings.model_fields.items():
        shown = "-" if field.default is None else f"`{field.default}`"
        lines.append(f"| `COLLECTOR_{name.upper()}` | {shown} | {' '.join((field.description or '').split())} |")
    return "\n".join(lines) + "\n"


def alerts_page() -> str:
    lines = [
        "# Alerts",
        "",
        GENERATED,
        "",
        "`page` wakes someone, `ticket` waits for morning. Rollback triggers carry the label `rollback`. Each alert has a runbook,",
        "which the collector serves at `/runbooks/NAME`, and rule tests that fire it, keep it silent just below, and resolve it.",
        "",
        "| alert | severity | action | rollback | what it says |",
        "| --- | --- | --- | --- | --- |",
    ]
    for text in alerts.rules("http://localhost:8400", None).values():
        for group in yaml.safe_load(text)["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    labels = rule["labels"]
                    name = rule["alert"]
                    summary = " ".join(rule["annotations"]["summary"].split())
                    lines.append(
                        f"| [{name}](../alerts/runbooks/{name}.md) | {labels['severity']} | {labels.get('action', '-')} "
                        f"| {'yes' if labels.get('rollback') == 'true' else '-'} | {summary} |"
                    )
    return "\n".join(lines) + "\n"


def detectors_page() -> str:
    lines = [
        "# Detectors",
        "",
        GENERATED,
        "",
        "One class of check each. As shipped all of them watch (`monitor`). The setting `ISOLATION_DETECTORS` changes that, separated by",
        "commas: `shared_state=off`, `foreign_content=block` (refuses what it finds), `foreign_context=monitor@0.05` (looks at one chance",
        f"in twenty). These can block: {', '.join(f'`{name}`' for name in BLOCKING)}. A violation's kind is its detector's name.",
    ]
    for name, grades in names.KIND_GRADES.items():
        module = importlib.import_module(f"isolation_monitor.telemetry.{DETECTOR_MODULES.get(name, f'detectors.{name}')}")
        lines += ["", f"## {name}", "", f"Grades: {', '.join(grades)}.", "", *_paragraphs(module.__doc__ or "")]
    return "\n".join(lines) + "\n"


DETECTOR_MODULES = {
    names.INCOMPLETE_RUN: "delivery.run",
    names.STUCK_RUN: "delivery.stuck_run",
    names.BAD_HANDSHAKE: "delivery.handshakes",
    names.UNROUTED_EVENT: "delivery.routes",
}
"""Detectors whose page is not the module of their own name."""
_HEADS = ("Sees:", "Cannot see:", "Cost:", "Precision:", "Grades:", "Why it happens:", "Legitimate and silent:", "Legit and silent:")


def _paragraphs(docstring: str) -> list[str]:
    """Return a module's docstring as Markdown: each of its heads begins a paragraph."""
    lines = []
    for line in docstring.strip().splitlines():
        if line.startswith(_HEADS):
            lines.append("")
            head, colon, rest = line.partition(":")
            line = f"**{head}{colon}**{rest}"
        lines.append(line.rstrip())
    return lines


PAGES = {"detectors.md": detectors_page, "metrics.md": metrics_page, "settings.md": settings_page, "alerts.md": alerts_page}


def main() -> int:
    check = "--check" in sys.argv[1:]
    stale = []
    for name, build in PAGES.items():
        path, text = DOCS / name, build()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{'differs' if check else 'wrote'}: {', '.join(stale)}\n" if stale else "docs are current\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
