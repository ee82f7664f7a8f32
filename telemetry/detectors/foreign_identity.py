"""Foreign identity: a declared identity field in an answer or frame that names another principal.

Sees: `"user_id": "..."` pairs of the declared fields, anywhere in a JSON body or text frame, compared with the id of the
request's (or connection's) principal. Numbers and strings compare by their text.
Cannot see: principals known only by a credential (no extractor declared: counted as skipped), bodies above the limit or
in an encoding other than identity, gzip or deflate, ids written in any other form.
Cost: three searches per declared field (about 5 us for 5 kB full of them), and a regular expression where one of them may
be foreign (25 us). Precision: that of the declaration: a field that may rightly name somebody else (an author, a member
list) is not an identity field.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.principals import Principals
from isolation_monitor.telemetry.violations import Reporter, Resource, Side, Violation, escalate_causes, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry import stacks
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.principals import Principal

_INFLATED_LIMIT: Final = 4 * 1024 * 1024


class IdentityFields:
    """Finds values of the declared fields in JSON text without parsing it."""

    def __init__(self, fields: Iterable[str]) -> None:
        self.fields = tuple(fields)
        alternatives = "|".join(re.escape(f) for f in self.fields)
        pattern = rf'"({alternatives})"\s*:\s*(?:"((?:[^"\\]|\\.)*)"|(-?\d+))'
        self._text = re.compile(pattern)
        self._bytes = re.compile(pattern.encode())
        self._keys = tuple(f'"{f}"' for f in self.fields)
        self._keys_bytes = tuple(key.encode() for key in self._keys)

    def foreign_in_text(self, text: str, own: str) -> tuple[str, str] | None:
        """Return (field, value) of the first declared field that does not name `own`; None when all do."""
        # Where each key that there is stands right before the own id, nothing foreign can follow one. Counting both is
        # several times cheaper than matching; every other answer is matched.
        for key in self._keys:
            if (found := text.count(key)) and text.count(f'{key}:"{own}"') + text.count(f'{key}: "{own}"') != found:
                break
        else:
            return None
        for field, quoted, number in self._text.findall(text):
            value = quoted or number
            if value and value != own and _unescaped(value) != own:
                return field, _unescaped(value)
        return None

    def foreign_in_bytes(self, body: bytes, own: str) -> tuple[str, str] | None:
        """As `foreign_in_text`, for UTF-8."""
        own_bytes = own.encode("utf-8", "surrogatepass")
        for key in self._keys_bytes:
            if (found := body.count(key)) and body.count(b'%b:"%b"' % (key, own_bytes)) + body.count(
                b'%b: "%b"' % (key, own_bytes)
            ) != found:
                break
        else:
            return None
        for field, quoted, number in self._bytes.findall(body):
            value = quoted or number
            if value and value != own_bytes:
                text = _unescaped(value.decode("utf-8", "replace"))
                if text != own:
                    return field.decode("utf-8", "replace"), text
        return None


class Proof:
    """Plants an answer to the offender that names the victim in a declared field; in `user_id` where none is declared."""

    def __init__(self, reporter: Reporter, principals: Principals, declared: Callable[[], IdentityFields | None]) -> None:
        self._reporter = reporter
        self._principals = principals
        self._declared = declared

    def plant(self, lab: Lab) -> None:
        identity = self._declared() or IdentityFields(("user_id",))
        found = identity.foreign_in_bytes(f'{{"{identity.fields[0]}": "{lab.victim.id}"}}'.encode(), lab.offender.id)
        if found is not None:
            report(self._reporter, self._principals, lab.request(of_offender=True), found, "the answer")


def _unescaped(value: str) -> str:
    if "\\" not in value:
        return value
    import json  # late: escaped identities are rare

    try:
        return str(json.loads(f'"{value}"'))
    except ValueError:
        return value


def inflated(body: bytes, encoding: bytes) -> bytes | None:
    """Return the body without its content coding; None for a coding that is not known here or a body that inflates too far."""
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"deflate"):
        return None
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
    plain = inflater.decompress(body, _INFLATED_LIMIT)
    return None if inflater.unconsumed_tail else plain


def report(
    reporter: Reporter,
    principals: Principals,
    request: RequestContext,
    found: tuple[str, str],
    where: str,
    *,
    kind: str = names.FOREIGN_IDENTITY,
    stack: stacks.RawStack = (),
    run_id: str | None = None,
) -> None:
    """Report that `request` answered with another principal's identity, and raise the grade of what made it possible."""
    field, value = found
    victim = principals.named(value)
    cause = escalate_causes(reporter, request, victim, f"the answer's field {field} named the victim")
    reporter.report(
        Violation(
            kind=kind,
            grade="crossed",
            summary=f"{where} of {request.route} named another principal in {field}",
            resource=Resource("field", field, {"where": where}),
            victim=_victim_side(victim, cause),
            offender=side_of(request, stack, run_id=run_id),
            arm=request.arm,
            detail={"cause": cause.id} if cause else {},
        ),
        request,
    )


def _victim_side(victim: Principal, cause: Violation | None) -> Side:
    if cause is not None and cause.victim is not None:
        return cause.victim
    return side_of(None, principal=victim)
