"""Advisory locks on files, where the system has them; elsewhere every lock is free."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

fcntl: ModuleType | None
try:
    fcntl = importlib.import_module("fcntl")
except ImportError:  # Windows
    fcntl = None
IS_KNOWN: Final = fcntl is not None
"""Whether this system has such locks."""


def hold_while_open(fd: int) -> None:
    """Mark `fd` as in use for as long as it stays open, in this process or in one that inherited it."""
    if fcntl is not None:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return


def is_free(path: Path) -> bool:
    """Whether nobody holds `path` by `hold_while_open`. A file that cannot be asked counts as held while it exists."""
    if fcntl is None:
        return not path.exists()
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return not path.exists()
    return True


def take(fd: int) -> bool:
    """Hold the file of `fd` alone for as long as that stays open, here or where it was inherited; False when somebody else holds it."""
    if fcntl is not None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


@contextmanager
def exclusive(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold `path` alone. Without `wait` it yields False when somebody else holds it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError:
                yield False
                return
        yield True
    finally:
        os.close(fd)
