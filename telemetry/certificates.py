"""Certificates by which this process and the other side know each other: services and the collector, the collector and Prometheus."""

from __future__ import annotations

import logging
import ssl

from isolation_monitor.telemetry.file_stamps import stamp_of

logger = logging.getLogger("isolation_monitor")


class CertificateFiles:
    """Whom to trust and who we are, by files that are replaced while the process runs, as short-lived certificates are."""

    def __init__(self, ca_file: str | None, client_cert_file: str | None) -> None:
        """Raises what `tls_context` raises."""
        self._names = ca_file, client_cert_file
        self._files = [name for name in self._names if name is not None]
        # Looked at before they are read: what is written meanwhile is read next time.
        self._stamps = [stamp_of(file) for file in self._files]
        self._context = tls_context(*self._names)

    def context(self) -> ssl.SSLContext:
        """Return the context for the next connection: another one since the files were changed and can be used."""
        stamps = [stamp_of(file) for file in self._files]
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._context = tls_context(*self._names)
            except OSError as error:
                logger.error(
                    "%s cannot be used as they are now (%s): the former certificates stay in use", " and ".join(self._files), error
                )
        return self._context


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


def follow_server_certificate(context: ssl.SSLContext, cert_file: str, key_file: str, client_ca: str | None = None) -> None:
    """Let a server show the certificate, and trust the clients, that its files name at the time of each handshake."""
    files = [file for file in (cert_file, key_file, client_ca) if file is not None]
    stamps = [stamp_of(file) for file in files]
    shown = context

    def at_handshake(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        nonlocal stamps, shown
        now = [stamp_of(file) for file in files]
        if now != stamps:
            stamps = now
            try:
                # A whole new one: a context keeps a certificate of each kind of key, and one whose key does not fit without any.
                fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                fresh.load_cert_chain(cert_file, key_file, password="")
                if client_ca is not None:
                    fresh.load_verify_locations(client_ca)
                fresh.verify_mode = context.verify_mode
                shown = fresh
            except OSError as error:
                logger.error("%s cannot be used as they are now (%s): the former certificates stay in use", " and ".join(files), error)
        if shown is not context:
            connection.context = shown

    # Called at each handshake, whether the client names the server or not.
    context.sni_callback = at_handshake


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
