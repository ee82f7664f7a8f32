"""The collector as this process reaches it: its address, the token, and a connection of the standard library's client."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from urllib.parse import urlsplit


class CollectorAddress:
    """Where the collector is; also where nobody has said so, and `is_given` is False."""

    def __init__(self, url: str | None, token: str | None) -> None:
        self.is_given = bool(url)
        self._url = urlsplit(url or "")
        self._authorization = {"Authorization": f"Bearer {token}"} if token else {}

    def connect(self, timeout_s: float) -> http.client.HTTPConnection:
        """Return a connection, which opens with its first request.

        Raises:
            OSError: the address names no host.
        """
        url = self._url
        if url.hostname is None:
            raise OSError("no collector")
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        return kind(url.hostname, url.port, timeout=timeout_s)

    def request(
        self, connection: http.client.HTTPConnection, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> None:
        """Send a request on a connection, below the path that the address has and with the token."""
        connection.request(method, self._url.path.rstrip("/") + path, body, {**headers, **self._authorization})
