"""Writes the rule files and configurations of `alerts/generated/`: `python -m isolation_monitor.alerts.build`.

The committed files point at the collector and Grafana of a local stack; `--base-url` and `--grafana-url` make others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from isolation_monitor.alerts import (
    alertmanager_config,
    blindness_alerts,
    ci_alerts,
    collector_alerts,
    container_alerts,
    delivery_alerts,
    isolation_alerts,
    lifecycle_alerts,
    probe_alerts,
    prometheus_config,
    recording,
    resolution_alerts,
    rollout_alerts,
    run_alerts,
    slo,
    slo_rules,
)
from isolation_monitor.alerts.model import Alert, Group, Links, Recording, render
from isolation_monitor.alerts.thresholds import Thresholds, load

GENERATED = Path(__file__).parent / "generated"
RUNBOOKS = Path(__file__).parent / "runbooks"
TEMPLATE = Path(__file__).parent / "templates" / "isolation.tmpl"
DEFAULT_BASE_URL = "http://localhost:8400"
PUSHED = ("RolloutRolledBack",)
"""Alerts that no rule makes: the collector hands them to Alertmanager. Each has its runbook as the others."""
DEFAULT_GRAFANA_URL = "http://localhost:3000"

_FILES: dict[str, str] = {
    "recording.yml": "Recorded series: the public names, the score's state, and what blindness alerts share.",
    "isolation.yml": "Alerts on isolation, instances and database sessions.",
    "delivery.yml": "Alerts on event delivery.",
    "runs.yml": "Alerts on runs and connections.",
    "resolution.yml": "Alerts on the resolution of run ids to threads.",
    "rollouts.yml": "Alerts on rollouts: the arms side by side, gates that cannot look or wait, workers that hear of no change.",
    "lifecycle.yml": "Alerts on start-up and clean-up.",
    "probes.yml": "Alerts on the endpoints that the collector checks.",
    "blindness.yml": "Alerts on the monitor itself, and the dead man's switch.",
    "ci.yml": "Alerts on runs of test suites: what passes, what is flaky, what takes long, what is missing.",
    "collector.yml": "Alerts on the collector's own duties: expiry and keys.",
    "containers.yml": "Alerts on containers of Docker engines.",
    "slo.yml": "What users are promised: events, burn rates, budgets, and alerts on them.",
}


def rule_groups(thresholds: Thresholds | None = None, slos: slo.Slos | None = None) -> dict[str, list[Group]]:
    """Return every group of rules, by rule file."""
    t = thresholds or load()
    parts = (
        recording.groups(t),
        isolation_alerts.groups(t),
        delivery_alerts.groups(t),
        run_alerts.groups(t),
        resolution_alerts.groups(t),
        rollout_alerts.groups(t),
        lifecycle_alerts.groups(t),
        probe_alerts.groups(t),
        blindness_alerts.groups(t),
        ci_alerts.groups(t),
        collector_alerts.groups(t),
        container_alerts.groups(t),
        slo_rules.groups(slos or slo.load()),
    )
    return dict(zip(_FILES, parts, strict=True))


def alerts() -> list[Alert]:
    """Return every alert, in the order of the files."""
    return [rule for groups in rule_groups().values() for group in groups for rule in group.rules if isinstance(rule, Alert)]


def rules(base_url: str = DEFAULT_BASE_URL, grafana_url: str | None = DEFAULT_GRAFANA_URL, slos: slo.Slos | None = None) -> dict[str, str]:
    """Return the rule files, name to text. Runbooks open under `base_url`; no dashboard is linked when `grafana_url` is None.

    `slos` are other objectives than the product's own.
    """
    links = Links(base_url.rstrip("/"), None if grafana_url is None else grafana_url.rstrip("/"))
    return {name: render(groups, links, _FILES[name]) for name, groups in rule_groups(slos=slos).items()}


def series_used() -> set[tuple[str, frozenset[str]]]:
    """Return each exposed sample name that a rule reads, with every label that some rule names on it.

    Recorded series, the collector's and Prometheus's own `up` are left out: no service exposes them. A histogram appears by its sample
    names (`_bucket`, `_count`). Needs promql-parser.
    """
    # Here, because writing the rules (the demo does) must not need a development dependency.
    from isolation_monitor.alerts.series import series_of

    every = [rule for groups in rule_groups().values() for group in groups for rule in group.rules]
    not_exposed = {rule.name for rule in every if isinstance(rule, Recording)} | {
        "up",
        *rollout_alerts.COLLECTOR_SERIES,
        *probe_alerts.COLLECTOR_SERIES,
        *blindness_alerts.COLLECTOR_SERIES,
        *ci_alerts.COLLECTOR_SERIES,
        *collector_alerts.COLLECTOR_SERIES,
        *container_alerts.COLLECTOR_SERIES,
    }
    labels: dict[str, frozenset[str]] = {}
    for rule in every:
        for name, named in series_of(rule.expr).items():
            if name not in not_exposed:
                labels[name] = labels.get(name, frozenset()) | named
    return set(labels.items())


def configurations() -> dict[str, str]:
    """Return `prometheus.yml` and `alertmanager.yml` of the compose file, name to text."""
    return {
        "prometheus.yml": prometheus_config.render(
            isolation_targets=[],
            # The chat of the demo profile: without it, a fixed target would page for ever.
            dns_sd=("chat", 8000),
            main_interval="15s",
            collector_target="collector:8400",
            alertmanager="alertmanager:9093",
            rule_files=["/etc/prometheus/rules/*.yml"],
            metrics_token_file="/run/secrets/metrics_token",
            collector_token_file="/run/secrets/read_token",
            file_sd=["/etc/prometheus/services/*.yml"],
            drill_folder="/etc/prometheus/drills",
        ),
        "alertmanager.yml": alertmanager_config.render(
            webhook_url="http://collector:8400/v1/alerts",
            webhook_token_file="/run/secrets/alerts_token",
            template_files=["/etc/alertmanager/templates/isolation.tmpl"],
        ),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files; the only output is what was written."""
    parser = argparse.ArgumentParser(
        prog="python -m isolation_monitor.alerts.build", description="Write Prometheus rules and configurations."
    )
    parser.add_argument("--base-url", default=DEFAULT_BASE_URL, help="where the collector serves /runbooks (default: %(default)s)")
    parser.add_argument("--grafana-url", default=DEFAULT_GRAFANA_URL, help="where Grafana is; empty for none (default: %(default)s)")
    parser.add_argument("--slo", type=Path, default=slo.SLO_FILE, help="what users are promised (default: the package's own file)")
    parser.add_argument("--out", type=Path, default=GENERATED, help="folder to write to (default: the package's own)")
    options = parser.parse_args(arguments)
    try:
        slos = slo.load(options.slo)
    except slo.SloError as error:
        parser.error(str(error))
    written = rules(options.base_url, options.grafana_url or None, slos) | configurations()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        (options.out / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
