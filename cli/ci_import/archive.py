"""Takes the XML files out of an artifact: a zip file that a build made, and so maybe a hostile one.

Sizes are counted while inflating, whatever the zip file says of itself; nothing is written outside of the folder.
"""

from __future__ import annotations

import mimetypes
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from isolation_monitor.cli.junit import MAX_FILE_BYTES, JUnitError, NotJUnitError, Report, files_of, read_reports
from isolation_monitor.cli.printable import printable

MAX_ARCHIVE_BYTES: Final = 256 * 1024 * 1024
MAX_INFLATED_BYTES: Final = 512 * 1024 * 1024
MAX_FILES: Final = 10_000
_MAX_DIRECTORY_BYTES: Final = 32 * 1024 * 1024
"""The zip file's table of contents is read at once: this is some 300,000 members."""
_END: Final = b"PK\x05\x06"
_LOCATOR64: Final = b"PK\x06\x07"
_END64: Final = b"PK\x06\x06"
_PART: Final = 1024 * 1024
_NAME_CHARS: Final = 60
"""Of a name that becomes a file's: that may have 255 bytes, and a character has up to four."""


@dataclass(slots=True)
class Found:
    """What an artifact holds: the report of all its JUnit files, None without one, and what could not be read and why."""

    report: Report | None = None
    troubles: list[str] = field(default_factory=list)


class _Refused(Exception):
    """A member is not taken; the text says why."""


def read_artifact(archive: Path, name: str, folder: Path) -> Found:
    """Return what the artifact at `archive` holds; `folder` is empty and takes its files. A file that is wrong leaves the others."""
    found = Found()
    with archive.open("rb") as file:
        head = file.read(4096)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        # upload-artifact's `archive: false`: the file itself, without a zip file around it.
        plain = printable(PurePosixPath(name).name)[:_NAME_CHARS]
        (folder / (plain or "report.xml")).with_suffix(".xml").write_bytes(archive.read_bytes())
    elif not head.startswith(b"PK") and mimetypes.guess_type(name) != (None, None) and not name.endswith((".xml", ".zip")):
        # Without a zip file around it an artifact is called as the file: this is a page or a picture.
        return found
    else:
        try:
            _unpack(archive, folder, found.troubles)
        except (zipfile.BadZipFile, _Refused, OSError, ValueError, struct.error) as error:
            found.troubles.append(f"is no zip file that can be read ({error})")
            return found
    found.report = _read(folder, found.troubles)
    return found


def _read(folder: Path, troubles: list[str]) -> Report | None:
    """Read all files of the folder as one report, as `isomon ci report FOLDER` does, without those that are wrong or of another kind."""
    if next(folder.rglob("*.xml"), None) is None:
        return None
    paths = files_of(["."], folder)
    try:
        return read_reports(paths, folder)
    except JUnitError:
        good = []
        for path in paths:
            try:
                read_reports([path], folder)
            except NotJUnitError:
                continue
            except JUnitError as error:
                troubles.append(_told(error, folder))
            else:
                good.append(path)
    try:
        return read_reports(good, folder) if good else None
    except JUnitError as error:
        troubles.append(_told(error, folder))
        return None


def _told(error: JUnitError, folder: Path) -> str:
    return str(error).replace(f"{folder}/", "")


def _unpack(archive: Path, folder: Path, troubles: list[str]) -> None:
    """Write the XML members to the folder."""
    if _directory_bytes(archive) > _MAX_DIRECTORY_BYTES:
        raise _Refused("it lists more files than are looked through")
    left, files = MAX_INFLATED_BYTES, 0
    with zipfile.ZipFile(archive) as members:
        for member in members.infolist():
            if member.is_dir() or not member.filename.endswith(".xml"):
                continue
            files += 1
            if files > MAX_FILES:
                raise _Refused(f"it holds more than {MAX_FILES} XML files")
            inflated = _Inflated()
            try:
                _inflate(members, member, folder, left, inflated)
            # A library's errors for what it cannot unpack: RuntimeError is a password, NotImplementedError a method it does not know.
            except (_Refused, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, NotImplementedError) as error:
                told = error if isinstance(error, _Refused) else f"cannot be unpacked ({type(error).__name__})"
                troubles.append(f"{printable(member.filename)[:200]}: {told}")
            # What was refused or broken counts, too: it took as long.
            left = max(0, left - inflated.size)


@dataclass(slots=True)
class _Inflated:
    """How many bytes came of a member so far."""

    size: int = 0


def _inflate(members: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, left: int, inflated: _Inflated) -> None:
    """Write one member to the folder."""
    limit = min(left, MAX_FILE_BYTES)
    if member.file_size > limit:
        raise _Refused(_over(member.file_size, left))
    inside = PurePosixPath(member.filename.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts or ":" in inside.parts[0]:
        raise _Refused("its name leads out of the artifact")
    path = folder.joinpath(*inside.parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    # "x": of two members with one name, which may be a file and a folder too, the first stays.
    with members.open(member) as source, path.open("xb") as target:
        try:
            while part := source.read(_PART):
                inflated.size += len(part)
                if inflated.size > limit:
                    raise _Refused(_over(inflated.size, left))
                target.write(part)
        except BaseException:
            # The part that broke off was inflated, too.
            inflated.size += _PART
            path.unlink()
            raise


def _over(size: int, left: int) -> str:
    if size > MAX_FILE_BYTES:
        return f"has more than {MAX_FILE_BYTES} bytes, no more of a file are read: write one file a suite"
    return f"makes more than {MAX_INFLATED_BYTES} bytes of the artifact, of which {left} are left: upload it in parts"


def _directory_bytes(archive: Path) -> int:
    """Return how large the zip file says that its table of contents is, before a library reads it at once.

    Raises:
        zipfile.BadZipFile: there is none.
    """
    size = archive.stat().st_size
    with archive.open("rb") as file:
        start = max(0, size - 65_557 - 100)
        file.seek(start)
        tail = file.read()
        at = tail.rfind(_END)
        if at < 0 or at + 22 > len(tail):
            raise zipfile.BadZipFile("it has no end: it was cut off, or is something else")
        told = [int.from_bytes(tail[at + 12 : at + 16], "little")]
        if at >= 20 and tail[at - 20 : at - 16] == _LOCATOR64:
            # Above 4 GiB and in streams: the record stands where the locator says, or right before it.
            place = int.from_bytes(tail[at - 12 : at - 4], "little")
            for record in (place, start + at - 20 - 56):
                file.seek(max(0, min(record, size)))
                head = file.read(56)
                if head[:4] == _END64:
                    told.append(int.from_bytes(head[40:48], "little"))
        return max(told)
