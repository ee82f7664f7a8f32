"""Fields: which key of a JSON answer a value stands under."""

from __future__ import annotations

import json

import pytest

from isolation_monitor.telemetry.detectors.answers import field_of

TOKEN = "3f2a9c41d0b7"


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" , ", " : ")])
@pytest.mark.parametrize(
    ("field", "value"),
    [("id", TOKEN), ("link", f"/orders/{TOKEN}?page=2"), ("ids", [1, TOKEN]), ("o", {"key": 5, "id": TOKEN}), ("k" * 40, TOKEN)],
)
def test_the_key_of_a_value_is_its_field(separators: tuple[str, str], field: str, value: object) -> None:
    text = json.dumps({"before": "x", field: value, "after": "y"}, separators=separators)

    assert field_of(text, TOKEN) == ("id" if field == "o" else "" if field == "ids" else field)


def test_numbers_have_a_field_and_what_stands_twice_or_under_an_odd_key_has_none() -> None:
    assert field_of('{"order": 123456789}', "123456789") == "order"
    assert field_of(f'{{"a": "{TOKEN}", "b": "{TOKEN}"}}', TOKEN) is None
    assert field_of(f"<p>{TOKEN}</p>", TOKEN) == ""
    assert field_of(json.dumps({"k" * 41: TOKEN}), TOKEN) == ""
    assert field_of(json.dumps({'odd "key"': TOKEN}), TOKEN) == ""
    assert field_of("{}", TOKEN) is None
