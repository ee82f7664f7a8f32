"""npm without a network: packing the client and installing it from the tarball."""

from __future__ import annotations

import subprocess
from pathlib import Path

from isolation_monitor.demo.binaries import NPM
from isolation_monitor.telemetry.clients import JAVASCRIPT
from tests.real_parts.installed import installed


def npm(arguments: list[str], folder: Path) -> None:
    """Run npm in a folder that takes everything it keeps. Nothing is asked of any registry."""
    options = ["--offline", "--no-audit", "--no-fund", "--no-update-notifier", "--cache", str(folder / "npm-cache")]
    command = [str(installed(NPM).path), *arguments, *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def pack(folder: Path) -> Path:
    """Return the package's tarball, made in `folder`."""
    npm(["pack", str(JAVASCRIPT), "--pack-destination", str(folder)], folder)
    [tarball] = folder.glob("*.tgz")
    return tarball


def install(tarball: Path, folder: Path) -> None:
    """Install a tarball into the `node_modules` of `folder`."""
    npm(["install", str(tarball), "--no-package-lock", "--prefix", str(folder)], folder)
