"""Publicity: names by which a service says that what it shows, or keeps, was written for everybody.

A wall of posts that is kept in memory and names no authors looks the same as one history that all users share by mistake. How the
route or the variable is called tells them apart, as far as it can be told: `/reviews`, `/public/board`, `ANNOUNCEMENTS`. It speaks for what
users said, and for nothing else: what memory keeps under an id, or what somebody proves himself with, is not published by a name.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_PUBLIC: Final = frozenset(
    """public feed feeds wall forum forums lounge lobby guestbook posts reviews ratings comments announcements bulletin news blog
    leaderboard scoreboard highscores ranking rankings gallery listings classifieds""".split()  # noqa: SIM905
)
_NOT_PUBLIC: Final = frozenset(
    """me my mine own self user users private personal secret internal admin draft drafts unpublished pending unread inbox account accounts
    ticket tickets patient patients case cases key keys clock""".split()  # noqa: SIM905
)
"""Words beside such a name that take it back: `/me/feed`, `draft_reviews`, `/tickets/17/comments`, `public_key`."""
_VIEWS: Final = frozenset("latest newest recent top popular trending all list page search".split())  # noqa: SIM905
"""Last words of a path that only say how the one before is shown."""
# Whose page it is: a user's public posts are under his name.
_NOT_IN_PATH: Final = _NOT_PUBLIC - {"user", "users", "account", "accounts"}
_WORDS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
NAME_LENGTH: Final = 200


@lru_cache(1_000)
def is_called_public(name: str) -> bool:
    """Return whether the name of a variable, a key or a part of a path has a word for what everybody may read.

    >>> is_called_public("reviews"), is_called_public("newsFeed"), is_called_public("reminders"), is_called_public("draft_reviews")
    (True, True, False, False)
    """
    words = {word.lower() for word in _WORDS.findall(name[:NAME_LENGTH])}
    return not words.isdisjoint(_PUBLIC) and words.isdisjoint(_NOT_PUBLIC)


@lru_cache(1_000)
def is_public_path(path: str) -> bool:
    """Return whether a path leads to something that is called public: `public` stands in it, or it ends with such a name.

    >>> is_public_path("/products/7/reviews/latest"), is_public_path("/forum/messages"), is_public_path("/me/feed")
    (True, False, False)
    """
    if not _NOT_IN_PATH.isdisjoint(path[:NAME_LENGTH].lower().split("/")):
        return False
    named = [part for part in path[:NAME_LENGTH].split("/") if part.isascii() and part.replace("-", "").replace("_", "").isalpha()]
    while named and named[-1].lower() in _VIEWS:
        named.pop()
    return bool(named) and ("public" in named or is_called_public(named[-1]))
