"""Raw stacks: taken in about a microsecond, turned into text only when a violation needs them.

A raw stack is a tuple of (code object, offset of the last instruction), innermost first. It holds code, never frames,
so it keeps nothing of the host alive. Measured: 1.7 us for 12 frames against 74 us for `traceback.extract_stack`.
"""

from __future__ import annotations

import os
import sys
from types import CodeType, FrameType
from typing import Any, Final

from isolation_monitor.telemetry.code_files import owner_of

RawStack = tuple[tuple[CodeType, int], ...]

DEPTH: Final = 20


def capture(skip: int = 1) -> RawStack:
    """Return the caller's stack without the `skip` innermost frames of the monitor itself.

    Where greenlets run (SQLAlchemy's asyncio layer), the frames of the greenlets that wait for this one follow.
    """
    taken: list[tuple[CodeType, int]] = []
    frame: FrameType | None = sys._getframe(skip)
    greenlet = sys.modules.get("greenlet")
    waiting: Any = greenlet.getcurrent() if greenlet is not None else None
    while len(taken) < DEPTH * 2:
        if frame is None:
            waiting = getattr(waiting, "parent", None)
            frame = getattr(waiting, "gr_frame", None)
            if frame is None:
                break
        taken.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(taken)


def of_function(function: object) -> RawStack:
    """Return a one-entry stack naming where a function is defined; empty when it is not a plain Python function."""
    code = getattr(function, "__code__", None) if type(function).__name__ in ("function", "method") else None
    return ((code, -1),) if isinstance(code, CodeType) else ()


def render(stack: RawStack) -> list[str]:
    """Return `file:line function` lines, innermost last, at most 20.

    Frames of the standard library, of installed packages and of the monitor are left out as long as one frame of the
    application remains: the reader looks for the application's own line. Paths below the working directory are relative.
    """
    lines = [(code, line_of(code, lasti)) for code, lasti in stack]
    own = [(code, line) for code, line in lines if not is_library(code.co_filename)]
    return [f"{_path(code.co_filename)}:{line} {code.co_qualname}" for code, line in reversed((own or lines)[:DEPTH])]


def line_of(code: CodeType, lasti: int) -> int:
    """Return the line of an instruction; the function's first where it is not known."""
    if lasti >= 0:
        for start, end, line in code.co_lines():
            if start <= lasti < end and line is not None:
                return line
    return code.co_firstlineno


def is_library(filename: str) -> bool:
    """Return whether a file is of the standard library, an installed package or the monitor."""
    return owner_of(filename) != "application"


def _path(filename: str) -> str:
    try:
        relative = os.path.relpath(filename)
    except (OSError, ValueError):
        # The working directory is gone, as after a release that takes the former one's folder away; or lies on another drive.
        return filename
    return filename if relative.startswith("..") else relative
