"""Who is told: every combination of labels that an alert can have reaches its receiver, proven by amtool and amlint."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from isolation_monitor.alerts import alertmanager_config, build
from isolation_monitor.alerts.alertmanager_config import Email
from tests.real_parts.processes import binary

SECRETS = ("token", "pagerduty", "slack", "mail")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration with every receiver."""
    for name in SECRETS:
        (tmp_path / name).write_text("http://127.0.0.1:1/" if name == "slack" else "secret")
    file = tmp_path / "alertmanager.yml"
    file.write_text(render(tmp_path))
    return file


def render(folder: Path, **changed) -> str:
    everything = {
        "webhook_url": "http://127.0.0.1:8400/v1/alerts",
        "webhook_token_file": str(folder / "token"),
        "drill_url": "http://127.0.0.1:8400/v1/alerts?drill",
        "dead_mans_url": "https://heartbeat.example.org/ping",
        "pagerduty_key_file": str(folder / "pagerduty"),
        "slack_url_file": str(folder / "slack"),
        "slack_channel": "#on-call",
        "email": Email("on-call@example.org", "isolation@example.org", "mail.example.org:587", "isolation", str(folder / "mail")),
        "template_files": [str(build.TEMPLATE)],
    }
    return alertmanager_config.render(**everything | changed)


def amtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([binary("amtool"), *arguments], capture_output=True, text=True, timeout=60)


def test_amtool_accepts_the_configuration_with_every_receiver(config: Path):
    result = amtool("check-config", str(config))

    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 receivers" in result.stdout


@pytest.mark.parametrize("gone", ["pagerduty_key_file", "slack_url_file", "email", "drill_url", "dead_mans_url", "slack_channel"])
def test_a_receiver_that_is_not_configured_is_not_written(gone, config: Path):
    config.write_text(render(config.parent, **{gone: None}))

    assert amtool("check-config", str(config)).returncode == 0
    if gone in ("pagerduty_key_file", "slack_url_file", "email"):
        assert gone.split("_")[0] + "_configs" not in config.read_text()


def test_no_secret_is_written_into_the_configuration(config: Path):
    for name in SECRETS:
        (config.parent / name).write_text(f"s3cret-{name}")

    assert "s3cret" not in render(config.parent)


@pytest.mark.parametrize(
    ("severity", "action", "synthetic"),
    list(itertools.product(["critical", "error", "warning"], ["page", "ticket"], ["true", "false", None])),
)
def test_every_combination_of_labels_reaches_its_receiver(severity, action, synthetic, config: Path):
    labels = [f"severity={severity}", f"action={action}", "service=chat", "alertname=IsolationViolation"]
    labels += [f"synthetic={synthetic}"] if synthetic else []
    receiver = "drill" if synthetic == "true" else action

    result = amtool("config", "routes", "test", f"--config.file={config}", f"--verify.receivers={receiver}", *labels)

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("alert", build.alerts(), ids=lambda alert: alert.name)
def test_every_alert_reaches_its_receiver(alert, config: Path):
    receiver = "dead-mans-switch" if alert.name == "DeadMansSwitch" else alert.action
    labels = {"alertname": alert.name, "service": "chat", "severity": alert.severity, "action": alert.action} | alert.labels

    result = amtool(
        "config", "routes", "test", f"--config.file={config}", f"--verify.receivers={receiver}", *(f"{k}={v}" for k, v in labels.items())
    )

    assert result.returncode == 0, result.stdout + result.stderr


def test_an_alert_without_an_action_pages(config: Path):
    """A label that someone forgot must not make an alert vanish."""
    result = amtool("config", "routes", "test", f"--config.file={config}", "--verify.receivers=page", "alertname=New")

    assert result.returncode == 0, result.stdout + result.stderr


def test_amlint_finds_nothing_wrong(config: Path):
    result = subprocess.run(
        [str(Path(sys.executable).with_name("amlint")), "check", str(config)], capture_output=True, text=True, timeout=60
    )

    assert result.returncode == 0, result.stdout + result.stderr
