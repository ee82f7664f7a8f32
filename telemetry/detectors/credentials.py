"""Credentials: which parts of an HTTP call say on whose behalf it is made, and whom such a part names.

General knowledge of HTTP only: the headers, cookies and query parameters that carry credentials, the cookies by which
infrastructure steers clients (load balancers, protection against forgery), and what a login looks like.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

Text = str | bytes
Headers = Iterable[tuple[Text, Text]]

VALUE_LIMIT: Final = 8_192
"""Longer values are taken at their first characters: no server takes longer headers."""
SHORT: Final = 8
"""Cookies shorter than this are not recognised elsewhere: `en` or `dark` is everybody's."""
_PIECES: Final = 12
_JOINED: Final = 5

_HEADERS: Final = frozenset(
    (
        *("authorization", "proxy-authorization", "x-auth", "x-api-key", "api-key", "apikey"),
        *("x-auth-token", "x-access-token", "x-token", "x-user-token", "x-session-token", "x-session-id", "private-token"),
        *("x-goog-api-key", "x-amz-security-token", "x-vault-token", "x-gitlab-token"),
    )
)
_SPELLINGS: Final[dict[Text, str]] = {}
"""Spellings of header names met so far: of the credential's header its lower case, of any other the empty string."""
_SPELLINGS_LIMIT: Final = 2_000
_PLACEHOLDERS: Final = frozenset(("null", "none", "undefined", "nil", "bearer", "basic", "token", "anonymous"))
"""What callers without a credential send for one."""
_QUERY: Final = re.compile(
    r"(?:^|[?&])(access_token|auth_token|token|api_key|apikey|api-key|auth|jwt|sid|session|session_id|session_token)=([^&#]+)",
    re.IGNORECASE,
)
_STEERING: Final = re.compile(
    r"csrf|xsrf|^aws(alb|elb)|^__?cf|^cf_|affinity|stick|^gclb|bigip|^serverid|^srv|^route|ingress|balanc|^lb|incap|^ak_|^bm_|^_ga|^_gid|consent|locale|lang|theme",
    re.IGNORECASE,
)
"""Cookies that steer or measure a client: everybody gets one, whoever he is."""
_STEERS: Final[dict[str, bool]] = {}
_SESSION: Final = re.compile(
    r"sess|sid$|(?:^|[._-])id$|(?:^|[._-])uid|^sid|token|auth|jwt|login|remember|ident|account|user|sso|ticket|bearer", re.IGNORECASE
)
"""Cookies that by their name say who the client is."""
_LOGIN_PATH: Final = re.compile(
    r"/(?:log[-_]?in|sign[-_]?in|log[-_]?on|auth|authenticate|authorize|token|session|sso|saml|exchange)(?:\.\w+)?/?$", re.IGNORECASE
)
_SECRET_FIELD: Final = re.compile(r"passw(?:or)?d|\bpwd\b|passphrase|\bpin\b|\botp\b|secret|credential|assertion|grant_type", re.IGNORECASE)
_MINTED: Final = re.compile(
    rb'"([A-Za-z_]{0,30}(?:token|jwt|session|session_?id|sid|ticket|api_?key|bearer))"\s*:\s*"([^"\\\s]{4,8192})"', re.IGNORECASE
)
_NOT_MINTED: Final = re.compile(rb"csrf|xsrf|page|next|cursor|continuation|sync|type", re.IGNORECASE)
_WHOLE: Final = re.compile(rb"[A-Za-z0-9._~+/=-]{16,4096}")
_DELIMITER: Final = re.compile(r"([^A-Za-z0-9]+)")
_NAMING_CLAIMS: Final = ("sub", "user", "user_id", "userId", "uid", "id", "username", "preferred_username", "login", "name", "email")


class Credential(NamedTuple):
    """One credential of a call. `name` is the lower-case header, `cookie NAME` or `query NAME`; `value` without its scheme."""

    name: str
    value: str

    @property
    def is_cookie(self) -> bool:
        return self.name.startswith("cookie ")


def values_in(headers: Headers) -> str:
    """Return the values of all headers as one text, to look for something in."""
    return " ".join(value if isinstance(value, str) else value.decode("latin-1") for _, value in headers)


def credentials_of(headers: Headers, query: str) -> list[Credential]:
    """Return the credentials that a call carries in its headers and its query."""
    found: list[Credential] = []
    for raw_name, raw_value in headers:
        name = _SPELLINGS.get(raw_name)
        if name is None:
            name = _learn_spelling(raw_name)
        if not name:
            continue
        value = raw_value if isinstance(raw_value, str) else bytes(raw_value).decode("latin-1")
        if name == "cookie":
            found += cookies_of(value)
        else:
            # The scheme is left out: the same token may come in as a cookie and go out as a bearer token.
            scheme, space, rest = value.partition(" ")
            bare = rest.strip() if space and scheme.isalpha() else value.strip()
            if bare and bare.lower() not in _PLACEHOLDERS:
                found.append(Credential(name, bare[:VALUE_LIMIT]))
    if query and "=" in query:
        for match in _QUERY.finditer(query):
            # `token=BTC` and `session=spring` are words of an application.
            if len(match[2]) >= SHORT and any(map(str.isdigit, match[2])):
                found.append(Credential(f"query {match[1].lower()}", match[2][:VALUE_LIMIT]))
    return found


def cookies_of(header: str) -> Iterator[Credential]:
    for part in header.split(";"):
        name, equals, value = part.strip().partition("=")
        if equals and value and not is_steering(name):
            yield Credential(f"cookie {name}", value.strip('"')[:VALUE_LIMIT])


def set_cookie_of(header: str) -> Credential | None:
    """Return the cookie that a `Set-Cookie` header gives; None when it steers, or takes a cookie away."""
    first, _, attributes = header.partition(";")
    name, equals, value = first.strip().partition("=")
    gone = "max-age=0" in attributes.lower() or "1970" in attributes
    return None if not equals or not value or gone or is_steering(name) else Credential(f"cookie {name}", value.strip('"')[:VALUE_LIMIT])


def is_steering(cookie: str) -> bool:
    found = _STEERS.get(cookie)
    if found is None:
        found = _STEERING.search(cookie) is not None
        if len(_STEERS) < _SPELLINGS_LIMIT:
            _STEERS[cookie] = found
    return found


def is_session_cookie(name: str) -> bool:
    """Return whether a credential of this name is a cookie that says who the client is."""
    return name.startswith("cookie ") and _SESSION.search(name[7:]) is not None


def is_login(method: str, path: str, body: str) -> bool:
    """Return whether a call looks like one that asks for a session or token: by its path, or by a secret in its body."""
    return method not in ("GET", "HEAD") and (_LOGIN_PATH.search(path) is not None or _SECRET_FIELD.search(body) is not None)


def minted_in(body: bytes) -> list[str]:
    """Return the tokens that an answer gives: JSON fields called so, or the whole body where it is nothing but one."""
    body = body[:65_536]
    found: list[str] = []
    # One of these is in every body in which the expression finds something; to look for them first costs a tenth.
    if b'oken"' in body or b'sion"' in body or b'id"' in body or b'jwt"' in body or b'cket"' in body or b'ey"' in body or b'arer"' in body:
        found = [match[2].decode("latin-1") for match in _MINTED.finditer(body) if _NOT_MINTED.search(match[1]) is None]
    if not found and len(body) <= 4_096 and body[:1] not in (b"{", b"[", b"<") and _WHOLE.fullmatch(body.strip()):
        found.append(body.strip().decode("latin-1"))
    return found[:16]


def names(text: str, principal_id: str) -> bool:
    """Return whether `text` names a principal: its id stands there between delimiters, and could hardly be there by chance."""
    if not is_telling(principal_id):
        return False
    at = text.find(principal_id)
    while at >= 0:
        end = at + len(principal_id)
        if not (at and text[at - 1].isalnum()) and not (end < len(text) and text[end].isalnum()):
            return True
        at = text.find(principal_id, at + 1)
    return False


def is_telling(principal_id: str) -> bool:
    """Return whether an id is long enough to be recognised; `u7` is, `7` and `42` are not."""
    if len(principal_id) >= 3:
        return not principal_id.isdigit() or len(principal_id) >= 6
    return len(principal_id) == 2 and not principal_id.isdigit() and not principal_id.isalpha()


def named_by(value: str) -> set[str]:
    """Return what a credential's value may call its owner: its parts, joined in order, and the claims of tokens."""
    candidates = {value}
    readable = _readable(value)
    for text in (value, *readable):
        parts = _DELIMITER.split(text)
        if len(parts) > 2 * _PIECES:
            continue
        for first in range(0, len(parts), 2):
            for last in range(first, min(first + 2 * _JOINED, len(parts)), 2):
                candidates.add("".join(parts[first : last + 1]))
    for text in readable:
        candidates |= _claims(text)
    return candidates


def _readable(value: str) -> list[str]:
    """Return the parts of a value that are readable text in base64: claims of a JWT, `user:password`, a signed session."""
    found = []
    for segment in value.split(".")[:3]:
        if not 6 <= len(segment) <= 4_096:
            continue
        try:
            raw = base64.urlsafe_b64decode(segment.replace("+", "-").replace("/", "_") + "=" * (-len(segment) % 4))
            text = raw.decode("ascii")
        except (ValueError, binascii.Error):
            continue
        if text.isprintable():
            found.append(text)
    return found


def _claims(text: str) -> set[str]:
    if not text.startswith("{"):
        # `user:password` of Basic authentication.
        return {text.partition(":")[0]} if ":" in text else set()
    try:
        claims = json.loads(text)
    except ValueError:
        return set()
    return {str(claims[name]) for name in _NAMING_CLAIMS if type(claims.get(name)) in (str, int)} if type(claims) is dict else set()


def _learn_spelling(raw: Text) -> str:
    lowered = (raw if isinstance(raw, str) else bytes(raw).decode("latin-1")).lower()
    name = lowered if lowered in _HEADERS or lowered == "cookie" else ""
    if len(_SPELLINGS) < _SPELLINGS_LIMIT:
        # Header classes of clients derive theirs from `str`; the plain text is kept, and found by either.
        _SPELLINGS[str.__str__(raw) if isinstance(raw, str) else bytes(raw)] = name
    return name
