"""The sub-commands of `isomon docker`."""

from __future__ import annotations

import typer

from isolation_monitor.cli.docker.audit import command as audit
from isolation_monitor.cli.docker.guard import commands as guard

app = typer.Typer(no_args_is_help=True)
for _function in (guard.stop, guard.restart, guard.rm, guard.kill, guard.prune, guard.journal):
    app.command(_function.__name__, epilog=guard.EPILOG)(_function)
app.command("audit", epilog=audit.EPILOG)(audit.audit_command)
