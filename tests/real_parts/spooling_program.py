"""An application that does nothing but find violations: `python spooling_program.py SERVICE URL FOLDER FIRST EARLY`.

It prints `first size` for records that are on disk; with EARLY 1 as soon as they are put. With FIRST -1 it finds nothing,
sends what is there, and ends.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from isolation_monitor.telemetry.records.outbox import Outbox
from isolation_monitor.telemetry.records.spool_folder import SpoolFolder
from isolation_monitor.telemetry.violations import iso_time

SIZE = 250


def main() -> int:
    service, url, folder, first, early = sys.argv[1:]
    box = Outbox(service, url, os.environ["SPOOLING_TOKEN"], 10_000, lambda what, n: None, folder=SpoolFolder(folder, service))
    box.start()
    if int(first) < 0:
        while len(box) or list((Path(folder) / service).glob("*.spool")):
            box._sender.wake.set()
            box.spool._adopt_at = 0.0
            time.sleep(0.1)
        box.close()
        return 0
    about = {
        "kind": "k",
        "grade": "reachable",
        "detector": "d",
        "arm": "none",
        "synthetic": False,
        "summary": "s",
        "count": 1,
        "detail": {},
    }
    # One time for all: the collector forgets old records by itself.
    start, now = int(first), iso_time(time.time())
    while True:
        for number in range(start, start + SIZE):
            box.put({"type": "violation", "id": f"{service}-{number}", "time": now, **about})
        if early == "1" or box.sync(60):
            print(start, SIZE, flush=True)
        start += SIZE


if __name__ == "__main__":
    sys.exit(main())
