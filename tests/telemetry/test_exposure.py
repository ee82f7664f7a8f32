"""Exposure: who overlapped whom, by a few integers, must say the same as comparing all intervals would."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from isolation_monitor.telemetry.context import Exposure, next_serial
from isolation_monitor.telemetry.principals import Principal, PrincipalHasher

HASHER = PrincipalHasher("key")


@given(st.lists(st.tuples(st.sampled_from(["ann", "bob", "eve", None]), st.integers(0, 5)), max_size=40))
def test_exposure_is_what_comparing_all_intervals_says(steps: list[tuple[str | None, int]]) -> None:
    """Each step begins something for a principal, or, where enough is live, ends what began first or last."""
    principals = {name: Principal(name, HASHER) for name in ("ann", "bob", "eve")}
    exposure = Exposure()
    live: list[tuple[str | None, int]] = []
    overlapped: set[int] = set()

    for name, act in steps:
        if act > 2 and live:
            ended = live.pop(0 if act == 3 else -1)
            assert exposure.leave(principals.get(ended[0] or ""), ended[1]) == (ended[1] in overlapped)
            continue
        serial = next_serial()
        for other, other_serial in live:
            if other != name:
                overlapped |= {serial, other_serial}
        live.append((name, serial))
        exposure.enter(principals.get(name or ""), serial)

    for name, serial in live:
        assert exposure.leave(principals.get(name or ""), serial) == (serial in overlapped)
    assert exposure.principals == 0


async def test_a_message_of_one_user_is_exposed_while_another_users_connection_is_open(monitor, socket, samples) -> None:
    async def echo(scope, receive, send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

    app = monitor.instrument(echo)
    ann = await socket(app, "ann")
    ann.say({"n": 1})
    await ann.hear()
    assert samples(monitor, "isolation_requests_total", transport="websocket", exposed="true") == 0

    bob = await socket(app, "bob")
    ann.say({"n": 2})
    await ann.hear()
    await bob.leave()
    await ann.leave()

    assert samples(monitor, "isolation_requests_total", transport="websocket", exposed="true") >= 2
    assert monitor.ledger.exposure.principals == 0


async def test_a_failure_of_ours_leaves_nobody_live(monitor, client) -> None:
    """A principal that stays live for ever would make every later request of others count as exposed."""

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def breaks(scope: object) -> str:
        raise RuntimeError("injected")

    calls = client(monitor.instrument(app))
    monitor._route_template = breaks

    await calls.get("/x", user="ann")

    assert monitor.ledger.exposure.principals == 0
