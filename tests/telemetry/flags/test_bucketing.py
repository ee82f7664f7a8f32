"""Who gets what: uniform, stable, monotone, and the same for everybody who asks."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation_monitor.telemetry.flags.bucketing import (
    PLACES,
    FlagRule,
    Internal,
    TargetingKeyMissing,
    place_of,
    variant_of,
)

KEYS = st.text(min_size=1, max_size=40)
PERCENTS = st.integers(0, 1000).map(lambda tenths: tenths / 10)


def rule(percent: float, **changes: object) -> FlagRule:
    return FlagRule("checkout-v2", True, percent, **changes)  # type: ignore[arg-type]  # changes: any member


def variant(flag: FlagRule, user: str) -> str:
    return variant_of(flag, user, {})[0]


def test_places_are_the_same_for_ever():
    """Written down once: whoever changes them moves the users of every running rollout."""
    assert place_of("checkout-v2", "user-1") == 726995
    assert place_of("checkout-v2", "ann@example.com") == 465017
    assert place_of("other", "ann@example.com") == 748196


@given(KEYS, KEYS)
def test_every_key_has_a_place_on_the_line(key, user):
    assert 0 <= place_of(key, user) < PLACES
    assert place_of(key, user) == place_of(key, user)


@given(KEYS, PERCENTS, PERCENTS)
def test_who_has_it_at_a_stage_has_it_at_every_later_one(user, one, other):
    """Users do not flicker while a rollout advances, and come back to the same variant after a rollback and a new start."""
    lower, higher = sorted((one, other))

    if variant(rule(lower), user) == "on":
        assert variant(rule(higher), user) == "on"


@given(KEYS, PERCENTS, PERCENTS, PERCENTS)
def test_who_is_held_back_had_off_all_along(user, percent, other_percent, holdback):
    if variant(rule(100, holdback_percent=holdback), user) == "off":
        assert variant(rule(percent, holdback_percent=holdback), user) == "off"
        assert variant(rule(other_percent, holdback_percent=holdback), user) == "off"


@given(KEYS, PERCENTS)
def test_a_rule_that_is_off_is_off_for_everybody(user, percent):
    assert variant_of(FlagRule("f", False, percent, internal=Internal(frozenset({user}))), user, {}) == ("off", "DISABLED")


@given(st.text(max_size=10), st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(), st.text(max_size=5))))
def test_the_ends_need_nobodys_name(user, attributes):
    assert variant_of(rule(0), user, attributes) == ("off", "STATIC")
    assert variant_of(rule(100), user, attributes) == ("on", "STATIC")


@pytest.mark.parametrize("percent", [0.1, 1, 10, 50, 90, 99.9])
@pytest.mark.parametrize("shape", ["user-{}", "{}", "{}@example.com", "00000000-0000-4000-8000-{:012x}"])
def test_the_share_of_users_is_the_percentage(percent, shape):
    """Within four and a half standard deviations of a fair coin, for the kinds of ids that services have: no id's shape is unlucky."""
    n, p = 20_000, percent / 100
    got = sum(variant(rule(percent), shape.format(user)) == "on" for user in range(n))

    assert abs(got - n * p) <= 4.5 * math.sqrt(n * p * (1 - p))


def test_users_spread_evenly_over_the_whole_line():
    """Chi-squared over 100 cells of 1 %: a fair draw exceeds 180 once in about a million."""
    n, cells = 50_000, [0] * 100
    for user in range(n):
        cells[place_of("spread", f"user-{user}") * 100 // PLACES] += 1

    assert sum((cell - n / 100) ** 2 / (n / 100) for cell in cells) < 180


def test_the_users_of_one_flag_say_nothing_about_those_of_another():
    """Two rollouts at 50 %: a quarter of the users has both, not a half."""
    n = 20_000
    both = sum(place_of("one", f"u{i}") < PLACES // 2 and place_of("two", f"u{i}") < PLACES // 2 for i in range(n))

    assert abs(both - n / 4) < 4.5 * math.sqrt(n * 0.25 * 0.75)


def test_internal_users_have_it_first_by_name_or_by_attribute():
    by_name = rule(0, internal=Internal(keys=frozenset({"ann"})))
    by_domain = rule(0, internal=Internal(attribute="email_domain", values=frozenset({"example.com"})))

    assert variant_of(by_name, "ann", {}) == ("on", "TARGETING_MATCH")
    assert variant_of(by_name, "ben", {}) == ("off", "STATIC")
    assert variant_of(by_domain, "", {"email_domain": "example.com"}) == ("on", "TARGETING_MATCH")
    assert variant_of(by_domain, "", {"email_domain": ["example.com"]}) == ("off", "STATIC")


def test_a_share_of_users_needs_to_know_who_it_is():
    for half in (rule(50), rule(100, holdback_percent=5)):
        with pytest.raises(TargetingKeyMissing, match="targetingKey"):
            variant_of(half, "", {})
