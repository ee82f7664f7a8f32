"""The client in JavaScript as its users have it: installed from the tarball, in real Node, against the real service over a bad network."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import httpx2
import pytest

from isolation_monitor.demo.binaries import NODE
from isolation_monitor.demo.chat_user import RUN_EVENTS
from tests.chat.conftest import acknowledged, chat_service
from tests.real_parts.installed import installed
from tests.real_parts.processes import PATIENCE_S, eventually
from tests.real_parts.proxy import Proxy, cutting_proxy
from tests.telemetry.clients.npm import install, pack

USER = Path(__file__).parent / "javascript" / "user.mjs"
CUTS = 6
MOST_ROUNDS = 60


class NodeUser:
    """One process of `user.mjs`; what it printed is in `heard`, in order."""

    def __init__(self, folder: Path, address: str) -> None:
        node = installed(NODE)
        # Node 20 has a WebSocket, but hides it; 22 shows it; before, Debian's package node-ws brings one.
        flags = ["--experimental-websocket"] if (20, 10) <= node.version < (22,) else []
        self.process = subprocess.Popen(
            [node.path, *flags, folder / "user.mjs", address],
            cwd=folder,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "NODE_PATH": "/usr/share/nodejs"},
        )
        self.heard: list[dict[str, Any]] = []
        self._lines: Queue[str | None] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    def say(self, frame: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(frame) + "\n")
        self.process.stdin.flush()

    def until(self, wanted: str, **fields: Any) -> dict[str, Any]:
        """Return the next thing it heard of that kind with those fields; everything up to it is in `heard`."""
        while True:
            line = self._lines.get(timeout=PATIENCE_S)
            assert line is not None, f"the client ended; it heard {self.heard[-5:]}"
            said = json.loads(line)
            self.heard.append(said)
            if said["heard"] == wanted and fields.items() <= {**said, **said.get("frame", {})}.items():
                return dict(said)

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self._reader.join(PATIENCE_S)


@pytest.fixture(scope="module")
def bad_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """The chat service with one worker, behind a proxy that cuts."""
    with (
        chat_service(tmp_path_factory.mktemp("chat"), workers=1, CHAT_WORD_PAUSE_S="0.05") as service,
        cutting_proxy(int(service.base_url.rpartition(":")[2])) as proxy,
    ):
        yield proxy


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the client is installed, as somebody would who got the tarball."""
    folder = tmp_path_factory.mktemp("node")
    install(pack(folder), folder)
    shutil.copy(USER, folder)
    return folder


@pytest.fixture
def user(bad_network: Proxy, installation: Path) -> Iterator[NodeUser]:
    base_url = f"127.0.0.1:{bad_network.port}"
    login = httpx2.post(f"http://{base_url}/api/login", json={"name": "ann"}).raise_for_status().json()
    client = NodeUser(installation, f"ws://{base_url}/ws?token={login['token']}")
    try:
        client.until("message", type="hello")
        yield client
    finally:
        client.end()


def test_runs_over_a_connection_that_breaks_at_any_byte_come_whole_once_and_in_order(user: NodeUser, bad_network: Proxy) -> None:
    """Cut after any number of bytes, also in the middle of a frame, an acknowledgement or a handshake."""
    chance = random.Random(4)
    asked = 0
    for n in range(MOST_ROUNDS):
        if bad_network.cuts >= CUTS:
            break
        bad_network.cut_after(to_client=chance.randrange(1, 600))
        user.say({"type": "message", "text": f"what is {n} + 1?"})
        said = user.until("sent")
        if not said["ok"]:
            user.until("open")
            continue
        asked += 1
        answer = user.until("message", type="agent_completed")
        assert answer["frame"]["text"].endswith(f" {n + 1}")
    user.say({"type": "message", "text": "what time is it?"})
    counts = user.until("sent")["counts"]

    runs = defaultdict(list)
    for said in user.heard:
        if said["heard"] == "message" and "run_id" in said["frame"]:
            runs[said["frame"]["run_id"]].append(said["frame"]["type"])
    assert list(runs.values()) == [list(RUN_EVENTS)] * asked
    assert counts["reconnects"] >= CUTS // 2, "a bad network was not bad"
    assert asked >= CUTS // 2
    assert [said for said in user.heard if said["heard"] in ("gap", "lost", "close")] == []


def test_the_server_hears_what_arrived(user: NodeUser, bad_network: Proxy) -> None:
    """Every event of the run is acknowledged, and the page never sees the envelope."""
    base_url = f"http://127.0.0.1:{bad_network.port}"
    before = acknowledged(base_url)
    user.say({"type": "message", "text": "what is 1 + 1?"})
    answer = user.until("message", type="agent_completed")

    assert answer["isolation"]["run"] == len(RUN_EVENTS)
    assert "isolation" not in answer["frame"]
    eventually(lambda: acknowledged(base_url) >= before + len(RUN_EVENTS), "every event is acknowledged")
