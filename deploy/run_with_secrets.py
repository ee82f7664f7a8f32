"""Starts a program with the database password from a file: the entry point of the images.

`PGPASSWORD_FILE` names a file; its content becomes `PGPASSWORD`, which the PostgreSQL driver reads by itself. So the
password stands in no compose file, no image and no database address. Every other secret is read from its file by the
program that needs it. Standard library only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path


def fill(environment: MutableMapping[str, str]) -> None:
    """Put the password into the environment, and take the file's name out.

    Raises:
        SystemExit: the file cannot be read or is empty; the text says which and what to do.
    """
    name = environment.pop("PGPASSWORD_FILE", "")
    if not name:
        return
    try:
        password = Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"PGPASSWORD_FILE={name!r} cannot be read ({type(error).__name__}): run deploy/make-secrets.py") from None
    if not password:
        raise SystemExit(f"PGPASSWORD_FILE={name!r} is empty: remove it and run deploy/make-secrets.py")
    environment["PGPASSWORD"] = password


def main(arguments: list[str]) -> None:
    """Become the program of `arguments`; does not return."""
    if not arguments:
        raise SystemExit("no program given: name it after the image, as in `docker run IMAGE isomon --help`")
    fill(os.environ)
    os.execvp(arguments[0], arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
