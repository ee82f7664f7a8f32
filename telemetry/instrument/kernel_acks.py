"""Linux: whether the kernel of the next hop has acknowledged all bytes of a connection.

asyncio's write buffer must be empty, and the kernel's send queue too: SIOCOUTQ counts what was sent and not acknowledged.
Behind a proxy the next hop is the proxy. Under TLS the loop's buffers cannot be seen through, so nobody is asked.
"""

from __future__ import annotations

import struct
import sys
from typing import Any, Final

SIOCOUTQ: Final = 0x5411
"""The same number as TIOCOUTQ; linux/sockios.h."""


def can_ask(transport: Any) -> bool:
    """Return whether the kernel can be asked of this connection: TCP or a Unix socket, on Linux, without TLS."""
    return (
        sys.platform == "linux"
        and transport is not None
        and transport.get_extra_info("ssl_object") is None
        and transport.get_extra_info("socket") is not None
    )


def is_drained(transport: Any) -> bool:
    """Return whether every byte written so far is acknowledged by the next hop's kernel; False when the connection is closed."""
    import fcntl

    if transport.is_closing() or transport.get_write_buffer_size():
        return False
    handle = transport.get_extra_info("socket").fileno()
    if handle < 0:
        return False
    try:
        waiting = fcntl.ioctl(handle, SIOCOUTQ, b"\0\0\0\0")
    except OSError:
        return False
    return bool(struct.unpack("i", waiting)[0] == 0)
