"""The collector as this process reaches it: its address, the token, and a connection of the standard library's client.

Over `https://` the certificate and the name in it are always verified; no redirect is ever followed.
"""

from __future__ import annotations

import codecs
import http.client
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from isolation_monitor.telemetry.certificates import CertificateFiles

if TYPE_CHECKING:
    from isolation_monitor.telemetry.settings import Settings


# Names of hosts are turned into bytes by a codec that is imported at its first use. On a thread of ours, a fork of the host's at
# that moment would leave the import's lock held in the child, whose own connections would then wait for ever.
codecs.lookup("idna")


class CollectorAddress:
    """Where the collector is; also where nobody has said so, and `is_given` is False."""

    def __init__(self, url: str | None, token: str | None, ca_file: str | None = None, client_cert_file: str | None = None) -> None:
        """`ca_file` takes the place of the certificates that the system trusts; `client_cert_file` holds a certificate and its key."""
        self.is_given = bool(url)
        self._url = urlsplit(url or "")
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}
        self._ca_file = ca_file
        self._client_cert_file = client_cert_file
        self._certificates: CertificateFiles | None = None

    @classmethod
    def of(cls, settings: Settings) -> CollectorAddress:
        return cls(settings.collector_url, settings.collector_token, settings.collector_ca_file, settings.collector_client_cert_file)

    def connect(self, timeout_s: float) -> http.client.HTTPConnection:
        """Return a connection, which opens with its first request.

        Raises:
            OSError: the address names no host, or a file of certificates cannot be used.
        """
        url = self._url
        if url.hostname is None:
            raise OSError("no collector")
        if url.scheme != "https":
            return http.client.HTTPConnection(url.hostname, url.port, timeout=timeout_s)
        return http.client.HTTPSConnection(url.hostname, url.port, timeout=timeout_s, context=self._context())

    def _context(self) -> ssl.SSLContext:
        if self._certificates is None:
            self._certificates = CertificateFiles(self._ca_file, self._client_cert_file)
        return self._certificates.context()

    def request(
        self, connection: http.client.HTTPConnection, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> None:
        """Send a request on a connection, below the path that the address has and with the token."""
        connection.request(method, self._url.path.rstrip("/") + path, body, {**headers, **self._authorization})
