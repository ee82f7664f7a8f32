"""`isomon forget`: take one user's evidence away, and say how much it was."""

from __future__ import annotations

import getpass
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import typer

from isolation_monitor.cli.collector_client import (
    DEFAULT_URL,
    TOKEN_FILE_ENV,
    URL_ENV,
    CollectorClient,
    NoAnswer,
    NotACollector,
    UsageError,
    read_token,
)
from isolation_monitor.telemetry.principals import PrincipalHasher

Json = dict[str, Any]  # Any: JSON

SCHEMA: Final = "forgetting/1"
EXIT_UNFINISHED: Final = 1
EXIT_USAGE: Final = 2
_KEY: Final = "ISOLATION_HASH_KEY"

EPILOG = """Exit codes: 0 all of it is forgotten, 1 the collector cannot be reached or stopped half-way (do it again), 2 usage.

Violations that have another user on their other side lose this user's side; everything else about this user is removed. Doing it again is
safe and finds nothing more. Evidence that a service still holds back arrives later: do it again after an outage.

Examples:

  isomon forget a1b2c3d4e5f60718 --yes

  isomon forget --user-id 4711 --hash-key-file /run/secrets/isolation-hash-key --yes --json
"""


def forget(
    principal: Annotated[str | None, typer.Argument(help="The user's hash, as evidence has it.")] = None,
    user_id: Annotated[str | None, typer.Option("--user-id", help="The user's id instead: hashed here, never sent.")] = None,
    hash_key_file: Annotated[Path | None, typer.Option(envvar=f"{_KEY}_FILE", help=f"File with the key of the hash; else ${_KEY}.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: evidence that is gone does not come back.")] = False,
    actor: Annotated[str | None, typer.Option(help="Who asks for it, for the list of forgettings. Default: your account.")] = None,
    collector: Annotated[str, typer.Option("--url", "--collector", envvar=URL_ENV, help="Address of the collector.")] = DEFAULT_URL,
    token: Annotated[str | None, typer.Option(help="A token that may operate; seen by others in the list of processes.")] = None,
    token_file: Annotated[Path | None, typer.Option(envvar=TOKEN_FILE_ENV, help="File with a token that may operate.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the collector's last answer and nothing else.")] = False,
) -> None:
    """Forget one user: remove or empty what evidence says of this user. The other side's evidence stays."""
    try:
        subject = _subject(principal, user_id, hash_key_file)
        if not yes:
            _confirm(subject)
        with CollectorClient(collector, token or read_token(token_file)) as client:
            answer = _forget(client, subject, actor if actor is not None else getpass.getuser())
    except (UsageError, NoAnswer) as error:
        print(f"isomon forget: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_UNFINISHED) from None
    if as_json:
        print(json.dumps(answer, ensure_ascii=False, allow_nan=False))
    else:
        print(f"forgotten: {answer['removed']} records removed, {answer['changed']} lost this user's side or name")


def _subject(principal: str | None, user_id: str | None, hash_key_file: Path | None) -> str:
    if (principal is None) == (user_id is None):
        raise UsageError("say who: either the hash that evidence has, or --user-id")
    if user_id is None:
        return str(principal)
    if hash_key_file is None:
        key = os.environ.get(_KEY, "")
    else:
        try:
            key = hash_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--hash-key-file {hash_key_file}: cannot be read ({type(error).__name__})") from None
    if not key:
        raise UsageError(f"no key: set {_KEY} or --hash-key-file to the key with which the services hash; another key finds nobody")
    return PrincipalHasher(key).hash(user_id)


def _confirm(subject: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to be asked: pass --yes")
    if not typer.confirm(f"Forget {subject}? This cannot be undone", err=True):
        raise UsageError("nothing was forgotten")


def _forget(client: CollectorClient, subject: str, actor: str) -> Json:
    """Call until the collector is through all days. Each call goes on where the one before ended."""
    path: object = f"/v1/subjects/{quote(subject, safe='')}?{urlencode({'actor': actor})}"
    while True:
        answer = client.request("DELETE", str(path))
        if answer.get("schema") != SCHEMA:
            raise NotACollector
        path = answer.get("next")
        if path is None:
            return answer
        print(f"{answer.get('removed')} removed, {answer.get('changed')} changed so far", file=sys.stderr)
