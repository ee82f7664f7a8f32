"""`isomon collector`: serve the collector. Its settings are `COLLECTOR_*` variables; the options here are the server's."""

from __future__ import annotations

import contextlib
import ssl
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import uvicorn

from isolation_monitor.collector.app import create_app
from isolation_monitor.collector.http_head import BoundedHead
from isolation_monitor.collector.settings import SettingsError, load_settings
from isolation_monitor.telemetry.certificates import follow_server_certificate
from isolation_monitor.telemetry.settings import is_loopback

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

EPILOG = """Exit codes: 0 it was told to end and did, 1 it could not serve, 2 a setting or an option cannot be used.

Examples:

  isomon token new --scope ingest --file keys.json

  COLLECTOR_KEYS_FILE=keys.json isomon collector

  isomon collector --host 0.0.0.0 --tls-cert tls.crt --tls-key tls.key

  isomon collector --host 0.0.0.0 --tls-cert tls.crt --tls-key tls.key --client-ca clients.crt

  isomon collector --host 0.0.0.0 --plain-http          behind a proxy that speaks TLS, or in a network of containers
"""


def collector(
    host: Annotated[str, typer.Option(help="Address to listen on; the default is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")] = 8400,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate of this server (PEM, its chain included).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    client_ca: Annotated[Path | None, typer.Option(help="Let in only clients with a certificate signed by one of these (PEM).")] = None,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="Serve other machines without TLS: something before it has it.")] = False,
    graceful_s: Annotated[int, typer.Option(min=1, max=3600, help="How long requests may take to end when told to stop, seconds.")] = 10,
    log_level: Annotated[str, typer.Option(help="critical, error, warning, info or debug.")] = "info",
) -> None:
    """Serve the collector until it is told to end. Without keys it does not start, and other machines are served over TLS."""
    if (tls_cert is None) is not (tls_key is None):
        _refuse("--tls-cert and --tls-key belong together: give both")
    if client_ca is not None and tls_cert is None:
        _refuse("--client-ca asks clients for certificates, which needs --tls-cert and --tls-key")
    for option, path in (("--tls-cert", tls_cert), ("--tls-key", tls_key), ("--client-ca", client_ca)):
        if path is not None and not path.is_file():
            _refuse(f"{option} {path} is no file")
    if log_level not in uvicorn.config.LOG_LEVELS:
        _refuse(f"--log-level {log_level!r} is none: use one of {', '.join(uvicorn.config.LOG_LEVELS)}")
    if tls_cert is None and not is_loopback(host) and not plain_http:
        _refuse(
            f"--host {host} is open to other machines, and without TLS tokens and evidence could be read on the way: give --tls-cert and "
            "--tls-key, or say --plain-http where something before it speaks TLS"
        )
    try:
        app = create_app(load_settings())
    except SettingsError as error:
        _refuse(str(error))
    options: dict[str, Any] = {"http": BoundedHead}  # Any: options of uvicorn
    if tls_cert is not None:
        options |= {"ssl_certfile": tls_cert, "ssl_keyfile": tls_key}
    if client_ca is not None:
        options |= {"ssl_ca_certs": str(client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    try:
        config = uvicorn.Config(
            app, host=host, port=port, log_level=log_level, timeout_graceful_shutdown=graceful_s, server_header=False, **options
        )
        config.load()
        if config.ssl is not None:
            follow_server_certificate(config.ssl, str(tls_cert), str(tls_key), None if client_ca is None else str(client_ca))
        server = uvicorn.Server(config)
        # Told to end by Ctrl-C, it did, and raises afterwards.
        with contextlib.suppress(KeyboardInterrupt):
            server.run()
    except (OSError, ssl.SSLError) as error:
        print(f"isomon collector: it cannot serve: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_FAILED) from None
    if not server.started:
        raise typer.Exit(EXIT_FAILED)


def _refuse(text: str) -> Any:
    print(f"isomon collector: {text}", file=sys.stderr)
    raise typer.Exit(EXIT_USAGE)
