"""`isomon`: finds the sub-command, imports its module alone and runs it.

Exit codes: 0 it worked, 1 it did not, 2 wrong usage or something is not installed; a sub-command's help names its others.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from isolation_monitor.cli.commands import COMMANDS, Command

if TYPE_CHECKING:
    import typer

EXIT_USAGE = 2

EPILOG = """Examples:

  isomon demo up                      the whole product with traffic, on this machine

  isomon demo inject shared-agent     from a second terminal: break it, and watch the page arrive

  isomon gate check canary-42 --wait 90s --json
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `isomon`; does not return. Usage errors, and a missing typer, exit with 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        import typer
    except ImportError:
        print("isomon needs typer: install 'isolation-monitor[cli]'", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None
    app = _shell(typer)
    asked = _first_word(words)
    for name, command in COMMANDS.items():
        if name == asked:
            _attach(app, name, command)
        else:
            # Only its line in the list of commands: importing all of them to print help would need every extra.
            app.command(name, help=command.help)(_nothing)
    app(words, prog_name="isomon")


def _shell(typer_module: ModuleType) -> typer.Typer:
    app: typer.Typer = typer_module.Typer(
        name="isomon",
        help="isolation-monitor: proves that one user's request never touches another's.",
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        # A traceback is for a bug report: plain, complete and without anybody's local values.
        pretty_exceptions_enable=False,
    )

    def version(show: bool = typer_module.Option(False, "--version", help="Print the version and leave.", is_eager=True)) -> None:
        if show:
            from isolation_monitor import __version__

            print(f"isomon {__version__}")
            raise typer_module.Exit

    app.callback(invoke_without_command=True)(version)
    return app


def _attach(app: typer.Typer, name: str, command: Command) -> None:
    """Import one sub-command and add it, or exit with 2 and say what to install."""
    try:
        module = importlib.import_module(command.module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("isolation_monitor"):
            # Its own module is not part of this installation; anything else missing below it is a bug to be seen.
            if error.name != command.module:
                raise
            print(f"isomon {name} is not part of this version", file=sys.stderr)
        else:
            print(f"isomon {name} needs {error.name}: install 'isolation-monitor[{command.extra}]'", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None
    function: Callable[..., object] | None = getattr(module, name, None)
    if callable(function):
        app.command(name, help=command.help, epilog=getattr(module, "EPILOG", None))(function)
    else:
        app.add_typer(module.app, name=name, help=command.help)


def _first_word(words: Sequence[str]) -> str | None:
    """Return the sub-command's name: the first word that is no option (the shell's own options take no value)."""
    return next((word for word in words if not word.startswith("-")), None)


def _nothing() -> None:
    """Stand in for a sub-command that was not asked for; never called."""


if __name__ == "__main__":
    main()
