"""Principals: whom a request runs for, and the keyed hash under which they are known outside the process.

The raw id stays in memory, to be compared with identity fields of answers. Everything that leaves the process
carries `Principal.hash`: the first 16 hexadecimal characters of HMAC-SHA256 under the shared key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any, Final

from isolation_monitor.telemetry.recent import forget_oldest

Scope = MutableMapping[str, Any]
PrincipalExtractor = Callable[[Scope], str | None]

HASH_LENGTH: Final = 16
INTERNED_LIMIT: Final = 10_000
_SESSION_COOKIE: Final = re.compile(rb"session|sess_?id|auth|token|jwt|^(?:.*[._-])?sid$")
"""Names of cookies by which users prove who they are."""
_NO_SESSION: Final = re.compile(rb"csrf|xsrf")
"""Of those, names that protect forms: the same for nobody in particular, or another one for each page."""
_SIGNED: Final = re.compile(rb"([^=]+=.{16,})([.:])[\w-]{5,8}\2[\w-]{27,}", re.ASCII | re.DOTALL)
"""A cookie that its application signs anew with each answer: what it says, when it was signed, the signature (itsdangerous, Django)."""
_SHORTEST_SESSION: Final = 8
"""Characters; what is shorter takes a session away: nothing, `null`, `deleted`."""


class Principal:
    """One user (and tenant) as an identity in memory: interned, so two requests of one user share one object while remembered."""

    __slots__ = ("_hash", "_hasher", "id", "is_credential", "is_synthetic", "live")

    def __init__(self, id: str, hasher: PrincipalHasher, is_credential: bool = False) -> None:
        self.id = id
        self.is_credential = is_credential
        """True when the id is a digest of a credential, so it cannot be compared with user ids in answers."""
        self.is_synthetic = False
        """True for the principals of planted faults: what happens to them never lowers a user's numbers."""
        self.live = 0
        """How many of its requests and connections are live. Kept by `context.Exposure`, here so that it needs no table."""
        self._hasher = hasher
        self._hash: str | None = None

    @property
    def hash(self) -> str:
        if self._hash is None:
            self._hash = self._hasher.hash(self.id)
        return self._hash

    def __repr__(self) -> str:
        return f"Principal({self.hash})"


class PrincipalHasher:
    """Keyed hash of principals. The key is read on first use: importing or building the monitor touches no file."""

    def __init__(self, key: str | None) -> None:
        self._key = key.encode() if key else None
        self.key_is_shared = key is not None

    def hash(self, id: str) -> str:
        if self._key is None:
            self._key = _host_key()
        return hmac.new(self._key, id.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:HASH_LENGTH]


class Principals:
    """Interns principals by id, bounded: the least recently added are forgotten first, which only costs a new object."""

    def __init__(self, hasher: PrincipalHasher) -> None:
        self._hasher = hasher
        self.by_id: dict[str, Principal] = {}
        """Known users; the middleware looks here first."""
        self.by_credential: dict[bytes | None, Principal] = {}
        """Known credentials; the middleware looks here first."""
        self._successors: dict[bytes, bytes] = {}
        """By what a session cookie says: what the one says that an answer put in its place."""

    def named(self, id: str) -> Principal:
        found = self.by_id.get(id)
        if found is None:
            found = self.by_id[id] = Principal(id, self._hasher)
            forget_oldest(self.by_id, INTERNED_LIMIT, 0.1)
        return found

    def hash(self, text: str) -> str:
        """Return the keyed hash of any text that must not leave the process, an id of a thread for one."""
        return self._hasher.hash(text)

    def known(self, id: str) -> Principal | None:
        """Return the principal of this id if it was seen lately; makes none."""
        return self.by_id.get(id)

    def forget(self, principal: Principal) -> None:
        """Forget a principal of a planted fault; it is never seen again."""
        if self.by_id.get(principal.id) is principal:
            self.by_id.pop(principal.id, None)

    def of_credential(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal | None:
        """Return the principal behind the Authorization header, else behind a session cookie; None when there is neither.

        Used when no extractor is declared: each credential is one principal, known by its digest only.
        """
        credential = _credential_of(headers)
        return None if credential is None else self._credential(credential[1])

    def renewed(self, headers: Iterable[tuple[bytes, bytes]], set_cookie: bytes) -> None:
        """Note that the answer to a request set a cookie: in the place of its session cookie, it proves the same user.

        A cookie has one successor. Visitors who were given the same one before they signed in are not taken for one user.
        """
        credential = _credential_of(headers)
        renewed = set_cookie.partition(b";")[0].strip()
        name, _, value = renewed.partition(b"=")
        if credential is None or not credential[0] or credential[1].partition(b"=")[0] != name or len(value) < _SHORTEST_SESSION:
            return
        earlier, later = _said(credential[1]), _said(renewed)
        # What is known already is somebody's: a session that an answer gave away by mistake stays its owner's.
        if later == earlier or later in self.by_credential or self._successors.setdefault(earlier, later) != later:
            return
        forget_oldest(self._successors, INTERNED_LIMIT, 0.1)
        self.by_credential[later] = self._credential(credential[1])

    def _credential(self, value: bytes) -> Principal:
        found = self.by_credential.get(value)
        if found is None:
            said = _said(value)
            found = self.by_credential.get(said)
            if found is None:
                id = "credential:" + hashlib.sha256(said).hexdigest()
                found = self.by_credential[said] = Principal(id, self._hasher, is_credential=True)
            self.by_credential[value] = found
            forget_oldest(self.by_credential, INTERNED_LIMIT, 0.1)
        return found


def _credential_of(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bool, bytes] | None:
    """Return what proves who asks, and whether it is a cookie (then with its name)."""
    headers = list(headers)
    for wanted in (b"authorization", b"x-api-key"):
        for name, value in headers:
            if name == wanted:
                return False, value
    for name, value in headers:
        if name == b"cookie":
            for part in value.split(b";"):
                part = part.strip()
                key = part.partition(b"=")[0].lower()
                if _SESSION_COOKIE.search(key) and not _NO_SESSION.search(key):
                    return True, part
    return None


def _said(credential: bytes) -> bytes:
    """Return a credential without the time and the signature of a cookie that is signed with each answer."""
    signed = _SIGNED.fullmatch(credential)
    return credential if signed is None else signed[1]


def _host_key() -> bytes:
    """Read or make this host's key. One key per host, so all workers agree; replicas on other hosts need the setting."""
    for folder in (Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"), Path(tempfile.gettempdir())):
        path = folder / f"isolation-monitor-{os.getuid() if hasattr(os, 'getuid') else 0}" / "hash-key"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                if (key := path.read_bytes()) and path.stat().st_uid == os.getuid():
                    return key
                continue
            with os.fdopen(descriptor, "wb") as file:
                file.write(key := secrets.token_hex(32).encode())
            return key
        except OSError:
            continue
    return secrets.token_hex(32).encode()
