"""Queries to a real Prometheus over TLS that asks for a certificate: by the collector, and by the commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from isolation_monitor.collector.clock import utc_now
from isolation_monitor.collector.gates.prometheus import PrometheusSource, SourceUnavailable
from isolation_monitor.collector.settings import CollectorSettings, SettingsError, load_settings
from isolation_monitor.telemetry.certificates import tls_context
from tests.real_parts.certificates import Authority
from tests.real_parts.processes import binary, free_port, running


@dataclass(frozen=True)
class Secured:
    """A Prometheus that shows a certificate of `ours` and lets in who has one, too; `theirs` signs for nobody here."""

    url: str
    ours: Authority
    theirs: Authority
    client: Path


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
    certificate, key = ours.certificate("server")
    client = ours.in_one_file("client")
    tls = {"cert_file": str(certificate), "key_file": str(key), "client_auth_type": "RequireAndVerifyClientCert"}
    (folder / "web.yml").write_text(yaml.safe_dump({"tls_server_config": tls | {"client_ca_file": str(ours.file)}}))
    (folder / "prometheus.yml").write_text("{}")
    url = f"https://127.0.0.1:{free_port()}"
    command = [
        *(binary("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
        *(f"--web.listen-address={url.removeprefix('https://')}", f"--web.config.file={folder / 'web.yml'}", "--log.level=warn"),
    ]
    with running(command, folder / "log", f"{url}/-/ready", tls=tls_context(str(ours.file), str(client))):
        yield Secured(url, ours, theirs, client)


async def asked(settings: CollectorSettings) -> float | None:
    """Ask as the collector does with these settings."""
    source = PrometheusSource(str(settings.prometheus_url), timeout_s=20.0, tls=settings.prometheus_tls())
    try:
        return (await source.read({"two": "vector(2)"}, utc_now()))["two"]
    finally:
        await source.close()


def settings_of(url: str, ca_file: Path | None, client: Path | None) -> CollectorSettings:
    return load_settings(send_token="s", read_token="r", prometheus_url=url, prometheus_ca_file=ca_file, prometheus_client_cert_file=client)


async def test_the_collector_asks_with_its_own_authority_and_certificate(secured: Secured) -> None:
    assert await asked(settings_of(secured.url, secured.ours.file, secured.client)) == 2.0


async def test_certificates_may_be_replaced_while_the_collector_runs(secured: Secured, tmp_path: Path) -> None:
    ca_file, client = tmp_path / "ca.pem", tmp_path / "client.pem"
    shutil.copy(secured.theirs.file, ca_file)
    shutil.copy(secured.theirs.in_one_file("stranger"), client)
    source = PrometheusSource(secured.url, timeout_s=20.0, tls=settings_of(secured.url, ca_file, client).prometheus_tls())
    try:
        with pytest.raises(SourceUnavailable, match="not trusted"):
            await source.read({"two": "vector(2)"}, utc_now())
        shutil.copy(secured.ours.file, ca_file)
        with pytest.raises(SourceUnavailable, match="accepts no certificate of ours"):
            await source.read({"two": "vector(2)"}, utc_now())
        shutil.copy(secured.client, client)

        assert (await source.read({"two": "vector(2)"}, utc_now()))["two"] == 2.0

        # Half of a file, while it is being written: the former certificates serve on.
        client.write_text("-----BEGIN CERTIFICATE-----")
        assert (await source.read({"two": "vector(2)"}, utc_now()))["two"] == 2.0
    finally:
        await source.close()


@pytest.mark.parametrize("trusts", ["the system", "another authority"])
async def test_a_certificate_of_prometheus_that_is_not_trusted_is_named(secured: Secured, trusts: str) -> None:
    settings = settings_of(secured.url, None if trusts == "the system" else secured.theirs.file, secured.client)

    with pytest.raises(SourceUnavailable, match="Prometheus cannot be reached: its certificate is not trusted"):
        await asked(settings)


@pytest.mark.parametrize("shows", ["none", "one of another authority"])
async def test_a_certificate_of_ours_that_prometheus_refuses_is_named(secured: Secured, shows: str) -> None:
    client = None if shows == "none" else secured.theirs.in_one_file("stranger")

    with pytest.raises(SourceUnavailable, match=r"Prometheus cannot be reached: it .*accepts no certificate of ours"):
        await asked(settings_of(secured.url, secured.ours.file, client))


@pytest.mark.parametrize("setting", ["prometheus_ca_file", "prometheus_client_cert_file"])
def test_a_file_without_certificates_is_an_error_at_start(setting: str) -> None:
    given = {setting: Path(__file__)}

    with pytest.raises(SettingsError, match=f"COLLECTOR_{setting.upper()}=.*cannot be used.*name a readable file"):
        load_settings(send_token="s", read_token="r", **given)


def isomon(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "isolation_monitor.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment})


def test_commands_ask_by_the_same_three_variables(secured: Secured) -> None:
    """An empty Prometheus has no budgets; that it says so means that it was asked."""
    ours = {"ISOMON_PROMETHEUS_CA_FILE": str(secured.ours.file), "ISOMON_PROMETHEUS_CLIENT_CERT_FILE": str(secured.client)}
    slo = ("slo", "show", "--prometheus", secured.url)
    backtest = ("gate", "backtest", "--prometheus", secured.url, "--service", "chat", "--rollout", "r", "--last", "10m")

    assert "Prometheus has no numbers of these objectives" in isomon(*slo, **ours).stderr
    assert "Prometheus has no request of rollout r" in isomon(*backtest, **ours).stderr
    refused = isomon(*slo, **ours | {"ISOMON_PROMETHEUS_CA_FILE": str(secured.theirs.file)})
    assert (refused.returncode, "its certificate is not trusted" in refused.stderr) == (2, True)
    assert "ISOMON_PROMETHEUS_CA_FILE" in refused.stderr
    unusable = isomon(*slo, **ours | {"ISOMON_PROMETHEUS_CA_FILE": __file__})
    assert (unusable.returncode, "name a readable file with certificates to trust" in unusable.stderr) == (2, True)


def test_a_drill_asks_prometheus_by_the_same_variables(secured: Secured, tmp_path: Path) -> None:
    """That it complains of the collector, which is away, means that Prometheus answered."""
    ours = {"ISOMON_PROMETHEUS_CA_FILE": str(secured.ours.file), "ISOMON_PROMETHEUS_CLIENT_CERT_FILE": str(secured.client)}
    away = ("--collector", f"http://127.0.0.1:{free_port()}", "--folder", str(tmp_path))
    drill = ("drill", "--service", "shop", "--prometheus", secured.url, *away)

    reached = isomon(*drill, ISOMON_TOKEN="t", **ours)
    refused = isomon(*drill, ISOMON_TOKEN="t", **ours | {"ISOMON_PROMETHEUS_CA_FILE": str(secured.theirs.file)})

    assert (reached.returncode, "the collector cannot be reached" in reached.stderr) == (2, True), reached.stderr
    assert (refused.returncode, "its certificate is not trusted" in refused.stderr) == (2, True), refused.stderr
    assert list(tmp_path.iterdir()) == []
