"""Settings of the collector, from `COLLECTOR_*` environment variables.

A secret is given as `COLLECTOR_X_TOKEN` or, better, as a file named by `COLLECTOR_X_TOKEN_FILE`. Each may hold several
tokens, separated by commas, blanks or lines: all of them are accepted, so a token can be rotated without a gap.
`COLLECTOR_KEYS_FILE` names a file of keys (`isomon token`), which holds hashes only and may bind keys to services; both
ways go together, and all these files are read again when they change. There is no default token, and none is generated.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from isolation_monitor.collector.docker_addresses import OWNER_LABELS, DockerAddress, DockerAddressError, parse_engines
from isolation_monitor.collector.keys import Key, KeysError, Rates, Scope, digest_of, read_keys
from isolation_monitor.collector.storage.urls import DatabaseUrlError, async_url
from isolation_monitor.telemetry.certificates import CertificateFiles, tls_context

_SETTING_OF_SCOPE: Final[dict[Scope, str]] = {"ingest": "send", "read": "read", "alerts": "alerts", "operate": "operate", "gates": "gates"}


class SettingsError(Exception):
    """The collector cannot start with these settings; the text says which one, what was found and what to write."""


class CollectorSettings(BaseSettings):
    """Everything that can be set. Durations are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(
        env_prefix="COLLECTOR_",
        env_file=None,
        env_ignore_empty=True,
        extra="forbid",
        hide_input_in_errors=True,
        # docs/settings.md is made of them.
        use_attribute_docstrings=True,
    )

    database_url: str = Field(default="sqlite+aiosqlite:///./isolation-monitor.sqlite3", repr=False)
    """SQLite file or PostgreSQL (`postgresql+asyncpg://user@host/name`) that keeps everything; `isomon migrate` brings it to the schema."""
    base_url: str = "http://127.0.0.1:8400"
    """Address under which people open the collector; links in answers start with it."""

    keys_file: Path | None = None
    """File of keys, made by `isomon token new`."""
    send_token: SecretStr | None = None
    """Token of scope `ingest`, for all services."""
    send_token_file: Path | None = None
    """File that holds it; several tokens, one a line, are all accepted."""
    read_token: SecretStr | None = None
    """Token of scope `read`: pages, queries, verdicts, `/metrics`."""
    read_token_file: Path | None = None
    """File that holds it, as above."""
    alerts_token: SecretStr | None = None
    """Token of Alertmanager's webhook; without one, the send token opens that route too."""
    alerts_token_file: Path | None = None
    """File that holds it, as above."""
    operate_token: SecretStr | None = None
    """Token that changes rollouts and has users forgotten; without one, the read token changes rollouts too."""
    operate_token_file: Path | None = None
    """File that holds it, as above."""
    gates_token: SecretStr | None = None
    """Token of rollout tools: it asks for verdicts and reads nothing else. The read token opens those routes too."""
    gates_token_file: Path | None = None
    """File that holds it, as above."""

    rate_requests_per_s: float = Field(default=0.0, ge=0)
    """What one key may ask for in a second, on average; 0: without limit. A key of the file may say otherwise for itself."""
    rate_records_per_s: float = Field(default=0.0, ge=0)
    """The same, in records."""
    rate_bytes_per_s: float = Field(default=0.0, ge=0)
    """The same, in bytes of bodies as they arrive, packed."""
    rate_burst_s: float = Field(default=10.0, gt=0, le=3600)
    """So many seconds' worth may come at once."""

    rollout_interval_s: float = Field(default=5.0, gt=0, le=3600)
    """How often running rollouts are looked at besides; records and alerts are acted on at once."""

    prometheus_url: str | None = Field(default=None, repr=False)
    """Prometheus, or what speaks its API, that gates and pages ask; without one gates see records alone."""
    prometheus_token: SecretStr | None = None
    """Bearer token for it."""
    prometheus_token_file: Path | None = None
    """File that holds it."""
    prometheus_ca_file: Path | None = None
    """Certificates (PEM) that Prometheus's must be signed by. Unset: those that the system trusts."""
    prometheus_client_cert_file: Path | None = None
    """Certificate and private key (PEM, both in one file) for a Prometheus that asks for one. Unset: none."""
    prometheus_tenant: str | None = None
    """Value of `X-Scope-OrgID`, for stores with tenants."""
    prometheus_timeout_s: float = Field(default=3.0, gt=0, le=30)
    """For all queries of one evaluation together: gates' callers give up after 5 s."""
    scrape_stale_after_s: float = Field(default=30.0, gt=0)
    """A newest sample older than this is no look at the service at all."""

    grafana_url: str | None = Field(default=None, repr=False)
    """Grafana that gets a mark for each change of a rollout and each burst of violations; none without it."""
    grafana_token: SecretStr | None = None
    """Token of a service account that may write annotations."""
    grafana_token_file: Path | None = None
    """File that holds it."""
    alertmanager_url: str | None = Field(default=None, repr=False)
    """Alertmanager that pages for violations as soon as their records are stored, and for rollbacks; all members of a cluster, separated
    by commas: each is told. Without it only alerts of Prometheus page."""
    alertmanager_token: SecretStr | None = None
    """Bearer token for it."""
    alertmanager_token_file: Path | None = None
    """File that holds it."""
    alertmanager_labels: str = ""
    """Labels that your Prometheus puts on every alert (`external_labels`, less those it drops), as `cluster=eu,team=web`: with the same
    labels on both ways to Alertmanager a violation is one page."""

    keep_days: int = Field(default=30, ge=1, le=3650)
    """Evidence, alerts and decisions older than so many days are forgotten. Rollouts, their history and failed decisions stay."""
    keep_bytes: int = Field(default=0, ge=0)
    """Size of the evidence from which its oldest days go before their time; 0: only `keep_days` decides. Today's always stays."""
    max_disk_ratio: float = Field(default=0.9, gt=0, le=1)
    """Used share of the disk that holds the SQLite file from which records are answered 503: a full disk cannot even forget."""
    retention_interval_s: float = Field(default=600.0, gt=0, le=86400)
    """How often one replica looks for what has expired."""
    probes_file: Path | None = None
    """YAML file of the endpoints that the leading replica checks (docs/probes.md); none without it."""
    blackbox_url: str | None = Field(default=None, repr=False)
    """Blackbox exporter that checks them instead of the collector, such as `http://blackbox:9115`."""
    probes_at_once: int = Field(default=10, ge=1, le=1000)
    """Checks under way at a time; others wait for their turn."""
    web_session_s: float = Field(default=12 * 3600.0, ge=60, le=30 * 86400)
    """How long somebody who signed in to the pages stays signed in."""
    web_streams: int = Field(default=100, ge=1, le=10_000)
    """Pages that are kept live at a time; one more is shown all the same, and says that it is not live."""

    docker_engines: str | None = Field(default=None, repr=False)
    """Docker engines whose containers are followed: `unix:///var/run/docker.sock`, or several as `NAME=URL` separated by commas."""
    docker_cert_dir: Path | None = None
    """Folder with `ca.pem`, `cert.pem` and `key.pem`, for engines that are reached by TCP."""
    container_interval_s: float = Field(default=10.0, ge=1, le=300)
    """How often all containers are listed and measured; events are taken at once."""
    container_orphan_after_s: float = Field(default=3600.0, ge=0)
    """A stopped container without an owner's label is an orphan after so long."""
    container_owner_labels: str = ",".join(OWNER_LABELS)
    """Labels that name whose a container is; the first one found counts."""
    container_cooldown_s: float = Field(default=0.5, gt=0, le=60)
    """One actor's destructive commands that follow each other faster are a command storm."""

    max_body_bytes: int = Field(default=1024 * 1024, gt=0)
    """Largest body of a request as it arrives, packed. Larger ones are answered 413, and senders halve their batch."""
    max_inflated_bytes: int = Field(default=8 * 1024 * 1024, gt=0)
    """Largest batch once it is unpacked: a small body that inflates to more is refused on the way, with 413."""
    max_records: int = Field(default=1000, gt=0)
    """Most records of one batch; more are answered 413."""
    max_record_bytes: int = Field(default=64 * 1024, gt=0)
    """Largest single record as JSON; a larger one is rejected by name, the others of its batch are taken."""
    body_timeout_s: float = Field(default=15.0, gt=0)
    """A body that takes longer to arrive is refused: slow senders must not hold connections."""
    ingest_bytes: int = Field(default=12 * 1024 * 1024, gt=0)
    """Inflated bytes of batches that may be under way (read, decoded, waiting for their commit); beyond it the answer is 503."""
    store_timeout_s: float = Field(default=5.0, gt=0)
    """Wait for a lock or a connection of the store before answering 503."""

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        try:
            return async_url(value)
        except DatabaseUrlError as error:
            raise ValueError(str(error)) from None

    @field_validator("base_url", "prometheus_url", "grafana_url", "blackbox_url")
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        if value is None or value == "":
            return None
        if not value.startswith(("http://", "https://")):
            raise ValueError("is not an http:// or https:// address")
        return value.rstrip("/")

    @field_validator("alertmanager_url")
    @classmethod
    def _http_urls(cls, value: str | None) -> str | None:
        found = [cls._http_url(part.strip()) for part in (value or "").split(",")]
        return ",".join(url for url in found if url) or None

    @field_validator("alertmanager_labels")
    @classmethod
    def _labels(cls, value: str) -> str:
        _labels_of(value)
        return value

    @model_validator(mode="after")
    def _a_batch_has_room(self) -> CollectorSettings:
        if self.ingest_bytes < self.max_inflated_bytes:
            raise ValueError(
                f"COLLECTOR_INGEST_BYTES={self.ingest_bytes} has no room for one batch of COLLECTOR_MAX_INFLATED_BYTES="
                f"{self.max_inflated_bytes}, which would be refused for ever: make it at least as large"
            )
        return self

    @model_validator(mode="after")
    def _engines_named(self) -> CollectorSettings:
        try:
            self.engines()
        except DockerAddressError as error:
            raise ValueError(f"COLLECTOR_DOCKER_ENGINES: {error}") from None
        return self

    @model_validator(mode="after")
    def _certificates_usable(self) -> CollectorSettings:
        _usable("COLLECTOR_PROMETHEUS_CA_FILE", self.prometheus_ca_file, None, "certificates in PEM")
        _usable("COLLECTOR_PROMETHEUS_CLIENT_CERT_FILE", None, self.prometheus_client_cert_file, "a certificate and its key in PEM")
        return self

    @model_validator(mode="after")
    def _tokens_given(self) -> CollectorSettings:
        both = set(self._tokens("send")) & set(self._tokens("read"))
        if both:
            raise ValueError("COLLECTOR_SEND_TOKEN and COLLECTOR_READ_TOKEN share a token: services that send must not read; make two")
        try:
            keys = self.load_keys()
        except KeysError as error:
            raise ValueError(f"COLLECTOR_KEYS_FILE: {error}") from None
        for scope, name in (("ingest", "COLLECTOR_SEND_TOKEN"), ("read", "COLLECTOR_READ_TOKEN")):
            if not any(scope in key.scopes for key in keys):
                raise ValueError(
                    f"no token to {scope}: make one with 'isomon token new --scope {scope}' and name its file in COLLECTOR_KEYS_FILE, "
                    f"or set {name}, or {name}_FILE to a file that holds one; there is no default"
                )
        return self

    def _tokens(self, name: str) -> tuple[str, ...]:
        value: SecretStr | None = getattr(self, f"{name}_token")
        path: Path | None = getattr(self, f"{name}_token_file")
        text = value.get_secret_value() if value is not None else ""
        if path is not None:
            try:
                text += "\n" + path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"COLLECTOR_{name.upper()}_TOKEN_FILE={str(path)!r} cannot be read: {type(error).__name__}") from None
        return tuple(part for part in re.split(r"[\s,]+", text) if part)

    def load_keys(self) -> tuple[Key, ...]:
        """Read all files of tokens and keys, and return every live key.

        Where nothing was set for `alerts`, tokens of `ingest` open it too, and those of `read` open `operate` where nothing was
        set for that; so it is for tokens of the settings, and never for keys of the file, which say what they open.

        Raises:
            KeysError: a file cannot be used.
        """
        try:
            tokens = {scope: self._tokens(setting) for scope, setting in _SETTING_OF_SCOPE.items()}
        except ValueError as error:
            raise KeysError(str(error)) from None
        lent: frozenset[Scope] = frozenset() if tokens["operate"] else frozenset({"operate"})
        tokens["alerts"] = tokens["alerts"] or tokens["ingest"]
        tokens["operate"] = tokens["operate"] or tokens["read"]
        tokens["gates"] += tokens["read"]
        scopes: dict[bytes, set[Scope]] = {}
        for scope, values in tokens.items():
            for value in values:
                scopes.setdefault(digest_of(value), set()).add(scope)
        plain = tuple(Key(f"settings-{n}", digest, frozenset(some), lent=lent & some) for n, (digest, some) in enumerate(scopes.items(), 1))
        return plain if self.keys_file is None else (*plain, *read_keys(self.keys_file))

    def key_files(self) -> tuple[Path, ...]:
        """Return the files that `load_keys` reads."""
        named = [self.keys_file, *(getattr(self, f"{setting}_token_file") for setting in _SETTING_OF_SCOPE.values())]
        return tuple(path for path in named if path is not None)

    def engines(self) -> tuple[DockerAddress, ...]:
        """Return the Docker engines that are followed."""
        return parse_engines(self.docker_engines or "", self.docker_cert_dir)

    def rates(self) -> Rates:
        """Return how fast a key may go that says nothing of its own."""
        return Rates(self.rate_requests_per_s, self.rate_records_per_s, self.rate_bytes_per_s)

    def prometheus_bearer(self) -> str | None:
        """Return the token for queries, or None."""
        return self._first_token("prometheus")

    def prometheus_tls(self) -> CertificateFiles | None:
        """Return whom to trust as Prometheus and who we are to it; None for what the system trusts, without a certificate of ours."""
        if self.prometheus_ca_file is None and self.prometheus_client_cert_file is None:
            return None
        return CertificateFiles(_text(self.prometheus_ca_file), _text(self.prometheus_client_cert_file))

    def grafana_bearer(self) -> str | None:
        """Return the token of the service account that writes annotations, or None."""
        return self._first_token("grafana")

    def alertmanager_urls(self) -> tuple[str, ...]:
        """Return every Alertmanager that is to be told."""
        return tuple((self.alertmanager_url or "").split(",")) if self.alertmanager_url else ()

    def alert_labels(self) -> dict[str, str]:
        """Return the labels that every alert of ours has besides."""
        return _labels_of(self.alertmanager_labels)

    def alertmanager_bearer(self) -> str | None:
        """Return the token for posting alerts, or None."""
        return self._first_token("alertmanager")

    def _first_token(self, name: str) -> str | None:
        tokens = self._tokens(name)
        return tokens[0] if tokens else None


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _labels_of(text: str) -> dict[str, str]:
    """Raises ValueError where a part is no label."""
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name):
            raise ValueError(f"{part!r} is no label: write NAME=VALUE, separated by commas, such as cluster=eu,team=web")
        found[name] = value
    return found


def _usable(name: str, ca_file: Path | None, client_cert_file: Path | None, wanted: str) -> None:
    """Raises ValueError where the file, one of the two, cannot be used."""
    path = ca_file or client_cert_file
    if path is None:
        return
    try:
        tls_context(_text(ca_file), _text(client_cert_file))
    except OSError as error:
        raise ValueError(f"{name}={str(path)!r} cannot be used ({error}): name a readable file with {wanted}") from None


def load_settings(**overrides: Any) -> CollectorSettings:  # Any: one type per setting
    """Return settings from the environment; `overrides` win.

    Raises:
        SettingsError: a value cannot be used, or a token is missing.
    """
    try:
        return CollectorSettings(**overrides)
    except ValidationError as error:
        found = []
        for item in error.errors(include_input=False, include_url=False):
            name = "COLLECTOR_" + "_".join(str(part) for part in item["loc"]).upper() if item["loc"] else ""
            found.append(f"{name}: {item['msg']}" if name else str(item["msg"]).removeprefix("Value error, "))
        raise SettingsError("the collector cannot start: " + "; ".join(found)) from None
