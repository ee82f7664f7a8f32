"""Tokens: minted values are taken, written words and everybody's numbers are not."""

from __future__ import annotations

import base64
import json
import secrets
import time
import uuid
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation_monitor.telemetry.tokens import (
    _GROUPED,
    MAX_LENGTH,
    PHRASES_LIMIT,
    TOKENS_LIMIT,
    _is_grouped_token,
    decoded,
    legible,
    look_up_tokens,
    openings_of,
    phrases_of,
    tokens_of,
    words_of,
)

MINTED = (
    "3f2a9c41", "0f8fad5b-d9cb-469f-a165-70867728950e", "tok_Ab3dE9fG", "ACCT-93847562", "DE89370400440532013000", "4539148803436467",
    "5316 6604 5052 3200", "030-1234-5678", "KJHGFDS2QW", "x1@example.org", "someone@example.org", "acct-4821-9937", "kQvRzTbLpXwYmNcD",
)  # fmt: skip
WRITTEN = (
    "2026-11-21 10 20", "10 20 30", "authentication", "Implementation", "SHOUTED_WORDS",
    "getUserById", "snake_case_name", "hello.world", "2026-11-21T07:20:29.123Z",
    "2026-11-21", "0.12345678901", "1763712345", "1763712345123", "127.0.0.1", "gpt-4o-2024-08-06", "text-embedding-3-small",
    "20261121T210755Z", "2026-W47-6", "PT12H30M5.123456S", "2026-11-21T21:07:55.346492+00:00", "2026-11-21T21:07:55.346492Z",
    "claude-3-5-sonnet-20241022", "Llama-3.1-8B-Instruct", "qwen2.5:7b-instruct-q4_K_M", "Windows10-x86_64", "arm64-v8a",
    "python-3.11.7", "word-12", "McDonalds", "application/json", "aaaaaaaaaaaa", "12345678",
)  # fmt: skip


@pytest.mark.parametrize("value", MINTED)
def test_minted_values_are_tokens(value: str) -> None:
    assert tokens_of(json.dumps({"text": f"yours is {value}, keep it."})) == [value]


@pytest.mark.parametrize(
    ("written", "token"),
    [
        ("https://files.example/c03898176e55c7b2.pdf", "c03898176e55c7b2"),
        ("avatars/0f8fad5b-d9cb-469f-a165-70867728950e.jpeg", "0f8fad5b-d9cb-469f-a165-70867728950e"),
        ("x1@example.org", "x1@example.org"),
        ("v2.c03898176e55c7b2.k9f27a11", "v2.c03898176e55c7b2.k9f27a11"),
    ],
)
def test_the_suffix_of_a_file_is_no_part_of_its_token(written: str, token: str) -> None:
    assert tokens_of(json.dumps({"address": written})) == [token]


@pytest.mark.parametrize("value", WRITTEN)
def test_words_dates_versions_and_small_numbers_are_not(value: str) -> None:
    assert tokens_of(json.dumps({"text": f"it says {value} here"})) == []


@given(st.uuids(version=4))
def test_every_uuid_is_a_token(value: uuid.UUID) -> None:
    assert tokens_of(f'{{"id":"{value}"}}') == [str(value)]


def test_nearly_every_random_value_is_a_token() -> None:
    """Sixteen random characters without any digit and without mixed case are rare, and the only ones that are missed."""
    shapes = (
        lambda: secrets.token_hex(8),
        lambda: secrets.token_urlsafe(16),
        lambda: base64.b32encode(secrets.token_bytes(10)).decode(),
    )
    for shape in shapes:
        values = [shape().strip("-_") for _ in range(500)]
        assert sum(tokens_of(f"<{value}>") == [value] for value in values) >= 440


@given(st.text(max_size=400))
def test_no_text_is_too_odd_and_every_token_stands_in_it(text: str) -> None:
    assert all(token in text for token in tokens_of(text))
    phrases_of(text)


_PARTS = st.sampled_from((*MINTED, *WRITTEN, "so the lamp is on the table", '"status": "in_stock"', "1234", "5678 9012", " ", "", ".", '"'))


@given(st.lists(st.lists(_PARTS, min_size=1, max_size=4).map(" ".join), min_size=3, max_size=40).map(", ".join))
def test_pieces_that_were_seen_before_hide_no_token(text: str) -> None:
    """Texts share their pieces: what was learned from one, or from the same one before, must not change what is found in the next."""
    tokens = tokens_of(text, words_of(text))

    assert tokens_of(text) == tokens
    assert tokens_of(text) == tokens
    known = set(tokens[::2])
    looked_up = look_up_tokens(text, lambda words: [(word, True if word in known else None) for word in words])
    assert [token for token, _ in looked_up] == tokens
    assert {token for token, is_known in looked_up if is_known} == known


@given(st.text(alphabet="0123456789 -+x", max_size=60))
def test_numbers_in_groups_are_found_wherever_the_expression_finds_them(text: str) -> None:
    """What is asked first, because it is cheap, must never say no where the expression says yes."""
    grouped = [number for number in dict.fromkeys(_GROUPED.findall(text)) if _is_grouped_token(number)]

    assert tokens_of(text)[: len(grouped)] == grouped


def test_control_characters_part_words_in_what_is_said_to_be_text_as_in_what_is_binary() -> None:
    """Only binary answers are made legible, which costs as much as a sixth of all the rest; the tokens are the same."""
    body = b"\x01c63042a6687c\x1f4747bc277473\x00x\xff48751db673d8\x7f"

    assert decoded(body).isprintable() is False
    assert tokens_of(decoded(body)) == tokens_of(legible(body)) == ["c63042a6687c", "4747bc277473", "48751db673d8"]


def test_a_short_text_that_is_known_to_hold_no_token_is_not_looked_through_again() -> None:
    """Paths come again with each request; one with a token in it is never remembered as one without."""
    for _ in range(2):
        assert tokens_of("/orders/open") == []
        assert tokens_of("/orders/3f2a9c41d0b7") == ["3f2a9c41d0b7"]


@pytest.mark.parametrize(
    "part", ["a", "aB", "a_", "a-1", ".1", ".123", "-2011", "a.b", "A_", "1.", "-1.1234", "0x1", "20", "v8-", "x86_", "Ab3."]
)
def test_no_word_takes_long_to_judge(part: str) -> None:
    """A pattern that can match in two ways takes twice as long for each letter more: any client could stop the service."""
    for word in (f"a{part * 60}1@"[:MAX_LENGTH], f"{part * 60}@"[:MAX_LENGTH]):
        began = time.thread_time()
        tokens_of(word)
        assert time.thread_time() - began < 0.05


def test_what_is_taken_of_one_text_is_bounded() -> None:
    text = " ".join(secrets.token_hex(8) for _ in range(5 * TOKENS_LIMIT))

    assert len(tokens_of(text)) <= TOKENS_LIMIT
    assert len(phrases_of(text)) <= PHRASES_LIMIT


def test_a_phrase_is_found_again_inside_a_longer_text() -> None:
    said = "yesterday the physician explained that my treatment would begin again after winter"

    assert set(phrases_of(said)) & set(phrases_of(f"Earlier you told me: {said}. What else?"))
    assert not set(phrases_of(said)) & set(phrases_of("the physician explained something else entirely to another person there"))


@pytest.mark.parametrize("change", [str, str.upper, str.capitalize, str.lower])
def test_a_known_phrase_is_found_by_the_words_it_may_begin_with(change: Callable[[str], str]) -> None:
    said = "the Physician explained that my treatment would begin again after this winter"
    openings = {word for phrase in phrases_of(said) for word in openings_of(phrase)}

    text = f"Earlier you told me: {change(said)}. What else?"

    assert set(phrases_of(text, words_of(text), openings)) & set(phrases_of(said))
    assert phrases_of(text, words_of(text), {"unrelated"}) == []


def test_a_list_of_ids_is_no_phrase() -> None:
    assert phrases_of(" ".join(uuid.uuid4().hex for _ in range(40))) == []
