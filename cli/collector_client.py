"""Talks to the collector for the commands that need it: address, token, errors in plain words."""

from __future__ import annotations

import gzip
import json
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx2

from isolation_monitor.collector.outbound import why_unreachable
from isolation_monitor.telemetry.certificates import CertificateFiles

DEFAULT_URL: Final = "http://127.0.0.1:8400"
URL_ENV: Final = "ISOMON_COLLECTOR"
TOKEN_ENV: Final = "ISOMON_TOKEN"
TOKEN_FILE_ENV: Final = "ISOMON_TOKEN_FILE"
CA_FILE_ENV: Final = "ISOMON_COLLECTOR_CA_FILE"
"""Certificates (PEM) that the collector's must be signed by; unset: those that the system trusts."""
CLIENT_CERT_FILE_ENV: Final = "ISOMON_COLLECTOR_CLIENT_CERT_FILE"
"""Certificate and key (PEM, both in one file) for a collector that asks for one (`isomon collector --client-ca`)."""
_TIMEOUT_S: Final = 10.0

_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


class UsageError(Exception):
    """The caller has to change something before another try makes sense; commands leave with 2."""


class TooLargeToTake(UsageError):
    """The collector takes no body of this size."""


class NotTaken(UsageError):
    """The collector does not take what was sent (400, 422); something else it may."""


class NoAnswer(Exception):
    """The collector gave no answer this time; another try may get one."""


class NotACollector(NoAnswer):
    """Something else answers 200 at this address, such as a login page or a proxy: it must never read as an answer."""

    def __init__(self, what: str = "a collector") -> None:
        super().__init__(f"the address answers, but not as {what}")


def seconds(text: str) -> float:
    """Return a duration such as `90s`, `5m`, `1h`, `500ms` or `90` in seconds.

    Raises:
        UsageError: the text is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", text.strip())
    if found is None:
        raise UsageError(f"{text!r} is not a duration: write 90s, 5m or 1h")
    return float(found[1]) * _UNITS_S[found[2]]


def ago(text: str | None) -> str | None:
    """Return the moment so long before now, such as `24h`, as the collector's `since` and `until` take it; None for None.

    Raises:
        UsageError: the text is no duration.
    """
    return None if text is None else (datetime.now(UTC) - timedelta(seconds=seconds(text))).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def read_token(token_file: Path | None, option: str = "--token-file") -> str:
    """Return the token of `token_file`, which `option` names, or of $ISOMON_TOKEN. A file may hold several; the first is used.

    Raises:
        UsageError: there is no token, or the file cannot be read.
    """
    if token_file is None:
        text = os.environ.get(TOKEN_ENV, "")
        if not text.strip():
            raise UsageError(f"no token: pass {option}, or set {TOKEN_FILE_ENV} or {TOKEN_ENV}")
    else:
        try:
            text = token_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{option} {token_file}: cannot be read ({type(error).__name__})") from None
        if not text.strip():
            raise UsageError(f"{option} {token_file}: is empty")
    return re.split(r"[\s,]+", text.strip())[0]


def file_of(variable: str) -> Path | None:
    """Return the file that a variable of the environment names."""
    value = os.environ.get(variable)
    return Path(value) if value else None


def certificates_of(ca_file: Path | None, client_cert_file: Path | None, variables: tuple[str, str]) -> CertificateFiles | None:
    """Return whom to trust and who we are, by two files that `variables` name for people; None without files.

    Raises:
        UsageError: a file cannot be used; the text says which.
    """
    trusted = None if ca_file is None else str(ca_file)
    found = None
    for variable, wanted, file, own in (
        (variables[0], "certificates to trust", ca_file, None),
        (variables[1], "a certificate and its key", client_cert_file, str(client_cert_file)),
    ):
        if file is not None:
            try:
                found = CertificateFiles(trusted, own)
            except OSError as error:
                raise UsageError(
                    f"{variable}: {str(file)!r} cannot be used ({error}): name a readable file with {wanted}, in PEM"
                ) from None
    return found


class CollectorClient:
    """A connection to one collector; use it as a context manager."""

    def __init__(self, url: str, token: str, timeout_s: float = _TIMEOUT_S) -> None:
        """Raises UsageError when `url` is no http address, or a file of certificates cannot be used."""
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--collector {url!r} is not an http:// or https:// address")
        self._url = url
        certificates = certificates_of(file_of(CA_FILE_ENV), file_of(CLIENT_CERT_FILE_ENV), (CA_FILE_ENV, CLIENT_CERT_FILE_ENV))
        self._client = httpx2.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout_s,
            trust_env=False,
            verify=True if certificates is None else certificates.context(),
        )

    def __enter__(self) -> CollectorClient:
        return self

    def __exit__(self, *_error: object) -> None:
        self._client.close()

    def request(self, method: str, path: str, body: dict[str, Any] | None = None, *, is_large: bool = False) -> dict[str, Any]:  # Any: JSON
        """Return the JSON object of a 2xx answer. A large body is sent compressed.

        Raises:
            UsageError: the request itself is at fault (wrong token, unknown name, conflict).
            NoAnswer: the collector is away, in trouble, or something else answers at its address.
        """
        try:
            if is_large:
                content = gzip.compress(json.dumps(body, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace"))
                headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
                answer = self._client.request(method, path, content=content, headers=headers)
            else:
                answer = self._client.request(method, path, json=body)
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            why = why_unreachable(error, self._url)
            hint = f": see {CA_FILE_ENV} and {CLIENT_CERT_FILE_ENV}" if "certificate" in why else ""
            raise NoAnswer(f"the collector cannot be reached ({why}){hint}") from None
        try:
            value = answer.json()
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise NoAnswer(f"no collector answers at this address: {answer.status_code} and no JSON object")
        if answer.is_success:
            return value
        detail = str(value.get("detail", "no reason given"))
        if answer.status_code == 413:
            raise TooLargeToTake(detail)
        if answer.status_code in (400, 422):
            raise NotTaken(detail)
        if answer.status_code in (401, 403, 404, 405, 409, 415):
            raise UsageError(detail)
        raise NoAnswer(f"the collector answered {answer.status_code}: {detail}")
