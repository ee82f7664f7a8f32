"""What may be a secret is gone before the spool, by the name of its field and by its form; everything else is sent as it was."""

from __future__ import annotations

import json
import time
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
        ("postgres://app:hunter/2@db/chat", f"postgres://{REDACTED}@db/chat"),
        ("redis://:s3c/ret@cache:6379/0", f"redis://{REDACTED}@cache:6379/0"),
        ("https://token-of-mine@host/x", f"https://{REDACTED}@host/x"),
        ("Authorization: Bearer abc.def-ghi_jkl", f"Authorization: Bearer {REDACTED}"),
        ("login?user=1&password=hunter2&next=/", f"login?user=1&password={REDACTED}&next=/"),
        ("api_key: 0123456789", f"api_key: {REDACTED}"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl", REDACTED),
        ("key AKIAIOSFODNN7EXAMPLE of ours", f"key {REDACTED} of ours"),
        ("ghp_0123456789abcdefghij", REDACTED),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", REDACTED),
        ("the answer for ann.smith+x@mail.example.com left", f"the answer for {REDACTED} left"),
        ("the answer for jane.doe@münchen.de left", f"the answer for {REDACTED} left"),
        ("postgres://app:p@ss@db/chat", f"postgres://{REDACTED}@db/chat"),
        # With a word before it, and without anything between.
        ("DB_PASSWORD=hunter2 was set", f"DB_PASSWORD={REDACTED} was set"),
        ("PGPASSWORD=hunter2", f"PGPASSWORD={REDACTED}"),
        ("clientSecret=abcd", f"clientSecret={REDACTED}"),
        ("client_secret=abcd1234&x=1", f"client_secret={REDACTED}&x=1"),
        ("aws_secret_access_key=wJalr/K7MD", f"aws_secret_access_key={REDACTED}"),
        ("session_token=abcdefgh123", f"session_token={REDACTED}"),
        ("csrf-token: abcdefgh123", f"csrf-token: {REDACTED}"),
        ("app.settings.password = 'hunter2'", f"app.settings.password = {REDACTED}"),
        ("X-Api-Key: abcd1234", f"X-Api-Key: {REDACTED}"),
        ("token==abcd", f"token=={REDACTED}"),
        # In quotes of any kind.
        ('{"password": "hunter2", "x": 1}', f'{{"password": {REDACTED}, "x": 1}}'),
        ("{'password': 'hunter2', 'x': 1}", f"{{'password': {REDACTED}, 'x': 1}}"),
        ("{'db.password': 'hunter2'}", f"{{'db.password': {REDACTED}}}"),
        (r"{\"password\": \"hunter2\"}", rf"{{\"password\": {REDACTED}}}"),
        ("password='hunter2 and more', next", f"password={REDACTED}, next"),
        ('password="hunter2 that was cu', f"password={REDACTED}"),
        ("password=b'hunter2'", f"password={REDACTED}"),
        ("password=SecretStr('hunter2')", f"password={REDACTED})"),
        # Headers.
        ("Authorization: Token 9944b091", f"Authorization: Token {REDACTED}"),
        ("Authorization: Basic letters", f"Authorization: Basic {REDACTED}"),
        ("Authorization: 9944b091", f"Authorization: {REDACTED}"),
        ("(b'authorization', b'Token 9944b091')", f"(b'authorization', b'Token {REDACTED}')"),
        ("Cookie: sessionid=abc123; theme=dark, then more", f"Cookie: {REDACTED}, then more"),
        ("Set-Cookie: session=abc; Path=/; Secure", f"Set-Cookie: {REDACTED}"),
        ("(b'cookie', b'sid=abc')", f"(b'cookie', b'{REDACTED}')"),
    ],
)
def test_a_secret_is_known_by_its_form_wherever_it_stands(text: str, left: str) -> None:
    assert after({"summary": text, "detail": {"deep": [[text], {text: None}]}}) == {
        "summary": left,
        "detail": {"deep": [[left], {left: None}]},
    }


@pytest.mark.parametrize(
    "name",
    [
        *("password", "DB_PASSWORD", "client_secret", "Authorization", "Set-Cookie", "apiKey", "access_token", "token", "user_pwd"),
        *("api-key", "x-api-key", "accessToken", "csrf-token", "private-key", "access-key", "tokens"),
    ],
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
        # Places in code, routes, counts, and sentences of our own.
        {"name": "app.core.token:CACHE[*]['text']", "summary": "app.core.token:CACHE[*]['text'], which all requests reach"},
        {"where": "https://host:443/users/@me, http://[::1]:8000/users/@me, http://host:80/?at=x@y"},
        {"route": "/v1/token:refresh", "summary": "/v1/token:refresh let a connection in"},
        {"summary": "/reset/password: context variable user named another principal while this request was answered"},
        {"summary": "access_token: one instance was given to two requests", "where": "token:42"},
        {"summary": "tasks.rotate_secret: a job ran in a thread"},
        {"lost": {"token": 5, "done": 1}, "counts": {"token": {"sent": 3}}, "text": "token: 5, secret=2"},
        {"reason": "basic authentication failed. Digest authentication. digest comparison"},
        {"reason": "authorization: one instance was given", "text": "cookie: the agent's"},
    ],
)
def test_what_only_speaks_of_secrets_stays(value: dict[str, Any]) -> None:
    text = json.dumps(value)

    assert redacted(text) is text


@pytest.mark.parametrize("value", ["sk-run-0123456789ab", "ann@example.com", "worker@host-1.example.com"])
def test_what_people_search_by_stays(value: str) -> None:
    text = json.dumps({"id": value, "run_id": value, "instance": value, "victim": {"run_id": value}, "violation_id": value})

    assert redacted(text) is text


def test_places_in_code_stay() -> None:
    text = json.dumps(
        {"victim": {"stack": ["/srv/app@v1.example/x.py:3 token"], "route": "/t/token=x", "endpoint": "/srv/app@v1.example/x.py"}}
    )

    assert redacted(text) is text


def test_a_secret_that_is_no_text_where_a_place_is_said_is_looked_at() -> None:
    assert after({"stack": {"password": "hunter2"}, "id": ["x", {"token": "abc"}]}) == {
        "stack": {"password": REDACTED},
        "id": ["x", {"token": REDACTED}],
    }


def test_two_names_that_are_called_the_same_now_stay_two() -> None:
    fields = {"ann@example.com": 1, "bob@example.com": 2, f"{REDACTED} 2": 3, REDACTED: 4}

    assert after(fields) == {f"{REDACTED} 3": 1, f"{REDACTED} 4": 2, f"{REDACTED} 2": 3, REDACTED: 4}
    assert after({"ann@example.com": 1, "bob@example.com": 2}) == {REDACTED: 1, f"{REDACTED} 2": 2}


PIECES = st.lists(
    st.sampled_from(
        [
            *(
                "password",
                "token",
                "_secret",
                "api-key",
                "cookie",
                "authorization",
                "Bearer ",
                "basic ",
                "ab12cd34ef",
                "one",
                "5",
                "x@y.com",
            ),
            *(
                " ",
                ": ",
                "=",
                ":",
                '"',
                "'",
                "\\",
                ",",
                ";",
                "/",
                ".",
                "(",
                "://",
                "@",
                REDACTED,
                "eyJabcdefg.abcdefgh",
                "sk-abcdefghijkl",
                "b",
            ),
        ]
    ),
    max_size=14,
).map("".join)


@given(PIECES, PIECES)
def test_what_came_out_once_comes_out_again(name: str, text: str) -> None:
    once = redacted(json.dumps({name: text, "x": [text]}))

    assert redacted(once) == once


@pytest.mark.parametrize(
    "text",
    [
        *("token " * 20_000, "a_" * 50_000 + "token", "token" + " " * 100_000, 'token="' * 20_000, "x@" * 50_000 + "token"),
        *("token='\"" * 20_000, "cookie: a=b; " * 10_000, "cookie" + " " * 100_000, "authorization:" + " " * 100_000, "Bearer " * 20_000),
        *("cookie:a=b" + ";" * 100_000, "a.a@" + "1." * 50_000, "authorization: " * 10_000, "a-" * 50_000 + "token", "token:" * 20_000),
        *("password=" + "\\" * 100_000, "token=a(" * 20_000, "x://" * 30_000 + "@"),
    ],
    ids=lambda text: text[:12],
)
def test_no_text_takes_long(text: str) -> None:
    began = time.thread_time()
    redacted(json.dumps({"x": text}))

    assert time.thread_time() - began < 2


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
