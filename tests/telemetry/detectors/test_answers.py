"""Answers: whose a value is, by who gets it how often."""

from __future__ import annotations

import random
from collections.abc import Callable

from isolation_monitor.telemetry.detectors.answers import Answers
from isolation_monitor.telemetry.principals import Principal, PrincipalHasher

USERS = [Principal(f"user-{number}", PrincipalHasher("key")) for number in range(8)]


def owners_after(rounds: int, value_of: Callable[[int, int], str]) -> dict[str, str]:
    """Serve every user once a round; return the owners found. `value_of` takes the user's number and the round."""
    answers = Answers()
    owners: dict[str, str] = {}
    for round in range(rounds):
        for number, user in enumerate(USERS):
            owners.update({value: owner.id for value, owner in answers.saw("/me", "key", user, value_of(number, round))})
    return owners


def test_a_value_of_ones_own_every_time_is_ones_own() -> None:
    owners = owners_after(3, lambda user, round: f"own-{user}")

    assert owners == {f"own-{number}": user.id for number, user in enumerate(USERS)}


def test_a_cache_for_all_that_expires_shows_whose_its_values_are() -> None:
    """Each third round all find it empty and get their own; then everybody has what the last one left there, 0 or 1."""
    owners = owners_after(9, lambda user, round: f"own-{user}" if round % 3 == 0 else f"own-{round // 3 % 2}")

    assert owners["own-0"] == USERS[0].id
    assert owners["own-7"] == USERS[7].id


def test_what_changes_for_everybody_belongs_to_nobody() -> None:
    """A page that is cached for three rounds, made with another nonce for each who found it empty."""
    assert owners_after(12, lambda user, round: f"page-{round // 3}" if round % 3 else f"page-{round // 3}-{user}") == {}


def test_what_is_picked_anew_from_few_for_each_answer_belongs_to_nobody() -> None:
    for seed in range(20):
        picks = random.Random(seed)

        assert owners_after(12, lambda user, round, picks=picks: f"item-{picks.randrange(6)}") == {}  # type: ignore[misc]  # a default binds it


def test_two_values_that_come_back_to_one_alone_are_what_he_works_with() -> None:
    """Everybody goes back and forth between two of his own: neither is an identity of his."""
    assert owners_after(12, lambda user, round: f"task-{user}-{round % 2}") == {}
