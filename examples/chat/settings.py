"""Settings of the chat service: `CHAT_*` environment variables, read once at start. Wrong values fail here, with a remedy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class SettingsError(ValueError):
    """A setting has a value that cannot be used; the text says which, and what to write instead."""


@dataclass(frozen=True)
class Settings:
    """Everything that can be set. Times are seconds."""

    database_url: str = "sqlite+aiosqlite:///./chat.sqlite3"
    """SQLite by default; `postgresql+asyncpg://user:password@host/name` for several machines."""
    pool_size: int = 20
    max_overflow: int = 10
    """(pool_size + max_overflow) x workers must stay below the database's own limit (PostgreSQL: 100 by default)."""
    secret: str | None = None
    """Key that signs the tokens. Absent: one is made for development and shared by all workers through `secret_file`."""
    secret_file: Path = Path("chat.secret")
    token_lifetime_s: float = 12 * 3600
    word_pause_s: float = 0.002
    """Pause between the words of an answer: this agent has no model behind it, but it takes its time like one."""
    faults: bool = False
    """Only for demonstrations and tests: the defects of `faults.py` can be switched on."""
    faults_file: Path = Path("chat.faults.json")
    fault_log: Path | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Return the settings in force.

        Raises:
            SettingsError: a variable holds a value of the wrong type or out of range.
        """
        env = os.environ if environ is None else environ
        return cls(
            database_url=env.get("CHAT_DATABASE_URL") or cls.database_url,
            pool_size=int(_number(env, "CHAT_POOL_SIZE", cls.pool_size, at_least=1)),
            max_overflow=int(_number(env, "CHAT_MAX_OVERFLOW", cls.max_overflow, at_least=0)),
            secret=env.get("CHAT_SECRET") or None,
            secret_file=Path(env.get("CHAT_SECRET_FILE") or cls.secret_file),
            token_lifetime_s=_number(env, "CHAT_TOKEN_LIFETIME_S", cls.token_lifetime_s, at_least=1),
            word_pause_s=_number(env, "CHAT_WORD_PAUSE_S", cls.word_pause_s, at_least=0),
            faults=_switch(env, "CHAT_FAULTS"),
            faults_file=Path(env.get("CHAT_FAULTS_FILE") or cls.faults_file),
            fault_log=Path(env["CHAT_FAULT_LOG"]) if env.get("CHAT_FAULT_LOG") else None,
        )


def _number(env: Mapping[str, str], name: str, default: float, *, at_least: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        raise SettingsError(f"{name}={text!r} is not a number: use one such as {default:g}") from None
    if not at_least <= value < float("inf"):
        raise SettingsError(f"{name}={text!r} is out of range: use {at_least:g} or more")
    return value


def _switch(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name, "")
    if text not in ("", "0", "1"):
        raise SettingsError(f"{name}={text!r} is not a switch: use 1 or leave it out")
    return text == "1"
