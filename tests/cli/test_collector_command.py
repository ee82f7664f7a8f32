"""`isomon collector`: a real server, over TLS, with clients that must show a certificate; what it refuses to start with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isolation_monitor.collector.storage.schema import migrate
from isolation_monitor.telemetry.collector_address import CollectorAddress
from isolation_monitor.telemetry.errors import SettingsError
from isolation_monitor.telemetry.settings import load_settings
from tests.cli.test_violations import isomon
from tests.real_parts.certificates import Authority
from tests.real_parts.processes import eventually, free_port

TOKENS = {"COLLECTOR_SEND_TOKEN": "token-that-sends", "COLLECTOR_READ_TOKEN": "token-that-reads"}
BATCH = {"schema": "records/1", "service": "chat", "instance": "i", "sent_at": "2026-01-01T00:00:00Z", "records": []}


@contextlib.contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run `isomon collector` until the block ends; give its port."""
    url = f"sqlite:///{folder / 'collector.sqlite3'}"
    asyncio.run(migrate(url))
    port = free_port()
    command = [sys.executable, "-m", "isolation_monitor.cli.main", "collector", "--port", str(port), *options]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COLLECTOR_")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment | TOKENS | {"COLLECTOR_DATABASE_URL": url})
    try:

        def is_up() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            return b"Uvicorn running" in (folder / "log").read_bytes()

        eventually(is_up, "the collector serves")
        yield port, process
    finally:
        process.terminate()
        process.wait(60)


def status(address: CollectorAddress) -> int:
    """Send a batch as the services do, and return the answer's status."""
    with contextlib.closing(address.connect(20.0)) as connection:
        address.request(connection, "POST", "/v1/records", {"Content-Type": "application/json"}, json.dumps(BATCH).encode())
        return connection.getresponse().status


def test_certificates_are_verified_and_asked_for(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    certificate, key = ours.certificate("server")
    client_certificate, client_key = ours.certificate("client")
    client = tmp_path / "client.pem"
    client.write_bytes(client_certificate.read_bytes() + client_key.read_bytes())
    options = ("--tls-cert", str(certificate), "--tls-key", str(key), "--client-ca", str(ours.file))

    with served(tmp_path, *options) as (port, _process):
        url, token = f"https://127.0.0.1:{port}", TOKENS["COLLECTOR_SEND_TOKEN"]

        assert status(CollectorAddress(url, token, str(ours.file), str(client))) == 200
        for ca_file in (None, str(theirs.file)):
            with pytest.raises(ssl.SSLCertVerificationError):
                status(CollectorAddress(url, token, ca_file, str(client)))
        # The other name of this machine is not in the certificate.
        with pytest.raises(ssl.SSLCertVerificationError):
            status(CollectorAddress(f"https://localhost:{port}", token, str(ours.file), str(client)))
        with pytest.raises((ssl.SSLError, OSError)):
            status(CollectorAddress(url, token, str(ours.file)))


def test_certificates_may_be_replaced_while_it_serves(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    certificate, key = ours.certificate("server")
    trusted = tmp_path / "trusted.pem"
    shutil.copy(ours.file, trusted)

    with served(tmp_path, "--tls-cert", str(certificate), "--tls-key", str(key)) as (port, _process):
        address = CollectorAddress(f"https://127.0.0.1:{port}", TOKENS["COLLECTOR_SEND_TOKEN"], str(trusted))
        assert status(address) == 200
        # The certificate comes first, and its key a moment later: what does not fit together is not served.
        mine = certificate.read_bytes(), key.read_bytes()
        their_certificate, their_key = theirs.certificate("other")
        certificate.write_bytes(their_certificate.read_bytes())
        assert status(address) == 200
        assert status(address) == 200
        key.write_bytes(their_key.read_bytes())

        with pytest.raises(ssl.SSLCertVerificationError):
            status(address)

        shutil.copy(theirs.file, trusted)
        assert status(address) == 200
        certificate.write_bytes(mine[0])
        key.write_bytes(mine[1])
        with pytest.raises(ssl.SSLCertVerificationError):
            status(address)


def test_commands_reach_a_collector_that_has_and_asks_for_certificates_of_ones_own(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    certificate, key = ours.certificate("server")
    client = ours.in_one_file("client")
    options = ("--tls-cert", str(certificate), "--tls-key", str(key), "--client-ca", str(ours.file))

    def violations(url: str, **files: Path) -> subprocess.CompletedProcess[str]:
        named = {f"ISOMON_COLLECTOR_{name.upper()}_FILE": str(file) for name, file in files.items()}
        environment = {**os.environ, "ISOMON_TOKEN": TOKENS["COLLECTOR_READ_TOKEN"], **named}
        command = [sys.executable, "-m", "isolation_monitor.cli.main", "violations", "--collector", url, "--json"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    with served(tmp_path, *options) as (port, _process):
        url = f"https://127.0.0.1:{port}"

        reached = violations(url, ca=ours.file, client_cert=client)
        untrusted = violations(url, ca=theirs.file, client_cert=client)
        refused = violations(url, ca=ours.file)
        unusable = violations(url, ca=ours.file, client_cert=ours.file)

    assert (reached.returncode, "items" in json.loads(reached.stdout)) == (0, True), reached.stderr
    assert untrusted.returncode != 0
    assert "its certificate is not trusted" in untrusted.stderr
    assert "ISOMON_COLLECTOR_CA_FILE" in untrusted.stderr
    assert refused.returncode != 0
    assert "certificate" in refused.stderr
    assert (unusable.returncode, "ISOMON_COLLECTOR_CLIENT_CERT_FILE" in unusable.stderr) == (2, True)


def test_it_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with served(tmp_path) as (port, process):
        assert status(CollectorAddress(f"http://127.0.0.1:{port}", TOKENS["COLLECTOR_SEND_TOKEN"])) == 200

        process.send_signal(signal.SIGTERM)

        assert process.wait(60) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--host", "0.0.0.0"], "--plain-http"),
        (["--host", "collector.example.com"], "--plain-http"),
        (["--tls-cert", "/nonexistent/crt"], "belong together"),
        (["--tls-cert", "/nonexistent/crt", "--tls-key", "/nonexistent/key"], "is no file"),
        (["--client-ca", "/nonexistent/crt"], "--tls-cert"),
        (["--log-level", "loud"], "loud"),
        (["--host", "0.0.0.0", "--plain-http"], "no token to ingest"),
        ([], "no token to ingest"),
    ],
)
def test_it_refuses_to_start_and_says_why(options: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open to others without TLS, and anywhere without keys."""
    for name in TOKENS:
        monkeypatch.delenv(name, raising=False)

    done = isomon("collector", *options)

    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


class TestTheServicesSide:
    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:8400", "http://[::1]:8400", "http://localhost:8400", "https://collector.example.com"]
    )
    def test_plain_http_goes_to_this_machine_and_tls_anywhere(self, url: str) -> None:
        assert load_settings({"collector_url": url}, environ={}).collector_url == url

    @pytest.mark.parametrize(
        "url", ["http://collector:8400", "http://10.0.0.1:8400", "http://127.0.0.1.example.com", "http://localhost.example.com"]
    )
    def test_plain_http_to_others_stops_the_start_unless_said_so(self, url: str) -> None:
        with pytest.raises(SettingsError, match="ISOLATION_COLLECTOR_PLAIN_HTTP=anywhere"):
            load_settings({"collector_url": url}, environ={})

        assert load_settings({"collector_url": url}, environ={"ISOLATION_COLLECTOR_PLAIN_HTTP": "anywhere"}).collector_url == url

    def test_another_word_is_refused(self) -> None:
        with pytest.raises(SettingsError, match="loopback, anywhere"):
            load_settings({"collector_plain_http": "yes"}, environ={})
