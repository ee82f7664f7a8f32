"""The folder of a service's spool: where it is, what is in it, and what of it nobody needs any more.

One file per process; below the same base each service has a folder of its own (0700, and ours, or it is not used).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isolation_monitor.telemetry.records.spool_file import CORRUPT_SUFFIX, LOCK_SUFFIX, SUFFIX, WAL, DamagedSpoolError, SpoolFile

AUTO: Final = "auto"
ORPHAN_EXPIRES_S: Final = 7 * 86_400.0
"""So long what a service left that nobody runs any more is kept, and what was damaged; seconds."""
_OURS: Final = re.compile(r"\d+-[0-9a-f]{8}(\.lock|\.spool(-wal|-shm)?(\.corrupt)?)")
"""Names of files as `spool_file` makes them: what else lies below a folder that a setting names is not ours to touch."""
_MOUNTS: Final = Path("/proc/self/mountinfo")
_PASSING_SYSTEMS: Final = frozenset({"overlay", "tmpfs", "ramfs", "aufs"})
"""File systems that end with the container or the machine."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What lies in the folder of one service. `bytes` counts everything; `files` are the spools of all its processes."""

    files: int
    bytes: int
    dead_letters: int
    corrupt: int


class SpoolFolder:
    """One service's folder. Building it touches nothing; `make` does."""

    def __init__(self, setting: str, service: str) -> None:
        self._is_chosen = setting == AUTO
        self.base = base_folder() if self._is_chosen else Path(setting)
        self.path = self.base / _folder_name(service)

    def make(self) -> None:
        """Make the folder where it is not there, for this user alone.

        Raises:
            OSError: it cannot be made or written, or it is somebody else's.
        """
        if self._is_chosen:
            # Everybody may write to the temporary folder: whoever made ours there first could exchange what is in it.
            for folder in (self.base.parent, self.base):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._check()
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check()
        if self.path.lstat().st_mode & 0o077:
            self.path.chmod(0o700)
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise PermissionError(f"{self.path} cannot be written")

    def _check(self) -> None:
        """Look at what is there already of the folders that `make` makes.

        Raises:
            OSError: one is no folder, or somebody else's.
        """
        for folder in (self.base.parent, self.base) if self._is_chosen else ():
            if os.path.lexists(folder):
                found = folder.lstat()
                if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022 or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
                    raise PermissionError(f"{folder} is not this user's own folder: remove it, or set ISOLATION_SPOOL_DIR")
        if os.path.lexists(self.path):
            found = self.path.lstat()
            if not stat.S_ISDIR(found.st_mode):
                raise NotADirectoryError(f"{self.path} is no folder")
            if hasattr(os, "getuid") and found.st_uid != os.getuid():
                raise PermissionError(f"{self.path} belongs to another user")

    def try_to_write(self) -> None:
        """Write something where the folder is, or would be made, and leave nothing behind: who asks may be another user than the service's.

        Raises:
            OSError: as `make`; or the disk is full.
        """
        self._check()
        with tempfile.TemporaryFile(dir=_existing(self.path)) as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())

    def adopt(self, without: Path | None, on_damage: Callable[[Path], None]) -> SpoolFile | None:
        """Take over one file of this service whose process has ended; None when there is none. `on_damage` hears of those set aside."""
        for path in _with_suffix(self.path, SUFFIX):
            if path == without:
                continue
            try:
                found = SpoolFile.adopt(path)
            except DamagedSpoolError:
                on_damage(path)
                continue
            except (OSError, sqlite3.Error):
                # A later version's, or one that cannot be read now: it stays for whoever can.
                continue
            if found is not None:
                return found
        return None

    def others_bytes(self, ours: Iterable[Path]) -> int:
        """Return the bytes of everything in the folder but these files."""
        mine = {one for path in ours for one in (path, path.with_name(path.name + WAL))}
        return sum(size for path, size in _sizes(self.path) if path not in mine)

    def contents(self) -> Contents:
        """Return what lies here; nothing where the folder cannot be read."""
        sizes = dict(_sizes(self.path))
        return Contents(
            files=sum(_is_ours(path, SUFFIX) for path in sizes),
            bytes=sum(sizes.values()),
            dead_letters=sum(size for path, size in sizes.items() if path.name.startswith("dead-letters")),
            corrupt=sum(_is_ours(path, SUFFIX + CORRUPT_SUFFIX) for path in sizes),
        )

    def remove_expired(self, older_than_s: float = ORPHAN_EXPIRES_S) -> int:
        """Remove what other services left that nobody runs any more, and what is damaged, once nothing wrote to it for so long.

        Returns how many records were in it. What this service itself left is adopted and sent, however old it is.
        """
        records = 0
        now = time.time()
        for folder in _folders(self.base):
            for path in _with_suffix(folder, CORRUPT_SUFFIX):
                if now - _modified(path) > older_than_s:
                    with contextlib.suppress(OSError):
                        path.unlink()
            for path in _with_suffix(folder, LOCK_SUFFIX):
                # Of a process that ended between making the lock and the file. Adopting what is not there removes the rest of it.
                file = path.with_suffix(SUFFIX)
                if not file.exists() and now - _modified(path) > older_than_s:
                    with contextlib.suppress(OSError, sqlite3.Error):
                        SpoolFile.adopt(file)
            if folder == self.path:
                continue
            for path in _with_suffix(folder, SUFFIX):
                if now - max(_modified(path), _modified(path.with_name(path.name + WAL))) > older_than_s:
                    with contextlib.suppress(Exception):
                        # Also one that cannot be opened: then nobody will ever send it.
                        records += _remove(path)
        return records

    def is_passing(self) -> bool:
        """Whether it lies on a file system that ends with the container, or with the machine's next start, as far as that can be told."""
        try:
            real = _existing(self.path).resolve()
            best, system = "", ""
            for line in _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
                left, _, right = line.partition(" - ")
                point = left.split()[4].encode().decode("unicode_escape")
                if len(point) >= len(best) and (real.is_relative_to(point)):
                    best, system = point, right.split()[0]
        except (OSError, IndexError, ValueError):
            return False
        return system in _PASSING_SYSTEMS


def base_folder() -> Path:
    """Return the folder that is used where no setting says another: the user's for state, else one below the temporary folder."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    name = f"isolation-monitor-{user}"
    state = os.environ.get("XDG_STATE_HOME")
    try:
        folders = [Path(state) if state else Path.home() / ".local" / "state", Path(tempfile.gettempdir())]
    except RuntimeError:
        # A user without a home, as containers have them.
        folders = [Path(tempfile.gettempdir())]
    for folder in folders:
        if os.access(_existing(folder / name), os.W_OK | os.X_OK):
            return folder / name / "spool"
    return folders[-1] / name / "spool"


def _existing(path: Path) -> Path:
    """Return a path, or the nearest above it that is there."""
    return next((one for one in (path, *path.parents) if one.exists()), Path("/"))


def _folder_name(service: str) -> str:
    """Return a name for a service's folder, which no other service has: evidence must not go out under another one's name."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", service)[:64].lstrip(".")
    return plain if plain == service else f"{plain or 'service'}-{hashlib.sha256(service.encode()).hexdigest()[:8]}"


def _is_ours(path: Path, suffix: str) -> bool:
    return path.name.endswith(suffix) and _OURS.fullmatch(path.name) is not None


def _remove(path: Path) -> int:
    file = SpoolFile.adopt(path)
    if file is None:
        return 0
    records = file.records
    file.discard()
    return records


def _folders(base: Path) -> list[Path]:
    try:
        return [path for path in base.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return []


def _with_suffix(folder: Path, suffix: str) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if _is_ours(path, suffix))
    except OSError:
        return []


def _sizes(folder: Path) -> Iterator[tuple[Path, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    yield Path(entry.path), entry.stat(follow_symlinks=False).st_size
    except OSError:
        return


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
