"""Settings of the collector, from `COLLECTOR_*` environment variables.

A secret is given as `COLLECTOR_X_TOKEN` or, better, as a file named by `COLLECTOR_X_TOKEN_FILE`. Each may hold several
tokens, separated by commas, blanks or lines: all of them are accepted, so a token can be rotated without a gap.
There is no default token, and none is generated.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from isolation_monitor.collector.storage.urls import DatabaseUrlError, async_url

Scope = Literal["send", "read", "alerts", "operate", "gates"]


class SettingsError(Exception):
    """The collector cannot start with these settings; the text says which one, what was found and what to write."""


class CollectorSettings(BaseSettings):
    """Everything that can be set. Durations are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(
        env_prefix="COLLECTOR_", env_file=None, env_ignore_empty=True, extra="forbid", hide_input_in_errors=True
    )

    database_url: str = "sqlite+aiosqlite:///./isolation-monitor.sqlite3"
    base_url: str = "http://127.0.0.1:8400"
    """Address under which people open the collector; links in answers start with it."""

    send_token: SecretStr | None = None
    send_token_file: Path | None = None
    read_token: SecretStr | None = None
    read_token_file: Path | None = None
    alerts_token: SecretStr | None = None
    """Token of Alertmanager's webhook; without one, the send token opens that route too."""
    alerts_token_file: Path | None = None
    operate_token: SecretStr | None = None
    """Token that changes rollouts; without one, the read token does."""
    operate_token_file: Path | None = None
    gates_token: SecretStr | None = None
    """Token of rollout tools: it asks for verdicts and reads nothing else. The read token opens those routes too."""
    gates_token_file: Path | None = None

    rollout_interval_s: float = Field(default=5.0, gt=0, le=3600)
    """How often running rollouts are looked at besides; records and alerts are acted on at once."""

    prometheus_url: str | None = None
    prometheus_token: SecretStr | None = None
    prometheus_token_file: Path | None = None
    prometheus_tenant: str | None = None
    """Value of `X-Scope-OrgID`, for stores with tenants."""
    prometheus_timeout_s: float = Field(default=3.0, gt=0, le=30)
    """For all queries of one evaluation together: gates' callers give up after 5 s."""
    scrape_stale_after_s: float = Field(default=30.0, gt=0)
    """A newest sample older than this is no look at the service at all."""

    grafana_url: str | None = None
    """Grafana that gets a mark for each change of a rollout and each burst of violations; none without it."""
    grafana_token: SecretStr | None = None
    grafana_token_file: Path | None = None
    alertmanager_url: str | None = None
    """Alertmanager that pages when a rollout was rolled back; without it only alerts of Prometheus page."""
    alertmanager_token: SecretStr | None = None
    alertmanager_token_file: Path | None = None

    max_body_bytes: int = Field(default=1024 * 1024, gt=0)
    max_inflated_bytes: int = Field(default=8 * 1024 * 1024, gt=0)
    max_records: int = Field(default=1000, gt=0)
    max_record_bytes: int = Field(default=64 * 1024, gt=0)
    body_timeout_s: float = Field(default=15.0, gt=0)
    """A body that takes longer to arrive is refused: slow senders must not hold connections."""
    store_timeout_s: float = Field(default=5.0, gt=0)
    """Wait for a lock or a connection of the store before answering 503."""

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        try:
            return async_url(value)
        except DatabaseUrlError as error:
            raise ValueError(str(error)) from None

    @field_validator("base_url", "prometheus_url", "grafana_url", "alertmanager_url")
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        if value is None or value == "":
            return None
        if not value.startswith(("http://", "https://")):
            raise ValueError("is not an http:// or https:// address")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _tokens_given(self) -> CollectorSettings:
        for scope in ("send", "read"):
            if not self._tokens(scope):
                name = f"COLLECTOR_{scope.upper()}_TOKEN"
                raise ValueError(f"no token to {scope}: set {name}, or {name}_FILE to a file that holds one; there is no default")
        both = set(self._tokens("send")) & set(self._tokens("read"))
        if both:
            raise ValueError("COLLECTOR_SEND_TOKEN and COLLECTOR_READ_TOKEN share a token: services that send must not read; make two")
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

    def tokens_by_scope(self) -> dict[Scope, tuple[str, ...]]:
        """Return the live tokens of each scope. Without any of their own, `alerts` takes those of `send` and `operate` those of `read`.

        Tokens of `read` open `gates` too.
        """
        send, read = self._tokens("send"), self._tokens("read")
        alerts, operate = self._tokens("alerts") or send, self._tokens("operate") or read
        return {"send": send, "read": read, "alerts": alerts, "operate": operate, "gates": self._tokens("gates") + read}

    def prometheus_bearer(self) -> str | None:
        """Return the token for queries, or None."""
        return self._first_token("prometheus")

    def grafana_bearer(self) -> str | None:
        """Return the token of the service account that writes annotations, or None."""
        return self._first_token("grafana")

    def alertmanager_bearer(self) -> str | None:
        """Return the token for posting alerts, or None."""
        return self._first_token("alertmanager")

    def _first_token(self, name: str) -> str | None:
        tokens = self._tokens(name)
        return tokens[0] if tokens else None


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
