"""How commands reach Prometheus: its certificate, ours, and a token, from the same variables for every command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2

from isolation_monitor.cli.collector_client import certificates_of, file_of, read_token
from isolation_monitor.collector.outbound import why_unreachable
from isolation_monitor.telemetry.certificates import CertificateFiles

CA_FILE_ENV: Final = "ISOMON_PROMETHEUS_CA_FILE"
"""Certificates (PEM) that Prometheus's must be signed by; unset: those that the system trusts."""
CLIENT_CERT_FILE_ENV: Final = "ISOMON_PROMETHEUS_CLIENT_CERT_FILE"
"""Certificate and key (PEM, both in one file) for a Prometheus that asks for one."""
PROMETHEUS_TOKEN_FILE_ENV: Final = "ISOMON_PROMETHEUS_TOKEN_FILE"
"""File with a bearer token for Prometheus, or for the proxy before it."""


@dataclass(frozen=True, slots=True)
class PrometheusAccess:
    """Whom to trust as Prometheus, and who we are to it. `tls` None: what the system trusts, without a certificate of ours."""

    tls: CertificateFiles | None = None
    token: str | None = None

    @classmethod
    def of(cls, ca_file: Path | None, client_cert_file: Path | None, token_file: Path | None) -> PrometheusAccess:
        """Return the access by these files.

        Raises:
            UsageError: a file cannot be used; the text says which.
        """
        tls = certificates_of(ca_file, client_cert_file, (CA_FILE_ENV, CLIENT_CERT_FILE_ENV))
        return cls(tls, None if token_file is None else read_token(token_file, PROMETHEUS_TOKEN_FILE_ENV))

    @classmethod
    def from_env(cls) -> PrometheusAccess:
        """Return the access by the variables of the environment. Raises what `of` raises."""
        return cls.of(file_of(CA_FILE_ENV), file_of(CLIENT_CERT_FILE_ENV), file_of(PROMETHEUS_TOKEN_FILE_ENV))

    def client(self, timeout_s: float, base_url: str = "") -> httpx2.Client:
        """Return a client that asks Prometheus and follows no proxy of the environment; close it."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx2.Client(
            base_url=base_url, headers=headers, timeout=timeout_s, trust_env=False, verify=True if self.tls is None else self.tls.context()
        )


def why_unanswered(error: Exception, url: str) -> str:
    """Return in words why Prometheus did not answer, and what to set where its certificate or ours is the reason."""
    why = why_unreachable(error, url)
    if "certificate" in why:
        return f"{why}: see {CA_FILE_ENV} and {CLIENT_CERT_FILE_ENV}"
    return f"{type(error).__name__} {error}".rstrip()
