"""Certificates by which this process and the other side know each other: services and the collector, the collector and Prometheus."""

from __future__ import annotations

import ssl


def tls_context(ca_file: str | None, client_cert_file: str | None) -> ssl.SSLContext:
    """Return a context that verifies the other side's certificate and its name.

    Raises:
        OSError: a file cannot be read, or holds no certificates; of the second one also: no key that belongs to it.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if client_cert_file is not None:
        # Without an answer of our own OpenSSL would ask for a passphrase on the terminal.
        context.load_cert_chain(client_cert_file, password="")
    return context


def certificate_trouble(error: BaseException) -> str | None:
    """Return in words why certificates kept a connection from being made; None where it failed for another reason."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if isinstance(found, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({found.verify_message})"
        if isinstance(found, ssl.SSLError):
            # The other side's answer to ours comes as an alert, such as `tlsv13 alert certificate required`.
            reason = (found.reason or "TLS failed").lower().replace("_", " ")
            is_ours = "certificate" in reason or "unknown ca" in reason
            return f"it accepts no certificate of ours ({reason})" if is_ours else f"TLS was not agreed on ({reason})"
        found = found.__cause__ or found.__context__
    return None
