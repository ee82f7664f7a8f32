"""File stamps: how a file that others replace is seen to be another one."""

from __future__ import annotations

from pathlib import Path

Stamp = tuple[int, int, int] | None
"""None where there is no such file, or none that can be looked at."""


def stamp_of(file: str | Path) -> Stamp:
    """Return what tells one version of a file from another. Kubernetes swaps a link, so the file behind it counts."""
    try:
        seen = Path(file).stat()
    except OSError:
        return None
    return seen.st_ino, seen.st_size, seen.st_mtime_ns
