"""Free ports on loopback for the processes of one stack."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

from isolation_monitor.demo.errors import StartError

LOOPBACK = "127.0.0.1"
RANGE = range(20_000, 32_000)
"""Below Linux's default range of ephemeral ports (32768 on): no outgoing connection can take one in between."""


def free_ports(count: int) -> list[int]:
    """Return ports on loopback that nothing listens on now, all different.

    A port can be taken by another program before its process binds it; the process then says so and the start fails.

    Raises:
        StartError: fewer than `count` free ports were found.
    """
    found: list[int] = []
    with ExitStack() as held:
        for port in random.sample(RANGE, len(RANGE)):
            if len(found) == count:
                return found
            sock = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            try:
                sock.bind((LOOPBACK, port))
            except OSError:
                continue
            found.append(port)
    raise StartError(f"found {len(found)} free ports of {count} on {LOOPBACK} between {RANGE.start} and {RANGE.stop}")


def is_open(port: int) -> bool:
    """Return whether something accepts connections on the port of loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(1.0)
        return sock.connect_ex((LOOPBACK, port)) == 0
