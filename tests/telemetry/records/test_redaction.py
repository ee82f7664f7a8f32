"""What may be a secret is gone before the spool, by the name of its field and by its form; everything else is sent as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation_monitor.telemetry.records.batches import pack
from isolation_monitor.telemetry.records.redaction import REDACTED, redacted

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def after(value: Any) -> Any:
    return json.loads(redacted(json.dumps(value)))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("connect to postgres://app:hunter2@db.internal/chat failed", f"connect to postgres://{REDACTED}@db.internal/chat failed"),
        ("https://token-of-mine@host/x", f"https://{REDACTED}@host/x"),
        ("Authorization: Bearer abc.def-ghi_jkl", f"Authorization: Bearer {REDACTED}"),
        ("login?user=1&password=hunter2&next=/", f"login?user=1&password={REDACTED}&next=/"),
        ("api_key: 0123456789", f"api_key: {REDACTED}"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl", REDACTED),
        ("key AKIAIOSFODNN7EXAMPLE of ours", f"key {REDACTED} of ours"),
        ("ghp_0123456789abcdefghij", REDACTED),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", REDACTED),
        ("the answer for ann.smith+x@mail.example.com left", f"the answer for {REDACTED} left"),
    ],
)
def test_a_secret_is_known_by_its_form_wherever_it_stands(text: str, left: str) -> None:
    assert after({"summary": text, "detail": {"deep": [[text], {text: None}]}}) == {
        "summary": left,
        "detail": {"deep": [[left], {left: None}]},
    }


@pytest.mark.parametrize(
    "name", ["password", "DB_PASSWORD", "client_secret", "Authorization", "Set-Cookie", "apiKey", "access_token", "token"]
)
def test_a_secret_is_known_by_the_name_of_its_field(name: str) -> None:
    assert after({"detail": [{name: ["plain", {"x": 1}], "other": 7}]}) == {"detail": [{name: REDACTED, "other": 7}]}


@pytest.mark.parametrize(
    "value",
    [
        {
            "principal": "a1b2c3d4e5f60718",
            "stack": ["app/tokens.py:40 read_token"],
            "credential": "authorization",
            "token": None,
            "tokens": 3,
        },
        {"summary": "basic agent: one instance of a token cache was given to two requests", "route": "/passwords/{id}"},
        {"reason": "the secret is out", "time": "2026-01-01T12:00:00.000Z", "has_password": True},
    ],
)
def test_what_only_speaks_of_secrets_stays(value: dict[str, Any]) -> None:
    text = json.dumps(value)

    assert redacted(text) is text


@given(JSON)
def test_any_record_comes_out_as_json_and_a_second_time_changes_nothing(value: Any) -> None:
    once = redacted(json.dumps({"detail": value}))

    assert redacted(once) == once
    assert list(json.loads(once)) == ["detail"]


def test_no_secret_reaches_a_batch() -> None:
    class Host:
        def __str__(self) -> str:
            return "Host(password=hunter2)"

    records = [{"type": "violation", "id": "v", "grade": "crossed", "detail": {"object": Host(), "api_key": "0123"}}]

    [batch] = pack(records, "host:1", lambda error: pytest.fail(str(error)))

    assert b"hunter2" not in batch.text()
    assert b"0123" not in batch.text()
    assert json.loads(batch.text())[0]["detail"] == {"object": f"Host(password={REDACTED}", "api_key": REDACTED}
