"""The sub-commands of `isomon docker`."""

from __future__ import annotations

import typer

from isolation_monitor.cli.docker.audit import command

app = typer.Typer(no_args_is_help=True)
app.command("audit", epilog=command.EPILOG)(command.audit_command)
