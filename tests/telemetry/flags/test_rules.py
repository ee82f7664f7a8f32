"""Reading the document of rules: strict as a whole, and one bad rule does not take the others along."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation_monitor.telemetry.flags.bucketing import NOBODY, Internal
from isolation_monitor.telemetry.flags.rules import FlagRulesError, FlagSet, parse
from tests.real_parts.flag_server import rule


def document(*flags: object, **changes: object) -> str:
    return json.dumps({"schema": "flags/v1", "revision": 3, "flags": list(flags), **changes})


def test_a_rule_is_read_as_it_was_written():
    found = parse(document(rule("a", percent=12.5, internal=["ann"], holdback_percent=5, revision=7), rule("b", internal=[])))

    assert found.revision == 3
    assert (found.rules["a"].percent, found.rules["a"].holdback_percent, found.rules["a"].revision) == (12.5, 5.0, 7)
    assert found.rules["a"].internal == Internal(frozenset({"ann"}))
    assert found.rules["b"].internal is NOBODY
    assert (found.rules["b"].on, found.rules["b"].off) == (True, False)


def test_internal_users_by_attribute_and_values_of_variants_are_read():
    flag = rule("a", internal={"attribute": "email_domain", "in": ["example.com"]}, variants={"on": "new", "off": "old"})
    found = parse(document(flag)).rules["a"]

    assert found.internal == Internal(attribute="email_domain", values=frozenset({"example.com"}))
    assert (found.on, found.off) == ("new", "old")


@pytest.mark.parametrize(
    "change",
    [
        {"percent": 101}, {"percent": -1}, {"percent": "10"}, {"percent": True}, {"enabled": 1}, {"enabled": None}, {"key": ""},
        {"key": "x" * 101}, {"internal": "ann"}, {"internal": [1]}, {"internal": {"attribute": "a"}}, {"holdback_percent": 200},
        {"variants": []},
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_read_is_left_out_and_the_others_hold(change):
    found = parse(document({**rule("a"), **change}, rule("b")))

    assert set(found.rules) == {"b"}
    assert len(found.refused) == 1


def test_the_last_known_rule_stands_in_for_one_that_cannot_be_read():
    """A defect in one rollout's rule must neither change what its users have nor hold up the rollback of another."""
    known = parse(document(rule("a", percent=10), rule("b", percent=10)))
    found = parse(document(rule("a", percent=1000), rule("b", enabled=False), revision=4)).completed_by(known)

    assert found.rules["a"] == known.rules["a"]
    assert not found.rules["b"].enabled


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '{"schema":"flags/v2","revision":1,"flags":[]}', '{"schema":"flags/v1","revision":1.5,"flags":[]}',
     '{"schema":"flags/v1","revision":1,"flags":{}}', '{"schema":"flags/v1","revision":NaN,"flags":[]}', "[" * 100_000, "<html>"],
)  # fmt: skip
def test_what_is_no_document_is_refused(text):
    with pytest.raises(FlagRulesError):
        parse(text)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


@given(st.lists(st.one_of(JSON, st.dictionaries(st.sampled_from(list(rule("a"))), JSON))))
def test_no_document_breaks_the_reader(flags):
    assert isinstance(parse(document(*flags)), FlagSet)
