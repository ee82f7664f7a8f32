"""Settings: precedence, and errors that say what was found, where, and what to write instead."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from isolation_monitor.telemetry.errors import SettingsError
from isolation_monitor.telemetry.settings import Settings, load_settings

HTTPS = {"ISOLATION_COLLECTOR_URL": "https://collector.example.com"}


def test_argument_beats_environment_beats_pyproject_beats_default(tmp_path: Path) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text('[tool.isolation]\nservice = "from-file"\nleak_grace_s = 3\nsettle_s = 4\n')
    environ = {"ISOLATION_SERVICE": "from-env", "ISOLATION_LEAK_GRACE_S": "2"}

    settings = load_settings({"service": "from-code"}, environ=environ, pyproject=pyproject)

    assert (settings.service, settings.leak_grace_s, settings.settle_s, settings.queue_limit) == ("from-code", 2.0, 4.0, 10_000)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"ISOLATION_LEAK_GRACE_S": "12%"}, "ISOLATION_LEAK_GRACE_S='12%' is not a number"),
        ({"ISOLATION_QUEUE_LIMIT": "many"}, "is not a whole number"),
        ({"ISOLATION_QUEUE_LIMIT": "-1"}, "out of range"),
        ({"ISOLATION_SETTLE_S": "nan"}, "out of range"),
        ({"ISOLATION_MODE": "loud"}, "use one of off, monitor, block"),
        ({"ISOLATION_COLLECTOR_URL": "collector:8400"}, "is not a URL"),
        ({"ISOLATION_SPOOL_SYNC": "all"}, "is no grade: use one of hygiene, reachable, crossed"),
        ({"ISOLATION_SERVICE": " "}, "is empty"),
        ({"ISOLATION_READYZ_PATH": "readyz"}, "readyz_path='readyz' is no path"),
        ({"ISOLATION_READYZ_PATH": "/livez"}, "readyz_path='/livez' is livez_path as well"),
        ({"ISOLATION_HEALTH_PORT": "80801"}, "health_port=80801 is no port"),
        ({"ISOLATION_HEALTH_PORT": "9000", "ISOLATION_METRICS_PORT": "9000"}, "health_port=9000 is metrics_port as well"),
        ({"ISOLATION_CLEANUP_LIMIT_S": "0"}, "cleanup_limit_s=0 leaves no time at all"),
        ({"ISOLATION_REMEMBERED_LIMIT": "10"}, "REMEMBERED_LIMIT='10' would forget what is in use: use 1000 or more"),
        ({"ISOLATION_SERVICE": "x" * 101}, "has 101 characters, a collector takes 100"),
        (HTTPS | {"ISOLATION_COLLECTOR_CA_FILE": "/does/not/exist"}, "collector_ca_file='/does/not/exist' cannot be used"),
        (HTTPS | {"ISOLATION_COLLECTOR_CA_FILE": __file__}, "name a readable file with certificates in PEM"),
        (HTTPS | {"ISOLATION_COLLECTOR_CLIENT_CERT_FILE": __file__}, "collector_client_cert_file=.*a certificate and its key in PEM"),
        ({"ISOLATION_HASH_KEY_FILE": "/does/not/exist"}, "cannot be read"),
    ],
)
def test_a_wrong_value_fails_at_start_with_name_value_and_remedy(environ: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=says.replace("(", r"\(")):
        load_settings(environ=environ, pyproject=tmp_path / "none")


def test_files_of_certificates_are_read_where_they_are_used_alone(tmp_path: Path) -> None:
    """One environment for all services: those that reach their collector over the loopback need none of it."""
    environ = {"ISOLATION_COLLECTOR_URL": "http://127.0.0.1:8400", "ISOLATION_COLLECTOR_CA_FILE": "/does/not/exist"}

    assert load_settings(environ=environ, pyproject=tmp_path / "none").collector_ca_file == "/does/not/exist"


def test_unknown_settings_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown setting 'servce': known settings are"):
        load_settings({"servce": "chat"}, environ={}, pyproject=tmp_path / "none")


def test_secrets_come_from_files_and_never_show_in_errors(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")

    settings = load_settings(environ={"ISOLATION_COLLECTOR_TOKEN_FILE": str(secret)}, pyproject=tmp_path / "none")

    assert settings.collector_token == "s3cret"
    with pytest.raises(SettingsError) as caught:
        load_settings({"hash_key": 5}, environ={}, pyproject=tmp_path / "none")
    assert "(secret)" in str(caught.value)


def test_the_common_names_of_opentelemetry_are_honoured(tmp_path: Path) -> None:
    settings = load_settings(environ={"OTEL_SERVICE_NAME": "chat", "OTEL_SDK_DISABLED": "true"}, pyproject=tmp_path / "none")

    assert (settings.service, settings.mode) == ("chat", "off")


def test_every_setting_says_what_it_is() -> None:
    assert [f.name for f in fields(Settings) if not f.metadata.get("doc")] == []
