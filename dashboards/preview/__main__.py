"""`python -m isolation_monitor.dashboards.preview --prometheus URL --out build/dashboards/`: each dashboard as an SVG."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from isolation_monitor.dashboards.preview import board, page
from isolation_monitor.dashboards.preview.prometheus import Prometheus, QueryError, Window

GENERATED = Path(__file__).parents[1] / "generated"
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def write(prometheus: Prometheus, out: Path, *, length_s: float = 900, end_s: float | None = None, folder: Path = GENERATED) -> list[Path]:
    """Draw every dashboard of `folder` with the last `length_s` seconds before `end_s` (now); return the files written.

    Raises:
        QueryError: Prometheus refused a query or did not answer.
    """
    window = Window.until(time.time() if end_s is None else end_s, length_s)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted(folder.glob("*.json")):
        found = board.read(json.loads(path.read_text(encoding="utf-8")))
        target = out / f"{found.uid}.svg"
        target.write_text(page.draw(found, page.ask(found, prometheus, window), window), encoding="utf-8")
        written.append(target)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pictures and print where they are; exit 1 when Prometheus cannot be asked."""
    parser = argparse.ArgumentParser(
        prog="python -m isolation_monitor.dashboards.preview", description="Draw the dashboards with real numbers of a Prometheus."
    )
    parser.add_argument("--prometheus", required=True, metavar="URL", help="address of a Prometheus or a compatible store")
    parser.add_argument("--out", type=Path, default=Path("build/dashboards"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--last", type=_duration, default=900.0, metavar="TIME", help="time range such as 15m, 6h or 30d (default: 15m)")
    parser.add_argument("--service", default=".*", help="regular expression of the services to show (default: all)")
    parser.add_argument("--token-file", type=Path, help="file with a bearer token for Prometheus")
    options = parser.parse_args(arguments)
    token = options.token_file.read_text(encoding="utf-8").strip() if options.token_file else None
    try:
        with Prometheus(options.prometheus, token=token, values={"service": options.service}) as prometheus:
            for path in write(prometheus, options.out, length_s=options.last):
                sys.stdout.write(f"{path}\n")
    except QueryError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _duration(text: str) -> float:
    match = re.fullmatch(r"([1-9]\d*)([smhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 15m, 6h or 30d")
    return float(int(match.group(1)) * _UNIT_S[match.group(2)])


if __name__ == "__main__":
    raise SystemExit(main())
