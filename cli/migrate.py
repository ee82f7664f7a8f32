"""`isomon migrate`: bring the collector's database to this version's schema, or back to an earlier one."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Annotated, Final

import typer
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from isolation_monitor.collector.storage.schema import migrate as run_migrations
from isolation_monitor.collector.storage.urls import DatabaseUrlError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
_DEFAULT_URL: Final = "sqlite+aiosqlite:///./isolation-monitor.sqlite3"


def migrate(
    database_url: Annotated[
        str | None,
        typer.Option(help="sqlite:///path or postgresql://user@host/name. Default: $COLLECTOR_DATABASE_URL, else the collector's."),
    ] = None,
    to: Annotated[str, typer.Option(help="Revision to reach.")] = "head",
    down: Annotated[bool, typer.Option("--down", help="Go back to the revision of --to ('base' drops everything).")] = False,
) -> None:
    """Bring the collector's database to this version's schema. Safe to repeat, also by several replicas at once.

    Examples: isomon migrate; isomon migrate --database-url postgresql://isomon@db/isomon
    """
    url = database_url or os.environ.get("COLLECTOR_DATABASE_URL") or _DEFAULT_URL
    if down and to == "head":
        print("isomon migrate: --down needs --to with the revision to go back to, or 'base'", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE)
    try:
        before, after = asyncio.run(run_migrations(url, to, down=down))
    except DatabaseUrlError as error:
        print(f"isomon migrate: the database address {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from None
    except CommandError as error:
        print(f"isomon migrate: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE) from None
    except (SQLAlchemyError, OSError) as error:
        # The driver's own words: they name hosts and files, and never the password.
        cause = getattr(error, "orig", None) or error
        print(f"isomon migrate: the database refused, nothing was changed: {type(cause).__name__}: {cause}", file=sys.stderr)
        raise typer.Exit(EXIT_FAILED) from None
    if before == after:
        print(f"nothing to do: the schema is at {after or 'base'}")
    else:
        print(f"migrated the schema from {before or 'nothing'} to {after or 'base'}")
