"""One check over TCP: a connection, TLS where it is asked for, and the steps of `query_response`."""

from __future__ import annotations

import asyncio
import re
from typing import Final
from urllib.parse import urlsplit

from isolation_monitor.collector.probes.connecting import Phases, ProbeFailed, Seen, addresses, expiry_of, failure_of, ready_context
from isolation_monitor.collector.probes.domain import Probe, TcpModule
from isolation_monitor.collector.probes.searching import is_found

_LINE_BYTES: Final = 64 * 1024
_LINES: Final = 10_000
_GOODBYE_S: Final = 0.5
"""How long the other side may take to end TLS; asyncio itself waits for 30 s."""
_GROUP: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


async def check_tcp(probe: Probe, module: TcpModule, seen: Seen, phases: Phases) -> None:
    """Check an endpoint; note in `seen` and `phases` what becomes known.

    Raises:
        ProbeFailed: it is not as it should be.
    """
    parts = urlsplit(f"//{probe.target}")
    host, port = parts.hostname or "", parts.port or 0
    name = module.tls.server_name or host
    if module.uses_tls or any(step.starts_tls for step in module.exchanges):
        await ready_context(module.tls)
    phases.begin("resolve")
    found = await addresses(probe, host, port)
    phases.begin("connect")
    reader, writer = await _connected(found, port, module.source_ip)
    try:
        if module.uses_tls:
            await _start_tls(writer, module, name, seen, phases)
        phases.begin("exchange")
        groups: re.Match[str] | None = None
        for step in module.exchanges:
            if step.expect is not None:
                groups = await _line(reader, step.expect)
            if step.send is not None:
                writer.write((_expanded(step.send, groups) + "\n").encode())
                await writer.drain()
            if step.starts_tls:
                await _start_tls(writer, module, name, seen, phases)
                phases.begin("exchange")
    except (OSError, asyncio.IncompleteReadError) as error:
        raise failure_of(error) from None
    finally:
        phases.begin("close")
        await _close(writer)
        phases.end()


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close the connection; who does not say goodbye is not waited for. What is known of the endpoint is known by now."""
    writer.close()
    try:
        async with asyncio.timeout(_GOODBYE_S):
            await writer.wait_closed()
    except OSError:
        # Also a TimeoutError.
        pass
    finally:
        writer.transport.abort()


async def _connected(found: list[str], port: int, source_ip: str | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    failed: ProbeFailed | None = None
    for address in found:
        try:
            return await asyncio.open_connection(address, port, limit=_LINE_BYTES, local_addr=None if source_ip is None else (source_ip, 0))
        except OSError as error:
            failed = failure_of(error)
    assert failed is not None
    raise failed


async def _start_tls(writer: asyncio.StreamWriter, module: TcpModule, name: str, seen: Seen, phases: Phases) -> None:
    phases.begin("tls")
    await writer.start_tls(await ready_context(module.tls), server_hostname=name)
    seen.certificate_expires_at = expiry_of(writer.get_extra_info("ssl_object"))


async def _line(reader: asyncio.StreamReader, wanted: re.Pattern[str]) -> re.Match[str]:
    """Return the match of the first line that matches; others are passed over, as the exporter does."""
    for _ in range(_LINES):
        try:
            line = await reader.readline()
        except ValueError:
            raise ProbeFailed("body", f"a line has more than {_LINE_BYTES} bytes") from None
        if not line:
            break
        text = line.decode("utf-8", errors="replace").rstrip("\r\n")
        if await is_found(wanted, text) and (match := wanted.search(text)) is not None:
            return match
    raise ProbeFailed("body", f"no line matched {wanted.pattern!r} before the connection ended")


def _expanded(text: str, groups: re.Match[str] | None) -> str:
    """Put what `expect` captured into what is sent: `${1}`, or `${name}`."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        try:
            return (groups[int(name) if name.isdigit() else name] or "") if groups is not None else ""
        except IndexError:
            return ""

    return _GROUP.sub(value, text)
