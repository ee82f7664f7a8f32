"""A real blackbox exporter on a free port."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from isolation_monitor.demo.binaries import BLACKBOX
from tests.real_parts.installed import installed
from tests.real_parts.processes import free_port, running


@contextlib.contextmanager
def blackbox(folder: Path, modules: str) -> Iterator[str]:
    """Run the exporter with this text of modules in `folder` until the block ends; give its address."""
    address = f"127.0.0.1:{free_port()}"
    (folder / "blackbox.yml").write_text(modules)
    command = [
        str(installed(BLACKBOX).path),
        f"--config.file={folder / 'blackbox.yml'}",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with running(command, folder / "blackbox.log", f"http://{address}/-/healthy"):
        yield f"http://{address}"
