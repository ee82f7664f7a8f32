"""Tokens: the opaque values of a text, by which data is recognised when it turns up where it does not belong.

A token is a run of at least 8 letters, digits and `_ - . @ +` that looks minted rather than written: it holds a digit
beside letters, or mixes cases inside, or is an e-mail address, or is a number of 9 digits and more. The suffix of a file is no part
of it. Words, dates, times,
versions, plain decimals and addresses of machines are none: they are the same for everybody.
About 40 bits are needed for a value to be attributable at all; shorter codes are a stated limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from typing import Final, TypeVar

T = TypeVar("T")

MIN_LENGTH: Final = 8
MAX_LENGTH: Final = 200
"""A longer value (a signed link, an invoice, a JWT) is known by its last characters."""
TOKENS_LIMIT: Final = 500
"""Tokens taken from one text: the rest of a longer list is left out, which only costs recall."""

_SPLIT_AT: Final = b"\"'`,:;{}[]()<>/\\=&?!|*#%$^~\n\r\t"
_CONTROLS: Final = bytes(byte for byte in (*range(32), 127) if byte not in b"\t\n\r")
_SEPARATORS: Final = bytes.maketrans(_SPLIT_AT + _CONTROLS, b" " * (len(_SPLIT_AT) + len(_CONTROLS)))
_WRITTEN_BYTES: Final = bytes.maketrans(_CONTROLS, b" " * len(_CONTROLS))
_ZEROS: Final = bytes.maketrans(b"123456789", b"0" * 9)
_PLAIN: Final = re.compile(
    r"""(?x)
      [A-Z]?[a-z]+ (?:[._+-][A-Z]?[a-z]+)*           # words and words joined by dots or dashes
    | [A-Z]+ (?:[_-][A-Z]+)*                          # SHOUTED_WORDS
    | [A-Z]?[a-z]++ (?:_?[A-Z][a-z]++ | _[a-z]++)* _?  # camelCase and snake_case without digits
    | \d{4}-\d\d-\d\d.*                               # dates and times
    | \d{4}-?W\d\d(?:-?\d)?                           # weeks
    | \d{8}T\d{4,6}(?:\.\d+)?(?:Z|[+-]\d{2,4})?        # the same without dashes
    | P(?:\d+[YMWD])*(?:T(?:\d+(?:\.\d+)?[HMS])*)?      # stretches of time
    | \d{1,3}(?:\.\d{1,3}){3}                         # IPv4
    | [+-]?\d*\.\d+(?:[eE][+-]?\d+)?                  # decimals
    | \d\d?\.\d+(?:Z|[+-]\d\d)                          # what a colon leaves of a time
    | v?\d+(?:\.\d+){1,4}(?:[._+-]?[a-z]+\.?\d*)?     # versions
    | [a-z]+(?:[._-][a-z]*)*[._-]v?\d{1,4}            # word-12, name_v2, python-3
    | [A-Za-z]{4,}\d{1,3}                             # word12
      # Names of models and releases, part by part.
    | [a-z]+(?:[._-](?:[a-z]+ | (?:20)?\d{1,2}(?:\.(?!20\d\d(?!\d))\d{3,})*[a-z]? | v\d+)){2,}
    | (?:(?:[A-Z]?[a-z]+|[A-Z]+)\d{0,2} | \d{1,2}[a-z])(?:[._-](?:
        [A-Z]?[a-z]+ | [A-Z]+ | v?\d{1,2}[A-Za-z]? | [a-uw-z]\d{1,2} | (?:19|20)\d\d(?:[01]\d[0-3]\d)? ))+
    """
)
"""No text may be matched in two ways by one line: a word of a hundred letters would take years."""
_TIME: Final = re.compile(r"\d{8}T\d{4,6}Z?|\d{4}W\d{2,3}|P(?:\d+[YMWD])*(?:T(?:\d+[HMS])*)?")
"""Those of the above that are of letters and digits alone."""
_EPOCH: Final = re.compile(r"1[5-9]\d{8}(?:\d{3}|\d{6}|\d{9})?")
"""Unix time of the years 2017-2033 in seconds, milliseconds, microseconds or nanoseconds."""
_DATED: Final = re.compile(r"(?:19|20)\d\d[- ][01]\d[- ][0-3]\d")
_GROUPED: Final = re.compile(r"\b\d{2,6}(?: \d{2,6}){2,6}\b")
"""Numbers written in groups, of cards and accounts and telephones. Those joined by dashes are one word and found as such."""
WRITTEN_LIMIT: Final = 10_000
_WRITTEN: Final[set[str]] = set()
"""Words that were judged to be no tokens: a service answers with the same ones again and again."""
_PIECES_FROM: Final = 60
"""Characters of a text from which looking for known pieces pays."""
_PIECE_LENGTH: Final = 12
"""Characters of a piece on average: shorter ones are looked up one by one for more than they save."""
PIECE_LIMIT: Final = 120
"""Characters of a piece that is remembered."""
_PLAIN_TEXTS: Final[set[str]] = set()
"""Short texts that hold no token: paths, which come again with each request."""
PLAIN_LIMIT: Final = 5_000
_PLAIN_PIECES: Final[set[str]] = set()
"""What stands between two commas and holds no token: in JSON a key with its value. Most of an answer was in earlier ones."""
_LEARNED_PIECES: Final = 8
"""Pieces of one text that are remembered: looking whether they hold a token is not free."""
_LEARN_ANYWAY: Final = 8
"""One text in so many is learned from where all pieces seem to hold tokens: some may hold several, and others none."""
_HAS_DIGIT: Final = re.compile(r"\d")
_MIXED: Final = re.compile(r"[a-z][A-Z]+[a-z]|[A-Z]{2,}[a-z]+[A-Z]")


def legible(body: bytes) -> str:
    """Return bytes as text in which tokens can be found: whatever is no text, as lengths and tags of binary formats, is blank.

    >>> legible(b"\\x82\\xa3tel\\xd9\\x20+49 30 901820").split()
    ['tel', '+49', '30', '901820']
    """
    return body.translate(_WRITTEN_BYTES).decode("utf-8", "replace").replace("\ufffd", " ")


def decoded(body: bytes) -> str:
    """Return bytes that are said to be text; where they are binary after all, `legible` finds more in them."""
    text = body.decode("utf-8", "replace")
    return text if text.isascii() else text.replace("\ufffd", " ")


def words_of(text: str) -> list[str]:
    """Return the words of a text, for `tokens_of` and `phrases_of`: who wants both splits once."""
    # As bytes: a table for characters is only quick where all of them are ASCII. No byte of another character is a separator.
    return text.encode("utf-8", "surrogatepass").translate(_SEPARATORS).decode("utf-8", "surrogatepass").split()


def tokens_of(text: str, words: list[str] | None = None) -> list[str]:
    """Return the different tokens of a text in the order in which they first come, at most `TOKENS_LIMIT`.

    Args:
        words: what `words_of` returned for the text, if it was called already.

    >>> tokens_of('{"id": "3f2a9c41d0", "note": "meeting on 2026-11-21", "mail": "x1@example.org"}')
    ['3f2a9c41d0', 'x1@example.org']
    """
    if len(text) < _PIECES_FROM and text in _PLAIN_TEXTS:
        return []
    pieces = None if words is not None else _unread(text)
    if pieces is not None:
        text = ",".join(pieces)
    if words is None:
        words = words_of(text)
    found = _grouped_in(text, words)
    for word in _long_words(words):
        if (token := _judged(word)) is not None:
            found.append(token)
            if len(found) >= TOKENS_LIMIT:
                return found
    if pieces is not None:
        _learn_plain(pieces, found)
    elif not found and len(text) < _PIECES_FROM:
        _remember(_PLAIN_TEXTS, text, PLAIN_LIMIT)
    return found


def look_up_tokens(text: str, look_up: Callable[[list[str]], list[tuple[str, T | None]]]) -> list[tuple[str, T | None]]:
    """As `tokens_of`, each with what is known of it.

    Args:
        look_up: returns some words, each with what is known of it. Whatever something is known of is taken for a token.
    """
    pieces = _unread(text)
    if pieces is not None:
        text = ",".join(pieces)
    words = words_of(text)
    grouped = _grouped_in(text, words)
    found = look_up(grouped) if grouped else []
    for pair in look_up(_long_words(words)):
        if pair[1] is not None:
            found.append(pair)
        elif (token := _judged(pair[0])) is not None:
            found += [pair] if token == pair[0] else look_up([token])
        else:
            continue
        if len(found) >= TOKENS_LIMIT:
            return found
    # What holds a token each is the rule, and is found out without looking at any piece.
    if pieces is not None and (len(pieces) > len(found) or len(text) % _LEARN_ANYWAY == 0):
        _learn_plain(pieces, [token for token, _ in found])
    return found


def _unread(text: str) -> list[str] | None:
    """Return the pieces of a text that are not known to hold no token, None where looking would not pay."""
    if len(text) < _PIECES_FROM:
        return None
    # No token goes over a comma. So what stands between two of them is judged once.
    pieces = text.split(",")
    if len(pieces) * _PIECE_LENGTH > len(text):
        return None
    plain = _PLAIN_PIECES
    return [piece for piece in pieces if piece not in plain]


def _learn_plain(pieces: list[str], found: list[str]) -> None:
    """Remember some of the pieces that hold none of the tokens that were found in them all together."""
    left = _LEARNED_PIECES
    for piece in pieces:
        if not any(map(piece.__contains__, found)):
            if len(piece) <= PIECE_LIMIT:
                _remember(_PLAIN_PIECES, piece, PLAIN_LIMIT)
            left -= 1
            if not left:
                return


def _grouped_in(text: str, words: list[str]) -> list[str]:
    # In steps that run in C; the expression by itself would take longer than all the rest. Three groups and more: one in the
    # middle is a word of nothing but digits. By `find`: `in` tries bytes as a number first.
    if any(map(str.isdigit, words)) and text.encode("utf-8", "surrogatepass").translate(_ZEROS).find(b"0 0") >= 0:
        return [number for number in dict.fromkeys(_GROUPED.findall(text)) if _is_grouped_token(number)]
    return []


def _long_words(words: list[str]) -> list[str]:
    """Return each word once that may hold a token: most words of an answer are its keys, and were judged before."""
    written = _WRITTEN
    return [word for word in dict.fromkeys(words) if len(word) >= MIN_LENGTH and word not in written]


def trimmed(word: str) -> str:
    """Return a word without the signs at its ends: no part of a token, though one in fifteen values of base64 begins or ends with one."""
    return word.strip("._+-@")


def _judged(word: str) -> str | None:
    """Return the token that a word is."""
    candidate = trimmed(word)
    if "." in candidate[-6:-1]:
        candidate = _without_suffix(candidate)
    if len(candidate) > MAX_LENGTH:
        # Its end: long ones that are signed begin alike.
        candidate = candidate[-MAX_LENGTH:]
    if len(candidate) >= MIN_LENGTH and is_token(candidate):
        return candidate
    if len(word) <= MAX_LENGTH:
        _remember(_WRITTEN, word, WRITTEN_LIMIT)
    return None


def _remember(judged: set[str], text: str, limit: int) -> None:
    """Add what was judged; what was judged before is forgotten where that is too much."""
    if len(judged) >= limit:
        judged.clear()
    judged.add(text)


def _without_suffix(candidate: str) -> str:
    """Return a name without the suffix of a file: the same value stands with it in an address and without it elsewhere."""
    stem, _, suffix = candidate.rpartition(".")
    return stem if suffix.isalpha() and len(suffix) >= 2 and len(stem) >= MIN_LENGTH and "@" not in stem and is_token(stem) else candidate


def _is_grouped_token(number: str) -> bool:
    # Ten digits and more; a date has eight, and a date with a time says so by a colon.
    return sum(character.isdigit() for character in number) >= 10 and _DATED.match(number) is None


def is_token(candidate: str) -> bool:
    """Return whether a run of characters looks minted; see the module."""
    if not candidate.isascii():
        return False
    if candidate.isalnum() and not candidate.isalpha():
        if candidate.isdigit():
            return len(candidate) >= 9 and _EPOCH.fullmatch(candidate) is None
        # Of letters and digits alone, `_PLAIN` matches nothing but word12 and times. Ids mostly look so, and are many.
        word = candidate.rstrip("0123456789")
        return not (word.isalpha() and len(word) >= 4 and len(candidate) - len(word) <= 3) and _TIME.fullmatch(candidate) is None
    if _HAS_DIGIT.search(candidate) is None and "@" not in candidate and _MIXED.search(candidate) is None:
        return False
    return _PLAIN.fullmatch(candidate) is None


PHRASE_WORDS: Final = 8
PHRASES_LIMIT: Final = 200
OPENING_LENGTH: Final = 7


def phrases_of(text: str, words: list[str] | None = None, openings: Container[str] | None = None) -> list[str]:
    """Return the phrases of eight words of a text that begin with a long word, at most `PHRASES_LIMIT`.

    Eight words in a row are somebody's own words: shorter runs are found in everybody's. Beginning at words of seven
    letters and more leaves out three quarters of them at no loss, because the same rule holds on both sides. A list of ids
    is no phrase: each id in it is a token.

    Args:
        words: what `words_of` returned for the text, if it was called already.
        openings: only the phrases that begin with one of these words, as `openings_of` gives them.
    """
    if words is None:
        words = words_of(text)
    last = len(words) - PHRASE_WORDS
    if last < 0:
        return []
    if openings is None:
        starts = [at for at, word in enumerate(words) if len(word) >= OPENING_LENGTH and at <= last and word.isalpha()]
    else:
        starts = [at for at, word in enumerate(words) if word in openings and at <= last]
    return [" ".join(words[at : at + PHRASE_WORDS]).lower() for at in starts[:PHRASES_LIMIT]]


def openings_of(phrase: str) -> tuple[str, str, str]:
    """Return the ways in which the first word of a phrase may be written in a text that holds the phrase."""
    word = phrase[: phrase.find(" ")]
    return word, word.capitalize(), word.upper()
