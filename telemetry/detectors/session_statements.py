"""What an SQL statement leaves behind in its session, read from its text: settings, temporary tables, advisory locks.

Written for PostgreSQL's statements; those of other databases that look alike (`SET x = y`) read alike. Only statements
that can leave something are parsed: the first word tells for nearly all of them. Texts are remembered with what they
do, so that a service's usual statements cost one look-up.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

Act = Literal[
    "set", "local", "reset", "reset_all", "discard_all", "temp", "temp_if_new", "drop_temp", "empty_temp",
    "lock", "try_lock", "unlock", "unlock_all", "begin", "commit", "rollback", "work",
]  # fmt: skip


class Effect(NamedTuple):
    """One thing that a statement does to its session. Where a text may come by parameter, its place in the list stands for it."""

    act: Act
    name: str | int = ""
    value: str | int = ""
    local: int | None = None
    """Of a "set" whose third argument is a parameter: where it stands; it says whether the transaction ends it."""


MEMORY_LIMIT: Final = 2_000
TEXT_LIMIT: Final = 4_000
"""Longer texts are read to here and not remembered."""
SCRIPT_LIMIT: Final = 50
"""Statements of one text that are looked at."""
WORK: Final = (Effect("work"),)
"""What all other statements do: use the session as it is."""

_known: dict[str, tuple[Effect, ...]] = {}

_PLAIN_WORDS: Final = frozenset(("insert", "update", "delete", "merge", "copy", "explain", "values", "fetch", "alter"))
_NAME: Final = r'"[^"]+"|[\w.]+'
_SET: Final = re.compile(
    rf"set\s+(?:(session|local)\s+)?(?:({_NAME})\s*(?:=|\s+to\s)\s*(.*)"
    r"|(role|time\s+zone|schema|names|session\s+authorization|authorization)\s+(.*))",
    re.I | re.S,
)
_RESET: Final = re.compile(rf"reset\s+(time\s+zone|session\s+authorization|{_NAME})", re.I)
_TEMP: Final = re.compile(
    rf"create\s+(?:(?:global|local)\s+)?temp(?:orary)?\s+(?:table|view|sequence)\s+(if\s+not\s+exists\s+)?({_NAME})", re.I
)
_SELECT_TEMP: Final = re.compile(rf"\binto\s+temp(?:orary)?\s+(?:table\s+)?({_NAME})", re.I)
_CLEAR: Final = re.compile(rf"(?:drop|truncate)\s+(?:table\s+|view\s+|sequence\s+)?(?:if\s+exists\s+)?(?:only\s+)?({_NAME})", re.I)
_DELETE_ALL: Final = re.compile(rf"delete\s+from\s+({_NAME})\s*$", re.I)
_CONFIG: Final = re.compile(
    r"set_config\s*\(\s*(?P<name>'[^']*'|\$\d+|%s|\?)(?:::\w+)?\s*,\s*(?P<value>'[^']*'|\$\d+|%s|\?)(?:::\w+)?\s*,"
    r"\s*(?P<local>true|false|'t'|'f'|\$\d+|%s|\?)",
    re.I,
)
_LOCK: Final = re.compile(r"\bpg_(try_)?advisory_(lock|lock_shared|unlock|unlock_shared|unlock_all)\s*\(([^)]*)\)", re.I)
_PING: Final = re.compile(r"select\s+(?:'[^']*'|\d+|null|true)\s*(?:as\s+\w+\s*)?$", re.I)
_COMMENT: Final = re.compile(r"^(?:\s+|--[^\n]*\n?|/\*.*?\*/)+", re.S)
_SPECIAL: Final = {"time zone": "timezone", "schema": "search_path", "names": "client_encoding", "authorization": "session authorization"}
_TRUE: Final = frozenset(("true", "'t'", "t", "1"))


def effects(text: str) -> tuple[Effect, ...]:
    """Return what the statements of `text` do to their session, in order; `WORK` for those that leave nothing.

    >>> effects("SET app.tenant = 'a'")
    (Effect(act='set', name='app.tenant', value='a'),)
    >>> effects("SET LOCAL app.tenant = 'a'")
    (Effect(act='local', name='app.tenant', value='a'),)
    """
    found = _known.get(text)
    if found is None:
        found = _read(text[:TEXT_LIMIT])
        if len(text) <= TEXT_LIMIT:
            if len(_known) >= MEMORY_LIMIT:
                _known.clear()
            _known[text] = found
    return found


def _read(text: str) -> tuple[Effect, ...]:
    text = _COMMENT.sub("", text)
    # Inside of a function's body a semicolon ends nothing that the session does.
    parts = _statements(text) if ";" in text and "$$" not in text else [text]
    read: list[Effect] = []
    for part in parts[:SCRIPT_LIMIT]:
        statement = _COMMENT.sub("", part).rstrip("; \t\r\n")
        if statement:
            read.extend(_one(statement))
    return WORK if read == [WORK[0]] else tuple(read)


def _statements(text: str) -> list[str]:
    parts, start, quote = [], 0, ""
    for place, letter in enumerate(text):
        if quote:
            if letter == quote:
                quote = ""
        elif letter in "'\"":
            quote = letter
        elif letter == ";":
            parts.append(text[start:place])
            start = place + 1
    parts.append(text[start:])
    return parts


def _one(text: str) -> tuple[Effect, ...]:
    word = _first_word(text)
    if word in ("select", "with"):
        return _select(text)
    if word == "delete" and (all_rows := _DELETE_ALL.match(text)):
        return (Effect("empty_temp", _plain(all_rows[1])),)
    if word in _PLAIN_WORDS:
        return WORK
    if word == "set":
        return _set(text)
    if word in ("begin", "start"):
        return (Effect("begin"),)
    if word in ("commit", "end"):
        return (Effect("commit"),)
    if word in ("rollback", "abort"):
        # Back to a savepoint: the transaction goes on, and what was set since is taken back too; seen as kept.
        return () if re.match(r"\w+\s+(?:\w+\s+)?to\b", text, re.I) else (Effect("rollback"),)
    if word in ("savepoint", "release", "deallocate", "unlisten", "listen", "notify", "show", "close"):
        return ()
    if word == "reset":
        return _reset(text)
    if word == "discard":
        what = text[7:].strip().lower()
        return (Effect("discard_all"),) if what == "all" else (Effect("drop_temp", "*"),) if what.startswith("temp") else ()
    if word == "create" and (made := _TEMP.match(text)):
        # What the transaction empties or drops at its end is left to nobody.
        ends = re.search(r"on\s+commit\s+(?:drop|delete\s+rows)", text, re.I)
        return () if ends else (Effect("temp_if_new" if made[1] else "temp", _plain(made[2])),)
    if word in ("drop", "truncate") and (cleared := _CLEAR.match(text)):
        return (Effect("empty_temp" if word == "truncate" else "drop_temp", _plain(cleared[1])),)
    return WORK


def _first_word(text: str) -> str:
    end = 0
    for end, letter in enumerate(text):  # noqa: B007  # the place is what is wanted
        if not letter.isalpha():
            break
    else:
        end = len(text)
    return text[:end].lower()


def _set(text: str) -> tuple[Effect, ...]:
    found = _SET.match(text)
    if found is None:
        # SET TRANSACTION, SET CONSTRAINTS and the like end with their transaction.
        return ()
    scope, name, value, special, special_value = found.groups()
    if special is not None:
        words = " ".join(special.lower().split())
        name = _SPECIAL.get(words, words)
        value = special_value
    name, value = _plain(name), _unquoted(value)
    if (scope or "").lower() == "local":
        return (Effect("local", name, value),)
    if value.lower() in ("default", "none") or (name in ("timezone",) and value.lower() == "local"):
        return (Effect("reset", name),)
    return (Effect("set", name, value),)


def _reset(text: str) -> tuple[Effect, ...]:
    found = _RESET.match(text)
    name = _plain(found[1]) if found else ""
    if name == "all":
        return (Effect("reset_all"),)
    return (Effect("reset", "timezone" if name.startswith("time") else " ".join(name.split())),)


def _select(text: str) -> tuple[Effect, ...]:
    folded = text.lower()
    if "set_config" not in folded and "advisory_" not in folded and " temp" not in folded:
        # A pool's question whether the connection lives, which asks nothing of the session.
        return () if _PING.match(text) else WORK
    read: list[Effect] = []
    marks = 0
    for call in _CONFIG.finditer(text):
        # psycopg's `%s` stand in the order of the parameters.
        places: list[str | int] = []
        for part in (call["name"], call["value"], call["local"]):
            if part in ("%s", "?"):
                places.append(marks)
                marks += 1
            else:
                places.append(int(part[1:]) - 1 if part.startswith("$") else _unquoted(part))
        name, value, local = places
        name = name.lower() if isinstance(name, str) else name
        if isinstance(local, int):
            read.append(Effect("set", name, value, local))
        else:
            read.append(Effect("local" if local.lower() in _TRUE else "set", name, value))
    for call in _LOCK.finditer(text):
        act = call[2].lower()
        if act == "unlock_all":
            read.append(Effect("unlock_all"))
        elif act.startswith("unlock"):
            read.append(Effect("unlock", "advisory lock", call[3].strip()))
        else:
            # The session has a lock already when its previous user left it: then this one is no lock at all.
            read += [WORK[0], Effect("try_lock" if call[1] else "lock", "advisory lock", call[3].strip())]
    if made := _SELECT_TEMP.search(text):
        read.append(Effect("temp", _plain(made[1])))
    return tuple(read) or WORK


def _plain(name: str) -> str:
    return name.strip('"').lower()


def _unquoted(value: str) -> str:
    value = value.strip()
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
