"""Handshakes: whose fault it was that a user was not let in."""

from __future__ import annotations

from typing import Any

import pytest

from tests.telemetry.conftest import Socket


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"type": "websocket.close", "code": 1011}, "error"),
        ({"type": "websocket.close", "code": 1013}, "error"),
        ({"type": "websocket.http.response.start", "status": 503, "headers": []}, "error"),
        # The service works and says no.
        ({"type": "websocket.close", "code": 1008}, "refused"),
        ({"type": "websocket.close"}, "refused"),
        ({"type": "websocket.http.response.start", "status": 401, "headers": []}, "refused"),
        (None, "error"),
    ],
)
async def test_a_handshake_refused_by_the_servers_fault_counts_as_an_error(
    monitor: Any, samples: Any, answer: dict[str, Any] | None, outcome: str
) -> None:
    """Chat availability counts the errors and not the refusals (docs/slo.md)."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if answer is None:
            raise RuntimeError("no database")
        await send(answer)

    socket = Socket(monitor.instrument(serve), "ann")
    await socket.leave()

    assert {o: samples(monitor, "isolation_websocket_connections_total", outcome=o) for o in ("accepted", "refused", "error")} == {
        "accepted": 0,
        "refused": 0,
        "error": 0,
        outcome: 1,
    }
    assert (answer is None) == (socket.task.exception() is not None)


async def test_a_connection_that_ends_later_was_accepted_all_the_same(monitor: Any, samples: Any, socket: Any) -> None:
    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        await send({"type": "websocket.close", "code": 1011})

    one = await socket(monitor.instrument(serve), "ann")
    await one.leave()

    assert samples(monitor, "isolation_websocket_connections_total", outcome="accepted") == 1
    assert samples(monitor, "isolation_websocket_connections_total", outcome="error") == 0
