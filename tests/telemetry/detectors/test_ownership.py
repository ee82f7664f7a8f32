"""Ownership: the index of whose a token is stays small, and quick at every single insert."""

from __future__ import annotations

import time

from isolation_monitor.telemetry.detectors.ownership import OPENINGS_LIMIT, SHARD_SIZE, Entries, Entry, Origin, Ownership
from isolation_monitor.telemetry.principals import Principal
from isolation_monitor.telemetry.tokens import phrases_of

ALICE = Principal("alice", "hash-of-alice")


def test_a_full_index_forgets_the_oldest_tokens() -> None:
    ownership = Ownership(limit=100)
    origin = Origin(None, ALICE, None)

    for number in range(150):
        ownership.went_out(origin, f"token-{number}")

    assert 95 <= len(ownership.entries) <= 100
    assert "token-149" in ownership.entries
    assert "token-0" not in ownership.entries


def test_a_large_index_holds_nearly_its_limit_and_no_more() -> None:
    limit = 20 * SHARD_SIZE
    ownership = Ownership(limit)

    ownership.came_in(Origin(None, ALICE, None), (f"token-{number}" for number in range(2 * limit)))

    assert 0.95 * limit <= len(ownership.entries) <= 1.01 * limit
    assert ownership.owner_of(f"token-{2 * limit - 1}") is ALICE


def test_no_single_insert_is_slow() -> None:
    """A dict of a hundred thousand takes several milliseconds whenever it grows."""
    entries = Entries(100_000)
    entry = Entry(Origin(None, ALICE, None), None, "")
    slow = 0

    for number in range(150_000):
        began = time.thread_time_ns()
        entries[f"token-{number}"] = entry
        slow += time.thread_time_ns() - began > 2_000_000

    # One may be the garbage collector's, which runs in whoever allocates next.
    assert slow <= 2


def test_entries_are_found_counted_and_taken_out_as_in_a_dict() -> None:
    entries = Entries(100_000)
    entry = Entry(Origin(None, ALICE, None), ALICE, "ingress")

    entries["a"] = entry

    assert entries == {"a": entry}
    assert entries["a"] is entries.get("a") is entries.pop("a")
    assert entries == {}
    assert entries.get("a") is None
    assert entries.pop("a", None) is None


def test_words_that_phrases_begin_with_are_known_and_bounded() -> None:
    ownership = Ownership()
    origin = Origin(None, ALICE, None)

    ownership.came_in(origin, phrases_of("Yesterday we all went to see him at the old house again"))
    assert "yesterday" in ownership.openings
    assert "Yesterday" in ownership.openings

    ownership.came_in(origin, (f"opening{number} and more words" for number in range(OPENINGS_LIMIT)))
    assert len(ownership.openings) <= OPENINGS_LIMIT


def test_what_is_met_again_and_again_outlives_what_is_not() -> None:
    """What everybody is shown must not become the property of whoever names it once it was forgotten."""
    ownership = Ownership(limit=100)
    origin, bobby = Origin(None, ALICE, None), Origin(None, Principal("bobby", "hash-of-bobby"), None)
    ownership.went_out(origin, "slug")
    ownership.came_in(bobby, ["slug"])
    assert ownership.entries["slug"].is_public

    for number in range(1_000):
        ownership.went_out(origin, f"token-{number}")
        if not number % 20:
            ownership.came_in(bobby, ["slug"])

    assert ownership.entries["slug"].is_public
    assert 95 <= len(ownership.entries) <= 100
    for number in range(1_000, 1_300):
        ownership.went_out(origin, f"token-{number}")
    assert "slug" not in ownership.entries


def test_an_index_of_which_everything_is_in_use_still_forgets() -> None:
    ownership = Ownership(limit=100)
    origin = Origin(None, ALICE, None)

    for number in range(500):
        for earlier in range(number):
            if (known := ownership.get(f"token-{earlier}")) is not None:
                known.is_in_use = True
        ownership.went_out(origin, f"token-{number}")

    assert 90 <= len(ownership.entries) <= 100
    assert "token-499" in ownership.entries
