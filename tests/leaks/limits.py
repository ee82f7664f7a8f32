"""What is not detected yet, with the reason: counted as missed by the scoreboard, every one a stated limit of the product."""

from __future__ import annotations

from typing import Final

_WHO_ASKED: Final = "The private source is read in the wrong user's own request, so what it returns is taken for that user's."
_ROWS: Final = "The rows come from the receiver's own query of a database whose rows are not followed: its word is taken for it."
_SAID_TO_ALL: Final = "What a user said is sent to everybody in one broadcast, which looks the same as a broadcast on purpose."

LIMITS: Final[dict[str, str]] = {
    "shared-row-generator": "A generator that two requests share hands out rows of nobody in particular: only their order is wrong.",
    "cache-by-path-middleware": "The first answer to a path is given to all for ever, as a cache of public pages would, and names no user.",
    "session-by-address": "The session is found by the network address that users really share, and holds values that the service made up.",
    "lock-around-upstream": "The lock is held by the request that uses it, for as long as its call lasts: slow, and nobody's failure.",
    "coalesced-by-month": "What one computation gives to all who wait for it looks the same as a public result that is computed once.",
    "wire-shared-io-threads": "Plain sockets used by threads run in C, without a step or a stream that could be watched.",
    "wire-shared-io-cursor": "The connection was open before the monitor came, and may serve several threads: tracing it could stop them.",
    "wire-sockets-broadcast": _SAID_TO_ALL,
    "wire-sockets-last-handshake": _WHO_ASKED,
    "wire-sqlalchemy-scoped-by-thread": _ROWS,
    "wire-streams-broad-pattern": _SAID_TO_ALL,
    "wire-streams-self-scope": _WHO_ASKED,
    "wire-streams-answers-by-order": "One reader task hands out the answers of a connection by their order, and belongs to no request.",
}
