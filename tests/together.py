"""Which tests share a worker: those of one file, and files that start the same heavy parts.

What a file's tests share, such as a stack of servers, is started once, and tests that stand on what earlier ones of their file did
find it. (pytest-xdist's own groups are marks that it writes into names of tests: pytest 9.2 keeps names elsewhere, and the marks
had no effect any more.)
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from typing import Any, Final

from xdist.scheduler import LoadScopeScheduling

TOGETHER = {
    "tests/system/": "stack",
    "tests/dashboards/test_preview.py": "dashboards",
    "tests/dashboards/test_real_prometheus.py": "dashboards",
}
"""By the beginning of a file's path, the name of what they share."""

PARTS = {"tests/leaks/test_leaks.py": 3}
"""Files of hundreds of tests, dealt out in so many parts, or all other workers would wait for one in the end. Tests of one case, which
share its runs, stay together."""


SECONDS: Final = {
    "tests/alerts/test_mutations.py": 250,
    "tests/bench/test_delivery.py": 140,
    "tests/cli/test_drill.py": 60,
    "tests/collector/test_write_path.py": 60,
    "tests/bench/test_watch_containers.py": 60,
    "tests/collector/test_security_schema.py": 50,
    "tests/system/": 40,
    "tests/bench/test_soak.py": 40,
    "tests/collector/test_rollout_loop.py": 40,
    "tests/bench/": 20,
    "tests/chat/test_page.py": 20,
    "tests/telemetry/servers/": 10,
    "tests/telemetry/detectors/test_overwrites.py": 10,
    "tests/telemetry/test_pytest_": 8,
    "tests/collector/test_web_browser.py": 8,
    "tests/collector/test_kill": 8,
    "tests/scripts/test_ci_tests.py": 8,
    "tests/chat/test_faults.py": 6,
    "tests/leaks/": 4,
    "tests/dashboards/test_real_prometheus.py": 3,
}
"""About what one test takes, where that is much more than a second, by the beginning of its file's path."""


class ByFile(LoadScopeScheduling):
    """Deals out whole files, those that take longest first: one that is left for the end is waited for by all other workers."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # Any: as xdist gives them
        super().__init__(*arguments, **options)
        self.workqueue = LongestFirst()

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file in PARTS:
            case = nodeid.partition("[")[2]
            return f"{file} {zlib.crc32(case.encode()) % PARTS[file]}"
        return next((name for path, name in TOGETHER.items() if file.startswith(path)), file)


class LongestFirst(OrderedDict[str, dict[str, bool]]):
    """The scheduler's queue: tests by what they share, the first of which it takes."""

    def popitem(self, last: bool = True) -> tuple[str, dict[str, bool]]:
        longest = max(self, key=lambda name: sum(map(seconds_of, self[name])))
        return longest, self.pop(longest)


def seconds_of(nodeid: str) -> float:
    """Return about what a test takes: a good order needs no more."""
    return next((float(seconds) for path, seconds in SECONDS.items() if nodeid.startswith(path)), 0.5)
