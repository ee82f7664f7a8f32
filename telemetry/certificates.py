"""Certificates by which this process and the collector know each other."""

from __future__ import annotations

import ssl


def tls_context(ca_file: str | None, client_cert_file: str | None) -> ssl.SSLContext:
    """Return a context that verifies the collector's certificate and its name.

    Raises:
        OSError: a file cannot be read, or holds no certificates; of the second one also: no key that belongs to it.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if client_cert_file is not None:
        # Without an answer of our own OpenSSL would ask for a passphrase on the terminal.
        context.load_cert_chain(client_cert_file, password="")
    return context
