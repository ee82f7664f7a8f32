"""Code sites: where the application's code writes to a shared place, or else reads it: the lines that an engineer looks at first.

Found by name in the byte code when a place is reported; nothing is noted while requests run, and no code of the host runs.
"""

from __future__ import annotations

import dis
import re
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import itemgetter
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import stacks
from isolation_monitor.telemetry.detectors.places import codes_of

if TYPE_CHECKING:
    from isolation_monitor.telemetry.detectors.residue import Place

SITES_LIMIT: Final = 4
CODES_LIMIT: Final = 5_000
"""Functions looked at: some milliseconds at most, once for each report."""
_NAME: Final = re.compile(r"[A-Za-z_]\w*")
_KEY: Final = re.compile(r"\['([^']*)'\]")
_WRITES: Final = frozenset(("STORE_GLOBAL", "STORE_NAME", "STORE_ATTR", "STORE_DEREF"))
_READS: Final = frozenset(("LOAD_GLOBAL", "LOAD_NAME", "LOAD_ATTR", "LOAD_METHOD", "LOAD_DEREF", "LOAD_CLOSURE", "LOAD_CONST"))
_LEFT_OUT: Final = frozenset(("locals", "default", "state"))
"""Words of labels that no code names."""


def described(place: Place, modules_for: Callable[[str], Iterable[ModuleType]]) -> dict[str, Any]:
    """Return what evidence says of a shared place: what holds it, since when it is known, whose it was first, which code uses it.

    `modules_for` gives the modules to look through for a place's label; asked once for each place, for some report each crossing.
    """
    if place.code is None:
        place.code = sites_of(place.label, modules_for(place.label))
    first = next(iter(place.holdings.values()), None)
    return {
        "holder": place.holder,
        "since_seconds": round(time.monotonic() - place.since, 3),
        "again": place.again,
        "defined_in": place.label.partition(":")[0],
        "first_owner": first.principal.hash if first is not None else None,
        "code": place.code,
    }


def sites_of(label: str, modules: Iterable[ModuleType]) -> list[str]:
    """Return up to four places in code as `file:line function`, those that write first.

    Args:
        label: the way to a place as `shop.agents:agent.history[*]` (`residue.py`).
        modules: where to look, the likeliest first.

    >>> import isolation_monitor.telemetry.tokens as module
    >>> [site.rpartition(" ")[2] for site in sites_of("tokens:WRITTEN_LIMIT", [module])]
    ['tokens_of']
    """
    word = word_of(label)
    if not word:
        return []
    is_key = label.startswith("os.environ:")
    writes: list[tuple[str, int, int, CodeType]] = []
    reads: list[tuple[str, int, int, CodeType]] = []
    for code in _codes(modules):
        if word in code.co_names or word in code.co_freevars or word in code.co_cellvars or (is_key and _has_constant(code, word)):
            for offset, is_write in _mentions(code, word):
                (writes if is_write else reads).append((code.co_filename, code.co_firstlineno, offset, code))
        if len(writes) >= SITES_LIMIT:
            break
    found = (stacks.render(((code, offset),)) for kind in (writes, reads) for *_, offset, code in sorted(kind, key=itemgetter(0, 1, 2)))
    return list(islice(dict.fromkeys(line for lines in found for line in lines), SITES_LIMIT))


def word_of(label: str) -> str:
    """Return the name in code by which a place is reached: its last attribute, variable or, in the environment, key."""
    way = label.partition(":")[2]
    names = [name for name in _NAME.findall(_KEY.sub("", way)) if name not in _LEFT_OUT]
    return names[-1] if names else ""


def _codes(modules: Iterable[ModuleType]) -> Iterator[CodeType]:
    left = CODES_LIMIT
    for module in modules:
        for code in codes_of(module):
            if left <= 0:
                return
            left -= 1
            yield code


def _has_constant(code: CodeType, word: str) -> bool:
    return any(type(constant) is str and constant == word for constant in code.co_consts)


def _mentions(code: CodeType, word: str) -> Iterator[tuple[int, bool]]:
    for one in dis.get_instructions(code):
        if one.argval == word and type(one.argval) is str and (one.opname in _WRITES or one.opname in _READS):
            yield one.offset, one.opname in _WRITES
