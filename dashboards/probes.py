"""The row on probes: do the endpoints that the operator's file names answer as they should?"""

from __future__ import annotations

from isolation_monitor.alerts.probe_alerts import DURATION_SECONDS, EXPIRY, SLOW_AFTER, SUCCESS
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards.layout import Row
from isolation_monitor.dashboards.panels import GREEN, RED, Panel, Query, Words, good_from, graph, states

_BY = "by (service, isolation_probe)"
_LEGEND = "{{service}}: {{isolation_probe}}"


def row(t: Thresholds) -> Row:
    """Success, time, and the days that certificates have left."""
    return Row("Endpoints that the collector checks", [success(), took(), certificates(t)])


def success() -> Panel:
    return states(
        "Endpoints answer as they should",
        Query(f"max {_BY} ({_of_service(SUCCESS)})", _LEGEND),
        words={0: Words("FAILING", RED), 1: Words("ok", GREEN)},
        no_value="no endpoint is checked",
        alerts=["ProbeFailing"],
        description=(
            "The last check of each endpoint of the collector's file of probes. Ok is good. Failing: the collector's page Probes says what "
            "was found; a check that nobody made for three intervals counts as failed."
        ),
    )


def took() -> Panel:
    return graph(
        "Time of a check against what is allowed",
        Query(f"max {_BY} ({_of_service(DURATION_SECONDS)}) / max {_BY} ({_of_service(SLOW_AFTER)})", _LEGEND),
        unit="percentunit",
        no_value="no endpoint is checked",
        alerts=["ProbeSlow"],
        description=(
            "100 % is slow_after of the endpoint's entry in the file. Below is good. Above: isomon probe --json shows which phase takes "
            "long, the name, the connection, TLS or the service."
        ),
    )


def certificates(t: Thresholds) -> Panel:
    days = t.probes.certificate_days
    return graph(
        "Certificates: days left",
        Query(f"(min {_BY} ({_of_service(EXPIRY)}) - time()) / 86400", _LEGEND),
        unit="d",
        no_value="no endpoint with TLS is checked",
        steps=good_from((days, GREEN)),
        alerts=["CertificateExpiresSoon"],
        description=(
            f"How long the certificate that each endpoint shows is still valid. More than {days} days is good. Less: whatever renews it "
            "did not, or the server has not loaded the new one."
        ),
    )


def _of_service(metric: str) -> str:
    return f'{metric}{{service=~"$service"}}'
