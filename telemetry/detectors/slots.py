"""Slots: shared places under watch while requests take their steps, each with who wrote what there.

A `Slot` is a field that is written over. A `Scratch` is a buffer or a list that requests empty and fill, one while another is at
work with it. Both tell whether a text carries what another request put in place of this one's own.
"""

from __future__ import annotations

import io
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry.detectors.object_walk import Node
from isolation_monitor.telemetry.detectors.raw_objects import CHILDREN_LIMIT, Child, is_leaf, plain
from isolation_monitor.telemetry.detectors.spots import Spot
from isolation_monitor.telemetry.provenance import texts_in
from isolation_monitor.telemetry.tokens import tokens_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.context import RequestContext
    from isolation_monitor.telemetry.detectors.residue import Place

WRITES_KEPT: Final = 16
SCRATCH_WRITES_KEPT: Final = 64
MARKS_KEPT: Final = 20
TEXT_LIMIT: Final = 2_000
SCRATCH_LIMIT: Final = 65_536
"""Bytes or characters of a buffer that is looked at as a whole at each step; a larger one is left alone."""

_BUFFERS: Final = frozenset(map(id, (io.StringIO, io.BytesIO, bytearray)))

Content = str | tuple[object, ...]
Crossing = tuple["RequestContext | None", frozenset[str]]
"""The other request, and the marks of its own that a text carries."""


class Write:
    """One change of a slot. `marks` are the tokens by which it is recognised; `resets` tells that nothing before it is left.

    `empties` tells that the same object was emptied: whoever does that means to have it for himself from there on.
    """

    __slots__ = ("empties", "marks", "request", "resets")

    def __init__(self, request: RequestContext | None, marks: frozenset[str], *, resets: bool = True, empties: bool = False) -> None:
        self.request = request
        """None where something else than a watched request's step wrote."""
        self.marks = marks
        self.resets = resets
        self.empties = empties


class Slot:
    """One field that all requests reach, with who wrote it last. Holds its holder until the watch is dropped."""

    __slots__ = ("place", "seen", "spot", "writes")

    def __init__(self, place: Place, node: Node, child: Child, *, follows: bool = False) -> None:
        self.place = place
        self.spot = Spot(node, child, follows=follows)
        self.seen: object = child.value
        self.writes: deque[Write] = deque(maxlen=WRITES_KEPT)

    def look(self, by: RequestContext | None) -> None:
        """Note a change since the last look, made by a request's step or, with None, by others."""
        value = self.spot.read()
        if value is not self.seen:
            self.seen = value
            self.writes.append(Write(by, marks_in(value)))

    def crossing(self, request: RequestContext, text: str) -> Crossing | None:
        """Return what of another principal's request a text carries in place of what this request wrote; None for nothing."""
        own: Write | None = None
        for write in self.writes:
            if write.request is request:
                own = write
            elif own is not None and write.request is not None and write.request.is_of_another(request):
                foreign = write.marks - own.marks
                if foreign and carries(text, foreign) and not carries(text, own.marks):
                    return write.request, foreign
        return None


class Scratch(Slot):
    """A buffer or list that a field holds for good. Its content is compared at each step."""

    __slots__ = ("_content", "_is_over")

    def __init__(self, place: Place, node: Node, child: Child, *, follows: bool = False) -> None:
        super().__init__(place, node, child, follows=follows)
        self._content = content_of(child.value)
        self._is_over = False
        """Grown too large, closed or replaced by something else: not looked at any more."""
        self.writes = deque(maxlen=SCRATCH_WRITES_KEPT)

    def look(self, by: RequestContext | None) -> None:
        if self._is_over:
            return
        value = self.spot.read()
        before, now = self._content, content_of(value)
        is_same_object = value is self.seen
        self.seen, self._content = value, now
        if now is None or before is None:
            self._is_over = True
            return
        if is_same(before, now):
            return
        added, resets = _added(before, now)
        self.writes.append(Write(by, added, resets=resets, empties=resets and is_same_object))

    def crossing(self, request: RequestContext, text: str) -> Crossing | None:
        own: list[frozenset[str]] = []
        lost: list[frozenset[str]] = []
        foreign: dict[str, RequestContext | None] = {}
        has_emptied = was_mine = False
        is_buffer = isinstance(self._content, str)
        for write in self.writes:
            if write.request is request:
                own.append(write.marks)
                was_mine = was_mine or write.empties
                # Who had a buffer for himself and writes on into it has not noticed that another emptied it in between.
                # A list that both load anew, and one of them adds to, may be everybody's.
                has_emptied = has_emptied or write.empties or (was_mine and is_buffer)
            elif own and write.request is not None and write.request.is_of_another(request):
                if write.resets:
                    # What this request had put there is gone, and not by its own hand.
                    lost, has_emptied = own[:], False
                if lost or has_emptied:
                    foreign.update(dict.fromkeys(write.marks, write.request))
        mine = frozenset[str]().union(*own)
        carried = frozenset(mark for mark in foreign if mark not in mine and mark in text)
        if carried and (has_emptied or any(marks and not carries(text, marks) for marks in lost)):
            return foreign[next(iter(carried))], carried
        return None


def is_scratch(value: object) -> bool:
    """Return whether something is a buffer or a plain list: what can be emptied and filled while it stays the same object."""
    return type(value) is list or id(type(value)) in _BUFFERS


def content_of(value: Any) -> Content | None:
    """Return a copy of what a buffer or list holds now, raw; None where it is too large, closed or something else."""
    kind = type(value)
    try:
        if kind is io.StringIO:
            # Its size is not told without a copy; a buffer that was filled to the limit once is rarely small again.
            text = io.StringIO.getvalue(value)
            return text if len(text) <= SCRATCH_LIMIT else None
        if kind is io.BytesIO:
            with io.BytesIO.getbuffer(value) as view:
                return view.tobytes().decode("utf-8", "replace") if view.nbytes <= SCRATCH_LIMIT else None
        if kind is bytearray:
            return value.decode("utf-8", "replace") if len(value) <= SCRATCH_LIMIT else None
        return tuple(list.__getitem__(value, slice(-CHILDREN_LIMIT, None))) if kind is list else None
    except (ValueError, BufferError):
        return None


def is_same(before: Content, now: Content) -> bool:
    """Return whether two contents are the same: texts by value, lists by the identity of their items."""
    if isinstance(before, str) or isinstance(now, str):
        return before == now if type(before) is type(now) else False
    return len(before) == len(now) and all(a is b for a, b in zip(before, now, strict=True))


def _added(before: Content, now: Content) -> tuple[frozenset[str], bool]:
    """Return the marks of what a change added, and whether nothing of what was there before is left."""
    if isinstance(before, str) and isinstance(now, str):
        if now.startswith(before):
            return frozenset(tokens_of(now[len(before) : len(before) + TEXT_LIMIT])[:MARKS_KEPT]), False
        return marks_in(now) - marks_in(before), len(now) < len(before) or not carries(now, marks_in(before))
    known = {id(item) for item in before}
    fresh = [item for item in now if id(item) not in known]
    return marks_in(fresh), bool(before) and len(fresh) == len(now)


def marks_in(value: Any) -> frozenset[str]:
    """Return by what a value is recognised: its tokens."""
    if value is None:
        return frozenset()
    if is_leaf(value):
        return frozenset(tokens_of(plain(value)[:TEXT_LIMIT])[:MARKS_KEPT])
    found: list[str] = []
    for text in texts_in(value, 2):
        found += tokens_of(text[:TEXT_LIMIT])
        if len(found) >= MARKS_KEPT:
            break
    return frozenset(found[:MARKS_KEPT])


def carries(text: str, marks: frozenset[str]) -> bool:
    """Return whether a text carries one of these marks."""
    return any(mark in text for mark in marks)
