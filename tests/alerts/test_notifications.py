"""What Alertmanager itself does with our configuration: what hides what, and what people read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from isolation_monitor.alerts import alertmanager_config, build
from isolation_monitor.alerts.alertmanager_config import Email
from tests.real_parts.alertmanager import Alertmanager, alertmanager
from tests.real_parts.processes import eventually
from tests.real_parts.receiver import mailbox, receiver


def alert(name: str, service: str = "chat", **labels: str) -> dict[str, object]:
    return {
        "labels": {"alertname": name, "service": service, "severity": "error", "action": "page", **labels},
        "annotations": {
            "summary": f"{service}: summary of {name}",
            "description": f"What {name} means <here>.",
            "runbook_url": f"http://127.0.0.1:8400/runbooks/{name}",
            "dashboard_url": "http://127.0.0.1:3000/d/isolation-overview?var-service=chat&from=now-30m&to=now",
        },
    }


@pytest.fixture
def token(tmp_path: Path) -> str:
    (tmp_path / "token").write_text("secret-of-the-test")
    return str(tmp_path / "token")


HIDES = {
    "IsolationTargetDown": ["IsolationChecksSilent", "IsolationDetectorSilent", "IsolationCoverageLow"],
    "IsolationChecksSilent": ["IsolationDetectorSilent"],
    "EventDeliveryBelow95": ["EventDeliveryBelow99"],
    "SloBurnsFast": ["SloBurnsSlowly"],
}
COLLECTOR_DOWN, OF_ALL_SERVICES = "IsolationCollectorDown", "FlagsStale"
"""One collector speaks to all services: what it hides has another service."""
OTHERS = {alert.name for alert in build.alerts()} - HIDES.keys() - {name for hidden in HIDES.values() for name in hidden}
OTHERS -= {COLLECTOR_DOWN, OF_ALL_SERVICES}


@pytest.mark.parametrize("source", HIDES)
def test_only_what_follows_from_another_alert_is_hidden(source, token, tmp_path: Path):
    """The other service's alert, and every other alert of this one, isolation pages first of all, still notify."""
    config = alertmanager_config.render(webhook_url="WEBHOOK", webhook_token_file=token)
    with receiver() as inbox, alertmanager(tmp_path / "am", config.replace("WEBHOOK", inbox.url)) as am:
        am.post(alert(source))
        eventually(lambda: inbox.deliveries, "the source notifies")
        am.post(*(alert(name, service) for name in HIDES[source] for service in ("chat", "other")), *map(alert, OTHERS))

        def told() -> set[tuple[str, str]]:
            return {(a["labels"]["alertname"], a["labels"]["service"]) for d in list(inbox.deliveries) for a in d.body["alerts"]}

        # In the other service nothing is wrong but these, and one of them may hide the next.
        loud = {(name, "other") for name in HIDES[source] if not any(name in HIDES.get(other, ()) for other in HIDES[source])}
        eventually(lambda: told() >= {*loud, *((name, "chat") for name in OTHERS)}, "all others notify")
        assert "IsolationViolation" in OTHERS
        assert told().isdisjoint((name, "chat") for name in HIDES[source])
        assert {_state(am, name) for name in HIDES[source]} == {"suppressed"}


def test_a_collector_that_is_down_is_one_page_and_no_ticket_for_each_service_that_hears_nothing(token, tmp_path: Path):
    """Neither does its drill hide what is real, nor it the drills: `isomon drill` causes both at the same time."""
    config = alertmanager_config.render(webhook_url="WEBHOOK", webhook_token_file=token)
    with receiver() as inbox, alertmanager(tmp_path / "am", config.replace("WEBHOOK", inbox.url)) as am:

        def told() -> set[tuple[str, str]]:
            return {(a["labels"]["alertname"], a["labels"]["service"]) for d in list(inbox.deliveries) for a in d.body["alerts"]}

        am.post(alert(COLLECTOR_DOWN, "isolation-collector", synthetic="true"))
        eventually(lambda: told(), "the drill of the collector notifies")
        am.post(alert(OF_ALL_SERVICES, "early"))
        eventually(lambda: (OF_ALL_SERVICES, "early") in told(), "a drill hides nothing")

        am.post(alert(COLLECTOR_DOWN, "isolation-collector"))
        eventually(lambda: len([d for d in inbox.deliveries if COLLECTOR_DOWN in str(d.body)]) > 1, "the collector's own page")
        am.post(alert(OF_ALL_SERVICES), alert(OF_ALL_SERVICES, "shop"), alert(OF_ALL_SERVICES, "drill:chat:x", synthetic="true"))
        am.post(*map(alert, OTHERS))

        eventually(lambda: told() >= {(OF_ALL_SERVICES, "drill:chat:x"), *((name, "chat") for name in OTHERS)}, "all others notify")
        assert told().isdisjoint({(OF_ALL_SERVICES, "chat"), (OF_ALL_SERVICES, "shop")})
        assert _state(am, OF_ALL_SERVICES) == "suppressed"


def _state(am: Alertmanager, name: str) -> str:
    return next(a["status"]["state"] for a in am.alerts() if a["labels"]["alertname"] == name and a["labels"]["service"] == "chat")


def test_the_webhook_carries_the_token_of_the_file(token, tmp_path: Path):
    with (
        receiver() as inbox,
        alertmanager(tmp_path / "am", alertmanager_config.render(webhook_url=inbox.url, webhook_token_file=token)) as am,
    ):
        am.post(alert("SessionLeak"))

        delivery = eventually(lambda: next(iter(inbox.deliveries), None), "a notification")
        assert delivery.headers["Authorization"] == "Bearer secret-of-the-test"
        assert delivery.body["version"] == "4"


def test_people_read_what_broke_where_and_what_to_do(token, tmp_path: Path):
    """The template, rendered by the real Alertmanager into Slack, PagerDuty and mail."""
    with receiver() as inbox, mailbox() as (smarthost, mails):
        (tmp_path / "slack").write_text(f"{inbox.url}/slack")
        (tmp_path / "pagerduty").write_text("routing-key")
        config = alertmanager_config.render(
            webhook_url=f"{inbox.url}/alerts",
            webhook_token_file=token,
            slack_url_file=str(tmp_path / "slack"),
            pagerduty_key_file=str(tmp_path / "pagerduty"),
            pagerduty_url=f"{inbox.url}/pagerduty",
            email=Email("on-call@example.org", "isolation@example.org", smarthost, require_tls=False),
            template_files=[str(build.TEMPLATE)],
        )
        with alertmanager(tmp_path / "am", config) as am:
            violation = alert("IsolationViolation", severity="critical", kind="instance_reuse", rollback="true", synthetic="false")
            am.post(violation)

            def body(path: str, position: int = 0):
                return eventually(
                    lambda: dict(enumerate(d.body for d in inbox.deliveries if d.path == path)).get(position), f"message to {path}"
                )

            title = "[CRITICAL] IsolationViolation in chat (instance_reuse)"
            lines = [
                "chat: summary of IsolationViolation",
                "What IsolationViolation means <here>.",
                "This is a rollback trigger.",
                "Runbook: http://127.0.0.1:8400/runbooks/IsolationViolation",
                "Dashboard: http://127.0.0.1:3000/d/isolation-overview?var-service=chat&from=now-30m&to=now",
            ]
            slack = body("/slack")["attachments"][0]
            assert (slack["title"], slack["color"]) == (title, "#d0021b")
            assert slack["title_link"].endswith("/runbooks/IsolationViolation")
            assert slack["text"].splitlines()[: len(lines)] == lines
            page = body("/pagerduty")
            assert (page["event_action"], page["payload"]["summary"], page["payload"]["severity"]) == ("trigger", title, "critical")
            assert page["payload"]["custom_details"]["text"].splitlines()[: len(lines)] == lines
            assert page["links"] == [{"href": "http://127.0.0.1:8400/runbooks/IsolationViolation", "text": "Runbook"}]
            mail = eventually(lambda: next(iter(mails), None), "a mail")
            assert f"Subject: {title}" in mail
            assert lines[0] in mail

            am.post(violation | {"endsAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})

            resolved = body("/slack", 1)["attachments"][0]
            assert resolved["title"].startswith("[RESOLVED] IsolationViolation in chat")
            assert resolved["color"] == "#2eb67d"
            assert resolved["text"].startswith("Resolved: ")
