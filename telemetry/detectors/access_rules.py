"""Access rules: who may see a shared resource (a room, a document, a workspace), by the application's own word.

`monitor.shared("room_id", access=may_see)`: a request that names a room and is answered, though the rule says no, is
reported as unscoped access. A read (GET, HEAD, a WebSocket's handshake) is judged when its answer starts. Other methods may
change who has access, so they are judged only where the rule had said no when the request's body came in, too.
"""

from __future__ import annotations

import inspect
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from isolation_monitor.telemetry import names, stacks
from isolation_monitor.telemetry.errors import SettingsError
from isolation_monitor.telemetry.violations import Resource, Violation, side_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.kit import Kit
    from isolation_monitor.telemetry.principals import Scope

Rule = Callable[[str, str], object]
"""Called with the user's id and the value that the request named; true when he may see it."""

READS: Final = frozenset({"GET", "HEAD"})
REFUSED_LIMIT: Final = 1_000
VALUES_LIMIT: Final = 20
"""Values of one parameter that one request may name; more are not asked about."""


class AccessRules:
    """Compares what requests name with what their users may see. Called on the event loop, in the request's context."""

    def __init__(self, kit: Kit) -> None:
        self._reporter = kit.reporter
        self._switch = kit.switches[names.UNSCOPED_ACCESS]
        self.rules: dict[str, Rule] = {}
        """By the name of the parameter or field; empty where nothing was declared, so that requests cost nothing."""
        self._refused: dict[int, set[tuple[str, str]]] = {}
        """What requests that may change access named without having any, by serial number."""

    def declare(self, parameter: str, access: Rule) -> None:
        """Add a rule.

        Raises:
            SettingsError: `parameter` is no name, has a rule already, or `access` is no plain function of two arguments.
        """
        if not isinstance(parameter, str) or not parameter:
            raise SettingsError(f"shared() got {parameter!r}: name the path parameter, query parameter or field that holds the id")
        if parameter in self.rules:
            raise SettingsError(f"shared({parameter!r}) was declared already: one rule decides about one parameter")
        if not callable(access) or inspect.iscoroutinefunction(access):
            raise SettingsError(
                f"shared({parameter!r}) got access={access!r}: pass a plain function of (user id, value) that waits for nothing"
            )
        try:
            inspect.signature(access).bind("user", "value")
        except TypeError as error:
            raise SettingsError(f"shared({parameter!r}): access cannot be called with (user id, value): {error}") from None
        except ValueError:
            # Written in C: nobody can tell before it is called.
            pass
        self.rules[parameter] = access

    def came_in(self, request: RequestContext, scope: Scope, text: str, *, is_form: bool) -> None:
        """Note what a request names in its body, before the application acts upon it."""
        named = {pair for pair in (*in_scope(scope, self.rules), *_in_body(text, self.rules, is_form)) if not self._may(request, *pair)}
        if named:
            self._refused[request.serial] = named
            if len(self._refused) > REFUSED_LIMIT:
                self._refused.pop(next(iter(self._refused)), None)

    def answering(self, request: RequestContext, scope: Scope) -> bool:
        """Judge a request that is about to be answered well; return True when it was not his to see."""
        principal = request.principal
        before = self._refused.pop(request.serial, None)
        if not self._switch.is_on:
            return False
        if principal is None or principal.is_credential:
            self._reporter.skipped(names.UNSCOPED_ACCESS)
            return False
        is_read = scope.get("method", "GET") in READS
        candidates = set(in_scope(scope, self.rules)) if is_read else before or set()
        for parameter, value in candidates:
            if not self._may(request, parameter, value):
                self._report(request, parameter)
                return True
        if candidates or is_read:
            self._reporter.checked(names.UNSCOPED_ACCESS)
        return False

    def _may(self, request: RequestContext, parameter: str, value: str) -> bool:
        """Ask the application. A rule that fails accuses nobody, and is counted."""
        if request.principal is None:
            return True
        try:
            return bool(self.rules[parameter](request.principal.id, value))
        except Exception as error:
            self._reporter.check_failed(names.UNSCOPED_ACCESS, "detector", error)
            return True

    def _report(self, request: RequestContext, parameter: str) -> None:
        rule = self.rules[parameter]
        self._reporter.report(
            Violation(
                kind=names.UNSCOPED_ACCESS,
                grade="reachable",
                summary=f"{request.route} answered about a {parameter} that its user may not see",
                resource=Resource("shared_resource", parameter, {"rule": (stacks.render(stacks.of_function(rule)) or ["?"])[-1]}),
                victim=None,
                offender=side_of(request, request.endpoint_stack),
                arm=request.arm,
            ),
            request,
        )


def in_scope(scope: Scope, rules: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield what the path and the query name, of the parameters that are keys of `rules`."""
    parameters = scope.get("path_params") or {}
    for name in rules.keys() & parameters.keys():
        if type(parameters[name]) in (str, int, uuid.UUID):
            yield name, str(parameters[name])
    query = scope.get("query_string", b"")
    if query:
        yield from _chosen(parse_qsl(query.decode("latin-1"), max_num_fields=200), rules)


def _in_body(text: str, rules: dict[str, Rule], is_form: bool) -> Iterator[tuple[str, str]]:
    """Yield what the fields of a form, or the outermost fields of a JSON object, name."""
    try:
        pairs = parse_qsl(text, max_num_fields=200) if is_form else list(dict(json.loads(text)).items())
    except (ValueError, TypeError, RecursionError):
        return
    yield from _chosen(pairs, rules)


def _chosen(pairs: list[tuple[Any, Any]], rules: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in [pair for pair in pairs if pair[0] in rules][:VALUES_LIMIT]:
        if type(value) in (str, int):
            yield name, str(value)
