"""Foreign credential: an outgoing HTTP call made for one principal that carries another's credential.

Sees: the credentials of outgoing calls as sent (Authorization, API key headers, cookies, token parameters), known by a keyed
digest. Whose a credential is takes proof: it came in with requests of one principal only; an upstream server gave it in
answer to a call that carried what is this principal's (his name, his own token, a login of his); the values of one header
name their owners, different ones for different principals; or each principal writes a value of his own into the default
headers of a shared client, again and again (`header_writes.py`). Until then suspicions wait, and are reported with the proof.
The typical faults: one client whose cookie jar keeps the first user's session, a default header of a shared client written
per request, a token cached under no user's key.
Cannot see: whose an opaque credential is that has none of these proofs; credentials of the connection itself (client
certificates, NTLM); answers that a connection gives to the wrong one of two calls; clients without an integration (urllib3
and http.client used directly); calls of a request whose principal is named only at its end, and of tasks that go on after
their HTTP request is over.
Cost, measured: 8.5 us for a call with two known credentials, its answer included, 14 us for the first call of a request.
Precision: legitimate sharing stays silent: a credential that was in use before the principal's request, that a call outside
of requests sent to another service, or that two principals came in with or were given, is the service's own for ever;
cookies that steer clients (load balancers, forgery protection) are never looked at; the cookie of a session that nobody
logged in to is an identity only where the answer on it names the other principal; a credential that the request read from
the database, that its caller asked for by itself, or whose owner its own path names, was chosen on purpose.
Grades: `crossed`, always: the call has run as the other principal.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.context import CURRENT, RequestContext
from isolation_monitor.telemetry.detectors import credentials as reading
from isolation_monitor.telemetry.detectors.credential_facts import (
    EARLY_LIMIT,
    HOSTS_LIMIT,
    Act,
    Call,
    Family,
    Known,
    is_over,
    scope_of,
    text_of,
)
from isolation_monitor.telemetry.detectors.credentials import Credential, Headers
from isolation_monitor.telemetry.detectors.header_writes import HeaderWrites
from isolation_monitor.telemetry.tokens import tokens_of
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.detectors.overwrites import Overwrites
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.principals import Principal

TABLE_LIMIT: Final = 5_000
"""Credentials, principals and requests remembered; the ones not met for longest are forgotten first."""
NAMING_LOOKS: Final = 16
"""How often a credential that names nobody is looked at again: its owner may not have been met before."""
FAMILIES_LIMIT: Final = 500
SETTLE_S: Final = 1.0
"""How long the answer to a suspicious call may take to be read, before it is judged without it."""
_HOOK: Final = "http_client"

Key = int
K = TypeVar("K")
V = TypeVar("V")


class ForeignCredential:
    """Learns whose credentials are, and compares with whom they are sent for. Thread-safe; never raises."""

    def __init__(self, kit: Kit) -> None:
        self._switch = kit.switches[names.FOREIGN_CREDENTIAL]
        self._reporter = kit.reporter
        self._housekeeper = kit.housekeeper
        self._secret = os.urandom(16).hex()
        self.private_to: Callable[[str], Principal | None] = lambda token: None
        """Whose a token is by what the application keeps or declares; given by whoever knows contents."""
        self._lock = threading.RLock()
        self._known: OrderedDict[Key, Known] = OrderedDict()
        self._came_in: OrderedDict[int, frozenset[Key]] = OrderedDict()
        """The credentials that requests came in with, by the requests' serial numbers."""
        self._people: OrderedDict[str, Principal] = OrderedDict()
        self._families: OrderedDict[tuple[str, str], Family] = OrderedDict()
        self._own_hosts: OrderedDict[str, None] = OrderedDict()
        """What callers call this service."""
        self._writes = HeaderWrites()
        self._innocent: OrderedDict[tuple[str, str], None] = OrderedDict()
        """Cookies that were seen to tell nothing: with another's, the answer named the caller."""

        self.overwrites: Overwrites | None = None
        """Shared fields under watch: a call may carry what another request wrote over this one's own."""

    # --- what integrations say --------------------------------------------------------------------------------------

    def outgoing(
        self, method: str, host: str, url: str, headers: Headers, body: object = None, request: RequestContext | None = None
    ) -> Call | None:
        """Judge a call about to be sent; return what `answered` and `read` want of it, None where nobody's request makes it."""
        if not self._switch.is_on:
            return None
        try:
            request = request or CURRENT.get()
            if request is not None and is_over(request):
                return None
            found = reading.credentials_of(headers, url.partition("?")[2])
            if request is None:
                self._sent_outside(found, host)
                return None
            call = Call(request, method, host, url, headers, body)
            call.credentials = found
            if self.overwrites is not None and self.overwrites.slots:
                self.overwrites.judge(request, f"{call.text} {reading.values_in(headers)}", f"a call to {host}")
            if request.principal is None:
                if found:
                    self._reporter.skipped(names.FOREIGN_CREDENTIAL)
                return call
            if found:
                with self._lock:
                    own = self._own(request)
                    is_fine = True
                    for credential in found:
                        is_fine &= self._judge(call, request.principal, credential, own)
                if is_fine:
                    self._reporter.checked(names.FOREIGN_CREDENTIAL)
            return call
        except Exception as error:
            self._reporter.check_failed(names.FOREIGN_CREDENTIAL, _HOOK, error)
            return None

    def answered(self, call: Call, set_cookies: list[str]) -> None:
        """Learn from the head of the answer: the cookies that it gives."""
        try:
            if call.request.principal is None or not self._switch.is_on:
                return
            with self._lock:
                for header in set_cookies:
                    cookie = reading.set_cookie_of(header)
                    if cookie is None or cookie in call.credentials:
                        continue
                    # What the call carried under this name is no more: the server has not taken it, or has moved on.
                    if call.suspects:
                        call.suspects = [one for one in call.suspects if one[1].name != cookie.name]
                    self._learn_minted(call, call.request.principal, cookie)
                if call.suspects:
                    self._housekeeper.after(SETTLE_S, lambda: self.read(call, b""))
        except Exception as error:
            self._reporter.check_failed(names.FOREIGN_CREDENTIAL, _HOOK, error)

    def read(self, call: Call, body: object) -> None:
        """Learn from the body of the answer, when it was read whole: the tokens that it gives, and whom it names."""
        try:
            principal = call.request.principal
            if principal is None or type(body) is not bytes or not self._switch.is_on:
                return
            with self._lock:
                for value in reading.minted_in(body):
                    self._learn_minted(call, principal, Credential("body", value))
                suspects, call.suspects = call.suspects, None
                if suspects:
                    self._settle(call, principal, suspects, body[:65_536].decode("latin-1"))
        except Exception as error:
            self._reporter.check_failed(names.FOREIGN_CREDENTIAL, _HOOK, error)

    def wrote(self, holder: int, headers: Headers, request: RequestContext | None = None) -> None:
        """Headers were written into the default headers of a client; `holder` numbers those, see `HeaderWrites`."""
        if not self._switch.is_on:
            return
        try:
            request = request or CURRENT.get()
            if request is None or request.principal is None or is_over(request):
                return
            found = reading.credentials_of(headers, "")
            if found:
                with self._lock:
                    self._own(request)
                    for credential in found:
                        self._learn_write(holder, credential, request, request.principal)
        except Exception as error:
            self._reporter.check_failed(names.FOREIGN_CREDENTIAL, _HOOK, error)

    def forget(self, holder: int) -> None:
        """The default headers with this number are gone."""
        self._writes.forget(holder)

    # --- judging ----------------------------------------------------------------------------------------------------

    def _judge(self, call: Call, principal: Principal, credential: Credential, own: frozenset[Key]) -> bool:
        """Judge one credential of a call; return whether it is known to be fine now."""
        key = self._key(credential, call.host)
        call.keys.append(key)
        known = self._met(key)
        if known.is_shared or key in own or self._is_configured(known):
            return True
        if known.owner is None and (holder := self._private_holder(credential.value)) is not None:
            known.is_owned(holder, None, "the application keeps it as this principal's own")
        if known.owner is None and known.looks < NAMING_LOOKS:
            self._learn_name(known, call.host, credential)
        owner = known.owner
        if owner is not None:
            return owner.id == principal.id or not self._accuse(known, Act(call.request, call.host, credential, 4))
        early = known.early
        if len(early) < EARLY_LIMIT and not any(act.request is call.request for act in early):
            early.append(Act(call.request, call.host, credential, 4))
        holder = known.holder
        if holder is None or holder.id == principal.id or (call.host, credential.name) in self._innocent:
            return True
        if call.suspects is None:
            call.suspects = []
        call.suspects.append((known, Act(call.request, call.host, credential, 4)))
        return False

    def _settle(self, call: Call, principal: Principal, suspects: list[tuple[Known, Act]], answer: str) -> None:
        """Judge what the call carried of others' sessions by what came back on it."""
        for known, act in suspects:
            victim = known.holder
            if victim is None or known.is_shared:
                continue
            names_own, names_victim = reading.names(answer, principal.id), reading.names(answer, victim.id)
            if names_own and not names_victim:
                # With the other's cookie, the caller was served as himself.
                if not known.is_login:
                    self._innocent[act.host, act.name] = None
                    _trim(self._innocent, FAMILIES_LIMIT)
            elif (
                # Whatever a login gives is a session, by whatever name.
                names_victim and not names_own and (known.is_login or reading.is_session_cookie(act.name))
            ) or self._runs_on(known, call, principal):
                known.is_owned(victim, None, "an upstream gave it to a call of this principal")
                if self._accuse(known, act):
                    continue
            self._reporter.checked(names.FOREIGN_CREDENTIAL)

    def _runs_on(self, known: Known, call: Call, principal: Principal) -> bool:
        """Return whether a call whose answer names nobody can only run as who logged in.

        A login gives a new session, so the path that gave this one and gave none now is no login; and a call that says
        itself for whom it is may need no session.
        """
        is_elsewhere = known.minted != (call.method, call.path)
        return known.is_login and is_elsewhere and not self._carries_own(call, principal)

    def _accuse(self, known: Known, act: Act) -> bool:
        """Report, unless the request was made to act for the owner; say whether it was reported."""
        owner, request, host, name = known.owner, act.request, act.host, act.name
        if owner is None or act.is_on_purpose(owner):
            return False
        what = "cookie" if name.startswith("cookie ") else "credential"
        self._reporter.report(
            Violation(
                kind=names.FOREIGN_CREDENTIAL,
                grade="crossed",
                summary=f"a call to {host} for one principal carried another's {what}: {known.proof}",
                resource=Resource("credential", f"{name} at {host}", {"host": host, "credential": name, "proof": known.proof}),
                victim=side_of(known.origin, known.stack, principal=owner),
                offender=side_of(request, act.stack),
                arm=request.arm,
            ),
            request,
            known.origin,
        )
        return True

    # --- learning ---------------------------------------------------------------------------------------------------

    def _own(self, request: RequestContext) -> frozenset[Key]:
        """Return the credentials that the request came in with, and learn that they are its principal's."""
        own = self._came_in.get(request.serial)
        if own is not None:
            return own
        principal, scope = request.principal, scope_of(request)
        if principal is None or scope is None:
            return frozenset()
        self._people[principal.id] = principal
        _trim(self._people, TABLE_LIMIT)
        headers = scope.get("headers", ())
        for name, value in headers:
            if name == b"host":
                self._own_hosts[value.decode("latin-1")] = None
                _trim(self._own_hosts, FAMILIES_LIMIT)
                break
        found = reading.credentials_of(headers, scope.get("query_string", b"").decode("latin-1"))
        keys = []
        for credential in found:
            if credential.is_cookie and (len(credential.value) < reading.SHORT or not reading.is_session_cookie(credential.name)):
                continue
            key = self._key(credential, "")
            keys.append(key)
            known = self._met(key)
            if known.is_shared or self._is_configured(known):
                continue
            holder = known.holder
            if holder is not None and holder.id == principal.id:
                continue
            if holder is not None or (known.first_seen < request.started and known.is_in_use_by_others(principal)):
                # Two principals have it, or it was in use before he came: not his alone.
                known.share()
                continue
            known.is_owned(principal, request, "it came in with requests of this principal only")
            self._accuse_early(known)
        own = self._came_in[request.serial] = frozenset(keys)
        _trim(self._came_in, TABLE_LIMIT)
        return own

    def _learn_minted(self, call: Call, principal: Principal, credential: Credential) -> None:
        """An answer gave a credential: it is the principal's if the call carried what is his."""
        key = self._key(credential, call.host)
        known = self._known.get(key)
        if known is None:
            known = self._met(key)
        elif known.is_shared or key in call.keys:
            return
        elif (
            self._is_configured(known)
            or known.origin is None
            or known.origin.principal is None
            or known.origin.principal.id != principal.id
        ):
            # It was in use before, or was given to somebody else too.
            known.share()
            return
        is_his = self._carries_own(call, principal)
        if credential.is_cookie:
            in_headers = is_his or any(reading.names(text_of(value), principal.id) for _, value in call.headers)
            if not in_headers:
                return
            known.origin, known.minted, known.stack = call.request, (call.method, call.path), stacks.capture(4)
            known.is_login = is_his and reading.is_login(call.method, call.path, call.body_text)
            if reading.is_telling(principal.id) and principal.id in reading.named_by(credential.value):
                known.is_owned(principal, call.request, "an upstream gave it to a call of this principal, whom it names")
        elif is_his:
            known.minted, known.stack = (call.method, call.path), stacks.capture(4)
            known.is_owned(principal, call.request, "an upstream gave it to a call of this principal")

    def _carries_own(self, call: Call, principal: Principal) -> bool:
        """Return whether a call carries what is the principal's: his name, what he came in with, a credential of his."""
        if reading.names(call.text, principal.id):
            return True
        own = self._own(call.request)
        own = frozenset(key for key in own if (known := self._known.get(key)) is None or not known.is_shared)
        for key, credential in zip(call.keys, call.credentials, strict=False):
            known = self._known.get(key)
            if key in own:
                return True
            if known is not None and known.owner is not None and known.owner.id == principal.id:
                return True
            if reading.is_telling(principal.id) and principal.id in reading.named_by(credential.value):
                return True
        # The body of any other call names its principal for all kinds of reasons.
        body = call.body_text if reading.is_login(call.method, call.path, call.body_text) else ""
        # A login sends in its body what he came in with, or what the application keeps for him.
        if any(self._key(Credential("body", token), "") in own for token in tokens_of(body)):
            return True
        holders = (self._private_holder(text_of(value)) for value in (body, *(value for _, value in call.headers)))
        return any(holder is not None and holder.id == principal.id for holder in holders)

    def _private_holder(self, text: str) -> Principal | None:
        """Return whose a text is by the application's own word; None where it says nothing."""
        for token in tokens_of(text):
            holder = self.private_to(token)
            if holder is not None:
                return holder
        return None

    def _learn_write(self, holder: int, credential: Credential, request: RequestContext, principal: Principal) -> None:
        key = self._key(credential, "")
        known = self._met(key)
        is_common, steady = self._writes.wrote(holder, credential.name, key, principal, request)
        if is_common and known.owner is None:
            known.share()
        for key, origin in steady:
            known = self._met(key)
            if known.owner is None and not known.is_shared and origin.principal is not None:
                known.is_owned(origin.principal, origin, "a shared client's header is written with it for this principal only")
                self._accuse_early(known)

    def _learn_name(self, known: Known, host: str, credential: Credential) -> None:
        """Learn whom a credential names. That proves its owner once a second value under the same name names another."""
        known.looks += 1
        people = self._people
        named = {candidate for candidate in reading.named_by(credential.value) if candidate in people and reading.is_telling(candidate)}
        if len(named) != 1:
            return
        known.looks = NAMING_LOOKS
        person = known.named = people[named.pop()]
        family = self._families.get((host, credential.name))
        if family is None:
            family = self._families[host, credential.name] = Family(person)
            _trim(self._families, FAMILIES_LIMIT)
        if person.id != family.first.id:
            family.is_proven = True
        if len(family.waiting) < TABLE_LIMIT // 100:
            family.waiting.append(known)
        if family.is_proven:
            for one in family.waiting:
                if one.named is not None and one.owner is None and not one.is_shared:
                    one.is_owned(one.named, None, "it names this principal, as those of others name them")
                    self._accuse_early(one)
            family.waiting.clear()

    def _accuse_early(self, known: Known) -> None:
        """The owner is proven now: the calls that carried it for others before are violations."""
        early, known.early = known.early, []
        for act in early:
            if act.request.principal is not None and known.owner is not None and act.request.principal.id != known.owner.id:
                self._accuse(known, act)

    def _sent_outside(self, found: list[Credential], host: str) -> None:
        """Note where calls outside of requests send credentials."""
        if found:
            with self._lock:
                for credential in found:
                    known = self._met(self._key(credential, host))
                    if not known.is_shared and len(known.outside) < HOSTS_LIMIT and host not in known.outside:
                        known.outside = (*known.outside, host)

    def _is_configured(self, known: Known) -> bool:
        """Return whether a credential is the service's own: calls outside of requests send it, and to others than this service.

        Who calls this service from the same process (a test, a warm-up) sends its users' credentials.
        """
        if known.outside and known.owner is None and not self._own_hosts.keys() >= set(known.outside):
            known.share()
        return known.is_shared

    # --- tables -----------------------------------------------------------------------------------------------------

    def _met(self, key: Key) -> Known:
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Known()
            _trim(self._known, TABLE_LIMIT)
        else:
            self._known.move_to_end(key)
        return known

    def _key(self, credential: Credential, host: str) -> Key:
        """Return a digest of 64 bits under a secret: enough to tell a few thousand apart, and a tenth of the cost of BLAKE2."""
        value = credential.value
        if credential.is_cookie and len(value) < reading.SHORT:
            value = f"{host}\0{credential.name}\0{value}"
        return hash(self._secret + value)

    def plant(self, lab: Lab) -> None:
        """Send the victim's own token in a call of the offender's."""
        token = os.urandom(12).hex()
        host = "planted.invalid"
        headers = [(b"authorization", f"Bearer {token}".encode())]
        victim, offender = lab.request(), lab.request(of_offender=True)
        if victim.scope is not None:
            victim.scope["headers"] = headers
        self.outgoing("GET", host, "/", headers, request=victim)
        self.outgoing("GET", host, "/", headers, request=offender)
        with self._lock:
            self._known.pop(self._key(Credential("authorization", token), host), None)
            for request in (victim, offender):
                self._came_in.pop(request.serial, None)
                if request.principal is not None:
                    self._people.pop(request.principal.id, None)


def _trim(table: OrderedDict[K, V], limit: int) -> None:
    while len(table) > limit:
        table.popitem(last=False)
