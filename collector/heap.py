"""The heap at rest: what stands for as long as the collector serves is no longer looked through for garbage.

A full look of Python's collector walks every object there is: after the start those are half a million of modules, routes and
statements, and the event loop stands for a tenth of a second, once in some ten thousand records. Set aside, they cost nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heap_at_rest() -> Iterator[None]:
    """Set aside what is alive now, until the block ends."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
