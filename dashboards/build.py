"""Writes the dashboards to `generated/`: `python -m isolation_monitor.dashboards.build`; with `--check` only compares.

The committed files link to the collector of a local stack; `--base-url` makes others.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from isolation_monitor.alerts import thresholds
from isolation_monitor.alerts.build import DEFAULT_BASE_URL
from isolation_monitor.alerts.model import Links
from isolation_monitor.alerts.thresholds import Thresholds
from isolation_monitor.dashboards import (
    ci_health,
    connections,
    containers,
    containment,
    event_delivery,
    experience,
    factories,
    flags,
    isolation_overview,
    monitor_health,
    process,
    resolution,
    rollout,
    runs,
    sessions,
)

GENERATED = Path(__file__).parent / "generated"


def dashboards(base_url: str = DEFAULT_BASE_URL, t: Thresholds | None = None) -> dict[str, dict[str, Any]]:
    """Return every dashboard as Grafana's classic JSON, by uid. Runbooks open under `base_url`."""
    limits, links = t or thresholds.load(), Links(base_url.rstrip("/"), None)
    parts = (
        isolation_overview,
        event_delivery,
        runs,
        connections,
        resolution,
        containment,
        sessions,
        factories,
        process,
        experience,
        flags,
        rollout,
        ci_health,
        containers,
        monitor_health,
    )
    built = [part.build(limits, links) for part in parts]
    return {str(board.uid): _plain(json.loads(JSONEncoder().encode(board))) for board in built}


def texts(base_url: str = DEFAULT_BASE_URL) -> dict[str, str]:
    """Return the files' contents by name."""
    return {f"{uid}.json": json.dumps(board, indent=2, sort_keys=True) + "\n" for uid, board in dashboards(base_url).items()}


def _plain(value: Any) -> Any:  # Any: JSON
    """Take out what the builders always add and we do not mean."""
    if isinstance(value, dict):
        # `inControlsMenu` would hide links and annotations in a menu; without it they stand in the bar.
        return {key: _plain(item) for key, item in value.items() if not (key == "placement" and item == "inControlsMenu")}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def stale(written: dict[str, str], folder: Path) -> list[str]:
    """Return the names of files in `folder` that are missing, differ, or belong to no dashboard."""
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    return sorted(name for name in written.keys() | there.keys() if written.get(name) != there.get(name))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or say which are stale; exit 1 when some are."""
    parser = argparse.ArgumentParser(prog="python -m isolation_monitor.dashboards.build", description="Write the Grafana dashboards.")
    parser.add_argument("--base-url", default=DEFAULT_BASE_URL, help="where the collector serves /runbooks (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=GENERATED, help="folder to write to (default: the package's own)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the files differ from a fresh build")
    options = parser.parse_args(arguments)
    written = texts(options.base_url)
    if options.check:
        old = stale(written, options.out)
        if old:
            sys.stderr.write(f"stale in {options.out}: {', '.join(old)}; run python -m isolation_monitor.dashboards.build\n")
        return 1 if old else 0
    options.out.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        (options.out / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
