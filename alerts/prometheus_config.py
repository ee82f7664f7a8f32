"""Prometheus's configuration: who is scraped, how often, and where alerts go.

Three jobs. `isolation` reads the small page `/metrics/isolation` every second, because the interval is most of the
time between a violation and its page. `isolation-main` reads the rest, `/metrics`, at a quiet pace. `collector` reads
the collector's own `/metrics`. No target carries a `service` label: it is on the series themselves, so one target may
serve several services, and the rules learn the service of a target that went down from `isolation_monitor_info`.
Only fields that Prometheus 2.42 and 3.x both accept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isolation_monitor.alerts.yaml_text import dump

ISOLATION_JOB = "isolation"
MAIN_JOB = "isolation-main"
COLLECTOR_JOB = "collector"

DRILL_SERVICES = "drill:.+"
"""Services that exist only while `isomon drill` runs. Their alerts become synthetic here, in Prometheus, because most
series that alerts read have no such label: the rules are those of real services, and the route leads to no person."""

FLAGS = ("--rules.alert.resend-delay=10s",)
"""Flags that Prometheus needs beside this configuration. It tells Alertmanager of an alert once and then, by default,
again after a minute: an alert that fires in Prometheus's first seconds, before it knows its Alertmanager, or while
Alertmanager restarts, would come a minute late. Measured: a dead man's switch that took more than 60 s to arrive."""


def render(
    *,
    isolation_targets: Sequence[str],
    main_interval: str,
    collector_target: str,
    alertmanager: str,
    rule_files: Sequence[str],
    scrape_interval: str = "1s",
    metrics_token_file: str | None = None,
    collector_token_file: str | None = None,
    file_sd: Sequence[str] = (),
    dns_sd: tuple[str, int] | None = None,
    drill_folder: str | None = None,
    collector_interval: str = "5s",
) -> str:
    """Return `prometheus.yml` as text.

    Targets are `host:port`; intervals are Prometheus durations (`1s`, `15s`). `file_sd` are patterns of target files
    that list the user's own services; both service jobs read them. `dns_sd` is a host name and port that is a target
    only while the name resolves: a container that may not be there. `drill_folder` is where `isomon drill` announces
    its targets, in the folders `services` and `collector` below it. Token files hold a bearer token and nothing else.
    """
    services: dict[str, Any] = {"static_configs": [{"targets": list(isolation_targets)}]} if isolation_targets else {}
    files = [*file_sd, *([f"{drill_folder}/services/*.json"] if drill_folder else [])]
    if files:
        services["file_sd_configs"] = [{"files": files, "refresh_interval": "10s"}]
    if dns_sd:
        services["dns_sd_configs"] = [{"names": [dns_sd[0]], "type": "A", "port": dns_sd[1], "refresh_interval": "5s"}]
    config = {
        "global": {"scrape_interval": main_interval, "evaluation_interval": main_interval},
        "rule_files": list(rule_files),
        "alerting": {
            "alert_relabel_configs": [
                {"source_labels": ["service"], "regex": DRILL_SERVICES, "target_label": "synthetic", "replacement": "true"}
            ],
            "alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}],
        },
        "scrape_configs": [
            {
                "job_name": ISOLATION_JOB,
                "metrics_path": "/metrics/isolation",
                "scrape_interval": scrape_interval,
                "scrape_timeout": scrape_interval,
                **_authorization(metrics_token_file),
                **services,
            },
            {
                "job_name": MAIN_JOB,
                "metrics_path": "/metrics",
                "scrape_interval": main_interval,
                "scrape_timeout": main_interval if _seconds(main_interval) < 10 else "10s",
                **_authorization(metrics_token_file),
                **services,
            },
            {
                "job_name": COLLECTOR_JOB,
                "metrics_path": "/metrics",
                "scrape_interval": collector_interval,
                "scrape_timeout": collector_interval if _seconds(collector_interval) < 10 else "10s",
                **_authorization(collector_token_file),
                "static_configs": [{"targets": [collector_target]}],
                **(
                    {"file_sd_configs": [{"files": [f"{drill_folder}/collector/*.json"], "refresh_interval": "10s"}]}
                    if drill_folder
                    else {}
                ),
            },
        ],
    }
    return dump(config)


def _authorization(token_file: str | None) -> dict[str, Any]:
    return {} if token_file is None else {"authorization": {"type": "Bearer", "credentials_file": token_file}}


def _seconds(duration: str) -> float:
    """Return a simple Prometheus duration (`500ms`, `15s`, `1m`) in seconds.

    Raises:
        ValueError: the duration has another form.
    """
    for suffix, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0)):
        number = duration.removesuffix(suffix)
        if number != duration and number.isdigit():
            return int(number) * factor
    raise ValueError(f"interval {duration!r} is not a whole number with ms, s or m: write 15s or 1m")
