"""The operator's file of probes while the collector runs: read again when it, or its file of modules, was changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

from isolation_monitor.collector.probes.modules import ProbesFileError
from isolation_monitor.collector.probes.probes_file import ProbesFile, read_probes
from isolation_monitor.telemetry.file_stamps import Stamp, stamp_of

logger = logging.getLogger("isolation_monitor.collector")

Stamps = dict[Path, Stamp]


class WatchedFile:
    """Reads the file when it is built.

    Raises:
        ProbesFileError: it cannot be used.
    """

    def __init__(self, path: Path, blackbox_url: str | None) -> None:
        self._path = path
        self._blackbox_url = blackbox_url
        self._stamps = _stamps((path,))
        self.problem = ""
        """Why the file as it is now cannot be used, a line for each mistake; the probes are then those of the last one that could."""
        self.asked = self._read()

    async def changed(self) -> ProbesFile | None:
        """Return what the file asks for since it was changed; None as long as it was not, and when it cannot be used."""
        if await asyncio.to_thread(_stamps, self._stamps) == self._stamps:
            return None
        try:
            self.asked = await asyncio.to_thread(self._read)
        except ProbesFileError as error:
            self.problem = str(error)
            logger.error("the probes stay as they were: %s", error)  # the mistake is the operator's
            return None
        self.problem = ""
        logger.info("%s was changed: %d probes from now on", self._path, len(self.asked.probes))
        return self.asked

    def _read(self) -> ProbesFile:
        # Looked at before it is read: what is written meanwhile is read next time.
        self._stamps = _stamps(self._stamps)
        asked = read_probes(self._path, self._blackbox_url)
        self._stamps = _stamps(asked.files) | {path: stamp for path, stamp in self._stamps.items() if path in asked.files}
        for note in asked.notes:
            logger.info("%s: %s", self._path, note)
        return asked


def _stamps(paths: Iterable[Path]) -> Stamps:
    return {path: stamp_of(path) for path in paths}
