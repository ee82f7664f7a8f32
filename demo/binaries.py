"""Finds the programs that the stack and the tests run: Prometheus, Alertmanager, PostgreSQL, Redis, Node.js and Chromium.

Uses the standard library alone, because `scripts/ensure_parts.py` imports it before anything is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from isolation_monitor.demo.errors import PartMissingError

Version = tuple[int, ...]
"""Release numbers, most significant first, without a suffix such as `-rc.1`."""

VERSION_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Part:
    """One program that the project runs but does not contain.

    `names` are the executables' names, the first found wins; `folders` are glob patterns searched after `PATH`;
    `packages` are Debian's and Ubuntu's packages that bring it; `setting` is an environment variable with its path;
    `version_argument` makes it print its version.
    """

    name: str
    names: tuple[str, ...]
    minimum: Version
    packages: tuple[str, ...]
    setting: str
    folders: tuple[str, ...] = ()
    version_argument: str = "--version"

    @property
    def minimum_text(self) -> str:
        return ".".join(str(number) for number in self.minimum)


PROMETHEUS = Part("Prometheus", ("prometheus",), (2, 42), ("prometheus",), "ISOMON_PROMETHEUS")
PROMTOOL = Part("promtool", ("promtool",), (2, 42), ("prometheus",), "ISOMON_PROMTOOL")
ALERTMANAGER = Part(
    "Alertmanager", ("prometheus-alertmanager", "alertmanager"), (0, 25), ("prometheus-alertmanager",), "ISOMON_ALERTMANAGER"
)
AMTOOL = Part("amtool", ("amtool",), (0, 25), ("prometheus-alertmanager",), "ISOMON_AMTOOL")
POSTGRES = Part("PostgreSQL", ("postgres",), (13,), ("postgresql",), "ISOMON_POSTGRES", ("/usr/lib/postgresql/*/bin",))
REDIS = Part("Redis", ("redis-server",), (6,), ("redis-server",), "ISOMON_REDIS")
# Node before 22 has no WebSocket of its own: Debian's comes with the package node-ws.
NODE = Part("Node.js", ("node", "nodejs"), (18,), ("nodejs", "node-ws"), "ISOMON_NODE")
NPM = Part("npm", ("npm",), (9,), ("npm",), "ISOMON_NPM")
CHROMIUM = Part("Chromium", ("chromium", "chromium-browser", "google-chrome"), (109,), ("chromium",), "ISOMON_CHROMIUM")
BLACKBOX = Part(
    "blackbox exporter",
    ("prometheus-blackbox-exporter", "blackbox_exporter"),
    (0, 22),
    ("prometheus-blackbox-exporter",),
    "ISOMON_BLACKBOX_EXPORTER",
)
CHROMEDRIVER = Part("ChromeDriver", ("chromedriver",), (109,), ("chromium-driver",), "ISOMON_CHROMEDRIVER")
DOCKERD = Part("Docker engine", ("dockerd",), (20, 10), ("docker.io",), "ISOMON_DOCKERD")
# What the tests' containers run: one static program, made an image by `docker import`, so that nothing is downloaded.
BUSYBOX = Part("BusyBox", ("busybox",), (1, 30), ("busybox-static",), "ISOMON_BUSYBOX", version_argument="--help")

STACK_PARTS = (PROMETHEUS, ALERTMANAGER)
"""What the demonstration runs."""
TEST_PARTS = (
    *(PROMETHEUS, PROMTOOL, ALERTMANAGER, AMTOOL, BLACKBOX, POSTGRES, REDIS),
    *(NODE, NPM, CHROMIUM, CHROMEDRIVER, DOCKERD, BUSYBOX),
)
"""What the tests run; a test whose part is missing skips, and fails under `ISOMON_REQUIRE_REAL=1`."""


@dataclass(frozen=True, slots=True)
class Found:
    """A part of this machine: where it is and which version it has."""

    part: Part
    path: Path
    version: Version

    @property
    def version_text(self) -> str:
        return ".".join(str(number) for number in self.version)


def find(part: Part, env: Mapping[str, str] | None = None) -> Found:
    """Return the part's first executable that is new enough.

    Raises:
        PartMissingError: none is installed, or all are older than the minimum; the text says what to install.
    """
    environment = os.environ if env is None else env
    too_old: list[str] = []
    for path in _candidates(part, environment):
        version = _version(path, part.version_argument)
        if version is not None and version >= part.minimum:
            return Found(part, path, version)
        too_old.append(f"{path} is {'.'.join(map(str, version)) if version else 'of no readable version'}")
    raise PartMissingError(part.name, part.minimum_text, part.packages, part.setting, too_old)


def find_all(parts: tuple[Part, ...]) -> tuple[list[Found], list[PartMissingError]]:
    """Look for every part; return what was found and what is missing, each in the order asked."""
    found: list[Found] = []
    missing: list[PartMissingError] = []
    for part in parts:
        try:
            found.append(find(part))
        except PartMissingError as error:
            missing.append(error)
    return found, missing


def parse_version(text: str) -> Version | None:
    """Return the first release number in a `--version` text, or None.

    >>> parse_version("prometheus, version 2.42.0+ds (branch: debian/sid)")
    (2, 42, 0)
    >>> parse_version("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)")
    (15, 14)
    >>> parse_version("v20.20.2")
    (20, 20, 2)
    """
    match = re.search(r"\bv?(\d+(?:\.\d+)+)", text)
    return tuple(int(number) for number in match.group(1).split(".")) if match else None


def _candidates(part: Part, env: Mapping[str, str]) -> list[Path]:
    setting = env.get(part.setting)
    if setting:
        return [Path(setting)] if os.access(setting, os.X_OK) else []
    # Debian puts servers into sbin folders, which an ordinary user's PATH often lacks.
    search = os.pathsep.join([env.get("PATH", os.defpath), "/usr/local/bin", "/usr/sbin", "/usr/local/sbin"])
    paths = [Path(found) for name in part.names if (found := shutil.which(name, path=search))]
    for pattern in part.folders:
        # The newest version first: "15" sorts after "9.6" only as a number.
        folders = sorted(
            Path("/").glob(pattern.lstrip("/")), key=lambda folder: parse_version(f"{folder.parent.name}.0") or (), reverse=True
        )
        paths += [folder / name for folder in folders for name in part.names if os.access(folder / name, os.X_OK)]
    return paths


def _version(path: Path, argument: str) -> Version | None:
    try:
        done = subprocess.run([path, argument], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    # Prometheus 2.x prints its version on standard output, older Alertmanagers on standard error.
    return parse_version(done.stdout) or parse_version(done.stderr)
