"""Suppressions: violations that a service accepts for now, each with a reason and a day on which that ends.

The file, `isolation-suppressions.toml`:

    [[suppress]]
    kind = "shared_state"
    site = "app/agents.py:*"        # a glob on a stack line of either side, or on the resource's name
    expires = 2026-12-31            # at most a year ahead; the day itself still counts
    reason = "the agent cache is rebuilt in March, ticket 123"

A suppressed violation is still sent as evidence, and counted on its own; its requests become unverified, never isolated.
A wrong file fails at start. Expired entries suppress nothing any more; `isomon doctor` names them and those never used.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.errors import SettingsError

if TYPE_CHECKING:
    from isolation_monitor.telemetry.violations import Violation

DEFAULT_FILE: Final = "isolation-suppressions.toml"
LONGEST: Final = timedelta(days=366)
KEYS: Final = ("kind", "site", "expires", "reason")
_HEADER: Final = re.compile(r"\s*\[\[\s*suppress\s*\]\]")
_NAMES_NO_PLACE: Final = re.compile(r"[*?\s:./\\]*")


@dataclass(slots=True)
class Suppression:
    """One entry. `hits` counts the violations that it suppressed in this process."""

    kind: str
    site: str
    expires: date
    reason: str
    line: int
    hits: int = field(default=0, compare=False)

    def fits(self, violation: Violation) -> bool:
        """Return whether the entry speaks of this violation, its expiry aside."""
        if violation.kind != self.kind:
            return False
        lines = [line for side in (violation.victim, violation.offender) if side is not None for line in side.stack]
        # A path of the file is relative to the application's folder, which need not be the working directory.
        return any(fnmatchcase(place, pattern) for place in (violation.resource.name, *lines) for pattern in (self.site, f"*/{self.site}"))

    def as_detail(self) -> dict[str, str]:
        """Return what the violation's record says of it."""
        return {"reason": self.reason, "expires": self.expires.isoformat()}


def today() -> date:
    """Return the day it is, in UTC."""
    return datetime.now(UTC).date()


class Suppressions:
    """The entries of one file, in its order."""

    def __init__(self, entries: Iterable[Suppression] = (), *, path: str = "", day: Callable[[], date] = today) -> None:
        self.entries = tuple(entries)
        self.path = path
        self._day = day

    def matching(self, violation: Violation) -> Suppression | None:
        """Return the first entry in force that fits, and count the hit."""
        if not self.entries:
            return None
        now = self._day()
        for entry in self.entries:
            if now <= entry.expires and entry.fits(violation):
                entry.hits += 1
                return entry
        return None

    def expired(self) -> list[Suppression]:
        """Return the entries whose day has passed."""
        now = self._day()
        return [entry for entry in self.entries if entry.expires < now]

    def unused(self) -> list[Suppression]:
        """Return the entries in force that have suppressed nothing in this process so far."""
        now = self._day()
        return [entry for entry in self.entries if not entry.hits and now <= entry.expires]


def load(setting: str | None, *, day: Callable[[], date] = today) -> Suppressions:
    """Return the suppressions of the file that the setting names; of the default file, if there is one, when it names none.

    Raises:
        SettingsError: the file cannot be read, or an entry cannot be used.
    """
    path = Path(setting or DEFAULT_FILE)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if setting is None:
            return Suppressions(day=day)
        raise SettingsError(f"suppressions_file={setting!r} does not exist: name a file, or unset it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"suppressions file {path} cannot be read ({error}): make it a readable UTF-8 text file") from error
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"suppressions file {path} is no TOML: {error}; an entry begins with [[suppress]]") from error
    listed = tree.pop("suppress", [])
    if tree or not isinstance(listed, list):
        raise SettingsError(f"suppressions file {path} has {', '.join(tree) or 'one table'}: it may hold [[suppress]] entries only")
    headers = [number for number, line in enumerate(text.splitlines(), 1) if _HEADER.match(line)]
    # An array that is written in one line has no headers of its own.
    lines = headers if len(headers) == len(listed) else [1] * len(listed)
    entries = [_entry(one, f"{path}:{line}", line, day()) for one, line in zip(listed, lines, strict=True)]
    return Suppressions(entries, path=str(path), day=day)


def _entry(table: Any, where: str, line: int, now: date) -> Suppression:  # Any: a TOML value
    given = table if isinstance(table, dict) else {}
    if wrong := [*(f"no {key}" for key in KEYS if key not in given), *(f"an unknown {key}" for key in given if key not in KEYS)]:
        raise SettingsError(f"{where}: the suppression has {', '.join(wrong)}: it takes {', '.join(KEYS)}")
    kind, site, reason = given["kind"], given["site"], given["reason"]
    if kind not in names.DETECTORS:
        raise SettingsError(f"{where}: kind={kind!r} is no kind of violation: known are {', '.join(names.DETECTORS)}")
    if not isinstance(site, str) or _NAMES_NO_PLACE.fullmatch(site):
        raise SettingsError(f'{where}: site={site!r} names no place: write a glob such as "app/agents.py:*", or a resource\'s name')
    if not isinstance(reason, str) or not reason.strip():
        raise SettingsError(f"{where}: reason={reason!r} is empty: say why this is accepted, and until what happens")
    return Suppression(kind, site, _day_of(given["expires"], where, now), reason.strip(), line)


def _day_of(value: object, where: str, now: date) -> date:
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value)
        except ValueError:
            pass
    if isinstance(value, datetime):
        value = value.date()
    if not isinstance(value, date):
        raise SettingsError(f"{where}: expires={value!r} is no day: write expires = {now + timedelta(days=90)}")
    if value > now + LONGEST:
        raise SettingsError(f"{where}: expires={value} is more than a year ahead: write {now + LONGEST} at the latest, and look again then")
    return value
