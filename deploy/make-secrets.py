#!/usr/bin/env python3
"""Makes the secret files of docker-compose.monitoring.yml that are missing; never changes one that is there.

    python3 deploy/make-secrets.py            makes what is missing in ./secrets and names it
    python3 deploy/make-secrets.py --check    only says what is missing; exit 1 when something is

The folder is open to its owner alone (0700); that is what keeps other users of this machine out. The files inside are
0444, because compose hands a file to its container with the owner and mode it has here, and each container runs as
a user of its own that could not read a 0600 file of yours. Standard library only.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "secrets"
NAMES = {
    "send_token": "services send records to the collector",
    "read_token": "people, gates and Prometheus read from the collector",
    "alerts_token": "Alertmanager posts to the collector's webhook",
    "operate_token": "people change rollouts and have users forgotten; the read token then does neither",
    "metrics_token": "Prometheus reads the metrics pages of services",
    "hash_key": "users' ids become hashes; the same key for all workers and replicas",
    "postgres_password": "the collector's database",
    "grafana_admin_password": "user admin of Grafana",
    "chat_secret": "the demonstration's chat service signs its tokens",
}
"""Each secret and who uses it."""
_BYTES = 32


def missing(folder: Path) -> list[str]:
    """Return the names of secrets that have no file, or an empty one."""
    return [name for name in NAMES if not (folder / name).is_file() or not (folder / name).stat().st_size]


def make(folder: Path) -> list[str]:
    """Make the missing secrets and return their names."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Also where the folder was there before, perhaps made by somebody's `mkdir`.
    folder.chmod(0o700)
    # Whatever the project's own ignore file says, no secret is ever committed.
    (folder / ".gitignore").write_text("*\n", encoding="ascii")
    made = missing(folder)
    for name in made:
        fresh = folder / f".{name}.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(_BYTES))
            os.fchmod(file.fileno(), 0o444)
        # Whole or not at all: an interrupted run leaves no half secret behind.
        fresh.replace(folder / name)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the missing secret files of docker-compose.monitoring.yml.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are (default: ./secrets beside the compose file)")
    parser.add_argument("--check", action="store_true", help="make nothing; exit 1 when something is missing")
    options = parser.parse_args()
    if options.check:
        lacking = missing(options.folder)
        for name in lacking:
            sys.stderr.write(f"missing: {options.folder / name} ({NAMES[name]})\n")
        return 1 if lacking else 0
    made = make(options.folder)
    for name in made:
        sys.stdout.write(f"made {options.folder / name}: {NAMES[name]}\n")
    if not made:
        sys.stdout.write(f"all secrets are there in {options.folder}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
