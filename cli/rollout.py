"""`isomon rollout`: apply a rollout's file, start, advance, hold, roll back and re-arm it, and look at it.

Every change names who asked for it and why; both stay in the history.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar
from urllib.parse import quote

import typer

from isolation_monitor.cli import rollout_table
from isolation_monitor.cli.collector_client import (
    DEFAULT_URL,
    TOKEN_FILE_ENV,
    URL_ENV,
    CollectorClient,
    NoAnswer,
    UsageError,
    read_token,
    seconds,
)
from isolation_monitor.cli.rollout_file import read_file
from isolation_monitor.collector.rollouts.spec import RolloutSpec

Json = dict[str, Any]  # Any: JSON
T = TypeVar("T")

EXIT_USAGE: Final = 2
EXIT_ROLLED_BACK: Final = 10
EXIT_HELD: Final = 20
EXIT_NO_ANSWER: Final = 30
ACTOR_ENV: Final = "ISOMON_ACTOR"
_ACTORS_OF_CI: Final = ("GITHUB_ACTOR", "GITLAB_USER_LOGIN")
_AGAIN_S: Final = 1.0

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Name = Annotated[str, typer.Argument(help="Name of the rollout.")]
Collector = Annotated[str, typer.Option(envvar=URL_ENV, help="Address of the collector.")]
TokenFile = Annotated[Path | None, typer.Option(envvar=TOKEN_FILE_ENV, help="File with a token that may operate (or read).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the collector's answer and nothing else.")]
Reason = Annotated[str, typer.Option("--reason", "-m", help="Why, for the history.")]
Actor = Annotated[str | None, typer.Option(help=f"Who, for the history. Default: ${ACTOR_ENV}, CI's user, else you on this machine.")]

_CODES = "Exit codes: 0 done (also: it was so already), 2 usage (also: its state or its gate does not allow it), 30 no answer."


@app.command(
    epilog="""Exit codes: 0 stored (also: nothing changed), 2 a file is wrong (each line named, nothing stored) or its change is refused,
30 no answer. Several are stored one after the other and said one by one; the first that cannot be stored ends it.

Examples:

  isomon rollout apply rollouts/checkout-v2.yml

  isomon rollout apply rollouts/checkout-v2.yml --check

  isomon rollout apply rollouts/*.yml -m "soak half an hour longer"
"""
)
def apply(
    files: Annotated[list[Path], typer.Argument(help="The YAML files, one a rollout.")],
    reason: Reason = "its file changed",
    actor: Actor = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the files; needs no collector.")] = False,
    collector: Collector = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Store what FILES ask for. Users keep what they have: a new rollout waits for its start."""
    # All files first: one mistake and nothing of any file is stored.
    specs = _guarded(lambda: _read_all(files))
    if check:
        if not as_json:
            print(f"{len(files)} of {len(files)} files are right; nothing was sent")
        return

    def work() -> None:
        with CollectorClient(collector, read_token(token_file)) as client:
            for spec in specs:
                about = {"spec": dict(spec.source), "reason": reason, "actor": _actor(actor)}
                # Said at once: it stays stored when a later one is refused.
                _print_applied(client.request("PUT", _path(spec.rollout), about), as_json)

    _guarded(work)


@app.command(
    epilog=f"""{_CODES}

Examples:

  isomon rollout start checkout-v2 -m "release 2.4"

  isomon rollout start checkout-v2 -m "the warning was looked into"      (goes on after a hold)

  isomon rollout start canary-42 --service chat --arm on                 (only watched: its gate, no stages)
"""
)
def start(
    name: Name,
    reason: Annotated[str | None, typer.Option("--reason", "-m", help="Why, for the history.")] = None,
    actor: Actor = None,
    service: Annotated[
        str | None, typer.Option(help="Watch this service under a new name, without a file: somebody else gives users their variant.")
    ] = None,
    arm: Annotated[str | None, typer.Option(help="With --service: judge on, off or none alone. Default: all together.")] = None,
    min_exposed_requests: Annotated[
        int | None, typer.Option(min=1, help="With --service: clean exposed requests before the gate may pass.")
    ] = None,
    min_owed_events: Annotated[
        int | None, typer.Option(min=0, help="With --service: owed events before the gate may pass; 0 for a service without runs.")
    ] = None,
    collector: Collector = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Start rollout NAME at its first stage, or go on with one that is held."""
    if service is None:
        if arm is not None or min_exposed_requests is not None or min_owed_events is not None:
            _leave(EXIT_USAGE, "--arm and the minima are the file's, or go with --service")
        if reason is None:
            _leave(EXIT_USAGE, "say why: --reason TEXT (or --service NAME to watch a service without a file)")
        _step("start", name, reason, actor, collector, token_file, as_json)
        return
    body: Json = {"name": name, "service": service, "arm": arm}
    if min_exposed_requests is not None:
        body["min_exposed_requests"] = min_exposed_requests
    if min_owed_events is not None:
        body["min_owed_events"] = min_owed_events
    _show(_guarded(lambda: _request("POST", "/v1/rollouts", body, collector, token_file)), as_json)


@app.command(
    epilog=f"""{_CODES} A gate that failed cannot be overruled.

Examples:

  isomon rollout advance checkout-v2 -m "reviewed the numbers"

  isomon rollout advance checkout-v2 -m "night traffic is enough" --force
"""
)
def advance(
    name: Name,
    reason: Reason,
    actor: Actor = None,
    force: Annotated[bool, typer.Option("--force", help="Although the gate does not pass yet; the history says so.")] = False,
    collector: Collector = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Bring rollout NAME to its next stage; its gate must pass and the stage's soak time be over."""
    _step("advance", name, reason, actor, collector, token_file, as_json, force=force)


@app.command(epilog=f'{_CODES}\n\nExample:\n\n  isomon rollout hold checkout-v2 -m "the support desk asks for a day"\n')
def hold(
    name: Name,
    reason: Reason,
    actor: Actor = None,
    collector: Collector = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Keep rollout NAME where it is: users keep what they have, nothing advances. Harm still takes it back."""
    _step("hold", name, reason, actor, collector, token_file, as_json)


@app.command(
    epilog="""Exit codes: 0 everybody gets off (also: it was so already), 2 usage, 30 no answer within --wait.

Examples:

  isomon rollout rollback checkout-v2

  isomon rollout rollback checkout-v2 -m "customers report foreign invoices"
"""
)
def rollback(
    name: Name,
    reason: Reason = "by hand",
    actor: Actor = None,
    wait: Annotated[str, typer.Option(help="Keep trying so long while the collector gives no answer.")] = "30s",
    collector: Collector = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Take rollout NAME back now: everybody gets off, in any state, until a person re-arms it."""
    _step("rollback", name, reason, actor, collector, token_file, as_json, wait=wait)


@app.command(name="re-arm", epilog=f'{_CODES}\n\nExample:\n\n  isomon rollout re-arm checkout-v2 -m "fixed by change 1234"\n')
def re_arm(
    name: Name,
    reason: Reason,
    actor: Actor = None,
    collector: Collector = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Allow rollout NAME to be started again after a rollback. Nobody gets anything by this alone."""
    _step("re-arm", name, reason, actor, collector, token_file, as_json)


@app.command(
    epilog="""Exit codes with NAME: 0 ready, running or complete, 10 rolled back, 20 held, 2 usage, 30 no answer. Without NAME: 0, 2 or 30.

Examples:

  isomon rollout status

  isomon rollout status checkout-v2

  isomon rollout status checkout-v2 --json
"""
)
def status(
    name: Annotated[str | None, typer.Argument(help="Name of the rollout. Default: all.")] = None,
    service: Annotated[str | None, typer.Option(help="Without NAME: those of this service alone.")] = None,
    collector: Collector = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show where rollouts are: stage, percent, soak time, what comes next, who changed them last and why."""
    if name is None:
        query = f"?service={quote(service, safe='')}" if service else ""
        answer = _guarded(lambda: _request("GET", f"/v1/rollouts{query}", None, collector, token_file))
        if as_json:
            _print_json(answer)
        else:
            rollout_table.many(answer["items"])
        return
    answer = _guarded(lambda: _request("GET", _path(name), None, collector, token_file))
    _show(answer, as_json)
    found = (answer.get("state") or {}).get("status")
    raise typer.Exit(EXIT_ROLLED_BACK if found == "rolled_back" else EXIT_HELD if found == "held" else 0)


@app.command(epilog="Exit codes: 0 shown, 2 usage, 30 no answer.\n\nExample:\n\n  isomon rollout history checkout-v2 --limit 20\n")
def history(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many changes, the newest.")] = 50,
    collector: Collector = DEFAULT_URL,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show every change of rollout NAME, newest first: when, who, what and why."""
    answer = _guarded(lambda: _request("GET", f"{_path(name)}/history?limit={limit}", None, collector, token_file))
    if as_json:
        _print_json(answer)
    else:
        rollout_table.history(answer["items"])


@app.command(
    epilog="Exit codes: 0 shown, 2 usage (also: no such rollout), 30 no answer.\n\nExample:\n\n  isomon rollout show canary-42 --json\n"
)
def show(name: Name, collector: Collector = DEFAULT_URL, token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Show what rollout NAME asks for, when it started, and whether its gate failed."""
    _show(_guarded(lambda: _request("GET", _path(name), None, collector, token_file)), as_json)


def _step(
    step: str,
    name: str,
    reason: str,
    actor: str | None,
    collector: str,
    token_file: Path | None,
    as_json: bool,
    *,
    force: bool = False,
    wait: str = "0s",
) -> None:
    body: Json = {"actor": _actor(actor), "reason": reason}
    if force:
        body["force"] = True
    deadline = time.monotonic() + _guarded(lambda: seconds(wait))

    def work() -> Json:
        while True:
            try:
                return _request("POST", f"{_path(name)}/{step}", body, collector, token_file)
            except NoAnswer as error:
                if time.monotonic() >= deadline:
                    raise
                print(f"isomon rollout: {error}; trying again", file=sys.stderr, flush=True)
                time.sleep(_AGAIN_S)

    answer = _guarded(work)
    if as_json:
        _print_json(answer)
        return
    state = answer["state"]
    said = f"{answer['name']}: {state['status']}, stage {state['stage']}, {state['percent']:g} %"
    print(said if answer["changed"] else f"{said} (it was so already)")


def _read_all(files: list[Path]) -> list[RolloutSpec]:
    specs, wrong = [], []
    for file in files:
        try:
            specs.append(read_file(file))
        except UsageError as error:
            wrong.append(str(error))
    if wrong:
        raise UsageError("\n".join([*wrong, "nothing was stored"]))
    return specs


def _path(name: str) -> str:
    return f"/v1/rollouts/{quote(name, safe='')}"


def _actor(given: str | None) -> str:
    for name in (given, *(os.environ.get(key) for key in (ACTOR_ENV, *_ACTORS_OF_CI))):
        if name and name.strip():
            return name.strip()
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return f"uid {os.getuid()}@{socket.gethostname()}"


def _request(method: str, path: str, body: Json | None, collector: str, token_file: Path | None) -> Json:
    with CollectorClient(collector, read_token(token_file)) as client:
        return client.request(method, path, body)


def _guarded(work: Callable[[], T]) -> T:
    """Return what `work` does, or leave with the code of its trouble."""
    try:
        return work()
    except UsageError as error:
        _leave(EXIT_USAGE, str(error))
    except NoAnswer as error:
        _leave(EXIT_NO_ANSWER, str(error))


def _leave(code: int, text: str) -> NoReturn:
    print(f"isomon rollout: {text}", file=sys.stderr)
    raise typer.Exit(code)


def _show(answer: Json, as_json: bool) -> None:
    if as_json:
        _print_json(answer)
    else:
        rollout_table.one(answer)


def _print_applied(answer: Json, as_json: bool) -> None:
    if as_json:
        _print_json(answer)
    else:
        print(f"{answer['name']}: {'stored' if answer['changed'] else 'nothing to do'}, it is {answer['state']['status']}")


def _print_json(answer: Json) -> None:
    print(json.dumps(answer, ensure_ascii=False, allow_nan=False))
