"""Alertmanager's configuration: which alert goes to whom, how fast, and what hides what.

Isolation alerts never wait: `group_wait` is 0 and a second notification of the same group follows after 5 seconds.
Groups are by everything that tells two problems apart, so 10,000 violations of one kind are one page and a second
kind is a page of its own at once. Secrets are named by file, never written here. Only fields of Alertmanager 0.25.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from isolation_monitor.alerts.yaml_text import dump

PAGE, TICKET, DRILL, DEAD_MAN = "page", "ticket", "drill", "dead-mans-switch"
RECEIVERS = (PAGE, TICKET, DRILL, DEAD_MAN)

GROUP_BY = ("alertname", "service", "kind", "component", "detector", "slo", "synthetic")
GROUP_INTERVAL = "5s"
REPEAT_INTERVAL = "4h"
DEAD_MAN_REPEAT = "45s"
"""The dead man's switch speaks at least once a minute: whoever listens may page after two silent minutes."""

_DERIVED_BLINDNESS = ("IsolationChecksSilent", "IsolationDetectorSilent", "IsolationCoverageLow")


@dataclass(frozen=True, slots=True)
class Email:
    """Where mail goes and through which server. `smarthost` is `host:port`; the password is read from its file."""

    to: str
    sender: str
    smarthost: str
    username: str | None = None
    password_file: str | None = None
    require_tls: bool = True


def render(
    *,
    webhook_url: str,
    webhook_token_file: str,
    drill_url: str | None = None,
    dead_mans_url: str | None = None,
    pagerduty_key_file: str | None = None,
    slack_url_file: str | None = None,
    slack_channel: str | None = None,
    email: Email | None = None,
    template_files: Sequence[str] = (),
    pagerduty_url: str | None = None,
) -> str:
    """Return `alertmanager.yml` as text, with only the receivers that are configured.

    Every alert goes to `webhook_url` (the collector's `/v1/alerts`) with the bearer token of `webhook_token_file`;
    pages go to PagerDuty, Slack and mail too, tickets to Slack and mail. Drills go to `drill_url`, or to the webhook.
    `dead_mans_url` is a heartbeat service outside this machine, or the webhook. `slack_channel` is needed only for
    Slack applications that may choose. `pagerduty_url` is another events API than PagerDuty's own.

    Raises:
        ValueError: a receiver with text was asked for and `template_files` names no template.
    """
    webhook = _webhook(webhook_url, webhook_token_file)
    spoken: dict[str, list[dict[str, Any]]] = {}
    if slack_url_file is not None:
        spoken["slack_configs"] = [_slack(slack_url_file, slack_channel)]
    if email is not None:
        spoken["email_configs"] = [_email(email)]
    pagers = {} if pagerduty_key_file is None else {"pagerduty_configs": [_pagerduty(pagerduty_key_file, pagerduty_url)]}
    if (spoken or pagers) and not template_files:
        raise ValueError("PagerDuty, Slack and mail need the text of alerts/templates/isolation.tmpl: pass it as template_files")
    drill = webhook if drill_url is None else _webhook(drill_url, webhook_token_file)
    dead_man = webhook if dead_mans_url is None else {"url": dead_mans_url, "send_resolved": False}
    config = {
        "route": _routes(),
        "inhibit_rules": _inhibitions(),
        "receivers": [
            {"name": PAGE, "webhook_configs": [webhook], **pagers, **spoken},
            {"name": TICKET, "webhook_configs": [webhook], **spoken},
            {"name": DRILL, "webhook_configs": [drill]},
            {"name": DEAD_MAN, "webhook_configs": [dead_man]},
        ],
        **({"templates": list(template_files)} if template_files else {}),
    }
    return dump(config)


def _routes() -> dict[str, Any]:
    # An alert whose labels match no route is a defect of ours: it pages rather than vanish.
    return {
        "receiver": PAGE,
        "group_by": list(GROUP_BY),
        "group_wait": "0s",
        "group_interval": GROUP_INTERVAL,
        "repeat_interval": REPEAT_INTERVAL,
        "routes": [
            {"receiver": DEAD_MAN, "matchers": ['alertname="DeadMansSwitch"'], "repeat_interval": DEAD_MAN_REPEAT},
            {"receiver": DRILL, "matchers": ['synthetic="true"']},
            {"receiver": PAGE, "matchers": ['action="page"']},
            {"receiver": TICKET, "matchers": ['action="ticket"']},
        ],
    }


def _inhibitions() -> list[dict[str, Any]]:
    # Nothing here ever targets an isolation page: only what follows from another alert, of the same service or of the collector, is hidden.
    return [
        {
            "source_matchers": ['alertname="IsolationTargetDown"'],
            "target_matchers": [f'alertname=~"{"|".join(_DERIVED_BLINDNESS)}"'],
            "equal": ["service"],
        },
        {
            "source_matchers": ['alertname="IsolationChecksSilent"'],
            "target_matchers": ['alertname="IsolationDetectorSilent"'],
            "equal": ["service"],
        },
        {
            "source_matchers": ['alertname="EventDeliveryBelow95"'],
            "target_matchers": ['alertname="EventDeliveryBelow99"'],
            "equal": ["service"],
        },
        {
            "source_matchers": ['alertname="SloBurnsFast"'],
            "target_matchers": ['alertname="SloBurnsSlowly"'],
            "equal": ["service", "slo"],
        },
        {
            # Without a collector nobody hears of the flags' rules: one page instead of a ticket for each service. Its drill hides nothing.
            "source_matchers": ['alertname="IsolationCollectorDown"', 'synthetic!="true"'],
            "target_matchers": ['alertname="FlagsStale"'],
            "equal": ["synthetic"],
        },
    ]


def _webhook(url: str, token_file: str) -> dict[str, Any]:
    return {
        "url": url,
        "send_resolved": True,
        "http_config": {"authorization": {"type": "Bearer", "credentials_file": token_file}},
    }


def _pagerduty(key_file: str, url: str | None) -> dict[str, Any]:
    return {
        "routing_key_file": key_file,
        **({} if url is None else {"url": url}),
        "send_resolved": True,
        "description": '{{ template "isolation.title" . }}',
        "severity": '{{ template "isolation.pagerduty.severity" . }}',
        "client": "isolation-monitor",
        "details": {"text": '{{ template "isolation.text" . }}'},
        "links": [{"href": "{{ .CommonAnnotations.runbook_url }}", "text": "Runbook"}],
    }


def _slack(url_file: str, channel: str | None) -> dict[str, Any]:
    return {
        "api_url_file": url_file,
        **({} if channel is None else {"channel": channel}),
        "send_resolved": True,
        "color": '{{ template "isolation.color" . }}',
        "title": '{{ template "isolation.title" . }}',
        "title_link": "{{ .CommonAnnotations.runbook_url }}",
        "text": '{{ template "isolation.text" . }}',
        "fallback": '{{ template "isolation.title" . }}',
    }


def _email(email: Email) -> dict[str, Any]:
    return {
        "to": email.to,
        "from": email.sender,
        "smarthost": email.smarthost,
        **({} if email.username is None else {"auth_username": email.username}),
        **({} if email.password_file is None else {"auth_password_file": email.password_file}),
        "require_tls": email.require_tls,
        "send_resolved": True,
        "headers": {"Subject": '{{ template "isolation.title" . }}'},
        "html": "",
        "text": '{{ template "isolation.text" . }}',
    }
