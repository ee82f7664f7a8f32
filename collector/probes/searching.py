"""Searches what an endpoint answered for the operator's expressions, and never on the event loop where that may take long.

Python's expressions go back over what they have read: `.*ok.*` looks at a line of a mebibyte without "ok" half a million million
times, and holds all threads meanwhile. Such a search runs in a process of its own, which is killed when the check's time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from typing import Final

from isolation_monitor.collector.probes.connecting import ProbeFailed

SHORT_CHARS: Final = 2_000
"""Texts that are searched here and now."""
_REPEATING: Final = frozenset("*+{")
_SEARCH: Final = """
import re, sys
size = int(sys.argv[1])
given = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
sys.exit(10 if re.search(given[:size], given[size:]) else 11)
"""
_FOUND, _MISSING = 10, 11


async def is_found(pattern: re.Pattern[str], text: str) -> bool:
    """Return whether the expression matches anywhere. Cancelled, it leaves no process behind.

    Raises:
        ProbeFailed: the search could not be made.
    """
    if len(text) <= SHORT_CHARS or _REPEATING.isdisjoint(pattern.pattern):
        # Without a repetition the time grows with the text alone.
        return pattern.search(text) is not None
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    command = (sys.executable, "-I", "-S", "-c", _SEARCH, str(len(pattern.pattern)))
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=null, stderr=null)
    try:
        await process.communicate((pattern.pattern + text).encode("utf-8", "surrogatepass"))
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode not in (_FOUND, _MISSING):
        raise ProbeFailed("defect", f"the search for {pattern.pattern!r} ended with {process.returncode}")
    return process.returncode == _FOUND
