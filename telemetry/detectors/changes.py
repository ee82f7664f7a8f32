"""Changes: which shared fields hold other things than at the last walk. Those are worth a watch while requests take their steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from isolation_monitor.telemetry.detectors.object_walk import Node, step_of
from isolation_monitor.telemetry.detectors.raw_objects import Child
from isolation_monitor.telemetry.detectors.residue import Place, Residue
from isolation_monitor.telemetry.detectors.slots import content_of, is_scratch
from isolation_monitor.telemetry.recent import forget_oldest

LABELS_LIMIT: Final = 10_000
TOO_LARGE: Final = (-1, 0)
"""In place of the length and hash of a buffer that is left alone from then on."""
SHORT: Final = 4_096
"""Characters of a buffer that is worth a watch though it has only grown: reports are written into short ones, and logs into long ones."""


class Changes:
    """Compares each walk with the one before it. Remembers hashes and identities by label, never what stood there."""

    def __init__(self, residue: Residue) -> None:
        self._residue = residue
        self._seen: dict[str, int] = {}
        self._contents: dict[str, tuple[int, int]] = {}

    def objects(self, node: Node, now: float, *, has_baseline: bool) -> Iterator[tuple[Place, Child]]:
        """Yield the fields of an object that hold another object than before, or a buffer or list that was emptied and filled.

        `has_baseline` tells that what is not known yet came after the first request.
        """
        for child, label in self._residue.slots_in(node):
            before, now_known = self._seen.get(f"{label} is"), id(child.value)
            if before != now_known:
                self._remember(f"{label} is", now_known)
                if before is not None or has_baseline:
                    yield self._residue.place_of(node, child, label, now), child
        if not node.varies and node.library <= 1:
            for child in node.holds:
                if is_scratch(child.value) and type(child.key) is str:
                    label = node.label + step_of(child, False)
                    if self._is_reused(label, child.value):
                        yield self._residue.place_of(node, child, label, now), child

    def texts(self, node: Node, now: float, *, has_baseline: bool) -> Iterator[tuple[Place, Child]]:
        """Yield the fields of an object that hold another short text than before."""
        for child, label in self._residue.texts_in(node):
            known = hash(child.value)
            before = self._seen.get(label)
            if before != known:
                self._remember(label, known)
                if before is not None or has_baseline:
                    yield self._residue.place_of(node, child, label, now), child

    def _remember(self, label: str, known: int) -> None:
        self._seen[label] = known
        forget_oldest(self._seen, LABELS_LIMIT, 0.1)

    def _is_reused(self, label: str, value: object) -> bool:
        """Return whether a list or buffer does not begin with all that it held at the last walk: not just grown, but filled anew.

        A short buffer need not have been seen empty in between: few are shared, and none of them by intention.
        """
        before = self._contents.get(label)
        if before == TOO_LARGE:
            return False
        content = content_of(value)
        if content is None:
            self._note_content(label, TOO_LARGE)
            return False
        items: tuple[int, ...] | str = content if isinstance(content, str) else tuple(map(id, content))
        known = len(items), hash(items)
        if before == known:
            return False
        self._note_content(label, known)
        if before is None or not items:
            return False
        return (type(items) is str and len(items) <= SHORT) or (before[0] > 0 and hash(items[: before[0]]) != before[1])

    def _note_content(self, label: str, known: tuple[int, int]) -> None:
        self._contents[label] = known
        forget_oldest(self._contents, LABELS_LIMIT, 0.1)
