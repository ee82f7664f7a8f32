"""The clients' side of measured delivery (docs/decisions/0009-delivery-is-negotiated.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

JAVASCRIPT: Final = Path(__file__).with_name("javascript")
"""Folder of the client for pages and Node: ES modules, to be served as they are. Begin with `isolation-socket.js`."""
