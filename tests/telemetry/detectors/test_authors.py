"""Authors: by which fields the items of a list say whose they are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isolation_monitor.telemetry.detectors.authors import Authors
from isolation_monitor.telemetry.detectors.surroundings import surroundings

TOKENS = {"ana": ("a1f09c77e2", "a2f09c77e2"), "ben": ("b1f09c77e2", "b2f09c77e2")}


def learned(text: str) -> Authors:
    authors = Authors()
    for owner, tokens in TOKENS.items():
        for token in tokens:
            authors.learn("/wall", text, token, owner)
    return authors


def wall(**fields: dict[str, Any]) -> str:
    """Return a list of four items, two of each user; `fields` gives by name what each user's items have there."""
    items = [(owner, token) for number in range(2) for owner, tokens in TOKENS.items() for token in [tokens[number]]]
    return json.dumps(
        {"posts": [{"id": at, "text": token} | {name: of[owner] for name, of in fields.items()} for at, (owner, token) in enumerate(items)]}
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"nick": {"ana": "Sunflower", "ben": "Hedgehog"}},
        {"colour": {"ana": "green", "ben": "red"}},
        {"author": {"ana": {"name": "Sunflower"}, "ben": {"name": "Hedgehog"}}},
        {"by": {"ana": 7, "ben": 8}},
    ],
)
def test_a_field_that_keeps_to_the_owners_names_them(fields: dict[str, Any]) -> None:
    text = wall(**fields)

    assert all(learned(text).name("/wall", text, token, owner) for owner, tokens in TOKENS.items() for token in tokens)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"created": {"ana": "today", "ben": "today"}},
        {"role": {"ana": "user", "ben": "user"}},
        {"sender": {"ana": "user", "ben": "user"}},
    ],
)
def test_numbers_of_items_and_roles_that_all_have_name_nobody(fields: dict[str, Any]) -> None:
    text = wall(**fields)

    assert not any(learned(text).name("/wall", text, token, owner) for owner, tokens in TOKENS.items() for token in tokens)


def test_a_nickname_may_change_once() -> None:
    text = wall(nick={"ana": "Sunflower", "ben": "Hedgehog"})
    authors = learned(text)
    renamed = json.dumps([{"nick": "Rose", "text": "a3f09c77e2"}])
    authors.learn("/wall", renamed, "a3f09c77e2", "ana")

    assert authors.name("/wall", renamed, "a3f09c77e2", "ana")


def test_what_is_another_for_each_item_names_nobody() -> None:
    """Dates of bookings, in a field that could hold a sender."""
    authors = Authors()
    text = json.dumps([{"from": f"2026-11-0{day}", "text": f"a{day}f09c77e2"} for day in range(1, 4)])
    for day in range(1, 4):
        authors.learn("/bookings", text, f"a{day}f09c77e2", "ana")

    assert not authors.name("/bookings", text, "a1f09c77e2", "ana")


def test_what_is_no_list_has_no_items_to_name() -> None:
    """One object that names another user is what a leaked profile looks like."""
    text = '{"author": "Sunflower", "text": "a1f09c77e2"}'

    assert not learned(text).name("/wall", text, "a1f09c77e2", "ana")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"posts": [{"user": {"id": "u-7", "tags": {}}, "text": "a1f09c77e2"}]}', (True, True)),
        ('{"posts": [{"text": "a1f09c77e2", "user": {"id": "u-7"}}, {"by": "u-8"}]}', (True, True)),
        ('[{"post": {"text": "a1f09c77e2"}, "by": "u-7"}]', (True, True)),
        ('[{"text": "a1f09c77e2"}, {"by": "u-7"}]', (True, False)),
        ('{"user": {"id": "u-7"}, "text": "a1f09c77e2"}', (False, True)),
        ('{"user": {"id": "u-7"}, "account": {"number": "a1f09c77e2"}}', (False, False)),
    ],
)
def test_an_item_is_the_whole_object_around_a_value(text: str, expected: tuple[bool, bool]) -> None:
    assert surroundings(text, "a1f09c77e2", "u-7") == expected
