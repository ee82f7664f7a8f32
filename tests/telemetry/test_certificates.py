"""Why certificates kept a connection from being made, in words."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from isolation_monitor.telemetry.certificates import certificate_trouble, tls_context
from tests.real_parts.certificates import Authority


def shaken(client: ssl.SSLContext, server: ssl.SSLContext) -> ssl.SSLError:
    """Let both sides talk in memory until the client's side is refused; return its error."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"), server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(10):
        for side in sides:
            try:
                side.do_handshake()
                side.read(1)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                if side is sides[0]:
                    return error
    raise AssertionError("the client was not refused")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("shows", ["none", "one of another authority"])
def test_a_server_of_openssl_that_refuses_our_certificate_is_told_as_that(shows: str, version: ssl.TLSVersion, tmp_path: Path) -> None:
    """nginx and others answer a stranger's certificate with the alert `unknown ca`, which names no certificate."""
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(ours.in_one_file("server"))
    server.load_verify_locations(ours.file)
    server.verify_mode = ssl.CERT_REQUIRED
    server.maximum_version = version
    client = tls_context(str(ours.file), None if shows == "none" else str(theirs.in_one_file("stranger")))

    trouble = certificate_trouble(shaken(client, server))

    assert trouble is not None
    # Without a certificate TLS 1.2 says nothing more than that the handshake failed.
    assert trouble.startswith("it accepts no certificate of ours") or (shows, version) == ("none", ssl.TLSVersion.TLSv1_2)
