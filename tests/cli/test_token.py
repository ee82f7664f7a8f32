"""`isomon token`: what it prints once, what it never prints, and what a running collector makes of it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from isolation_monitor.collector.keys import digest_of, read_keys
from tests.cli.test_violations import isomon


def token(*arguments: object) -> tuple[int, str, str]:
    done = isomon("token", *map(str, arguments))
    return done.returncode, done.stdout, done.stderr


def test_a_key_is_made_listed_and_revoked(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"

    code, out, told = token("new", "--scope", "ingest", "--service", "chat", "--name", "chat [red]", "--expires", "90d", "--file", file)

    assert code == 0, told
    secret = out.strip()
    (key,) = read_keys(file)
    assert key.digest == digest_of(secret)
    assert (key.scopes, key.services) == ({"ingest"}, {"chat"})
    assert key.expires is not None
    assert key.created is not None
    assert (key.expires - key.created).days == 90
    assert key.id in told
    assert secret not in told

    code, listed, _ = token("list", "--file", file)
    assert code == 0
    assert all(text in listed for text in (key.id, "chat [red]", "ingest"))
    assert secret not in listed
    _, as_json, _ = token("list", "--file", file, "--json")
    assert json.loads(as_json)["items"][0]["services"] == ["chat"]
    assert "sha256" not in as_json

    assert token("revoke", key.id, "--file", file)[0] == 0
    assert read_keys(file) == ()
    code, _, told = token("revoke", key.id, "--file", file)
    assert code == 1
    assert "no key" in told


def test_a_token_goes_into_a_new_file_of_its_owner_and_is_not_printed(tmp_path: Path) -> None:
    file, out = tmp_path / "keys.json", tmp_path / "ann.token"

    code, printed, _ = token("new", "--scope", "read", "--file", file, "--token-file", out)

    assert (code, printed) == (0, "")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    (key,) = read_keys(file)
    assert key.digest == digest_of(out.read_text().strip())
    before = out.read_text()
    code, _, told = token("new", "--scope", "read", "--file", file, "--token-file", out)
    assert code == 1
    assert "must not exist" in told
    assert out.read_text() == before
    assert len(read_keys(file)) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["new", "--scope", "everything"], 2, "everything"),
        (["new", "--scope", "read", "--expires", "soon"], 2, "soon"),
        (["new", "--scope", "read", "--name", "a\nb"], 1, "name"),
        (["revoke", "isomon_1f2e3d4c_secret"], 2, "no id"),
        (["list"], 1, "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(tmp_path: Path, arguments: list[str], code: int, told: str) -> None:
    file = tmp_path / "keys.json"

    found, out, error = token(*arguments, "--file", file)

    assert (found, out) == (code, "")
    assert told in error
    assert "secret" not in error
    assert not file.exists()
