"""Keys: what a token may do, for which services and how fast. Of a token only its SHA-256 is ever kept.

A token made here has 256 bits from the operating system's random source, so nothing is gained by a slow hash: there is
no dictionary to go through. Its first part, after `isomon_`, is the key's id: it may stand in logs, lists and tickets.
The file of keys is JSON, `keys/1`; `isomon token` writes it, the collector reads it and sees changes within a second.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

Scope = Literal["ingest", "read", "operate", "alerts", "gates"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

SCHEMA: Final = "keys/1"
TOKEN_PREFIX: Final = "isomon_"
KEYS_LIMIT: Final = 1_000
"""Every request is compared with every key, so that its time says nothing; a thousand take about 0.2 ms."""
_ID_BYTES: Final = 4
_SECRET_BYTES: Final = 32
_MODE: Final = 0o600


class KeysError(Exception):
    """The file of keys cannot be used; the text says which, what was found and what to do, and holds no secret."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a key may ask for in a second, on average; None: what the collector's settings say, 0: without limit."""

    requests_per_s: float | None = None
    records_per_s: float | None = None
    bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `services` None means all of them; `expires` None means never."""

    id: str
    digest: bytes = field(repr=False)
    scopes: frozenset[Scope]
    services: frozenset[str] | None = None
    name: str = ""
    created: datetime | None = None
    expires: datetime | None = None
    rates: Rates = Rates()
    lent: frozenset[Scope] = frozenset()
    """Those of `scopes` that nobody gave it: it has them because no other token does."""

    def is_live(self, now: datetime) -> bool:
        return self.expires is None or now < self.expires


def digest_of(token: str) -> bytes:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def new_key(
    scopes: Sequence[Scope],
    now: datetime,
    *,
    services: Sequence[str] = (),
    name: str = "",
    expires: datetime | None = None,
    rates: Rates | None = None,
) -> tuple[Key, str]:
    """Return a new key and its token, which exists nowhere else: whoever loses it makes another one."""
    key_id = secrets.token_hex(_ID_BYTES)
    token = f"{TOKEN_PREFIX}{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    bound = frozenset(services) or None
    return Key(key_id, digest_of(token), frozenset(scopes), bound, name, now, expires, rates or Rates()), token


Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# One line and nothing that moves a terminal: names are listed and logged.
_Text = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]*$")]


class _KeyIn(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    name: _Text = ""
    scopes: Annotated[list[Scope], Field(min_length=1)]
    services: Annotated[list[Annotated[_Text, StringConstraints(min_length=1)]], Field(min_length=1, max_length=1000)] | None = None
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    created: datetime | None = None
    expires: datetime | None = None
    requests_per_s: Rate | None = None
    records_per_s: Rate | None = None
    bytes_per_s: Rate | None = None

    def as_key(self) -> Key:
        services = None if self.services is None else frozenset(self.services)
        rates = Rates(self.requests_per_s, self.records_per_s, self.bytes_per_s)
        digest = bytes.fromhex(self.sha256)
        return Key(self.id, digest, frozenset(self.scopes), services, self.name, _utc(self.created), _utc(self.expires), rates)


class _FileIn(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    schema_: Literal["keys/1"] = Field(alias="schema")
    keys: Annotated[list[_KeyIn], Field(max_length=KEYS_LIMIT)]


def read_keys(path: Path) -> tuple[Key, ...]:
    """Return the keys of a file, in its order.

    Raises:
        KeysError: it cannot be read, anybody may write it, or it is no file of keys.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"the file of keys {str(path)!r} cannot be read ({type(error).__name__}): 'isomon token new' makes one") from None
    if mode & stat.S_IWOTH:
        raise KeysError(f"the file of keys {str(path)!r} has mode {mode:04o}: anybody could add a key; chmod 600 it")
    return _checked(text, path)


def _checked(text: str, path: Path) -> tuple[Key, ...]:
    try:
        found = _FileIn.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise KeysError(f"the file of keys {str(path)!r} is none: {where}: {first['msg']}") from None
    ids = [key.id for key in found.keys]
    twice = sorted({one for one in ids if ids.count(one) > 1})
    if twice:
        raise KeysError(f"the file of keys {str(path)!r} has the id {twice[0]!r} twice: remove one of them")
    return tuple(key.as_key() for key in found.keys)


def change_keys(path: Path, change: Callable[[tuple[Key, ...]], Sequence[Key]]) -> None:
    """Read the keys of a file, or none where it does not exist yet, and replace it by what `change` returns.

    Two at a time wait for each other; a reader sees the old file or the new one. A new file is open to its owner alone.

    Raises:
        KeysError: as `read_keys`, or the file cannot be written.
    """
    with _locked(path):
        old = read_keys(path) if path.exists() else ()
        keys = change(old)
        if len(keys) > KEYS_LIMIT:
            raise KeysError(f"the file of keys {str(path)!r} would hold {len(keys)} keys, at most {KEYS_LIMIT} are taken: revoke some")
        body = json.dumps({"schema": SCHEMA, "keys": [_as_json(key) for key in keys]}, ensure_ascii=False, indent=1) + "\n"
        # What was given by hand, such as a name with a line in it, must be readable again.
        _checked(body, path)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, _MODE)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                if path.exists():
                    kept = path.stat()
                    os.fchmod(file.fileno(), stat.S_IMODE(kept.st_mode))
                    if os.geteuid() == 0:
                        # Written by root, read by the collector's user: as it was.
                        os.fchown(file.fileno(), kept.st_uid, kept.st_gid)
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise KeysError(f"the file of keys {str(path)!r} cannot be written ({type(error).__name__})") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise KeysError(f"the folder {str(path.parent)!r} cannot be opened ({type(error).__name__}): make it first") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _as_json(key: Key) -> dict[str, Any]:  # Any: JSON
    rates = {name: value for name in ("requests_per_s", "records_per_s", "bytes_per_s") if (value := getattr(key.rates, name)) is not None}
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "services": None if key.services is None else sorted(key.services),
        "sha256": key.digest.hex(),
        "created": key.created.isoformat() if key.created else None,
        "expires": key.expires.isoformat() if key.expires else None,
        **rates,
    }


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=UTC)


def is_key_id(text: str) -> bool:
    """Return whether `text` could be a key's id; a token pasted in its place is none."""
    return re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text) is not None and not text.startswith(TOKEN_PREFIX)
