"""Whatever comes in, by any path that a gate's consumers use: strict JSON leaves, never NaN or null, and no 2xx without it.

Argo Rollouts up to v1.9.1 counts a 2xx body that it cannot parse as a success; Flagger takes every status up to 202 for
yes. So neither a strange question nor a strange Prometheus may bring such an answer about.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable
from typing import Any

from tests.collector.conftest import READ, SEND, Api

TURNS = 400
SEED = 20260101
NUMBERS = ("0", "1", "-1", "NaN", "+Inf", "-Inf", "1e308", "-1e308", "1e-320", "0.1", "299.99999", "3000000000", "9" * 400, "")
WORDS = ("canary", "", "nothing", "..", "a/b", "%00", "NaN", "null", "é", "x" * 101, "%", "?", "#", "canary%2F..", " ", "-", "<b>")


class StrangePrometheus:
    """Answers each query in its protocol, or nearly, with numbers that nobody would expect."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.is_broken = True

    def body(self, is_range: bool) -> bytes:
        dice = self._dice
        if self.is_broken and dice.random() < 0.2:
            return dice.choice([b"", b"{}", b"null", b"<html>", b'{"status":"error"}', b'{"status":"success","data":null}', b"\xff"])
        point = [1767268800, dice.choice(NUMBERS)]
        series = {"metric": {}, "values": [point] * dice.randrange(3)} if is_range else {"metric": {}, "value": point}
        result = [series] * (dice.choice([0, 1, 1, 1, 1, 2]) if self.is_broken else 1)
        return json.dumps({"status": "success", "data": {"resultType": "matrix" if is_range else "vector", "result": result}}).encode()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
                await reader.readexactly(length)
                body = self.body(b"query_range" in head.split(b"\r\n")[0])
                is_well = not self.is_broken or self._dice.random() < 0.9
                status = b"200 OK" if is_well else self._dice.choice([b"204 No Content", b"302 Found", b"500 Oops"])
                body = b"" if status.startswith(b"204") else body
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def strict(body: bytes) -> Any:
    """Return the value of JSON as RFC 8259 has it; NaN, infinities and members named twice are none."""

    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs), "a member twice"
        return dict(pairs)

    value = json.loads(body.decode("utf-8"), parse_constant=refuse, object_pairs_hook=unique)
    assert_plain(value)
    return value


def assert_plain(value: Any) -> None:
    """No null, and no number that a consumer would read as an infinity (1e999 parses to one)."""
    assert value is not None
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            assert_plain(item)
    if isinstance(value, float):
        assert math.isfinite(value)


def question(dice: random.Random) -> tuple[str, str, bytes, dict[str, str]]:
    """Return method, path, body and headers of a request to one of the gates' paths."""
    name, other = dice.choice(("canary", "canary", dice.choice(WORDS))), dice.choice(WORDS)
    path = dice.choice(
        [
            *[f"/v1/gates/{name}"] * 4,
            *[f"/v1/gates/{name}?stage={other}"] * 2,
            f"/v1/gates/{name}/decisions/{other}",
            f"/v1/gates/{name}/",
            "/v1/gates",
            "/flagger",
            *(f"/flagger/{hook}" for hook in ("rollback", "confirm", "open", "check", "event", "rollback/")),
        ]
    )
    metadata = dice.choice([*[{"rollout": name}] * 6, {"rollout": name, "stage": other}, {}, {"rollout": None}, {"rollout": 1e308}, []])
    body = json.dumps({"name": other, "namespace": "shop", "phase": "Progressing", "metadata": metadata}).encode()
    body = dice.choice([*[body] * 12, b"", b"NaN", b'{"metadata":{"rollout":NaN}}', b"[" * 5000, b"\xff\xfe"])
    usual = "POST" if path.startswith("/flagger") else "GET"
    method = dice.choice([usual] * 12 + ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
    headers = {"Authorization": dice.choice([f"Bearer {READ}"] * 20 + [f"Bearer {SEND}", "Bearer x", "Basic eDp5", "Digest"])}
    return method, path, body, headers | dice.choice([{"Content-Type": "application/json"}] * 12 + [{"Content-Type": "text/plain"}, {}])


async def test_no_answer_of_a_gates_paths_is_anything_but_strict_json(make_api: Callable[..., Any], sqlite_url: str) -> None:
    dice = random.Random(SEED)
    source = StrangePrometheus(dice)
    server = await asyncio.start_server(source.answer, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    statuses: dict[int, int] = {}
    verdicts: set[str] = set()

    async with server, make_api(sqlite_url, prometheus_url=address) as api:
        await begin_again(api, 0)
        for turn in range(TURNS):
            if turn % 40 == 39:
                # A strange number fails the gate sooner or later, and a failed one stays so: a fresh one takes its place.
                await begin_again(api, turn)
            source.is_broken = dice.random() < 0.5
            method, path, body, headers = question(dice)
            path, body = path.replace("canary", f"canary-{turn // 40}", 1), body.replace(b"canary", b"canary-%d" % (turn // 40))
            answer = await api.client.request(method, path, content=body, headers=headers)

            value = strict(answer.content)
            assert isinstance(value, dict), (method, path)
            assert answer.status_code != 500, value
            assert answer.status_code == 200 or answer.headers["content-type"] == "application/problem+json", (method, path)
            if answer.status_code == 200:
                verdicts.add(value["verdict"])
                assert value["schema"] in ("gate/v1", "flagger/1", "gate-decision/1"), value
            else:
                # No other success exists: 204 is a no for Flagger, 206 or 207 a pass for Argo.
                assert not 200 <= answer.status_code < 300
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1

    # Numbers without sense come to no pass.
    assert verdicts >= {"fail", "error"}, "the turns must meet more than one verdict"
    missing = {200, 400, 401, 403, 404, 405, 409, 415, 422} - statuses.keys()
    assert not missing, (missing, statuses)
    assert statuses[200] > TURNS / 10, statuses


async def begin_again(api: Api, turn: int) -> None:
    await api.start_rollout(f"canary-{(turn + 1) // 40}", min_exposed_requests=1, min_owed_events=0)
