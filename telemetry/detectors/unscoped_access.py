"""Unscoped access: rows of a model that belongs to users, read without regard to whom they belong.

Sees: of models declared with `monitor.owns`, each ORM SELECT within a request (`selected`: does it ask for the principal's
rows?) and each row that becomes an object (`loaded`: whose is it?). A query counts as scoped when it compares the owner
column with the principal, or anything else with the principal's id (a join over the user's own row); look-ups by primary
key and loads of relationships are judged by the row. Also answers about shared resources (rooms, documents) to users who may
not see them, by the rule that `monitor.shared` declares (`access_rules.py`).
Cannot see: undeclared models; Core statements and raw SQL (their rows are no objects); rows that the session had already;
principals that are known by a credential only, whose id no column holds. Owners are compared as text.
Cost: nothing until a model is declared; then SQLAlchemy's own event for every ORM SELECT (20 us), and of declared models
about 25 us more per SELECT and 5 us per row.
Precision: what the application then refused is no violation: a row is reported when its request did not end in 4xx.
`with monitor.unscoped(reason)` is the way to say that reading everybody's rows is meant.
Grades: `reachable`; `crossed` when the content leaves (`foreign_content`). In `block` mode the query is refused before it runs.
"""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.context import CURRENT, clock
from isolation_monitor.telemetry.errors import UnscopedAccessError
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.lab import Lab
    from isolation_monitor.telemetry.principals import Principal
    from isolation_monitor.telemetry.stacks import RawStack

logger = logging.getLogger("isolation_monitor")

SITES_LIMIT: Final = 1_000
"""Places in the code that were reported; each is reported once per kind of access."""
LOOK_AGAIN_S: Final = 0.2
"""How often a request is asked whether it is over, before a row that it loaded is judged."""
PATIENCE_S: Final = 60.0
"""How long that goes on; a longer request is judged as if it had answered."""
WAITING_LIMIT: Final = 1_000

_unscoped: ContextVar[str | None] = ContextVar("isolation_monitor_unscoped", default=None)


class UnscopedAccess:
    """Compares whose rows are read with who reads them."""

    def __init__(self, kit: Kit) -> None:
        self._switch = kit.switches[names.UNSCOPED_ACCESS]
        self._reporter = kit.reporter
        self._housekeeper = kit.housekeeper
        self._sites: dict[object, None] = {}
        self._waiting = 0
        self._reasons: set[tuple[str, object]] = set()

    # --- what the integration says ----------------------------------------------------------------------------------

    def reader(self) -> Principal | None:
        """Return the principal whose reads are to be judged now; None when nobody's are."""
        request = CURRENT.get()
        if not self._switch.is_on or request is None or request.finished:
            return None
        principal = request.principal
        if principal is None or principal.is_credential or _unscoped.get() is not None:
            self._reporter.skipped(names.UNSCOPED_ACCESS)
            return None
        return principal

    def selected(self, model: str, column: str, wanted: Iterable[object]) -> None:
        """Note that the current request selects rows of an owned model.

        Args:
            wanted: the values that the query compares with; the owner column's, or anybody's.

        Raises:
            UnscopedAccessError: in `block` mode, when the principal is not among them.
        """
        request, principal = CURRENT.get(), self.reader()
        if request is None or principal is None:
            return
        if any(is_same(value, principal) for value in wanted):
            self._reporter.checked(names.UNSCOPED_ACCESS)
            return
        stack = stacks.capture(3)
        if self._is_new(model, "select", stack):
            self._report(request, model, column, f"rows of {model} were selected without asking for the principal's own", stack, None)
        if self._switch.blocks:
            raise UnscopedAccessError(
                f"a query for {model} does not compare {column} with the user of the request: "
                f"add that condition, or say `with monitor.unscoped(reason=...)` where everybody's rows are meant"
            )

    def loaded(self, model: str, column: str, owner: object) -> None:
        """Note that the current request received a row of an owned model. `owner`: its id, or all of them."""
        request, principal = CURRENT.get(), self.reader()
        if request is None or principal is None:
            return
        owners = owner if isinstance(owner, (list, tuple, set, frozenset)) else (owner,)
        known = [one for one in owners if as_text(one) is not None]
        if not known:
            # Nobody's row (a template, a public one), or an owner that cannot be read without running the host's code.
            self._reporter.skipped(names.UNSCOPED_ACCESS)
        elif any(is_same(one, principal) for one in known):
            self._reporter.checked(names.UNSCOPED_ACCESS)
        else:
            self._judge_at_end(request, model, column, stacks.capture(3), as_text(known[0]))

    @contextmanager
    def unscoped(self, reason: str) -> Iterator[None]:
        """Let everything be read in this block; the reason is logged once per place."""
        stack = stacks.capture(3)
        if (reason, stack[:1]) not in self._reasons and len(self._reasons) < SITES_LIMIT:
            self._reasons.add((reason, stack[:1]))
            logger.info("isolation monitor: rows are read unscoped on purpose: %s [%s]", reason, (stacks.render(stack) or ["?"])[-1])
        token = _unscoped.set(reason)
        try:
            yield
        finally:
            # Not by the token: a generator may be left in another context than it was entered in.
            _unscoped.set(token.old_value if isinstance(token.old_value, str) else None)

    # --- judgement --------------------------------------------------------------------------------------------------

    def _judge_at_end(self, request: RequestContext, model: str, column: str, stack: RawStack, owner: str | None) -> None:
        if not self._is_new(model, "load", stack, request):
            return
        if self._waiting >= WAITING_LIMIT:
            self._reporter.skipped(names.UNSCOPED_ACCESS)
            return
        self._waiting += 1
        self._housekeeper.after(0.0, functools.partial(self._judge, request, model, column, stack, owner, clock() + PATIENCE_S))

    def _judge(self, request: RequestContext, model: str, column: str, stack: RawStack, owner: str | None, until: float) -> None:
        """Report a row of somebody else's once its request has answered, unless it was refused."""
        principal = request.principal
        if not request.finished and not request.responded and clock() < until and principal is not None and not principal.is_synthetic:
            self._housekeeper.after(LOOK_AGAIN_S, functools.partial(self._judge, request, model, column, stack, owner, until))
            return
        self._waiting -= 1
        if 400 <= request.status < 500:
            self._reporter.checked(names.UNSCOPED_ACCESS)
            return
        self._report(request, model, column, f"a row of {model} that belongs to somebody else was loaded", stack, owner)

    def _report(self, request: RequestContext, model: str, column: str, summary: str, stack: RawStack, owner: str | None) -> None:
        self._reporter.report(
            Violation(
                kind=names.UNSCOPED_ACCESS,
                grade="reachable",
                summary=summary,
                resource=Resource("model", model, {"owner": column}),
                victim=None,
                offender=side_of(request, stack),
                arm=request.arm,
                detail={"foreign_row": owner is not None},
            ),
            request,
        )

    def _is_new(self, model: str, access: str, stack: RawStack, request: RequestContext | None = None) -> bool:
        # By place for queries; rows are judged per request, because each is somebody's: one finding is enough of each place.
        site = (model, access, tuple(code for code, _ in stack[:12]), request.serial if request is not None else 0)
        if site in self._sites:
            return False
        self._sites[site] = None
        if len(self._sites) > SITES_LIMIT:
            self._sites.pop(next(iter(self._sites)), None)
        return True

    # --- proof ------------------------------------------------------------------------------------------------------

    def plant(self, lab: Lab) -> None:
        """Let a synthetic request select rows that it did not ask the owner of."""
        request = lab.request(of_offender=True)
        request.status = 200
        lab.inside(request, self.loaded, "planted", "user_id", lab.victim.id)


def as_text(value: object) -> str | None:
    """Return an id as text; None for what is no plain id, whose text only the host's code could tell."""
    kind = type(value)
    if kind is str:
        return value  # type: ignore[return-value]  # an exact str
    return str(value) if kind in (int, uuid.UUID) else None


def is_same(value: object, principal: Principal) -> bool:
    """Return whether a value is the principal's id; UUIDs with and without dashes are one."""
    text = as_text(value)
    if text is None:
        return isinstance(value, (list, tuple, set, frozenset)) and any(is_same(one, principal) for one in value)
    return text == principal.id or (len(text) >= 32 and text.replace("-", "").lower() == principal.id.replace("-", "").lower())
