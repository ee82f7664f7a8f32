"""Text that others chose (names of branches, tests, files, containers), made harmless for a terminal and for one line."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return the text with a question mark for each character that cannot be seen: none of it must style the terminal."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "?" for sign in text)


def one_line(text: str) -> str:
    """Return the text's words in one line, without what cannot be seen."""
    return " ".join((text if text.isprintable() else "".join(sign if sign.isprintable() else " " for sign in text)).split())
