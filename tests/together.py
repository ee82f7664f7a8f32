"""Which tests share a worker: those of one file, and files that start the same heavy parts.

What a file's tests share, such as a stack of servers, is started once, and tests that stand on what earlier ones of their file did
find it. (pytest-xdist's own groups are marks that it writes into names of tests: pytest 9.2 keeps names elsewhere, and the marks
had no effect any more.)
"""

from __future__ import annotations

import zlib

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


class ByFile(LoadScopeScheduling):
    """Deals out whole files, those with most tests first."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file in PARTS:
            case = nodeid.partition("[")[2]
            return f"{file} {zlib.crc32(case.encode()) % PARTS[file]}"
        return next((name for path, name in TOGETHER.items() if file.startswith(path)), file)
