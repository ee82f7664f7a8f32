"""`isomon token`: make, list and revoke the collector's keys. The file holds hashes; a token is shown once, when it is made."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, get_args

import typer
from rich.table import Table
from rich.text import Text

from isolation_monitor.cli.collector_client import UsageError, seconds
from isolation_monitor.cli.console import stdout_console
from isolation_monitor.collector.clock import rfc3339, utc_now
from isolation_monitor.collector.keys import SCOPES, Key, KeysError, Rates, Scope, change_keys, is_key_id, new_key, read_keys

SCHEMA: Final = "keys-list/1"
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

EPILOG = """Exit codes: 0 done, 1 there is no such key, or the file cannot be read or written, 2 usage.

Examples:

  isomon token new --scope ingest --service chat --name "chat, production" --file keys.json

  isomon token new --scope read --scope operate --expires 90d --token-file ann.token

  isomon token list --json

  isomon token revoke 1f2e3d4c
"""

app = typer.Typer(no_args_is_help=True, epilog=EPILOG)

File = Annotated[Path, typer.Option("--file", envvar="COLLECTOR_KEYS_FILE", help="File of keys; the collector's COLLECTOR_KEYS_FILE.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command("new", epilog=EPILOG)
def new(
    file: File,
    scope: Annotated[list[str], typer.Option(help=f"What it may do, repeatable: {', '.join(SCOPES)}.")],
    service: Annotated[list[str] | None, typer.Option(help="Bind it to this service, repeatable; without, it is for all.")] = None,
    name: Annotated[str, typer.Option(help="Who has it, for the list.")] = "",
    expires: Annotated[str | None, typer.Option(help="How long it lives, such as 12h or 90d; without, until it is revoked.")] = None,
    requests_per_s: Annotated[
        float | None, typer.Option(min=0, help="Requests a second; without, the collector's setting; 0: no limit.")
    ] = None,
    records_per_s: Annotated[float | None, typer.Option(min=0, help="Records a second, likewise.")] = None,
    bytes_per_s: Annotated[float | None, typer.Option(min=0, help="Bytes of bodies a second, likewise.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="Write the token into this new file, for its owner alone; do not print it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print its token, once. Two live keys are a rotation: make the new one, hand it out, revoke the old one."""
    unknown = [one for one in scope if one not in SCOPES]
    if unknown:
        _refuse(f"--scope {unknown[0]!r} is none: use {', '.join(SCOPES)}")
    scopes: list[Scope] = [one for one in get_args(Scope) if one in scope]
    now = utc_now()
    try:
        ends = None if expires is None else now + _lifetime(expires)
        key, token = new_key(
            scopes, now, services=service or (), name=name, expires=ends, rates=Rates(requests_per_s, records_per_s, bytes_per_s)
        )
    except (UsageError, OverflowError) as error:
        _refuse(f"--expires: {error}")
    try:
        # Before the key exists: one that nobody could hand out would stay in the file.
        if token_file is not None:
            _write_token(token_file, token)
        try:
            change_keys(file, lambda keys: (*keys, key))
        except KeysError:
            if token_file is not None:
                token_file.unlink(missing_ok=True)
            raise
    except KeysError as error:
        _fail(str(error))
    shown = _as_json(key) | ({} if token_file else {"token": token})
    if as_json:
        print(json.dumps({"schema": "key/1", **shown}, ensure_ascii=False))
        return
    print(f"made key {key.id}: {_words(key)}; its token is shown only now", file=sys.stderr)
    if token_file is None:
        print(token)


@app.command("list", epilog=EPILOG)
def list_(file: File, as_json: Json = False) -> None:
    """List the keys: ids, names, what they open, when they end. No token is kept, so none is shown."""
    try:
        keys = read_keys(file)
    except KeysError as error:
        _fail(str(error))
    if as_json:
        print(json.dumps({"schema": SCHEMA, "items": [_as_json(key) for key in keys]}, ensure_ascii=False))
        return
    console = stdout_console(highlight=False)
    if not keys:
        console.print("there are no keys")
        return
    table = Table("id", "name", "may", "services", "made", "ends", box=None, pad_edge=False)
    for key in keys:
        item = _as_json(key)
        ends = "never" if item["expires"] is None else f"{item['expires'][:10]}{'' if item['live'] else ' (expired)'}"
        cells = (key.id, key.name, ", ".join(item["scopes"]), ", ".join(item["services"] or ["all"]), (item["created"] or "-")[:10], ends)
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


@app.command("revoke", epilog=EPILOG)
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as the list shows it.")], file: File) -> None:
    """Remove a key. Collectors that read the file refuse its token within a second or so."""
    if not is_key_id(key_id):
        _refuse("that is no id of a key: 'isomon token list' shows them; the id of a token stands between isomon_ and the next _")

    def without(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        kept = tuple(key for key in keys if key.id != key_id)
        if len(kept) == len(keys):
            raise KeysError(f"there is no key {key_id!r} in {str(file)!r}: 'isomon token list' shows them")
        return kept

    try:
        change_keys(file, without)
    except KeysError as error:
        _fail(str(error))
    print(f"revoked {key_id}")


def _lifetime(text: str) -> timedelta:
    days = text.strip().removesuffix("d")
    if days != text.strip() and days.replace(".", "", 1).isdigit():
        return timedelta(days=float(days))
    return timedelta(seconds=seconds(text))


def _write_token(path: Path, token: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as out:
            out.write(token + "\n")
    except OSError as error:
        raise KeysError(f"--token-file {path}: cannot be made ({type(error).__name__}); it must not exist yet") from None


def _as_json(key: Key) -> dict[str, Any]:  # Any: JSON
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "services": None if key.services is None else sorted(key.services),
        "created": rfc3339(key.created) if key.created else None,
        "expires": rfc3339(key.expires) if key.expires else None,
        "live": key.is_live(datetime.now(UTC)),
    }


def _words(key: Key) -> str:
    of = "all services" if key.services is None else ", ".join(sorted(key.services))
    until = f" until {rfc3339(key.expires)}" if key.expires else ""
    return f"{', '.join(sorted(key.scopes))} for {of}{until}"


def _refuse(text: str) -> NoReturn:
    print(f"isomon token: {text}", file=sys.stderr)
    raise typer.Exit(EXIT_USAGE)


def _fail(text: str) -> NoReturn:
    print(f"isomon token: {text}", file=sys.stderr)
    raise typer.Exit(EXIT_FAILED)
